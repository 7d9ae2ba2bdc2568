"""Intervals and paired tests, against values by hand, scikit-learn's and scipy's."""

import json

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from common.errors import InputError
from common.metrics import entity_scores
from recipes.tools.compare import compare
from recipes.tools.compare import main as compare_command
from recipes.tools.statistics import (
    answer_row_scores,
    bootstrap_interval,
    label_row_scores,
    mcnemar,
    number_row_scores,
    scores_of_rows,
)
from tests.conftest import write

NAMES = ("accuracy", "f1", "macro_f1", "matthews_correlation")
LABELS = ["no", "yes", "maybe"]


def label_rows(count, wrong, seed=0, classes=2):
    generator = np.random.default_rng(seed)
    gold = generator.integers(0, classes, count)
    predicted = np.where(generator.random(count) < wrong, generator.integers(0, classes, count), gold)
    return [{"label": LABELS[g], "predicted": LABELS[p]} for g, p in zip(gold, predicted, strict=True)], gold, predicted


@pytest.mark.parametrize("classes", [2, 3])
def test_scores_from_sums_are_those_of_scikit_learn(classes):
    rows, gold, predicted = label_rows(300, 0.3, classes=classes)
    scores = label_row_scores(rows, LABELS[:classes], NAMES)
    expected = {
        "accuracy": metrics.accuracy_score(gold, predicted),
        "f1": metrics.f1_score(gold, predicted, labels=[1], average="macro"),
        "macro_f1": metrics.f1_score(gold, predicted, average="macro"),
        "matthews_correlation": metrics.matthews_corrcoef(gold, predicted),
    }
    for name, value in expected.items():
        assert scores[name].value == pytest.approx(value, abs=1e-12), name
    nothing = label_row_scores([{"label": "no", "predicted": "no"}], LABELS[:2], NAMES)
    assert nothing["f1"].value == nothing["matthews_correlation"].value == 0.0


def test_scores_of_the_other_tasks():
    rows = [
        {"ner_tags": ["B-PER", "I-PER", "O"], "predicted": ["B-PER", "I-PER", "O"]},
        {"ner_tags": ["B-LOC", "O", "O"], "predicted": ["O", "B-LOC", "B-PER"]},
        {"ner_tags": ["O"], "predicted": ["O"]},
    ]
    score = scores_of_rows(rows, None)["f1"]
    assert score.value == pytest.approx(2 * 1 / (2 + 3))  # 1 right of 3 predicted and 2 gold
    gold, predicted = ([row[key] for row in rows] for key in ("ner_tags", "predicted"))
    assert score.value == pytest.approx(entity_scores(gold, predicted)["f1"])
    answers = [{"answers": ["Lyon"], "predicted": "the Lyon"}, {"answers": ["Ada Lee"], "predicted": "Lee"}]
    scores = answer_row_scores(answers)
    assert scores["exact_match"].value == 50 and scores["f1"].value == pytest.approx((100 + 100 * 2 / 3) / 2)
    x, y = np.random.default_rng(0).normal(size=(2, 50)) + 100
    numbers = [{"predicted": a, "label": str(b)} for a, b in zip(x, y, strict=True)]
    assert number_row_scores(numbers)["pearson"].value == pytest.approx(stats.pearsonr(x, y).statistic)
    ties = [{"predicted": round(row["predicted"]), "label": row["label"]} for row in numbers]
    spearman = stats.spearmanr([row["predicted"] for row in ties], y).statistic
    assert number_row_scores(ties)["spearmanr"].value == pytest.approx(spearman)


def test_the_interval_of_a_rank_correlation_is_that_of_resampled_ranks():
    x, noise = np.random.default_rng(0).normal(size=(2, 80))
    rows = [{"predicted": a, "label": str(a + b)} for a, b in zip(x, noise, strict=True)]
    y = np.array([float(row["label"]) for row in rows])
    low, high = bootstrap_interval(number_row_scores(rows)["spearmanr"])
    draws = np.random.default_rng(1).integers(0, 80, (2000, 80))
    expected = np.percentile([stats.spearmanr(x[d], y[d]).statistic for d in draws], [2.5, 97.5])
    assert [low, high] == pytest.approx(expected, abs=0.02)


