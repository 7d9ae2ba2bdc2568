import math
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForTokenClassification, DataCollatorForTokenClassification, Trainer, TrainingArguments

from common import arguments, cpu
from common.errors import InputError
from common.training import (
    RecipeTrainer,
    choose_precision,
    cross_entropy_loss,
    freeze,
)
from recipes import ner


def rows(count=24, labels=3):
    generator = torch.Generator().manual_seed(0)
    lengths = [int(n) for n in torch.randint(4, 20, (count,), generator=generator)]
    return Dataset.from_dict(
        {
            "input_ids": [torch.randint(5, 60, (n,), generator=generator).tolist() for n in lengths],
            "attention_mask": [[1] * n for n in lengths],
            # Few labels in some rows, many in others: a mean of means would differ from the mean over all.
            "labels": [
                [-100, *torch.randint(0, labels, (n - 1,), generator=generator).tolist()]
                if n % 3
                else [-100] * (n - 1) + [1]
                for n in lengths
            ],
            "length": lengths,
        }
    )


def first_step(folder, model_folder, per_device, accumulation, loss):
    from transformers import AutoTokenizer

    torch.manual_seed(0)
    model = AutoModelForTokenClassification.from_pretrained(model_folder, num_labels=3)
    args = TrainingArguments(
        folder,
        per_device_train_batch_size=per_device,
        gradient_accumulation_steps=accumulation,
        max_steps=1,
        logging_steps=1,
        max_grad_norm=1e9,
        use_cpu=True,
        disable_tqdm=True,
        save_strategy="no",
        train_sampling_strategy="group_by_length",
    )
    collator = DataCollatorForTokenClassification(AutoTokenizer.from_pretrained(model_folder))
    trainer = RecipeTrainer(
        model=model, args=args, train_dataset=rows(), data_collator=collator, compute_loss_func=loss
    )
    trainer.train()
    logged = trainer.state.log_history[0]
    return logged["loss"], logged["grad_norm"]


def test_batch_8_equals_2_times_4_in_loss_and_gradient(tmp_path, tiny_bert_without_dropout):
    whole = first_step(tmp_path / "a", tiny_bert_without_dropout, 8, 1, cross_entropy_loss())
    parts = first_step(tmp_path / "b", tiny_bert_without_dropout, 2, 4, cross_entropy_loss())
    assert parts == pytest.approx(whole, rel=1e-4)


def test_the_defect_that_the_loss_mends_is_still_there(tmp_path, tiny_bert_without_dropout):
    """If this fails the stock loss is right, and `cross_entropy_loss` is needed for class weights only."""
    whole = first_step(tmp_path / "a", tiny_bert_without_dropout, 8, 1, None)
    parts = first_step(tmp_path / "b", tiny_bert_without_dropout, 2, 4, None)
    assert parts[0] > 3 * whole[0]


def test_the_loss_by_hand():
    logits = torch.tensor([[[0.0, 0.0], [2.0, 0.0]]])
    labels = torch.tensor([[0, 1]])
    each = [math.log(2), math.log(1 + math.exp(2))]
    assert cross_entropy_loss()({"logits": logits}, labels).item() == pytest.approx(sum(each) / 2)
    assert cross_entropy_loss()({"logits": logits}, labels, num_items_in_batch=8).item() == pytest.approx(sum(each) / 8)
    weighted = cross_entropy_loss(torch.tensor([1.0, 3.0]))({"logits": logits}, labels)
    assert weighted.item() == pytest.approx((each[0] + 3 * each[1]) / 2)
    assert cross_entropy_loss()({"logits": logits}, torch.tensor([[-100, -100]])).item() == 0


class Asked:
    bf16 = fp16 = tf32 = use_cpu = None


@pytest.mark.parametrize(("speedup", "bf16"), [(0.0, False), (0.6, False), (5.0, True)])
def test_precision_on_a_cpu_follows_what_was_measured(monkeypatch, speedup, bf16):
    monkeypatch.setattr(cpu, "cpu_bf16_speedup", lambda: speedup)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    choice, reason = choose_precision(Asked)
    assert choice == {"use_cpu": True, "bf16": bf16, "fp16": False}
    assert reason


