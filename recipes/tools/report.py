"""A finished run as one page, report.html in its folder; and all runs as one table, runs/index.html.

python -m recipes.tools.report runs/ner         the page of a run, or of several
python -m recipes.tools.report --index runs     the table, and the pages that are missing
"""

import json
import logging
import re
import shlex
from datetime import timedelta
from itertools import chain
from pathlib import Path
from typing import Any

from common.data import is_tag
from common.errors import InputError, OneLineParser, is_main_process, run_as_command
from common.metrics import split_of
from recipes.tools import blocks
from recipes.tools.baselines import load_baselines, published
from recipes.tools.compare import read_rows, read_run, row_scores
from recipes.tools.model_card import model_card
from recipes.tools.statistics import RowScore, bootstrap_interval, label_row_scores

log = logging.getLogger("recipes")
REPORT = "report.html"

# Reading a run


def read_history(folder: Path) -> list[dict[str, float]]:
    """What the Trainer logged: a dictionary per event, with its `step`."""
    path = folder / "trainer_state.json"
    return json.loads(path.read_text(encoding="utf-8"))["log_history"] if path.exists() else []


def headline(record: dict[str, Any], split: str | None = None) -> tuple[str, float] | None:
    """The score that the run is judged by, with its name in `all_results.json`: `metric_for_best_model` where that is
    one, else the first; of `split`, else of test, else of validation."""
    best = str(record["arguments"].get("metric_for_best_model")).removeprefix("eval_")
    scores = [(key, *split_of(key), value) for key, value in record["results"].items() if key.islower()]
    for wanted in [split] if split else ["test", "validation", "validation_mismatched"]:
        found = [(key, name, value) for key, where, name, value in scores if where == wanted and name != "loss"]
        if found:
            key, name, value = next((entry for entry in found if entry[1] == best), found[0])
            tuned = f"{key.removesuffix(name)}tuned_{name}" if record["data"].get("thresholds") else ""
            return (tuned, record["results"][tuned]) if tuned in record["results"] else (key, value)
    return None


# Scores beside others


def row_score(rows: list[dict], metric: str, record: dict[str, Any]) -> RowScore | None:
    """A score as a function of rows; None where it is not one that can be resampled."""
    labels = record["data"].get("labels") or ()
    if len(labels) > blocks.CLASSES and isinstance(rows[0]["predicted"], str):
        # To resample three columns for each class would take minutes.
        return label_row_scores(rows, labels, ["accuracy"]).get(metric)
    return row_scores(rows, record).get(metric)


def trivial(record: dict[str, Any], split: str, metric: str) -> tuple[str, float] | None:
    """What one must beat to have learned anything, and its score; None where none is known."""
    base = record["data"].get("splits", {}).get(split, {}).get("trivial", {"scores": {}})
    return (base["answer"], base["scores"][metric]) if metric in base["scores"] else None


def published_figure(record: dict[str, Any], split: str, metric: str) -> tuple[float, str] | None:
    """A published figure of the task, or of the Hub's dataset, on the same split, and its source."""
    arguments = record["arguments"]
    task = arguments.get("task_name") or (None if own_file(arguments) else Path(arguments["dataset_name"]).name)
    name = f"mismatched_{metric}" if split == "validation_mismatched" else metric
    model, rows = arguments["model_name_or_path"], load_baselines()
    found = (published(rows, model, task, n, "test" if split == "test" else "dev") for n in (name, f"matched_{name}"))
    row = next(filter(None, found), None)
    if row is None:
        return None
    limit = arguments.get("max_predict_samples" if split == "test" else "max_eval_samples")
    whole = f", on the whole split and not its first {limit} rows" if limit else ""
    return row["score"] / (1 if task == "squad" else 100), f"{row['model']}, {row['source']}{whole}"


# The page


def number(value: float) -> str:
    """Four digits of a share of 1, two of a percentage (answers to questions).

    >>> number(0.71549), number(72.049)
    ('0.7155', '72.05')
    """
    return f"{value:.4f}" if abs(value) <= 1 else f"{value:.2f}"


