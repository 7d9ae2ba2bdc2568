"""Learning rates x epochs x seeds of any recipe on your data, by cross-validation if you like, and suspect labels.

make sweep RECIPE=ner ARGS="--train_file train.conll --learning_rates 1e-4 2e-4 --epochs 2 3 --seeds 1 2"
make sweep RECIPE=text_classification ARGS="--train_file train.csv --folds 5"

All other flags go to the recipe. Each run is a process of its own, in its own folder under --output_dir; repeat the
command after an interruption: finished runs are not repeated. Settings are chosen by their score on validation, so the
best score is optimistic; use a test file that had no part in it for the score that you report.

With --folds every training row is predicted once by a model that was not trained on it, in `out_of_fold.jsonl`, and
`suspects.jsonl` has the same rows with those first whose label the model believes least: correct it, and train on it.
"""

import argparse
import importlib
import json
import shlex
import shutil
import sys
import warnings
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from common import arguments, questions, runs, texts, words
from common.errors import InputError, OneLineParser, check_range, run_as_command
from common.metrics import split_of, table
from recipes.tools import runner
from recipes.tools.compare import read_rows, read_run, row_scores
from recipes.tools.report import headline, trivial
from recipes.tools.statistics import bootstrap_interval

SHOWN = 50  # suspects in sweep.md


class Run(NamedTuple):
    """A run of a setting: its seed, the number of its fold (0: none), its process."""

    seed: int
    fold: int
    job: runner.Job


def parse(argv: list[str] | None) -> tuple[argparse.Namespace, list[str]]:
    parser = OneLineParser("python -m recipes.tools.sweep", description=__doc__)
    parser.add_argument("recipe", help="ner, nli, qa, text_classification, or a copy of yours")
    parser.add_argument("--learning_rates", nargs="+", default=[None], help="unset: the recipe's, or --learning_rate")
    parser.add_argument("--epochs", nargs="+", default=[None], help="unset: the recipe's, or --num_train_epochs")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1], help="one run of each setting for each; unset: 1")
    parser.add_argument("--folds", type=int, help="parts for cross-validation of --train_file; unset: none")
    parser.add_argument("--jobs", type=int, help="runs side by side; unset: one for each accelerator, on a CPU one")
    parser.add_argument("--output_dir", type=Path, help="unset: runs/sweep-<recipe>")
    args, passed_on = parser.parse_known_args(argv)
    check_range(args, 2, float("inf"), "folds")
    args.recipe = args.recipe.replace("-", "_")
    args.output_dir = args.output_dir or Path(f"runs/sweep-{args.recipe}")
    if not (Path(__file__).parent.parent / f"{args.recipe}.py").exists():
        raise InputError(f"{args.recipe}: is not a recipe; name ner, nli, qa, text_classification, or a copy")
    whole = {"--max_eval_samples": "--max_train_samples"} if args.folds else {}
    runner.refuse_owned(passed_on, {"--seed": "--seeds"} | whole)
    return args, passed_on


# Folds


def divide(groups: list, texts: list[str], kinds: list[set], classes: list[str] | None, parts: int) -> list[list[int]]:
    """The rows of each fold, by the rules of `common.data.hold_out`: whole groups, and of every class its share.

    A group with a label that occurs in no other fold is in none, for no model could have learnt it.

    >>> divide(["a", "b", "a", "c"], ["a", "b", "a", "c"], [set()] * 4, None, 3)
    [[3], [1], [0, 2]]
    """
    from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

    splitter = (GroupKFold if classes is None else StratifiedGroupKFold)(parts, shuffle=True, random_state=0)
    try:
        with warnings.catch_warnings(action="ignore"):  # scikit-learn's, about classes with fewer rows than parts
            folds = [part.tolist() for _, part in splitter.split(groups, classes, groups)]
    except ValueError as error:
        raise InputError(f"--folds {parts}: {error}") from None
    kept = []
    for fold in folds:
        known = set().union(*(kinds[i] for i in training_rows(fold, texts)))
        stay = {groups[i] for i in fold if not kinds[i] <= known}
        learnt = {texts[i] for i in fold if groups[i] in stay}
        kept.append([i for i in fold if groups[i] not in stay and texts[i] not in learnt])
    return kept


def training_rows(fold: list[int], texts: list[str]) -> list[int]:
    """All rows whose text is not in the fold: of two documents with a sentence in common one may be in it."""
    held_out = {texts[i] for i in fold}
    return [i for i, text in enumerate(texts) if text not in held_out]


