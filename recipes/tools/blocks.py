"""What a report shows of a run: curves, matrices, tables and lists of examples, as blocks for the template."""

import io
import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import chain, groupby, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from common import metrics

LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
SHOWN = 20  # examples in a list
NAME = 24  # characters of a class's name in a table
LONGEST = 700  # characters, or words, of a text that is shown
CLASSES = 20  # with more a confusion matrix is no longer read, and its commonest cells are listed
POINTS = 1500  # in a scatter plot
QUESTION_WORDS = ("what", "who", "when", "where", "which", "why", "how", "whose", "whom")
ANSWERS = {"none": 0.5, "1 word": 1.5, "2 words": 2.5, "3 to 4": 4.5, "5 to 8": 8.5, "9 and more": np.inf}  # up to
# Colours of matplotlib's output -> the page's, which differ between light and dark.
STYLE = Path(__file__).parent / "templates" / "report.mplstyle"
COLOURS = {"#000001": "currentColor", "#000002": "var(--a)", "#000003": "var(--b)", "#000004": "var(--line)"}
INK, A, B, _ = COLOURS


# Drawing


def chart(draw: Callable[[Any], Any], caption: str, height: float = 2.5) -> dict[str, Any]:
    """A figure block: what `draw` puts on the axes, as SVG in the page's own font and colours."""
    import matplotlib
    from markupsafe import Markup, escape
    from matplotlib.figure import Figure

    file = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": caption}, STYLE):  # ids that differ from those of other figures
        figure = Figure(figsize=(4.6, height))
        figure.subplots_adjust(left=0.14, right=0.98, bottom=0.45 / height, top=0.92)
        draw(figure.add_subplot())
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    svg = " ".join(file.getvalue().partition("<svg")[2].split())
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->| xmlns(:xlink)?=\"[^\"]*\"", "", svg)
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", re.sub(r'font: ([\d.]+)px [^;"]*', r"font-size: \1px", svg))
    used = set(re.findall(r'(?:url\(|href=")#([\w-]+)', svg))
    svg = re.sub(r' id="([^"]+)"', lambda match: match[0] if match[1] in used else "", svg)
    for ours, page in COLOURS.items():
        svg = svg.replace(ours, page)
    label = escape(caption)
    return {"kind": "figure", "svg": Markup(f'<svg role="img" aria-label="{label}"{svg}'), "caption": caption}


def table(header: Sequence[str], rows: Sequence[Sequence[Any]], caption: str, of: int = 1) -> dict[str, Any]:
    """A table block; F1, a share `of` 1 or of 100, is also drawn as bars."""

    def cell(name: str, value: Any) -> tuple[str, str]:
        text = f"{value:.{3 if of == 1 else 1}f}" if isinstance(value, float) else str(value)
        return text, f"{100 * value / of:.0f}" if name == "F1" else ""

    cells = [[cell(*pair) for pair in zip(header, row, strict=True)] for row in rows]
    return {"kind": "table", "header": header, "rows": cells, "caption": caption}


def say(text: str) -> dict[str, Any]:
    return {"kind": "text", "text": text}


def worst_cases(
    caption: str, cases: list[tuple[Any, str, dict]], lines: Callable[[dict], list], marks: bool = False
) -> dict[str, Any]:
    """A list block of the `SHOWN` worst cases.

    Args:
        caption: {} in it becomes how many are shown.
        cases: how bad each is, a note, and its row.
        lines: what is shown of a row: (label, [(text, class of its mark, type)]).
    """
    worst = sorted(cases, key=lambda case: case[0], reverse=True)[:SHOWN]
    shown = [(note, lines(row)) for _, note, row in worst]
    return {"kind": "cases", "caption": caption.format(len(shown)), "cases": shown, "marks": marks}


def shortened(text: str, limit: int = LONGEST) -> str:
    return text if len(text) <= limit else text[:limit] + " …"


