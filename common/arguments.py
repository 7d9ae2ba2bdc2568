"""The command line of a recipe: its own flags, all of `TrainingArguments`, and one line where something is wrong."""

import argparse
import dataclasses
import difflib
import logging
import re
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import transformers
from transformers import HfArgumentParser, TrainingArguments

from common.errors import (
    InputError,
    OneLineParser,
    check_at_least_one,
    check_cache,
    check_range,
    go_offline_without_hub,
    is_main_process,
    world_size,
)
from common.packing import tune_cpu
from common.runs import read_record
from common.training import choose_precision, precision_name, total_batch_size

log = logging.getLogger("recipes")


def flag(default: Any, help: str) -> Any:
    """A dataclass field that is a flag of the command line."""
    return dataclasses.field(default=default, metadata={"help": help})


@dataclasses.dataclass
class RecipeArguments:
    """Flags that mean the same in every recipe; a recipe adds its own and sets its own model and dataset."""

    model_name_or_path: str = flag("google-bert/bert-base-uncased", "Encoder with a fast tokenizer: name or folder.")
    dataset_name: str = flag("", "Dataset on the Hub, or a local folder.")
    dataset_config_name: str | None = flag(None, "Its configuration. Unset: the default one.")
    train_file: str | None = flag(None, "Own data, see the README for formats. Unset: --dataset_name.")
    validation_file: str | None = flag(None, "Likewise. Unset: a share of train is held out.")
    test_file: str | None = flag(None, "Likewise, its labels may be missing. Unset: none.")
    no_header: bool = flag(False, "CSV and TSV files begin with data; their columns are called 1, 2, 3.")
    max_train_samples: int | None = flag(None, "Use only this many rows, the first ones. Unset: all.")
    max_eval_samples: int | None = flag(None, "Use only this many rows, the first ones. Unset: all.")
    max_predict_samples: int | None = flag(None, "Use only this many rows, the first ones. Unset: all.")
    max_seq_length: int | None = flag(None, "Word pieces in an input. Unset: 512, in qa 384, or the model's limit.")
    new_head: bool = flag(False, "Start from the encoder of a trained model and train a new head on it.")
    freeze: str | None = flag(
        None, "Do not train the encoder, the embeddings, or these and N layers. Unset: all trains."
    )
    layer_decay: float | None = flag(
        None, "Each layer's learning rate, as a share of that of the layer above. Unset: 1."
    )
    head_learning_rate: float | None = flag(None, "Learning rate of the new head. Unset: --learning_rate.")
    early_stopping_patience: int | None = flag(None, "Stop after N evaluations without a better score. Unset: never.")
    packing: bool | None = flag(None, "Compute no padding in the encoder. Unset: on a CPU, where the model allows it.")
    attn_implementation: str | None = flag(None, "eager or sdpa, without packing. Unset: the faster on this device.")
    cpu_tuning: bool = flag(True, "On a CPU: cheaper dropout masks, and denormal numbers count as zero.")
    overwrite: bool = flag(False, "Replace another or a finished run in --output_dir.")


# What `--help` shows of TrainingArguments beside a recipe's own flags; `--help-all` shows all.
SHOWN = """
    output_dir do_train num_train_epochs max_steps learning_rate warmup_steps weight_decay per_device_train_batch_size
    gradient_accumulation_steps seed bf16 eval_strategy save_strategy load_best_model_at_end metric_for_best_model
    label_smoothing_factor push_to_hub
""".split()  # noqa: SIM905


# Of flags of TrainingArguments that mean more, or something else, here.
HELP = {
    "auto_find_batch_size": "After running out of memory, start over with a smaller batch, which changes the result.",
    "per_device_train_batch_size": "Examples that a device computes at once; the default is divided among processes.",
    "warmup_steps": "Steps in which the rate rises from 0; below 1 a share of all steps: 0.1 is 10 %.",
}


