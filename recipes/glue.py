"""GLUE: one model on any of the nine tasks over several seeds, beside published figures of the same split.

Every task:              python -m recipes.glue --model_name_or_path google-bert/bert-base-cased
Two tasks, five seeds:   make glue TASKS="mrpc rte" SEEDS=5
What it would cost:      make glue ARGS="--dry_run"
Your copies, no network: python -m recipes.glue --data_dir data --tasks mrpc

Copies are data/mrpc/train.csv, data/mrpc/validation.csv and so on, or the official download (data/MRPC/train.tsv).
Each run is `recipes.text_classification` or `recipes.nli` as a process of its own, in its own folder under
--output_dir; flags unknown here go to them. Repeat the command after an interruption: finished runs are not repeated.
Scores are of the validation (dev) split, and are set beside published figures of dev alone; those of test stand apart.
Each choice of tasks, seeds and settings keeps a table of its own, glue-<digest>.md; glue.md is the newest.
"""

import argparse
import json
import math
import shlex
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from common.data import read_rows
from common.errors import InputError, OneLineParser, run_as_command
from common.metrics import table
from recipes.tools import runner
from recipes.tools.baselines import chance_of_difference, incomparable, load_baselines, published
from recipes.tools.compare import read_run, row_scores, rows_with_gold
from recipes.tools.glue_files import OFFICIAL, SUBMISSION, convert_official, is_official, write_submission
from recipes.tools.report import trivial
from recipes.tools.statistics import RowScore, bootstrap_interval

# Recipe, metrics and rows of train and validation of each task (Wang et al. 2019, table 1; MNLI's two dev sets).
TASKS = {
    "cola": ("text_classification", ("matthews_correlation",), (8551, 1043)),
    "sst2": ("text_classification", ("accuracy",), (67349, 872)),
    "mrpc": ("nli", ("f1", "accuracy"), (3668, 408)),
    "stsb": ("nli", ("pearson", "spearmanr"), (5749, 1500)),
    "qqp": ("nli", ("accuracy", "f1"), (363846, 40430)),
    "mnli": ("nli", ("matched_accuracy", "mismatched_accuracy"), (392702, 19647)),
    "qnli": ("nli", ("accuracy",), (104743, 5463)),
    "rte": ("nli", ("accuracy",), (2490, 277)),
    "wnli": ("nli", ("accuracy",), (635, 71)),
}
# Tasks that BERT's successors since RoBERTa (arXiv 1907.11692, section 5.1) start from a model of MNLI.
SECOND_ROUND = ("rte", "mrpc", "stsb")
DEFAULT_MODEL = "google-bert/bert-base-cased"
PROBE_STEPS = 20
Run = tuple[str, str | None, int]  # task, learning rate as given, seed


def parse_arguments(argv: list[str] | None) -> tuple[argparse.Namespace, list[str]]:
    parser = OneLineParser("python -m recipes.glue", description=__doc__)
    parser.add_argument("--model_name_or_path", default=DEFAULT_MODEL, help="any encoder")
    parser.add_argument("--tasks", nargs="+", help=f"of {' '.join(TASKS)}; unset: all")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3], help="one run each; unset: 1 2 3")
    parser.add_argument("--learning_rates", nargs="+", default=[None], help="try each, keep the best on validation")
    parser.add_argument("--data_dir", type=Path, help="folder with <task>/train.csv and validation.csv; unset: the Hub")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/glue"), help="unset: runs/glue")
    parser.add_argument("--jobs", type=int, help="runs side by side; unset: one for each accelerator, on a CPU one")
    parser.add_argument(
        "--from_mnli", type=Path, help="a finished run of mnli: rte, mrpc and stsb start from it with a new head"
    )
    parser.add_argument("--submission", action="store_true", help="write the eleven test files and their zip as well")
    parser.add_argument("--dry_run", action="store_true", help="say how many runs and hours it would be, and stop")
    args, passed_on = parser.parse_known_args(argv)
    known = SECOND_ROUND if args.from_mnli else TASKS
    args.tasks = args.tasks or [*known]
    unknown = [task for task in args.tasks if task not in known]
    if unknown:
        raise InputError(f"--tasks {unknown[0]}: must be of {', '.join(known)}{' with --from_mnli' * (known != TASKS)}")
    owned = {"--seed": "--seeds", "--task_name": "--tasks", "--learning_rate": "--learning_rates"}
    runner.refuse_owned(passed_on, owned)
    missing = [task for task in TASKS if task not in args.tasks]
    if args.submission and missing:
        raise InputError(f"--submission: needs every task, and --tasks lacks {', '.join(missing)}")
    args.seeds = [*dict.fromkeys(args.seeds)]
    args.output_dir /= Path(args.model_name_or_path).name
    args.start = args.model_name_or_path
    return args, passed_on


