"""GLUE: one model on any of the nine tasks over several seeds, beside published figures of the same split.

Every task:              python -m recipes.glue --model_name_or_path google-bert/bert-base-cased
Two tasks, five seeds:   make glue TASKS="mrpc rte" SEEDS=5
Your copies, no network: python -m recipes.glue --data_dir data --tasks mrpc

Copies are data/mrpc/train.csv, data/mrpc/validation.csv and so on. Each run is `recipes.text_classification` or
`recipes.nli` as a process of its own, in its own folder under --output_dir; flags unknown here go to them. Repeat the
command after an interruption: finished runs are not repeated.
Scores are of the validation (dev) split, and are set beside published figures of dev alone; those of test stand apart.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from common.compare import read_run, row_scores
from common.errors import InputError, OneLineParser, run_as_command
from common.statistics import RowScore, bootstrap_interval
from common.tables import table

# Recipe and metrics of each task, in the order of the GLUE paper (Wang et al. 2019, table 1).
TASKS = {
    "cola": ("text_classification", ("matthews_correlation",)),
    "sst2": ("text_classification", ("accuracy",)),
    "mrpc": ("nli", ("f1", "accuracy")),
    "stsb": ("nli", ("pearson", "spearmanr")),
    "qqp": ("nli", ("accuracy", "f1")),
    "mnli": ("nli", ("matched_accuracy", "mismatched_accuracy")),
    "qnli": ("nli", ("accuracy",)),
    "rte": ("nli", ("accuracy",)),
    "wnli": ("nli", ("accuracy",)),
}
BASELINES = Path(__file__).with_name("baselines.json")


def parse_arguments(argv: list[str] | None) -> tuple[argparse.Namespace, list[str]]:
    parser = OneLineParser("python -m recipes.glue", description=__doc__, allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--model_name_or_path", default="google-bert/bert-base-cased", help="any encoder")
    parser.add_argument("--tasks", nargs="+", default=[*TASKS], help=f"of {' '.join(TASKS)}; unset: all")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3], help="one run each; unset: 1 2 3")
    parser.add_argument("--learning_rates", nargs="+", default=[None], help="try each, keep the best on validation")
    parser.add_argument("--data_dir", type=Path, help="folder with <task>/train.csv and validation.csv; unset: the Hub")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/glue"), help="unset: runs/glue")
    args, passed_on = parser.parse_known_args(argv)
    unknown = [task for task in args.tasks if task not in TASKS]
    if unknown:
        raise InputError(f"--tasks {unknown[0]}: must be of {', '.join(TASKS)}")
    owned = [flag for flag in passed_on if flag in ("--seed", "--task_name", "--learning_rate")]
    if owned:
        raise InputError(f"{owned[0]}: is set for each run; use --seeds, --tasks or --learning_rates")
    return args, passed_on


def command(args: argparse.Namespace, passed_on: list[str], task: str, rate: str | None, seed: int) -> list[str]:
    """The command of one run, as a user would give it."""
    model = Path(args.model_name_or_path).name
    folder = args.output_dir / model / "-".join([task, *([rate] if rate else []), f"seed{seed}"])
    flags = ["--task_name", task, "--model_name_or_path", args.model_name_or_path, "--seed", str(seed)]
    if args.data_dir is not None:
        flags += ["--train_file", f"{args.data_dir}/{task}/train.csv"]
        if task == "mnli" and (args.data_dir / task / "validation_matched.csv").exists():
            flags += ["--validation_file", f"{args.data_dir}/{task}/validation_matched.csv"]
            flags += ["--validation_mismatched_file", f"{args.data_dir}/{task}/validation_mismatched.csv"]
        else:
            flags += ["--validation_file", f"{args.data_dir}/{task}/validation.csv"]
    flags += ["--learning_rate", rate] if rate else []
    return [sys.executable, "-m", f"recipes.{TASKS[task][0]}", *flags, "--output_dir", str(folder), *passed_on]


def run_all(args: argparse.Namespace, passed_on: list[str]) -> tuple[dict, dict]:
    """Run what is not finished; (task, rate, seed) -> folder of the finished, and -> error line of the failed."""
    wanted = [(task, rate, seed) for task in args.tasks for rate in args.learning_rates for seed in args.seeds]
    done, failed, began, fresh = {}, {}, time.monotonic(), 0
    for number, (task, rate, seed) in enumerate(wanted, 1):
        line = command(args, passed_on, task, rate, seed)
        folder = Path(line[line.index("--output_dir") + 1])
        start = time.monotonic()
        process = subprocess.run(line, capture_output=True, text=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.with_suffix(".log").write_text(process.stdout + process.stderr, encoding="utf-8")
        reused = "this run is finished" in process.stdout
        fresh += not reused
        if process.returncode in (130, 143):
            raise SystemExit(process.returncode)
        if process.returncode:
            errors = [text for text in process.stderr.splitlines() if text.strip()]
            failed[task, rate, seed] = errors[-1].removeprefix("error: ") if errors else f"exit {process.returncode}"
            outcome = f"FAILED: {failed[task, rate, seed]}"
        else:
            done[task, rate, seed] = folder
            results = json.loads((folder / "all_results.json").read_text(encoding="utf-8"))
            outcome = ", ".join(f"{name} {results[key]:.4f}" for name, key in reported(task, results).items())
        left = (time.monotonic() - began) / max(1, fresh) * (len(wanted) - number) / 60
        took = "finished before" if reused else f"{(time.monotonic() - start) / 60:.1f} min"
        name = " ".join([task, *([rate] if rate else []), f"seed {seed}"])
        print(f"[{number}/{len(wanted)}] {name}: {outcome} ({took}; about {left:.0f} min left)", flush=True)
    return done, failed


def reported(task: str, results: dict[str, float]) -> dict[str, str]:
    """Metric -> its key in a run's results; MNLI without its second split gives accuracy on the one there was."""
    names = {name: f"eval_{name}" for name in TASKS[task][1] if f"eval_{name}" in results}
    return names or ({"matched_accuracy": "eval_accuracy"} if task == "mnli" and "eval_accuracy" in results else {})


