"""Text classification and NLI: files, labels, metrics, and both recipes from end to end on tiny models."""

import json

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Value

from common.data import Source, build_dataset, file_digest, hold_out
from common.errors import InputError
from common.metrics import label_scores, score
from common.texts import checked_labels, find_columns, label_groups, labelled_texts
from common.training import balanced_class_weights, model_label_list
from recipes import nli, predict, text_classification
from tests.conftest import logged, save_tiny_bert

GOOD = ["the film was warm", "the film was cold", "a warm day", "a cold day"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return save_tiny_bert(
        tmp_path_factory.mktemp("tiny-text"), [*GOOD, "b c d e f g h i j k l m n o p q r s t u v w x y z ,"]
    )


def write_csv(path, rows, header="text,label"):
    path.write_text("\n".join([header, *rows]) + "\n")
    return str(path)


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


def run(module, tiny, tmp_path, *flags, name="run"):
    base = f"--model_name_or_path {tiny} --output_dir {tmp_path / name} --bf16 false --disable_tqdm true "
    base += "--num_train_epochs 8 --learning_rate 3e-3 --per_device_train_batch_size 8"
    given = {flag for flag in flags if str(flag).startswith("--")}
    words = base.split()
    kept = [w for i, w in enumerate(words) if w not in given and (i == 0 or words[i - 1] not in given)]
    return module.main([*kept, *map(str, flags)])


def read(path, texts=1, names=None, columns=None, label=None):
    source = Source(str(path), file_digest(str(path)), path=str(path))
    found, label_columns = find_columns({"train": source}, texts, columns, label and [label])
    options = dict(text_columns=found, label_columns=label_columns, names=names)
    return build_dataset(source, labelled_texts, text_classification.FEATURES, **options)


# Files


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", 'text,label\n"Fine, really",yes\nbad,no\n'),
        ("a.tsv", "text\tlabel\nFine, really\tyes\nbad\tno\n"),
        (
            "a.jsonl",
            '{"review": "Fine, really", "class": "yes", "id": "1"}\n{"review": "bad", "class": "no", "id": "2"}\n',
        ),
        ("a.json", '[{"comment": "Fine, really", "label": "yes"}, {"comment": "bad", "label": "no"}]'),
    ],
)
def test_formats_and_inferred_columns(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    dataset = read(tmp_path / name)
    assert (dataset["text"][:], dataset["label"][:]) == (["Fine, really", "bad"], ["yes", "no"])


def test_parquet_keeps_its_class_names(tmp_path):
    features = Features(text=Value("string"), label=ClassLabel(names=["neg", "pos"]))
    Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}, features=features).to_parquet(tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet")["label"][:] == ["pos", "neg"]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["equivalent", "other", "equivalent"], ["equivalent", "other"]),
        (["10", "9", "2"], ["2", "9", "10"]),
        (["True", "False", "True"], ["False", "True"]),
        (["3.8", "0", "5.0"], None),
        (["a", "1.5", "b"], ["1.5", "a", "b"]),
    ],
)
def test_what_labels_mean(labels, expected):
    rows = {"text": ["x"] * 3, "text_pair": [None] * 3, "label": labels, "place": ["line 2", "line 3", "line 4"]}
    assert checked_labels({"train": Dataset.from_dict(rows)}, None, None)[1] == expected


BAD = [
    ("a.csv", "text,label\nfine,yes,again\n", "line 2: 3 fields, but the header names 2"),
    ("a.csv", 'text,label\n"fine,yes\n', "line"),
    ("a.csv", "text,text\nfine,yes\n", "occurs twice"),
    ("a.csv", "one,two,label\nfine,day,yes\n", "--text_columns"),
    ("a.csv", "text,label,score\nfine,yes,1\n", "--label_column"),
    ("a.csv", "text,label\n", "holds no rows"),
    ("a.csv", "", "holds no rows"),
    ("a.jsonl", '{"text": 3, "label": "yes"}\n', '"text" is not a text'),
    ("a.jsonl", '{"text": "a", "label": [["yes"]]}\n', 'line 1: "label" is a list'),
    ("a.jsonl", '{"text": "a", "label": "yes"}\n{"label": "no"}\n', 'line 2: "text" is not a text'),
]


@pytest.mark.parametrize(("name", "content", "message"), BAD)
def test_bad_files_name_the_place(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError) as error:
        read(tmp_path / name)
    assert message in str(error.value) and name in str(error.value)


