"""What the defaults are worth: each recipe as it is (A), at the example scripts' settings (B), A without each choice.

    python -m tests.bench                    # a fixed number of steps per arm, about 15 minutes on 2 cores
    python -m tests.bench --full             # whole runs of A and B, one seed: hours on a CPU
    python -m tests.bench --recipes nli qa --data data

Arms alternate in one run, so that what else the machine does falls on all of them; compare ratios, not seconds. Real
data is read from `--data` where it is there (`data/mrpc/train.csv` and so on), else the bundled samples. The table
goes to `runs/bench/bench.md`, the figures to `runs/bench/bench.json`.
"""

import argparse
import functools
import importlib
import json
import os
import platform
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parent.parent
OUTPUT = Path("runs/bench")
SAMPLES = "recipes/samples"


@dataclass
class Case:
    """A recipe on a dataset: the task, and how the example script pads."""

    recipe: str
    files: tuple[str, str]  # of train and validation, in the data folder
    sample: tuple[str, str]  # the bundled ones
    task: str | None
    steps: int  # of a quick run
    full: str  # flags of a whole run
    padded_to: int | None  # what the example script pads every row to; None: to the longest of the batch


CASES = {
    "nli": Case(
        "nli",
        ("mrpc/train.csv", "mrpc/validation.csv"),
        ("nli/train.csv", "nli/validation.csv"),
        "mrpc",
        12,
        "--num_train_epochs 3",
        128,
    ),
    "text_classification": Case(
        "text_classification",
        ("sst2/train.csv", "sst2/validation.csv"),
        ("text_classification/train.csv", "text_classification/validation.csv"),
        "sst2",
        20,
        "--num_train_epochs 1 --max_train_samples 10000",
        128,
    ),
    "ner": Case(
        "ner",
        ("conll2003/train.txt", "conll2003/validation.txt"),
        ("ner/train.conll", "ner/validation.conll"),
        None,
        20,
        "--num_train_epochs 3 --max_train_samples 3000",
        None,
    ),
    "qa": Case(
        "qa",
        ("squad/train-v1.1.json", "squad/dev-v1.1.json"),
        ("qa/train.json", "qa/validation.json"),
        None,
        10,
        "--num_train_epochs 2 --max_train_samples 2000 --max_eval_samples 2000",
        384,
    ),
}


def arms(case: Case, full: bool) -> dict[str, dict[str, Any]]:
    """What each arm changes: flags, what rows are padded to, and environment variables."""
    import torch

    gpu = torch.cuda.is_available()
    attention = "eager" if gpu else "sdpa"
    stock_attention = "--attn_implementation sdpa"
    returned = {"MALLOC_CHECK_": "0"}  # any MALLOC_ variable leaves the allocator as it is
    stock = (
        f"--bf16 false --fp16 false --tf32 false {stock_attention} --train_sampling_strategy random "
        "--per_device_eval_batch_size 8 --logging_nan_inf_filter true"
    )
    if not gpu:
        stock = stock.replace("--tf32 false ", "")
    found: dict[str, dict[str, Any]] = {"A": {}, "B": {"flags": stock, "pad": case.padded_to, "env": returned}}
    if full:
        return found
    found["A, fp32"] = {"flags": "--bf16 false --fp16 false"}
    if not gpu:
        found["A, bf16"] = {"flags": "--bf16 true"}
        found["A, memory returned"] = {"env": returned}
    found[f"A, {attention} attention"] = {"flags": f"--attn_implementation {attention}"}
    found["A, random order"] = {"flags": "--train_sampling_strategy random"}
    if case.padded_to:
        found[f"A, padded to {case.padded_to}"] = {"pad": case.padded_to}
    return found | {"A again": {}, "B again": found["B"]}


def run_arm(name: str, case: Case, arm: dict[str, Any], folder: Path, data: Path, full: bool, model: str) -> dict:
    """Run one arm as a process of its own; its seconds from start to end and what its run.json says."""
    is_real = all((data / file).exists() for file in case.files)
    train, held_out = (data / f for f in case.files) if is_real else (f"{SAMPLES}/{f}" for f in case.sample)
    flags = "--learning_rate 2e-4" + (f" --task_name {case.task}" if is_real and case.task else "")
    quick = f"--max_steps {case.steps} --max_eval_samples 100 --save_strategy no --eval_strategy no"
    command = [sys.executable, "-m", "tests.bench", "--worker", case.recipe, "--pad", str(arm.get("pad") or 0), "--"]
    command += f"--model_name_or_path {model} --train_file {train} --validation_file {held_out} {flags}".split()
    command += f"{case.full if full else quick} {arm.get('flags', '')}".split()
    command += ["--output_dir", str(folder), "--overwrite", "true", "--disable_tqdm", "true"]
    start = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, **arm.get("env", {})})
    seconds = time.monotonic() - start
    if done.returncode:
        raise SystemExit(f"error: {name}: {done.stderr.strip().splitlines()[-1]}")
    record = json.loads((ROOT / folder / "run.json").read_text())
    score = next(value for key, value in record["results"].items() if key.startswith("eval_"))
    return {
        "recipe": case.recipe,
        "data": "real" if is_real else "sample",
        "arm": name,
        "end to end": round(seconds, 1),
        "training": record["seconds"]["training"],
        "useful tokens per second": record["useful_tokens_per_second"],
        "padding share": record["padding_share"],
        "precision": record["precision"],
        "score": score,
    }


