"""Scores as the official scorers give them, without network or downloaded code: subclasses of `evaluate.Metric`.

A metric raises on what it cannot score; it never substitutes a value and never filters on the prediction.
"""

import logging
from collections import Counter
from collections.abc import Sequence

import datasets
import evaluate

from common.errors import InputError
from common.tags import entities

log = logging.getLogger("recipes")


class EntityScores(evaluate.Metric):
    """Entity-level precision, recall and F1, overall (micro) and per type, and accuracy per word, each from 0 to 1.

    The rule is that of the CoNLL-2003 scorer `conlleval`: an entity counts when its type and all its words are right,
    and an I- that continues nothing starts an entity. seqeval computes it, in its default (lenient) mode; its strict
    mode gives other figures on broken sequences.

    >>> scores = EntityScores(keep_in_memory=True).compute(
    ...     references=[["B-PER", "I-PER", "O", "B-LOC"]], predictions=[["B-PER", "I-PER", "O", "O"]])
    >>> scores["precision"], scores["recall"], scores["types"]["PER"]["f1"], scores["types"]["LOC"]["support"]
    (1.0, 0.5, 1.0, 1)

    Raises:
        ValueError: no sentence, or a prediction of another length than its reference.
    """

    def _info(self) -> evaluate.MetricInfo:
        tags = datasets.Sequence(datasets.Value("string"))
        return evaluate.MetricInfo(
            description="Entity-level scores, equal to conlleval on BIO input",
            citation="Tjong Kim Sang and De Meulder 2003, https://aclanthology.org/W03-0419; Nakayama 2018, seqeval",
            inputs_description="predictions and references: a list of BIO tags per sentence",
            features=datasets.Features({"predictions": tags, "references": tags}),
        )

    def _compute(self, predictions: Sequence[Sequence[str]], references: Sequence[Sequence[str]]) -> dict:
        from seqeval.metrics import accuracy_score, classification_report

        if not references:
            raise ValueError("no sentences to score")
        for i, (predicted, gold) in enumerate(zip(predictions, references, strict=True)):
            if len(predicted) != len(gold):
                raise ValueError(f"sentence {i}: {len(predicted)} predicted tags for {len(gold)} words")
        # zero_division=0 is conlleval's rule: no entity predicted is a precision of 0.
        if any(tag != "O" for tags in (*references, *predictions) for tag in tags):
            report = classification_report(references, predictions, output_dict=True, zero_division=0)
        else:
            report = {"micro avg": {"precision": 0, "recall": 0, "f1-score": 0, "support": 0}}
        scores = {
            name: {
                "precision": float(row["precision"]),
                "recall": float(row["recall"]),
                "f1": float(row["f1-score"]),
                "support": int(row["support"]),
            }
            for name, row in report.items()
        }
        types = {name: row for name, row in scores.items() if not name.endswith(" avg")}
        return {**scores["micro avg"], "accuracy": float(accuracy_score(references, predictions)), "types": types}


def entity_scores(references: Sequence[Sequence[str]], predictions: Sequence[Sequence[str]]) -> dict:
    """`EntityScores` in memory, in one call."""
    return EntityScores(keep_in_memory=True).compute(predictions=predictions, references=references)


def flat_scores(scores: dict, per_type: bool = True) -> dict[str, float]:
    """Overall scores under their names, and those of a type with it in front.

    >>> flat_scores({"f1": 0.5, "support": 2, "types": {"PER": {"f1": 0.5, "support": 2}}})
    {'f1': 0.5, 'PER_f1': 0.5}
    """
    named = {name: value for name, value in scores.items() if name != "types"}
    for entity_type, row in scores["types"].items() if per_type else ():
        named |= {f"{entity_type}_{name}": value for name, value in row.items()}
    return {name: value for name, value in named.items() if not name.endswith("support")}


