"""Predicting tags from text, files and standard input."""

import io
import json
import re

import pytest

from common.errors import InputError
from recipes import ner, predict


@pytest.fixture(scope="module")
def model(tiny_bert, small_files, tmp_path_factory) -> str:
    """Trained until it knows its sentences, with windows shorter than some of them."""
    folder = str(tmp_path_factory.mktemp("predict") / "run")
    flags = f"--model_name_or_path {tiny_bert} --train_file {small_files['train']} --output_dir {folder}"
    files = f"--validation_file {small_files['train']} --test_file {small_files['validation']} --bf16 false"
    ner.main(
        f"{flags} {files} --max_seq_length 24 --learning_rate 5e-3 --num_train_epochs 12 --disable_tqdm true".split()
    )
    return folder


@pytest.fixture
def entity(model, small_files) -> tuple[str, str]:
    """A training sentence and an entity in it that the model finds."""
    for row in predict.main(["--model", model, "--file", small_files["train"], "--json"]):
        if row["entities"]:
            return " ".join(row["tokens"]), row["entities"][0]["text"]
    raise AssertionError("the model finds nothing")


def test_text_gives_spans_of_its_characters(model, entity, capsys):
    text, _ = entity
    capsys.readouterr()
    (answer,) = predict.main(["--model", model, "--text", text, "--json"])
    assert json.loads(capsys.readouterr().out) == answer
    assert answer["entities"]
    for found in answer["entities"]:
        assert text[found["start"] : found["end"]] == found["text"]
    assert len(answer["tokens"]) == len(answer["tags"])


def test_the_table_is_readable(model, entity, capsys):
    text, _ = entity
    capsys.readouterr()
    predict.main(["--model", model, "--text", text])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == text and lines[1].split() == ["entity", "type", "start", "end", "probability"]
    assert re.match(r".+ (PER|ORG|LOC|MISC) +\d+ +\d+ +[01]\.\d{4}$", lines[2])


def test_several_inputs_give_the_same_as_each_alone(model, small_files):
    together = predict.main(["--model", model, "--file", small_files["test"], "--json"])
    texts = [" ".join(row["tokens"]) for row in together]
    one_batch = predict.main(["--model", model, "--json", "--text", *texts])
    small_batches = predict.main(["--model", model, "--json", "--batch_size", "1", "--text", *texts])
    assert [row["tags"] for row in one_batch] == [row["tags"] for row in small_batches]


def test_windows_are_those_of_the_evaluation(model, small_files, tmp_path):
    """The long sentences need several windows of 24 pieces; a whole window would give other tags."""
    from pathlib import Path

    rows = [json.loads(line) for line in (Path(model) / "predictions.jsonl").read_text().splitlines()]
    answers = predict.main(["--model", model, "--file", small_files["validation"], "--json"])
    assert [row["predicted"] for row in rows] == [answer["tags"] for answer in answers]
    assert json.loads((Path(model) / "config.json").read_text())["recipe"]["doc_stride"] == 6


def test_a_file_with_tags_is_scored_and_one_without_is_not_asked_for_them(model, small_files, tmp_path, capsys):
    predict.main(["--model", model, "--file", small_files["train"], "--json"])
    assert "Scored against" in capsys.readouterr().err
    untagged = tmp_path / "words.conll"
    untagged.write_text("Anna\nran\n")
    predict.main(["--model", model, "--file", str(untagged)])
    assert "Scored" not in capsys.readouterr().out


def test_plain_text_files_and_standard_input(model, tmp_path, monkeypatch, entity):
    text, _ = entity
    (tmp_path / "letters.txt").write_text(f"{text}\n\nNothing here.\n")
    from_file = predict.main(["--model", model, "--file", str(tmp_path / "letters.txt"), "--json"])
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(f"{text}\n\nNothing here.\n".encode())))
    assert predict.main(["--model", model, "--json"]) == from_file
    assert [answer["text"] for answer in from_file] == [text, "", "Nothing here."]
    assert from_file[1] == {"place": "line 2", "text": "", "tokens": [], "tags": [], "entities": [], "note": "no text"}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--model runs/nowhere --text a", "no such folder"),
        ("--model {model} --text a --file b", "exclude each other"),
        ("--model {model} --file {folder}/missing.txt", "missing.txt"),
        ("--model {model} --file {folder}", "is a folder"),
        ("--model {model} --text a --batch_size 0", "at least 1"),
        ("--model {model} --question a --context b", "this model is for another task; give --text"),
        ("--model {tiny} --text a", "names no task"),
        ("--text a", "required"),
    ],
)
def test_bad_input(model, tiny_bert, tmp_path, flags, message):
    with pytest.raises(InputError, match=message):
        predict.main(flags.format(model=model, folder=tmp_path, tiny=tiny_bert).split())


def test_bad_tags_and_encodings_are_said_in_one_line(model, tmp_path, monkeypatch):
    (tmp_path / "pos.conll").write_text("Dog NN\n")
    with pytest.raises(InputError, match=r'pos.conll, line 1: tag "NN" has an unknown prefix'):
        predict.main(["--model", model, "--file", str(tmp_path / "pos.conll")])
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9 Paris\n")))
    with pytest.raises(InputError, match="standard input, line 1: not UTF-8"):
        predict.main(["--model", model])


def test_words_of_their_own_go_before_the_text(model, tmp_path):
    (tmp_path / "both.jsonl").write_text(json.dumps({"text": "Ada  ran.", "words": ["Ada", "ran."]}) + "\n")
    (answer,) = predict.main(["--model", model, "--file", str(tmp_path / "both.jsonl"), "--json"])
    assert answer["tokens"] == ["Ada", "ran."]


def test_a_number_where_a_text_belongs_is_said(model, tmp_path, capsys):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": 5}\n')
    with pytest.raises(InputError, match=r"a\.jsonl, line 1: .*text"):
        predict.main(["--model", model, "--file", str(path)])
    path.write_text('{"tokens": ["Ada", "ran"], "text": 5}\n')
    (answer,) = predict.main(["--model", model, "--file", str(path), "--json"])
    assert answer["tokens"] == ["Ada", "ran"] and len(answer["tags"]) == 2
