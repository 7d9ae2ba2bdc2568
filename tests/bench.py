"""What the defaults are worth: each recipe as it is (A), at the example scripts' settings (B), A without each choice.

    python -m tests.bench                    # a fixed number of steps per arm, about 15 minutes on 2 cores
    python -m tests.bench --full             # whole runs of A and B, one seed: hours on a CPU
    python -m tests.bench --gpu              # BERT-base with random weights on a GPU: A, B, A packed, A compiled
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
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parent.parent
OUTPUT = Path("runs/bench")
SAMPLES = "recipes/samples/{}"


@dataclass
class Case:
    """A recipe on a dataset: the task, and how the example script pads."""

    files: str  # {} stands for train or validation
    sample: str
    splits: tuple[str, str]  # of the files
    task: str | None
    steps: int  # of a quick run
    full: str  # flags of a whole run
    padded_to: int | None  # what the example script pads every row to; None: to the longest of the batch

    def paths(self, data: Path) -> tuple[bool, list[str]]:
        """Whether the real data is there, and its files or those of the bundled sample."""
        real = [data / self.files.format(split) for split in self.splits]
        is_real = all(path.exists() for path in real)
        return is_real, [str(p) for p in real] if is_real else [SAMPLES.format(self.sample.format(s)) for s in USUAL]


USUAL = ("train", "validation")
SST2 = "--num_train_epochs 1 --max_train_samples 10000"
CONLL = "--num_train_epochs 3 --max_train_samples 3000"
SQUAD = "--num_train_epochs 1 --max_train_samples 2000 --max_eval_samples 2000"
CASES = {
    "nli": Case("mrpc/{}.csv", "nli/{}.csv", USUAL, "mrpc", 6, "--num_train_epochs 3", 128),
    "text_classification": Case("sst2/{}.csv", "text_classification/{}.csv", USUAL, "sst2", 10, SST2, 128),
    "ner": Case("conll2003/{}.txt", "ner/{}.conll", USUAL, None, 12, CONLL, None),
    "qa": Case("squad/{}-v1.1.json", "qa/{}.json", ("train", "dev"), None, 4, SQUAD, 384),
}
KEPT = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "2147483647"}  # as the Makefile sets them


def arms(case: Case, only_defaults: bool) -> dict[str, dict[str, Any]]:
    """What each arm changes: flags, what rows are padded to, and whether freed memory is kept."""
    import torch

    from common.training import cpu_bf16_speedup

    gpu = torch.cuda.is_available()
    stock = f"--bf16 false --fp16 false --packing false --attn_implementation {'eager' if gpu else 'sdpa'} "
    stock += "--cpu_tuning false --per_device_eval_batch_size 8 --logging_nan_inf_filter true" + " --tf32 false" * gpu
    found: dict[str, dict[str, Any]] = {"A": {}, "B": {"flags": stock, "pad": case.padded_to, "env": {}}}
    if only_defaults:
        return found
    if gpu:
        return found | {"A, packed": {"flags": "--packing true"}, "A, compiled": {"flags": "--torch_compile true"}}
    if cpu_bf16_speedup() > 1.5:
        found["A, fp32"] = {"flags": "--bf16 false"}
    found["A, padded to the longest"] = {"flags": "--packing false"}
    found["A, no CPU tuning"] = {"flags": "--cpu_tuning false"}
    return found | {"A, memory returned": {"env": {}}, "A again": {}, "B again": found["B"]}


def run_arm(name: str, recipe: str, arm: dict[str, Any], folder: Path, data: Path, model: str, length: str) -> dict:
    """Run one arm as a process of its own; its seconds from start to end and what its run.json says."""
    case = CASES[recipe]
    is_real, (train, held_out) = case.paths(data)
    flags = "--learning_rate 2e-4" + (f" --task_name {case.task}" if is_real and case.task else "")
    command = [sys.executable, "-m", "tests.bench", "--worker", recipe, "--pad", str(arm.get("pad") or 0), "--"]
    command += f"--model_name_or_path {model} --train_file {train} --validation_file {held_out} {flags}".split()
    command += f"{length} --save_strategy no --eval_strategy no {arm.get('flags', '')}".split()
    command += ["--output_dir", str(folder), "--disable_tqdm", "true"]
    shutil.rmtree(ROOT / folder, ignore_errors=True)  # a run that was stopped would be resumed
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    environment |= arm.get("env", KEPT)
    start = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    seconds = time.monotonic() - start
    if done.returncode:
        raise SystemExit(f"error: {name}: {done.stderr.strip().splitlines()[-1]}")
    record = json.loads((ROOT / folder / "run.json").read_text())
    score = next(record["results"][key] for key in ("eval_f1", "eval_accuracy") if key in record["results"])
    return {
        "recipe": recipe,
        "data": "real" if is_real else "sample",
        "arm": name,
        "end to end": round(seconds, 1),
        "training": record["seconds"]["training"],
        "useful tokens per second": record["useful_tokens_per_second"],
        "precision": record["precision"],
        "score": score,
    }


def worker(recipe: str, pad: int, flags: list[str]) -> None:
    """Run a recipe, with every row padded to `pad`, for which no recipe has a flag."""
    from common import training

    module = importlib.import_module(f"recipes.{recipe}")
    if pad:
        collator = module.DataCollatorWithPadding
        module.DataCollatorWithPadding = lambda tokenizer, **_: collator(tokenizer, pad_to_multiple_of=pad)
        training.load_tokenizer = functools.partial(limited_tokenizer, training.load_tokenizer, pad)
    module.main(flags)


def limited_tokenizer(load: Any, pad: int, *args: Any, **kwargs: Any) -> Any:
    """Rows longer than what others are padded to would not fit: they are cut there, as the example scripts do."""
    tokenizer = load(*args, **kwargs)
    tokenizer.model_max_length = pad
    return tokenizer


def bert_base(tokenizer_from: str) -> str:
    """The folder of a BERT-base with random weights, which serves for speed."""
    from transformers import AutoTokenizer, BertConfig, BertModel

    folder = ROOT / OUTPUT / "bert-base"
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_from)
    model = BertModel(BertConfig(vocab_size=len(tokenizer)))
    tokenizer.model_max_length = model.config.max_position_embeddings
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def processor() -> str:
    """The processor's name, and how many times as fast as fp32 it multiplies bf16."""
    from common.training import cpu_bf16_speedup

    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return f"{names[0].split(': ')[1] if names else platform.machine()} (bf16 {cpu_bf16_speedup():.1f} times fp32)"