def series(history: Sequence[dict], key: str) -> pd.Series:
    """What was logged under `key` by step, finite values alone.

    >>> series([{"step": 1, "loss": 2.0}, {"step": 1, "eval_loss": 1.0}, {"step": 2, "loss": float("nan")}], "loss")
    1    2.0
    dtype: float64
    """
    values = pd.Series({row["step"]: row[key] for row in history if key in row}, dtype=float)
    return values[np.isfinite(values)]


def learning_curves(history: Sequence[dict], score: str | None) -> list[dict[str, Any]]:
    """Charts of loss, of the score on validation, and of the learning rate, over steps."""
    score = validation_name(score)
    names = {
        "Loss": {"loss": "training", "eval_loss": "validation"},
        f"Validation: {score.removeprefix('eval_').replace('_', ' ')}": {score: "score"},
        "Learning rate": {"learning_rate": "rate"},
    }
    lines = {c: {of[key]: values for key in of if len(values := series(history, key))} for c, of in names.items()}
    return [chart(partial(draw_lines, of), caption) for caption, of in lines.items() if of]


def validation_name(score: str | None) -> str:
    """Under which name the Trainer logged a score: of validation, and not at a threshold that was chosen later.

    >>> validation_name("test_tuned_f1")
    'eval_f1'
    """
    return re.sub("^test_", "eval_", score or "").replace("_tuned_", "_")


def draw_lines(lines: dict[str, pd.Series], axes: Any) -> None:
    for label, values in lines.items():
        axes.plot(values, label=label, marker="." if len(values) < 30 else "")
    axes.set_xlabel("step")
    if len(lines) > 1:
        axes.legend()


