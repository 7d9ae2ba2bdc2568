"""What the recipes' Trainer does: losses, batches, numbers that are not finite, precision, frozen layers."""

import itertools
import json
import math
import re
from types import SimpleNamespace

import pytest
import torch
from accelerate.data_loader import SeedableRandomSampler
from datasets import Dataset
from torch.utils.data import BatchSampler
from transformers import (
    AutoModelForTokenClassification,
    AutoTokenizer,
    DataCollatorForTokenClassification,
    Trainer,
    TrainingArguments,
)

from common import arguments, training
from common.errors import InputError, run_as_command
from common.training import (
    FiniteNumbers,
    RecipeTrainer,
    SharedBatches,
    choose_precision,
    cross_entropy_loss,
    label_loss,
    with_empty_batches,
)
from recipes import ner
from tests.conftest import write


def build(trainer_class, folder, model, rows=None, options=None, **flags):
    """A Trainer on the CPU that saves nothing and prints nothing, unless `flags` say so."""
    fixed = dict(use_cpu=True, disable_tqdm=True, report_to=[], save_strategy="no", logging_nan_inf_filter=False)
    return trainer_class(
        model=model, args=TrainingArguments(folder, **fixed | flags), train_dataset=rows, **options or {}
    )


def numbered(count):
    return Dataset.from_dict({"input_ids": [[i] for i in range(count)], "labels": [0] * count})


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
        }
    )


def first_step(folder, model_folder, per_device, accumulation, loss, trainer_class=RecipeTrainer):
    """Loss and norm of the gradient of the first step."""
    torch.manual_seed(0)
    model = AutoModelForTokenClassification.from_pretrained(model_folder, num_labels=3)
    collator = DataCollatorForTokenClassification(AutoTokenizer.from_pretrained(model_folder))
    sizes = dict(per_device_train_batch_size=per_device, gradient_accumulation_steps=accumulation, max_steps=1)
    options = dict(data_collator=collator, compute_loss_func=loss)
    trainer = build(trainer_class, folder, model, rows(), options, **sizes, logging_steps=1, max_grad_norm=1e9)
    trainer.train()
    logged = trainer.state.log_history[0]
    return logged["loss"], logged["grad_norm"]


def test_batch_8_equals_2_times_4_in_loss_and_gradient(tmp_path, tiny_bert_without_dropout):
    whole = first_step(tmp_path / "a", tiny_bert_without_dropout, 8, 1, cross_entropy_loss())
    parts = first_step(tmp_path / "b", tiny_bert_without_dropout, 2, 4, cross_entropy_loss())
    assert parts == pytest.approx(whole, rel=1e-4)


def test_the_loss_by_hand():
    logits = torch.tensor([[[0.0, 0.0], [2.0, 0.0]]])
    labels = torch.tensor([[0, 1]])
    each = [math.log(2), math.log(1 + math.exp(2))]
    assert cross_entropy_loss()({"logits": logits}, labels).item() == pytest.approx(sum(each) / 2)
    assert cross_entropy_loss()({"logits": logits}, labels, num_items_in_batch=8).item() == pytest.approx(sum(each) / 8)
    weighted = cross_entropy_loss(torch.tensor([1.0, 3.0]))({"logits": logits}, labels)
    assert weighted.item() == pytest.approx((each[0] + 3 * each[1]) / 2)
    assert cross_entropy_loss()({"logits": logits}, torch.tensor([[-100, -100]])).item() == 0
    scores, gold = {"logits": torch.tensor([[2.0], [0.0]])}, torch.tensor([1.0, 3.0])
    assert [label_loss(None, None, 0.0)(scores, gold, count).item() for count in (None, 4)] == [5.0, 2.5]


class Asked:
    bf16 = fp16 = tf32 = use_cpu = None


@pytest.mark.parametrize(("speedup", "bf16"), [(0.0, False), (0.6, False), (5.0, True)])
def test_precision_on_a_cpu_follows_what_was_measured(monkeypatch, speedup, bf16):
    monkeypatch.setattr(training, "cpu_bf16_speedup", lambda: speedup)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    choice, reason = choose_precision(Asked)
    assert choice == {"use_cpu": True, "bf16": bf16, "fp16": False}
    assert reason