def page(folder: Path) -> dict[str, Any]:
    """What the template shows of a run: tiles on top, sentences, sections of blocks."""
    record, history = read_run(folder), read_history(folder)
    rows, start = read_rows(folder)
    tested = any(name.startswith("test_") for name in record["results"])
    split = start.rstrip("_") or ("test" if tested else "validation")
    best = headline(record, split if rows else None)
    tiles, said = score_tiles(record, rows, split, *best) if best else ([], [])
    curves = blocks.learning_curves(history, best and best[0])
    answers = answer_blocks(folder, record, rows, split)
    return {
        "name": folder.name,
        "task": " ".join(filter(None, [recipe_of(record), record["arguments"].get("task_name")])),
        "tiles": tiles + run_tiles(record),
        "said": said + blocks.advice(history, best and best[0]),
        "sections": [
            ("Learning", curves or [blocks.say("This run trained nothing, so there are no curves.")]),
            (f"Answers on {split.replace('_', ' ')}" if rows else "Answers", answers),
            ("Data", blocks.data_blocks(record)),
            ("Run", run_blocks(record)),
        ],
    }


def score_tiles(record: dict, rows: list[dict], split: str, name: str, value: float) -> tuple[list[tuple], list[str]]:
    """The score with its interval, beside a trivial answer and a published figure; and a warning in words."""
    metric, said = split_of(name)[1].removeprefix("tuned_"), []
    title = metric.replace("_", " ") + " at the threshold" * ("tuned_" in name)
    if not rows:
        return [(title, number(value), split_of(name)[0])], []
    score, base = row_score(rows, metric, record), trivial(record, split, metric)
    note = f"{split}, {len(rows)} rows"
    if score is not None and len(rows) > 1 and abs(score.value - value) < 1e-3:
        low, high = bootstrap_interval(score)
        note = f"95 % interval {number(low)} to {number(high)}; {note}"
        if base and base[1] >= low:
            said = [f"The score cannot be told from a trivial answer ({base[0]}) on {len(rows)} rows."]
    tiles = [(title, number(value), note)]
    tiles += [("trivial baseline", number(base[1]), base[0])] if base else []
    figure = published_figure(record, split, metric)
    return tiles + ([("published", number(figure[0]), figure[1])] if figure else []), said


def run_tiles(record: dict[str, Any]) -> list[tuple[str, str, str]]:
    """What was trained on what, where, and how fast."""
    arguments, seconds = record["arguments"], record.get("seconds", {})
    model, data = arguments["model_name_or_path"], own_file(arguments)
    parts = ", ".join(f"{name} {value:.0f} s" for name, value in seconds.items() if name != "total")
    resumed = Path(record.get("resumed_from") or "").name
    tiles = [
        ("model", Path(model).name, model),
        ("data", Path(data or arguments["dataset_name"]).name, arguments.get("task_name") or data or ""),
        ("device", f"{record['device']}, {record['precision']}", f"processes: {record['processes']}"),
        ("time", duration(seconds.get("total", 0)), f"{parts}, since {resumed}" if resumed else parts),
    ]
    speed = record.get("useful_tokens_per_second")
    return tiles + ([("useful tokens a second", f"{speed:,.0f}", "of training, without padding")] if speed else [])


def answer_blocks(folder: Path, record: dict, rows: list[dict], split: str) -> list[dict[str, Any]]:
    """Where the model errs, by the kind of its answers."""
    if not rows:
        return [blocks.say("No split with gold answers was evaluated, so there are no errors to show.")]
    if "answers" in rows[0]:
        return blocks.answer_blocks(rows)
    if isinstance(rows[0]["predicted"], float):
        return blocks.score_blocks(rows)
    validation = rows if split == "validation" else read_rows(folder, "validation_predictions.jsonl")[0]
    if "ner_tags" not in rows[0]:
        drawn = blocks.label_blocks(rows, record["data"]["labels"], record["data"].get("thresholds"))
        return drawn + blocks.cost_of_at_least(validation)
    gold, found = (list(chain.from_iterable(row[key] for row in rows)) for key in ("ner_tags", "predicted"))
    tags = sorted({*gold, *found})
    if all(map(is_tag, tags)):
        return blocks.tag_blocks(rows) + blocks.cost_of_at_least(validation)
    return blocks.class_blocks(gold, found, tags)  # parts of speech are not entities