def advice(history: Sequence[dict], score: str | None) -> list[str]:
    """What the curves say in plain sentences: over-fitting, no learning, a run that ended too early.

    >>> advice([{"step": s, "loss": 0.7} for s in range(10)], None)[0][:43]
    'The training loss hardly moved (0.7 to 0.7)'
    """
    said = []
    keys = ("loss", "eval_loss", validation_name(score))
    losses, validation, scores = (series(history, key) for key in keys)
    part = max(1, len(losses) // 5)
    first, last = losses.head(part).mean(), losses.tail(part).mean()
    if len(losses) >= 4 and last > 0.97 * first:
        said.append(
            f"The training loss hardly moved ({first:.3g} to {last:.3g}): try three times the learning rate or a third "
            "of it, train longer, and look whether the labels belong to their rows."
        )
    if len(validation) > 1 and validation.iloc[-1] > 1.02 * validation.min() and last < first:
        said.append(
            f"Validation loss was lowest at step {validation.idxmin()} ({validation.min():.3g}) and is "
            f"{validation.iloc[-1]:.3g} at the end, while training loss went on falling: the model learns its rows by "
            "heart. Fewer epochs, --early_stopping_patience, or more data."
        )
    if len(scores) > 1 and scores.iloc[-1] > scores.iloc[:-1].max():
        said.append(f"The best score on validation was the last (step {scores.index[-1]}): train longer.")
    return said


# What a page says of each task


def class_blocks(gold: Sequence[str], found: Sequence[str], labels: Sequence[str]) -> list[dict[str, Any]]:
    """Confusion matrix, and scores per class."""
    from sklearn.metrics import confusion_matrix

    counts = confusion_matrix(gold, found, labels=labels)
    names = [shortened(label, NAME) for label in labels]
    matrix = confusion(names, counts, "Confusions: rows are gold, columns predicted.")
    scores = metrics.per_class(gold, found, labels).values()
    return [matrix, class_table(labels, scores, {"predicted": counts.sum(0).tolist()})]


def class_table(labels: Sequence[str], scores: Iterable[dict[str, float]], more: dict[str, Sequence]) -> dict[str, Any]:
    rows = [
        [shortened(label, NAME), *(of[name] for name in ("precision", "recall", "f1")), int(of["support"]), *others]
        for label, of, *others in zip(labels, scores, *more.values(), strict=True)
    ]
    header = ["class", "precision", "recall", "F1", "gold", *more]
    return table(header, sorted(rows, key=lambda row: row[3]), "Classes, the worst first.")


def label_blocks(rows: list[dict], labels: Sequence[str], thresholds: dict[str, float] | None) -> list[dict[str, Any]]:
    """Scores per class, their confusions or a curve with the threshold, reliability, and the surest mistakes."""
    from sklearn.preprocessing import MultiLabelBinarizer

    gold, found = ([row[key] for row in rows] for key in ("label", "predicted"))
    if isinstance(found[0], list):
        gold, found = map(MultiLabelBinarizer(classes=labels).fit_transform, (gold, found))
        limits = [(thresholds or {}).get(label, 0.5) for label in labels]
        more = {"predicted": found.sum(0).tolist(), "threshold": limits}
        blocks = [class_table(labels, metrics.label_set_scores(gold, found)["classes"].values(), more)]
    else:
        blocks = class_blocks(gold, found, labels)
        blocks += [precision_and_recall(rows, label, at) for label, at in (thresholds or {}).items()]
    mistakes = []
    for row in (row for row in rows if row["label"] != row["predicted"]):
        right, answers = given_answers(row)
        sure = max((probability for _, probability in answers), default=0.0)
        names = [", ".join(of) or "none" for of in (right, [name for name, _ in answers])]
        mistakes.append((sure, f"gold {names[0]}, predicted {names[1]} ({sure:.2f})", row))
    return [
        *blocks,
        reliability(rows),
        worst_cases(f"The {{}} most confident of {len(mistakes)} mistakes.", mistakes, text_lines),
    ]


def precision_and_recall(rows: list[dict], label: str, threshold: float) -> dict[str, Any]:
    """Scikit-learn's curve of the second of two classes, with the point that was chosen on validation."""
    from sklearn.metrics import precision_recall_curve

    scores = [row["probability"] if row["predicted"] == label else 1 - row["probability"] for row in rows]
    precision, recall, at = precision_recall_curve([row["label"] == label for row in rows], scores)
    chosen = int(np.searchsorted(at, threshold))

    def draw(axes: Any) -> None:
        axes.plot(recall, precision)
        axes.plot(recall[chosen], precision[chosen], "o", color=B)
        axes.set(xlabel="recall", ylabel="precision")

    caption = f"Precision over recall of {label}; the point is the threshold chosen on validation, {threshold:.3f}."
    return chart(draw, caption, 3.2)


def text_lines(row: dict[str, Any]) -> list[tuple]:
    return [("", [(shortened(row[name]), "", "")]) for name in ("text", "text_pair") if name in row]


def confusion(names: Sequence[str], counts: np.ndarray, caption: str) -> dict[str, Any]:
    """A matrix whose shade is the share of its row; of many classes the commonest confusions."""
    if len(names) > CLASSES:
        cells = sorted(((n, i, j) for (i, j), n in np.ndenumerate(counts) if i != j and n), reverse=True)[:SHOWN]
        rows = [[names[i], names[j], n] for n, i, j in cells]
        return table(["gold", "predicted", "rows"], rows, f"The commonest confusions of {len(names)} classes.")
    shares = (counts / np.maximum(counts.sum(1, keepdims=True), 1)).round(2)
    cells = [list(zip(*pair, strict=True)) for pair in zip(counts.tolist(), shares.tolist(), strict=True)]
    return {"kind": "matrix", "header": names, "rows": list(zip(names, cells, strict=True)), "caption": caption}


def calibration(confidence: np.ndarray, is_right: np.ndarray, bins: int = 10) -> tuple[float, list[tuple]]:
    """Expected calibration error (Guo et al. 2017, section 2): the mean over rows of how far accuracy and confidence
    lie apart in each of the equally wide bins; and confidence, accuracy and rows of each bin that has any.

    >>> import numpy as np
    >>> calibration(np.array([0.9, 0.9, 0.6, 0.6]), np.array([True, True, True, False]))[0]
    0.1
    """
    from sklearn.calibration import calibration_curve

    accuracy, mean = calibration_curve(is_right, confidence, n_bins=bins)
    counts = np.unique(np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], confidence), return_counts=True)[1]
    error = float(np.average(np.abs(accuracy - mean), weights=counts))
    return round(error, 6), list(zip(mean.tolist(), accuracy.tolist(), counts.tolist(), strict=True))


