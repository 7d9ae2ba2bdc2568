"""One text, or two, with a label or a score: columns, labels, tokens, predictions, and what is printed about them."""

import logging
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from common.data import Source, column, columns, repetitions, source_name, window_facts
from common.errors import InputError
from common.metrics import label_scores, score_line, show_facts, split_of, table

log = logging.getLogger("recipes")
LABEL_COLUMNS = ("label", "labels", "class", "category", "sentiment", "score", "target")
ONE_TEXT = [("text",), ("sentence",), ("review",), ("content",)]
TWO_TEXTS = [
    ("premise", "hypothesis"),
    ("sentence1", "sentence2"),
    ("question", "sentence"),
    ("question1", "question2"),
    ("text1", "text2"),
    ("text", "text_pair"),
]
WITHHELD = "-"  # for a label, as `common.data` writes the -1 of a column with class names
NO_TEXT = {"id", "idx", "index", "guid", *LABEL_COLUMNS}


def find_columns(
    sources: dict[str, Source], count: int, text_columns: Sequence[str] | None, label_column: str | None
) -> tuple[tuple[str, ...], str | None]:
    """The names of the text columns, which all splits must have, and of the label column, which a split may lack; from
    the first row of the first split. Inferred ones are printed.

    Args:
        count: of texts in a row, 1 or 2.
        text_columns, label_column: what the user or the task says; None infers.

    Raises:
        InputError: a column is missing, or what is meant cannot be told; with the columns that are there.
    """
    first_rows = {source.name: next(source.rows(), (None, None))[1] for source in sources.values()}
    for name, row in first_rows.items():
        if row is None:
            raise InputError(f"{name}: holds no rows; check the file and its format")
    name, row = next(iter(first_rows.items()))
    texts, inferred = tuple(text_columns or ()), []
    if not next(iter(sources.values())).has_header and len(row) <= count + 1:  # the texts, then the label
        rest = [name for name in row if name not in texts]
        texts = texts or tuple(rest[:count])
        label_column = label_column or next((name for name in rest if name not in texts), None)
        inferred.append(f"column {' and '.join(texts)} as the text, {label_column or 'none'} as the label")
    if not texts:
        known = [names for names in (ONE_TEXT if count == 1 else TWO_TEXTS) if all(name in row for name in names)]
        known_not = {*NO_TEXT, label_column}
        others = tuple(name for name, value in row.items() if name not in known_not and isinstance(value, str))
        texts = known[0] if len(known) == 1 else others if not known and len(others) == count else ()
        if not texts:
            raise InputError(
                f"{name}: cannot tell which of its columns ({', '.join(row)}) "
                f"{'hold the two texts' if count > 1 else 'holds the text'}; name {'them' if count > 1 else 'it'} with "
                "--text_columns, or add --no_header if the first line does not name the columns"
            )
        inferred.append(f"column {' and '.join(texts)} as the text")
    if len(texts) != count:
        other = "; recipes.nli is the recipe for two" if count == 1 else "; recipes.text_classification reads one"
        raise InputError(f"--text_columns {' '.join(texts)}: this recipe reads {count} text{'s' * (count > 1)}{other}")
    if label_column is None:
        candidates = [column for column in LABEL_COLUMNS if column in row and column not in texts]
        if len(candidates) > 1:
            raise InputError(f"{name}: has columns {' and '.join(candidates)}; name one with --label_column")
        label_column = candidates[0] if candidates else None
        if label_column:
            inferred.append(f"{label_column} as the label")
    if inferred:
        log.info("%s: reading %s.", name, ", ".join(inferred))
    for name, row in first_rows.items():
        missing = [column for column in texts if column not in row]
        if missing:
            raise InputError(
                f"{name}: has no column {missing[0]}, only {', '.join(row)}; rename it, or name the columns of all "
                "files with --text_columns"
            )
        others = [column for column in LABEL_COLUMNS if column in row and column not in texts]
        if label_column is not None and label_column not in row and (others or "test" not in sources):
            columns = ", ".join(row)
            raise InputError(f"{name}: has no column {label_column}, only {columns}; name one with --label_column")
    return texts, label_column


