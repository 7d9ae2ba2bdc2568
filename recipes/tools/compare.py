"""Two finished runs, or two benchmarks, on the same rows: which is better, by how much, and could it be chance?

python -m recipes.tools.compare runs/a runs/b                    two runs, one seed each
python -m recipes.tools.compare runs/glue/x runs/glue/y          two benchmarks, task by task, over their seeds
"""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from common import data
from common.errors import InputError, OneLineParser, run_as_command
from common.metrics import split_of, table
from recipes.tools.statistics import RowScore, bootstrap_interval, mcnemar, scores_of_rows

LABEL_SCORES = ("accuracy", "f1", "macro_f1", "matthews_correlation")
TEXTS = ("text", "text_pair", "tokens", "question", "context")
INPUTS = ("text", "text_pair", "tokens", "question", "id", "label", "ner_tags", "answers")


def read_run(folder: Path) -> dict[str, Any]:
    """The record of a finished run.

    Raises:
        InputError: there is none.
    """
    try:
        record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise InputError(f"{folder}: holds no run; name the --output_dir of one, or of a benchmark") from None
    if record["status"] != "finished":
        raise InputError(f"{folder}: its run is not finished; repeat its command")
    return record


def read_rows(folder: Path, name: str = "predictions.jsonl") -> tuple[list[dict[str, Any]], str]:
    """The predictions to look at, and the start of their files' names: those of the last split where it has gold
    answers, else of validation."""
    for start in ("", "validation_", "validation_mismatched_"):
        path = folder / f"{start}{name}"
        if path.exists():
            rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
            if rows and any(rows[0].get(key) is not None for key in ("label", "ner_tags", "answers")):
                return rows, start
    return [], ""


