"""What this machine offers to the recipes: the first thing to paste into a bug report.

make doctor
"""

import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import SimpleNamespace

from common.errors import hub_answers, run_as_command
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


def facts() -> dict[str, str]:
    """What is printed: a name and what there is of it."""
    import datasets
    import huggingface_hub
    import psutil
    import torch

    from common.training import choose_precision

    choice, precision = choose_precision(SimpleNamespace(use_cpu=None, bf16=None, fp16=None, tf32=None))
    number = next((name for name in ("bf16", "fp16") if choice[name]), "fp32")
    memory = psutil.virtual_memory()
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else psutil.cpu_count()
    hub = huggingface_hub.constants
    asked = "not asked (HF_HUB_OFFLINE)" if hub.HF_HUB_OFFLINE else "answers" if hub_answers() else "does not answer"
    return {
        "System": f"{platform.platform()}, Python {platform.python_version()}",
        "Packages": packages(),
        "Devices": devices(),
        "Precision": f"{number}: {precision}",
        "CPU": f"{usable} of {psutil.cpu_count()} cores for this process, {torch.get_num_threads()} threads",
        "Memory": f"{memory.total / GIB:.1f} GiB, {memory.available / GIB:.1f} available",
        "Free space": f"{shutil.disk_usage(ROOT).free / GIB:.0f} GiB here",
        "Hub": f"{hub.ENDPOINT} {asked}",
        "Caches": f"{hub.HF_HUB_CACHE}, {datasets.config.HF_DATASETS_CACHE}",
        "Offline": f"checkpoint {'is' if (CHECKPOINT / WEIGHTS).exists() else 'is not'} there (make checkpoint)",
    }


def main() -> None:
    for name, value in facts().items():
        print(f"{name:<12}{value}")


if __name__ == "__main__":
    run_as_command(main)