def labelled_texts(
    source: "Source",
    text_columns: Sequence[str],
    label_column: str | None,
    names: Sequence[str] | None,
    is_task: bool = False,
) -> Iterator[dict]:
    """Rows -> {"text", "text_pair" or None, "label" as text or None, "place", "note"}.

    Args:
        label_column: None, or one that the first row lacks, for rows without labels.
        names: the task's label names; labels may then be these or integers that index them.
        is_task: the rows are GLUE's, where the label -1 means that it is withheld.

    Raises:
        InputError: a text or a label that is none, or a label that the task does not know.
    """
    first_kind = None
    wanted = label_column
    for number, (place, row) in enumerate(source.rows()):
        label_column = label_column if number or label_column in row else None
        where = f"{source.name}, {place}"
        if label_column is None and wanted in row:
            raise InputError(f'{where}: has "{wanted}", which the rows before do not have; all need a label, or none')
        texts = []
        for name in text_columns:
            if not isinstance(row.get(name), str):
                kind = type(row[name]).__name__ if name in row else "missing"
                raise InputError(f'{where}: "{name}" is not a text ({kind})')
            texts.append(row[name])
        value = row.get(label_column) if label_column else None
        label = None if label_column is None else label_name(where, label_column, value, names, is_task)
        kind = "text" if isinstance(value, str) else "a number"
        if kind != (first_kind := first_kind or kind):
            raise InputError(f"{where}: label {value!r} is {kind} where those before are {first_kind}; write all alike")
        empty = any(not text.strip() for text in texts)
        yield {
            "text": texts[0],
            "text_pair": texts[1] if len(texts) > 1 else None,
            "label": label,
            "place": place,
            "note": "empty text" if empty else "",
        }


def label_name(where: str, column: str, value: Any, names: Sequence[str] | None, is_task: bool = False) -> str | None:
    """A label as text; one that is withheld, which is GLUE's -1, as None.

    >>> label_name("a.csv, line 2", "label", 1, ["no", "yes"]), label_name("a.csv, line 2", "label", True, None)
    ('yes', 'True')
    """
    if value is None or value != value or (isinstance(value, str) and not value.strip()):  # nan differs from itself
        raise InputError(f'{where}: "{column}" is empty; every row needs a label, or none and no such column')
    if isinstance(value, (list, dict)):
        raise InputError(f'{where}: "{column}" is a {type(value).__name__}, which is no label')
    text = np.format_float_positional(value, trim="-") if isinstance(value, float) else str(value).strip()
    if is_task and text in ("-1", "-1.0", WITHHELD):
        return None
    if names is None or text in names:
        return text
    if re.fullmatch(r"[0-9]+(\.0)?", text) and int(float(text)) < len(names):
        return names[int(float(text))]
    raise InputError(f'{where}: label "{text}" is neither one of {", ".join(names)} nor its number from 0')


def is_number(text: str) -> bool:
    """Whether a label is a plain decimal number.

    >>> [is_number(text) for text in ("3.8", "-3", "1_1", "12E4", "①", "nan")]
    [True, True, False, False, False, False]
    """
    return re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)", text) is not None


def is_finite(text: str) -> bool:
    """Whether a label can be a score, also one that is written as 1e-05; not infinite, not nan."""
    try:
        return float(text) - float(text) == 0
    except ValueError:
        return False


def has_fraction(text: str) -> bool:
    """
    >>> has_fraction("3.8"), has_fraction("3.0"), has_fraction("3,8")
    (True, False, False)
    """
    return is_number(text) and float(text) % 1 != 0