def given_answers(row: dict[str, Any]) -> tuple[Sequence, list[tuple[Any, float]]]:
    """The right answers of a row, and the given ones with their probabilities. An answer is a class, each of several
    labels, or an entity, whose probability is the least of its words'."""
    if "ner_tags" in row:
        found = [
            (entity, min(row["probabilities"][entity[1] : entity[2]])) for entity in metrics.entities(row["predicted"])
        ]
        return metrics.entities(row["ner_tags"]), found
    gold, found, probabilities = (np.atleast_1d(row[key]).tolist() for key in ("label", "predicted", "probability"))
    return gold, list(zip(found, probabilities, strict=True))


def confidence_of(rows: list[dict]) -> tuple[np.ndarray, np.ndarray, int]:
    """Of each answer in the rows its probability and whether it is right, and how many right answers there are."""
    each = [given_answers(row) for row in rows]
    answers = [(probability, answer in gold) for gold, found in each for answer, probability in found]
    confidence, is_right = np.array(answers, dtype=float).reshape(-1, 2).T
    return confidence, is_right, sum(len(gold) for gold, _ in each)


def cost_of_at_least(rows: list[dict]) -> list[dict[str, Any]]:
    """What remains of the answers if predict is to give the sure ones alone; nothing without rows."""
    confidence, is_right, wanted = confidence_of(rows)
    lines = []
    for level in LEVELS:
        right = is_right[confidence >= level]
        precision, recall = (float(right.sum() / max(1, of)) for of in (len(right), wanted))
        lines.append([f"{level:g}", len(right), precision, recall])
    caption = "What predict's --at_least costs, on validation: answers that remain, and how many are right."
    return [table(["at least", "answers", "precision", "recall"], lines, caption)] if rows else []


def reliability(rows: list[dict]) -> dict[str, Any]:
    confidence, is_right, _ = confidence_of(rows)
    if not len(confidence):
        return say("Nothing was predicted, so there is nothing to be sure of.")
    error, bins = calibration(confidence, is_right)

    def draw(axes: Any) -> None:
        axes.plot([0, 1], [0, 1], color=INK, linestyle=":", linewidth=1)
        x, y, n = zip(*bins, strict=True)
        axes.plot(x, y, color=A)
        axes.scatter(x, y, s=[8 + 250 * rows / len(confidence) for rows in n], color=A, alpha=0.7, linewidths=0)
        axes.set(xlabel="probability of what is predicted", ylabel="share that is right")
        axes.set(xlim=(0, 1.03), ylim=(0, 1.03))

    gap, noise = confidence.mean() - is_right.mean(), is_right.std() / len(is_right) ** 0.5
    how = "too sure" if gap > 0 else "less sure than it may be"
    how = "about as sure as it is right" if abs(gap) < max(0.03, 2 * noise) else how
    return chart(
        draw,
        f"Reliability: on the dotted line 0.7 would mean 7 of 10. Expected calibration error {error:.3f}; mean "
        f"probability {confidence.mean():.3f}, accuracy {is_right.mean():.3f}: the model is {how}. "
        "A dot's area is its share of rows.",
        height=3.2,
    )


