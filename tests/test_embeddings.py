"""Word embeddings trained in the rows that occur: the run is bit for bit that of the whole embedding."""

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from torch import nn
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForTokenClassification,
    DataCollatorForTokenClassification,
    TrainingArguments,
)

from common import cpu
from common.embeddings import EmbeddingInUse, only_rows_in_use
from common.errors import InputError
from common.preprocessing import load_tokenizer
from common.training import RecipeTrainer, cross_entropy_loss, freeze


@pytest.fixture
def tuned_cpu():
    cpu.tune_cpu(True)
    yield
    cpu.tune_cpu(False)


def rows(first=5, last=30, count=40):
    """Rows of pieces from `first` to `last`, some of which occur in few rows."""
    generator = torch.Generator().manual_seed(0)
    ids = [torch.randint(first, last + 1, (4 + i % 9,), generator=generator).tolist() for i in range(count)]
    labels = [[piece % 3 for piece in row] for row in ids]
    lengths = [len(row) for row in ids]
    return Dataset.from_dict({"input_ids": ids, "labels": labels, "length": lengths})


def load(folder):
    torch.manual_seed(0)
    return AutoModelForTokenClassification.from_pretrained(folder, num_labels=3)


def train(folder, model_folder, resume=None, **flags):
    """A trained model, its Trainer, and the types that its word embedding had after each step."""
    types = []

    class Trainer(RecipeTrainer):
        def _maybe_log_save_evaluate(self, *args, **kwargs):
            types.append(type(self.model.get_input_embeddings()))
            super()._maybe_log_save_evaluate(*args, **kwargs)

    options = dict(max_steps=12, save_steps=6, logging_steps=1, learning_rate=1e-2, eval_strategy="steps", eval_steps=5)
    args = TrainingArguments(folder, use_cpu=True, disable_tqdm=True, report_to=[], **options | flags)
    tokenizer = load_tokenizer(model_folder)
    trainer = Trainer(
        model=load(model_folder),
        args=args,
        train_dataset=rows(),
        eval_dataset=rows(last=40),
        data_collator=DataCollatorForTokenClassification(tokenizer),
        processing_class=tokenizer,
        compute_loss_func=cross_entropy_loss(),
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer.model, trainer, set(types)


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("optimizer", ["adamw_torch_fused", "adamw_torch"])
def test_training_is_that_of_the_whole_embedding_bit_for_bit(optimizer, tmp_path, tiny_bert, tuned_cpu, monkeypatch):
    """Without a limit on the gradient's norm, whose sum has another order."""
    flags = dict(max_grad_norm=0.0, optim=optimizer)
    found, trainer, types = train(tmp_path / "a", tiny_bert, **flags)
    assert types == {EmbeddingInUse} and type(found.get_input_embeddings()) is nn.Embedding
    monkeypatch.setattr(RecipeTrainer, "trains_rows_in_use", False)
    expected, stock, types = train(tmp_path / "b", tiny_bert, **flags)
    assert types == {nn.Embedding}
    assert_same(found.state_dict(), expected.state_dict())
    assert all(parameter.requires_grad for parameter in found.parameters())
    untrained = load(tiny_bert).get_input_embeddings().weight
    moved = (found.get_input_embeddings().weight != untrained).any(dim=1).nonzero().squeeze().tolist()
    assert moved == list(range(5, 31))

    # Losses, evaluations among them, which read words that training lacks; and the count of operations.
    timed = ("runtime", "per_second")
    for ours, theirs in zip(trainer.state.log_history, stock.state.log_history, strict=True):
        assert {k: v for k, v in ours.items() if not k.endswith(timed)} == {
            k: v for k, v in theirs.items() if not k.endswith(timed)
        }
    # What a checkpoint holds is what the stock one holds.
    for name in ("checkpoint-6", "checkpoint-12"):
        a, b = (load_file(tmp_path / run / name / "model.safetensors") for run in "ab")
        assert_same(a, b)
        a, b = (torch.load(tmp_path / run / name / "optimizer.pt") for run in "ab")
        assert a["param_groups"] == b["param_groups"] and a["state"].keys() == b["state"].keys()
        for index in b["state"]:
            assert_same(a["state"][index], b["state"][index])


@pytest.mark.parametrize("resumed_in_use", [True, False])
def test_a_checkpoint_is_resumed_with_and_without_it(resumed_in_use, tmp_path, tiny_bert, tuned_cpu, monkeypatch):
    """As where a run goes on on a GPU."""
    expected, *_ = train(tmp_path / "run", tiny_bert, max_grad_norm=0.0)
    monkeypatch.setattr(RecipeTrainer, "trains_rows_in_use", resumed_in_use)
    found, _, types = train(tmp_path / "run", tiny_bert, str(tmp_path / "run" / "checkpoint-6"), max_grad_norm=0.0)
    assert types == {EmbeddingInUse if resumed_in_use else nn.Embedding}
    assert_same(found.state_dict(), expected.state_dict())


def test_a_trainer_trains_twice_and_its_best_model_is_loaded(tmp_path, tiny_bert, tuned_cpu):
    flags = dict(max_steps=6, save_steps=2, eval_steps=2, load_best_model_at_end=True, learning_rate=0.5)
    model, trainer, _ = train(tmp_path, tiny_bert, **flags)
    best = load_file(f"{trainer.state.best_model_checkpoint}/model.safetensors")
    assert not trainer.state.best_model_checkpoint.endswith("-6")  # with such a rate the last is not the best
    assert_same(model.state_dict(), best)
    trainer.train()
    assert not torch.equal(model.get_input_embeddings().weight, best["bert.embeddings.word_embeddings.weight"])


@pytest.mark.parametrize("flags", [{"weight_decay": 0.01}, {"optim": "adafactor"}])
def test_it_is_whole_where_rows_without_gradient_would_move(flags, tmp_path, tiny_bert, tuned_cpu):
    assert train(tmp_path, tiny_bert, max_steps=1, **flags)[2] == {nn.Embedding}


def test_it_is_whole_without_tuning_frozen_or_shared(tmp_path, tiny_bert):
    assert train(tmp_path, tiny_bert, max_steps=1)[2] == {nn.Embedding}
    frozen = load(tiny_bert)
    freeze(frozen, "embeddings")
    shared = AutoModelForMaskedLM.from_pretrained(tiny_bert)
    for model in (frozen, shared):
        with only_rows_in_use(model, rows(), [0]) as embedding:
            assert embedding is None and type(model.get_input_embeddings()) is nn.Embedding


def test_a_piece_that_training_lacks_is_read_outside_training_and_refused_within(tiny_bert):
    model = load(tiny_bert)
    whole = model.get_input_embeddings()
    with only_rows_in_use(model, rows(), [0]) as embedding:
        with torch.no_grad():
            embedding.rows.weight += 1
        assert torch.equal(model.eval().get_input_embeddings()(torch.tensor([40])), whole.weight[[40]])
        assert torch.equal(embedding(torch.tensor([5])), embedding.rows.weight[[1]])  # 0 is padding's row
        model.train()
        assert torch.equal(embedding(torch.tensor([5])), embedding.rows.weight[[1]])
        with pytest.raises(InputError, match="piece 40 of the vocabulary"):
            embedding(torch.tensor([5, 40]))