def run_blocks(record: dict[str, Any]) -> list[dict[str, Any]]:
    """All scores, and what repeats the run."""
    overall = {name: value for name, value in record["results"].items() if name.islower() or "Ans_" in name}
    scores = [[*split_of(name), number(value)] for name, value in overall.items()]
    versions = ", ".join([record["started_at"], *(f"{name} {value}" for name, value in record["versions"].items())])
    all_scores = blocks.table(["split", "score", "value"], scores, "All scores.")
    return [all_scores, blocks.say(record["command"]), blocks.say(versions)]


def own_file(arguments: dict[str, Any]) -> str | None:
    """The file that a run is named after, None where the data came from the Hub or a folder."""
    return arguments.get("train_file") or arguments.get("validation_file") or arguments.get("test_file")


def duration(seconds: float) -> str:
    """
    >>> duration(42.3), duration(3 * 3600 + 125)
    ('0:00:42', '3:02:05')
    """
    return str(timedelta(seconds=int(seconds)))


def recipe_of(record: dict[str, Any]) -> str:
    return (re.findall(r"recipes\.(\w+)", record["command"]) or ["run"])[0]


def render(template: str, **context: Any) -> str:
    """A template of recipes/tools/templates; all that is put into it is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(Path(__file__).parent / "templates")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template(template).render(**context)


def write_report(folder: Path) -> None:
    """Draw report.html of a run that has just finished and, where it trained a model, README.md, the model card.

    Whatever goes wrong there is a warning: the run is finished and its scores stand.
    """
    if not is_main_process():
        return
    try:
        record = read_run(folder)
        if record["arguments"]["do_train"]:
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            card = model_card(record["hub_model_id"] or str(folder), record, config)
            (folder / "README.md").write_text(card + "\n", encoding="utf-8")
        draw_report(folder)
    except Exception as error:
        again = shlex.join(["make", "report", f"RUN={folder}"])
        log.warning("Warning: no report (%s: %s); %s", type(error).__name__, error, again)


def draw_report(folder: Path) -> Path:
    """Draw the page of a finished run into its folder.

    Raises:
        InputError: `folder` holds no finished run.
    """
    path = folder / REPORT
    path.write_text(render("report.html", **page(folder)), encoding="utf-8")
    return path


def write_index(root: Path) -> Path:
    """index.html in `root`: all runs under it, the newest first; pages that are missing are drawn.

    Raises:
        InputError: there is no run.
    """
    runs = []
    for path in sorted(root.rglob("run.json")):
        folder = path.parent
        try:
            record = read_run(folder)
            if not (folder / REPORT).exists():
                draw_report(folder)
        except Exception as error:  # of one run, which must not hide the others
            print(f"left out: {error if isinstance(error, InputError) else f'{folder}: {error}'}")
            continue
        best, losses = headline(record), blocks.series(read_history(folder), "loss")
        heights = 22 - 20 * (losses - losses.min()) / (losses.max() - losses.min() or 1)
        arguments = record["arguments"]
        data = Path(own_file(arguments) or arguments["dataset_name"])
        runs.append(
            {
                "name": str(folder.relative_to(root)),
                "recipe": recipe_of(record),
                "score": best,
                "data": arguments.get("task_name") or "/".join(data.parts[-2:]),
                "model": Path(arguments["model_name_or_path"]).name,
                "seconds": record["seconds"]["total"],
                "when": record["started_at"],
                "curve": " ".join(f"{100 * i / len(losses):.1f},{y:.1f}" for i, y in enumerate(heights)),
            }
        )
    if not runs:
        raise InputError(f"{root}: holds no finished run; name the folder above your runs")
    runs.sort(key=lambda run: run["when"], reverse=True)
    path = root / "index.html"
    path.write_text(render("index.html", runs=runs, duration=duration, number=number), encoding="utf-8")
    return path


def main(argv: list[str] | None = None) -> None:
    parser = OneLineParser("python -m recipes.tools.report", description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, help="--output_dir of finished runs; with --index above them")
    parser.add_argument("--index", action="store_true", help="a table of all runs under the folder")
    args = parser.parse_args(argv)
    for folder in args.folders:
        print(write_index(folder) if args.index else draw_report(folder))


if __name__ == "__main__":
    run_as_command(main)