# Flags of the example scripts and of older versions of transformers -> what does it today.
OLD_FLAGS = {
    "overwrite_output_dir": "--overwrite true replaces a run",
    "group_by_length": "leave it out, packing leaves no padding to save",
    "pad_to_max_length": "leave it out, nothing is padded to a fixed length",
    "no_cuda": "it is --use_cpu true now",
    "warmup_ratio": "--warmup_steps below 1 is a share of all steps: --warmup_steps 0.1",
    "text_column_name": "it is --tokens_column in ner, --text_columns elsewhere",
    "label_column_name": "it is --tags_column in ner, --label_column elsewhere",
    "return_entity_level_metrics": "leave it out, every type is scored",
    "null_score_diff_threshold": "leave it out, the threshold is tuned on validation",
}


class RecipeArgumentParser(OneLineParser, HfArgumentParser):
    """`HfArgumentParser` whose complaints are one line, without abbreviations, and that reads no hidden .args file."""


def build_parser(arguments: type, defaults: dict[str, Any], name: str, shows_all: bool = False) -> RecipeArgumentParser:
    """The flags of the recipe called `name`: its own first, then all of `TrainingArguments`, with its defaults.

    Args:
        shows_all: the help lists all of them, and not the recipe's own and `SHOWN` alone.
    """
    parser = RecipeArgumentParser(
        (arguments, TrainingArguments),
        usage=f"python -m recipes.{name} [flags]",
        description=doc_of_copy(sys.modules[arguments.__module__].__doc__, name),
        epilog="--help-all lists these and all other flags of transformers.TrainingArguments.",
        formatter_class=HelpFormatter,
        add_help=False,
    )
    parser.add_argument("--help", "-h", "--help-all", action="help", help=argparse.SUPPRESS)
    shown = {*(field.name for field in dataclasses.fields(arguments)), *SHOWN}
    for action in parser._actions:
        is_negation = action.nargs == 0 and action.const is False  # --no_x beside --x
        is_shown = shows_all or action.dest in shown
        action.help = HELP.get(action.dest, action.help) if is_shown and not is_negation else argparse.SUPPRESS
        del action.option_strings[1:]  # --max-steps is read beside --max_steps, and not shown
        if action.dest == "train_sampling_strategy":
            action.choices = ["random", "sequential"]  # those by length also reorder predictions and resumed epochs
    # None stands for what is chosen from the machine.
    chosen = {"bf16": None, "fp16": None, "use_cpu": None, "disable_tqdm": not shows_progress_bars()}
    parser.set_defaults(**{**chosen, "output_dir": f"runs/{name}", **defaults})
    return parser


def doc_of_copy(doc: str | None, name: str) -> str:
    """A recipe's docstring, whose commands name the recipe called `name`, as those of a copy do not.

    >>> doc_of_copy("python -m recipes.ner; make train-ner OFFLINE=1", "my_task")
    'python -m recipes.my_task; make train-my-task OFFLINE=1'
    """
    doc = re.sub(r"(?<=python -m recipes\.)\w+", name, doc or "")
    return re.sub(r"(?<=make train-)[\w-]+", name.replace("_", "-"), doc)


def parse_arguments(
    arguments: type,
    defaults: dict[str, Any],
    argv: Sequence[str] | None,
    recipe_file: str,
    tasks: dict[str, Any] | None = None,
) -> tuple[Any, TrainingArguments]:
    """The recipe's own arguments and `TrainingArguments`, with what was left open chosen for this machine.

    Args:
        arguments: the recipe's dataclass; its flags come first in `--help`.
        defaults: the recipe's defaults for flags of `TrainingArguments`.
        argv: the command line without the program's name; None takes `sys.argv`.
        recipe_file: the recipe's `__file__`; its name gives the default of `--output_dir`.
        tasks: names that `--task_name` may take, each with its metrics last; the first is the default without own
            files.

    Raises:
        InputError: an unknown flag or a value that is none, with the nearest flag named.
    """
    configure_logging()
    argv = list(sys.argv[1:] if argv is None else argv)
    name = Path(recipe_file).stem
    parser = build_parser(arguments, defaults, name, shows_all="--help-all" in argv)
    flags = read_flags(parser, argv)
    set_task_and_folder(parser, flags, name, tasks)
    set_evaluation_and_saving(parser, flags)
    set_share_of_the_batch(parser, flags, argv)
    reason = set_precision(parser, flags, argv)
    try:
        args, training_args = parser.parse_args_into_dataclasses(argv, look_for_args_file=False)
    except (ValueError, TypeError, ImportError) as error:
        raise InputError(" ".join(str(error).split())) from error
    use_one_gpu_without_a_launcher(training_args, name)
    log.info("Precision %s: %s. Device %s.", precision_name(training_args), reason, training_args.device)
    if training_args.do_train:
        log.info(
            "Effective batch %d: per device %d, processes %d, accumulation steps %d.",
            *(total_batch_size(training_args), training_args.train_batch_size),
            *(training_args.world_size, training_args.gradient_accumulation_steps),
        )
    from_files = args.train_file or args.validation_file or args.test_file
    check_cache()
    go_offline_without_hub(args.model_name_or_path, None if from_files else args.dataset_name)
    return args, training_args