def start_from_mnli(args: argparse.Namespace) -> None:
    """Set where the runs start, the model that it came from, and a folder that they share with no others."""
    if args.from_mnli is None:
        return
    arguments = read_run(args.from_mnli)["arguments"]
    if arguments.get("task_name") != "mnli":
        raise InputError(f"--from_mnli {args.from_mnli}: is not a run of mnli; make one with --tasks mnli")
    if args.model_name_or_path not in (DEFAULT_MODEL, arguments["model_name_or_path"]):
        raise InputError(
            f"--from_mnli {args.from_mnli}: is not a run of --model_name_or_path; leave out one of the two"
        )
    args.start, args.model_name_or_path = str(args.from_mnli), arguments["model_name_or_path"]
    name = f"{Path(args.model_name_or_path).name}-from-{args.from_mnli.name}"
    args.output_dir = args.output_dir.parent / name


def convert_download(args: argparse.Namespace) -> None:
    """Where --data_dir is the official download, read it once into files that the recipes read."""
    if args.data_dir is None:
        return
    official = [task for task in (*args.tasks, "ax") if is_official(args.data_dir, task)]
    if any(task in official for task in args.tasks):
        missing = [task for task in args.tasks if task not in official]
        if missing:
            raise InputError(
                f"{args.data_dir}: has no {OFFICIAL[missing[0]][0]}/*.tsv; leave {missing[0]} out of --tasks"
            )
        for task in official:
            convert_official(args.data_dir, task, args.output_dir / "data")
        args.data_dir = args.output_dir / "data"


def command(args: argparse.Namespace, passed_on: list[str], run: Run) -> list[str]:
    """The command of one run, as a user would give it. Predictions of the test split are `--submission`'s business."""
    task, rate, seed = run
    flags = ["--task_name", task, "--model_name_or_path", args.start, "--seed", str(seed), "--do_predict", "false"]
    flags += ["--new_head", "true"] if args.from_mnli else []
    if args.data_dir is not None:
        flags += ["--train_file", f"{args.data_dir}/{task}/train.csv"]
        for split, path in validation_files(args, task).items():
            flags += [f"--{split}_file", str(path)]
    flags += ["--learning_rate", rate] if rate else []
    flags += ["--output_dir", str(folder_of(args, run)), *passed_on]
    return [sys.executable, "-m", f"recipes.{TASKS[task][0]}", *flags]


def folder_of(args: argparse.Namespace, run: Run) -> Path:
    task, rate, seed = run
    return args.output_dir / "-".join([task, *([rate] if rate else []), f"seed{seed}"])


def validation_files(args: argparse.Namespace, task: str) -> dict[str, Path]:
    folder = args.data_dir / task
    if task == "mnli" and (folder / "validation_matched.csv").exists():
        names = {"validation": "validation_matched", "validation_mismatched": "validation_mismatched"}
        return {split: folder / f"{name}.csv" for split, name in names.items()}
    return {"validation": folder / "validation.csv"}


def run_all(args: argparse.Namespace, passed_on: list[str]) -> tuple[dict[Run, Path], dict[str, str]]:
    """Run what is not finished; the folders of the finished runs and, by name, the error lines of the failed ones."""
    wanted = [(task, rate, seed) for task in args.tasks for rate in args.learning_rates for seed in args.seeds]
    jobs = {run: runner.Job(name_of(run), command(args, passed_on, run), folder_of(args, run)) for run in wanted}
    failed = runner.run_all([*jobs.values()], args.jobs, lambda job: read_scores(job.name.split()[0], job.folder))
    return {run: job.folder for run, job in jobs.items() if job.name not in failed}, failed