@pytest.mark.parametrize(("capability", "expected"), [((9, 0), "bf16"), ((7, 5), "fp16"), ((6, 1), None)])
def test_precision_on_a_gpu(monkeypatch, capability, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    choice, _ = choose_precision(Asked)
    assert [name for name in ("bf16", "fp16") if choice[name]] == ([expected] if expected else [])
    assert choice.get("tf32", False) == (capability >= (8, 0))


def test_other_accelerators_are_not_forced_onto_the_cpu(monkeypatch):
    """Intel's XPU, Ascend's NPU: PyTorch knows them all as its accelerator."""
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_precision(Asked)[0] == {"use_cpu": False, "bf16": False, "fp16": False}


def test_a_run_keeps_the_precision_that_it_began_with(monkeypatch, tmp_path):
    monkeypatch.setattr(arguments, "go_offline_without_hub", lambda *names: None)

    def precision(speedup, *flags):
        monkeypatch.setattr(training, "cpu_bf16_speedup", lambda: speedup)
        argv = ["--use_cpu", "true", "--output_dir", str(tmp_path), *flags]
        return arguments.parse_arguments(ner.Arguments, ner.DEFAULTS, argv, ner.__file__)[1].bf16

    def record(**of):
        written = {"precision": "bf16", "device": "cpu", "status": "finished"}
        write(tmp_path / "run.json", json.dumps(written | of))

    assert precision(5.0) and not precision(0.5)
    record()
    assert precision(0.5)  # a busy moment
    assert not precision(5.0, "--bf16", "false")
    assert not precision(0.5, "--overwrite", "true")  # which begins anew
    record(status="running")
    assert precision(0.5, "--overwrite", "true")  # which was stopped and is repeated
    record(device="cuda:0")
    assert not precision(0.5)


class Exhausted(torch.nn.Module):
    """A model that the device has no memory for."""

    def forward(self, **inputs):
        raise torch.OutOfMemoryError("CUDA out of memory.")


def test_exhausted_memory_is_one_line_with_the_flags_that_keep_the_effective_batch(tmp_path):
    trainer = build(RecipeTrainer, tmp_path, torch.nn.Linear(1, 1), rows())
    batch = {"input_ids": torch.ones(8, 40, dtype=torch.long), "labels": torch.ones(8, 40, dtype=torch.long)}
    with pytest.raises(InputError, match="; halve --per_device_train_batch_size and double --gradient_accum"):
        trainer.training_step(Exhausted(), batch)
    with pytest.raises(InputError, match="; halve --per_device_eval_batch_size, or take a shorter"):
        trainer.prediction_step(Exhausted(), batch, False)
    trainer.args.auto_find_batch_size = True  # which acts on the error itself
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


def exploding(folder, trainer_class=RecipeTrainer, **flags):
    flags = dict(per_device_train_batch_size=4, num_train_epochs=1) | flags
    return build(trainer_class, folder, Exploding(), numbered(16), **flags)


@pytest.mark.parametrize("logging_steps", [1, 100])
def test_numbers_that_are_not_finite_stop_the_run_before_they_are_saved(tmp_path, logging_steps):
    trainer = exploding(tmp_path, save_steps=1, save_strategy="steps", logging_steps=logging_steps)
    with pytest.raises(InputError, match=r"became NaN or infinite .*\(--learning_rate .*\); .*: a lower") as e:
        trainer.train()
    step = int(re.search(r"step (\d)", str(e.value)).group(1))
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"checkpoint-{i}" for i in range(1, step)]


@pytest.mark.parametrize("said", ["Error while serializing: No space left on device (os error 28)", None])
def test_a_full_disk_is_one_line_and_leaves_the_checkpoint_before(tmp_path, monkeypatch, capsys, said):
    """safetensors says what is wrong, torch.save in words of its own."""
    stock = Trainer._save_optimizer_and_scheduler

    def full(self, folder):
        if self.state.global_step == 2:
            if said is None:
                torch.save({"weight": torch.ones(10**6)}, "/dev/full")
            raise RuntimeError(said)
        stock(self, folder)

    monkeypatch.setattr(Trainer, "_save_optimizer_and_scheduler", full)
    trainer = exploding(tmp_path, save_steps=1, save_strategy="steps")
    trainer.train_dataset = trainer.train_dataset.filter(lambda row: row["input_ids"] != [5])
    with pytest.raises(SystemExit, match="2"):
        run_as_command(trainer.train)
    assert "error: no space left on the device; free some and repeat" in capsys.readouterr().err
    assert (tmp_path / "checkpoint-1" / "trainer_state.json").exists()


# Batches