def read_flags(parser: RecipeArgumentParser, argv: list[str]) -> argparse.Namespace:
    """The command line before anything is chosen for the machine; what is out of range or unknown is refused."""
    flags, unknown = parser.parse_known_args(argv)
    if unknown:
        name = unknown[0].split("=")[0].strip("-").replace("-", "_")
        if name in OLD_FLAGS:
            raise InputError(f"{unknown[0]}: is not a flag here; {OLD_FLAGS[name]}")
        options = [option for action in parser._actions for option in action.option_strings]
        near = difflib.get_close_matches(unknown[0].split("=")[0], options, n=1)
        raise InputError(f"unknown flag {unknown[0]}" + (f"; did you mean {near[0]}?" if near else "; see --help"))
    check_at_least_one(
        flags, "per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"
    )
    check_at_least_one(flags, "max_train_samples", "max_eval_samples", "max_predict_samples")
    check_range(flags, 0, 2**32 - 1, "seed", "data_seed")
    check_range(
        flags, 0, 1e6, "learning_rate", "head_learning_rate", "num_train_epochs", "weight_decay", "max_grad_norm"
    )
    check_range(flags, 0, 1, "layer_decay")
    return flags


def set_task_and_folder(
    parser: RecipeArgumentParser, flags: argparse.Namespace, name: str, tasks: dict[str, Any] | None
) -> None:
    """A benchmark's task, else the first where the data is the default; each has a folder of its own."""
    folder = f"runs/{name}"
    if tasks:
        own = flags.train_file or flags.validation_file or flags.test_file
        own = own or flags.dataset_name != parser.get_default("dataset_name")
        task = flags.task_name or (None if own else next(iter(tasks)))
        if task is not None and task not in tasks:
            raise InputError(f"--task_name {task}: must be one of {', '.join(tasks)}")
        folder += f"-{task}" if task else ""
        parser.set_defaults(task_name=task)
        if parser.get_default("metric_for_best_model") is None:  # else the recipe says it
            parser.set_defaults(metric_for_best_model=tasks[task][-1][0] if task else "loss")
        if not own:
            parser.set_defaults(dataset_config_name=task)
    if parser.get_default("output_dir") == f"runs/{name}":  # and not one that a copied recipe has set
        parser.set_defaults(output_dir=folder if flags.do_train else f"{folder}-eval")


def set_evaluation_and_saving(parser: RecipeArgumentParser, flags: argparse.Namespace) -> None:
    """Both follow what the run does; `TrainingArguments` would switch --do_eval false on again."""
    if not flags.do_train:
        parser.set_defaults(save_strategy="no", eval_strategy="no")
    elif not flags.do_eval:
        parser.set_defaults(eval_strategy="no")
    stops_early = flags.early_stopping_patience is not None and flags.do_train
    if stops_early:
        if flags.eval_strategy == "no" or not flags.do_eval:
            raise InputError("--early_stopping_patience needs evaluations; leave --do_eval and --eval_strategy on")
        parser.set_defaults(load_best_model_at_end=True)
    if flags.load_best_model_at_end or stops_early:  # the best model is among the saved ones only if both coincide
        parser.set_defaults(save_strategy=flags.eval_strategy, save_steps=flags.eval_steps or 500)
        if flags.metric_for_best_model not in (None, parser.get_default("metric_for_best_model")):
            parser.set_defaults(eval_on_start=True)  # one that is not there is found before training