def checked_labels(datasets: Any, names: Sequence[str] | None, regression: bool | None) -> tuple[Any, list[str] | None]:
    """The splits without rows that have no label, and the class names in their order, or None where a score is learnt.

    Labels are scores where every one is a plain decimal number and at least one has a fraction. A row has no label
    where that is -1 in a column with class names, or "-" beside two or more others (SNLI); a test split may have none.

    Args:
        names: the task's, which keep their order; None takes those of the data, numbers by value, else by the alphabet.
        regression: what the task or the user says; None decides by the labels.

    Raises:
        InputError: rows without a label, one class only, scores that are none, or a label that training has not seen.
    """
    # Without a training split the labels of all splits; a trained model's own then say whether they are known.
    of_split = {split: set(column(dataset, "label")) - {None} for split, dataset in datasets.items()}
    everywhere = set().union(*of_split.values())
    withheld = {WITHHELD} if "+" not in everywhere and len(everywhere) != 2 else set()
    values = of_split.get("train", everywhere) - withheld
    for split, dataset in list(datasets.items()):
        labels, places = list(column(dataset, "label")), dataset["place"]
        without = [i for i, label in enumerate(labels) if label is None or label in withheld]
        if split == "test" and len(without) == len(dataset):
            kept = dataset.remove_columns("label")
            datasets[split] = kept.add_column("label", [None] * len(dataset), feature=dataset.features["label"])
            continue
        if len(without) == len(dataset):
            raise InputError(
                f"{source_name(dataset, split)}, {places[0]}: no label; add one, or name the column with --label_column"
            )
        if without:
            log.warning(
                "%s: %d rows of %d have no label and are left out (the first: %s).",
                *(source_name(dataset, split), len(without), len(dataset), places[without[0]]),
            )
            gone = set(without)
            datasets[split] = dataset.select([i for i in range(len(dataset)) if i not in gone])
    if regression is None:
        regression = names is None and all(map(is_number, values)) and any(map(has_fraction, values))
        if regression:
            log.info("Labels are numbers, some with a fraction: a score is learnt (--regression false: classes).")
        elif names is None and any(re.fullmatch(r"[0-9]+,[0-9]+", value) for value in values):
            log.warning("Warning: labels such as 3,5 are taken for classes; with a point, 3.5, they are scores.")
    name = source_name(next(iter(datasets.values())), "train")
    if regression:
        for split, dataset in datasets.items():
            for place, label in columns(dataset, "place", "label"):
                where = f"{source_name(dataset, split)}, {place}"
                if label is not None and not is_finite(label):
                    raise InputError(f'{where}: label "{label}" is no number, but a score is learnt')
                if label is not None and float(label) == -100:  # the Trainer's mark of what is not trained on
                    raise InputError(f"{where}: a score of -100 would be passed over in training; shift scores")
        if "train" in datasets and len(values) < 2:
            raise InputError(f"{name}: every score is {next(iter(values))}; there is nothing to learn")
        return datasets, None
    if names is not None:
        return datasets, list(names)
    if "train" in datasets and len(values) < 2:
        raise InputError(f"{name}: every label is {next(iter(values))}; there is nothing to learn")
    ordered = sorted(values, key=float if all(map(is_number, values)) else str)
    alike = [pair for pair in pairwise(sorted(values, key=str.casefold)) if pair[0].casefold() == pair[1].casefold()]
    for pair in alike:
        log.warning("Warning: %s and %s are two classes, which differ in upper and lower case alone.", *pair)
    for split, dataset in datasets.items():
        for place, label in columns(dataset, "place", "label"):
            if label is not None and label not in values:
                raise InputError(
                    f'{source_name(dataset, split)}, {place}: label "{label}" does not occur in train '
                    f"({', '.join(ordered)}); add examples of it there, or rename it"
                )
    return datasets, ordered


def has_labels(dataset: Any) -> bool:
    """Whether every row has a label; `checked_labels` has seen to it that all have one or none."""
    return dataset[0]["label"] is not None


def label_groups(dataset: Any, is_regression: bool) -> dict[str, list | None]:
    """For `common.data.hold_out`: copies of a text are one group, and every class gives its share."""
    pairs = columns(dataset, "text", "text_pair")
    texts = [text if pair is None else f"{text}\n{pair}" for text, pair in pairs]
    if is_regression:
        return {"groups": texts, "texts": texts, "kinds": [set() for _ in texts]}
    labels = dataset["label"][:]
    return {"groups": texts, "texts": texts, "kinds": [{label} for label in labels], "classes": labels}