class Recording(torch.nn.Module):
    """Notes the rows of every batch."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.rows = []

    def forward(self, input_ids, labels=None):
        self.rows.append(input_ids[:, 0].tolist())
        return {"loss": (self.weight * input_ids.float()).mean()}


def rows_read(folder, trainer_class=RecipeTrainer, seed=3, per_device_train_batch_size=8, **flags):
    """The rows of each batch of a run on 21 rows."""
    flags |= dict(seed=seed, per_device_train_batch_size=per_device_train_batch_size)
    trainer = build(trainer_class, folder, Recording(), numbered(21), **flags)
    trainer.train()
    return trainer.model.rows


def test_every_row_is_read_once_an_epoch_in_an_order_of_seed_and_epoch(tmp_path):
    rows = rows_read(tmp_path)
    epochs = [list(itertools.chain(*rows[i : i + 3])) for i in (0, 3, 6)]
    assert all(sorted(epoch) == list(range(21)) for epoch in epochs) and epochs[0] != epochs[1] != epochs[2]
    assert rows_read(tmp_path) == rows != rows_read(tmp_path, seed=4)


@pytest.mark.parametrize(("processes", "steps"), [(1, 1), (2, 1), (2, 4), (4, 2), (8, 1), (3, 5)])
@pytest.mark.parametrize("count", [1, 33, 120, 127])
def test_processes_share_the_batches_of_one(processes, steps, count):
    """The examples of each optimizer step are the same, each once, and every process takes part in every batch."""
    size = 2 * processes * steps
    order = SeedableRandomSampler(range(count), data_seed=1)
    order.set_epoch(2)
    total = BatchSampler(order, size, drop_last=False)
    alone = list(total)
    shares = []
    for process in range(processes):
        order.set_epoch(2)
        shares.append(list(SharedBatches(total, process, processes, steps)))
    assert {len(share) for share in shares} == {len(SharedBatches(total, 0, processes, steps))}
    for step, expected in enumerate(alone):
        computed = [row for share in shares for batch in share[step * steps : (step + 1) * steps] for row in batch]
        assert sorted(computed) == sorted(expected)
    assert max(len(batch) for share in shares for batch in share) <= 2
    assert shares[0][-1], "the main process is never without a row"


def test_steps_skipped_by_the_fp16_scaler_are_an_error_when_there_are_many(tmp_path):
    """No scaler works on a CPU; what it reports is all that counts here."""
    args = SimpleNamespace(fp16=True, bf16=False, learning_rate=1.0)
    skipped, taken = SimpleNamespace(step_was_skipped=True), SimpleNamespace(step_was_skipped=False)
    numbers, state = FiniteNumbers(), SimpleNamespace(global_step=0)
    numbers.on_log(args, state, None, {"loss": float("nan"), "grad_norm": float("inf")})
    for optimizer in [skipped] * 29 + [taken] + [skipped] * 29:
        numbers.on_step_end(args, state, None, optimizer=optimizer)
    with pytest.raises(InputError, match=r"in 30 steps in a row, .* --fp16 false"):
        numbers.on_step_end(args, state, None, optimizer=skipped)


def test_weights_that_are_not_finite_are_not_evaluated_either(tmp_path):
    trainer = exploding(tmp_path, save_strategy="no", logging_strategy="no")
    with pytest.raises(InputError, match="the weights became NaN or infinite by step 4"):
        trainer.train()
    with pytest.raises(InputError, match="the weights became NaN"):
        trainer.evaluate(trainer.train_dataset)


@pytest.mark.parametrize(("batch", "steps"), [(8, 1), (2, 4)])
def test_an_incomplete_total_batch_is_dropped_alike_with_any_accumulation(tmp_path, batch, steps):
    sizes = dict(per_device_train_batch_size=batch, gradient_accumulation_steps=steps, num_train_epochs=1)
    read = rows_read(tmp_path, dataloader_drop_last=True, **sizes)
    assert len(read) == 2 * steps and len(set(itertools.chain(*read))) == 16


@pytest.mark.parametrize("loss", [None, lambda outputs, labels, num_items_in_batch=None: outputs["logits"].mean()])
def test_a_batch_without_rows_moves_nothing_whatever_the_loss(tmp_path, tiny_bert_without_dropout, loss):
    """As a process gets it where an epoch's last total batch is too small for all; -100 may mean nothing to a loss."""
    model = AutoModelForTokenClassification.from_pretrained(tiny_bert_without_dropout, num_labels=3).train()
    trainer = build(RecipeTrainer, tmp_path, model, options={"compute_loss_func": loss})
    collator = DataCollatorForTokenClassification(AutoTokenizer.from_pretrained(tiny_bert_without_dropout))
    trainer.current_gradient_accumulation_steps = 1  # which `train` sets
    batch = with_empty_batches(collator, rows()[0])([])
    assert trainer.training_step(model, dict(batch)) == 0
    gradients = [parameter.grad for parameter in model.parameters()]
    assert all(gradient is not None and not gradient.any() for gradient in gradients)
