"""How sure a score is, and whether two models differ on the same rows: thin over scipy.

A score is a function of sums over rows (`right`, `true positives`, ...), so that resampling rows is adding up again.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from common.metrics import answer_scores
from common.tags import entities

RESAMPLES = 5000


@dataclass
class RowScore:
    """A score that is computed from the rows it is resampled over.

    Attributes:
        columns: arrays of one number per row, whose sums the score is computed from.
        of_sums: the score, from an array of sums (..., columns).
        right: of each row whether it was answered right, None where there is no right or wrong.
    """

    columns: np.ndarray  # (rows, columns)
    of_sums: Callable[[np.ndarray], np.ndarray]
    right: np.ndarray | None = None

    @property
    def value(self) -> float:
        return float(self.of_sums(self.columns.sum(axis=0)))


def ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """0 where there is nothing to divide by, as scikit-learn and seqeval have it."""
    return np.divide(above, below, out=np.zeros(np.broadcast(above, below).shape), where=np.asarray(below) != 0)


def label_row_scores(rows: Sequence[dict[str, Any]], label_list: Sequence[str], names: Sequence[str]) -> dict:
    """`RowScore`s of predicted classes: accuracy, f1 of the second class, macro_f1, matthews_correlation.

    Args:
        rows: each with `label` and `predicted`, as in `predictions.jsonl`.
        label_list: the classes in the order of their ids.
        names: the wanted ones.
    """
    gold = np.array([label_list.index(row["label"]) for row in rows])
    predicted = np.array([label_list.index(row["predicted"]) for row in rows])
    classes, right = np.arange(len(label_list)), gold == predicted
    confusion = (gold[:, None, None] == classes[:, None]) & (
        predicted[:, None, None] == classes
    )  # rows, gold, predicted
    flat = confusion.reshape(len(rows), -1).astype(float)

    def table(sums: np.ndarray) -> np.ndarray:
        return sums.reshape(*sums.shape[:-1], len(classes), len(classes))

    def per_class_f1(sums: np.ndarray) -> np.ndarray:
        counts = table(sums)
        return ratio(2 * np.diagonal(counts, axis1=-2, axis2=-1), counts.sum(-1) + counts.sum(-2))

    def matthews(sums: np.ndarray) -> np.ndarray:  # Gorodkin 2004, as scikit-learn computes it
        counts = table(sums)
        true, guessed, total = counts.sum(-1), counts.sum(-2), counts.sum((-1, -2))
        covariance = np.trace(counts, axis1=-2, axis2=-1) * total - (true * guessed).sum(-1)
        spread = (total**2 - (guessed**2).sum(-1)) * (total**2 - (true**2).sum(-1))
        return ratio(covariance, np.sqrt(spread))

    known = {
        "accuracy": RowScore(
            np.stack([right, np.ones(len(rows))], axis=1), lambda s: ratio(s[..., 0], s[..., 1]), right
        ),
        "f1": RowScore(flat, lambda s: per_class_f1(s)[..., 1], right),
        "macro_f1": RowScore(flat, lambda s: per_class_f1(s).mean(-1), right),
        "matthews_correlation": RowScore(flat, matthews, right),
    }
    return {name: known[name] for name in names}


def number_row_scores(rows: Sequence[dict[str, Any]]) -> dict[str, RowScore]:
    """Pearson's correlation of predicted and gold scores, from the sums of x, y, their squares and their product."""
    x, y = (np.array([float(row[key]) for row in rows]) for key in ("predicted", "label"))
    x, y = x - x.mean(), y - y.mean()  # shifts change nothing but keep the digits

    def pearson(sums: np.ndarray) -> np.ndarray:
        sx, sy, sxx, syy, sxy, n = np.moveaxis(sums, -1, 0)
        return ratio(n * sxy - sx * sy, np.sqrt((n * sxx - sx**2) * (n * syy - sy**2)))

    return {"pearson": RowScore(np.stack([x, y, x * x, y * y, x * y, np.ones(len(x))], axis=1), pearson)}


def entity_row_scores(rows: Sequence[dict[str, Any]]) -> dict[str, RowScore]:
    """Entity F1; a sentence is right when all its tags are. Rows have `ner_tags` and `predicted`."""
    counts, right = [], []
    for row in rows:
        gold, predicted = set(entities(row["ner_tags"])), set(entities(row["predicted"]))
        counts.append((len(gold & predicted), len(gold) + len(predicted)))
        right.append(gold == predicted)
    score = RowScore(np.array(counts, dtype=float), lambda s: ratio(2 * s[..., 0], s[..., 1]), np.array(right))
    return {"f1": score}


def answer_row_scores(rows: Sequence[dict[str, Any]]) -> dict[str, RowScore]:
    """Exact match and F1 in percent; rows have `answers` and `predicted`."""
    version_2 = any(not row["answers"] for row in rows)
    found = np.array([answer_scores(row["predicted"], row["answers"], version_2) for row in rows])
    ones, right = np.ones(len(rows)), found[:, 0] == 1
    return {
        name: RowScore(np.stack([100 * found[:, i], ones], axis=1), lambda s: ratio(s[..., 0], s[..., 1]), right)
        for i, name in enumerate(("exact_match", "f1"))
    }


def bootstrap_interval(score: RowScore, other: RowScore | None = None, seed: int = 0) -> tuple[float, float]:
    """The 95 % percentile interval of a score over resampled rows, or of `other` less `score` over the same rows."""
    from scipy.stats import bootstrap

    width = score.columns.shape[1]
    columns = score.columns if other is None else np.concatenate([score.columns, other.columns], axis=1)

    def statistic(*samples: np.ndarray, axis: int) -> np.ndarray:
        sums = np.stack([sample.sum(axis=axis) for sample in samples], axis=-1)
        value = score.of_sums(sums[..., :width])
        return value if other is None else other.of_sums(sums[..., width:]) - value

    found = bootstrap(
        tuple(columns.T),
        statistic,
        paired=True,
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=max(1, 2_000_000 // columns.size),
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def mcnemar(right: Sequence[bool], other: Sequence[bool]) -> tuple[int, int, float]:
    """Rows that only the first and only the other answers right, and the exact chance of a split at least as uneven
    if both were equally good (McNemar 1947, exact binomial form).

    >>> mcnemar([True, True, False, False, True], [True, False, True, True, False])
    (2, 2, 1.0)
    """
    from scipy.stats import binomtest

    right, other = np.asarray(right), np.asarray(other)
    first, second = int((right & ~other).sum()), int((other & ~right).sum())
    return first, second, float(binomtest(first, first + second).pvalue) if first + second else 1.0