def name_of(run: Run) -> str:
    task, rate, seed = run
    return " ".join([task, *([rate] if rate else []), f"seed {seed}"])


# What it would cost


def estimate(args: argparse.Namespace, passed_on: list[str]) -> str:
    """Runs, steps and hours of each task, from `PROBE_STEPS` steps of it on this machine. An evaluated row is taken
    for a third of a trained one: the forward pass without the backward pass."""
    rows, runs = [], len(args.seeds) * len(args.learning_rates)
    limits = argparse.ArgumentParser(allow_abbrev=False)
    limits.add_argument("--max_eval_samples", type=int, default=sys.maxsize)
    limits.add_argument("--max_steps", type=int, default=-1)
    given = limits.parse_known_args(passed_on)[0]
    for task in args.tasks:
        with tempfile.TemporaryDirectory() as folder:
            line = command(args, passed_on, (task, args.learning_rates[0], args.seeds[0]))
            line += ["--output_dir", f"{folder}/probe", "--max_steps", str(PROBE_STEPS), "--do_eval", "false"]
            line += ["--eval_strategy", "no", "--save_strategy", "no"]
            probe = next(runner.run_jobs([runner.Job(task, line, Path(folder, "probe"))]))
            if probe.error:
                raise InputError(f"{task}: {probe.error}")
            record = read_run(Path(folder, "probe"))
        validation = min(validation_rows(args, task), given.max_eval_samples)
        batch, epochs = record["total_batch_size"], float(record["identity"]["num_train_epochs"])
        steps = given.max_steps
        if steps <= 0:
            steps = math.ceil(math.ceil(record["data"]["splits"]["train"]["rows"] / batch) * epochs)
        step = record["seconds"]["training"] / PROBE_STEPS
        # Evaluated after each epoch and once more at the end.
        seconds = record["seconds"]["set-up"] + step * (steps + (1 + math.ceil(epochs)) * validation / batch / 3)
        rows.append([task, runs, steps, f"{seconds / 60:.1f}", runs * seconds / 3600])
        print(f"{task}: {seconds / 60:.1f} min a run", flush=True)
    rows.append(["all", runs * len(rows), sum(runs * row[2] for row in rows), "-", sum(row[4] for row in rows)])
    how = f"One run after another on {record['device']} in {record['precision']}, from {PROBE_STEPS} steps of each."
    return f"{table(['task', 'runs', 'steps', 'minutes a run', 'hours'], rows)}\n{how}"


def validation_rows(args: argparse.Namespace, task: str) -> int:
    if args.data_dir is None:
        return TASKS[task][2][1]
    return sum(sum(1 for _ in read_rows(str(path))) for path in validation_files(args, task).values())


# Scores


def read_scores(task: str, folder: Path) -> dict[str, float]:
    """Metric -> score of a run; MNLI without its second split gives accuracy on the one there was."""
    results = json.loads((folder / "all_results.json").read_text(encoding="utf-8"))
    scores = {name: results[f"eval_{name}"] for name in TASKS[task][1] if f"eval_{name}" in results}
    return scores or {"matched_accuracy": results["eval_accuracy"]}


def best_rate(args: argparse.Namespace, done: dict[Run, Path], task: str) -> tuple[str | None, dict[str, float]]:
    """The learning rate with the best mean of the task's first metric, and that mean for each rate."""
    means = {}
    for rate in args.learning_rates:
        folders = [done[task, rate, seed] for seed in args.seeds if (task, rate, seed) in done]
        values = [next(iter(read_scores(task, folder).values())) for folder in folders]
        if values:
            means[rate] = float(np.mean(values))
    return max(means, key=means.get, default=None), means


def interval(metric: str, runs: list[dict[str, RowScore]]) -> list[float] | None:
    """The 95 % bootstrap interval in percent, over validation rows and seeds, of the mean over seeds, from the
    `row_scores` of each run; None for MNLI's mismatched half, which `predictions.jsonl` does not hold."""
    scores = [scores.get(metric.removeprefix("matched_")) for scores in runs]
    return None if None in scores else [100 * value for value in bootstrap_interval(scores)]