@pytest.mark.parametrize(("capability", "expected"), [((9, 0), "bf16"), ((7, 5), "fp16"), ((6, 1), None)])
def test_precision_on_a_gpu(monkeypatch, capability, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    choice, _ = choose_precision(Asked)
    assert [name for name in ("bf16", "fp16") if choice[name]] == ([expected] if expected else [])
    assert choice.get("tf32", False) == (capability >= (8, 0))


def test_a_flag_overrules_the_choice_of_precision(monkeypatch, tmp_path):
    monkeypatch.setattr(cpu, "cpu_bf16_speedup", lambda: 5.0)
    monkeypatch.setattr(arguments, "go_offline_without_hub", lambda *names: None)

    def parse(*flags):
        argv = ["--use_cpu", "true", *flags]
        return arguments.parse_arguments(ner.Arguments, ner.DEFAULTS, argv, ner.__file__)[1]

    assert parse().bf16 and not parse("--bf16", "false").bf16


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--learnin_rate", "1"], "did you mean --learning_rate"),
        (["--learning_rate", "fast"], "invalid float"),
        (["--train"], "unknown flag --train"),
        (["--fp16", "true", "--bf16", "true"], "fp16 and bf16"),
    ],
)
def test_flags_fail_in_one_line(flags, message):
    with pytest.raises(InputError, match=message):
        arguments.parse_arguments(ner.Arguments, ner.DEFAULTS, flags, ner.__file__)


def test_help_of_every_flag_can_be_shown(capsys):
    with pytest.raises(SystemExit):
        arguments.parse_arguments(ner.Arguments, ner.DEFAULTS, ["--help"], ner.__file__)
    text = capsys.readouterr().out
    assert text.index("--model_name_or_path") < text.index("--per_device_train_batch_size")


@pytest.mark.parametrize(
    ("what", "trained"),
    [
        (None, {"embeddings", "layer.0", "layer.1", "classifier"}),
        ("encoder", {"classifier"}),
        ("embeddings", {"layer.0", "layer.1", "classifier"}),
        ("0", {"layer.0", "layer.1", "classifier"}),
        ("1", {"layer.1", "classifier"}),
    ],
)
def test_freeze(tiny_bert, what, trained):
    model = AutoModelForTokenClassification.from_pretrained(tiny_bert)
    freeze(model, what)
    parts = ("embeddings", "layer.0", "layer.1", "classifier")
    assert {part for n, p in model.named_parameters() if p.requires_grad for part in parts if part in n} == trained


@pytest.mark.parametrize("what", ["3", "head", "-1"])
def test_freeze_refuses_what_is_not_there(tiny_bert, what):
    with pytest.raises(InputError, match="--freeze"):
        freeze(AutoModelForTokenClassification.from_pretrained(tiny_bert), what)


class Exhausted(torch.nn.Module):
    """A model that the device has no memory for."""

    def forward(self, **inputs):
        raise torch.OutOfMemoryError("CUDA out of memory.")


def test_exhausted_memory_is_one_line_with_the_flags_that_keep_the_effective_batch(tmp_path, monkeypatch):
    args = TrainingArguments(tmp_path, use_cpu=True, gradient_accumulation_steps=2, per_device_train_batch_size=8)
    trainer = RecipeTrainer(model=torch.nn.Linear(1, 1), args=args, train_dataset=rows())
    batch = {"input_ids": torch.ones(8, 40, dtype=torch.long), "labels": torch.ones(8, 40, dtype=torch.long)}
    message = "with 8 rows of 40 tokens .* --per_device_train_batch_size 4 --gradient_accumulation_steps 4"
    with pytest.raises(InputError, match=message):
        trainer.training_step(Exhausted(), batch)
    with pytest.raises(InputError, match="; --per_device_eval_batch_size 4, or"):
        trainer.prediction_step(Exhausted(), batch, False)
    args.per_device_train_batch_size = 1
    with pytest.raises(InputError, match="; a shorter --max_seq_length"):
        trainer.training_step(Exhausted(), batch)
    args.auto_find_batch_size = True  # which acts on the error itself
    with pytest.raises(torch.OutOfMemoryError):
        trainer.training_step(Exhausted(), batch)


