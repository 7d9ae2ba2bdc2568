"""The metrics as subclasses of `evaluate.Metric`, without network or downloaded code.

Imported at the first score, for `evaluate` takes longer to import than a recipe takes to parse its flags. A metric
raises on what it cannot score; it never substitutes a value and never filters on the prediction.
"""

import logging
from collections.abc import Sequence

import datasets
import evaluate

from common.errors import InputError
from common.metrics import answer_scores

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


class AnswerScores(evaluate.Metric):
    """Exact match and F1 of extracted answers in percent, as the official scorers of SQuAD 1.1 and 2.0 give them.

    A prediction is the answer's text, "" for no answer; a reference is the list of gold answers, empty for an
    unanswerable question. Under the rules of 2.0 also `HasAns_exact`, `HasAns_f1`, `NoAns_exact`, `NoAns_f1`.

    >>> metric = AnswerScores(keep_in_memory=True)
    >>> metric.compute(predictions=["the Seine", "1901"], references=[["Seine"], ["in 1901", "May 1901"]])
    {'exact_match': 50.0, 'f1': 83.33333333333333}

    Raises:
        ValueError: no question, or under the rules of 1.1 one without a gold answer.
    """

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description="Exact match and F1, equal to evaluate-v1.1.py and evaluate-v2.0.py",
            citation="Rajpurkar et al. 2016, arXiv 1606.05250; Rajpurkar et al. 2018, arXiv 1806.03822",
            inputs_description="predictions: a text per question; references: a list of gold texts per question",
            features=datasets.Features({"predictions": text, "references": datasets.List(text)}),
        )

    def _compute(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]], version_2: bool = False
    ) -> dict[str, float]:
        if not len(references):
            raise ValueError("no questions to score")
        if not version_2 and not all(references):
            raise ValueError("a question without a gold answer has no score under the rules of SQuAD 1.1")
        each = [answer_scores(p, golds, version_2) for p, golds in zip(predictions, references, strict=True)]
        has_answer = [bool(golds) for golds in references]
        parts = {"": each}
        if version_2:
            parts |= {
                f"{name}_": [s for s, answerable in zip(each, has_answer, strict=True) if answerable == wanted]
                for name, wanted in (("HasAns", True), ("NoAns", False))
            }
        scores = {}
        for name, rows in parts.items():
            if rows:
                scores[f"{name}exact" if name else "exact_match"] = 100 * sum(exact for exact, _ in rows) / len(rows)
                scores[f"{name}f1"] = 100 * sum(f1 for _, f1 in rows) / len(rows)
        return scores