def set_share_of_the_batch(parser: RecipeArgumentParser, flags: argparse.Namespace, argv: list[str]) -> None:
    """The default batch is divided among the processes of a run, so that with any number of them the training is the
    same; a batch that is given is not.

    Raises:
        InputError: it does not divide, or leaves processes without an example.
    """
    is_given = any(word.split("=")[0].replace("-", "_") == "__per_device_train_batch_size" for word in argv)
    if is_given or not flags.do_train:
        return
    batch, processes = flags.per_device_train_batch_size, world_size()
    if batch % processes:
        share = -(-batch // processes)
        raise InputError(
            f"the batch of {batch} does not divide among {processes} processes; --per_device_train_batch_size {share} "
            f"makes it {share * processes}, or use another number of processes"
        )
    parser.set_defaults(per_device_train_batch_size=batch // processes)


def set_precision(parser: RecipeArgumentParser, flags: argparse.Namespace, argv: list[str]) -> str:
    """Precision and device, chosen before `TrainingArguments` is built: set afterwards they do nothing; the reason."""
    folder = parser.parse_known_args(argv)[0].output_dir  # with the default that was set by now
    record = read_record(Path(folder))
    is_repeated = record is not None and not (flags.overwrite and record["status"] == "finished")
    choice, reason = choose_precision(flags, record if is_repeated else None)
    parser.set_defaults(**choice)
    is_tuned = choice["use_cpu"] and flags.cpu_tuning and not flags.torch_compile  # which draws its own masks
    tune_cpu(is_tuned)
    if is_tuned:
        log.info("CPU: cheaper dropout masks, denormal numbers count as zero (--cpu_tuning false: stock).")
    return reason


def use_one_gpu_without_a_launcher(training_args: TrainingArguments, name: str) -> None:
    """DataParallel would multiply the batch by the number of GPUs and is slower than one process each."""
    if training_args.n_gpu > 1:
        log.warning(
            "%d GPUs are here and one is used. All are by: accelerate launch --quiet --config_file "
            "recipes/launch/multi_gpu.yaml --num_processes %d -m recipes.%s (or make train-%s)",
            *(training_args.n_gpu, training_args.n_gpu, name, name.replace("_", "-")),
        )
        training_args._n_gpu = 1


class HelpFormatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Keeps the lines of a recipe's docstring, and lets a help text of any library hold a bare `%`."""

    def _get_help_string(self, action: Any) -> str:
        action.help = re.sub(r"(?<!%)%(?![(%])", "%%", action.help or "")
        return action.help if action.default is None else super()._get_help_string(action)


def configure_logging() -> None:
    """What the recipes say goes to stdout as plain lines, beside the progress bars on stderr."""
    log.handlers = [logging.StreamHandler(sys.stdout)]
    log.propagate = False
    log.setLevel(logging.INFO)
    if not is_main_process():  # which says it all
        log.setLevel(logging.CRITICAL)
        transformers.utils.logging.set_verbosity(logging.CRITICAL)
        warnings.simplefilter("ignore")
    if not shows_progress_bars() or not is_main_process():
        datasets.disable_progress_bars()
    # Its report on loading is replaced by `load_model`'s, and bars for reading a file of seconds are noise.
    transformers.utils.logging.get_logger("transformers.modeling_utils").setLevel(logging.ERROR)
    # Says of every model on one device that its layers are not sharded over several.
    transformers.utils.logging.get_logger("transformers.distributed.tensor_parallel").setLevel(logging.ERROR)
    # Sets a share of the steps against their number when a run resumes; what must agree, run.json compares.
    transformers.utils.logging.get_logger("transformers.trainer_utils").setLevel(logging.ERROR)
    transformers.utils.logging.disable_progress_bar()


def shows_progress_bars() -> bool:
    """A terminal does, and a notebook; in a file they would be written over and over."""
    return sys.stderr.isatty() or "ipykernel" in sys.modules