def test_the_interval_over_several_seeds_holds_their_spread_and_that_of_rows():
    """Of two runs that are right on opposite rows no row moves the mean, but the seeds that one happens to draw do."""
    rows, *_ = label_rows(400, 0.5)
    other = [row | {"predicted": "no" if row["predicted"] == "yes" else "yes"} for row in rows]
    scores = [label_row_scores(r, LABELS[:2], ["accuracy"])["accuracy"] for r in (rows, other)]
    low, high = bootstrap_interval(scores)
    assert low == pytest.approx(scores[1].value, abs=0.05) and high == pytest.approx(scores[0].value, abs=0.05)
    # The same run twice is one run, and a difference to itself is 0 in every sample of rows.
    assert bootstrap_interval([scores[0]] * 2)[0] == pytest.approx(bootstrap_interval(scores[0])[0], abs=0.01)
    assert bootstrap_interval(scores[0], [scores[0]] * 3) == pytest.approx((0, 0))


def test_the_interval_of_an_accuracy_is_near_the_binomial_one():
    rows, gold, predicted = label_rows(400, 0.3)
    low, high = bootstrap_interval(label_row_scores(rows, LABELS[:2], ["accuracy"])["accuracy"])
    exact = stats.binomtest(int((gold == predicted).sum()), 400).proportion_ci()
    assert low == pytest.approx(exact.low, abs=0.01) and high == pytest.approx(exact.high, abs=0.01)
    assert bootstrap_interval(label_row_scores(rows, LABELS[:2], ["accuracy"])["accuracy"]) == (low, high)  # seeded


def test_a_difference_over_the_same_rows_has_a_narrower_interval_than_over_others():
    """Two models that differ in 20 of 400 rows, all in favour of the second."""
    rows, *_ = label_rows(400, 0.3)
    better = [dict(row) for row in rows]
    for row in [row for row in better if row["label"] != row["predicted"]][:20]:
        row["predicted"] = row["label"]
    first, second = (label_row_scores(r, LABELS[:2], ["accuracy"])["accuracy"] for r in (rows, better))
    low, high = bootstrap_interval(first, second)
    assert 0.02 < low < 0.05 < high < 0.08  # 20 of 400, sd of about 0.011
    assert bootstrap_interval(second, first) == pytest.approx((-high, -low), abs=0.002)


def test_mcnemar_by_hand():
    """8 rows right in the second alone, 1 in the first alone: 2 x (C(9, 0) + C(9, 1)) / 2 ** 9 = 0.0390625."""
    right, other = [True] * 11 + [False] * 8, [True] * 10 + [False] + [True] * 8
    assert mcnemar(right, other) == (1, 8, pytest.approx(20 / 512))
    assert mcnemar(right, right) == (0, 0, 1.0)


def save_run(folder, rows, status="finished", arguments=(), data=(), **results):
    folder.mkdir()
    record = {
        "status": status,
        "results": {f"eval_{name}": value for name, value in results.items()},
        "arguments": {"model_name_or_path": "bert-base-cased", **dict(arguments)},
        "data": {"labels": LABELS[:2], **dict(data)},
    }
    write(folder / "run.json", json.dumps(record))
    write(folder / "predictions.jsonl", [{"text": str(i), **row} for i, row in enumerate(rows)])
    return str(folder)


def compared(*runs):
    """The scores in the table of a comparison."""
    return [line.split()[0] for line in compare(*runs).splitlines() if line.count(".") >= 5]


