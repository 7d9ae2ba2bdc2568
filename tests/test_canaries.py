"""A test for each departure from the stock Trainer and the libraries, which fails on the day the library mends the
defect, so that the departure can go; and the private names that are used here."""

import argparse
import ast
import importlib
import itertools
import shutil

import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from datasets import Dataset, Features, Value
from datasets.fingerprint import Hasher
from torch.utils.data import BatchSampler
from transformers import (
    AutoConfig,
    AutoModelForQuestionAnswering,
    AutoModelForTokenClassification,
    AutoTokenizer,
    HfArgumentParser,
    Trainer,
    TrainingArguments,
)

from common.training import RecipeTrainer
from tests.conftest import ROOT, read_sample, write
from tests.encoders import save_encoder
from tests.test_training import Recording, build, exploding, first_step, numbered, rows_read

# Private names of the libraries that `common` and `recipes` use -> an object that has them.
PRIVATE = {
    "_remove_unused_columns": lambda model, args: Trainer,
    "_finish_current_push": lambda model, args: Trainer,
    "_n_gpu": lambda model, args: args,
    "_supports_attention_backend": lambda model, args: model,
    "_attn_implementation": lambda model, args: model.config,
    "_fingerprint": lambda model, args: numbered(1),
    "_actions": lambda model, args: HfArgumentParser(TrainingArguments),
    "_get_help_string": lambda model, args: argparse.ArgumentDefaultsHelpFormatter,
}


def test_private_names_are_listed_and_there(tmp_path, tiny_bert):
    model, args = AutoModelForTokenClassification.from_pretrained(tiny_bert), TrainingArguments(tmp_path, use_cpu=True)
    for name, owner in PRIVATE.items():
        assert hasattr(owner(model, args), name), name
    used = set()
    for path in [*(ROOT / "common").glob("*.py"), *(ROOT / "recipes").rglob("*.py")]:
        nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)]
        used |= {node.attr for node in nodes if node.attr.startswith("_") and not node.attr.startswith("__")}
    assert used == set(PRIVATE)


# Losses

SIZES = (8, 1), (2, 4)  # of a batch, and accumulation steps


def test_the_models_own_loss_is_taken_for_a_mean_over_the_step(tmp_path, tiny_bert_without_dropout):
    """Else `cross_entropy_loss` is needed for class weights and label smoothing only."""
    whole, parts = (first_step(tmp_path, tiny_bert_without_dropout, *sizes, None, Trainer)[0] for sizes in SIZES)
    assert parts > 3 * whole


def test_a_mean_as_a_loss_is_not_divided_among_the_parts_of_a_step(tmp_path, tiny_bert_without_dropout):
    """Else `mean_over_step` can go."""

    def mean(outputs, labels, num_items_in_batch=None):
        return outputs["logits"].square().mean() + 1

    whole, parts = (
        first_step(tmp_path, tiny_bert_without_dropout, *sizes, mean, Trainer)[0] for sizes in ((8, 1), (2, 4))
    )
    assert parts == pytest.approx(4 * whole, rel=0.2)


def span_model(folder):
    torch.manual_seed(0)
    return AutoModelForQuestionAnswering.from_pretrained(folder).eval()


def test_the_loss_of_spans_is_a_mean_of_the_means_of_batches(tiny_bert):
    """Else `span_loss` can go: the count of the whole step changes nothing."""
    batch = dict(input_ids=torch.arange(10, 26).view(2, 8), start_positions=torch.tensor([1, 2]))
    batch["end_positions"] = batch["start_positions"] + 1
    model = span_model(tiny_bert)
    assert model(**batch).loss == model(**batch, num_items_in_batch=torch.tensor(100)).loss


def test_padding_takes_part_in_the_softmax_over_spans(tiny_bert):
    """Else `ignore_padding` can go."""
    losses = []
    for length in (8, 40):
        ids, mask = torch.zeros(1, length, dtype=torch.long), torch.zeros(1, length, dtype=torch.long)
        ids[0, :8], mask[0, :8] = torch.arange(10, 18), 1
        place = torch.tensor([3])
        outputs = span_model(tiny_bert)(input_ids=ids, attention_mask=mask, start_positions=place, end_positions=place)
        losses.append(outputs.loss.item())
    assert losses[1] > losses[0] + 0.5


# The Trainer


def test_a_weight_that_is_not_a_number_is_saved(tmp_path):
    """Else `FiniteNumbers` can go."""
    stock = exploding(tmp_path, Trainer, save_steps=4, save_strategy="steps")
    stock.train()
    assert stock.model.weight.isnan() and (tmp_path / "checkpoint-4").exists()


def test_rows_are_repeated_or_missing_among_several_processes():
    """Else `SharedBatches` can go."""
    total = BatchSampler(range(9), 8, drop_last=False)
    shares = [BatchSamplerShard(total, 2, process, split_batches=True) for process in (0, 1)]
    read = [row for share in shares for batch in share for row in batch]
    assert len(read) == 16 and len(set(read)) == 9
    uneven = [BatchSamplerShard(total, 2, process, split_batches=True, even_batches=False) for process in (0, 1)]
    assert [len(list(share)) for share in uneven] == [2, 1]  # the second process would leave the first waiting


def test_an_incomplete_batch_is_dropped_of_a_part_of_a_step_alone(tmp_path):
    """Else --dataloader_drop_last can be left to the stock loader on one process."""
    sizes = dict(per_device_train_batch_size=2, gradient_accumulation_steps=4, num_train_epochs=1)
    assert len(list(itertools.chain(*rows_read(tmp_path, Trainer, dataloader_drop_last=True, **sizes)))) == 20


