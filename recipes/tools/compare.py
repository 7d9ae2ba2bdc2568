"""Two finished runs on the same rows: which is better, by how much, and could it be chance?

python -m recipes.tools.compare runs/a runs/b
"""

import json
import sys
from pathlib import Path
from typing import Any

from common.errors import InputError, run_as_command
from common.metrics import split_of, table
from recipes.tools.statistics import (
    RowScore,
    answer_row_scores,
    bootstrap_interval,
    entity_row_scores,
    label_row_scores,
    mcnemar,
    number_row_scores,
    set_row_score,
)

LABEL_SCORES = ("accuracy", "f1", "macro_f1", "matthews_correlation")
INPUTS = ("text", "text_pair", "tokens", "question", "id", "label", "ner_tags", "answers")


def read_run(folder: Path) -> dict[str, Any]:
    """The record of a finished run.

    Raises:
        InputError: there is none.
    """
    try:
        record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{folder}: holds no run ({error}); name the --output_dir of one") from None
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
    if "ner_tags" in rows[0]:
        return entity_row_scores(rows)
    if "answers" in rows[0]:
        return answer_row_scores(rows)
    if isinstance(rows[0]["predicted"], list):
        return {"micro_f1": set_row_score([(row["label"], row["predicted"]) for row in rows])}
    if not isinstance(rows[0]["predicted"], str):
        return number_row_scores(rows)
    reported = {split_of(name)[1] for name in record["results"]}
    names = [name for name in LABEL_SCORES if name in reported]
    return label_row_scores(rows, record["data"]["labels"], names)


def compare(a: str, b: str) -> str:
    """The table of scores with their differences, and what they mean in a sentence.

    Raises:
        InputError: a run is not finished, or the two answered different rows.
    """
    (rows_a, record_a), (rows_b, record_b) = rows_with_gold(a), rows_with_gold(b)
    inputs_a, inputs_b = ([{key: row.get(key) for key in INPUTS} for row in rows] for rows in (rows_a, rows_b))
    if inputs_a != inputs_b:
        raise InputError(
            f"{a} and {b} answered different rows ({len(rows_a)} and {len(rows_b)}); give both the same "
            "--test_file, or none and the same --validation_file"
        )
    scores_a, scores_b = row_scores(rows_a, record_a), row_scores(rows_b, record_b)
    lines, common = [], [name for name in scores_a if name in scores_b]
    if not common:
        raise InputError(f"{a} reports {', '.join(scores_a)} and {b} {', '.join(scores_b)}; no score is common to both")
    for name in common:
        score, other = scores_a[name], scores_b[name]
        low, high = bootstrap_interval(score, other)
        lines.append([name, score.value, other.value, other.value - score.value, low, high])
    header = ["score", "A", "B", "B - A", "95 % from", "to"]
    text = f"A: {a}\nB: {b}\n{len(rows_a)} rows\n\n{table(header, lines)}\n\n"
    name, _, _, difference, low, high = lines[0]
    first_right = scores_a[name].right
    if first_right is None:
        chance, told_apart = None, low > 0 or high < 0
    else:
        only_a, only_b, chance = mcnemar(first_right, scores_b[name].right)
        text += f"Right in A alone: {only_a}, in B alone: {only_b}.\n"
        told_apart, difference = chance < 0.05, only_b - only_a
    if not told_apart:
        return text + f"A and B cannot be told apart on {len(rows_a)} rows."
    better = "B" if difference > 0 else "A"
    if chance is None:
        return text + f"{better} is better: the 95 % interval of the difference in {name} leaves out 0."
    percent = f"{100 * chance:.2g} %" if chance >= 1e-4 else "under 0.01 %"
    return text + f"{better} is better; chance of seeing this if they were equal: {percent} (McNemar)."


def main() -> None:
    if len(sys.argv) != 3:
        raise InputError("name two runs: make compare A=runs/x B=runs/y")
    print(compare(*sys.argv[1:]))


if __name__ == "__main__":
    run_as_command(main)