def made_with(folder: Path, record: dict[str, Any]) -> dict[str, Any]:
    """What a run was made with, in the words of the table."""
    splits, arguments, batch = record["data"]["splits"], record["arguments"], record["total_batch_size"]
    epochs = round(arguments["num_train_epochs"], 2)
    if arguments["max_steps"] > 0:
        epochs = round(arguments["max_steps"] * batch / splits["train"]["rows"], 2)
    return {
        "million parameters": parameters(folder),
        "training rows": splits["train"]["rows"],
        "validation rows": sum(facts["rows"] for split, facts in splits.items() if split.startswith("validation")),
        "epochs": epochs,
        "learning rate": arguments["learning_rate"],
        "batch": batch,
        "precision": f"{record['precision']} on {record['device']}",
    }


def parameters(folder: Path) -> float | None:
    """Of a saved model, in millions; None where there are no weights."""
    from safetensors import safe_open

    count = 0
    for path in folder.glob("model*.safetensors"):
        with safe_open(path, "numpy") as file:
            count += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    return round(count / 1e6, 1) or None


def summarize(args: argparse.Namespace, done: dict[Run, Path]) -> tuple[list[dict], list[str]]:
    """One entry per task and metric, and the notes that belong under the table."""
    entries, notes, baselines = [], [], load_baselines()
    for task in args.tasks:
        rate, means = best_rate(args, done, task)
        folders = [done[task, rate, seed] for seed in args.seeds if (task, rate, seed) in done]
        if not folders:
            continue
        if len(args.learning_rates) > 1:
            tried = ", ".join(f"{name} {100 * mean:.2f}" for name, mean in means.items())
            notes.append(
                f"{task}: learning rate {rate} is the best on validation itself, so its score flatters ({tried})."
            )
        # Read once, for all metrics.
        of_runs = [rows_with_gold(str(folder)) for folder in folders]
        runs = [row_scores(rows, record) for rows, record in of_runs]
        record = of_runs[0][1]
        made = made_with(folders[0], record)
        notes.append(
            f"{task}: {', '.join(f'{name} {value}'.removesuffix('.0') for name, value in made.items() if value)}."
        )
        for metric in read_scores(task, folders[0]):
            values = [100 * read_scores(task, folder)[metric] for folder in folders]
            entry = {"task": task, "metric": metric, "values": values, "mean": float(np.mean(values))}
            entry |= {"made": made, "runs": [folder.name for folder in folders], "best": max(values)}
            entry |= {
                "sd": float(np.std(values, ddof=1)) if len(values) > 1 else None,
                "interval": interval(metric, runs),
            }
            for split in ("dev", "test"):
                entry[f"published_{split}"] = published(baselines, args.model_name_or_path, task, metric, split)
            dev = entry["published_dev"]
            reasons = incomparable(made, dev, TASKS[task][2]) if dev else []
            reasons += ["started from MNLI"] if args.from_mnli else []
            entry |= {"incomparable": reasons, "chance": None}
            if dev and reasons:
                notes.append(f"* {task}: not comparable with the published figure: {'; '.join(reasons)}.")
            elif dev:
                entry["chance"] = chance_of_difference(values, dev["score"], dev["sd"], dev["runs"])
            base = trivial(record, "validation", metric.removeprefix("matched_"))
            entry["trivial"] = base and 100 * base[1]
            if base and entry["interval"] and entry["interval"][0] <= entry["trivial"]:
                notes.append(f"{task} {metric}: cannot be told from {base[0]} ({entry['trivial']:.2f}).")
            entries.append(entry)
    if {entry["task"] for entry in entries} == set(TASKS):  # in percent, over tasks of the mean over a task's metrics
        means = [np.mean([e["mean"] for e in entries if e["task"] == task]) for task in TASKS]
        notes.append(f"GLUE average over nine tasks, dev: {np.mean(means):.1f}.")
    return entries, list(dict.fromkeys(notes))