def score_blocks(rows: list[dict]) -> list[dict[str, Any]]:
    """Scatter of predicted against gold scores, and the rows that are furthest off."""
    gold, predicted = (np.array([float(row[key]) for row in rows]) for key in ("label", "predicted"))
    residuals = predicted - gold
    shown = np.random.default_rng(0).permutation(len(rows))[:POINTS]

    def draw(axes: Any) -> None:
        axes.axline((gold[0], gold[0]), slope=1, color=INK, linestyle=":", linewidth=1)
        axes.scatter(gold[shown], predicted[shown], s=9, color=A, alpha=0.4, linewidths=0)
        axes.set(xlabel="gold", ylabel="predicted")

    caption = f"Predicted against gold scores ({len(shown)} of {len(rows)} rows). Residuals: mean "
    caption += f"{residuals.mean():.3f}, standard deviation {residuals.std():.3f}."
    cases = [
        (abs(off), f"gold {right:g}, predicted {right + off:.2f} ({off:+.2f})", row)
        for right, off, row in zip(gold, residuals, rows, strict=True)
    ]
    return [chart(draw, caption, 3.2), worst_cases("The {} rows furthest off.", cases, text_lines)]


def tag_blocks(rows: list[dict]) -> list[dict[str, Any]]:
    """Scores per type, confusions between types, kinds of error, and the sentences with most errors."""
    from sklearn.metrics import confusion_matrix

    gold, predicted = ([row[key] for row in rows] for key in ("ner_tags", "predicted"))
    scores = metrics.entity_scores(gold, predicted)["types"]
    of_words = [
        [metrics.split_tag(tag)[1] or "none" for tag in chain.from_iterable(tags)] for tags in (gold, predicted)
    ]
    types = [*sorted({*of_words[0], *of_words[1]} - {"none"}), "none"]
    kinds = sorted(metrics.entity_errors(gold, predicted).items(), key=lambda kind: -kind[1])
    cases = []
    for i, row in enumerate(rows, 1):
        differ = len({*metrics.entities(row["ner_tags"])} ^ {*metrics.entities(row["predicted"])})
        cases += [(differ, f"sentence {i}: {differ} entities differ", row)] if differ else []

    def lines(row: dict[str, Any]) -> list[tuple]:
        tags = {"gold": row["ner_tags"], "predicted": row["predicted"]}
        return [(name, tagged_parts(row["tokens"], of, types)) for name, of in tags.items()]

    return [
        class_table([*scores], scores.values(), {}),
        confusion(
            types, confusion_matrix(*of_words, labels=types), "Types of words: rows are gold, columns predicted."
        ),
        table(["kind of error", "entities"], kinds, "Kinds of error."),
        reliability(rows),
        worst_cases("The {} sentences with most errors.", cases, lines),
    ]


def tagged_parts(words: Sequence[str], tags: Sequence[str], types: Sequence[str]) -> list[tuple[str, str, str]]:
    """A sentence as (text, class, type), a part for each entity and for what lies between."""
    parts, done = [], 0
    for name, start, end in [*metrics.entities(tags), ("", len(words), len(words))]:
        parts.append((" ".join(words[done:start]) + " ", "", ""))
        parts.append((" ".join(words[start:end]), f"t{types.index(name) % 6}" if name else "", name))
        parts.append((" ", "", ""))
        done = end
    return parts


def answer_blocks(rows: list[dict]) -> list[dict[str, Any]]:
    """Scores by question word and by lengths, and the worst answers in their contexts."""
    version_2 = any(not row["answers"] for row in rows)
    scores = [metrics.answer_scores(row["predicted"], row["answers"], version_2) for row in rows]
    scores = 100 * pd.DataFrame(scores, columns=["EM", "F1"])
    questions = [re.findall(r"\w+", row["question"].lower()) for row in rows]
    asked = [next((word for word in words if word in QUESTION_WORDS), "other") for words in questions]
    lengths = [np.median([len(text.split()) for text in row["answers"] or [""]]) for row in rows]
    of_context = [len(row["context"].split()) for row in rows]
    edges = np.unique([min(of_context) - 1, *np.quantile(of_context, [0.25, 0.5, 0.75, 1]).astype(int)])
    spans = [f"{low + 1} to {high}" for low, high in pairwise(edges)]
    blocks = [
        grouped("question word", asked, scores),
        grouped("answer", pd.cut(lengths, [-1, *ANSWERS.values()], labels=[*ANSWERS]), scores),
        grouped("words of context", pd.cut(of_context, edges, labels=spans), scores),
    ]
    cases = []
    for row, (exact, f1) in zip(rows, scores.to_numpy(), strict=True):
        gold = " | ".join(dict.fromkeys(row["answers"])) or "no answer"
        answer = f"{row['predicted'] or 'no answer'} ({row['probability']:.2f})"
        note = shortened(f"gold: {gold}; predicted: {answer}; F1 {f1:.0f}")
        cases += [((-f1, row["probability"]), note, row)] if exact < 100 else []
    return [*blocks, worst_cases("The {} worst answers, the surest first.", cases, answer_lines, marks=True)]


