"""What every recipe asks of the machine and of the Trainer: precision, attention, batches, loss, frozen layers.

Each departure from the stock `Trainer` names the defect that it mends.
"""

import contextlib
import functools
import inspect
import logging
import math
import os
import re
import time
import timeit
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from accelerate import Accelerator
from accelerate.data_loader import SeedableRandomSampler, prepare_data_loader
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, Sampler, SequentialSampler
from transformers import AutoConfig, AutoTokenizer, Trainer, TrainerCallback, TrainingArguments

from common.errors import InputError, hub_errors, told_by_main_process
from common.metrics import reported
from common.packing import pack, replace_dropout
from common.thresholds import LIMITS, within_limits

log = logging.getLogger("recipes")
SKIPPED_STEPS_AT_MOST = 30
TEMPERATURES = np.geomspace(*LIMITS, 120)


# The machine


def choose_precision(flags: Any, record: dict[str, Any] | None = None) -> tuple[dict[str, Any], str]:
    """Values for `bf16`, `fp16`, `tf32` and `use_cpu` where the command line left them open, and the reason.

    bf16 where the hardware multiplies it fast: GPUs from Ampere on, CPUs on which it was measured just now
    (`cpu_bf16_speedup`). fp16 on older GPUs with tensor cores. Else fp32.

    Args:
        record: of the run in the output folder, whose precision is kept on the same kind of device, so that a resumed
            run never changes it and a busy moment never makes the same command another run.
    """
    use_cpu = bool(flags.use_cpu) or not torch.accelerator.is_available()
    choice: dict[str, Any] = {"use_cpu": use_cpu, "bf16": bool(flags.bf16), "fp16": bool(flags.fp16)}
    cuda = torch.cuda.is_available() and not use_cpu
    if cuda and flags.tf32 is None and torch.cuda.get_device_capability() >= (8, 0):
        choice["tf32"] = True  # for what stays fp32; PyTorch leaves it off
    if flags.bf16 is not None or flags.fp16 is not None:
        return choice, "set by a flag"
    is_same_device = record is not None and (record["device"] == "cpu") == use_cpu
    recorded = record["precision"] if is_same_device else None
    as_recorded = "as in the run of the output folder"
    if use_cpu:
        known = {"bf16": math.inf, "fp32": 0.0}.get(recorded)
        speedup = told_by_main_process("bf16 speedup", lambda: cpu_bf16_speedup() if known is None else known)
        reason = f"this CPU multiplies bf16 {speedup:.1f} times as fast as fp32" if speedup else "this CPU has no bf16"
        # Autocast spends some of the gain on conversions; between the kinds of processor there is a wide gap.
        return choice | {"bf16": speedup > 1.5}, reason if known is None else as_recorded
    if recorded is not None:
        return choice | {"bf16": recorded == "bf16", "fp16": recorded == "fp16"}, as_recorded
    if cuda and torch.cuda.get_device_capability() >= (8, 0):
        return choice | {"bf16": True}, "this GPU has bf16 tensor cores"
    if cuda and torch.cuda.get_device_capability() >= (7, 0):
        return choice | {"fp16": True}, "this GPU has fp16 tensor cores and no bf16"
    return choice, "no faster one is known to be safe on this device"