def entity_errors(references: Sequence[Sequence[str]], predictions: Sequence[Sequence[str]]) -> dict[str, int]:
    """Kinds of error counted over entities: each gold or predicted entity that is not right falls in one.

    `wrong type`: the same words, another type. `wrong boundary`: an overlap with the same type. `wrong type and
    boundary`: an overlap with another type. `missed`: a gold entity that no predicted one touches. `invented`: a
    predicted entity that touches no gold one. The first three count gold entities.

    >>> entity_errors([["B-PER", "I-PER", "O", "B-LOC", "O"]], [["B-PER", "O", "O", "B-ORG", "B-ORG"]])
    {'missed': 0, 'invented': 1, 'wrong type': 1, 'wrong boundary': 1, 'wrong type and boundary': 0}
    """
    counts = Counter({"missed": 0, "invented": 0, "wrong type": 0, "wrong boundary": 0, "wrong type and boundary": 0})
    for gold_tags, predicted_tags in zip(references, predictions, strict=True):
        gold, predicted = entities(gold_tags), entities(predicted_tags)
        for entity in gold:
            if entity in predicted:
                continue
            touching = [other for other in predicted if other[1] < entity[2] and other[2] > entity[1]]
            if not touching:
                counts["missed"] += 1
            elif any(other[1:] == entity[1:] for other in touching):
                counts["wrong type"] += 1
            elif any(other[0] == entity[0] for other in touching):
                counts["wrong boundary"] += 1
            else:
                counts["wrong type and boundary"] += 1
        counts["invented"] += sum(not any(e[1] < o[2] and e[2] > o[1] for e in gold) for o in predicted)
    return dict(counts)


def entity_lookup(train_tokens: Sequence, train_tags: Sequence, tokens: Sequence) -> list[list[str]]:
    """The CoNLL-2003 shared task's baseline: tag the phrases that are entities of one type only in the training data,
    the longest first (Tjong Kim Sang and De Meulder 2003, section 3.2). What a dictionary of names reaches alone.

    >>> entity_lookup([["Ada", "Lee", "ran"]], [["B-PER", "I-PER", "O"]], [["Met", "Ada", "Lee"]])
    [['O', 'B-PER', 'I-PER']]
    """
    types: dict[tuple, set[str]] = {}
    for words, tags in zip(train_tokens, train_tags, strict=True):
        for entity_type, start, end in entities(tags):
            types.setdefault(tuple(words[start:end]), set()).add(entity_type)
    longest = max(map(len, types), default=0)
    tagged = []
    for words in tokens:
        tags, i = ["O"] * len(words), 0
        while i < len(words):
            for length in range(min(longest, len(words) - i), 0, -1):
                found = types.get(tuple(words[i : i + length]), ())
                if len(found) == 1:
                    (entity_type,) = found
                    tags[i : i + length] = [f"B-{entity_type}", *[f"I-{entity_type}"] * (length - 1)]
                    i += length
                    break
            else:
                i += 1
        tagged.append(tags)
    return tagged