def best_rate(args: argparse.Namespace, done: dict, task: str) -> tuple[str | None, dict[str, float]]:
    """The learning rate with the best mean of the task's first metric, and that mean for each rate."""
    means = {}
    for rate in args.learning_rates:
        folders = [done[task, rate, seed] for seed in args.seeds if (task, rate, seed) in done]
        values = [next(iter(read_scores(task, folder).values())) for folder in folders]
        if values:
            means[rate] = float(np.mean(values))
    return max(means, key=means.get, default=None), means


def read_scores(task: str, folder: Path) -> dict[str, float]:
    results = json.loads((folder / "all_results.json").read_text(encoding="utf-8"))
    return {name: results[key] for name, key in reported(task, results).items()}


def interval(task: str, metric: str, folders: list[Path]) -> tuple[float, float] | None:
    """The 95 % bootstrap interval over validation rows of the mean over seeds; None where predictions are of test,
    of MNLI's other split, or the metric is not resampled (Spearman's)."""
    name = metric.removeprefix("matched_")
    scores = []
    for folder in folders:
        rows, record = read_run(str(folder))
        found = row_scores(rows, str(folder), record).get(name)
        if found is None or any(key.startswith("test_") for key in record["results"]):
            return None
        scores.append(found)
    width = scores[0].columns.shape[1]

    def mean(sums: np.ndarray) -> np.ndarray:
        parts = [score.of_sums(sums[..., i * width : (i + 1) * width]) for i, score in enumerate(scores)]
        return np.mean(parts, axis=0)

    return bootstrap_interval(RowScore(np.concatenate([score.columns for score in scores], axis=1), mean))


def load_baselines() -> list[dict]:
    """
    Raises:
        InputError: a row without source or split.
    """
    rows = json.loads(BASELINES.read_text(encoding="utf-8"))
    for row in rows:
        if not row.get("source") or row.get("split") not in ("dev", "test"):
            raise InputError(
                f"{BASELINES}: {row.get('model')}: every row needs a source, and a split that is dev or test"
            )
    return rows


def published(baselines: list[dict], model: str, task: str, split: str) -> dict | None:
    """The baseline of the same model if there is one, else the first with the task."""
    rows = [row for row in baselines if row["split"] == split and task in row["scores"]]
    same = [row for row in rows if row["model"] == Path(model).name]
    return next(iter(same + rows), None)