def test_two_runs_are_compared_in_a_sentence(tmp_path):
    worse, *_ = label_rows(400, 0.3)
    better = [{**row, "predicted": row["label"]} if i % 5 else row for i, row in enumerate(worse)]
    results = {"accuracy": 0.5, "f1": 0.5, "loss": 1.0}
    a, b = save_run(tmp_path / "a", worse, **results), save_run(tmp_path / "b", better, **results)
    text = compare(a, b)
    assert "400 rows, one seed each" in text and "Right in A alone: 0" in text and "under 0.01 %" in text
    assert "B is better" in text and "A is better" in compare(b, a)
    assert "A and B cannot be told apart on 400 rows." in compare(a, a)
    assert compared(a, b) == ["accuracy", "f1"]  # what the runs reported, nothing else
    for message, other in (
        (r"answered different rows \(400 and 399\)", save_run(tmp_path / "c", better[1:], **results)),
        ("is not finished", save_run(tmp_path / "d", better, status="running", **results)),
        ("holds no run", str(tmp_path / "nowhere")),
        ("no gold answers", save_run(tmp_path / "e", [{"predicted": "no"}], **results)),
    ):
        with pytest.raises(InputError, match=message):
            compare(a, other)


def test_runs_of_other_metrics_are_compared_by_what_is_common_to_both(tmp_path):
    rows, *_ = label_rows(40, 0.3)
    a = save_run(tmp_path / "a", rows, accuracy=0.5, f1=0.5)
    assert compared(a, save_run(tmp_path / "b", rows, macro_f1=0.5, accuracy=0.5)) == ["accuracy"]
    with pytest.raises(InputError, match="matthews_correlation; no score is common to both"):
        compare(a, save_run(tmp_path / "c", rows, matthews_correlation=0.5))


def test_where_test_labels_are_withheld_validation_is_compared(tmp_path):
    """As in GLUE's test splits on the Hub; the report does the same."""
    rows, *_ = label_rows(40, 0.3)
    folder = save_run(tmp_path / "a", [{"predicted": "no"}], accuracy=0.5)
    write(tmp_path / "a" / "validation_predictions.jsonl", [{"text": str(i), **row} for i, row in enumerate(rows)])
    assert "40 rows" in compare(folder, folder)


def test_rows_that_a_run_or_its_start_was_trained_on_are_a_warning(tmp_path):
    rows, *_ = label_rows(40, 0.3)
    # Of the 40 rows 10 are in the file that the start was trained on, of which it held out 2 for itself.
    train = write(tmp_path / "train.csv", "body,label\n" + "".join(f"{i},no\n" for i in range(10)))
    start = save_run(tmp_path / "start", rows[:2], accuracy=0.5, arguments={"train_file": train})
    fresh = save_run(tmp_path / "fresh", rows, accuracy=0.5)
    tuned = save_run(tmp_path / "tuned", rows, accuracy=0.5, arguments={"model_name_or_path": start})
    leaky = save_run(tmp_path / "leaky", rows, accuracy=0.5, data={"splits": {"validation": {"in_train": 5}}})
    assert f"Warning: {tuned} starts from {start}, which was trained on 8 of these 40 rows." in compare(fresh, tuned)
    assert f"Warning: 5 rows of validation stand in the training data of {leaky} as well." in compare(leaky, fresh)
    assert "Warning" not in compare(fresh, fresh)


def test_compare_without_runs_says_what_to_give(monkeypatch):
    monkeypatch.setattr("sys.argv", ["compare", "", ""])
    with pytest.raises(InputError, match="make compare A=runs/glue/x B=runs/glue/y"):
        compare_command()


def test_scores_without_right_or_wrong_go_by_the_interval(tmp_path):
    x, noise = (np.random.default_rng(seed).normal(size=200) for seed in (0, 1))
    runs = []
    for name, scale in (("a", 2.0), ("b", 0.1)):
        rows = [{"label": str(v), "predicted": v + scale * n} for v, n in zip(x, noise, strict=True)]
        runs.append(save_run(tmp_path / name, rows, pearson=0.5))
    assert compare(*runs).endswith("B is better: the 95 % interval of the difference in pearson leaves out 0.")
