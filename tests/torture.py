"""Kill runs at random moments and repeat their command until they finish: the result must be the undisturbed run's.

    python -m tests.torture                             # 20 rounds of each recipe, minutes
    python -m tests.torture --rounds 2 --recipes ner

A round starts a recipe on its bundled sample with a tiny random model, kills it (SIGKILL, or SIGTERM and SIGINT, which
save first) at a moment drawn from the undisturbed run's duration, repeats the command, kills that up to twice more,
and lets it finish. Model and predictions are then compared byte for byte. Exit code 1 where any differs.
"""

import argparse
import importlib
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.conftest import ENDINGS, SAMPLES, save_tiny_bert

KILLS_AT_MOST = 3  # in a round


def start(module: Any, flags: list[str], log: Path) -> int:
    """Run a recipe as a process of its own, forked from this one, which has imported all of it already."""
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.stdout = os.fdopen(1, "w", buffering=1)
        sys.argv = [module.__name__, *flags]
        module.main(flags)
        code = 0
    except SystemExit as stopped:
        code = stopped.code if isinstance(stopped.code, int) else 1
    except KeyboardInterrupt:
        code = 130
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(code)


def result(folder: Path) -> dict[str, bytes]:
    names = ("model.safetensors", "predictions.jsonl", "all_results.json")
    return {name: (folder / name).read_bytes() for name in names}


def torture(recipe: str, rounds: int, seed: int, folder: Path) -> dict[str, int]:
    """Counts over all rounds of a recipe: `rounds`, `kills`, `resumes` from a checkpoint, `mismatches`."""
    module = importlib.import_module(f"recipes.{recipe}")
    sample = SAMPLES / recipe / f"validation.{ENDINGS[recipe]}"
    model = save_tiny_bert(folder / "model", [sample.read_text(encoding="utf-8")], positions=128)
    flags = f"--model_name_or_path {model} --train_file {sample} --validation_file {sample} --max_train_samples 48 "
    flags += "--max_eval_samples 20 --num_train_epochs 3 --per_device_train_batch_size 8 --learning_rate 1e-3 "
    flags += "--use_cpu true --bf16 false --disable_tqdm true --save_strategy steps --save_steps 2 --max_seq_length 64 "
    flags += "--doc_stride 16 " if recipe == "qa" else ""
    flags += "--output_dir"
    log = folder / "log.txt"

    def finish(process: int) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])

    def undisturbed(name: str) -> float:
        began = time.monotonic()
        if finish(start(module, [*flags.split(), str(folder / name)], log)):
            raise SystemExit(f"error: {recipe}: the undisturbed run failed; see {log}")
        return time.monotonic() - began

    undisturbed("warm")  # fills the cache of read files
    duration = undisturbed("whole")
    expected = result(folder / "whole")
    moments = random.Random(f"{recipe} {seed}")
    counts = {"rounds": rounds, "kills": 0, "resumes": 0, "mismatches": 0}
    for number in range(1, rounds + 1):
        command = [*flags.split(), str(folder / f"run-{number}")]
        for _ in range(moments.randint(1, KILLS_AT_MOST)):
            process = start(module, command, log)
            time.sleep(moments.uniform(0, duration))
            os.kill(process, moments.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT]))
            code = finish(process)
            if code == 0:
                break
            counts["kills"] += 1
        code = finish(start(module, command, log))
        same = code == 0 and result(folder / f"run-{number}") == expected
        counts["mismatches"] += not same
        if not same:
            print(f"{recipe}, round {number}: exit code {code}, other result; see {folder}", flush=True)
    counts["resumes"] = log.read_text(encoding="utf-8").count("Resuming from")
    return counts


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m tests.torture", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--recipes", nargs="+", choices=[*ENDINGS], default=[*ENDINGS])
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    import torch

    torch.set_num_threads(1)  # a fork has no threads but the one that forked
    mismatches = 0
    for recipe in args.recipes:
        folder = Path(tempfile.mkdtemp(prefix=f"torture-{recipe}-"))
        counts = torture(recipe, args.rounds, args.seed, folder)
        print(f"{recipe}: " + ", ".join(f"{count} {name}" for name, count in counts.items()), flush=True)
        mismatches += counts["mismatches"]
    return 1 if mismatches else 0


if __name__ == "__main__":
    raise SystemExit(main())