class Exploding(torch.nn.Module):
    """A weight whose loss is infinite for row 5, or whose gradient is."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(self, input_ids, labels=None):
        factor = torch.where((input_ids == 5).any(), torch.inf, 1.0)
        return {"loss": (self.weight * input_ids.float().mean() * factor).sum()}


def exploding_trainer(folder, **flags):
    data = Dataset.from_dict({"input_ids": [[i] for i in range(16)], "labels": [0] * 16, "length": [1] * 16})
    data = data.add_column("row", list(range(16)))
    args = TrainingArguments(
        folder,
        use_cpu=True,
        per_device_train_batch_size=4,
        num_train_epochs=1,
        disable_tqdm=True,
        report_to=[],
        **flags,
    )
    return RecipeTrainer(model=Exploding(), args=args, train_dataset=data)


@pytest.mark.parametrize("max_grad_norm", [0.0, 1.0])
def test_a_loss_that_is_no_number_stops_the_run_before_it_is_saved(tmp_path, max_grad_norm):
    flags = {"save_steps": 1, "save_strategy": "steps", "train_sampling_strategy": "group_by_length"}
    trainer = exploding_trainer(tmp_path, max_grad_norm=max_grad_norm, logging_nan_inf_filter=False, **flags)
    with pytest.raises(
        InputError, match=r"no finite number at step \d \(learning rate .*, rows .* of train\); what"
    ) as e:
        trainer.train()
    step = int(str(e.value).split("at step ")[1].split()[0])
    named = [int(row) for row in str(e.value).split("rows ")[1].split(" of train")[0].split(", ")]
    assert 6 in named and len(named) == 4  # from 1: the row that holds 5
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"checkpoint-{i}" for i in range(1, step)]


def test_weights_that_are_no_numbers_are_not_saved(tmp_path):
    trainer = exploding_trainer(tmp_path)
    trainer.model.weight.data.fill_(float("nan"))
    with pytest.raises(InputError, match="in the weights after step 0"):
        trainer.save_model(str(tmp_path / "model"))
    assert not (tmp_path / "model").exists()


def test_steps_skipped_by_the_fp16_scaler_are_an_error_when_there_are_many(tmp_path):
    trainer = exploding_trainer(tmp_path)
    trainer.args.fp16 = True  # no scaler works on a CPU; what it reports is all that counts here
    trainer.optimizer = trainer.create_optimizer()
    skipped, fine = SimpleNamespace(optimizer_step_was_skipped=True), SimpleNamespace(optimizer_step_was_skipped=False)
    nothing = torch.tensor(0.0)
    trainer.create_scheduler(10)
    for accelerator in [skipped] * 29 + [fine] + [skipped] * 29:
        trainer.accelerator = accelerator
        norm = torch.tensor(1.0 if accelerator is fine else torch.inf)
        trainer._maybe_log_save_evaluate(nothing, norm, None, None, 0, None, 0)
    with pytest.raises(InputError, match=r"in 30 steps in a row .* --fp16 false"):
        trainer._maybe_log_save_evaluate(nothing, torch.tensor(torch.inf), None, None, 0, None, 0)


@pytest.mark.parametrize("said", ["Error while serializing: No space left on device (os error 28)", "failed"])
def test_a_full_disk_is_one_line_and_leaves_the_checkpoint_before(tmp_path, monkeypatch, said):
    """safetensors says what is wrong, torch.save does not; then the free space does."""
    stock = Trainer._save_optimizer_and_scheduler

    def full(self, folder):
        if self.state.global_step == 2:
            if said == "failed":
                monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=0))
            raise RuntimeError(said)
        stock(self, folder)

    monkeypatch.setattr(Trainer, "_save_optimizer_and_scheduler", full)
    trainer = exploding_trainer(tmp_path, save_steps=1, save_strategy="steps")
    trainer.train_dataset = trainer.train_dataset.filter(lambda row: row["input_ids"] != [5])
    with pytest.raises(InputError, match="checkpoint-2: no space left on the device; free some and repeat"):
        trainer.train()
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]
    assert (tmp_path / "checkpoint-1" / "trainer_state.json").exists()


def test_a_word_weighs_alike_in_batches_of_short_and_of_long_sentences(tmp_path, tiny_bert_without_dropout):
    """Grouped by length, one batch holds 4 sentences of 3 labels, another 4 of 9: 6 on average."""
    args = TrainingArguments(tmp_path, use_cpu=True, train_sampling_strategy="group_by_length")
    train = Dataset.from_dict({"labels": [[-100, 1, 1, 1]] * 4 + [[-100] + [1] * 9] * 4})
    model = AutoModelForTokenClassification.from_pretrained(tiny_bert_without_dropout).train()
    trainer = RecipeTrainer(model=model, args=args, train_dataset=train, compute_loss_func=cross_entropy_loss())
    batches = [{"labels": torch.tensor(train["labels"][i : i + 2])} for i in (0, 2, 4, 6)]
    assert trainer._get_num_items_in_batch(batches[:2], args.device) == 4 * 6
    assert trainer._get_num_items_in_batch(batches[2:], args.device) == 4 * 6
    assert trainer._get_num_items_in_batch(batches, args.device) == 8 * 6
    args.train_sampling_strategy = "random"
    assert trainer._get_num_items_in_batch(batches[:2], args.device) == 4 * 3
    args.train_sampling_strategy = "group_by_length"
    model.eval()
    assert trainer._get_num_items_in_batch(batches[:2], args.device) == 4 * 3
