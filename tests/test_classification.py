"""Text classification and NLI: scores, labels, and both recipes from end to end on tiny models."""

import json

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Value
from transformers import AutoTokenizer, pipeline

from common.data import map_cached
from common.errors import InputError
from common.metrics import label_scores, score
from common.texts import tokenize_texts
from common.training import model_label_list
from recipes import nli, predict, text_classification
from tests.conftest import logged, read_json, read_lines, run, save_tiny_bert, write

GOOD = ["the film was warm", "the film was cold", "a warm day", "a cold day"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    letters = "b c d e f g h i j k l m n o p q r s t u v w x y z ,"
    return save_tiny_bert(tmp_path_factory.mktemp("tiny-text"), [*GOOD, letters])


def write_csv(path, rows, header="text,label"):
    return write(path, "\n".join([header, *rows]) + "\n")


def sentences(count, seed):
    """Texts whose label is whether they say warm or cold: learnable by a tiny model, in words and length alike."""
    generator = np.random.default_rng(seed)
    words = ["the", "film", "was", "a", "day"]
    rows = []
    for i in range(count):
        text = list(generator.choice(words, generator.integers(2, 7)))
        text.insert(int(generator.integers(0, len(text) + 1)), ("cold", "warm")[i % 2])
        rows.append((" ".join(text), i % 2))
    return rows


def train(recipe, tiny, folder, *flags, **values):
    fixed = f"--model_name_or_path {tiny} --output_dir {folder}/run --num_train_epochs 8 --learning_rate 3e-3"
    return run(recipe, fixed, "--per_device_train_batch_size 8", *flags, **values)


def test_features_are_not_shared_between_tokenizers_of_one_vocabulary(tiny):
    """DistilBERT's tokenizer has BERT's vocabulary and gives no token types."""
    rows = Dataset.from_dict({"text": ["a day"], "text_pair": ["a film"], "label": ["0"]})
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    assert "token_type_ids" not in map_cached(rows, tokenize_texts, tokenizer, "", max_length=8).column_names
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    assert "token_type_ids" in map_cached(rows, tokenize_texts, tokenizer, "", max_length=8).column_names


# Metrics


def test_classification_scores_by_hand():
    gold, predicted = [1, 1, 1, 0, 0, 0, 0, 1], [1, 1, 0, 0, 0, 1, 0, 0]
    scores = score("classes", gold, predicted)
    # 2 true positives, 1 false, 2 missed: precision 2/3, recall 1/2; 5 of 8 right.
    assert scores["accuracy"] == 5 / 8 and scores["f1"] == pytest.approx(4 / 7)
    # (2 x 3 - 1 x 2) / sqrt(3 x 4 x 4 x 5)
    assert scores["matthews_correlation"] == pytest.approx(4 / 240**0.5)


def test_f1_is_of_the_second_class_even_where_it_is_never_predicted():
    scores = label_scores(np.array([[1.0, 0.0], [1.0, 0.0]]), [0, 1], ["no", "yes"])
    assert scores["f1"] == 0 and scores["accuracy"] == 0.5


def test_regression_scores_by_hand():
    scores = score("numbers", [1.0, 2.0, 3.0], [1.0, 3.0, 2.0])
    assert scores["pearson"] == pytest.approx(0.5) and scores["spearmanr"] == pytest.approx(0.5)


@pytest.mark.parametrize("case", [([], []), ([0.5], [1]), ([1, 0], [1])])
def test_what_cannot_be_scored_raises(case):
    with pytest.raises(ValueError):
        score("classes", case[1], case[0])


# The recipes


def test_a_fine_tuned_model_keeps_the_order_of_its_labels(tmp_path):
    """The 7 % trap: a model fine-tuned on MNLI with another order of labels."""
    names = {"0": "CONTRADICTION", "1": "NEUTRAL", "2": "ENTAILMENT"}
    write(tmp_path / "config.json", json.dumps({"model_type": "bert", "id2label": names}))
    labels = ["entailment", "neutral", "contradiction"]
    assert model_label_list(str(tmp_path), labels, False) == ["contradiction", "neutral", "entailment"]
    with pytest.raises(InputError, match=r"lacks \(maybe\): data \['entailment', 'maybe'\], model \['CONTRADICTION'"):
        model_label_list(str(tmp_path), ["entailment", "maybe"], False)


def test_text_classification_learns_and_keeps_its_checked_labels(tiny, tmp_path, capsys):
    """Text labels, and a saved model that answers with them through `pipeline()`."""
    rows = [f"{text},{('chilly', 'cosy')[label]}" for text, label in sentences(240, 0)]
    held_out = write_csv(tmp_path / "dev.csv", rows[200:])
    files = f"--train_file {write_csv(tmp_path / 'train.csv', rows[:200])} --validation_file {held_out}"
    results = train(text_classification, tiny, tmp_path, files)
    assert results["eval_accuracy"] > 0.9
    assert "trivial baseline" in capsys.readouterr().out
    folder, texts = str(tmp_path / "run"), [row.rsplit(",", 1)[0] for row in rows[200:]]
    answers = pipeline("text-classification", model=folder)(texts)
    lines = read_lines(tmp_path / "run" / "predictions.jsonl")
    assert [line["text"] for line in lines] == texts
    assert [line["predicted"] for line in lines] == [answer["label"] for answer in answers]
    assert np.mean([line["predicted"] == line["label"] for line in lines]) == results["eval_accuracy"]

    # A test file alone: labels are matched by name, whatever their case, and need not all occur.
    def test(name, rows):
        flags = f"--do_train false --do_eval false --model_name_or_path {folder}"
        file = write_csv(tmp_path / f"{name}.csv", rows)
        return run(text_classification, flags, test_file=file, output_dir=tmp_path / name)

    scores = test("cosy", [row.replace("cosy", "COSY") for row in rows if row.endswith("cosy")])
    assert set(scores) == {"test_accuracy", "test_macro_f1", "test_loss"} and scores["test_accuracy"] > 0.9
    with pytest.raises(InputError, match=r"labels that .* lacks \(Hot\)"):
        test("hot", ["a day,Hot"])


def test_a_model_is_scored_on_the_columns_that_it_was_trained_with(tiny, tmp_path, capsys):
    files = {}
    for split, seed in (("train", 0), ("test", 1)):
        rows = [f"{i},{text},{('chilly', 'cosy')[label]}" for i, (text, label) in enumerate(sentences(40, seed))]
        files[f"{split}_file"] = write_csv(tmp_path / f"{split}.csv", rows, "nr,body,felt")
    results = train(text_classification, tiny, tmp_path, "--text_columns body --label_column felt", **files)
    again = f"--do_train false --model_name_or_path {tmp_path}/run --test_file {files['test_file']}"
    scores = run(text_classification, again, output_dir=tmp_path / "again")
    assert scores["test_accuracy"] == results["test_accuracy"]
    predict.main(["--model", str(tmp_path / "run"), "--file", files["test_file"]])
    assert f"accuracy {scores['test_accuracy']:.4f}" in capsys.readouterr().out


def test_mrpc_from_files_has_mrpcs_metrics_and_names(tiny, tmp_path):
    """The example scripts report accuracy only, for their metric hangs on the Hub's task name."""
    rows = [f"1,{text},{text if label else 'a cold day'},{label}" for text, label in sentences(60, 1)]
    data = write_csv(tmp_path / "a.csv", rows, "idx,sentence1,sentence2,label")
    flags = f"--task_name mrpc --train_file {data} --validation_file {data} --max_steps 3"
    assert set(train(nli, tiny, tmp_path, flags)) == {"eval_f1", "eval_accuracy", "eval_loss"}
    assert read_json(tmp_path / "run" / "config.json")["id2label"] == {"0": "not_equivalent", "1": "equivalent"}


def test_mnli_from_a_folder_like_the_hubs_scores_both_validation_splits(tiny, tmp_path, monkeypatch):
    names = ["entailment", "neutral", "contradiction"]
    texts = {name: Value("string") for name in ("premise", "hypothesis")}
    features = Features(texts | {"label": ClassLabel(names=names), "idx": Value("int32")})
    folder = tmp_path / "nyu-mll" / "glue"
    card = "---\nconfigs:\n- config_name: mnli\n  data_files:\n"
    for split, count in (("train", 24), ("validation_matched", 9), ("validation_mismatched", 7), ("test_matched", 3)):
        labels = [-1] * count if split.startswith("test") else [0, 1, 2, 1] * 6
        rows = {"premise": GOOD * 6, "hypothesis": GOOD[::-1] * 6, "label": labels, "idx": list(range(24))}
        rows = Dataset.from_dict({name: values[:count] for name, values in rows.items()}, features=features)
        rows.to_parquet(folder / "mnli" / f"{split}-00000-of-00001.parquet")
        card += f"  - split: {split}\n    path: mnli/{split}-*\n"
    write(folder / "README.md", card + "---\n")
    monkeypatch.chdir(tmp_path)
    results = run(nli, f"--task_name mnli --model_name_or_path {tiny} --max_steps 2")
    kinds = [f"eval_{kind}" for kind in ("matched", "mismatched")]
    assert set(results) == {f"{kind}_{name}" for kind in kinds for name in ("accuracy", "loss")}
    assert (tmp_path / "runs" / "nli-mnli" / "model.safetensors").exists()
    assert len(read_lines(tmp_path / "runs" / "nli-mnli" / "predictions.jsonl")) == 9


def test_stsb_learns_a_score(tiny, tmp_path):
    pairs = zip(sentences(300, 2), sentences(300, 3)[::-1], strict=True)
    rows = [f"{text},{other},{1.5 + 2.0 * warm + 1.0 * also}" for (text, warm), (other, also) in pairs]
    header = "sentence1,sentence2,label"
    held_out = write_csv(tmp_path / "v.csv", rows[240:], header)
    flags = f"--task_name stsb --train_file {write_csv(tmp_path / 't.csv', rows[:240], header)} --num_train_epochs 20"
    results = train(nli, tiny, tmp_path, flags, validation_file=held_out)
    assert set(results) == {"eval_pearson", "eval_spearmanr", "eval_loss"} and results["eval_pearson"] > 0.5
    lines = read_lines(tmp_path / "run" / "predictions.jsonl")
    answers = predict.main(["--model", str(tmp_path / "run"), "--file", held_out, "--json"])
    assert [a["predicted"] for a in answers] == pytest.approx([line["predicted"] for line in lines], abs=1e-3)


def test_pairs_without_labels_are_answered_as_pipeline_does(tiny, tmp_path):
    pairs = [(text, other, label) for (text, label), (other, _) in zip(sentences(24, 4), sentences(24, 5), strict=True)]
    data = write_csv(tmp_path / "t.csv", [f"{a},{b},{label}" for a, b, label in pairs], "premise,hypothesis,label")
    train(nli, tiny, tmp_path, f"--train_file {data} --validation_file {data} --max_steps 2")
    folder = tmp_path / "run"
    bare = write_csv(tmp_path / "x.csv", [f"{a},{b}" for a, b, _ in pairs], "premise,hypothesis")
    flags = f"--do_train false --do_eval false --model_name_or_path {folder} --test_file {bare}"
    assert run(nli, flags, output_dir=tmp_path / "p") == {}
    predicted = [line["predicted"] for line in read_lines(tmp_path / "p" / "predictions.jsonl")]
    classify = pipeline("text-classification", model=str(folder))
    assert [answer["label"] for answer in classify([{"text": a, "text_pair": b} for a, b, _ in pairs])] == predicted
    one = predict.main(["--model", str(folder), "--text", pairs[0][0], "--text_pair", pairs[0][1], "--json"])
    assert one[0]["predicted"] == predicted[0]
    with pytest.raises(InputError, match="two texts"):
        predict.main(["--model", str(folder), "--text", "alone"])


def test_class_weights_are_printed_and_reach_the_loss(tiny, tmp_path, capsys):
    data = write_csv(tmp_path / "t.csv", [f"{text},{int(i % 6 == 0)}" for i, (text, _) in enumerate(sentences(48, 8))])
    flags = f"--train_file {data} --validation_file {data} --max_steps 1 --logging_steps 1"
    losses = []
    for name, more in (("plain", ""), ("weighted", "--class_weights balanced")):
        train(text_classification, tiny, tmp_path / name, flags, more)
        losses += logged(tmp_path / name / "run", "loss")
    assert "Class weights: 0 0.600, 1 3.000." in capsys.readouterr().out
    assert losses[0] != pytest.approx(losses[1], rel=1e-2)
