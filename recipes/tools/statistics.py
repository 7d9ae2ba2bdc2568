"""How sure a score is, and whether two models differ on the same rows.

A score is a function of columns with a number per row. Most need their sums alone (`right`, `true positives`, ...), so
that resampling rows is adding up again.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from common.metrics import answer_scores, entities

RESAMPLES = 5000


Columns = Sequence[np.ndarray]  # each (..., rows)


@dataclass
class RowScore:
    """A score that is computed from the rows it is resampled over.

    Attributes:
        columns: arrays (rows,), a number per row, which the score is computed from.
        of: the score (...) of such columns (..., rows), resampled or not.
    """

    columns: Columns
    of: Callable[[Columns], np.ndarray]

    @property
    def value(self) -> float:
        return float(self.of(self.columns))


def of_sums(score: Callable[..., np.ndarray]) -> Callable[[Columns], np.ndarray]:
    """A score that takes the columns' sums (...), one argument each, as a function of the columns."""
    return lambda columns: score(*(np.asarray(column, dtype=float).sum(axis=-1) for column in columns))


def ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """0 where there is nothing to divide by, as scikit-learn and seqeval have it."""
    return np.divide(above, below, out=np.zeros(np.broadcast(above, below).shape), where=np.asarray(below) != 0)


def share_of_rows(right: Sequence) -> RowScore:
    """The mean over rows of how far each is right: a share where each is right or wrong."""
    return RowScore([np.asarray(right), np.ones(len(right))], of_sums(ratio))


def label_row_scores(rows: Sequence[dict[str, Any]], label_list: Sequence[str], names: Sequence[str]) -> dict:
    """`RowScore`s of predicted classes: accuracy, f1 of the second class, macro_f1, matthews_correlation.

    Args:
        rows: each with `label` and `predicted`, as in `predictions.jsonl`.
        label_list: the classes in the order of their ids.
        names: the wanted ones.
    """
    gold = np.array([label_list.index(row["label"]) for row in rows])
    predicted = np.array([label_list.index(row["predicted"]) for row in rows])
    right = gold == predicted
    # Of each class, whether a row is one (gold), is taken for one, and both.
    per_class = [column for i in range(len(label_list)) for column in (gold == i, predicted == i, right & (gold == i))]

    def per_class_f1(*sums: np.ndarray) -> np.ndarray:
        true, guessed, both = (np.stack(sums[i::3], axis=-1) for i in range(3))
        return ratio(2 * both, true + guessed)

    def matthews(*sums: np.ndarray) -> np.ndarray:  # Gorodkin 2004, as scikit-learn computes it
        true, guessed, both = (np.stack(sums[i::3], axis=-1) for i in range(3))
        total = true.sum(-1)
        covariance = both.sum(-1) * total - (true * guessed).sum(-1)
        spread = (total**2 - (guessed**2).sum(-1)) * (total**2 - (true**2).sum(-1))
        return ratio(covariance, np.sqrt(spread))

    known = {
        "accuracy": share_of_rows(right),
        "f1": RowScore(per_class, of_sums(lambda *sums: per_class_f1(*sums)[..., 1])),
        "macro_f1": RowScore(per_class, of_sums(lambda *sums: per_class_f1(*sums).mean(-1))),
        "matthews_correlation": RowScore(per_class, of_sums(matthews)),
    }
    return {name: known[name] for name in names}


def number_row_scores(rows: Sequence[dict[str, Any]]) -> dict[str, RowScore]:
    """Pearson's correlation of predicted and gold scores; and Spearman's, which is Pearson's of the ranks within each
    sample."""
    columns = [np.array([float(row[key]) for row in rows]) for key in ("predicted", "label")]

    def pearson(columns: Columns) -> np.ndarray:
        a, b = (column - column.mean(axis=-1, keepdims=True) for column in columns)
        return ratio((a * b).sum(-1), np.sqrt((a * a).sum(-1) * (b * b).sum(-1)))

    def spearman(columns: Columns) -> np.ndarray:
        from scipy.stats import rankdata

        return pearson([rankdata(column, axis=-1) for column in columns])

    return {"pearson": RowScore(columns, pearson), "spearmanr": RowScore(columns, spearman)}


def set_row_score(pairs: Sequence[tuple[Sequence, Sequence]]) -> RowScore:
    """F1 over what each row holds, gold and predicted."""
    gold, predicted = ([set(pair[i]) for pair in pairs] for i in (0, 1))
    found = [2 * len(a & b) for a, b in zip(gold, predicted, strict=True)]
    both = [len(a) + len(b) for a, b in zip(gold, predicted, strict=True)]
    return RowScore([np.array(found), np.array(both)], of_sums(ratio))


def answer_row_scores(rows: Sequence[dict[str, Any]]) -> dict[str, RowScore]:
    """Exact match and F1 in percent; rows have `answers` and `predicted`."""
    version_2 = any(not row["answers"] for row in rows)
    found = np.array([answer_scores(row["predicted"], row["answers"], version_2) for row in rows])
    return {name: share_of_rows(100 * found[:, i]) for i, name in enumerate(("exact_match", "f1"))}


def scores_of_rows(
    rows: Sequence[dict[str, Any]], label_list: Sequence[str] | None, names: Sequence[str] = ("accuracy", "macro_f1")
) -> dict[str, RowScore]:
    """The scores of answers beside the right ones, the task's own first; rows are those of `predictions.jsonl`.

    Args:
        label_list: the classes in the order of their ids, if they are classes.
        names: of classes the wanted scores; see `label_row_scores`.

    Raises:
        ValueError: a label that is not in the list, or not a number where scores are learned.
    """
    if "ner_tags" in rows[0]:
        pairs = [(entities(row["ner_tags"]), entities(row["predicted"])) for row in rows]
        return {"f1": set_row_score(pairs)}
    if "answers" in rows[0]:
        return answer_row_scores(rows)
    if isinstance(rows[0]["predicted"], list):
        pairs = [({*row["label"]}, {*row["predicted"]}) for row in rows]
        return {"micro_f1": set_row_score(pairs), "accuracy": share_of_rows([gold == found for gold, found in pairs])}
    if label_list is None or not isinstance(rows[0]["predicted"], str):
        return number_row_scores(rows)
    return label_row_scores(rows, label_list, names)


def bootstrap_interval(
    score: RowScore | Sequence[RowScore], other: RowScore | Sequence[RowScore] | None = None, seed: int = 0
) -> tuple[float, float]:
    """The 95 % percentile interval of a score over resampled rows, or of `other` less `score` over the same rows.

    Several scores of the same rows are those of one model from several seeds: of their mean, with seeds resampled too.
    """
    sides = [[side] if isinstance(side, RowScore) else side for side in (score, other) if side is not None]
    count, columns = len(sides[0][0].columns[0]), sum(len(one.columns) for side in sides for one in side)
    batch, generator, values = max(1, 2_000_000 // (columns * count)), np.random.default_rng(seed), []
    for start in range(0, RESAMPLES, batch):
        rows = generator.integers(0, count, (min(batch, RESAMPLES - start), count))
        means = []
        for side in sides:
            of_seeds = np.stack([one.of([column[rows] for column in one.columns]) for one in side])
            drawn = generator.integers(0, len(side), of_seeds.shape)
            means.append(np.take_along_axis(of_seeds, drawn, axis=0).mean(axis=0))
        values.extend(means[0] if other is None else means[1] - means[0])
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


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