class ClassificationScores(evaluate.Metric):
    """Accuracy, F1 and Matthews correlation of predicted classes, as GLUE defines them, computed by scikit-learn.

    `accuracy` (0 to 1); `f1` of the second class, with two classes only (MRPC and QQP score their positive class 1);
    `macro_f1`, the mean over classes; `matthews_correlation` (-1 to 1; CoLA's metric); and `classes`, precision,
    recall, F1 and support of each.

    >>> scores = ClassificationScores(keep_in_memory=True).compute(predictions=[1, 1, 0, 0], references=[1, 0, 0, 0])
    >>> scores["accuracy"], round(scores["f1"], 4), round(scores["matthews_correlation"], 4)
    (0.75, 0.6667, 0.5774)

    Raises:
        ValueError: nothing to score, or predictions that are no whole numbers.
    """

    def _info(self) -> evaluate.MetricInfo:
        # float64, and checked: integer features would cut fractions off silently.
        number = datasets.Value("float64")
        return evaluate.MetricInfo(
            description="Accuracy, F1 and Matthews correlation",
            citation="Wang et al. 2019, https://openreview.net/forum?id=rJ4km2R5t7",
            inputs_description="predictions and references: class ids",
            features=datasets.Features({"predictions": number, "references": number}),
        )

    def _compute(self, predictions: Sequence[float], references: Sequence[float], labels: Sequence[int] | None = None):
        from sklearn.metrics import accuracy_score, matthews_corrcoef, precision_recall_fscore_support

        if not len(references):
            raise ValueError("no rows to score")
        if any(value != int(value) for value in (*predictions, *references)):
            raise ValueError("class ids must be whole numbers")
        ids = list(labels) if labels is not None else sorted({int(v) for v in (*references, *predictions)})
        columns = precision_recall_fscore_support(references, predictions, labels=ids, zero_division=0)
        names = ("precision", "recall", "f1", "support")
        classes = {
            i: {n: float(v) for n, v in zip(names, row, strict=True)}
            for i, row in zip(ids, zip(*columns, strict=True), strict=True)
        }
        scores = {
            "accuracy": float(accuracy_score(references, predictions)),
            "macro_f1": sum(row["f1"] for row in classes.values()) / len(classes),
            "matthews_correlation": float(matthews_corrcoef(references, predictions)),
            "classes": classes,
        }
        return scores | ({"f1": classes[ids[1]]["f1"]} if len(ids) == 2 else {})


class RegressionScores(evaluate.Metric):
    """Pearson and Spearman correlation of predicted scores (-1 to 1; STS-B's metrics), computed by scipy.

    A model that predicts one score for every row has no correlation: both are nan then, and it is said.

    >>> scores = RegressionScores(keep_in_memory=True).compute(predictions=[1.0, 2.0, 4.0], references=[1.0, 2.0, 3.0])
    >>> round(scores["pearson"], 4), scores["spearmanr"]
    (0.982, 1.0)

    Raises:
        InputError: fewer than two rows, or rows that all have one score.
    """

    def _info(self) -> evaluate.MetricInfo:
        number = datasets.Value("float64")
        return evaluate.MetricInfo(
            description="Pearson and Spearman correlation",
            citation="Wang et al. 2019, https://openreview.net/forum?id=rJ4km2R5t7",
            inputs_description="predictions and references: numbers",
            features=datasets.Features({"predictions": number, "references": number}),
        )

    def _compute(self, predictions: Sequence[float], references: Sequence[float]) -> dict[str, float]:
        from scipy.stats import pearsonr, spearmanr

        if len(references) < 2 or len(set(references)) < 2:
            raise InputError("a correlation needs at least two rows with different scores; take more rows")
        if len(set(predictions)) < 2:
            log.warning("The model predicts one score for every row, so no correlation is defined.")
            return {"pearson": float("nan"), "spearmanr": float("nan")}
        return {
            "pearson": float(pearsonr(predictions, references)[0]),
            "spearmanr": float(spearmanr(predictions, references)[0]),
        }


def default_metrics(label_list: Sequence[str] | None) -> tuple[str, ...]:
    """Metrics where no task says them: of classes accuracy and the mean F1 over them, of scores both correlations."""
    return ("pearson", "spearmanr") if label_list is None else ("accuracy", "macro_f1")


def label_scores(predictions, label_ids, label_list: Sequence[str] | None) -> dict:
    """Scores of logits (rows, classes) against class ids, or of predicted numbers (rows, 1) against numbers.

    >>> import numpy as np
    >>> label_scores(np.array([[0.0, 1.0], [2.0, 1.0]]), [1, 1], ["no", "yes"])["accuracy"]
    0.5
    """
    if label_list is None:
        return RegressionScores(keep_in_memory=True).compute(predictions=predictions[:, 0], references=label_ids)
    metric = ClassificationScores(keep_in_memory=True)
    return metric.compute(predictions=predictions.argmax(-1), references=label_ids, labels=range(len(label_list)))