def write_folds(args: argparse.Namespace, passed_on: list[str]) -> tuple[list[list[int]], list[dict], list[str]]:
    """Write the files of each fold as JSON lines; the rows of the folds, all rows, and the flags that read a file."""
    recipe = importlib.import_module(f"recipes.{args.recipe}")
    flags = [*passed_on, "--output_dir", str(args.output_dir / "folds")]
    tasks = getattr(recipe, "TASKS", None)
    own = arguments.parse_arguments(recipe.Arguments, recipe.DEFAULTS, flags, recipe.__file__, tasks)
    own[1].do_eval = own[1].do_predict = False  # not by flag, which other flags of the runs would not go with
    own[0].threshold_for = None
    datasets, labels, *_ = recipe.load_datasets(*own)
    train = datasets["train"]
    if "ner_tags" in train.column_names:
        facts = words.sentence_groups(train, own[0].document_size)
        reading = ["--tokens_column", "tokens", "--tags_column", "ner_tags"]
    elif "context" in train.column_names:
        facts, reading = questions.context_groups(train), []
    else:
        pair = ["text_pair"] if train[0]["text_pair"] is not None else []
        facts, reading = texts.label_groups(train, labels is None), ["--text_columns", "text", *pair]
        reading += ["--label_column", "label"]
    rows = [{name: value for name, value in row.items() if value is not None and name != "note"} for row in train]
    for row in rows if "context" in train.column_names else ():
        row["answers"] = {"text": row["answers"], "answer_start": row.pop("answer_starts")}
    folds = divide(facts["groups"], facts["texts"], facts["kinds"], facts.get("classes"), args.folds)
    for number, fold in enumerate(folds, 1):
        for split, part in (("train", training_rows(fold, facts["texts"])), ("validation", fold)):
            write_lines(args.output_dir / f"folds/{number}of{args.folds}-{split}.jsonl", [rows[i] for i in part])
    return folds, rows, reading


