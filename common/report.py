"""What a run shows on the terminal: tables of scores and errors, and what to do next."""

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from common.metrics import entity_errors, entity_lookup, entity_scores, label_scores
from common.tags import entities

log = logging.getLogger("recipes")


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Columns aligned for a terminal: the first to the left, the others to the right, fractions with four digits.

    >>> print(table(["type", "f1"], [["LOC", 0.5], ["PER", 1.0]]))
    type      f1
    LOC   0.5000
    PER   1.0000
    """
    cells = [[f"{cell:.4f}" if isinstance(cell, float) else str(cell) for cell in row] for row in [header, *rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    lines = (
        "  ".join(c.rjust(w) if i else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        for row in cells
    )
    return "\n".join(line.rstrip() for line in lines)


def entity_table(scores: dict) -> str:
    """Scores of `EntityScores` as a table, a row per type and one for all."""
    rows = {**scores["types"], "all": scores}
    columns = ("precision", "recall", "f1", "support")
    return table(["type", *columns], [[name, *(row[c] for c in columns)] for name, row in rows.items()])


def show_entities(split: str, datasets: Any, predicted: list[list[str]]) -> None:
    """Scores per type, the kinds of error, and what a dictionary of the training names alone would score."""
    gold = datasets[split]["ner_tags"][:]
    if gold[0] is None:
        return
    scores = entity_scores(gold, predicted)
    log.info("\n%s (%d sentences)\n%s", split, len(gold), entity_table(scores))
    log.info("Errors: %s.", ", ".join(f"{count} {kind}" for kind, count in entity_errors(gold, predicted).items()))
    if "train" in datasets:
        train = datasets["train"]
        baseline = entity_lookup(train["tokens"][:], train["ner_tags"][:], datasets[split]["tokens"][:])
        log.info(
            "F1 %.4f; looking up the names of train (trivial baseline): %.4f.",
            scores["f1"],
            entity_scores(gold, baseline)["f1"],
        )


def show_tagged_data(datasets: Any, features: Any) -> None:
    """What the run is about to read: sizes, entities per type, lengths, windows, words without pieces, repetitions."""
    rows = []
    words_of_train = {tuple(tokens) for tokens in datasets["train"]["tokens"]} if "train" in datasets else set()
    for split, dataset in datasets.items():
        words = sum(len(tokens) for tokens in dataset["tokens"])
        windows = Counter(features[split]["sentence"])
        pieces: Counter = Counter()
        read = 0
        for sentence, length, word_ids in zip(
            *(features[split][c] for c in ("sentence", "length", "word_ids")), strict=True
        ):
            pieces[sentence] += length
            read += sum(word >= 0 for word in word_ids)
        repeated = sum(tuple(tokens) in words_of_train for tokens in dataset["tokens"]) if split != "train" else "-"
        types = Counter(e[0] for tags in dataset["ner_tags"] if tags for e in entities(tags))
        lengths = list(pieces.values()) or [0]
        rows.append(
            [
                split,
                len(dataset),
                words,
                f"{np.mean(lengths):.1f}",
                int(np.percentile(lengths, 99)),
                sum(windows.values()),
                sum(count > 1 for count in windows.values()),
                words - read,
                repeated,
            ]
        )
        total = max(1, types.total())
        log.info("%s: %s.", split, ", ".join(f"{n} {t} ({n / total:.0%})" for t, n in types.most_common()) or "no tags")
    header = ["", "sentences", "words", "pieces", "99 %", "windows", "windowed", "no piece", "in train"]
    log.info(
        "%s\npieces: word pieces in a sentence, mean and 99th percentile. windowed: sentences in several windows. "
        "no piece: words that\nthe tokenizer drops, tagged O. in train: sentences that also stand in train.",
        table(header, rows),
    )
    for row in rows:
        if isinstance(row[-1], int) and row[-1] > 0.1 * row[1]:
            log.warning(
                "Warning: %d of %d sentences of %s also stand in train; its score flatters.", row[-1], row[1], row[0]
            )


def show_labelled_data(datasets: Any, features: Any, label_list: Sequence[str] | None) -> None:
    """What the run is about to read: classes and their shares, lengths, rows cut, rows that repeat."""
    rows = []
    train = {(row["text"], row["text_pair"]) for row in datasets["train"]} if "train" in datasets else set()
    for split, dataset in datasets.items():
        counts = Counter(label for label in dataset["label"] if label is not None)
        if counts and label_list is not None:
            shares = ", ".join(f"{name} {counts[name]} ({counts[name] / counts.total():.0%})" for name in label_list)
            log.info("%s: %s.", split, shares)
        whole, kept = (np.array(features[split][name][:]) for name in ("whole_length", "length"))
        texts = list(zip(dataset["text"], dataset["text_pair"], strict=True))
        repeated = sum(text in train for text in texts) if split != "train" else "-"
        cut = int((whole > kept).sum())
        row = [
            split,
            len(dataset),
            f"{whole.mean():.1f}",
            int(np.percentile(whole, 99)),
            cut,
            f"{cut / len(dataset):.1%}",
        ]
        rows.append([*row, len(texts) - len(set(texts)), repeated])
        if cut > 0.05 * len(dataset):
            log.warning("Warning: %d rows of %s are cut; a longer --max_seq_length reads them whole.", cut, split)
        if isinstance(repeated, int) and repeated > 0.02 * len(dataset):
            log.warning(
                "Warning: %d of %d rows of %s also stand in train; its score flatters.", repeated, len(dataset), split
            )
    header = ["", "rows", "pieces", "99 %", "cut", "share", "duplicates", "in train"]
    log.info(
        "%s\npieces: word pieces in a row, mean and 99th percentile. cut: rows longer than --max_seq_length.",
        table(header, rows),
    )


def show_labels(
    split: str, datasets: Any, logits: Any, label_list: Sequence[str] | None, metrics: Sequence[str]
) -> None:
    """Scores per class, and beside the score what always answering the commonest label of train would score."""
    if datasets[split][0]["label"] is None:
        return
    gold = datasets[split]["label"][:]
    if label_list is None:
        scores = label_scores(logits, [float(label) for label in gold], None)
        log.info("\n%s (%d rows): %s", split, len(gold), ", ".join(f"{name} {scores[name]:.4f}" for name in metrics))
        return
    ids = [label_list.index(label) for label in gold]
    scores = label_scores(logits, ids, label_list)
    columns = ("precision", "recall", "f1")
    rows = [[label_list[i], *(row[c] for c in columns), int(row["support"])] for i, row in scores["classes"].items()]
    log.info("\n%s (%d rows)\n%s", split, len(gold), table(["class", *columns, "support"], rows))
    log.info("%s: %s.", split, ", ".join(f"{name} {scores[name]:.4f}" for name in metrics))
    if "train" in datasets:
        commonest = Counter(datasets["train"]["label"]).most_common(1)[0][0]
        always = np.zeros_like(logits)
        always[:, label_list.index(commonest)] = 1
        baseline = label_scores(always, ids, label_list)
        figures = ", ".join(f"{name} {baseline[name]:.4f}" for name in metrics)
        log.info("Always answering %s (trivial baseline): %s.", commonest, figures)
