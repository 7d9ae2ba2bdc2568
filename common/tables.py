"""What a run shows on the terminal: tables of scores and errors, and what to do next."""

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from common.metrics import (
    answer_baselines,
    answer_scores,
    chosen_answers,
    entity_errors,
    entity_lookup,
    entity_scores,
    label_scores,
)
from common.splits import column, columns
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
        baseline = entity_lookup(column(train, "tokens"), column(train, "ner_tags"), column(datasets[split], "tokens"))
        log.info(
            "F1 %.4f; looking up the names of train (trivial baseline): %.4f.",
            scores["f1"],
            entity_scores(gold, baseline)["f1"],
        )


def show_tagged_data(datasets: Any, features: Any) -> None:
    """What the run is about to read: sizes, entities per type, lengths, windows, words without pieces, repetitions."""
    rows = []
    # Hashes instead of texts, here and below: memory does not grow with the file.
    hashes = {split: [hash(tuple(t)) for t in column(dataset, "tokens")] for split, dataset in datasets.items()}
    train = set(hashes.get("train", ()))
    for split, dataset in datasets.items():
        words = sum(map(len, column(dataset, "tokens")))
        windows = Counter(column(features[split], "sentence"))
        pieces: Counter = Counter()
        read = 0
        for sentence, length, word_ids in columns(features[split], "sentence", "length", "word_ids"):
            pieces[sentence] += length
            read += sum(word >= 0 for word in word_ids)
        repeated = sum(text in train for text in hashes[split]) if split != "train" else "-"
        types = Counter(e[0] for tags in column(dataset, "ner_tags") if tags for e in entities(tags))
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
    hashes = {
        split: [hash(texts) for texts in columns(dataset, "text", "text_pair")] for split, dataset in datasets.items()
    }
    train = set(hashes.get("train", ()))
    for split, dataset in datasets.items():
        counts = Counter(label for label in column(dataset, "label") if label is not None)
        if counts and label_list is not None:
            shares = ", ".join(f"{name} {counts[name]} ({counts[name] / counts.total():.0%})" for name in label_list)
            log.info("%s: %s.", split, shares)
        whole, kept = (np.array(features[split][name][:]) for name in ("whole_length", "length"))
        texts = hashes[split]
        repeated = sum(text in train for text in texts) if split != "train" else "-"
        cut = int((whole > kept).sum())
        row = [
            split,
            len(dataset),
            f"{whole.mean():.1f}",
            int(np.percentile(whole, 99)),
            cut,
            f"{cut / len(dataset):.1%}",
            f"{max(counts.values()) / counts.total():.1%}" if counts and label_list is not None else "-",
        ]
        rows.append([*row, len(texts) - len(set(texts)), repeated])
        if cut > 0.05 * len(dataset):
            log.warning("Warning: %d rows of %s are cut; a longer --max_seq_length reads them whole.", cut, split)
        if isinstance(repeated, int) and repeated > 0.02 * len(dataset):
            log.warning(
                "Warning: %d of %d rows of %s also stand in train; its score flatters.", repeated, len(dataset), split
            )
    header = ["", "rows", "pieces", "99 %", "cut", "share", "commonest", "duplicates", "in train"]
    log.info(
        "%s\npieces: word pieces in a row, mean and 99th percentile. cut: rows longer than --max_seq_length.\n"
        "commonest: share of the commonest class, the accuracy of always answering it.",
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
        commonest = Counter(column(datasets["train"], "label")).most_common(1)[0][0]
        always = np.zeros_like(logits)
        always[:, label_list.index(commonest)] = 1
        baseline = label_scores(always, ids, label_list)
        figures = ", ".join(f"{name} {baseline[name]:.4f}" for name in metrics)
        log.info("Always answering %s (trivial baseline): %s.", commonest, figures)


def show_question_data(datasets: Any, features: Any) -> None:
    """What the run is about to read: questions, contexts, lengths, windows, what was cut or lies outside, overlap."""
    rows = []
    hashes = {split: list(map(hash, column(dataset, "context"))) for split, dataset in datasets.items()}
    train = set(hashes.get("train", ()))
    for split, dataset in datasets.items():
        windows = Counter(column(features[split], "row"))
        lengths = features[split]["length"][:]
        is_answered = list(map(bool, column(dataset, "answers")))
        # Windows without an answer point at one position twice, and so does an answer of one piece; [CLS] comes first.
        unanswerable = outside = "-"
        if "labels" in features[split].column_names:
            held = {row for row, labels in columns(features[split], "row", "labels") if labels[1] > 0}
            unanswerable = is_answered.count(False)
            outside = sum(answered and i not in held for i, answered in enumerate(is_answered))
        cut = {row for row, is_cut in columns(features[split], "row", "question_cut") if is_cut}
        rows.append(
            [
                split,
                len(dataset),
                len(set(hashes[split])),
                unanswerable,
                f"{np.mean(lengths):.1f}",
                len(lengths),
                sum(count > 1 for count in windows.values()),
                len(cut),
                outside,
                sum(context in train for context in hashes[split]) if split != "train" else "-",
            ]
        )
        if cut:
            log.warning(
                "Warning: %d questions of %s are cut, for a window would leave their context too little room.",
                len(cut),
                split,
            )
        if isinstance(outside, int) and outside:
            log.warning("Warning: the answers of %d questions of %s lie in no window whole.", outside, split)
        if isinstance(rows[-1][-1], int) and rows[-1][-1] > 0.02 * len(dataset):
            log.warning(
                "Warning: %d questions of %s are about contexts of train; its score flatters.", rows[-1][-1], split
            )
    header = ["", "questions", "contexts", "no answer", "pieces", "windows", "windowed", "cut", "outside", "in train"]
    log.info(
        "%s\npieces: word pieces in a window, mean. windowed: questions with several windows. cut: those that are.\n"
        "outside: questions whose answer no window holds whole. in train: questions whose context stands in train.",
        table(header, rows),
    )


def show_answers(split: str, dataset: Any, found: list[dict], scores: dict[str, float], version_2: bool) -> None:
    """Scores, overall and by the question's first word, and what two trivial ways of answering would score."""
    golds = dataset["answers"][:]
    words = [(question.split() or [""])[0].lower() for question in column(dataset, "question")]
    kinds = ["all", *(word for word, _ in Counter(words).most_common(8))]
    answers = chosen_answers(found, 0.0 if version_2 else None)
    each = [answer_scores(text, gold, version_2) for text, gold in zip(answers, golds, strict=True)]
    rows = []
    for kind in kinds:
        of_kind = [score for score, word in zip(each, words, strict=True) if kind in ("all", word)]
        rows.append([kind, *(100 * float(np.mean(column)) for column in zip(*of_kind, strict=True)), len(of_kind)])
    log.info("\n%s (%d questions)\n%s", split, len(golds), table(["first word", "exact match", "f1", "support"], rows))
    log.info("%s: %s.", split, ", ".join(f"{name} {score:.2f}" for name, score in scores.items()))
    usual = round(float(np.median([len(text.split()) for gold in golds for text in gold] or [1])))
    baselines = answer_baselines(dataset["question"][:], dataset["context"][:], max(1, usual))
    for name, texts in baselines.items():
        baseline = [answer_scores(text, gold, version_2) for text, gold in zip(texts, golds, strict=True)]
        exact, f1 = (100 * float(np.mean(column)) for column in zip(*baseline, strict=True))
        log.info("Trivial baseline, %s: exact match %.2f, f1 %.2f.", name, exact, f1)


# What a run keeps for its report


def data_facts(datasets: Any, trainer: Any) -> dict[str, Any]:
    """For run.json: of each split the rows, their classes, how many stand in train too, the lengths of what the model
    read (train and validation; word pieces, in steps of 8), how many rows were cut or read in several windows, and for
    tagged words the F1 of looking up train's names."""
    config = trainer.model.config
    is_labels = config.problem_type == "single_label_classification"
    facts: dict[str, Any] = {
        "max_seq_length": (getattr(config, "windows", None) or {}).get("max_seq_length"),
        "labels": [config.id2label[i] for i in sorted(config.id2label)] if is_labels else None,
        "splits": {},
    }
    features, train = {"train": trainer.train_dataset, "validation": trainer.eval_dataset}, None
    for split, dataset in datasets.items():
        texts = [name for name in ("text", "text_pair", "tokens", "context") if name in dataset.column_names]
        hashes = [hash(str(values)) for values in columns(dataset, *texts)]
        facts["splits"][split] = found = {"rows": len(dataset)}
        if split == "train":
            train = set(hashes)
        elif train is not None:
            found["in_train"] = sum(value in train for value in hashes)
        if "ner_tags" in dataset.column_names:
            found["classes"] = Counter(e[0] for tags in column(dataset, "ner_tags") if tags for e in entities(tags))
        elif "answers" in dataset.column_names:
            has_answer = Counter(bool(golds) for golds in column(dataset, "answers") if golds is not None)
            found["classes"] = {"answered": has_answer[True], "no answer": has_answer[False]}
        elif is_labels:
            found["classes"] = Counter(label for label in column(dataset, "label") if label is not None)
        if "ner_tags" in dataset.column_names and "train" in datasets and split != "train" and found["classes"]:
            names = columns(datasets["train"], "tokens", "ner_tags")
            looked_up = entity_lookup(*zip(*names, strict=True), column(dataset, "tokens"))
            found["lookup_f1"] = entity_scores(dataset["ner_tags"][:], looked_up)["f1"]
        read = features.get(split)
        if read is None:
            continue
        whole = np.array(read["whole_length" if "whole_length" in read.column_names else "length"][:])
        found["lengths"] = {int(start): count for start, count in sorted(Counter((whole // 8 * 8).tolist()).items())}
        found["cut"] = int((whole > np.array(read["length"][:])).sum())
        row = next(name for name in ("sentence", "row") if name in read.column_names)
        found["windowed"] = sum(count > 1 for count in Counter(column(read, row)).values())
    return facts
