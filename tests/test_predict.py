"""Predicting tags from text, files and standard input."""

import io
import json
import re
from pathlib import Path

import pytest

from common.errors import InputError
from recipes import ner, predict
from tests.conftest import read_json, read_lines, run, write


@pytest.fixture(scope="module")
def model(ner_line, small_files, tmp_path_factory) -> str:
    """Trained until it knows its sentences, with windows shorter than some of them."""
    folder = tmp_path_factory.mktemp("predict") / "run"
    flags = "--max_seq_length 24 --learning_rate 5e-3 --num_train_epochs 12 --eval_strategy no --save_strategy no"
    run(ner, ner_line, flags, output_dir=folder, test_file=small_files["validation"])
    return str(folder)


@pytest.fixture
def ask(model):
    """A function that gives what predict answers, as JSON."""
    return lambda *flags: predict.main(["--model", model, "--json", *map(str, flags)])


@pytest.fixture
def entity(ask, small_files) -> tuple[str, str]:
    """A training sentence and an entity in it that the model finds."""
    for row in ask("--file", small_files["train"]):
        if row["entities"]:
            return " ".join(row["tokens"]), row["entities"][0]["text"]
    raise AssertionError("the model finds nothing")


def test_text_gives_spans_of_its_characters(ask, entity, capsys):
    text, _ = entity
    capsys.readouterr()
    (answer,) = ask("--text", text)
    assert json.loads(capsys.readouterr().out) == answer
    assert answer["entities"] and len(answer["tokens"]) == len(answer["tags"])
    assert all(text[found["start"] : found["end"]] == found["text"] for found in answer["entities"])


def test_the_table_is_readable(model, entity, capsys):
    text, _ = entity
    capsys.readouterr()
    predict.main(["--model", model, "--text", text])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == text and lines[1].split() == ["entity", "type", "start", "end", "probability"]
    assert re.match(r".+ (PER|ORG|LOC|MISC) +\d+ +\d+ +[01]\.\d{4}$", lines[2])


def test_several_inputs_give_the_same_as_each_alone(ask, small_files):
    texts = [" ".join(row["tokens"]) for row in ask("--file", small_files["test"])]
    one_batch, small_batches = ask("--text", *texts), ask("--batch_size", 1, "--text", *texts)
    assert [row["tags"] for row in one_batch] == [row["tags"] for row in small_batches]


def test_windows_are_those_of_the_evaluation(ask, model, small_files):
    """The long sentences need several windows of 24 pieces; a whole window would give other tags."""
    rows, answers = read_lines(Path(model) / "predictions.jsonl"), ask("--file", small_files["validation"])
    assert [row["predicted"] for row in rows] == [answer["tags"] for answer in answers]
    assert read_json(Path(model) / "config.json")["recipe"]["doc_stride"] == 6


def test_a_file_with_tags_is_scored_and_one_without_is_not_asked_for_them(ask, small_files, tmp_path, capsys):
    ask("--file", small_files["train"])
    assert "Scored against" in capsys.readouterr().err
    ask("--file", write(tmp_path / "words.conll", "Anna\nran\n"))
    assert "Scored" not in capsys.readouterr().err


def test_plain_text_files_and_standard_input(ask, tmp_path, monkeypatch, entity):
    text, _ = entity
    from_file = ask("--file", write(tmp_path / "letters.txt", f"{text}\n\nNothing here.\n"))
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(f"{text}\n\nNothing here.\n".encode())))
    assert ask() == from_file
    assert [answer["text"] for answer in from_file] == [text, "", "Nothing here."]
    assert from_file[1] == {"place": "line 2", "text": "", "tokens": [], "tags": [], "entities": [], "note": "no text"}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--model runs/nowhere --text a", "no such folder"),
        ("--model {model} --text a --file b", "argument --file: not allowed with argument --text"),
        ("--model {model} --file {folder}/missing.txt", "missing.txt"),
        ("--model {model} --file {folder}", "Is a directory"),
        ("--model {model} --text a --batch_size 0", "at least 1"),
        ("--model {model} --question a --context b", "this model is for another task; give --text"),
        ("--model {tiny} --text a", "names no task"),
        ("--text a", "required"),
    ],
)
def test_bad_input(model, tiny_bert, tmp_path, flags, message):
    with pytest.raises(InputError, match=message):
        predict.main(flags.format(model=model, folder=tmp_path, tiny=tiny_bert).split())


def test_bad_rows_are_said_in_one_line(ask, tmp_path, monkeypatch):
    for name, content, message in (
        ("pos.conll", "Dog NN\n", r'pos.conll, line 1: tag "NN" has an unknown prefix'),
        ("a.jsonl", [{"text": 5}], r"a\.jsonl, line 1: .*text"),
    ):
        with pytest.raises(InputError, match=message):
            ask("--file", write(tmp_path / name, content))
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9 Paris\n")))
    with pytest.raises(InputError, match="standard input, line 1: not UTF-8"):
        ask()


@pytest.mark.parametrize("text", ["Ada  ran.", 5])
def test_words_of_their_own_go_before_the_text(ask, tmp_path, text):
    (answer,) = ask("--file", write(tmp_path / "both.jsonl", [{"text": text, "words": ["Ada", "ran."]}]))
    assert answer["tokens"] == ["Ada", "ran."] and len(answer["tags"]) == 2