def render(entries: list[dict], notes: list[str]) -> str:
    """The table as text; scores in percent."""

    def number(value: float | None) -> str:
        return "-" if value is None else f"{value:.2f}"

    rows = []
    for entry in entries:
        dev = entry["published_dev"]
        name = f"{entry['task']} {entry['metric']}"
        scores = [entry["mean"], entry["sd"], entry["best"], *(entry["interval"] or (None, None)), entry["trivial"]]
        figure = "-" if dev is None else number(dev["score"]) + " *" * bool(entry["incomparable"])
        difference = None if dev is None else entry["mean"] - dev["score"]
        beside = [figure, number(difference), number(entry["chance"])]
        rows.append([name, len(entry["values"]), *map(number, scores), *beside])
    header = ["dev", "seeds", "mean", "sd", "best", "95 % from", "to", "trivial", "published", "difference", "chance"]
    lines = [table(header, rows)]
    for split in ("dev", "test"):
        found = [(e["task"], e["metric"], e[f"published_{split}"]) for e in entries if e[f"published_{split}"]]
        for model, source in dict.fromkeys((p["model"], p["source"]) for _, _, p in found):
            figures = [f"{t} {m} {p['score']}" for t, m, p in found if (p["model"], p["source"]) == (model, source)]
            aside = "" if split == "dev" else ", another split, not to be compared"
            lines.append(f"Published on {split}{aside}: {model} ({source}): {', '.join(figures)}.")
    lines.append(
        "Intervals: bootstrap over validation rows and seeds of the mean over seeds. trivial: always the commonest "
        "label of train.\nchance: of such a difference if both models were equally good (Welch), where both have "
        "several seeds."
    )
    return "\n".join([*lines, *notes])


def submit(args: argparse.Namespace, passed_on: list[str], done: dict[Run, Path]) -> Path:
    """Answer the eleven test files, each with its task's best run on validation, and write the submission."""
    best = {}
    for run in done:
        score = next(iter(read_scores(run[0], done[run]).values()))
        best[run[0]] = max(best.get(run[0], (-math.inf, run)), (score, run), key=lambda pair: pair[0])
    folders = {}
    for name, (task, split, *_) in SUBMISSION.items():
        run = best[task][1]
        folders[name] = args.output_dir / "submission" / name
        line = [sys.executable, "-m", f"recipes.{TASKS[task][0]}", *passed_on, "--task_name", task]
        line += ["--do_train", "false", "--do_eval", "false", "--model_name_or_path", str(done[run])]
        config = {"MNLI-m": "mnli_matched", "MNLI-mm": "mnli_mismatched", "AX": "ax"}.get(name, task)
        source = ["--dataset_config_name", config]
        if args.data_dir is not None:
            source = ["--test_file", f"{args.data_dir}/{split}.csv"]
        line += [*source, "--output_dir", str(folders[name])]
        answered = next(runner.run_jobs([runner.Job(name, line, folders[name])]))
        if answered.error:
            raise InputError(f"--submission, {name}: {answered.error}")
        print(f"{name}: answered by {name_of(run)}, the best of its task on validation", flush=True)
    return write_submission(folders, args.output_dir / "submission")


def main(argv: list[str] | None = None) -> list[dict]:
    args, passed_on = parse_arguments(argv)
    start_from_mnli(args)
    convert_download(args)
    if args.dry_run:
        print(estimate(args, passed_on))
        return []
    done, failed = run_all(args, passed_on)
    entries, notes = summarize(args, done)
    settings = [args.tasks, args.seeds, args.learning_rates, args.start, args.data_dir, passed_on]
    seeds = " ".join(map(str, args.seeds))
    start = f" by way of MNLI ({args.start})" if args.from_mnli else ""
    head = f"{args.model_name_or_path}{start}, seeds {seeds}, flags: {shlex.join(passed_on) or 'none'}"
    record = {"finished_runs": len(done), "settings": settings, "scores": entries, "notes": notes}
    text = f"{head}\n\n{render(entries, notes)}"
    runner.write_tables(args.output_dir, "glue", settings, record, text, failed)
    if args.submission:
        print(f"Submission: {submit(args, passed_on, done)}")
    return entries


if __name__ == "__main__":
    run_as_command(main)