@functools.cache
def cpu_bf16_speedup() -> float:
    """How many times faster this CPU multiplies matrices in bf16 than in fp32; 0 where it has no instruction for it.

    Measured on the machine, not read from a list: with AMX the ratio is about 5, with AVX512-BF16 alone some processors
    reach 3 and others 0.6. About 0.2 s.
    """
    has = getattr(torch.cpu, "get_capabilities", dict)()  # an older PyTorch says nothing and is measured
    if has and not any(has.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")):
        return 0.0
    pairs = [
        (torch.ones(512, 768, dtype=of), torch.ones(3072, 768, dtype=of)) for of in (torch.float32, torch.bfloat16)
    ]
    timers = [timeit.Timer(functools.partial(nn.functional.linear, *pair)) for pair in pairs]
    # In turn, so that other work on the machine slows both.
    fp32, bf16 = map(min, zip(*[[timer.timeit(1) for timer in timers] for _ in range(12)], strict=True))
    return fp32 / bf16


def padding_multiple(training_args: TrainingArguments) -> int | None:
    """Batches are padded to a multiple of this many tokens: 8 where tensor cores want it, else no more than needed.

    64 for `--torch_compile`, which compiles each shape anew: up to 512 tokens there are then eight. Not tried on a GPU.
    """
    if training_args.torch_compile:
        return 64
    return 8 if training_args.device.type == "cuda" else None


def precision_name(training_args: TrainingArguments) -> str:
    return "bf16" if training_args.bf16 else "fp16" if training_args.fp16 else "fp32"


def resolve_packing(args: Any, training_args: TrainingArguments) -> bool:
    """Whether the encoder is to compute no padding (`common/packing.py`): by flag, else on a CPU.

    Raises:
        InputError: the flag beside another that excludes it.
    """
    has_other_attention = bool(args.attn_implementation or training_args.torch_compile)
    if args.packing and has_other_attention:
        raise InputError("--packing true brings its own attention; drop --attn_implementation and --torch_compile")
    if args.packing is None:
        return training_args.device.type == "cpu" and not has_other_attention
    return args.packing


# The Trainer


class RecipeTrainer(Trainer):
    """`Trainer` whose several processes share the batches of one, whose numbers stay finite, and with one line where
    memory runs out.

    Args:
        flags: the recipe's own arguments, for early stopping, and to warn of those that the loss does not follow.

    Attributes:
        useful_tokens: tokens trained on in this process since it started, padding not counted; after `train` those of
            all processes.
    """

    useful_tokens: torch.Tensor | int = 0

    def __init__(self, *args: Any, flags: Any = None, **kwargs: Any):
        try:
            super().__init__(*args, **kwargs)
        except ValueError as error:  # flags that exclude each other
            raise InputError(" ".join(str(error).split())) from error
        self.flags = flags
        self.add_callback(FiniteNumbers())
        loss = self.compute_loss_func
        if loss is not None and "num_items_in_batch" not in inspect.signature(loss).parameters:
            self.compute_loss_func = mean_over_step(loss, self.args)
        if self.args.disable_tqdm:
            self.remove_callback(transformers.PrinterCallback)
            self.add_callback(LogLines())
        patience = getattr(flags, "early_stopping_patience", None)
        if patience is not None:
            self.add_callback(transformers.EarlyStoppingCallback(early_stopping_patience=patience))
        weights, smoothing = getattr(flags, "class_weights", None), self.args.label_smoothing_factor
        for name, value in (("class_weights", weights), ("label_smoothing_factor", smoothing)):
            if value and name not in getattr(self.compute_loss_func, "follows", ()):
                log.warning("Warning: --%s %s has no effect: the loss of this recipe does not follow it.", name, value)

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """The stock one, its groups divided by learning rate where flags ask for several."""
        optimizer = super().create_optimizer(*args, **kwargs)
        decay, head_rate = (getattr(self.flags, name, None) for name in ("layer_decay", "head_learning_rate"))
        if decay is None and head_rate is None:
            return optimizer
        rate_of = rates(self.model, self.args.learning_rate, 1.0 if decay is None else decay, head_rate)
        groups = {}
        for i, group in enumerate(optimizer.param_groups):
            for parameter in group["params"]:
                rate = rate_of[parameter]
                groups.setdefault((i, rate), group | {"params": [], "lr": rate})["params"].append(parameter)
        # The Trainer logs the rate of the first group.
        optimizer.param_groups[:] = sorted(groups.values(), key=lambda group: group["lr"] != self.args.learning_rate)
        return optimizer

    def train(self, *args: Any, **kwargs: Any) -> Any:
        # Upstream all processes have one seed, and draw the same dropout masks for different examples.
        if self.args.process_index:
            torch.manual_seed(self.args.seed + self.args.process_index)
        result = super().train(*args, **kwargs)
        if self.args.load_best_model_at_end and self.state.best_model_checkpoint:
            best = Path(self.state.best_model_checkpoint).name
            log.info("Kept: %s, %s %.4f.", best, self.args.metric_for_best_model, self.state.best_metric)
        self.check_weights()
        self.useful_tokens = int(self.accelerator.reduce(torch.as_tensor(self.useful_tokens, device=self.args.device)))
        return result

    def is_local_process_zero(self) -> bool:
        return self.is_world_process_zero()  # one log and one progress bar, where upstream every machine has its own

    def get_train_dataloader(self) -> DataLoader:
        """The stock one; for several processes with `SharedBatches` of the order that one process has.

        Accelerate would fill an epoch's last batch with rows from its start, which then count twice.
        """
        args = self.args
        if args.world_size == 1 and not args.dataloader_drop_last:  # stock drops of a total batch what does not fill it
            return super().get_train_dataloader()
        dataset = self._remove_unused_columns(self.train_dataset, description="training")
        if args.dataloader_drop_last and len(dataset) < total_batch_size(args):
            raise InputError(
                f"--dataloader_drop_last: the {len(dataset)} training rows do not fill one batch of "
                f"{total_batch_size(args)}; leave it out, or take a smaller --per_device_train_batch_size"
            )
        if args.train_sampling_strategy == "sequential":
            order: Sampler = SequentialSampler(dataset)
        else:
            order = SeedableRandomSampler(dataset, data_seed=args.seed if args.data_seed is None else args.data_seed)
        flags = {name: value for name, value in vars(args).items() if name.startswith("dataloader_")}
        options = {name.removeprefix("dataloader_"): flags[name] for name in flags if name != "dataloader_drop_last"}
        loader = DataLoader(
            dataset,
            batch_sampler=SharedBatches(
                BatchSampler(order, total_batch_size(args), args.dataloader_drop_last),
                *(args.process_index, args.world_size, args.gradient_accumulation_steps),
            ),
            collate_fn=with_empty_batches(self.data_collator, dataset[0]),
            **options,
        )
        # Each process has its own batches already.
        return prepare_data_loader(loader, args.device, num_processes=1, process_index=0, put_on_device=True)

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        if "attention_mask" in inputs:
            self.useful_tokens += inputs["attention_mask"].sum()  # on the device, and read at the end
        remedy = "halve --per_device_train_batch_size and double --gradient_accumulation_steps (the same total batch)"
        with self.explained(remedy):
            return super().training_step(model, inputs, *args, **kwargs)

    def prediction_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        # A loss of your own may want these; unlike logits they differ in shape, and would fill the memory.
        kwargs["ignore_keys"] = ["past_key_values", "hidden_states", "attentions", *(kwargs.get("ignore_keys") or ())]
        with self.explained("halve --per_device_eval_batch_size"):
            return super().prediction_step(model, inputs, *args, **kwargs)

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Of a batch without rows (`with_empty_batches`) nothing, whatever the loss; every parameter takes part."""
        if not inputs.pop("is_empty", False):
            return super().compute_loss(model, inputs, *args, **kwargs)
        outputs = model(**{name: value for name, value in inputs.items() if name != "labels"})
        return sum(value.float().sum() for value in outputs.values() if isinstance(value, torch.Tensor)) * 0.0

    @contextlib.contextmanager
    def explained(self, remedy: str) -> Iterator[None]:
        """Exhausted memory, upstream a traceback of the allocator, as one line that says what helps."""
        try:
            yield
        except RuntimeError as error:
            exhausted = isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
            if not exhausted or self.args.auto_find_batch_size:
                raise
            raise InputError(f"out of memory; {remedy}, or take a shorter --max_seq_length") from None

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """The stock evaluation draws a random number, so that training after it depends on how often one evaluates,
        and a run resumed from a checkpoint saved just before an evaluation ends elsewhere."""
        self.check_weights()
        with torch.random.fork_rng(devices=[]):
            scores = super().evaluate(*args, **kwargs)
        best = f"eval_{(self.args.metric_for_best_model or 'loss').removeprefix('eval_')}"
        if self.args.load_best_model_at_end and best not in scores:
            names = ", ".join(name.removeprefix("eval_") for name in reported(scores) if name.startswith("eval_"))
            raise InputError(f"--metric_for_best_model {best.removeprefix('eval_')}: this run has {names}; name one")
        return scores

    def save_model(self, *args: Any, **kwargs: Any) -> None:
        self.check_weights()
        super().save_model(*args, **kwargs)

    def check_weights(self) -> None:
        """Before they are evaluated or saved, and after training."""
        if not torch.isfinite(nn.utils.get_total_norm(list(self.model.parameters()))):
            raise not_finite(f"the weights became NaN or infinite by step {self.state.global_step}", self.args)


class SharedBatches(BatchSampler):
    """What one of several processes computes of each total batch, every row once an epoch.

    Row i of a total batch goes to process i modulo their number, and its share is computed in `steps` batches. Where an
    epoch's last total batch leaves a process without a row, its batch is empty (`with_empty_batches`), because every
    process takes part in every step.

    >>> total = BatchSampler(range(5), 4, drop_last=False)
    >>> [list(SharedBatches(total, process, 2, 1)) for process in (0, 1)]
    [[[0, 2], [4]], [[1, 3], []]]
    """

    def __init__(self, total: BatchSampler, process_index: int, processes: int, steps: int):
        self.total = total
        self.process_index, self.processes = process_index, processes
        self.batch_size = total.batch_size // (processes * steps)
        self.drop_last = total.drop_last
        self.sampler = total.sampler  # under this name the data loader passes the epoch on

    def batches_of(self, rows: int) -> int:
        return -(-rows // (self.processes * self.batch_size))

    def __len__(self) -> int:
        full, rest = divmod(len(self.sampler), self.total.batch_size)
        return full * self.batches_of(self.total.batch_size) + (0 if self.drop_last else self.batches_of(rest))

    def __iter__(self) -> Iterator[list[int]]:
        for rows in self.total:
            share = rows[self.process_index :: self.processes]
            for i in range(self.batches_of(len(rows))):
                yield share[i * self.batch_size : (i + 1) * self.batch_size]


def with_empty_batches(collator: Callable, row: dict[str, Any]) -> Callable:
    """`collator`, which for a batch without rows gives `row`, marked as empty and with its labels ignored."""

    def collate(rows: list[dict[str, Any]]) -> Any:
        batch = collator(rows or [row])
        if not rows:
            batch["labels"], batch["is_empty"] = torch.full_like(batch["labels"], -100), True
        return batch

    return collate


class FiniteNumbers(TrainerCallback):
    """Stops a run whose numbers became NaN or infinite before anything is saved; upstream trains on and saves them.

    The Trainer sums the loss on the device at each step and reads it when the run logs. Weights that once became NaN
    stay so: `RecipeTrainer.check_weights` reads them. In fp16 the scaler skips steps whose gradient is not finite to
    find its factor, which starts at 2 ** 16; when it skips `SKIPPED_STEPS_AT_MOST` in a row, nothing is learned.
    """

    skipped_steps = 0

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **kwargs: Any) -> None:
        if "loss" not in logs or args.fp16:  # of an evaluation; or possibly of a step that was skipped
            return
        if not all(math.isfinite(logs.get(name, 0.0)) for name in ("loss", "grad_norm")):
            raise not_finite(f"loss or gradient became NaN or infinite by step {state.global_step}", args)

    def on_step_end(self, args: Any, state: Any, control: Any, optimizer: Any = None, **kwargs: Any) -> None:
        self.skipped_steps = self.skipped_steps + 1 if args.fp16 and optimizer.step_was_skipped else 0
        if self.skipped_steps >= SKIPPED_STEPS_AT_MOST:
            steps = f"in {self.skipped_steps} steps in a row, up to step {state.global_step}"
            raise not_finite(f"loss or gradient was NaN or infinite {steps}", args)


class LogLines(TrainerCallback):
    """What the Trainer logs, a line each with the time left, where there is no progress bar; the stock callback prints
    dictionaries whose numbers are text."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.began, self.first_step = time.monotonic(), state.global_step

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **kwargs: Any) -> None:
        numbers = {name: value for name, value in logs.items() if name not in ("epoch", "total_flos")}
        line = ", ".join(f"{name} {float(value):.4g}" for name, value in numbers.items())
        done, left = state.global_step - getattr(self, "first_step", 0), state.max_steps - state.global_step
        if done and left:
            line += f"; about {left * (time.monotonic() - self.began) / done / 60:.1f} min left"
        log.info("Step %d of %d: %s", state.global_step, state.max_steps, line)