def grouped(name: str, kinds: Sequence[str], scores: Any) -> dict[str, Any]:
    """A table of exact match and F1 by kind of row."""
    groups = scores.groupby(kinds, observed=True)
    rows = [[kind, *of_kind.mean().tolist(), len(of_kind)] for kind, of_kind in groups]
    return table([name, *scores, "rows"], rows, f"By {name}.", of=100)


def answer_lines(row: dict[str, Any]) -> list[tuple]:
    """The question, and the context with the gold and the predicted span marked, from a little before the first."""
    context = row["context"]
    spans = [
        (at, at + len(text), "gold") for text, at in zip(row["answers"], row["answer_starts"], strict=True) if at >= 0
    ]
    spans += [(row["start"], row["end"], "found")] if row["start"] is not None else []
    first = max(0, min((start for start, _, _ in spans), default=0) - LONGEST // 3)
    last = min(len(context), max((end for _, end, _ in spans), default=0) + LONGEST // 3, first + 3 * LONGEST)

    def mark(i: int) -> str:
        return " ".join(sorted({kind for start, end, kind in spans if start <= i < end}))

    parts = [("".join(context[i] for i in run), kind, "") for kind, run in groupby(range(first, last), mark)]
    before, after = [("… ", "", "")] * (first > 0), [(" …", "", "")] * (last < len(context))
    return [("", [(shortened(row["question"]), "", "")]), ("", [*before, *parts, *after])]


def data_blocks(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Sizes, classes, lengths and overlap of the splits, as the run kept them."""
    limit, splits = record["data"].get("max_seq_length"), record["data"].get("splits", {})
    columns = ("in_train", "cut", "windowed")
    rows = [[split, facts["rows"], *(facts.get(name, "-") for name in columns)] for split, facts in splits.items()]
    caption = "Splits. Also in train: rows whose text (or context) stands there. Windowed: read in several parts."
    blocks = [table(["split", "rows", "also in train", "cut", "windowed"], rows, caption)]
    classes = pd.DataFrame({split: facts["classes"] for split, facts in splits.items() if facts.get("classes")})
    if len(classes):
        shares = (classes / classes.sum()).fillna(0.0).sort_values([*classes], ascending=False)
        rows = [[shortened(name, NAME), *of] for name, *of in shares[:CLASSES].itertuples()]
        blocks.append(table(["class", *classes], rows, f"Shares of the classes, {len(rows)} of {len(classes)}."))
    lengths = {split: facts["lengths"] for split, facts in splits.items() if "lengths" in facts}
    if lengths:
        longest = min(max(int(start) for of in lengths.values() for start in of), 2 * (limit or 2048))

        def draw(axes: Any) -> None:
            for split, of in lengths.items():
                shares = np.array([*of.values()]) / sum(of.values())
                axes.hist([*map(int, of)], range(0, longest + 9, 8), weights=shares, histtype="step", label=split)
            if limit and limit < 1.5 * longest + 16:
                axes.axvline(limit, color=INK, linestyle=":", linewidth=1, label=f"limit {limit}")
            axes.set(xlabel="word pieces", ylabel="share")
            axes.legend()

        cut = sum(facts.get("cut", 0) for facts in splits.values())
        note = f"{cut} rows are longer and are cut" if cut else "no row is cut"
        blocks.append(chart(draw, f"Lengths of the inputs; the limit (--max_seq_length) is {limit}, {note}."))
    return blocks