def summary(rows: list[dict[str, Any]]) -> str:
    """The table in Markdown: per recipe and arm, the mean over its repetitions, and B's figure over the arm's."""
    lines = [
        f"Measured on {processor()}, {os.cpu_count()} cores; {time.strftime('%Y-%m-%d')}.",
        "",
        "| recipe, data | arm | seconds, all | B / arm | useful tokens a second | arm / B | precision | score |",
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
                f"{row['precision']} | {row['score']:.4f} |"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser("python -m tests.bench", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--recipes", nargs="+", choices=[*CASES], default=[*CASES])
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder with real data")
    parser.add_argument("--model", default="models/all-MiniLM-L6-v2", help="checkpoint that all arms start from")
    parser.add_argument("--arms", nargs="+", help='some of them: --arms A B "A, packed"')
    parser.add_argument("--full", action="store_true", help="whole runs of A and B")
    parser.add_argument(
        "--gpu", action="store_true", help="BERT-base with random weights: A, B, A packed and A compiled"
    )
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--pad", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("flags", nargs="*", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        worker(args.worker, args.pad, args.flags)
        return
    rows: list[dict[str, Any]] = []
    (ROOT / OUTPUT).mkdir(parents=True, exist_ok=True)
    model = bert_base(args.model) if args.gpu else args.model
    for recipe in args.recipes:
        case = CASES[recipe]
        length = f"--max_steps {case.steps} --max_train_samples 2000 --max_eval_samples 100"
        if args.gpu:
            length = "--max_steps 200 --max_train_samples 20000 --max_eval_samples 100 --per_device_train_batch_size 32"
        for name, arm in arms(case, args.full).items():
            if args.arms and name not in args.arms:
                continue
            folder = OUTPUT / f"{recipe}-{name.replace(', ', '-').replace(' ', '-')}"
            rows.append(run_arm(name, recipe, arm, folder, args.data, model, case.full if args.full else length))
            print(", ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
            (ROOT / OUTPUT / "bench.json").write_text(json.dumps(rows, indent=1) + "\n")
    text = summary(rows)
    (ROOT / OUTPUT / "bench.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