def not_finite(what: str, args: TrainingArguments) -> InputError:
    remedies = ["a lower --learning_rate", "--warmup_steps 0.06"]
    remedies += ["--fp16 false"] if args.fp16 else ["--bf16 false"] if args.bf16 else []
    return InputError(
        f"{what} (--learning_rate {args.learning_rate:.2g}); what usually helps: {', '.join(remedies)}, with "
        "--overwrite true"
    )


def total_batch_size(training_args: TrainingArguments) -> int:
    """Examples per optimizer step over all devices and accumulation steps."""
    return training_args.train_batch_size * training_args.gradient_accumulation_steps * training_args.world_size


def mean_over_step(loss: Callable, args: TrainingArguments) -> Callable:
    """A loss of (outputs, labels) that is a mean over a batch, as the Trainer wants it: the parts of a step and the
    processes add up to the mean over the step, where upstream they would to so many times that."""

    def compute_loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
        parts = 1 if num_items_in_batch is None else args.gradient_accumulation_steps * args.world_size
        return loss(outputs, labels) / parts

    return compute_loss


def cross_entropy_loss(class_weights: torch.Tensor | None = None, label_smoothing: float = 0.0) -> Callable:
    """A `compute_loss_func` for `Trainer`: cross entropy averaged over the labels of the whole optimizer step.

    BERT's, RoBERTa's, ELECTRA's and ALBERT's heads for sequences and tokens take `num_items_in_batch` and ignore it,
    while the Trainer takes their loss for already averaged: with 4 accumulation steps or 4 processes loss and gradient
    come out 4 times too large. Here the sum is divided by the count that the Trainer gathered, in fp32.

    Args:
        class_weights: one factor per class, shape (classes,); an example's loss is multiplied by its class's.
        label_smoothing: share of the target spread evenly over the classes; the Trainer's own smoothing is not
            applied where a loss function is given.
    """

    def compute_loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
        logits = outputs["logits"].float()
        total = nn.functional.cross_entropy(
            logits.reshape(-1, logits.shape[-1]),
            labels.reshape(-1),
            weight=None if class_weights is None else class_weights.to(logits.device),
            reduction="sum",
            label_smoothing=label_smoothing,
        )
        count = (labels != -100).sum() if num_items_in_batch is None else num_items_in_batch
        return total / torch.as_tensor(count, device=total.device).clamp(min=1)

    compute_loss.follows = ("class_weights", "label_smoothing_factor")
    return compute_loss


