"""A run's folder: who owns it, what it was made with, where it resumes, and how its results are put in place.

Repeating a command is always safe: a finished run reports its scores, an unfinished one resumes from its newest
complete checkpoint, and a folder that another run owns is refused.
"""

import dataclasses
import json
import logging
import os
import re
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import TrainerCallback, TrainingArguments
from transformers.trainer_utils import rotate_checkpoints, sort_checkpoints

from common.data import code_digest, content_fingerprint, file_digest
from common.errors import InputError, from_main_process, is_main_process, world_size
from common.training import precision_name, total_batch_size

log = logging.getLogger("recipes")
RUN_FILE, RESULTS_FILE, COMPLETE, LOCK = "run.json", "all_results.json", "complete.json", ".lock"
STAGING = ".saving"
WEIGHTS = r"model(-\d+-of-\d+)?\.safetensors(\.index\.json)?"
OUTPUTS = f"""
    {RUN_FILE} {RESULTS_FILE} predictions.jsonl predictions.conll predictions.json nbest_predictions.json
    null_odds.json README.md trainer_state.json report.html config.json tokenizer.json tokenizer_config.json
    special_tokens_map.json vocab.txt
""".split()
# Arguments that cannot change the result: by name, or by how the name starts. What is not listed here is part of a
# run's identity, so a new flag is refused rather than overlooked. Files are known by their content instead.
NOT_IDENTITY = frozenset(
    """
    output_dir overwrite resume_from_checkpoint train_file validation_file test_file dataset_name
    validation_mismatched_file report_to run_name project push_to_hub per_device_eval_batch_size eval_accumulation_steps
    disable_tqdm debug local_rank use_cpu skip_memory_metrics include_num_input_tokens_seen
    torch_empty_cache_steps enable_jit_checkpoint restore_callback_states_from_checkpoint
    per_device_train_batch_size gradient_accumulation_steps save_total_limit save_on_each_node
    dataloader_num_workers dataloader_pin_memory dataloader_persistent_workers dataloader_prefetch_factor
    dataloader_in_order dataloader_multiprocessing_context
    """.split()  # noqa: SIM905
)
NOT_IDENTITY_PREFIXES = ("log", "hub_", "ddp_", "trackio_")


@dataclasses.dataclass
class Run:
    """A run and what `open_run` found in its output folder.

    Attributes:
        results: the scores of a finished run, else None.
        is_trained: training has ended and its model is in the folder, but it was not scored; it is now, without
            training.
        model: where the model comes from: that folder then, else what the run starts from.
        checkpoint: the folder to resume from, else None.
        callbacks: for the Trainer; they take possession of the folder when training begins, keep checkpoints complete
            and stop cleanly on a signal.
        is_replaced: the folder holds another run, or this one from its start, to be removed when this one begins.
        since: from when on its time is still to be counted, in seconds since the epoch: the process's start, later the
            end of training.
    """

    folder: Path
    record: dict[str, Any]
    model: str
    datasets: Any = None
    is_trained: bool = False
    results: dict[str, float] | None = None
    checkpoint: str | None = None
    callbacks: list[TrainerCallback] = dataclasses.field(default_factory=list)
    is_replaced: bool = False
    seen: dict[str, Any] | None = None  # the record that was in the folder when it was looked into
    lock: Any = None
    since: float = dataclasses.field(default_factory=lambda: psutil.Process().create_time())
    logged_before: int = 0  # entries in the Trainer's log when training began

    def file(self, name: str, split: str) -> Path:
        """Where predictions of a split go: `name` for the last one (test, else validation), and for those before it
        with the split in front; a test split often has no gold answers to look at."""
        self.take()
        last = next(s for s in ("test", "validation", "validation_mismatched") if s in self.datasets)
        return self.folder / (name if split == last else f"{split}_{name}")

    def take(self) -> None:
        """Hold the folder for this run, remove what it replaces, and write that it is running; on the main process,
        when training begins, or the first result is written where nothing is trained."""
        if self.lock is not None or not is_main_process():
            return
        self.lock = lock_folder(self.folder)
        if read_record(self.folder) != self.seen:
            raise InputError(f"{self.folder}: another run has begun in it meanwhile; repeat the command")
        if self.is_replaced:
            clear(self.folder, keep=self.checkpoint)
        if self.is_trained:
            return
        for checkpoint in own_checkpoints(self.folder):
            if not (checkpoint / COMPLETE).exists():
                log.info("%s: was not written to the end and is removed.", checkpoint)
                shutil.rmtree(checkpoint)
        write_record(self)