def test_labels_that_training_has_not_seen_and_single_classes(tmp_path):
    """Not `KeyError: 7`, as the example scripts answer."""
    train = read(write_csv(tmp_path / "t.csv", ["a,1", "b,2"]))
    with pytest.raises(InputError, match=r'v.csv, line 3: label "7" does not occur in train \(1, 2\)'):
        checked_labels({"train": train, "validation": read(write_csv(tmp_path / "v.csv", ["a,1", "b,7"]))}, None, None)
    with pytest.raises(InputError, match="every label is 1"):
        checked_labels({"train": read(write_csv(tmp_path / "o.csv", ["a,1", "b,1"]))}, None, None)
    with pytest.raises(InputError, match=r"e\.csv, line 3: its label is empty"):
        checked_labels({"train": read(write_csv(tmp_path / "e.csv", ["a,1", "b,"]))}, None, None)
    with pytest.raises(InputError, match="is neither one of not_equivalent, equivalent"):
        read(write_csv(tmp_path / "x.csv", ["a,2"]), names=["not_equivalent", "equivalent"])
    with pytest.raises(InputError, match=r's.csv, line 3: label "good" is no number'):
        checked_labels({"train": read(write_csv(tmp_path / "s.csv", ["a,1.5", "b,good"]))}, None, True)


def test_held_out_rows_are_stratified_and_copies_stay_together(tmp_path):
    rows = [f"text {i % 70},{'rare' if i % 7 == 0 else 'common'}" for i in range(140)] + ["single,once"]
    dataset = read(write_csv(tmp_path / "a.csv", rows))
    split = hold_out(dataset, 3, **label_groups(dataset, False))
    assert not set(split["train"]["text"]) & set(split["validation"]["text"])
    assert set(split["validation"]["label"]) == {"rare", "common"} and "once" in split["train"]["label"][:]
    assert len(split["validation"]) + len(split["train"]) == 141


def test_a_small_file_can_be_held_out_of(tmp_path):
    dataset = read(write_csv(tmp_path / "a.csv", [f"text {i},{i % 3}" for i in range(27)]))
    split = hold_out(dataset, 1, **label_groups(dataset, False))
    assert len(split["validation"]) == 3 and set(split["validation"]["label"]) == {"0", "1", "2"}


def test_withheld_labels_of_glue_are_none(tmp_path):
    path = write_csv(tmp_path / "a.csv", ["a,b,-1.0", "c,d,-1"], "sentence1,sentence2,label")
    source = Source(path, "digest of withheld labels", path=path)
    rows = labelled_texts(source, ("sentence1", "sentence2"), ["label"], None, is_task=True)
    assert [row["label"] for row in rows] == [None, None]


def test_negative_whole_numbers_are_scores_too():
    rows = {"text": ["x"] * 3, "text_pair": [None] * 3, "label": ["-1", "0.25", "1"], "place": ["a", "b", "c"]}
    assert checked_labels({"train": Dataset.from_dict(rows)}, None, None)[1] is None


def test_features_are_not_shared_between_tokenizers_of_one_vocabulary(tiny):
    """DistilBERT's tokenizer has BERT's vocabulary and gives no token types."""
    from transformers import AutoTokenizer

    from common.data import map_cached
    from common.texts import tokenize_texts

    rows = Dataset.from_dict({"text": ["a day"], "text_pair": ["a film"], "label": ["0"]})
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    assert "token_type_ids" not in map_cached(rows, tokenize_texts, tokenizer, "", max_length=8).column_names
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    assert "token_type_ids" in map_cached(rows, tokenize_texts, tokenizer, "", max_length=8).column_names


# Metrics


def test_classification_scores_by_hand_and_by_scikit_learn():
    from sklearn.metrics import f1_score, matthews_corrcoef

    gold, predicted = [1, 1, 1, 0, 0, 0, 0, 1], [1, 1, 0, 0, 0, 1, 0, 0]
    scores = score("classes", gold, predicted)
    # 2 true positives, 1 false, 2 missed: precision 2/3, recall 1/2; 5 of 8 right.
    assert scores["accuracy"] == 5 / 8 and scores["f1"] == pytest.approx(4 / 7)
    # (2 x 3 - 1 x 2) / sqrt(3 x 4 x 4 x 5)
    assert scores["matthews_correlation"] == pytest.approx(4 / 240**0.5)
    assert scores["f1"] == f1_score(gold, predicted)
    assert scores["matthews_correlation"] == pytest.approx(matthews_corrcoef(gold, predicted))


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


