"""What this machine offers, and what the recipes would do on it: the first thing to paste into a bug report.

make doctor
"""

import importlib
import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from common.arguments import share_of
from common.errors import InputError, check_cache, hub_answers, run_as_command
from recipes.tools.checkpoint import WEIGHTS

ROOT = Path(__file__).parent.parent.parent
CHECKPOINT = ROOT / "models" / "all-MiniLM-L6-v2"
GIB = 2**30


def packages() -> str:
    """The pinned packages as they are installed; where that is another version, with the pin."""
    found = []
    for line in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines():
        name, _, pin = line.partition("==")
        if pin:
            try:
                installed = version(name)
            except PackageNotFoundError:
                installed = "missing"
            found.append(f"{name} {installed}" + (f" (pinned: {pin})" if installed.split("+")[0] != pin else ""))
    return ", ".join(found)


def devices() -> str:
    """The devices that Accelerate finds, by name and memory."""
    import torch
    from accelerate import PartialState

    if not torch.cuda.is_available():
        return f"{PartialState().device} (PyTorch {'with' if torch.version.cuda else 'without'} CUDA)"
    found = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return ", ".join(f"{gpu.name} {gpu.total_memory / GIB:.0f} GiB" for gpu in found)


def facts(answers: bool) -> dict[str, str]:
    """What is printed first: a name and what was found, in that order. `answers`: of the Hub."""
    import datasets
    import huggingface_hub
    import psutil
    import torch
    from accelerate import PartialState

    from common.training import choose_attention, choose_precision

    choice, precision = choose_precision(SimpleNamespace(use_cpu=None, bf16=None, fp16=None, tf32=None))
    device = PartialState().device
    attention, reason = choose_attention(SimpleNamespace(device=device))
    packed = "packed: no padding is computed in the encoder, where the model allows it; else "
    number = next((name for name in ("bf16", "fp16") if choice[name]), "fp32")
    memory = psutil.virtual_memory()
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else psutil.cpu_count()
    hub = huggingface_hub.constants
    asked = "not asked (HF_HUB_OFFLINE)" if hub.HF_HUB_OFFLINE else "answers" if answers else "does not answer"
    return {
        "System": f"{platform.platform()}, Python {platform.python_version()}",
        "Packages": packages(),
        "Devices": devices(),
        "Precision": f"{number}: {precision}",
        "Attention": f"{packed if device.type == 'cpu' else ''}{attention}: {reason}",
        "CPU": f"{usable} of {psutil.cpu_count()} cores for this process, {torch.get_num_threads()} threads",
        "Memory": f"{memory.total / GIB:.1f} GiB, {memory.available / GIB:.1f} available",
        "Free space": f"{shutil.disk_usage(ROOT).free / GIB:.0f} GiB here",
        "Hub": f"{hub.ENDPOINT} {asked}",
        "Caches": f"{hub.HF_HUB_CACHE}, {datasets.config.HF_DATASETS_CACHE}{cache_fault()}",
        "Offline": f"checkpoint {'is' if (CHECKPOINT / WEIGHTS).exists() else 'is not'} there (make checkpoint)",
    }


def cache_fault() -> str:
    try:
        check_cache()
    except InputError as error:
        return f" (training stops: {error})"
    return ""


def has_model(name: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    local = os.path.isdir(name)
    return local or all(isinstance(try_to_load_from_cache(name, file), str) for file in ("config.json", WEIGHTS))


def has_dataset(name: str, config: str | None) -> bool:
    """Whether `load_dataset` has prepared it before (or it is a local folder)."""
    import datasets

    folder = Path(datasets.config.HF_DATASETS_CACHE) / name.replace("/", "___") / (config or "")
    return os.path.isdir(name) or any(folder.rglob("dataset_info.json"))


def plan(recipe: Any, gpus: int, answers: bool) -> str:
    """What `make train-...` would do here, as one line.

    Args:
        recipe: the module, of which `Arguments` and `DEFAULTS` are read.
        answers: whether the Hub does.
    """
    name = recipe.__name__.split(".")[-1].replace("_", "-")
    model, dataset = recipe.Arguments.model_name_or_path, recipe.Arguments.dataset_name
    task = next(iter(getattr(recipe, "TASKS", {})), None)
    lacking = [n for n, there in ((model, has_model(model)), (dataset, has_dataset(dataset, task))) if not there]
    batch, epochs = recipe.DEFAULTS["per_device_train_batch_size"], recipe.DEFAULTS["num_train_epochs"]
    try:
        where = f"{gpus} GPUs, {share_of(batch, gpus)} each" if gpus > 1 else "one GPU" if gpus else "the CPU"
    except InputError as error:
        return f"train-{name}: stops: {error}"
    does = f"{model} on {dataset}{f' ({task})' if task else ''}, {epochs} epochs, batch {batch} on {where}"
    if not lacking:
        return f"train-{name}: {does}; both are in the cache"
    if answers:
        return f"train-{name}: {does}; downloads {' and '.join(lacking)}"
    reason = f"{' and '.join(lacking)} can be reached neither here nor on the Hub"
    return f"train-{name}: stops, because {reason}; OFFLINE=1 trains the bundled sample"


def main() -> None:
    import torch

    answers = hub_answers()
    for name, value in facts(answers).items():
        print(f"{name:<12}{value}")
    for path in sorted((ROOT / "recipes").glob("*.py")):
        if "\nDEFAULTS = " in path.read_text(encoding="utf-8"):  # also your copies
            try:
                print(plan(importlib.import_module(f"recipes.{path.stem}"), torch.accelerator.device_count(), answers))
            except (InputError, ImportError, SyntaxError) as error:
                print(f"recipes/{path.name}: cannot be read: {error}")


if __name__ == "__main__":
    run_as_command(main)