def worker(recipe: str, pad: int, flags: list[str]) -> None:
    """Run a recipe, with every row padded to `pad` where that is asked for; no recipe has a flag for it."""
    module = importlib.import_module(f"recipes.{recipe}")
    if pad:
        collator = module.DataCollatorWithPadding
        module.DataCollatorWithPadding = lambda tokenizer, **_: collator(tokenizer, pad_to_multiple_of=pad)
        module.load_tokenizer = functools.partial(limited_tokenizer, module.load_tokenizer, pad)
    module.main(flags)


def limited_tokenizer(load: Any, pad: int, *args: Any, **kwargs: Any) -> Any:
    """Rows longer than what others are padded to would not fit: they are cut there, as the example scripts do."""
    tokenizer = load(*args, **kwargs)
    tokenizer.model_max_length = pad
    return tokenizer


def answer_choice() -> dict[str, float]:
    """Seconds for choosing the answers of 1,000 windows on one core: on arrays, and with a plain double loop."""
    import torch

    from common.postprocessing import choose_answers
    from tests.test_qa import double_loop

    torch.set_num_threads(1)
    generator = np.random.default_rng(0)
    windows, length, question = 1000, 180, 15
    spans = [[-1] * question + [5 * i for i in range(length - question)] for _ in range(windows)]
    features = {
        "row": list(range(windows)),
        "starts": spans,
        "ends": [[s + 4 if s >= 0 else -1 for s in w] for w in spans],
    }
    logits = generator.normal(size=(2, windows, length)).astype(np.float32)
    contexts = ["abcd " * length] * windows
    seconds = {}
    for name, choose in (("arrays", choose_answers), ("double loop", double_loop)):
        start = time.process_time()
        choose(*logits, features, contexts, 20, 30)
        seconds[name] = round(time.process_time() - start, 3)
    return seconds


def summary(rows: list[dict[str, Any]], choice: dict[str, float] | None) -> str:
    """The table in Markdown: per recipe and arm, the mean over its repetitions, and B's figure over the arm's."""
    lines = [
        f"Measured on {platform.machine()}, {os.cpu_count()} cores; {time.strftime('%Y-%m-%d')}.",
        "",
        "| recipe, data | arm | seconds, all | B / arm | useful tokens a second | arm / B | padding | precision |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for recipe in dict.fromkeys(row["recipe"] for row in rows):
        of_recipe = [row for row in rows if row["recipe"] == recipe]

        def mean(arm: str, key: str, of_recipe: list[dict[str, Any]] = of_recipe) -> float:
            return float(np.mean([row[key] for row in of_recipe if row["arm"].removesuffix(" again") == arm]))

        for arm in dict.fromkeys(row["arm"].removesuffix(" again") for row in of_recipe):
            row = next(row for row in of_recipe if row["arm"] == arm)
            seconds, tokens = mean(arm, "end to end"), mean(arm, "useful tokens per second")
            lines.append(
                f"| {recipe}, {row['data']} | {arm} | {seconds:.0f} | {mean('B', 'end to end') / seconds:.2f} | "
                f"{tokens:.0f} | {tokens / mean('B', 'useful tokens per second'):.2f} | "
                f"{row['padding share']:.1%} | {row['precision']} |"
            )
    if choice:
        ratio = choice["double loop"] / choice["arrays"]
        lines += ["", f"Answer choice, 1,000 windows of 180 pieces, one core: {choice['arrays']:.2f} s on arrays, "]
        lines[-1] += f"{choice['double loop']:.2f} s in a plain double loop over all spans: {ratio:.0f} times."
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser("python -m tests.bench", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--recipes", nargs="+", choices=[*CASES], default=[*CASES])
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder with real data")
    parser.add_argument("--model", default="models/all-MiniLM-L6-v2", help="checkpoint that all arms start from")
    parser.add_argument("--full", action="store_true", help="whole runs of A and B")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--pad", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("flags", nargs="*", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        worker(args.worker, args.pad, args.flags)
        return
    rows: list[dict[str, Any]] = []
    (ROOT / OUTPUT).mkdir(parents=True, exist_ok=True)
    for recipe in args.recipes:
        for name, arm in arms(CASES[recipe], args.full).items():
            folder = OUTPUT / f"{recipe}-{name.replace(', ', '-').replace(' ', '-')}"
            rows.append(run_arm(name, CASES[recipe], arm, folder, args.data, args.full, args.model))
            print(", ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
            (ROOT / OUTPUT / "bench.json").write_text(json.dumps(rows, indent=1) + "\n")
    choice = answer_choice() if "qa" in args.recipes else None
    text = summary(rows, choice)
    (ROOT / OUTPUT / "bench.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