def label_loss(
    label_list: Sequence[str] | None, class_weights: torch.Tensor | None, label_smoothing: float, several: bool = False
) -> Callable:
    """`cross_entropy_loss`; where a row may have several labels the mean binary cross entropy over rows and labels;
    where a score is learned (`label_list` is None) the mean squared error."""

    def mean_squared_error(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
        known = labels != -100  # as everywhere; a score of just that is refused
        total = (outputs["logits"].float().squeeze(-1) - labels.float())[known].square().sum()
        return total / (labels.numel() if num_items_in_batch is None else num_items_in_batch)

    def binary_cross_entropy(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
        logits = outputs["logits"].float()
        weights = None if class_weights is None else class_weights.to(logits.device)
        total = nn.functional.binary_cross_entropy_with_logits(logits, labels, pos_weight=weights, reduction="sum")
        return total / (labels.numel() if num_items_in_batch is None else num_items_in_batch)

    binary_cross_entropy.follows = ("class_weights",)
    if several:
        return binary_cross_entropy
    return mean_squared_error if label_list is None else cross_entropy_loss(class_weights, label_smoothing)


def span_loss(label_smoothing: float) -> Callable:
    """A `compute_loss_func` for question answering: mean cross entropy of the answer's first and its last position.

    The models' own loss takes a mean of means where accumulated batches are unequal. Labels have the shape (windows,
    2); the Trainer counts both, so the sum over its count is the mean.

    Raises:
        InputError: label smoothing, which the stock Trainer ignores here; spread over positions, padding among them,
            it would make a window's loss depend on what shares its batch.
    """
    if label_smoothing:
        raise InputError(f"--label_smoothing_factor {label_smoothing}: has no meaning for positions in a text; drop it")

    def compute_loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
        total = sum(
            nn.functional.cross_entropy(logits.float(), positions, reduction="sum")
            for logits, positions in zip(
                (outputs["start_logits"], outputs["end_logits"]), labels.unbind(1), strict=True
            )
        )
        count = (labels != -100).sum() if num_items_in_batch is None else num_items_in_batch
        return total / max(count, 1)

    return compute_loss


def balanced_class_weights(asked: str | None, features: Any, label_list: Sequence[str] | None) -> torch.Tensor | None:
    """For `--class_weights balanced`: scikit-learn's weights, rows / (classes x rows of the class); printed.

    Their mean over the training rows is 1, so the loss keeps its scale and the learning rate its meaning. Where a row
    may have several labels, how many times more rows lack a label than have it (`pos_weight`).
    """
    if asked is None or "train" not in features:
        return None
    if asked != "balanced" or label_list is None:
        raise InputError(f"--class_weights {asked}: must be balanced, and labels must be classes")
    from sklearn.utils.class_weight import compute_class_weight

    labels = np.asarray(features["train"]["labels"][:])
    weights = torch.ones(len(label_list))
    if labels.ndim == 2:
        weights[:] = torch.tensor((len(labels) - labels.sum(0)).clip(min=1) / labels.sum(0).clip(min=1))
    else:
        present = np.unique(labels)  # scikit-learn wants each class to occur
        weights[present] = torch.tensor(compute_class_weight("balanced", classes=present, y=labels), dtype=torch.float)
    log.info("Class weights: %s.", ", ".join(f"{n} {w:.3f}" for n, w in zip(label_list, weights, strict=True)))
    return weights


def token_predictions(
    logits: torch.Tensor, labels: torch.Tensor | None, temperature: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """For `preprocess_logits_for_metrics`: label ids and their probabilities, (rows, tokens) each. Only these travel to
    the host, not the logits."""
    probabilities, ids = (logits.float() / temperature).softmax(dim=-1).max(dim=-1)
    return ids, probabilities


def token_log_probabilities(
    logits: torch.Tensor, labels: torch.Tensor | None, temperature: float = 1.0
) -> torch.Tensor:
    """Likewise those of all labels, (rows, tokens, labels), for a decoder that weighs them against each other."""
    return (logits.float() / temperature).log_softmax(dim=-1)


def token_temperature(trainer: Trainer, features: Any) -> float:
    """As `common.thresholds.fit_temperature` for labels of tokens, which takes a pass over `features` more: of
    `TEMPERATURES` the one with which the right labels are likeliest; printed."""

    def likelihoods(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        each = [
            nn.functional.cross_entropy(logits.float().mT / temperature, labels, reduction="none").sum(dim=1)
            for temperature in TEMPERATURES
        ]
        return torch.stack(each, dim=1)  # (rows, temperatures)

    kept = trainer.compute_metrics, trainer.preprocess_logits_for_metrics
    trainer.compute_metrics, trainer.preprocess_logits_for_metrics = None, likelihoods
    losses = trainer.predict(features).predictions.sum(axis=0)
    trainer.compute_metrics, trainer.preprocess_logits_for_metrics = kept
    return within_limits(float(TEMPERATURES[losses.argmin()]))


# The model


def head_config(label_list: Sequence[str] | None, several: bool = False) -> dict[str, Any]:
    """Config entries of a sequence classification head: label names, of which a row has one or `several`, or one output
    for a score."""
    if label_list is None:
        return {"num_labels": 1, "problem_type": "regression"}
    return {
        "id2label": dict(enumerate(label_list)),
        "label2id": {label: i for i, label in enumerate(label_list)},
        "problem_type": f"{'multi' if several else 'single'}_label_classification",
    }


def load_model(model_class: Any, name: str, args: Any, training_args: TrainingArguments, **config: Any) -> Any:
    """A model with fp32 weights from safetensors alone, its encoder packed where that is possible, or the one-line
    error.

    Args:
        model_class: one of transformers' Auto classes, or a class of your own.
        name: on the Hub, or a local folder.
        args: a recipe's arguments; `attn_implementation`, `packing` and `new_head` are read.
        config: entries of the model's config, for instance `id2label`.

    Raises:
        InputError: no such model, weights in pickle only, a head of another shape, or an encoder without weights.
    """
    is_packed = resolve_packing(args, training_args)
    # On a CPU PyTorch's sdpa has no fused kernel with dropout, and trains slower than plain matrix products. None takes
    # sdpa where the model has it; DeBERTa and MPNet, which have not, refuse to load when asked for it.
    attention = args.attn_implementation or ("eager" if training_args.device.type == "cpu" else None)
    new_head = getattr(args, "new_head", False) and name == args.model_name_or_path  # and not what it became
    options = {"attn_implementation": attention, "ignore_mismatched_sizes": new_head}
    model, missing = read_weights(model_class, name, **options, **config)
    if new_head:  # whatever the file held under the names of this one
        fresh = type(model)(model.config).state_dict()
        encoder = f"{model.base_model_prefix}."
        head = {key: value for key, value in fresh.items() if not key.startswith(encoder)}
        model.load_state_dict(head, strict=False)
        missing = sorted({*missing, *head})
    if is_packed and pack(model):
        log.info("Packing: the encoder computes no padding (--packing false: it does).")
    else:
        log.info("Attention: %s.", model.config._attn_implementation)
        if is_packed:
            log.info("Packing: not possible for %s; batches are padded to their longest row.", model.config.model_type)
    replace_dropout(model)
    model.register_forward_hook(ignore_padding, with_kwargs=True)
    # A new head is what fine-tuning starts from; an encoder that silently stays random is not.
    refuse_missing(name, [key for key in missing if key.startswith(f"{model.base_model_prefix}.")])
    if not training_args.do_train:
        refuse_missing(name, missing)
    if missing:
        log.info("New, to be trained: %s.", ", ".join(missing))
    return model


def read_weights(model_class: Any, name: str, **options: Any) -> tuple[Any, list[str]]:
    """A model in fp32, and the parameters that its file lacks; a pooler is not missed, for no head but its own needs it
    trained."""
    with hub_errors("model", name):
        model, report = model_class.from_pretrained(
            name, dtype=torch.float32, use_safetensors=True, output_loading_info=True, **options
        )
    return model, sorted(key for key in report["missing_keys"] if ".pooler." not in key)


def refuse_missing(name: str, missing: Sequence[str]) -> None:
    if missing:
        raise InputError(
            f"{name}: its weights lack {missing[0]} and {len(missing) - 1} more; is it this kind of model?"
        )


def ignore_padding(model: nn.Module, args: Any, inputs: dict[str, torch.Tensor], outputs: Any) -> None:
    """A forward hook: where a model marks spans, none begins or ends in padding.

    The models leave those positions in the softmax, and a window's loss then depends on the longest in its batch.
    """
    for name in ("start_logits", "end_logits"):
        if name in outputs:
            outputs[name] = outputs[name].masked_fill(
                inputs["attention_mask"] == 0, torch.finfo(outputs[name].dtype).min
            )


def settings_of(name: str) -> dict[str, Any]:
    """`recipe_settings` of a trained model; and whether it gives a row `several` labels, which nothing of the data says
    where each row has one, or a score (`regression`)."""
    with hub_errors("model", name):
        config = AutoConfig.from_pretrained(name)
    kinds = {"several": "multi_label_classification", "regression": "regression"}
    return recipe_settings(config) | {name: config.problem_type == kind for name, kind in kinds.items()}


def model_label_list(name: str, labels: Sequence[str], is_trained: bool, new_head: bool = False) -> list[str] | None:
    """The label names in the order of the model's head: its own where it has names, else `labels` as they are.

    A model already fine-tuned keeps its order, so that no label silently changes its meaning. None for a trained
    model that gives a score.

    Args:
        name: the model, Hub name or local folder.
        labels: the labels of the data.
        is_trained: the model is to be used as it is, so it must have names.
        new_head: its head is not used, so the labels are those of the data.

    Raises:
        InputError: the data has labels that the model lacks, with both lists.
    """
    if new_head:
        return list(labels)
    with hub_errors("model", name):
        config = AutoConfig.from_pretrained(name)
    if is_trained and config.problem_type == "regression":
        return None
    own = [config.id2label[i] for i in sorted(config.id2label)]
    if all(re.fullmatch(r"LABEL_\d+", label) for label in own):
        if is_trained:
            raise InputError(f"{name}: has no label names, so it is not a trained model; train it first")
        return list(labels)
    # "ENTAILMENT" and "entailment" are one name, spelt as the data does.
    spelling = {label.casefold(): label for label in labels}
    named = [spelling.get(label.casefold(), label) for label in own]
    lacking = [label for label in labels if label not in named]
    if lacking:
        raise InputError(
            f"the data has labels that {name} lacks ({', '.join(lacking)}): data {list(labels)}, model {own}; "
            "rename the data's labels, or keep only its encoder with --new_head true"
        )
    return named


def freeze(model: Any, what: str | None) -> None:
    """Exclude parameters from training, and say what share trains.

    Args:
        what: None trains all; "encoder" trains the head alone (BERT as a feature extractor); "embeddings" keeps those;
            a number N keeps the embeddings and the first N layers.

    Raises:
        InputError: another word, or more layers than there are.
    """
    embeddings, layers = embeddings_and_layers(model)
    if what is None:
        frozen = []
    elif what == "encoder":
        frozen = [model.base_model]
    elif what == "embeddings" or (what.isdecimal() and int(what) <= len(layers)):
        frozen = [*embeddings, *(layers[: int(what)] if what.isdecimal() else [])]
    else:
        raise InputError(f"--freeze {what}: must be encoder, embeddings or a number of layers from 0 to {len(layers)}")
    for module in frozen:
        module.requires_grad_(False)
    total = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    log.info("Trained parameters: %.1f of %.1f million (%.1f %%).", trained / 1e6, total / 1e6, 100 * trained / total)


def embeddings_and_layers(model: Any) -> tuple[list[nn.Module], Sequence[nn.Module]]:
    """The modules of an encoder below its layers, and the layers from the lowest to the highest."""
    encoder = model.base_model
    layers = next((module for module in encoder.modules() if isinstance(module, nn.ModuleList)), [])
    return [module for name, module in encoder.named_children() if "embed" in name], layers


def rates(model: Any, rate: float, layer_decay: float, head_rate: float | None) -> dict[nn.Parameter, float]:
    """The learning rate of each parameter: of the highest layer `rate`, of each layer below `layer_decay` times that of
    the one above it, of the embeddings once more (Clark et al. 2020, ELECTRA, appendix B); `head_rate` of the head.
    """
    embeddings, layers = embeddings_and_layers(model)
    rate_of = dict.fromkeys(model.parameters(), rate if head_rate is None else head_rate)
    rate_of |= dict.fromkeys(model.base_model.parameters(), rate)
    for depth, modules in enumerate([*([layer] for layer in reversed(layers)), embeddings]):
        for module in modules:
            rate_of |= dict.fromkeys(module.parameters(), rate * layer_decay**depth)
    return rate_of


def load_for_prediction(model_class: Any, name: str) -> Any:
    """A trained model on the device that Accelerate finds, packed on a CPU.

    Raises:
        InputError: weights are missing, of the head as well.
    """
    transformers.utils.logging.disable_progress_bar()  # its bar for reading weights takes less than a second
    accelerator = Accelerator()
    model, missing = read_weights(model_class, name)
    refuse_missing(name, missing)
    if accelerator.device.type == "cpu":
        pack(model)
    return accelerator.prepare_model(model.eval(), evaluation_mode=True)


def compute_logits(model: Any, features: dict[str, list], collator: Any, batch_size: int) -> list[Any]:
    """The logits of each row of `features` in the order given.

    Args:
        features: columns, those of the model's inputs among them.
        collator: pads a list of rows; rows come back cut to their own length.

    Returns:
        One array per row: (tokens, labels), or (labels,) for a model that gives one answer per row; for one that
        marks the start and the end of a span (tokens, 2).
    """
    read = [key for key in inspect.signature(model.forward).parameters if key in features and key != "labels"]
    rows = [dict(zip(read, values, strict=True)) for values in zip(*(features[key] for key in read), strict=True)]
    logits: list[Any] = []
    for start in range(0, len(rows), batch_size):
        chosen = rows[start : start + batch_size]
        batch = collator(chosen).to(model.device)
        with torch.inference_mode():
            outputs = model(**batch)
        if "start_logits" in outputs:
            computed = torch.stack([outputs["start_logits"], outputs["end_logits"]], dim=-1)
        else:
            computed = outputs["logits"]
        for row, values in zip(chosen, computed.float().cpu().numpy(), strict=True):
            logits.append(values[: len(row["input_ids"])] if values.ndim == 2 else values)
    return logits


def load_tokenizer(name: str, is_split_into_words: bool = False) -> Any:
    """The fast tokenizer of a model, Hub name or local folder.

    Args:
        is_split_into_words: it will be given lists of words; byte-level tokenizers (RoBERTa, ModernBERT) then need
            `add_prefix_space`, without which a word inside a sentence gets the pieces of one at its start.

    Raises:
        InputError: no such model, no tokenizer beside it, or none of the fast kind, which alone knows offsets.
    """
    from tokenizers import pre_tokenizers

    vocabularies = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model")
    if os.path.isdir(name) and not any(any(Path(name).glob(pattern)) for pattern in vocabularies):
        # transformers would build a tokenizer with an empty vocabulary from the config, and read every word as unknown.
        raise InputError(f"{name}: holds no tokenizer (tokenizer.json); copy it from the model that this one came from")
    with hub_errors("tokenizer", name):
        tokenizer = AutoTokenizer.from_pretrained(name, **({"add_prefix_space": True} if is_split_into_words else {}))
    if not getattr(tokenizer, "is_fast", False) or tokenizer.pad_token is None:
        raise InputError(
            f"{name}: its tokenizer ({type(tokenizer).__name__}) is not a fast one with a padding token, which "
            "windows of words need; choose an encoder of BERT's kind that has tokenizer.json"
        )
    if is_split_into_words:
        # A tokenizer without a class of its own (ModernBERT's) passes the flag over; it is saved with the backend.
        steps = tokenizer.backend_tokenizer.pre_tokenizer
        for step in steps if isinstance(steps, pre_tokenizers.Sequence) else [steps]:
            if isinstance(step, pre_tokenizers.ByteLevel):
                step.add_prefix_space = True
    tokenizer.padding_side = "right"  # what reads predictions counts positions from the left
    return tokenizer


def recipe_settings(config: Any) -> dict[str, Any]:
    """What a recipe wrote into its model's config for whoever predicts with it, `recipe`; of a model that is older than
    this key, the entries that stood there one by one.

    >>> recipe_settings(transformers.BertConfig(windows={"max_seq_length": 128}, texts_per_row=2))
    {'max_seq_length': 128, 'text_columns': ['text', 'text_pair']}
    """
    settings = getattr(config, "recipe", None)
    if settings:
        return dict(settings)
    settings = {**(getattr(config, "windows", None) or {}), **(getattr(config, "answer_limits", None) or {})}
    for name in ("version_2_with_negative", "null_threshold"):
        if hasattr(config, name):
            settings[name] = getattr(config, name)
    if hasattr(config, "texts_per_row"):
        settings["text_columns"] = ["text", "text_pair"][: config.texts_per_row]
    return settings


def resolve_lengths(
    tokenizer: Any, config: Any, max_seq_length: int | None, doc_stride: int | None, default: int = 512, parts: int = 4
) -> tuple[int, int]:
    """The window length and the overlap of windows, both in word pieces and within what the model can read.

    Args:
        config: the model's; what a recipe trained with goes before the defaults.
        max_seq_length: special tokens included; None takes `default`, or the model's own limit where that is less.
        doc_stride: pieces that two windows share; None takes one of so many `parts` of the window.

    Raises:
        InputError: a length beyond the model's limit, or windows that could not move on.
    """
    trained = recipe_settings(config) if max_seq_length is None else {}
    # Models without position embeddings say nothing; tokenizers without a limit say 1e30.
    positions = getattr(config, "max_position_embeddings", None) or 10**9
    # RoBERTa's positions start after the padding index: 514 embeddings read 512 pieces.
    if config.model_type in ("roberta", "xlm-roberta", "camembert", "mpnet", "longformer"):
        positions -= 2
    limit = int(min(tokenizer.model_max_length, positions))
    length = trained.get("max_seq_length", min(default, limit)) if max_seq_length is None else max_seq_length
    stride = trained.get("doc_stride", length // parts) if doc_stride is None else doc_stride
    room = length - tokenizer.num_special_tokens_to_add()
    if length > limit:
        raise InputError(f"--max_seq_length {length}: the model reads at most {limit} word pieces")
    if room < 1:
        raise InputError(f"--max_seq_length {length}: leaves no room for a word beside the special tokens")
    if not 0 <= stride < room:
        raise InputError(f"--doc_stride {stride}: must lie between 0 and {room - 1} with --max_seq_length {length}")
    return length, stride