def rows_with_gold(folder: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """`read_rows` and `read_run` of a run.

    Raises:
        InputError: no finished run, or no rows with gold answers.
    """
    record = read_run(Path(folder))
    rows, _ = read_rows(Path(folder))
    if not rows:
        raise InputError(f"{folder}: its predictions have no gold answers to be compared with")
    return rows, record


def row_scores(rows: list[dict[str, Any]], record: dict[str, Any]) -> dict[str, RowScore]:
    """The scores of a run as functions of its rows, the task's own first."""
    reported = {split_of(name)[1] for name in record["results"]}
    names = [name for name in LABEL_SCORES if name in reported]
    return scores_of_rows(rows, record["data"].get("labels"), names)


def runs_of(folder: Path) -> dict[str, list[str]]:
    """Task -> folders of its runs, one a seed, from the newest table of a benchmark that has it; a run alone is the
    only one of a task without a name."""
    inner = {path.parent for path in folder.glob("*/glue-*.json")}
    folder = inner.pop() if len(inner) == 1 else folder  # of the only model in the --output_dir of a benchmark
    tables = sorted(folder.glob("glue-*.json"), key=lambda path: path.stat().st_mtime)
    entries = [entry for path in tables for entry in json.loads(path.read_text(encoding="utf-8"))["scores"]]
    return {entry["task"]: [str(folder / name) for name in entry["runs"]] for entry in entries} or {"": [str(folder)]}


def texts_of(row: dict[str, Any]) -> set[str]:
    """The texts of a row of a data file, whatever their columns are called; a list of words is one."""
    lists = [" ".join(map(str, value)) for value in row.values() if isinstance(value, list)]
    return {*lists, *(value for value in row.values() if isinstance(value, str))}


def seen_in_training(folder: str, rows: list[dict[str, Any]]) -> Iterator[str]:
    """Warnings of rows that a run, or one that it starts from, was trained on and is scored on here: as far as the
    records tell, and the training files, where they are still in place.
    """
    record = read_run(Path(folder))
    for split, facts in record.get("data", {}).get("splits", {}).items():
        if facts.get("in_train"):
            yield f"Warning: {facts['in_train']} rows of {split} stand in the training data of {folder} as well."
    inputs = [texts_of({name: row[name] for name in TEXTS if row.get(name)}) for row in rows]
    start = Path(record["arguments"]["model_name_or_path"])
    while (start / "run.json").exists():
        arguments = read_run(start)["arguments"]
        file = arguments.get("train_file")
        if file and Path(file).exists():
            used = islice(data.read_rows(file, not arguments.get("no_header")), arguments.get("max_train_samples"))
            trained = set().union(*(texts_of(row) for _, row in used))
            trained -= set().union(*map(texts_of, read_rows(start)[0]))  # a share of the file that was held out
            count = sum(texts <= trained for texts in inputs)
            if count:
                yield f"Warning: {folder} starts from {start}, which was trained on {count} of these {len(rows)} rows."
        start = Path(arguments["model_name_or_path"])


def compare(a: str, b: str) -> str:
    """The table of scores with their differences, and what they mean in a sentence; of benchmarks for each task.

    Raises:
        InputError: a run is not finished, or the two have no task in common or answered different rows.
    """
    runs_a, runs_b = runs_of(Path(a)), runs_of(Path(b))
    tasks = [task for task in runs_a if task in runs_b]
    if not tasks:
        raise InputError(f"{a} and {b}: no task is common to both; name two runs of one task, or two benchmarks")
    lines, said = [], []
    for task in tasks:
        rows, sentences = compare_runs(runs_a[task], runs_b[task])
        lines += [[f"{task} {name}".strip(), *numbers] for name, *numbers in rows]
        said += [f"{task}: {sentence}" if task else sentence for sentence in sentences]
    header = ["score", "A", "B", "B - A", "95 % from", "to"]
    return "\n".join([f"A: {a}", f"B: {b}", "", table(header, lines), "", *said])


def compare_runs(a: list[str], b: list[str]) -> tuple[list[list[Any]], list[str]]:
    """The runs of each side, one a seed: rows of score, A, B, difference and its interval; and what they mean."""
    read_a, read_b = ([rows_with_gold(folder) for folder in side] for side in (a, b))
    rows = read_a[0][0]
    inputs = [[{key: row.get(key) for key in INPUTS} for row in rows] for rows, _ in (*read_a, *read_b)]
    for other, folder in zip(inputs, [*a, *b], strict=True):
        if other != inputs[0]:
            raise InputError(
                f"{a[0]} and {folder} answered different rows ({len(rows)} and {len(other)}); give both the same "
                "--test_file, or none and the same --validation_file"
            )
    scores_a, scores_b = ([row_scores(rows, record) for rows, record in read] for read in (read_a, read_b))
    lines = []
    for name in (name for name in scores_a[0] if name in scores_b[0]):
        of_a, of_b = ([scores[name] for scores in side] for side in (scores_a, scores_b))
        means = [sum(score.value for score in side) / len(side) for side in (of_a, of_b)]
        lines.append([name, *means, means[1] - means[0], *bootstrap_interval(of_a, of_b)])
    if not lines:
        raise InputError(
            f"{a[0]} reports {', '.join(scores_a[0])} and {b[0]} {', '.join(scores_b[0])}; no score is common to both"
        )
    name, _, _, difference, low, high = lines[0]
    said = [f"{len(rows)} rows, {len(a)} seeds of A and {len(b)} of B; the intervals are over rows and seeds."]
    told_apart, reason = low > 0 or high < 0, f": the 95 % interval of the difference in {name} leaves out 0."
    if len(a) == len(b) == 1:
        said = [f"{len(rows)} rows, one seed each: what another seed would change is not in the intervals."]
        if name in ("accuracy", "exact_match"):  # shares of rows, for which there is an exact test
            only_a, only_b, chance = mcnemar(*(score[name].columns[0] > 0 for score in (scores_a[0], scores_b[0])))
            said.append(f"Right in A alone: {only_a}, in B alone: {only_b}.")
            told_apart, difference = chance < 0.05, only_b - only_a
            percent = f"{100 * chance:.2g} %" if chance >= 1e-4 else "under 0.01 %"
            reason = f"; chance of seeing this if they were equal: {percent} (McNemar)."
    precisions = [record.get("precision") for _, record in (read_a[0], read_b[0])]
    said += [f"A was computed in {precisions[0]}, B in {precisions[1]}."] if len(set(precisions)) > 1 else []
    said += [*seen_in_training(a[0], rows), *seen_in_training(b[0], rows)]
    if not told_apart:
        return lines, [*said, f"A and B cannot be told apart on {len(rows)} rows."]
    return lines, [*said, f"{'B' if difference > 0 else 'A'} is better{reason}"]


def main() -> None:
    parser = OneLineParser("python -m recipes.tools.compare", description=__doc__)
    parser.add_argument("folders", nargs="*", help="--output_dir of two finished runs, or of two benchmarks")
    folders = parser.parse_args().folders
    if len(folders) != 2 or not all(folders):
        raise InputError(
            "name two finished runs of a task, make compare A=runs/nli-mrpc B=runs/mine, or two benchmarks, "
            "make compare A=runs/glue/x B=runs/glue/y"
        )
    print(compare(*folders))


if __name__ == "__main__":
    run_as_command(main)
