"""One text, or two, with labels or a score: columns, labels, tokens, predictions, and what is printed about them."""

import logging
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np

from common import data, metrics
from common.data import Source
from common.errors import InputError
from common.thresholds import decide, probabilities

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
YES_OR_NO = {"0": False, "1": True, "0.0": False, "1.0": True, "false": False, "true": True}  # in a label's own column


def find_columns(
    sources: dict[str, Source],
    count: int,
    text_columns: Sequence[str] | None,
    label_columns: Sequence[str] | None,
    trained: dict[str, Any] | None = None,
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of the text columns, which all splits must have, and of the label columns, which a test split may lack;
    from the first row of the first split. Inferred ones are printed.

    Args:
        count: of texts in a row, 1 or 2.
        text_columns, label_columns: what the user or the task says; None infers. Several label columns hold 0 or 1
            each.
        trained: the settings of a model that is used as it is; its columns are taken where they are there.

    Raises:
        InputError: a column is missing, or what is meant cannot be told; with the columns that are there.
    """
    first_rows = {source.name: next(source.rows(), (None, None))[1] for source in sources.values()}
    empty = next((name for name, row in first_rows.items() if row is None), None)
    if empty is not None:
        raise InputError(f"{empty}: holds no rows; check the file and its format")
    name, row = next(iter(first_rows.items()))
    given = {*(text_columns or ()), *(label_columns or ())}

    def known(of: str) -> Sequence[str]:
        names = (trained or {}).get(of) or ()
        return names if all(row.get(name) not in (None, "") and name not in given for name in names) else ()

    texts, labels = tuple(text_columns or known("text_columns")), tuple(label_columns or known("label_columns"))
    if not next(iter(sources.values())).has_header and len(row) <= count + 1:  # the texts, then the label
        texts = texts or tuple(row)[:count]
        labels = labels or tuple(column for column in row if column not in texts)[:1]
    texts = texts or infer_texts(name, row, count, labels)
    if len(texts) != count:
        others = "recipes.text_classification reads one text, recipes.nli two"
        raise InputError(f"--text_columns {' '.join(texts)}: this recipe reads {count}; {others}")
    labels = labels or infer_labels(name, row, texts)
    if not (text_columns and label_columns):
        named = " and ".join(texts), ", ".join(labels) or "none"
        others = ", ".join(column for column in row if column not in (*texts, *labels)) or "none"
        log.info("%s: reading column %s as text, %s as label; not read: %s.", name, *named, others)
    for name, row in first_rows.items():
        there = f"only {', '.join(row)}; name"
        missing = next((column for column in texts if column not in row), None)
        if missing:
            raise InputError(f"{name}: has no column {missing}, {there} the columns of all files with --text_columns")
        missing = [column for column in labels if column not in row]
        other = infer_labels(name, row, texts) if missing else ()
        if missing and ("test" not in sources or len(missing) < len(labels) or 0 < len(other) <= len(labels)):
            raise InputError(f"{name}: has no column {missing[0]}, {there} one with --label_column")
    return texts, labels


def infer_texts(name: str, row: dict[str, Any], count: int, labels: Sequence[str]) -> tuple[str, ...]:
    choices = ONE_TEXT if count == 1 else TWO_TEXTS
    known = [names for names in choices if all(name in row for name in names)]
    others = [column for column, value in row.items() if isinstance(value, str) and not is_number(value)]
    others = [column for column in others if column not in {*NO_TEXT, *labels} and row[column] not in YES_OR_NO]
    if len(known) == 1 or (not known and len(others) == count):
        return known[0] if known else tuple(others)
    remedy = f"add --no_header if line 1 is data, or write JSON lines with {', '.join(choices[0])} and label"
    what = f"cannot tell which of its columns ({', '.join(row)}) to read"
    raise InputError(f"{name}: {what}; name {count} with --text_columns, {remedy}")


def infer_labels(name: str, row: dict[str, Any], texts: Sequence[str]) -> tuple[str, ...]:
    """The column that is called a label; else all beside the texts, if they are two or more and hold 0 or 1."""
    candidates = [column for column in LABEL_COLUMNS if column in row and column not in texts]
    if len(candidates) > 1:
        raise InputError(f"{name}: has columns {' and '.join(candidates)}; name one with --label_column")
    others = [column for column in row if column not in {*NO_TEXT, *texts}]
    if not candidates and len(others) > 1 and all(str(row[column]).lower() in YES_OR_NO for column in others):
        return tuple(others)
    return tuple(candidates)


def labelled_texts(
    source: "Source",
    text_columns: Sequence[str],
    label_columns: Sequence[str],
    names: Sequence[str] | None,
    is_task: bool = False,
) -> Iterator[dict]:
    """Rows -> {"text", "text_pair" or None, "label" as text or None, "place", "note"}.

    Args:
        label_columns: none for rows without labels; rows that lack one have none.
        names: the task's label names; labels may then be these or integers that index them.
        is_task: the rows are GLUE's, where the label -1 means that it is withheld.

    Raises:
        InputError: a text or a label that is none, or a label that the task does not know.
    """
    for place, row in source.rows():
        where = f"{source.name}, {place}"
        texts = [data.text_of(where, row, name) for name in text_columns]
        is_labelled = bool(label_columns) and all(column in row for column in label_columns)
        yield {
            "text": texts[0],
            "text_pair": texts[1] if len(texts) > 1 else None,
            "label": label_of(where, row, label_columns, names, is_task) if is_labelled else None,
            "place": place,
            "note": "" if all(text.strip() for text in texts) else "empty text, which is kept",
        }


def label_of(
    where: str, row: dict[str, Any], label_columns: Sequence[str], names: Sequence[str] | None, is_task: bool = False
) -> str | None:
    """The label of a row as text, "" where it is empty; of a list, or of several columns, the labels with bars between
    them, "|" where there are none.

    >>> label_of("", {"label": ["slow"]}, ["label"], None), label_of("", {"slow": 1, "dear": 1}, ["slow", "dear"], None)
    ('slow', 'slow|dear')
    """
    if len(label_columns) > 1:
        cells = {column: str(row[column]).strip().lower() for column in label_columns}
        odd = next((column for column, value in cells.items() if value not in YES_OR_NO), None)
        if odd is not None:
            raise InputError(f'{where}: "{odd}" is {row[odd]!r}, not 0 or 1; name label columns with --label_column')
        labels = [column for column, value in cells.items() if YES_OR_NO[value]]
    elif isinstance(row[label_columns[0]], list) and names is None:
        labels = [label_name(where, label_columns[0], value, None) for value in row[label_columns[0]]]
    else:
        return label_name(where, label_columns[0], row[label_columns[0]], names, is_task)
    if any("|" in label for label in labels):
        raise InputError(f"{where}: a label of {labels} holds a bar, which parts labels in a cell; rename it")
    return "|".join(labels) or "|"


def label_name(where: str, column: str, value: Any, names: Sequence[str] | None, is_task: bool = False) -> str | None:
    """A label as text; one that is withheld, which is GLUE's -1, as None.

    >>> label_name("a.csv, line 2", "label", 1, ["no", "yes"]), label_name("a.csv, line 2", "label", True, None)
    ('yes', 'True')
    """
    if isinstance(value, (list, dict)):
        raise InputError(f'{where}: "{column}" is a {type(value).__name__}, which is not a label')
    if value is None or str(value) in ("nan", "NaN", "<NA>"):  # of pandas
        return ""
    text = np.format_float_positional(value, trim="-") if isinstance(value, float) else str(value).strip()
    if is_task and text in ("-1", "-1.0", WITHHELD):
        return None
    if names is None or text in names:
        return text
    if re.fullmatch(r"[0-9]+(\.0)?", text) and int(float(text)) < len(names):
        return names[int(float(text))]
    raise InputError(f'{where}: label "{text}" is neither one of {", ".join(names)} nor its number from 0')


def names_in(label: str) -> list[str]:
    """The labels of a row that may have several.

    >>> names_in("slow | costly"), names_in("slow|"), names_in("|")
    (['slow', 'costly'], ['slow'], [])
    """
    return [name for name in map(str.strip, label.split("|")) if name]


def is_number(text: str) -> bool:
    """Whether a label is a plain decimal number.

    >>> [is_number(text) for text in ("3.8", "-3", "1_1", "12E4", "①", "nan")]
    [True, True, False, False, False, False]
    """
    return re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)", text) is not None


def checked_labels(
    datasets: Any, names: Sequence[str] | None, regression: bool | None, several: bool | None = None
) -> tuple[Any, list[str] | None, bool]:
    """The splits without rows that have no label; the class names in their order, or None where a score is learned; and
    whether a row may have several labels.

    Labels are scores where every one is a plain decimal number and at least one has a fraction. Rows may have several,
    or none of them, where any holds a bar. Else a row has no label where that is -1 in a column with class names, or
    "-" beside two or more others (SNLI); a test split may have none.

    Args:
        names: the task's, which keep their order; None takes those of the data, numbers by value, else by the alphabet.
        regression: what the task or the user says; None decides by the labels.
        several: what a trained model says, which is used as it is; None decides by the labels.

    Raises:
        InputError: rows without a label, one class only, scores that are none, or a label that training has not seen.
    """
    # Without a training split the labels of all splits; a trained model's own then say whether they are known.
    of_split = {split: set(data.column(dataset, "label")) - {None} for split, dataset in datasets.items()}
    everywhere = set().union(*of_split.values())
    if several is None:
        several = names is None and not regression and any("|" in label for label in everywhere)
    withheld = {WITHHELD} if "+" not in everywhere and len(everywhere) != 2 and not several else set()
    datasets = without_unlabelled(datasets, withheld, several)
    values = of_split.get("train", everywhere) - withheld
    if "train" in datasets and names is None and not several and regression is not False:
        check_commas(data.source_name(datasets["train"], "train"), values)
    if several:
        values = {name for label in values for name in names_in(label)}
    if regression is None:
        regression = names is None and not several and all(map(is_number, values))
        regression = regression and any(float(value) % 1 != 0 for value in values)
        if regression:
            log.info("Labels are numbers, some with a fraction: a score is learned (--regression false: classes).")
    if "train" in datasets and names is None and len(values) < 2 - several:
        name, what = data.source_name(datasets["train"], "train"), "score" if regression else "label"
        raise InputError(f"{name}: every {what} is {next(iter(values), 'empty')}; there is nothing to learn")
    if regression:
        check_scores(datasets)
        return datasets, None, False
    if names is not None:
        return datasets, list(names), False
    ordered = sorted(values, key=float if all(map(is_number, values)) else str)
    data.check_names(datasets, "label", names_in if several else lambda label: [label], ordered, "label")
    if several and ordered:  # there are none in a test split alone
        example = max(sorted(everywhere), key=lambda label: label.count("|"))
        log.info('Rows may have several labels or none, as "%s": %d labels in all.', example, len(ordered))
    return datasets, ordered, several


def check_commas(where: str, labels: set[str]) -> None:
    """Refuse numbers with a decimal comma, and warn of labels that are made of others."""
    parts = {label: re.split(" *[,;] *", label) for label in labels if re.search("[,;]", label)}
    if parts and all(is_number(label.replace(",", ".")) for label in labels):
        raise InputError(
            f'{where}: labels such as "{min(parts)}" have a decimal comma; write a point, or a bar between labels'
        )
    joined = sorted(label for label in parts if labels.issuperset(parts[label]))
    if joined:
        bars = "|".join(parts[joined[0]])
        log.warning('%s: "%s" counts as one class; several labels of a row are written %s.', where, joined[0], bars)


def without_unlabelled(datasets: Any, withheld: set[str], several: bool) -> Any:
    """The splits without the rows whose label is None or withheld; of a test split that has no label at all, all rows.

    Raises:
        InputError: another split has none, or a label is empty where a row has exactly one.
    """
    for split, dataset in list(datasets.items()):
        labels, name = list(data.column(dataset, "label")), data.source_name(dataset, split)
        if "" in labels and not several:
            place = dataset[labels.index("")]["place"]
            raise InputError(f"{name}, {place}: its label is empty or nan; label every row, or none")
        kept = [i for i, label in enumerate(labels) if label is not None and label not in withheld]
        if not kept and split == "test":
            datasets[split] = data.without_values(dataset, "label")
        elif not kept:
            place = dataset[0]["place"]
            raise InputError(f"{name}, {place}: no label; add one, or name the column with --label_column")
        elif len(kept) < len(labels):
            place = dataset[min(set(range(len(labels))) - set(kept))]["place"]
            log.warning(
                "%s: %d rows of %d have no label and are left out (the first: %s).",
                *(name, len(labels) - len(kept), len(labels), place),
            )
            datasets[split] = dataset.select(kept)
    return datasets


def check_scores(datasets: Any) -> None:
    from pandas import to_numeric

    for split, dataset in datasets.items():
        for place, label in data.columns(dataset, "place", "label"):
            where = f"{data.source_name(dataset, split)}, {place}"
            if label is not None and not np.isfinite(to_numeric(label, errors="coerce")):  # which knows 1e-05
                raise InputError(f'{where}: label "{label}" is not a number, but scores are learned')
            if label is not None and float(label) == -100:  # the Trainer's mark of what is not trained on
                raise InputError(f"{where}: a score of -100 would be passed over in training; shift scores")


def label_groups(dataset: Any, is_regression: bool) -> dict[str, list | None]:
    """For `common.data.hold_out`: copies of a text are one group, and every class gives its share; of a row with
    several labels the rarest counts."""
    pairs = data.columns(dataset, "text", "text_pair")
    texts = [text if pair is None else f"{text}\n{pair}" for text, pair in pairs]
    if is_regression:
        return {"groups": texts, "texts": texts, "kinds": [set() for _ in texts]}
    kinds = [set(names_in(label)) for label in data.column(dataset, "label")]
    counts = Counter(chain.from_iterable(kinds))
    classes = [min(names, key=lambda name: (counts[name], name), default="") for names in kinds]
    return {"groups": texts, "texts": texts, "kinds": kinds, "classes": classes}


def predicted_rows(
    dataset: Any, predictions: Any, label_list: Sequence[str] | None, several: bool = False, thresholds: Any = None
) -> list[dict[str, Any]]:
    """For `predictions.jsonl`: texts, gold label where known, and what `answers` makes of the predictions; of classes
    also `label_probability`, that of the gold label, but not with `several`.

    Args:
        predictions: logits, rows x classes, or rows x 1 for a score, in the order of `dataset`.
    """
    rows, classes = [], 0 if several else len(label_list or ())
    for row, answer in zip(dataset, answers(predictions, label_list, several, thresholds, classes), strict=True):
        texts = {name: row[name] for name in ("text", "text_pair", "label") if row[name] is not None}
        probability = answer.pop("probabilities", {}).get(row["label"])
        if several and "label" in texts:
            texts["label"] = sorted({*names_in(texts["label"])}, key=label_list.index)  # as in `predicted`
        rows.append(texts | answer | ({} if probability is None else {"label_probability": probability}))
    return rows


def answers(
    predictions: Any, label_list: Sequence[str] | None, several: bool = False, thresholds: Any = None, top_k: int = 1
) -> list[dict[str, Any]]:
    """The label with its probability, or the score; with `several` all labels whose probability is enough. With `top_k`
    above 1 also so many labels with their `probabilities`, the likeliest first.

    Args:
        several, thresholds: as for `common.thresholds.decide`.

    >>> import numpy as np
    >>> answers(np.array([[0.0, 2.0]]), ["no", "yes"]), answers(np.array([[3.25]]), None)
    ([{'predicted': 'yes', 'probability': 0.8808}], [{'predicted': 3.25}])
    >>> answers(np.array([[-2.0, 2.0]]), ["funny", "long"], several=True)
    [{'predicted': ['long'], 'probability': [0.8808]}]
    """
    if label_list is None:
        return [{"predicted": round(float(row[0]), 4)} for row in predictions]
    found = []
    decided = decide(predictions, label_list, several, thresholds)
    for choice, row in zip(decided, probabilities(predictions, several), strict=True):
        row = [round(float(p), 4) for p in row]
        if several:
            chosen = np.flatnonzero(choice)
            found.append({"predicted": [label_list[i] for i in chosen], "probability": [row[i] for i in chosen]})
        else:
            found.append({"predicted": label_list[choice], "probability": row[choice]})
        if top_k > 1:
            ranked = sorted(zip(row, label_list, strict=True), key=lambda pair: -pair[0])[:top_k]
            found[-1]["probabilities"] = {label: p for p, label in ranked}
    return found


def tokenize_texts(
    batch: dict[str, list],
    indices: Sequence[int],
    tokenizer: Any,
    max_length: int,
    stride: int = 0,
    label2id: dict[str, int] | None = None,
    scores: bool = False,
    several: bool = False,
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
        several: a row may have several labels.

    Returns:
        The tokenizer's own inputs; `labels`, an id, a number, or with `several` 0 or 1 for each label; `row`, the row
        number; `length`, the number of pieces kept; `whole_length`, the number there were (in the window).
    """
    pairs = batch["text_pair"] if batch["text_pair"][0] is not None else None
    windows = dict(truncation=True, max_length=max_length, stride=stride, return_overflowing_tokens=True)
    encoding = tokenizer(batch["text"], pairs, **(windows if stride else {}))
    samples = encoding.pop("overflow_to_sample_mapping", range(len(indices)))
    whole = [len(ids) for ids in encoding["input_ids"]]
    if max(whole) > max_length:
        encoding = tokenizer(batch["text"], pairs, truncation=True, max_length=max_length)
    features = dict(encoding)
    features["row"] = [indices[sample] for sample in samples]
    features |= {"length": [len(ids) for ids in features["input_ids"]], "whole_length": whole}
    if scores or label2id is not None:
        if several:
            labels = [[float(name in names_in(label)) for name in label2id] for label in batch["label"]]
        else:
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
        `classes`, the rows of each; `cut`, rows that are; `trivial`, the scores of always answering train's commonest.
    """
    facts = {}
    for split, (duplicates, in_train) in data.repetitions(datasets, "text", "text_pair").items():
        dataset, windows = datasets[split], features[split]
        labels = filter(None, data.column(dataset, "label")) if label_list is not None else ()
        classes = Counter(chain.from_iterable(map(names_in, labels)))
        trivial = None
        if split != "train" and data.has_gold(dataset, "label") and facts.get("train", {}).get("classes"):
            commonest = max(facts["train"]["classes"], key=facts["train"]["classes"].get)
            always = np.tile([1.0 if label == commonest else -1.0 for label in label_list], (len(dataset), 1))
            gold = mean_over_windows(np.asarray(windows["labels"][:]), windows)
            scores = metrics.label_scores(always, gold, label_list)
            trivial = {"answer": f"Always {commonest}", "scores": scores}
        cut = sum(whole > kept for whole, kept in data.columns(windows, "whole_length", "length"))
        facts[split] = data.window_facts(dataset, windows, in_train, "whole_length") | dict(
            cut=cut, duplicates=duplicates, classes=dict(classes), trivial=trivial
        )
        if cut > 0.05 * len(dataset):
            log.warning("Warning: %d rows of %s are cut; a longer --max_seq_length reads them whole.", cut, split)
    meaning = (
        "pieces: word pieces in a row, mean; longest: 99 % are not longer. windowed: read in several windows.\n"
        "in train, duplicates: rows that repeat one of train, or of the split. cut: longer than --max_seq_length."
    )
    return metrics.show_facts(facts, meaning, tolerated=0.02)


def show_labels(
    split: str, facts: dict, logits: Any, gold: Any, label_list: Sequence[str] | None, scores: dict, thresholds: Any
) -> None:
    """Scores per class and overall, and beside them what always answering the commonest label of train would score.

    Args:
        facts: of the split, as `describe` gives them.
        gold: ids of classes, 0 or 1 for each label, or numbers; None where the split has no labels.
        scores: all that the run reports of the split.
        thresholds: at which the table shows each label; None for a half.
    """
    if gold is None:
        return
    if label_list is None:
        log.info("\n%s (%d rows): %s.", split, len(gold), metrics.score_line(scores))
        return
    classes = metrics.label_scores(logits, gold, label_list, thresholds)["classes"]
    rows = [[label_list[i], *(row[c] for c in ("precision", "recall", "f1"))] for i, row in classes.items()]
    rows = [[*row, int(classes[i]["support"]), (thresholds or {}).get(row[0], "")] for i, row in enumerate(rows)]
    header = ["class", "precision", "recall", "f1", "support", "threshold" if thresholds else ""]
    log.info("\n%s (%d rows)\n%s", split, len(gold), metrics.table(header, rows))
    log.info("%s: %s.", split, metrics.score_line(scores))
    metrics.show_trivial(facts.get("trivial"), [metrics.split_of(name)[1] for name in scores])
