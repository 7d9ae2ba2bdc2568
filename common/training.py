"""What every recipe asks of the machine and of the Trainer: precision, attention, sampling, loss, frozen layers.

Each departure from the stock `Trainer` names the defect that it mends.
"""

import contextlib
import functools
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from accelerate.data_loader import prepare_data_loader
from torch import nn
from torch.utils.data import DataLoader, Sampler, SequentialSampler
from transformers import AutoModelForQuestionAnswering, Trainer, TrainingArguments
from transformers.trainer_utils import seed_worker

from common import cpu
from common.batches import TrainingBatches, TrainingOrder, split_by_length, with_empty_batches
from common.errors import InputError
from common.hub import hub_errors
from common.processes import told_by_main_process
from common.splits import column

log = logging.getLogger("recipes")
SKIPPED_STEPS_AT_MOST = 30  # the scaler halves its factor of 2 ** 16 at each


# The machine


def choose_precision(asked: Any) -> tuple[dict[str, Any], str]:
    """Values for `bf16`, `fp16`, `tf32` and `use_cpu` where the command line left them open, and the reason.

    bf16 where the hardware multiplies it fast: GPUs from Ampere on, CPUs on which it was measured just now
    (`cpu_bf16_speedup`). fp16 on older GPUs with tensor cores. Else fp32.
    """
    use_cpu = bool(asked.use_cpu) or not (torch.cuda.is_available() or torch.backends.mps.is_available())
    choice: dict[str, Any] = {"use_cpu": use_cpu, "bf16": bool(asked.bf16), "fp16": bool(asked.fp16)}
    cuda = torch.cuda.is_available() and not use_cpu
    if cuda and asked.tf32 is None and torch.cuda.get_device_capability() >= (8, 0):
        choice["tf32"] = True  # for what stays fp32; PyTorch leaves it off
    if asked.bf16 is not None or asked.fp16 is not None:
        return choice, "asked for by flag"
    if use_cpu:
        speedup = told_by_main_process("bf16 speedup", cpu.cpu_bf16_speedup)
        reason = f"this CPU multiplies bf16 {speedup:.1f} times as fast as fp32" if speedup else "this CPU has no bf16"
        # Autocast spends some of the gain on conversions; between the kinds of processor there is a wide gap.
        return choice | {"bf16": speedup > 1.5}, reason
    if cuda and torch.cuda.get_device_capability() >= (8, 0):
        return choice | {"bf16": True}, "this GPU has bf16 tensor cores"
    if cuda and torch.cuda.get_device_capability() >= (7, 0):
        return choice | {"fp16": True}, "this GPU has fp16 tensor cores and no bf16"
    return choice, "no faster one is known to be safe on this device"


def padding_multiple(training_args: TrainingArguments) -> int | None:
    """Batches are padded to a multiple of this many tokens: 8 where tensor cores want it, else no more than needed.

    64 for `--torch_compile`, which compiles each shape anew: up to 512 tokens there are then eight. Not tried on a GPU.
    """
    if training_args.torch_compile:
        return 64
    return 8 if training_args.device.type == "cuda" else None


def precision_name(training_args: TrainingArguments) -> str:
    return "bf16" if training_args.bf16 else "fp16" if training_args.fp16 else "fp32"


def choose_attention(training_args: TrainingArguments, asked: str | None = None) -> tuple[str | None, str]:
    """The attention implementation to load a model with, and the reason: `asked`, else eager on a CPU, else None.

    On a CPU PyTorch's `sdpa` has no fused kernel with dropout and trains slower than plain matrix products. With None
    the library takes sdpa where the model has it; asked for it, DeBERTa and MPNet, which have not, refuse to load.
    """
    if asked:
        return asked, "asked for by flag"
    if training_args.device.type == "cpu":
        return "eager", "with dropout on a CPU faster than sdpa, which has no fused kernel there"
    return None, "the fastest on this device that the model has"


# The Trainer


