"""Thresholds and the temperature: chosen on validation alone, and used wherever the model answers."""

import numpy as np
import pytest

from common.thresholds import choose_threshold, choose_thresholds, fit_temperature
from common.training import TEMPERATURES
from recipes import ner, predict, text_classification
from recipes.tools import blocks, report
from tests.conftest import read_json, read_lines, run, save_tiny_bert, write

FLAGS = "--per_device_train_batch_size 8 --learning_rate 3e-3 --eval_strategy no "
FLAGS += "--save_strategy no --num_train_epochs 3"


def test_the_best_f1_is_found_by_trying_all():
    generator = np.random.default_rng(0)
    scores = generator.random(200).round(2)
    gold = generator.random(200) < scores

    def f1(threshold):
        found = scores >= threshold
        return 2 * (found & gold).sum() / (found.sum() + gold.sum())

    chosen = choose_threshold(scores, gold, "f1")
    assert f1(chosen) == max(f1(threshold) for threshold in np.unique(scores))
    assert chosen not in scores  # midway, so that rounding changes no decision


@pytest.mark.parametrize(
    ("goal", "expected"),
    [
        ("precision>=0.9", 0.75),  # of 0.9 alone; 0.8 would be 2 of 3
        ("precision>=0.6", 0.5),  # 3 of 5 and all found
        ("recall>=1", 0.5),
        ("recall>=.5", 0.75),
    ],
)
def test_precision_and_recall_by_hand(goal, expected):
    scores, gold = np.array([0.9, 0.9, 0.6, 0.55, 0.55, 0.45]), np.array([1, 1, 0, 0, 1, 0]) == 1
    assert choose_threshold(scores, gold, goal) == pytest.approx(expected)


def test_what_cannot_be_reached_leaves_a_half_and_a_line(caplog, monkeypatch):
    monkeypatch.setattr("common.thresholds.log.propagate", True)
    logits, gold = np.array([[2.0, 1.0], [1.0, -1.0]]), np.array([[0, 1], [1, 0]])
    assert choose_thresholds("precision>=0.9", logits, gold, ["slow", "costly"])["slow"] == 0.5
    assert "No threshold gives precision>=0.9 on validation for slow; 0.5 stays." in caplog.text


def test_a_temperature_softens_what_is_too_sure_and_changes_no_answer():
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(2000, 3))
    gold = np.array([generator.choice(3, p=np.exp(row) / np.exp(row).sum()) for row in logits])
    assert fit_temperature(logits, gold) == pytest.approx(1, abs=0.15)
    assert fit_temperature(3 * logits, gold) == pytest.approx(3, abs=0.4)


# Runs


def sentences(count, seed):
    """Two in five rows are "yes"; one word tells, and in one row of five it lies."""
    generator = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        label = generator.random() < 0.4
        told = label != (generator.random() < 0.2)
        rows.append((f"the film was {('cold', 'warm')[int(told)]} {generator.choice(['day', 'a'])}", label))
    return rows


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    for seed, (split, count) in enumerate({"train": 160, "validation": 80, "test": 60, "other": 60}.items()):
        lines = "".join(f"{text},{('no', 'yes')[int(label)]}\n" for text, label in sentences(count, seed))
        write(folder / f"{split}.csv", "text,label\n" + lines)
    return folder


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return save_tiny_bert(tmp_path_factory.mktemp("tiny"), ["the film was cold warm a day"], dropout=0.0)


def train(tiny, files, folder, goal="", test="test"):
    flags = f"--model_name_or_path {tiny} --train_file {files}/train.csv --validation_file {files}/validation.csv"
    return run(text_classification, FLAGS, flags, goal, test_file=files / f"{test}.csv", output_dir=folder)


def recipe_of(folder):
    return read_json(folder / "config.json")["recipe"]