def test_balanced_weights_are_scikit_learns():
    from sklearn.utils.class_weight import compute_class_weight

    labels = [0] * 9 + [1] * 3
    weights = balanced_class_weights("balanced", {"train": Dataset.from_dict({"labels": labels})}, ["a", "b"])
    assert weights.tolist() == pytest.approx(compute_class_weight("balanced", classes=np.array([0, 1]), y=labels))
    assert weights[labels].mean().item() == pytest.approx(1)


# Labels of a model that was fine-tuned before


def test_a_fine_tuned_model_keeps_the_order_of_its_labels(tmp_path):
    """The 7 % trap: a model fine-tuned on MNLI with another order of labels."""
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "bert", "id2label": {"0": "CONTRADICTION", "1": "NEUTRAL", "2": "ENTAILMENT"}})
    )
    labels = ["entailment", "neutral", "contradiction"]
    assert model_label_list(str(tmp_path), labels, False) == ["contradiction", "neutral", "entailment"]
    with pytest.raises(InputError, match=r"lacks \(maybe\): data \['entailment', 'maybe'\], model \['CONTRADICTION'"):
        model_label_list(str(tmp_path), ["entailment", "maybe"], False)


# The recipes


def test_a_test_file_alone_matches_labels_by_name(tiny, tmp_path):
    rows = [f"{text},{('Cold', 'Warm')[label]}" for text, label in sentences(24, 8)]
    train = write_csv(tmp_path / "t.csv", rows)
    run(text_classification, tiny, tmp_path, "--train_file", train, "--validation_file", train, "--max_steps", 1)
    base = (
        f"--do_train false --model_name_or_path {tmp_path}/run --bf16 false --disable_tqdm true --output_dir {tmp_path}"
    )
    shouted = write_csv(tmp_path / "s.csv", [row.replace("Warm", "WARM").replace("Cold", "COLD") for row in rows])
    results = text_classification.main(f"{base}/a --do_eval false --test_file {shouted}".split())
    assert set(results) == {"test_accuracy", "test_macro_f1", "test_loss"}
    one = write_csv(tmp_path / "o.csv", [row for row in rows if row.endswith("Cold")])
    results = text_classification.main(f"{base}/b --validation_file {one} --test_file {one} --do_predict false".split())
    assert set(results) == {"eval_accuracy", "eval_macro_f1", "eval_loss"}
    other = write_csv(tmp_path / "x.csv", ["a day,Hot"])
    with pytest.raises(InputError, match=r"labels that .* lacks \(Hot\)"):
        text_classification.main(f"{base}/c --do_eval false --test_file {other}".split())


def test_text_classification_learns_and_keeps_its_checked_labels(tiny, tmp_path, capsys):
    """Text labels, and a saved model that answers with them through `pipeline()`."""
    rows = [f"{text},{('chilly', 'cosy')[label]}" for text, label in sentences(240, 0)]
    train, held_out = write_csv(tmp_path / "train.csv", rows[:200]), write_csv(tmp_path / "dev.csv", rows[200:])
    results = run(text_classification, tiny, tmp_path, "--train_file", train, "--validation_file", held_out)
    assert results["eval_accuracy"] > 0.9
    output = capsys.readouterr().out
    assert "trivial baseline" in output and "in train" in output

    from transformers import pipeline

    folder = str(tmp_path / "run")
    answers = pipeline("text-classification", model=folder)([row.rsplit(",", 1)[0] for row in rows[200:]])
    lines = [json.loads(line) for line in (tmp_path / "run" / "predictions.jsonl").read_text().splitlines()]
    assert [line["text"] for line in lines] == [row.rsplit(",", 1)[0] for row in rows[200:]]
    assert [line["predicted"] for line in lines] == [answer["label"] for answer in answers]
    assert np.mean([line["predicted"] == line["label"] for line in lines]) == results["eval_accuracy"]
    predicted = predict.main(["--model", folder, "--file", held_out, "--json"])
    assert [row["predicted"] for row in predicted] == [line["predicted"] for line in lines]
    assert f"accuracy {results['eval_accuracy']:.4f}" in capsys.readouterr().err