def predicted_rows(
    dataset: Any, predictions: Any, label_list: Sequence[str] | None, multi_label: bool = False
) -> list[dict[str, Any]]:
    """For `predictions.jsonl`: texts, gold label where known, and what `answers` makes of the predictions; of classes
    also `label_probability`, that of the gold label.

    Args:
        predictions: logits, rows x classes, or rows x 1 for a score, in the order of `dataset`.
    """
    rows, classes = [], len(label_list or ())
    for row, answer in zip(dataset, answers(predictions, label_list, multi_label, top_k=classes), strict=True):
        texts = {name: row[name] for name in ("text", "text_pair", "label") if row[name] is not None}
        probability = answer.pop("probabilities", {}).get(row["label"])
        rows.append(texts | answer | ({} if probability is None else {"label_probability": probability}))
    return rows


def answers(
    predictions: Any, label_list: Sequence[str] | None, multi_label: bool = False, top_k: int = 1
) -> list[dict[str, Any]]:
    """The label with its probability, or the score; with `multi_label` every label whose probability is over a half.
    With `top_k` above 1 also so many labels with their `probabilities`, the likeliest first.

    >>> import numpy as np
    >>> answers(np.array([[0.0, 2.0]]), ["no", "yes"]), answers(np.array([[3.25]]), None)
    ([{'predicted': 'yes', 'probability': 0.8808}], [{'predicted': 3.25}])
    >>> answers(np.array([[-2.0, 2.0]]), ["funny", "long"], multi_label=True)
    [{'predicted': ['long'], 'probability': [0.8808]}]
    """
    from scipy.special import expit, softmax

    if label_list is None:
        return [{"predicted": round(float(row[0]), 4)} for row in predictions]
    if multi_label:
        found = []
        for row in expit(predictions):
            likely = {label: round(float(p), 4) for label, p in zip(label_list, row, strict=True) if p > 0.5}
            found.append({"predicted": list(likely), "probability": list(likely.values())})
        return found
    probabilities = softmax(predictions, axis=-1)
    best = probabilities.argmax(axis=-1)
    found = []
    for i, row in zip(best, probabilities, strict=True):
        found.append({"predicted": label_list[i], "probability": round(float(row[i]), 4)})
        if top_k > 1:
            ranked = sorted(zip(row, label_list, strict=True), key=lambda pair: -pair[0])[:top_k]
            found[-1]["probabilities"] = {label: round(float(p), 4) for p, label in ranked}
    return found


def tokenize_texts(
    batch: dict[str, list],
    indices: Sequence[int],
    tokenizer: Any,
    max_length: int,
    stride: int = 0,
    label2id: dict[str, int] | None = None,
    scores: bool = False,
) -> dict[str, list]:
    """One model input per row of one or two texts, cut at `max_length` (for `Dataset.map`, batched); or with `stride`
    windows over the whole of one text.

    Args:
        batch: `text`; `text_pair`, a second text or None; `label` as text.
        indices: the row numbers.
        max_length: pieces, special tokens included; of two texts the longer one gives way.
        stride: pieces that two neighbouring windows of a text share; 0 cuts the text instead.
        label2id: ids of the labels, when rows have them.
        scores: labels are numbers to be learnt.

    Returns:
        The tokenizer's own inputs; `labels`, an id or a number; `row`, the row number; `length`, the number of pieces
        kept; `whole_length`, the number there were (in the window).
    """
    pairs = batch["text_pair"] if batch["text_pair"][0] is not None else None
    windows = dict(truncation=True, max_length=max_length, stride=stride, return_overflowing_tokens=True)
    encoding = tokenizer(batch["text"], pairs, **(windows if stride else {}))
    samples = encoding.pop("overflow_to_sample_mapping", range(len(indices)))
    whole = [len(ids) for ids in encoding["input_ids"]]
    features = {key: list(values) for key, values in encoding.items()}
    cut = [i for i, length in enumerate(whole) if length > max_length]
    if cut:
        shorter = tokenizer(
            [batch["text"][i] for i in cut],
            None if pairs is None else [pairs[i] for i in cut],
            truncation=True,
            max_length=max_length,
        )
        for key, values in shorter.items():
            for i, value in zip(cut, values, strict=True):
                features[key][i] = value
    features["row"] = [indices[sample] for sample in samples]
    features |= {"length": [len(ids) for ids in features["input_ids"]], "whole_length": whole}
    if scores or label2id is not None:
        labels = [float(label) if scores else label2id[label] for label in batch["label"]]
        features["labels"] = [labels[sample] for sample in samples]
    return features


