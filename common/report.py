"""What a run shows on the terminal: tables of scores and errors, and what to do next."""

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from common.metrics import entity_errors, entity_lookup, entity_scores
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
