"""Texts with several labels: what is recognised, learnt, held out, scored, predicted and shown."""

import json

import numpy as np
import pytest
import torch
from datasets import Dataset
from sklearn.metrics import f1_score
from transformers import pipeline

from common.data import hold_out
from common.errors import InputError
from common.metrics import label_set_scores
from common.texts import checked_labels, label_groups, names_in
from common.training import balanced_class_weights, label_loss
from recipes import predict, text_classification
from recipes.tools import report
from recipes.tools.compare import compare
from tests.conftest import read_json, read_lines, read_texts, run, save_tiny_bert, write

LABEL_OF = {"late": "slow", "rude": "unkind", "broken": "defect"}
FLAGS = "--learning_rate 5e-3 --per_device_train_batch_size 8 --eval_strategy no --save_strategy no"


def complaints(count, seed):
    """(text, labels): each of three words gives the text that holds it a label; one in eight has none."""
    generator = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        chosen = [word for word in LABEL_OF if generator.random() < 0.5]
        words = [*chosen, *generator.choice(["the", "order", "was"], 2)]
        generator.shuffle(words)
        rows.append((" ".join(words), sorted(LABEL_OF[word] for word in chosen)))
    return rows


def in_cells(rows):
    return "text,label\n" + "".join(f"{text},{'|'.join(labels)}\n" for text, labels in rows)


def in_columns(rows):
    cells = (",".join(str(int(label in labels)) for label in LABEL_OF.values()) for _, labels in rows)
    lines = (f"{i},{text},{row}\n" for i, ((text, _), row) in enumerate(zip(rows, cells, strict=True)))
    return "id,comment,slow,unkind,defect\n" + "".join(lines)


def in_lists(rows):
    return "".join(json.dumps({"text": text, "labels": labels}) + "\n" for text, labels in rows)


FORMS = {"cells.csv": in_cells, "columns.csv": in_columns, "lists.jsonl": in_lists}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return save_tiny_bert(tmp_path_factory.mktemp("tiny"), ["late rude broken the order was"], dropout=0.0)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("complaints")
    counts = {"train": 200, "validation": 45, "test": 40}
    return {
        split: write(folder / f"{split}.csv", in_cells(complaints(count, seed)))
        for seed, (split, count) in enumerate(counts.items())
    }


def train(model, folder, *flags):
    return run(text_classification, FLAGS, *flags, model_name_or_path=model, output_dir=folder)


