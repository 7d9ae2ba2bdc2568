"""The NER recipe from end to end, on slices of the bundled sample and a tiny random model."""

import json

import pytest

from common.metrics import entities, entity_scores
from recipes import ner, predict
from tests.conftest import process, read_json, read_lines, read_sample, run, write


def columns(path):
    """Sentences of a column file as lists of fields per word."""
    return [[line.split() for line in block.splitlines()] for block in path.read_text().strip().split("\n\n")]


@pytest.fixture(scope="module")
def trained(ner_line, small_files, tmp_path_factory):
    """The folder, results and output of a run that is tested on what it was trained on, so that it finds entities."""
    folder = tmp_path_factory.mktemp("ner") / "run"
    flags = "--max_seq_length 64 --learning_rate 5e-3 --num_train_epochs 15"
    return folder, run(ner, ner_line, flags, test_file=small_files["train"], output_dir=folder)


def test_it_learns_and_writes_what_it_promises(trained):
    folder, results = trained
    assert results["test_f1"] > 0.8  # a model that learned nothing tags everything O: F1 0
    assert read_json(folder / "all_results.json") == results
    scores = {f"eval_{name}" for name in ("f1", "precision", "recall", "accuracy", "PER_f1", "loss")}
    assert scores | {"test_f1"} <= set(results)
    record = read_json(folder / "run.json")
    assert record["status"] == "finished" and record["total_batch_size"] == 8
    assert record["useful_tokens_per_second"] > 0
    seconds = record["seconds"]
    parts = seconds["set-up"] + seconds["training"] + seconds["evaluation"]
    assert min(seconds.values()) > 0 and parts == pytest.approx(seconds["total"], abs=0.3)
    config = read_json(folder / "config.json")
    assert config["id2label"]["1"] == "B-LOC" and "LABEL_0" not in config["label2id"]
    assert not (folder / "training_args.bin").exists() and not (folder / ".saving").exists()


def test_predictions_are_in_input_order_and_score_as_reported(trained):
    folder, results = trained
    rows, test = read_lines(folder / "predictions.jsonl"), read_sample("train")[:64]
    assert [tuple(row["tokens"]) for row in rows] == [words for words, _ in test]
    assert all(len(row["predicted"]) == len(row["tokens"]) for row in rows)
    scores = entity_scores([row["ner_tags"] for row in rows], [row["predicted"] for row in rows])
    assert scores["f1"] == results["test_f1"]
    table = columns(folder / "predictions.conll")
    assert [[word for word, _, _ in sentence] for sentence in table] == [list(words) for words, _ in test]
    assert [[tag for _, _, tag in sentence] for sentence in table] == [row["predicted"] for row in rows]


def test_the_saved_folder_scores_the_same_in_a_fresh_process(trained, small_files, tmp_path):
    """Through `pipeline()` with whole words and real type names, through predict, and through the recipe itself."""
    folder, results = trained
    rows = read_lines(folder / "predictions.jsonl")
    tokens = write(tmp_path / "tokens.json", json.dumps([row["tokens"] for row in rows]))
    script = """
import json, sys
from transformers import pipeline
tag = pipeline("token-classification", model=sys.argv[1], aggregation_strategy="first")
found = [tag(words, is_split_into_words=True)[0] for words in json.load(open(sys.argv[2]))]
print(json.dumps([[(int(e["start"]), int(e["end"]), e["entity_group"]) for e in entities] for entities in found]))
"""
    done = process("-c", script, folder, tokens, check=True)
    theirs = [[tuple(entity) for entity in found] for found in json.loads(done.stdout)]
    ours = []  # as spans of characters in the words joined by blanks
    for row in rows:
        starts = [sum(len(word) + 1 for word in row["tokens"][:i]) for i in range(len(row["tokens"]))]
        words = [(start, start + len(word)) for start, word in zip(starts, row["tokens"], strict=True)]
        ours.append([(words[first][0], words[end - 1][1], name) for name, first, end in entities(row["predicted"])])
    # pipeline() takes the parts of a word with inner punctuation for words, so there it may part what we join.
    plain = [i for i, row in enumerate(rows) if all(word.isalnum() or len(word) == 1 for word in row["tokens"])]
    assert sum(len(ours[i]) for i in plain) > 20
    assert [theirs[i] for i in plain] == [ours[i] for i in plain]

    answers = predict.main(["--model", str(folder), "--file", small_files["train"], "--json"])
    assert [answer["tags"] for answer in answers] == [row["predicted"] for row in rows]
    again = tmp_path / "again"
    flags = f"--do_train false --model_name_or_path {folder} --validation_file {small_files['validation']}"
    assert run(ner, flags, output_dir=again)["eval_f1"] == results["eval_f1"]
    assert not (again / "model.safetensors").exists()


@pytest.mark.parametrize("length", [8, 64])
def test_short_windows_lose_no_entity(trained, small_files, tmp_path, length):
    """Cut as in the example scripts, a short max_seq_length takes entities out of the score and F1 looks better."""
    gold = read_sample("validation")[:21]
    flags = f"--do_train false --model_name_or_path {trained[0]} --validation_file {small_files['validation']}"
    run(ner, flags, output_dir=tmp_path / "e", max_seq_length=length)
    rows = columns(tmp_path / "e" / "predictions.conll")
    assert [[word for word, *_ in sentence] for sentence in rows] == [list(words) for words, _ in gold]
    assert [[tag for _, tag, _ in sentence] for sentence in rows] == [list(tags) for _, tags in gold]


def test_predicting_a_file_without_tags(trained, tmp_path):
    """Neither train nor validation files, nor tags, are asked for."""
    untagged = write(tmp_path / "untagged.conll", "Anna\nran\n\nHome\n")
    flags = f"--do_train false --do_eval false --model_name_or_path {trained[0]} --test_file {untagged}"
    assert run(ner, flags, output_dir=tmp_path / "p") == {}
    words = [[word for word, _ in sentence] for sentence in columns(tmp_path / "p" / "predictions.conll")]
    assert words == [["Anna", "ran"], ["Home"]]


def test_the_table_of_the_data_counts_what_is_there(tiny_bert, tmp_path, capsys):
    rows = [
        {"tokens": ["Ada", "ran"], "ner_tags": ["B-PER", "O"]},
        {"tokens": ["to"] * 70, "ner_tags": ["O"] * 70},  # two windows of 64 pieces
        {"tokens": ["\x01", "Leeds", "won"], "ner_tags": ["O", "B-ORG", "O"]},
    ]
    train = write(tmp_path / "train.jsonl", rows)
    held_out = write(tmp_path / "validation.jsonl", [rows[0], {"tokens": ["Ada"], "ner_tags": ["B-PER"]}])
    files = f"--train_file {train} --validation_file {held_out} --model_name_or_path {tiny_bert}"
    run(ner, files, output_dir=tmp_path / "run", max_steps=1)
    output = capsys.readouterr().out
    lines = [line.split() for line in output.splitlines()]
    table = {fields[0]: fields[1:] for fields in lines if len(fields) == 9}
    # rows, windows, rows in several, mean and 99th percentile of pieces, rows in train, words, words without piece
    assert table["train"] == ["3", "4", "1", "25.8", "26", "-", "75", "1"]
    assert table["validation"] == ["2", "2", "0", "5.5", "5", "1", "3", "0"]
    assert "train: PER 1 (50%), ORG 1 (50%)." in output and "trivial baseline" in output and "invented" in output
    assert "Warning: 1 of 2 rows of validation also stand in train" in output