def test_grouping_by_length_reorders_evaluation(tmp_path):
    """Else --train_sampling_strategy group_by_length need not be refused."""
    data = numbered(9).add_column("length", [1 + i % 3 for i in range(9)])
    trainer = build(Trainer, tmp_path, Recording(), train_sampling_strategy="group_by_length")
    assert list(trainer.get_eval_dataloader(data).batch_sampler.sampler) != list(range(9))


def test_evaluation_draws_a_random_number(tmp_path):
    """Else `RecipeTrainer.evaluate` can go."""
    changed = []
    for trainer_class in (Trainer, RecipeTrainer):
        trainer = build(trainer_class, tmp_path, Recording(), options={"eval_dataset": numbered(4)})
        before = torch.random.get_rng_state()
        trainer.evaluate()
        changed.append(not torch.equal(before, torch.random.get_rng_state()))
    assert changed == [True, False]


@pytest.mark.parametrize("trainer_class", [Trainer, RecipeTrainer])
def test_all_processes_draw_the_same_dropout(tmp_path, monkeypatch, trainer_class):
    """Else the seed of a process can be left to the stock Trainer."""
    monkeypatch.setattr(TrainingArguments, "process_index", 1)
    seeds = []

    class Model(Recording):
        def forward(self, input_ids, labels=None):
            seeds.append(torch.initial_seed())
            return super().forward(input_ids)

    trainer = build(trainer_class, tmp_path, Model(), numbered(4), max_steps=1, seed=5)
    trainer.is_world_process_zero = lambda: True
    trainer.train()
    assert seeds == [5 if trainer_class is Trainer else 6]


def test_the_stock_log_prints_dictionaries_of_text(tmp_path, capsys):
    """Else `LogLines` can go."""
    rows_read(tmp_path, Trainer, logging_steps=1, max_steps=1)
    assert "{'loss': '" in capsys.readouterr().out


def test_the_stock_model_card_replaces_what_is_there(tmp_path, tiny_bert):
    """Else `push_to_hub` can be left to the Trainer; it saves a pickle as well."""
    trainer = build(Trainer, tmp_path, AutoModelForTokenClassification.from_pretrained(tiny_bert))
    write(tmp_path / "README.md", "---\nlicense: mit\n---\nours")
    trainer.create_model_card()
    trainer.save_model()
    assert "ours" not in (tmp_path / "README.md").read_text() and (tmp_path / "training_args.bin").exists()


def test_a_flag_against_evaluation_is_overruled_and_several_gpus_multiply_the_batch(tmp_path):
    """Else `set_evaluation_and_saving` and `use_one_gpu_without_a_launcher` can be shorter."""
    args = TrainingArguments(tmp_path, use_cpu=True, do_eval=False, eval_strategy="epoch")
    assert args.do_eval
    args._n_gpu = 4
    assert args.train_batch_size == 4 * args.per_device_train_batch_size


# Data sets and tokenizers


def test_the_hash_of_an_imported_function_is_its_name(tmp_path, monkeypatch):
    """Else `map_cached` and `build_dataset` need no digest of the code."""
    monkeypatch.syspath_prepend(tmp_path)
    hashes = []
    for value in (1, 2):
        write(tmp_path / "edited_module.py", f"def function(batch):\n    return {value}\n")
        shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)
        importlib.invalidate_caches()
        module = importlib.import_module("edited_module")
        hashes.append(Hasher.hash(importlib.reload(module).function))
        assert module.function(None) == value
    assert hashes[0] == hashes[1]


def test_a_list_for_a_generator_is_taken_for_shards():
    """Else `build_dataset` can hand lists on."""

    def rows(names):
        yield {"names": len(names)}

    features = Features(names=Value("int64"))
    assert len(Dataset.from_generator(rows, features=features, gen_kwargs={"names": ["a", "b"]})) == 2


def test_a_folder_without_a_tokenizer_gives_one_that_knows_nothing(tiny_bert, tmp_path):
    """Else `load_tokenizer` need not look for its files."""
    AutoConfig.from_pretrained(tiny_bert).save_pretrained(tmp_path)
    assert len(AutoTokenizer.from_pretrained(tmp_path)) < 10


def test_a_tokenizer_without_a_class_passes_the_prefix_space_over(tmp_path):
    """Else `load_tokenizer` can leave it to the flag."""
    model = save_encoder("modernbert", tmp_path, [" ".join(words) for words, _ in read_sample("train")[:50]])
    tokenizer = AutoTokenizer.from_pretrained(model, add_prefix_space=True)
    assert not tokenizer.backend_tokenizer.pre_tokenizer.add_prefix_space


def test_a_question_longer_than_the_window_is_an_error(tiny_bert):
    """Else `tokenize_questions` need not cut it."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_bert)
    options = dict(truncation="only_second", max_length=12, stride=2, return_overflowing_tokens=True)
    with pytest.raises(BaseException, match=r"(?i)truncat"):
        tokenizer(["in " * 30], ["Ada ran"], **options)


def test_windows_begin_within_words(tiny_bert):
    """Else `own_words` need not look for the first piece of a word."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_bert)
    options = dict(truncation=True, max_length=6, stride=1, return_overflowing_tokens=True)
    windows = tokenizer([["zzzyqx" * 3]], is_split_into_words=True, **options)
    assert len(windows["input_ids"]) > 2 and {windows.word_ids(i)[1] for i in range(2)} == {0}