def test_mrpc_from_files_has_mrpcs_metrics_and_names(tiny, tmp_path):
    """The example scripts report accuracy only, for their metric hangs on the Hub's task name."""
    rows = [f"1,{text},{text if label else 'a cold day'},{label}" for text, label in sentences(60, 1)]
    files = [
        write_csv(tmp_path / f"{n}.csv", rows[a:b], "idx,sentence1,sentence2,label")
        for n, a, b in (("t", 0, 40), ("v", 40, 60))
    ]
    results = run(
        nli,
        tiny,
        tmp_path,
        "--task_name",
        "mrpc",
        "--train_file",
        files[0],
        "--validation_file",
        files[1],
        "--max_steps",
        3,
    )
    assert set(results) == {"eval_f1", "eval_accuracy", "eval_loss"}
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["id2label"] == {"0": "not_equivalent", "1": "equivalent"}


def test_mnli_from_a_folder_like_the_hubs_scores_both_validation_splits(tiny, tmp_path, monkeypatch):
    names = ["entailment", "neutral", "contradiction"]
    features = Features(
        premise=Value("string"), hypothesis=Value("string"), label=ClassLabel(names=names), idx=Value("int32")
    )
    folder = tmp_path / "nyu-mll" / "glue" / "mnli"
    for split, count in (("train", 24), ("validation_matched", 9), ("validation_mismatched", 7), ("test_matched", 3)):
        rows = {"premise": GOOD * 6, "hypothesis": GOOD[::-1] * 6, "label": [0, 1, 2, 1] * 6, "idx": list(range(24))}
        rows = {name: values[:count] for name, values in rows.items()}
        rows["label"] = [-1] * count if split.startswith("test") else rows["label"]
        Dataset.from_dict(rows, features=features).to_parquet(folder / f"{split}-00000-of-00001.parquet")
    card = "\n".join(
        ["---", "configs:", "- config_name: mnli", "  data_files:"]
        + [
            f"  - split: {s}\n    path: mnli/{s}-*"
            for s in ("train", "validation_matched", "validation_mismatched", "test_matched")
        ]
        + ["---", ""]
    )
    (tmp_path / "nyu-mll" / "glue" / "README.md").write_text(card)
    monkeypatch.chdir(tmp_path)
    results = nli.main(
        f"--task_name mnli --model_name_or_path {tiny} --max_steps 2 --bf16 false --disable_tqdm true".split()
    )
    assert set(results) == {
        f"eval_{kind}_{name}" for kind in ("matched", "mismatched") for name in ("accuracy", "loss")
    }
    assert (tmp_path / "runs" / "nli-mnli" / "model.safetensors").exists()
    assert len((tmp_path / "runs" / "nli-mnli" / "predictions.jsonl").read_text().splitlines()) == 9


def test_stsb_learns_a_score(tiny, tmp_path):
    rows = []
    for (text, warm), (other, also) in zip(sentences(300, 2), sentences(300, 3)[::-1], strict=True):
        rows.append(f"{text},{other},{1.5 + 2.0 * warm + 1.0 * also}")
    header = "sentence1,sentence2,label"
    train, held_out = (
        write_csv(tmp_path / "t.csv", rows[:240], header),
        write_csv(tmp_path / "v.csv", rows[240:], header),
    )
    flags = ["--task_name", "stsb", "--train_file", train, "--validation_file", held_out, "--num_train_epochs", 20]
    results = run(nli, tiny, tmp_path, *flags)
    assert set(results) == {"eval_pearson", "eval_spearmanr", "eval_loss"} and results["eval_pearson"] > 0.5
    lines = [json.loads(line) for line in (tmp_path / "run" / "predictions.jsonl").read_text().splitlines()]
    correlation = np.corrcoef([float(line["label"]) for line in lines], [line["predicted"] for line in lines])[0, 1]
    assert correlation == pytest.approx(results["eval_pearson"], abs=1e-3)
    answers = predict.main(["--model", str(tmp_path / "run"), "--file", held_out, "--json"])
    assert [a["predicted"] for a in answers] == pytest.approx([line["predicted"] for line in lines], abs=1e-3)