@pytest.fixture(scope="module")
def trained(tiny, files, tmp_path_factory):
    """The folder of a run with thresholds, and its scores."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    splits = " ".join(f"--{split}_file {path}" for split, path in files.items())
    results = train(tiny, folder, splits, "--num_train_epochs 12 --threshold_for f1")
    report.draw_report(folder)
    return folder, results


def rows_of(folder):
    return read_lines(folder / "predictions.jsonl")


# Files


@pytest.mark.parametrize("name", FORMS)
def test_each_form_means_the_same_and_a_row_without_labels_is_a_row(name, tmp_path):
    rows = complaints(40, 0)
    assert any(not labels for _, labels in rows)
    dataset = read_texts(write(tmp_path / name, FORMS[name](rows)))
    datasets, label_list, several = checked_labels({"train": dataset}, None, None)
    assert several and label_list == ["defect", "slow", "unkind"]
    assert [sorted(names_in(label)) for label in datasets["train"]["label"]] == [labels for _, labels in rows]


def test_columns_of_0_and_1_may_be_named(tmp_path):
    path = write(tmp_path / "a.csv", "text,votes,slow,costly\na,3,1,1\nb,1,0,1\n")
    assert read_texts(path, label_columns=["slow", "costly"])["label"][:] == ["slow|costly", "costly"]
    with pytest.raises(InputError, match=r'a.csv, line 2: "votes" is \'3\', not 0 or 1; name label columns'):
        read_texts(path, label_columns=["votes", "slow"])
    with pytest.raises(InputError, match="has no column dear, only text, votes"):
        read_texts(path, label_columns=["slow", "dear"])


def test_one_label_alone_is_scored_as_one():
    scores = label_set_scores([[1], [0], [0], [1]], [[1], [1], [0], [0]])
    assert scores["micro_f1"] == scores["macro_f1"] == 0.5 and scores["classes"][0]["support"] == 2
    assert label_set_scores([[0], [0]], [[0], [0]])["micro_f1"] == 0.0


def test_a_bar_in_a_label_of_a_list_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"a.jsonl, line 1: a label of \['and\|or'\] holds a bar"):
        read_texts(write(tmp_path / "a.jsonl", [{"text": "a", "labels": ["and|or"]}]))


def test_other_columns_of_0_and_1_are_no_labels(trained, tiny, tmp_path):
    """A test file without labels, of a model with a label a row and of one with several."""
    folder, _ = trained
    test = write(tmp_path / "test.csv", "text,votes,likes\nthe order,0,1\nlate order,3,4\n")
    plain = write(tmp_path / "train.csv", "text,label\n" + "late order,slow\nthe order,fine\n" * 20)
    train(tiny, tmp_path / "run", f"--train_file {plain} --validation_file {plain} --max_steps 1 --test_file {test}")
    assert [sorted(row) for row in rows_of(tmp_path / "run")] == [["predicted", "probability", "text"]] * 2
    for model in (tmp_path / "run", folder):
        assert len(predict.main(["--model", str(model), "--file", test])) == 2


def test_a_label_that_train_lacks_is_told(tmp_path):
    splits = {"train": "a,slow|costly\nb,\n", "dev": "a,slow\nb,slow|rude\n"}
    splits = {name: read_texts(write(tmp_path / f"{name}.csv", f"text,label\n{r}")) for name, r in splits.items()}
    with pytest.raises(InputError, match=r'dev\.csv, line 3: label "rude" does not occur in train \(costly, slow\)'):
        checked_labels(splits, None, None)


@pytest.mark.parametrize("seed", range(3))
def test_rare_labels_are_held_out_and_stay_in_train_too(seed):
    """Each in 20 of 1,000 rows, mostly beside a common one."""
    labels = ["common"] * 900 + ["common|rare"] * 15 + ["rare"] * 5 + ["odd|common"] * 20 + [""] * 59 + ["once|common"]
    rows = {"text": [f"text {i}" for i in range(1000)], "text_pair": [None] * 1000, "label": labels}
    dataset = Dataset.from_dict(rows)
    split = hold_out(dataset, seed, **label_groups(dataset, False))
    names = {s: [name for label in split[s]["label"] for name in names_in(label)] for s in split}
    for name in ("rare", "odd"):
        assert names["validation"].count(name) == 2 and names["train"].count(name) == 18
    assert "once" in names["train"] and "" in split["validation"]["label"][:]


# Loss


def test_the_loss_is_the_mean_over_rows_and_labels_and_weighs_what_is_rare():
    logits, gold = torch.randn(6, 3), torch.tensor([[1.0, 0, 0], [0, 1, 1]] * 3)
    loss = label_loss(["a", "b", "c"], None, 0.0, several=True)
    stock = torch.nn.functional.binary_cross_entropy_with_logits
    assert loss({"logits": logits}, gold).item() == pytest.approx(stock(logits, gold).item())
    parts = sum(loss({"logits": logits[i : i + 2]}, gold[i : i + 2], torch.tensor(18)) for i in (0, 2, 4))
    assert parts.item() == pytest.approx(stock(logits, gold).item())
    labels = [[1.0, 0.0]] * 2 + [[0.0, 1.0]] * 8
    weights = balanced_class_weights("balanced", {"train": Dataset.from_dict({"labels": labels})}, ["a", "b"])
    assert weights.tolist() == [4.0, 0.25]
    everywhere = {"train": Dataset.from_dict({"labels": [[1.0, 0.0]] * 4})}
    assert min(balanced_class_weights("balanced", everywhere, ["a", "b"])) > 0
    weighed = label_loss(["a", "b"], weights, 0.0, several=True)({"logits": logits[:, :2]}, gold[:, :2])
    assert weighed.item() == pytest.approx(stock(logits[:, :2], gold[:, :2], pos_weight=weights).item())


# A run


def test_it_learns_and_its_scores_are_scikit_learns(trained):
    folder, results = trained
    names = ("loss", "micro_f1", "macro_f1", "accuracy", "tuned_micro_f1", "tuned_macro_f1", "tuned_accuracy")
    assert set(results) == {f"{prefix}_{name}" for prefix in ("eval", "test") for name in names}
    assert results["test_micro_f1"] > 0.85 and results["test_macro_f1"] > 0.85  # all labels for all rows: below 0.7
    rows = rows_of(folder)
    labels = ["defect", "slow", "unkind"]
    gold, found = ([[label in row[key] for label in labels] for row in rows] for key in ("label", "predicted"))
    assert results["test_tuned_macro_f1"] == pytest.approx(f1_score(gold, found, average="macro", zero_division=0))
    assert results["test_tuned_accuracy"] == pytest.approx(np.mean(np.all(np.array(gold) == found, axis=1)))
    assert [] in [row["label"] for row in rows]


def test_pipeline_gives_the_same_probabilities_and_predict_the_same_labels(trained, files, capsys):
    folder, results = trained
    rows = rows_of(folder)
    limits = read_json(folder / "config.json")["recipe"]["thresholds"]
    scored = pipeline("text-classification", model=str(folder), top_k=None)([row["text"] for row in rows])
    for row, scores in zip(rows, scored, strict=True):
        probabilities = {score["label"]: score["score"] for score in scores}
        assert {label for label, p in probabilities.items() if p >= limits[label]} == set(row["predicted"])
        assert [probabilities[label] for label in row["predicted"]] == pytest.approx(row["probability"], abs=1e-3)
    capsys.readouterr()
    answers = predict.main(["--model", str(folder), "--file", files["test"], "--top_k", "3"])
    *_, shown, scored = capsys.readouterr().out.splitlines()
    assert all(shown.count(label) == 1 for label in limits)  # as an answer, or as one of the next
    assert f"micro_f1 {results['test_tuned_micro_f1']:.4f}" in scored
    assert [answer["predicted"] for answer in answers] == [row["predicted"] for row in rows]
    assert list(answers[0]["probabilities"].values()) == sorted(answers[0]["probabilities"].values(), reverse=True)
    sure = predict.main(["--model", str(folder), "--file", files["test"], "--at_least", "0.9", "--json"])
    assert all(p >= 0.9 for answer in sure for p in answer["probability"])


def test_a_trained_model_is_evaluated_as_it_was_trained(trained, tiny, files, tmp_path):
    """With its own thresholds, on a file whose rows have one label or none."""
    folder, results = trained
    again = f"--do_train false --validation_file {files['validation']} --test_file {files['test']}"
    assert train(folder, tmp_path / "again", again) == pytest.approx(results, rel=1e-4)
    rows = [(text, [label.upper() for label in reversed(labels)]) for text, labels in complaints(45, 1)]
    respelt = f"--do_train false --validation_file {write(tmp_path / 'v.jsonl', in_lists(rows))}"
    scores = train(folder, tmp_path / "respelt", respelt)
    assert scores == pytest.approx({key: value for key, value in results.items() if "eval" in key}, rel=1e-4)
    right = [row["label"] == row["predicted"] for row in rows_of(tmp_path / "respelt")]  # in whatever order they stood
    assert np.mean(right) == pytest.approx(results["eval_tuned_accuracy"])
    one = write(tmp_path / "one.csv", "text,label\nthe late order,slow\nthe order was,\n")
    scores = train(folder, tmp_path / "one", f"--do_train false --test_file {one}")
    assert "test_micro_f1" in scores and [row["label"] for row in rows_of(tmp_path / "one")] == [["slow"], []]


def test_report_card_and_comparison(trained):
    folder, results = trained
    page = report.page(folder)
    assert page["tiles"][0][:2] == ("micro f1 at the threshold", f"{results['test_tuned_micro_f1']:.4f}")
    assert page["tiles"][1][0] == "trivial baseline"
    answers = next(blocks for title, blocks in page["sections"] if title == "Answers on test")
    classes, _, mistakes, cost = answers
    assert classes["header"][-1] == "threshold" and len(classes["rows"]) == 3 and mistakes["kind"] == "cases"
    assert cost["header"][0] == "at least"
    card = (folder / "README.md").read_text()
    assert "top_k=None" in card and "micro_f1" in card
    assert "A and B cannot be told apart" in compare(str(folder), str(folder))