def test_the_threshold_is_of_validation_and_used_by_test_and_predict(tiny, files, tmp_path, capsys):
    goal = "--threshold_for recall>=0.95"
    results = train(tiny, files, tmp_path / "a", goal)
    train(tiny, files, tmp_path / "b", goal, test="other")
    assert recipe_of(tmp_path / "a") == recipe_of(tmp_path / "b")  # whatever test holds
    (threshold,) = recipe_of(tmp_path / "a")["thresholds"].values()
    assert {f"{prefix}_tuned_{name}" for prefix in ("eval", "test") for name in ("accuracy", "macro_f1")} < set(results)

    rows = read_lines(tmp_path / "a" / "validation_predictions.jsonl")
    assert np.mean([row["predicted"] == "yes" for row in rows if row["label"] == "yes"]) >= 0.95
    probability = [row["probability"] if row["predicted"] == "yes" else 1 - row["probability"] for row in rows]
    sure = [(p, row) for p, row in zip(probability, rows, strict=True) if abs(p - threshold) > 1e-4]  # as rounded
    assert [p >= threshold for p, _ in sure] == [row["predicted"] == "yes" for _, row in sure]

    capsys.readouterr()
    answers = predict.main(["--model", str(tmp_path / "a"), "--file", str(files / "test.csv")])
    rows = read_lines(tmp_path / "a" / "predictions.jsonl")
    for answer, row in zip(answers, rows, strict=True):
        assert answer["predicted"] == row["predicted"]
        assert answer["probability"] == pytest.approx(row["probability"], abs=1e-3)
    right = np.mean([row["label"] == row["predicted"] for row in rows])
    assert results["test_tuned_accuracy"] == pytest.approx(right)
    assert f"accuracy {right:.4f}" in capsys.readouterr().out

    answers = next(drawn for title, drawn in report.page(tmp_path / "a")["sections"] if title == "Answers on test")
    assert any("threshold chosen on validation" in block["caption"] for block in answers)


def test_the_cost_of_at_least_by_hand():
    rows = [{"label": "a", "predicted": "a", "probability": p} for p in (0.55, 0.75, 0.92)]
    rows += [{"label": "b", "predicted": "a", "probability": 0.85}]
    (block,) = blocks.cost_of_at_least(rows)
    table = {row[0][0]: [cell for cell, _ in row[1:]] for row in block["rows"]}
    assert table["0.5"] == ["4", "0.750", "0.750"] and table["0.8"] == ["2", "0.500", "0.250"]
    assert table["0.95"] == ["0", "0.000", "0.000"] and blocks.cost_of_at_least([]) == []
    sentence = {"ner_tags": ["B-PER", "I-PER", "O"], "predicted": ["B-PER", "I-PER", "B-LOC"]}
    (block,) = blocks.cost_of_at_least([sentence | {"probabilities": [0.9, 0.7, 0.6]}])
    assert [[cell for cell, _ in row[1:]] for row in block["rows"]][:3] == [
        ["2", "0.500", "1.000"],
        ["2", "0.500", "1.000"],
        ["1", "1.000", "1.000"],
    ]


def test_tags_have_their_temperature_too_and_predict_uses_it(ner_flags, small_files, tmp_path, capsys):
    ner.main(ner_flags)
    temperature = recipe_of(tmp_path / "run")["temperature"]
    assert temperature in TEMPERATURES and f"Temperature, fitted on validation: {temperature:.3f}" in (
        capsys.readouterr().out
    )
    answers = predict.main(["--model", str(tmp_path / "run"), "--file", small_files["test"], "--json"])
    again = f"--do_train false --model_name_or_path {tmp_path}/run --test_file {small_files['test']}"
    run(ner, again, output_dir=tmp_path / "again", max_seq_length=32)
    rows = [pytest.approx(row["probabilities"], abs=2e-3) for row in read_lines(tmp_path / "run" / "predictions.jsonl")]
    for answered in (answers, read_lines(tmp_path / "again" / "predictions.jsonl")):
        assert [answer["probabilities"] for answer in answered] == rows