def test_predicting_without_labels_and_one_pair_by_hand(tiny, tmp_path, capsys):
    rows = [
        f"{text},{other},{label}" for (text, label), (other, _) in zip(sentences(24, 4), sentences(24, 5), strict=True)
    ]
    train = write_csv(tmp_path / "t.csv", rows, "premise,hypothesis,label")
    run(nli, tiny, tmp_path, "--train_file", train, "--validation_file", train, "--max_steps", 2)
    folder = tmp_path / "run"
    bare = write_csv(tmp_path / "x.csv", [row.rsplit(",", 1)[0] for row in rows], "premise,hypothesis")
    flags = ["--do_train", "false", "--do_eval", "false", "--model_name_or_path", folder, "--test_file", bare]
    assert (
        nli.main([*map(str, flags), "--output_dir", str(tmp_path / "p"), "--bf16", "false", "--disable_tqdm", "true"])
        == {}
    )
    lines = [json.loads(line) for line in (tmp_path / "p" / "predictions.jsonl").read_text().splitlines()]
    answers = predict.main(["--model", str(folder), "--file", bare, "--json"])
    assert [line["predicted"] for line in lines] == [answer["predicted"] for answer in answers]
    from transformers import pipeline

    pairs = [dict(zip(("text", "text_pair"), row.split(",")[:2], strict=True)) for row in rows]
    classify = pipeline("text-classification", model=str(folder))
    assert [answer["label"] for answer in classify(pairs)] == [line["predicted"] for line in lines]
    first = rows[0].split(",")
    (one,) = predict.main(["--model", str(folder), "--text", first[0], "--text_pair", first[1], "--json"])
    assert one["predicted"] == answers[0]["predicted"]
    with pytest.raises(InputError, match="two texts"):
        predict.main(["--model", str(folder), "--text", "alone"])


@pytest.mark.parametrize("module", [text_classification, nli])
def test_another_run_in_the_same_folder_is_refused(module, tiny, tmp_path):
    header = "text,label" if module is text_classification else "premise,hypothesis,label"
    rows = [
        f"{text},{label}" if module is text_classification else f"{text},a day,{label}"
        for text, label in sentences(16, 6)
    ]
    train = write_csv(tmp_path / "t.csv", rows, header)
    flags = ["--train_file", train, "--validation_file", train, "--max_steps", 1]
    results = run(module, tiny, tmp_path, *flags)
    assert run(module, tiny, tmp_path, *flags) == results
    with pytest.raises(InputError, match="seed: 42 there, 7 here"):
        run(module, tiny, tmp_path, *flags, "--seed", 7)


def test_class_weights_are_printed_and_change_the_loss_not_the_count(tiny, tmp_path, capsys):
    rows = [f"{text},{int(i % 6 == 0)}" for i, (text, _) in enumerate(sentences(36, 7))]
    train = write_csv(tmp_path / "t.csv", rows)
    flags = ["--train_file", train, "--validation_file", train, "--max_steps", 1, "--class_weights"]
    run(text_classification, tiny, tmp_path, *flags, "balanced")
    assert "Class weights: 0 0.600, 1 3.000." in capsys.readouterr().out
    with pytest.raises(InputError, match="--class_weights heavy"):
        run(text_classification, tiny, tmp_path, *flags, "heavy", name="other")


def test_class_weights_are_the_same_under_accumulation(tmp_path):
    """A weighted mean of each part of a batch is not the weighted mean of the batch."""
    model = save_tiny_bert(tmp_path / "model", GOOD, dropout=0.0)
    rows = [f"{text},{int(i % 6 == 0)}" for i, (text, _) in enumerate(sentences(48, 8))]
    train = write_csv(tmp_path / "t.csv", rows)
    flags = f"--train_file {train} --validation_file {train} --class_weights balanced --num_train_epochs 1 "
    flags += f"--model_name_or_path {model} --bf16 false --use_cpu true --disable_tqdm true --logging_steps 1 "
    flags += "--learning_rate 3e-3 --per_device_train_batch_size"
    text_classification.main([*flags.split(), "8", "--output_dir", str(tmp_path / "whole")])
    accumulated = ["2", "--gradient_accumulation_steps", "4", "--output_dir", str(tmp_path / "accumulated")]
    text_classification.main([*flags.split(), *accumulated])

    assert len(logged(tmp_path / "accumulated", "loss")) == 6
    for key, rel in (("loss", 1e-5), ("grad_norm", 1e-3)):
        assert logged(tmp_path / "accumulated", key) == pytest.approx(logged(tmp_path / "whole", key), rel=rel)