def summarize(
    args: argparse.Namespace, done: dict, failed: dict, baselines: list[dict]
) -> tuple[list[dict], list[str]]:
    """One entry per task and metric, and the notes that belong under the table."""
    entries, notes = [], [f"{task} seed {seed}: failed: {why}" for (task, _, seed), why in failed.items()]
    for task in args.tasks:
        rate, means = best_rate(args, done, task)
        folders = [done[task, rate, seed] for seed in args.seeds if (task, rate, seed) in done]
        if len(args.learning_rates) > 1 and means:
            tried = ", ".join(f"{name} {100 * mean:.2f}" for name, mean in means.items())
            notes.append(
                f"{task}: learning rate {rate} is the best on validation itself, so its score flatters ({tried})."
            )
        for metric in read_scores(task, folders[0]) if folders else ():
            values = [100 * read_scores(task, folder)[metric] for folder in folders]
            found = interval(task, metric, folders)
            entry = {"task": task, "metric": metric, "seeds": len(values), "mean": float(np.mean(values))}
            entry |= {"sd": float(np.std(values, ddof=1)) if len(values) > 1 else None, "best": max(values)}
            entry |= {"interval": None if found is None else [100 * value for value in found], "learning_rate": rate}
            for split in ("dev", "test"):
                row = published(baselines, args.model_name_or_path, task, split)
                figure = row and row["scores"][task].get(metric)
                other = figure is not None and {"model": row["model"], "score": figure, "source": row["source"]}
                entry[f"published_{split}"] = other or None
            entries.append(entry)
    missing = [task for task in TASKS if task not in {entry["task"] for entry in entries}]
    if missing:
        notes.append(f"No GLUE average: it is over nine tasks, and {', '.join(missing)} is missing.")
    else:  # the mean over tasks of the mean over a task's metrics, in percent
        means = [np.mean([e["mean"] for e in entries if e["task"] == task]) for task in TASKS]
        notes.append(f"GLUE average over nine tasks, dev: {np.mean(means):.1f}.")
    return entries, notes


def render(entries: list[dict], notes: list[str]) -> str:
    """The table as text; scores in percent."""

    def number(value: float | None) -> str:
        return "-" if value is None else f"{value:.2f}"

    rows = []
    for entry in entries:
        dev = entry["published_dev"]
        low, high = entry["interval"] or (None, None)
        difference = None if dev is None else entry["mean"] - dev["score"]
        cells = [entry["mean"], entry["sd"], entry["best"], low, high, dev and dev["score"], difference]
        rows.append([f"{entry['task']} {entry['metric']}", entry["seeds"], *map(number, cells)])
    header = ["dev", "seeds", "mean", "sd", "best", "95 % from", "to", "published", "difference"]
    lines = [table(header, rows)]
    for split in ("dev", "test"):
        found = [(e["task"], e["metric"], e[f"published_{split}"]) for e in entries if e[f"published_{split}"]]
        for model, source in dict.fromkeys((p["model"], p["source"]) for _, _, p in found):
            figures = [f"{t} {m} {p['score']}" for t, m, p in found if (p["model"], p["source"]) == (model, source)]
            aside = "" if split == "dev" else ", another split, not to be compared"
            lines.append(f"Published on {split}{aside}: {model} ({source}): {', '.join(figures)}.")
    return "\n".join([*lines, "Intervals: bootstrap over validation rows of the mean over seeds.", *notes])


def main(argv: list[str] | None = None) -> list[dict]:
    args, passed_on = parse_arguments(argv)
    baselines = load_baselines()
    done, failed = run_all(args, passed_on)
    entries, notes = summarize(args, done, failed, baselines)
    text = render(entries, notes)
    folder = args.output_dir / Path(args.model_name_or_path).name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "glue.json").write_text(json.dumps({"scores": entries, "notes": notes}, indent=1) + "\n")
    (folder / "glue.md").write_text(f"```\n{text}\n```\n")
    print(f"\n{text}\n\nIn {folder}: glue.md, glue.json, and a folder and a log for each run.")
    if failed:
        raise InputError(f"{len(failed)} of {len(failed) + len(done)} runs failed; their logs are in {folder}")
    return entries


if __name__ == "__main__":
    run_as_command(main)