def write_lines(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


# Runs


def make_runs(args: argparse.Namespace, passed_on: list[str], reading: list[str]) -> dict[tuple[str, ...], list[Run]]:
    """Every setting, as flags of the recipe, with its runs: every seed and fold."""
    planned: dict[tuple[str, ...], list[Run]] = {}
    folds = range(1, args.folds + 1) if args.folds else [0]
    for rate, epochs, seed, fold in product(args.learning_rates, args.epochs, dict.fromkeys(args.seeds), folds):
        setting = (*(("--learning_rate", rate) if rate else ()), *(("--num_train_epochs", epochs) if epochs else ()))
        flags = [*passed_on, *setting, "--seed", str(seed), "--do_predict", "false"]
        name = "-".join([*setting[1::2], f"seed{seed}", *([f"fold{fold}of{args.folds}"] if fold else [])])
        if fold:
            file = f"{args.output_dir}/folds/{fold}of{args.folds}"
            flags += ["--train_file", f"{file}-train.jsonl", "--validation_file", f"{file}-validation.jsonl", *reading]
        flags += ["--output_dir", str(args.output_dir / name)]
        command = [sys.executable, "-m", f"recipes.{args.recipe}", *flags]
        planned.setdefault(setting, []).append(Run(seed, fold, runner.Job(name, command, args.output_dir / name)))
    return planned


def validation_score(job: runner.Job) -> dict[str, float]:
    """The score by which the recipe chooses its best model. Checkpoints of the finished run are removed."""
    for checkpoint in runs.own_checkpoints(job.folder):
        shutil.rmtree(checkpoint)
    best = headline(read_run(job.folder), "validation")
    if best is None:
        raise InputError(f"{job.folder}: has no score of validation; --do_eval must stay true")
    return {split_of(best[0])[1]: best[1]}


def summarize(setting: tuple[str, ...], of_setting: list[Run]) -> dict[str, Any]:
    """Mean and deviation of a setting's runs, the score of a trivial answer and, of folds, the interval over all rows
    and seeds of the score of all folds' answers together."""
    scores, bases, by_seed = [], [], {}
    for run in of_setting:
        ((metric, value),) = validation_score(run.job).items()
        record, (rows, _) = read_run(run.job.folder), read_rows(run.job.folder)
        base = trivial(record, "validation", metric)
        scores.append(value)
        bases += [base[1]] if base else []
        by_seed.setdefault(run.seed, []).extend(rows if run.fold else ())
    pooled = [row_scores(rows, record).get(metric) for rows in by_seed.values() if rows]
    wanted = record["arguments"]
    best = str(wanted.get("metric_for_best_model")).removeprefix("eval_")
    is_whole = pooled and None not in pooled and len({len(rows) for rows in by_seed.values()}) == 1
    return {
        "setting": setting,
        "metric": metric,
        "runs": len(scores),
        "mean": float(np.mean(scores)),
        "sd": float(np.std(scores, ddof=1)) if len(scores) > 1 else None,
        "trivial": float(np.mean(bases)) if bases else None,
        "lower_is_better": wanted.get("greater_is_better") is False and metric == best,
        "interval": bootstrap_interval(pooled) if is_whole else None,
    }


# Suspect labels


def belief(row: dict[str, Any]) -> dict[str, Any]:
    """How far a model believes the label that a row was given, that label, and the model's answer; of a sentence those
    of the word whose tag it believes least, where a tag that it did not choose has at most the rest of the probability;
    of a score less the distance. Nothing for answers to questions.

    >>> tags = {"ner_tags": ["O", "O"], "predicted": ["B-LOC", "O"], "probabilities": [0.9, 0.8]}
    >>> belief({"tokens": ["Oslo", "is"], **tags})
    {'belief': 0.1, 'given': 'Oslo O', 'answer': 'B-LOC'}
    """
    if "ner_tags" in row:
        tags = zip(row["tokens"], row["ner_tags"], row["predicted"], row["probabilities"], strict=True)
        least = min((p if own == other else 1 - p, f"{word} {own}", other) for word, own, other, p in tags)
    elif "label_probability" in row:
        least = row["label_probability"], row["label"], row["predicted"]
    elif isinstance(row["predicted"], float):
        least = -abs(row["predicted"] - float(row["label"])), row["label"], row["predicted"]
    else:
        return {}
    return {"belief": round(least[0], 4), "given": least[1], "answer": least[2]}


def out_of_fold(of_setting: list[Run], folds: list[list[int]], rows: list[dict]) -> list[dict]:
    """Each training row with its place and, where it is in a fold, the first seed's answer and the mean belief."""
    answers: dict[int, list[dict]] = {}
    for run in of_setting:
        for i, answer in zip(folds[run.fold - 1], read_rows(run.job.folder)[0], strict=True):
            answers.setdefault(i, []).append(answer | belief(answer))
    rows = list(rows)
    for i, (first, *others) in answers.items():
        rows[i] = rows[i] | first
        if "belief" in first:
            rows[i]["belief"] = round(float(np.mean([answer["belief"] for answer in (first, *others)])), 4)
    return rows


def suspect_table(suspects: list[dict]) -> str:
    """The labels believed least, with the beginning of their texts."""
    rows = []
    for row in suspects[:SHOWN]:
        text = " / ".join(row[name] for name in ("text", "text_pair") if name in row) or " ".join(row["tokens"])
        rows.append([row["place"], row["belief"], row["given"], row["answer"], " ".join(text.split())[:90]])
    return f"\nThe labels believed least:\n\n```\n{table(['place', 'belief', 'given', 'answer', 'text'], rows)}\n```\n"


def main(argv: list[str] | None = None) -> list[dict]:
    args, passed_on = parse(argv)
    folds, rows, reading = write_folds(args, passed_on) if args.folds else ([], [], [])
    planned = make_runs(args, passed_on, reading)
    jobs = [run.job for of_setting in planned.values() for run in of_setting]
    failed = runner.run_all(jobs, args.jobs, validation_score)
    done = {setting: [run for run in of if run.job.name not in failed] for setting, of in planned.items()}
    results = [summarize(setting, of_setting) for setting, of_setting in done.items() if of_setting]
    results.sort(key=lambda result: result["mean"] * (1 if result["lower_is_better"] else -1))
    best, lines = results[0]["setting"], []
    for result in results:
        numbers = [result["mean"], result["sd"], result["trivial"], *(result["interval"] or (None, None))]
        cells = ["-" if number is None else number for number in numbers]
        lines.append([" ".join(result["setting"]) or "as given", result["runs"], *cells])
    said = [
        table(["setting", "runs", results[0]["metric"], "sd", "trivial", "95 % from", "to"], lines),
        "Means over the runs, on rows that they were not trained on. A setting that is chosen on these rows has an "
        "optimistic score: report that of a test file.",
    ]
    suspects = []
    if folds:
        answered = out_of_fold(done[best], folds, rows)
        write_lines(args.output_dir / "out_of_fold.jsonl", answered)
        lacking = sum("predicted" not in row for row in answered)
        said.append(f"Intervals: bootstrap over all rows and seeds. Rows without an answer: {lacking} of {len(rows)}.")
        suspects = sorted((row for row in answered if "belief" in row), key=lambda row: row["belief"])
    if suspects:
        file = args.output_dir / "suspects.jsonl"
        write_lines(file, suspects + [row for row in answered if "belief" not in row])
        flags = shlex.join(["--train_file", str(file), *reading])
        said.append(f"Suspect labels: the first rows of {file}. To train on them once they are corrected: {flags}")
        said.append("A --test_file beside it needs columns of the same names.")
    best_flags = [*passed_on, *best, "--output_dir", str(args.output_dir / "best")]
    said.append(f"The best: {runs.command_line(f'recipes.{args.recipe}', *best_flags)}")
    settings = [args.recipe, args.learning_rates, args.epochs, args.seeds, args.folds, passed_on]
    record = {"finished_runs": len(jobs) - len(failed), "settings": settings, "results": results}
    more = suspect_table(suspects) if suspects else ""
    runner.write_tables(args.output_dir, "sweep", settings, record, "\n".join(said), failed, more)
    return results


if __name__ == "__main__":
    run_as_command(main)