def open_run(
    recipe_file: str, argv: Sequence[str] | None, args: Any, training_args: TrainingArguments, datasets: Any
) -> Run:
    """Look into `output_dir`: the run in it is finished (`results`), resumes (`checkpoint`), or begins. Nothing is
    written or removed before training begins, so that a mistake found until then costs nothing.

    Args:
        argv: the recipe's command line as its `main` got it; None stands for `sys.argv`.

    Raises:
        InputError: the folder belongs to another run (with what differs), is in use by another process, or holds
            something else; or `--resume_from_checkpoint` names no complete checkpoint.
    """
    folder = Path(training_args.output_dir)
    # The Trainer would rotate before a checkpoint is marked as complete; the callback below rotates afterwards.
    limit, training_args.save_total_limit = training_args.save_total_limit, None
    words = sys.argv[1:] if argv is None else argv
    record = {
        "status": "running",
        "identity": run_identity(recipe_file, args, training_args, datasets),
        "command": f"python -m recipes.{Path(recipe_file).stem} {shlex.join(words)}".strip(),
        "arguments": {**dataclasses.asdict(args), **training_args.to_dict()},
        "versions": {name: version(name) for name in ("torch", "transformers", "datasets", "evaluate", "accelerate")},
        "device": str(training_args.device),
        "precision": precision_name(training_args),
        "processes": training_args.world_size,
        "total_batch_size": total_batch_size(training_args),
        "started_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    run = Run(folder, record, args.model_name_or_path, datasets)
    run.callbacks = [TakeFolder(run), CompleteCheckpoints(limit), StopOnSignal()]
    if is_main_process():
        look_into(run, args, training_args)
    run.results, run.checkpoint, run.is_trained = from_main_process((run.results, run.checkpoint, run.is_trained))
    run.model = str(folder) if run.is_trained else run.model
    run.record["resumed_from"] = run.record.get("resumed_from") or run.checkpoint
    training_args.resume_from_checkpoint = run.checkpoint
    return run


def look_into(run: Run, args: Any, training_args: TrainingArguments) -> None:
    """Compare the folder's record with this run's, and set `results`, `is_trained`, `checkpoint` or `is_replaced`."""
    folder, identity = run.folder, run.record["identity"]
    overwrite = args.overwrite
    resume = training_args.resume_from_checkpoint
    is_named = training_args.do_train and resume is not None and str(resume).lower() not in ("true", "false")
    if is_named:
        fault = checkpoint_fault(Path(resume))
        if fault:
            raise InputError(f"--resume_from_checkpoint {resume}: {fault}; name a folder checkpoint-N of a run")
        run.checkpoint = resume
    if not os.path.lexists(folder):
        return
    release(folder, lock_folder(folder))  # it is refused where another process holds it
    old = run.seen = read_record(folder)
    if old is None or "identity" not in old:
        foreign = sorted(path.name for path in folder.iterdir() if path.name != LOCK)
        if foreign:
            raise InputError(f"{folder}: holds {foreign[0]} and no run; choose another --output_dir")
    elif old["identity"] != identity:
        # A run that stopped before its first checkpoint has nothing to lose.
        if not overwrite and (old["status"] != "running" or own_checkpoints(folder)):
            keep = f"score its model with --do_train false --model_name_or_path {folder} and another --output_dir, or "
            raise InputError(
                f"{folder}: holds another run ({differences(old['identity'], identity)}); "
                f"{keep if old['status'] == 'trained' else ''}choose another --output_dir, or replace it with "
                "--overwrite true"
            )
        run.is_replaced = True
    elif old["status"] == "finished" and not overwrite:
        run.results = json.loads((folder / RESULTS_FILE).read_text())
        overall = [f"{name} {score:.4f}" for name, score in run.results.items() if name.islower()]
        log.info("%s: this run is finished (--overwrite true repeats it): %s.", folder, ", ".join(overall))
        return
    elif old["status"] == "finished" or overwrite or str(resume).lower() == "false":
        run.is_replaced = True
    elif old["status"] == "trained":
        run.record, run.is_trained = old, True
        log.info("%s: this run is trained and was not scored to the end; it is scored again.", folder)
        return
    model = Path(args.model_name_or_path).resolve()
    if run.is_replaced and folder.resolve() in (model, *model.parents):
        raise InputError(f"{folder}: holds the model that this run starts from; choose another --output_dir")
    if training_args.do_train and not is_named and not run.is_replaced:
        run.checkpoint = newest_complete_checkpoint(folder)
    if run.checkpoint:
        log.info("Resuming from %s.", run.checkpoint)


def run_identity(recipe_file: str, args: Any, training_args: TrainingArguments, datasets: Any) -> dict[str, Any]:
    """What can change a run's result: arguments, data, starting weights, and the code of the recipe and of `common`."""
    flags = {**training_args.to_dict(), **dataclasses.asdict(args)}
    if not training_args.load_best_model_at_end:  # then evaluating and saving more or less often changes nothing
        flags = {name: value for name, value in flags.items() if not name.startswith(("eval_", "save_"))}
    weights = sorted(Path(flags["model_name_or_path"]).glob("*.safetensors"))
    identity = {
        "recipe": file_digest(recipe_file)[:16],
        "common": code_digest()[:16],
        **{f"data {split}": digest for split, digest in content_fingerprint(datasets).items()},
        "weights": [file_digest(str(path))[:16] for path in weights],
        "total_batch_size": total_batch_size(training_args),
        **{k: v for k, v in flags.items() if k not in NOT_IDENTITY and not k.startswith(NOT_IDENTITY_PREFIXES)},
    }
    return json.loads(json.dumps(identity, default=str, sort_keys=True))


def differences(old: dict[str, Any], new: dict[str, Any]) -> str:
    """
    >>> differences({"seed": 1, "recipe": "a"}, {"seed": 2, "recipe": "b"})
    'seed: 1 there, 2 here, recipe: has changed'
    """
    keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    digests = ("recipe", "common", "weights")
    pairs = {key: "has changed" if key in digests else f"{old.get(key)} there, {new.get(key)} here" for key in keys}
    return ", ".join(f"{key}: {pair}" for key, pair in pairs.items())


def save_model(run: Run, trainer: Any) -> None:
    """Put the trained model in place, whole or not at all, before anything is scored: no fault there loses it."""
    staging = run.folder / STAGING
    trainer.save_model(str(staging), _internal_call=True)  # else it would upload what lies in the folder now
    if is_main_process():
        # A pickle that nothing here reads; run.json holds the same arguments as text.
        (staging / "training_args.bin").unlink(missing_ok=True)
        for path in staging.iterdir():
            os.replace(path, run.folder / path.name)
        staging.rmdir()
        trainer.state.save_to_json(str(run.folder / "trainer_state.json"))
        run.record |= {"status": "trained", "hub_model_id": trainer.hub_model_id, **speed(run, trainer)}
        write_record(run)


def finish_run(run: Run, trainer: Any, results: dict[str, float], facts: dict[str, dict[str, Any]]) -> None:
    """Put `all_results.json`, the config with what was chosen on validation, and the finished `run.json` in place.

    Args:
        results: the scores; numpy's numbers become Python's.
        facts: of each split, as `describe` of the task's module gives them; kept for the report.
    """
    run.take()
    if not is_main_process():
        return
    config = trainer.model.config
    if trainer.args.do_train:
        write_atomically(run.folder / "config.json", config.to_json_string())
    write_atomically(run.folder / RESULTS_FILE, json.dumps(results, indent=2, default=float))
    seconds = run.record.get("seconds", {})
    took = time.time() - run.since
    if seconds:
        seconds["evaluation"] = round(seconds["evaluation"] + took, 1)
    seconds["total"] = round(sum(seconds.values()) or took, 1)
    log.info("Seconds: %s.", ", ".join(f"{name} {value:.0f}" for name, value in seconds.items()))
    run.record |= {"status": "finished", "seconds": seconds, "results": json.loads(json.dumps(results, default=float))}
    settings = getattr(config, "recipe", None) or {}
    run.record["data"] = {
        "max_seq_length": settings.get("max_seq_length"),
        "labels": list(config.id2label.values()) if "label" in (config.problem_type or "") else None,
        "thresholds": settings.get("thresholds"),
        "splits": facts,
    }
    write_record(run)
    release(run.folder, run.lock)


def write_record(run: Run) -> None:
    write_atomically(run.folder / RUN_FILE, json.dumps(run.record, indent=2, default=str))


def command_line(module: str, *arguments: Any) -> str:
    """A command of this repository to be pasted into the shell, with the interpreter that runs now."""
    is_here = Path(sys.executable).is_relative_to(Path.cwd())
    python = os.path.relpath(sys.executable) if is_here else sys.executable
    return shlex.join([python, "-m", module, *map(str, arguments)])


def push_to_hub(folder: Path, trainer: Any) -> None:
    """With `--push_to_hub`, upload model, model card and scores. Not what holds texts of the data: predictions and
    report.

    `Trainer.push_to_hub` would replace the model card by its own, and add a pickle.
    """
    from huggingface_hub import HfApi

    repo, args = trainer.hub_model_id, trainer.args
    if not (args.push_to_hub and args.do_train and is_main_process()):
        return
    private = ["checkpoint-*", ".*", "*.bin", "*predictions*", "*null_odds.json", "*.html"]
    trainer._finish_current_push()  # of a checkpoint
    try:
        place = HfApi(token=args.hub_token).upload_folder(
            repo_id=repo,
            folder_path=folder,
            revision=args.hub_revision,
            ignore_patterns=private,
            delete_patterns="training_args.bin",
        )
    except OSError as error:  # the Hub's errors are of this kind
        raise InputError(
            f"{folder}: the run is finished, but {repo} refused it ({error}); hf upload {repo} {folder}"
        ) from error
    log.info("Uploaded: %s", place)


def speed(run: Run, trainer: Any) -> dict[str, Any]:
    """Where the time until the end of training went, in seconds: set-up (from the start of the process, and the
    saving of the model), training, and evaluation within it; and useful tokens a second of the training, padding not
    counted."""
    history, now = trainer.state.log_history[run.logged_before :], time.time()
    evaluated = sum(row.get("eval_runtime", 0.0) for row in history)
    trained = history[-1]["train_runtime"] - evaluated
    tokens_per_second = round(trainer.useful_tokens / trained, 1)
    log.info("Training: %.0f useful tokens a second.", tokens_per_second)
    seconds = {"set-up": now - run.since - trained - evaluated, "training": trained, "evaluation": evaluated}
    run.since = now
    return {
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
        "useful_tokens_per_second": tokens_per_second,
    }


# Files


def write_atomically(path: Path, text: str) -> None:
    """Replace a file by `text` so that a reader sees the old or the new, never a part."""
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text(text + "\n", encoding="utf-8")
    os.replace(temporary, path)


def write_predictions(path: Path, rows: Any, form: Callable[[Any], str]) -> None:
    """Write one line or block per row, whole or not at all, on the main process only."""
    if is_main_process():
        write_atomically(path, "\n".join(form(row) for row in rows))


def read_record(folder: Path) -> dict[str, Any] | None:
    try:
        return json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))
    except OSError:  # none there; where the folder cannot be used, `lock_folder` says why
        return None
    except ValueError:
        raise InputError(f"{folder / RUN_FILE}: damaged; delete the folder or choose another --output_dir") from None