def mean_over_windows(predictions: np.ndarray, features: Any) -> np.ndarray:
    """The mean prediction of each row over the windows in which it was read, in the order of the rows.

    >>> mean_over_windows(np.array([[1.0], [3.0], [5.0]]), {"row": [0, 1, 1]}).tolist()
    [[1.0], [4.0]]
    """
    rows = np.asarray(features["row"][:])
    totals = np.zeros((rows.max() + 1, *predictions.shape[1:]))
    np.add.at(totals, rows, predictions)
    counts = np.bincount(rows).reshape(-1, *[1] * (predictions.ndim - 1))
    return (totals / counts).astype(predictions.dtype)


def describe(datasets: Any, features: Any, label_list: Sequence[str] | None) -> dict[str, dict[str, Any]]:
    """Print what the run is about to read: classes and their shares, lengths, rows cut, rows that repeat.

    Returns:
        Of each split `data.window_facts`, before rows are cut, `in_train` being rows that also occur in train;
        `classes`, the rows of each; `cut`, rows that are.
    """
    facts = {}
    for split, (duplicates, in_train) in repetitions(datasets, "text", "text_pair").items():
        labels = [label for label in column(datasets[split], "label") if label is not None and label_list is not None]
        facts[split] = window_facts(datasets[split], features[split], in_train, "whole_length") | dict(
            cut=sum(whole > kept for whole, kept in columns(features[split], "whole_length", "length")),
            duplicates=duplicates,
            classes=dict(Counter(labels)),
        )
        if facts[split]["cut"] > 0.05 * len(datasets[split]):
            log.warning(
                "Warning: %d rows of %s are cut; a longer --max_seq_length reads them whole.",
                facts[split]["cut"],
                split,
            )
    meaning = (
        "pieces: word pieces in a row, mean; longest: 99 % are not longer. windowed: read in several windows.\n"
        "in train, duplicates: rows that repeat one of train, or of the split. cut: longer than --max_seq_length."
    )
    return show_facts(facts, meaning, tolerated=0.02)


def show_labels(
    split: str, datasets: Any, logits: Any, label_list: Sequence[str] | None, scores: dict[str, float]
) -> None:
    """Scores per class and overall, and beside them what always answering the commonest label of train would score.

    Args:
        scores: all that the run reports of the split; none where it has no labels.
    """
    gold = datasets[split]["label"][:]
    if gold[0] is None:
        return
    if label_list is None:
        log.info("\n%s (%d rows): %s.", split, len(gold), score_line(scores))
        return
    ids = [label_list.index(label) for label in gold]
    classes = label_scores(logits, ids, label_list)["classes"]
    columns = ("precision", "recall", "f1")
    rows = [[label_list[i], *(row[c] for c in columns), int(row["support"])] for i, row in classes.items()]
    log.info("\n%s (%d rows)\n%s", split, len(gold), table(["class", *columns, "support"], rows))
    log.info("%s: %s.", split, score_line(scores))
    if "train" in datasets:
        commonest = Counter(column(datasets["train"], "label")).most_common(1)[0][0]
        always = np.zeros_like(logits)
        always[:, label_list.index(commonest)] = 1
        baseline = label_scores(always, ids, label_list)
        known = [name for name in map(lambda key: split_of(key)[1], scores) if name in baseline]
        log.info("Always answering %s (trivial baseline): %s.", commonest, score_line(baseline, known))