class RecipeTrainer(Trainer):
    """`Trainer` with an order of examples that resumes (`common/batches.py`), on a CPU with little padding and cheap
    dropout (`common/cpu.py`), and with one line where memory runs out, the disk is full or numbers are not finite.

    Every dataset needs a column `length`.
    """

    broken: torch.Tensor | None = None  # on the device: whether a loss or gradient since `sound_step` was not finite
    sound_step = 0
    skipped_steps = 0  # by the fp16 scaler, in a row

    def train(self, *args: Any, **kwargs: Any) -> Any:
        # Upstream all processes have one seed, and draw the same dropout masks for different examples.
        if self.args.process_index:
            torch.manual_seed(self.args.seed + self.args.process_index)
        return super().train(*args, **kwargs)

    def is_local_process_zero(self) -> bool:
        return self.is_world_process_zero()  # one log and one progress bar, where upstream every machine has its own

    def training_batches(self, process_index: int) -> TrainingBatches:
        args = self.args
        seed = args.data_seed if args.data_seed is not None else args.seed
        lengths = torch.tensor(self.train_dataset["length"][:])
        order = TrainingOrder(lengths, total_batch_size(args), seed, args.train_sampling_strategy == "group_by_length")
        steps = args.gradient_accumulation_steps
        return TrainingBatches(order, process_index, args.world_size, steps, args.dataloader_drop_last)

    def get_train_dataloader(self) -> DataLoader:
        """The stock one with `TrainingBatches`, which are a process's own already: Accelerate divides them no more."""
        args = self.args
        dataset = self._remove_unused_columns(self.train_dataset, description="training")
        workers = args.dataloader_num_workers
        loader = DataLoader(
            dataset,
            batch_sampler=self.training_batches(args.process_index),
            collate_fn=with_empty_batches(self.data_collator, dataset[0]),
            num_workers=workers,
            pin_memory=args.dataloader_pin_memory,
            persistent_workers=args.dataloader_persistent_workers,
            prefetch_factor=args.dataloader_prefetch_factor,
            multiprocessing_context=args.dataloader_multiprocessing_context,
            in_order=args.dataloader_in_order,
            worker_init_fn=functools.partial(seed_worker, num_workers=workers, rank=args.process_index),
        )
        return prepare_data_loader(
            loader, self.accelerator.device, num_processes=1, process_index=0, put_on_device=True
        )

    @property
    def splits_batches(self) -> bool:
        """On a CPU a batch is computed in parts of like length, which leaves loss and gradient as they are: sums over
        examples divided by the whole step's count. On a GPU a pass costs more than padding; where the model itself is
        divided, all processes must make as many passes."""
        return cpu.is_tuned() and not self.is_fsdp_enabled and self.compute_loss_func is not None

    def _get_num_items_in_batch(self, batch_samples: list, device: Any) -> Any:
        """What the sum of the losses of a step is divided by: the labels that as many examples have on average.

        Divided by its own count of labels, a batch of short sentences moves the weights as far as one of long ones,
        and where lengths are grouped each word of a short sentence counts several times a word of a long one. In
        random order all batches have about as many labels, and theirs are counted. Same for one label per example.
        """
        counted = super()._get_num_items_in_batch(batch_samples, device)
        grouped = self.model.training and self.args.train_sampling_strategy == "group_by_length"
        if counted is None or not grouped:
            return counted
        # A batch without rows has one whose labels are all ignored.
        examples = sum(len(batch["labels"]) * (batch["labels"] != -100).any() for batch in batch_samples)
        if self.args.world_size > 1:
            examples = self.accelerator.gather(examples.to(device)).sum()
        return examples.to(device) * self.labels_per_example

    @functools.cached_property
    def labels_per_example(self) -> float:
        """Labels that are trained on (not -100), mean over the training set."""
        counts = [int((np.asarray(row) != -100).sum()) for row in column(self.train_dataset, "labels")]
        return sum(counts) / len(counts)

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        loss, steps = 0.0, self.args.gradient_accumulation_steps
        *first, last = split_by_length(inputs) if self.splits_batches else [inputs]
        for part in [*first, last]:
            # Processes have different numbers of parts: gradients are averaged once, after the last.
            synchronization = contextlib.nullcontext() if part is last else self.accelerator.no_sync(model)
            with (
                self.explained(part, "--per_device_train_batch_size", steps),
                cpu.dropout_context(),
                synchronization,
            ):
                loss = loss + super().training_step(model, part, *args, **kwargs)
        return loss

    def prediction_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        with self.explained(inputs, "--per_device_eval_batch_size"):
            return super().prediction_step(model, inputs, *args, **kwargs)

    @contextlib.contextmanager
    def explained(self, inputs: dict[str, Any], flag: str, steps: int = 0) -> Iterator[None]:
        """Exhausted memory, upstream a traceback of the allocator, as one line that says what helps."""
        try:
            yield
        except RuntimeError as error:
            exhausted = isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
            if not exhausted or self.args.auto_find_batch_size:
                raise
            rows, length = inputs["input_ids"].shape
            size = getattr(self.args, flag.removeprefix("--"))
            remedy = "a shorter --max_seq_length"
            if size > 1:
                accumulation = f" --gradient_accumulation_steps {2 * steps} (the same effective batch)" if steps else ""
                remedy = f"{flag} {size // 2}{accumulation}, or {remedy}"
            raise InputError(
                f"out of memory with {rows} rows of {length} tokens on {self.args.device}; {remedy}"
            ) from None

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """The stock evaluation draws a random number, so that training after it depends on how often one evaluates,
        and a run resumed from a checkpoint saved just before an evaluation ends elsewhere."""
        with torch.random.fork_rng(devices=[]):
            return super().evaluate(*args, **kwargs)

    def _maybe_log_save_evaluate(self, tr_loss: torch.Tensor, grad_norm: Any, *args: Any, **kwargs: Any) -> None:
        """Called after every step. The stock Trainer trains on with NaN and saves it over what was good."""
        if self.args.fp16 and self.accelerator.optimizer_step_was_skipped:
            self.skipped_steps += 1  # the scaler's way of finding its factor; no weight was touched
            if self.skipped_steps >= SKIPPED_STEPS_AT_MOST:
                self.refuse_to_go_on(f"in {self.skipped_steps} steps in a row up to")
        else:
            self.skipped_steps = 0
            values = grad_norm if self.args.fp16 else tr_loss + grad_norm  # a skipped step may have left tr_loss NaN
            broken = ~torch.isfinite(torch.as_tensor(values, device=tr_loss.device))
            self.broken = broken if self.broken is None else self.broken | broken
        control = self.control
        if self.args.device.type == "cpu" or control.should_log or control.should_evaluate or control.should_save:
            self.check_finite()
        super()._maybe_log_save_evaluate(tr_loss, grad_norm, *args, **kwargs)

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        with whole_or_absent(Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"):
            super()._save_checkpoint(*args, **kwargs)

    def save_model(self, output_dir: str | None = None, *args: Any, **kwargs: Any) -> None:
        self.check_finite()
        if not torch.isfinite(nn.utils.get_total_norm(list(self.model.parameters()))):
            self.refuse_to_go_on("in the weights after")
        with whole_or_absent(Path(output_dir or self.args.output_dir)):
            super().save_model(output_dir, *args, **kwargs)

    def check_finite(self) -> None:
        """Read the flag, which on a GPU waits for all that was launched, so at logs and saves alone."""
        if self.broken is not None and self.broken.item():
            first, last = self.sound_step + 1, self.state.global_step
            self.refuse_to_go_on("at" if first >= last else f"between step {first} and")
        self.sound_step, self.broken = self.state.global_step, None

    def refuse_to_go_on(self, when: str) -> None:
        """
        Raises:
            InputError: with the step, its rate, on a CPU its examples, and the advice that usually helps.
        """
        step = self.state.global_step
        examples = ""
        if self.args.device.type == "cpu" and when == "at":
            sampler, batch = self.training_batches(0).sampler, total_batch_size(self.args)
            epoch, step_of_epoch = divmod(step - 1, -(-len(self.train_dataset) // batch))
            sampler.set_epoch(epoch)
            order = list(sampler)[step_of_epoch * batch : (step_of_epoch + 1) * batch]
            column = "sentence" if "sentence" in self.train_dataset.column_names else "row"
            rows = sorted({row + 1 for row in self.train_dataset[order][column]})
            examples = f", rows {', '.join(map(str, rows))} of train"
        remedies = ["a lower --learning_rate", "--warmup_steps 0.06"]
        remedies += ["--fp16 false"] if self.args.fp16 else ["--bf16 false"] if self.args.bf16 else []
        rate = self._get_learning_rate() if self.lr_scheduler else self.args.learning_rate
        raise InputError(
            f"loss or gradient is no finite number {when} step {step} (learning rate {rate:.2g}"
            f"{examples}); what usually helps: {', '.join(remedies)}, with --overwrite true"
        )

    def _get_eval_sampler(self, eval_dataset: Any) -> Sampler:
        # The stock sampler groups evaluation rows too, so that predictions[i] does not belong to row i.
        return SequentialSampler(eval_dataset)


@contextlib.contextmanager
def whole_or_absent(folder: Path) -> Iterator[None]:
    """While a folder is written: where the disk is full, which each library says in its own way or not at all, what
    was begun is removed and one line says so."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        place = folder if folder.exists() else folder.parent
        if "No space left" not in str(error) and shutil.disk_usage(place).free > 2**20:
            raise
        shutil.rmtree(folder, ignore_errors=True)
        raise InputError(f"{folder}: no space left on the device; free some and repeat the command") from error


def early_stopping(patience: int | None) -> list[Any]:
    """The callback for `--early_stopping_patience`, in evaluations without a better score; none where it is None."""
    return [] if patience is None else [transformers.EarlyStoppingCallback(early_stopping_patience=patience)]


def total_batch_size(training_args: TrainingArguments) -> int:
    """Examples per optimizer step over all devices and accumulation steps."""
    return training_args.train_batch_size * training_args.gradient_accumulation_steps * training_args.world_size


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

    return compute_loss


def label_loss(
    label_list: Sequence[str] | None, class_weights: torch.Tensor | None, label_smoothing: float
) -> Callable:
    """`cross_entropy_loss`, or the mean squared error where a score is learnt (`label_list` is None)."""

    def mean_squared_error(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
        known = labels != -100  # as everywhere; a score of just that is refused
        total = (outputs["logits"].float().squeeze(-1) - labels.float())[known].square().sum()
        return total / (labels.numel() if num_items_in_batch is None else num_items_in_batch)

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
        return total / (labels.numel() if num_items_in_batch is None else num_items_in_batch)

    return compute_loss


def balanced_class_weights(asked: str | None, features: Any, label_list: Sequence[str] | None) -> torch.Tensor | None:
    """For `--class_weights balanced`: scikit-learn's weights, rows / (classes x rows of the class); printed.

    Their mean over the training rows is 1, so the loss keeps its scale and the learning rate its meaning.
    """
    if asked is None or "train" not in features:
        return None
    if asked != "balanced" or label_list is None:
        raise InputError(f"--class_weights {asked}: must be balanced, and labels must be classes")
    counts = torch.bincount(torch.tensor(features["train"]["labels"][:]), minlength=len(label_list))
    weights = counts.sum() / (len(label_list) * counts.clamp(min=1))
    log.info("Class weights: %s.", ", ".join(f"{n} {w:.3f}" for n, w in zip(label_list, weights, strict=True)))
    return weights


def mean_loss(predictions: Any, labels: Any) -> float:
    """Mean cross entropy of logits (rows, classes), or mean squared error of scores (rows, 1), over all rows."""
    logits, labels = torch.as_tensor(predictions).float(), torch.as_tensor(labels)
    if logits.shape[-1] == 1:
        return (logits.squeeze(-1) - labels).square().mean().item()
    return nn.functional.cross_entropy(logits, labels).item()


def mean_span_loss(prediction: Any) -> float:
    """`span_loss` of `predict`'s start and end logits (windows, positions), over all windows and not batch by batch."""
    logits, labels = (tuple(map(torch.as_tensor, value)) for value in (prediction.predictions, prediction.label_ids.T))
    return sum(nn.functional.cross_entropy(*pair).item() for pair in zip(logits, labels, strict=True)) / 2


def token_predictions(logits: torch.Tensor, labels: torch.Tensor | None) -> Any:
    """For `preprocess_logits_for_metrics`: label ids (rows, tokens), and with labels the summed loss of each row.

    Only these travel to the host, not the logits; and the mean over all labels comes out the same however the rows
    were put into batches, where the Trainer's own `eval_loss` is a mean of batch means.
    """
    label_ids = logits.argmax(dim=-1)
    if labels is None:
        return label_ids
    loss = nn.functional.cross_entropy(logits.float().transpose(1, 2), labels, reduction="none").sum(dim=1)
    return label_ids, loss


# The model


def head_config(label_list: Sequence[str] | None) -> dict[str, Any]:
    """Config entries of a sequence classification head: label names, or one output for a score."""
    if label_list is None:
        return {"num_labels": 1, "problem_type": "regression"}
    return {
        "id2label": dict(enumerate(label_list)),
        "label2id": {label: i for i, label in enumerate(label_list)},
        "problem_type": "single_label_classification",
    }


def load_model(auto_class: Any, args: Any, training_args: TrainingArguments, **config: Any) -> Any:
    """`auto_class.from_pretrained` with fp32 weights from safetensors alone, or the one-line error.

    Args:
        args: a recipe's arguments; `model_name_or_path` and `attn_implementation` are read.
        config: entries of the model's config, for instance `id2label`.

    Raises:
        InputError: no such model, weights in pickle only, a head of another shape, or an encoder without weights.
    """
    name = args.model_name_or_path
    if os.path.isdir(name) and not any(Path(name).glob("*.safetensors")):
        raise InputError(f"{name}: holds no *.safetensors weights, and pickled ones are not read; convert them first")
    attention, reason = choose_attention(training_args, args.attn_implementation)
    with hub_errors("model", name):
        model, report = auto_class.from_pretrained(
            name,
            dtype=torch.float32,
            use_safetensors=True,
            attn_implementation=attention,
            output_loading_info=True,
            **config,
        )
    log.info("Attention %s: %s.", model.config._attn_implementation, reason)
    if auto_class is AutoModelForQuestionAnswering:
        model.register_forward_hook(ignore_padding, with_kwargs=True)
    # A new head is what fine-tuning starts from; an encoder that silently stays random is not.
    missing = [key for key in report["missing_keys"] if key.startswith(f"{model.base_model_prefix}.")]
    missing = [key for key in missing if ".pooler." not in key]
    if missing:
        raise InputError(
            f"{name}: its weights lack {missing[0]} and {len(missing) - 1} more; is it this kind of model?"
        )
    if report["missing_keys"]:
        log.info("New, to be trained: %s.", ", ".join(sorted(report["missing_keys"])))
    return model


def ignore_padding(model: nn.Module, args: Any, inputs: dict[str, torch.Tensor], outputs: Any) -> None:
    """A forward hook for question answering: no answer begins or ends in padding.

    The models leave those positions in the softmax, and a window's loss then depends on the longest in its batch.
    """
    padding = inputs["attention_mask"] == 0
    for name in ("start_logits", "end_logits"):
        outputs[name] = outputs[name].masked_fill(padding, torch.finfo(outputs[name].dtype).min)


def model_label_list(name: str, labels: Sequence[str], is_trained: bool) -> list[str] | None:
    """The label names in the order of the model's head: its own where it has names, else `labels` as they are.

    A model already fine-tuned keeps its order, so that no label silently changes its meaning. None for a trained
    model that gives a score.

    Args:
        name: the model, Hub name or local folder.
        labels: the labels of the data.
        is_trained: the model is to be used as it is, so it must have names.

    Raises:
        InputError: the data has labels that the model lacks, with both lists.
    """
    from transformers import AutoConfig

    with hub_errors("model", name):
        config = AutoConfig.from_pretrained(name)
    if is_trained and config.problem_type == "regression":
        return None
    own = [config.id2label[i] for i in sorted(config.id2label)]
    if all(re.fullmatch(r"LABEL_\d+", label) for label in own):
        if is_trained:
            raise InputError(f"{name}: has no label names, so it is no trained model; train it first")
        return list(labels)
    # "ENTAILMENT" and "entailment" are one name, spelt as the data does.
    spelling = {label.casefold(): label for label in labels}
    named = [spelling.get(label.casefold(), label) for label in own]
    lacking = [label for label in labels if label not in named]
    if lacking:
        raise InputError(
            f"the data has labels that {name} lacks ({', '.join(lacking)}): data {list(labels)}, model {own}; "
            "rename the data's labels, or start from a model without a trained head"
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
    encoder = model.base_model
    layers = next((m for m in encoder.modules() if isinstance(m, nn.ModuleList)), [])
    if what is not None and what not in ("encoder", "embeddings") and not (what.isdigit() and int(what) <= len(layers)):
        raise InputError(f"--freeze {what}: must be encoder, embeddings or a number of layers from 0 to {len(layers)}")
    if what == "encoder":
        frozen = [encoder]
    elif what is not None:
        embeddings = [module for name, module in encoder.named_children() if "embed" in name]
        frozen = [*embeddings, *(layers[: int(what)] if what.isdigit() else [])]
    else:
        frozen = []
    for module in frozen:
        module.requires_grad_(False)
    total = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    log.info("Trained parameters: %.1f of %.1f million (%.1f %%).", trained / 1e6, total / 1e6, 100 * trained / total)


def compute_logits(auto_class: Any, name: str, features: dict[str, list], collator: Any, batch_size: int) -> list[Any]:
    """The logits of each row of `features` in the order given, computed in batches of like length.

    Args:
        features: columns, those of the model's inputs among them.
        collator: pads a list of rows; rows come back cut to their own length.

    Returns:
        One array per row: (tokens, labels), or (labels,) for a model that gives one answer per row; for one that
        marks the start and the end of a span (tokens, 2).
    """
    import inspect

    from accelerate import Accelerator
    from tqdm.auto import tqdm

    transformers.utils.logging.disable_progress_bar()  # its bar for reading weights takes less than a second
    accelerator = Accelerator()
    with hub_errors("model", name):
        model = auto_class.from_pretrained(name, dtype=torch.float32, use_safetensors=True)
    model = accelerator.prepare_model(model.eval(), evaluation_mode=True)
    read = [key for key in inspect.signature(model.forward).parameters if key in features and key != "labels"]
    rows = [dict(zip(read, values, strict=True)) for values in zip(*(features[key] for key in read), strict=True)]
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i]["input_ids"]))
    logits: list[Any] = [None] * len(rows)
    bar = tqdm(total=len(rows), desc="Predicting", unit="window", delay=1)
    for start in range(0, len(rows), batch_size):
        chosen = order[start : start + batch_size]
        batch = collator([rows[i] for i in chosen]).to(accelerator.device)
        with torch.inference_mode():
            outputs = model(**batch)
        if "start_logits" in outputs:
            computed = torch.stack([outputs["start_logits"], outputs["end_logits"]], dim=-1)
        else:
            computed = outputs["logits"]
        for i, row in zip(chosen, computed.float().cpu().numpy(), strict=True):
            logits[i] = row[: len(rows[i]["input_ids"])] if row.ndim == 2 else row
        bar.update(len(chosen))
    bar.close()
    return logits