def clear(folder: Path, keep: str | None = None) -> None:
    """Remove what a run wrote, its model too, so that nothing of the old one can be taken for the new one.

    run.json goes last: until then the folder is still the old run's, and the command that was stopped here is repeated.
    """
    for path in (*own_checkpoints(folder), folder / STAGING):
        if keep is None or path.resolve() != Path(keep).resolve():
            shutil.rmtree(path, ignore_errors=True)
    for path in sorted(folder.iterdir(), key=lambda path: path.name == RUN_FILE):
        if re.sub("^validation(_mismatched)?_", "", path.name) in OUTPUTS or re.fullmatch(WEIGHTS, path.name):
            path.unlink()


def own_checkpoints(folder: Path) -> list[Path]:
    """The folders that the Trainer wrote, and not whatever else is called checkpoint-something."""
    folders = [path for path in folder.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    return [path for path in folders if path.is_dir() and not path.is_symlink()]


def lock_folder(folder: Path) -> Any:
    """Hold the folder for this process; the operating system lets go when the process ends, however it ends."""
    import filelock

    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(folder / LOCK, is_singleton=True)  # the same process may begin again after a fault
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise InputError(f"{folder}: another process is running in it; wait, or choose another --output_dir") from None
    except OSError as error:
        raise InputError(f"{folder}: {error.strerror}; choose another --output_dir") from None
    return lock


def release(folder: Path, lock: Any) -> None:
    lock.release(force=True)
    (folder / LOCK).unlink(missing_ok=True)


# Checkpoints


def newest_complete_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint whose files are all there and undamaged; those passed over are named in a warning."""
    for path in reversed(sort_checkpoints(str(folder))):
        fault = checkpoint_fault(Path(path))
        if fault is None:
            return path
        log.warning("%s: %s; passing over it.", path, fault)
    return None


def checkpoint_fault(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, or None: the last file that is written gives the size of every other."""
    try:
        sizes = json.loads((checkpoint / COMPLETE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "is not a folder" if not checkpoint.is_dir() else "was not written to the end"
    if "scheduler.pt" not in sizes:
        return "holds no state of the optimizer (--save_only_model), so nothing can resume from it"
    for name, size in sizes.items():
        path = checkpoint / name
        if not path.is_file() or path.stat().st_size != size:
            return f"{name} is damaged or missing"
    return None


class TakeFolder(TrainerCallback):
    """Takes the folder when training begins."""

    def __init__(self, run: Run):
        self.run = run

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.run.take()
        self.run.logged_before = len(state.log_history)


class CompleteCheckpoints(TrainerCallback):
    """Marks a checkpoint as complete once all of it is written, and only then lets older ones go."""

    def __init__(self, save_total_limit: int | None):
        self.save_total_limit = save_total_limit

    def on_save(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        if args.world_size > 1:  # every process writes the state of its own random numbers
            torch.distributed.barrier()
        if not is_main_process():
            return
        checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        files = [path for path in sorted(checkpoint.rglob("*")) if path.is_file() and path.name != COMPLETE]
        sizes = {str(path.relative_to(checkpoint)): path.stat().st_size for path in files}
        write_atomically(checkpoint / COMPLETE, json.dumps(sizes, indent=1))
        rotate_checkpoints(args.output_dir, self.save_total_limit, state.best_model_checkpoint)


class StopOnSignal(TrainerCallback):
    """SIGTERM or SIGINT saves a checkpoint at the end of the step and ends the process with 143 or 130.

    A second signal acts at once. `enable_jit_checkpoint` knows SIGTERM only, may save between backward and optimizer
    step, and then returns as if training were done.
    """

    def __init__(self) -> None:
        self.received = 0
        self.previous: dict[int, Any] = {}
        self.group: Any = None  # of the processes, over CPUs: asking them does not wait for a GPU

    def handle(self, number: int, frame: Any) -> None:
        self.received = number
        if world_size() == 1:  # a launcher passes on what the terminal or the scheduler has sent to all already
            signal.signal(number, self.previous[number])

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if world_size() > 1:
            self.group = torch.distributed.new_group(backend="gloo")
        try:
            for number in (signal.SIGTERM, signal.SIGINT):
                self.previous[number] = signal.signal(number, self.handle)
        except ValueError:  # not in the main thread, where nobody can install handlers
            self.previous = {}

    def agree(self) -> int:
        """The signal that any process has received, or 0: they reach processes at different steps, or not all."""
        if self.group is None:
            return self.received
        received = torch.tensor(self.received)
        torch.distributed.all_reduce(received, torch.distributed.ReduceOp.MAX, group=self.group)
        return int(received)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.agree():
            control.should_training_stop = True
            # The last step of an epoch is left to the epoch's own evaluation and checkpoint, or a best model that
            # depends on that evaluation would be another than in the uninterrupted run.
            control.should_save |= not float(state.epoch).is_integer()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.agree():
            if float(state.epoch).is_integer():
                control.should_save = True
            else:  # the step has saved; the epoch did not end
                control.should_evaluate = control.should_save = control.should_log = False

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        number = self.agree()
        for caught, previous in self.previous.items():
            signal.signal(caught, previous)
        if number:
            log.warning(
                "Stopped by %s at step %d; the same command resumes.", signal.Signals(number).name, state.global_step
            )
            raise SystemExit(128 + number)
