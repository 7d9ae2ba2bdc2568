"""Bad input to the four recipes: exit code 2, one line with the place and the remedy, nothing left behind."""

import json
import os
import pickle
import shutil

import pyarrow
import pyarrow.parquet
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.data import Source, read_rows
from common.errors import InputError, run_as_command
from common.questions import questions_and_answers
from common.texts import find_columns, labelled_texts
from common.words import tagged_sentences
from recipes import ner, nli, qa, text_classification
from tests.conftest import save_tiny_bert

ROWS = "text,label\n" + "".join(f"row {i},{'no' if i % 2 else 'yes'}\n" for i in range(20))
PAIRS = "premise,hypothesis,label\n" + "".join(f"first {i},second,{'no' if i % 2 else 'yes'}\n" for i in range(20))
TAGGED = "Ada B-PER\nran O\n\n" * 20
QUESTIONS = [
    {
        "id": str(i),
        "question": f"Who ran {i}?",
        "context": f"Ada ran {i} times.",
        "answers": {"text": ["Ada"], "answer_start": [0]},
    }
    for i in range(20)
]
FIELDS = "text label premise hypothesis tokens ner_tags entities start end question context answers answer_start data "
FIELDS += "paragraphs qas is_impossible answer_text id"
NAMES = st.sampled_from(FIELDS.split())
TRAIN = "--model_name_or_path {folder}/model --train_file {folder}/recipes.text_classification/a.csv --use_cpu true "
TRAIN += "--validation_file {folder}/recipes.text_classification/a.csv --bf16 false --disable_tqdm true "
TRAIN += "--save_strategy no --num_train_epochs 1 --output_dir {output}"
GOOD = {
    text_classification: ("a.csv", ROWS),
    nli: ("a.csv", PAIRS),
    ner: ("a.conll", TAGGED),
    qa: ("a.json", json.dumps(QUESTIONS)),
}


def rows(*extra, key="text"):
    good = [{key: f"row {i}", "label": ("yes", "no")[i % 2]} for i in range(4)]
    return "".join(json.dumps(row) + "\n" for row in [*good, *extra])


def question(**fields):
    return "".join(json.dumps(row) + "\n" for row in [*QUESTIONS[:4], {**QUESTIONS[4], **fields}])


def nested(paragraph):
    return json.dumps({"data": [{"title": "t", "paragraphs": [paragraph]}]})


# A file instead of train: recipe, name, content, what the message must say.
FILES = [
    (text_classification, "empty.csv", "", "holds no rows"),
    (text_classification, "bom.csv", "\ufeff", "holds no rows"),
    (text_classification, "header.csv", "text,label\n", "holds no rows"),
    (text_classification, "blank.csv", "\n\n\n", "holds no rows"),
    (text_classification, "latin1.csv", ROWS.replace("row 3", "caf\xe9").encode("latin1"), "line 5: not UTF-8"),
    (text_classification, "nul.csv", ROWS.replace("row 3", "r\0w"), "line 5: holds a NUL byte"),
    (text_classification, "binary.csv", bytes(range(256)), "line 1: "),
    (text_classification, "ragged.csv", ROWS + "one, two, three\n", "line 22: 3 fields, but the header names 2"),
    (text_classification, "quote.csv", ROWS + '"open,yes\n', "double a quote within a text"),
    (text_classification, "semicolons.csv", ROWS.replace(",", ";"), 'line 1: one column, "text;label"'),
    (text_classification, "commas.tsv", ROWS, 'line 1: one column, "text,label"'),
    (text_classification, "twice.csv", ROWS.replace("text,label", "label,label"), "line 1: a column name occurs twice"),
    (text_classification, "tabs.csv", ROWS.replace(",", "\t"), 'line 1: one column, "text'),
    (text_classification, "mac.csv", ROWS.replace("\n", "\r"), "line 1: "),
    (text_classification, "unlabelled.csv", "text\nfine\nbad\n", "label"),
    (text_classification, "textless.csv", "label\nyes\nno\n", "column"),
    (text_classification, "one_class.csv", ROWS.replace(",no", ",yes"), "label"),
    (text_classification, "no_label.csv", ROWS + "row,\n", "line 22: "),
    (text_classification, "xlsx.xlsx", ROWS, 'unknown ending ".xlsx"'),
    (text_classification, "none", ROWS, "unknown ending"),
    (text_classification, "text.parquet", ROWS, "no readable Parquet file"),
    (text_classification, "empty.parquet", "", "no readable Parquet file"),
    (text_classification, "broken.jsonl", rows() + "{\n", "line 5: broken JSON"),
    (text_classification, "list.jsonl", rows() + "[1]\n", "line 5: a list where an object"),
    (text_classification, "deep.jsonl", rows() + "[" * 100_000 + "\n", "line 5: JSON nested too deeply"),
    (text_classification, "deep.json", "[" * 100_000, "nested too deeply"),
    (text_classification, "number.jsonl", rows({"text": 5, "label": "yes"}), "line 5: "),
    (text_classification, "null.jsonl", rows({"text": None, "label": "yes"}), "line 5: "),
    (text_classification, "label_list.jsonl", rows({"text": "a", "label": [["yes"]]}), "line 5: "),
    (text_classification, "label_object.jsonl", rows({"text": "a", "label": {"a": 1}}), "line 5: "),
    (text_classification, "nan.jsonl", rows({"text": "a", "label": float("nan")}), "line 5: "),
    (text_classification, "lacking.jsonl", rows({"label": "yes"}), "line 5: "),
    (text_classification, "surrogate.jsonl", rows() + '{"text": "\\ud800", "label": "yes"}\n', "surrogate"),
    (text_classification, "scalar.json", "3", "line 1: a int where an object"),
    (text_classification, "null.json", '{"data": null}', "list of rows"),
    (text_classification, "numbers.json", "[1, 2]", "row 1: a int where an object"),
    (text_classification, "cut.json", '[{"text": "a"', "broken JSON"),
    (nli, "one_text.csv", ROWS, "hold the two texts"),
    (nli, "ragged.tsv", PAIRS.replace(",", "\t") + "a\tb\n", "line 22: 2 fields"),
    (nli, "number.jsonl", json.dumps({"premise": "a", "hypothesis": 2, "label": "x"}), "line 1: "),
    (ner, "empty.conll", "", "holds no rows"),
    (ner, "columns.tsv", TAGGED.replace(" ", "\t"), "end in .conll"),
    (ner, "spans.jsonl", '{"text": "Ada ran", "spans": []}\n', "every tag is O"),
    (ner, "ragged.conll", TAGGED + "ran\n", "line 61: 1 columns"),
    (ner, "prefix.conll", TAGGED + "Ada PERSON\n", 'line 61: tag "PERSON"'),
    (ner, "nul.txt", TAGGED + "A\0a O\n", "line 61: holds a NUL byte"),
    (ner, "words.conll", "Ada\nran\n", "tags"),
    (ner, "unequal.jsonl", json.dumps({"tokens": ["a"], "ner_tags": []}), "line 1: 1 words but 0 tags"),
    (ner, "numbers.jsonl", json.dumps({"tokens": ["a"], "ner_tags": [3]}), "line 1: tags are integers"),
    (ner, "span.jsonl", json.dumps({"text": "Ada", "entities": [{"start": 0, "end": 9, "label": "A"}]}), "line 1: "),
    (ner, "columns.csv", ROWS, "column"),
    (qa, "empty.json", "", "holds no rows"),
    (qa, "cut.json", nested({"context": "a", "qas": []})[:-9], "broken JSON"),
    (qa, "no_context.json", nested({"qas": [{"id": "1", "question": "q", "answers": []}]}), "context"),
    (qa, "no_qas.json", nested({"context": "Ada"}), "qas"),
    (qa, "paragraphs.json", '{"data": [{"title": "t", "paragraphs": 3}]}', "paragraphs"),
    (qa, "question.jsonl", question(question=["q"]), "line 5: "),
    (qa, "context.jsonl", question(context=""), "line 5: the answers of this question and 0 more of 5"),
    (qa, "answers.jsonl", question(answers=5), "line 5: "),
    (qa, "start.jsonl", question(answers={"text": ["Ada"], "answer_start": ["x"]}), "line 5: "),
    (qa, "unequal.jsonl", question(answers={"text": ["Ada"], "answer_start": [0, 1]}), "line 5: "),
    (qa, "elsewhere.jsonl", question(answers={"text": ["Eve"], "answer_start": [0]}), "line 5: the answers"),
    (qa, "columns.csv", ROWS, "column"),
    (qa, "deep.json", '{"data": ' + "[" * 100_000, "nested too deeply"),
]

# Flags with good files: recipe, flags, what the message must say. {folder} holds what `tmp_files` makes.
FLAGS = [
    (text_classification, "--train_file {folder}", "is a folder"),
    (text_classification, "--train_file {folder}/absent.csv", "No such file"),
    (text_classification, "--train_file {folder}/loop.csv", "symbolic link"),
    (text_classification, "--train_file {folder}/secret.csv", "Permission denied"),
    (text_classification, "--train_file {folder}/cut.parquet", "no readable Parquet file"),
    (text_classification, "--train_file {folder}/numbers.parquet", "row 1: "),
    (text_classification, "--validation_file {folder}/unseen.csv", "maybe"),
    (text_classification, "--text_columns body", "body"),
    (text_classification, "--label_column stars", "has no column stars, only text, label; name one with"),
    (text_classification, "--task_name mrpc", "--task_name mrpc: must be one of"),
    (text_classification, "--regression true", "label"),
    (text_classification, "--class_weights heavy", "--class_weights heavy: must be balanced"),
    (text_classification, "--num_train_epoch 3", "did you mean --num_train_epochs"),
    (text_classification, "--num_train_epochs many", "num_train_epochs"),
    (text_classification, "--max_train_samples 0", "--max_train_samples 0: must be at least 1"),
    (text_classification, "--max_seq_length 2", "--max_seq_length 2"),
    (text_classification, "--max_seq_length 100000", "--max_seq_length 100000"),
    (text_classification, "--per_device_train_batch_size 0", "--per_device_train_batch_size"),
    (text_classification, "--gradient_accumulation_steps 0", "--gradient_accumulation_steps"),
    (text_classification, "--learning_rate nan", "--learning_rate"),
    (text_classification, "--learning_rate -1", "--learning_rate"),
    (text_classification, "--num_train_epochs -1", "--num_train_epochs"),
    (text_classification, "--seed -1", "--seed"),
    (text_classification, "--freeze 99", "--freeze 99: must be"),
    (text_classification, "--attn_implementation fast", "fast"),
    (text_classification, "--early_stopping_patience 2 --eval_strategy no", "needs evaluations"),
    (text_classification, "--resume_from_checkpoint {folder}/absent", "--resume_from_checkpoint"),
    (text_classification, "--do_train false", "train it first"),
    (text_classification, "--model_name_or_path {folder}/absent", "neither a local path nor in the cache"),
    (text_classification, "--model_name_or_path {folder}/untokenized", "tokenizer"),
    (text_classification, "--model_name_or_path {folder}/pickle", "no *.safetensors weights"),
    (text_classification, "--model_name_or_path {folder}/cut", "cannot be loaded as a model"),
    (text_classification, "--model_name_or_path {folder}/shape", "cannot be loaded as a model"),
    (text_classification, "--model_name_or_path {folder}/config", "cannot be loaded as a"),
    (text_classification, "--model_name_or_path {folder}/code", "cannot be loaded as a"),
    (text_classification, "--model_name_or_path {folder}/loop.csv", "loop.csv"),
    (text_classification, "--output_dir {folder}/loop.csv", "loop.csv"),
    (nli, "--validation_file {folder}/pairs_unseen.csv", "maybe"),
    (qa, "--validation_file {folder}/twice.jsonl", 'id "1" and 0 more occur twice'),
    (ner, "--max_seq_length 1", "--max_seq_length 1"),
    (ner, "--doc_stride 64 --max_seq_length 64", "--doc_stride 64"),
    (qa, "--doc_stride 64 --max_seq_length 64", "--doc_stride 64"),
    (qa, "--doc_stride -1", "--doc_stride -1"),
    (qa, "--n_best_size 0", "--n_best_size 0: must be at least 1"),
    (qa, "--max_answer_length 0", "--max_answer_length 0: must be at least 1"),
    (qa, "--label_smoothing_factor 0.1", "--label_smoothing_factor"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad")
    model = save_tiny_bert(folder / "model", ["Ada ran first second row yes no times who"])
    for module, (name, content) in GOOD.items():
        (folder / module.__name__).mkdir()
        (folder / module.__name__ / name).write_text(content)
    (folder / "loop.csv").symlink_to(folder / "loop.csv")
    (folder / "secret.csv").write_text(ROWS)
    (folder / "twice.jsonl").write_text(question(id="1"))
    (folder / "secret.csv").chmod(0)
    (folder / "unseen.csv").write_text(ROWS + "row,maybe\n")
    (folder / "pairs_unseen.csv").write_text(PAIRS + "a,b,maybe\n")
    table = pyarrow.table({"text": [f"row {i}" for i in range(900)], "label": ["yes", "no", "no"] * 300})
    pyarrow.parquet.write_table(table, folder / "whole.parquet")
    (folder / "cut.parquet").write_bytes((folder / "whole.parquet").read_bytes()[:-30])
    pyarrow.parquet.write_table(pyarrow.table({"text": [1, 2], "label": ["a", "b"]}), folder / "numbers.parquet")
    for name in ("untokenized", "pickle", "cut", "shape", "config", "code"):
        shutil.copytree(model, folder / name)
    for path in (folder / "untokenized").glob("*token*"):
        path.unlink()
    (folder / "pickle" / "model.safetensors").unlink()
    torch.save({"weight": torch.ones(1)}, folder / "pickle" / "pytorch_model.bin")
    weights = (folder / "cut" / "model.safetensors").read_bytes()
    (folder / "cut" / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    config = json.loads((folder / "shape" / "config.json").read_text())
    (folder / "shape" / "config.json").write_text(json.dumps({**config, "hidden_size": 64}))
    (folder / "config" / "config.json").write_text("{")
    strange = {**config, "model_type": "strange", "auto_map": {"AutoConfig": "attack.Config"}}
    (folder / "code" / "config.json").write_text(json.dumps(strange))
    (folder / "code" / "attack.py").write_text(f"open({str(folder / 'attacked')!r}, 'w')\n")
    return folder


def refused(module, folder, tmp_path, capsys, *flags):
    """The one line that a recipe ends with; it must leave nothing in its output folder."""
    name, _ = GOOD[module]
    output = tmp_path / "run"
    argv = f"--model_name_or_path {folder}/model --train_file {folder}/{module.__name__}/{name} --use_cpu true "
    argv += (
        f"--validation_file {folder}/{module.__name__}/{name} --bf16 false --disable_tqdm true --output_dir {output}"
    )
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        run_as_command(lambda: module.main([*argv.split(), *flags]))
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ") or "\nerror: " in message
    line = message[message.index("error: ") :]
    assert line.count("\n") == 1 and "Traceback" not in message
    assert not output.exists()
    assert len(line) < 700
    return line


@pytest.mark.parametrize(
    ("module", "name", "content", "expected"), FILES, ids=[f"{f[0].__name__[8:]}-{f[1]}" for f in FILES]
)
def test_a_bad_file_is_refused_in_one_line(module, name, content, expected, folder, tmp_path, capsys):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    line = refused(module, folder, tmp_path, capsys, "--train_file", str(path))
    assert name in line and expected in line


@pytest.mark.parametrize(("module", "flags", "expected"), FLAGS, ids=[f"{f[0].__name__[8:]} {f[1]}" for f in FLAGS])
def test_a_bad_flag_is_refused_in_one_line(module, flags, expected, folder, tmp_path, capsys):
    if "secret" in flags and os.access(folder / "secret.csv", os.R_OK):
        pytest.skip("this user may read everything")
    assert expected in refused(module, folder, tmp_path, capsys, *flags.format(folder=folder).split())
    assert not (folder / "attacked").exists()


def test_a_word_of_a_megabyte_is_read(folder, tmp_path):
    """It is no error: the tokenizer makes one piece of it, or the text is cut."""
    word = "a" * 2**20
    question = {**QUESTIONS[0], "context": f"Ada {word} ran."}
    contents = {
        text_classification: ("a.csv", ROWS + f"{word},yes\n"),
        nli: ("a.csv", PAIRS + f"{word},{word} row,yes\n"),
        ner: ("a.conll", TAGGED + f"{word} O\nran O\n"),
        qa: ("a.json", json.dumps([*QUESTIONS[1:], question])),
    }
    for module, (name, content) in contents.items():
        path = tmp_path / f"{module.__name__}-{name}"
        path.write_text(content)
        output = tmp_path / module.__name__
        argv = f"--model_name_or_path {folder}/model --train_file {path} --validation_file {path} --max_steps 1 "
        argv += f"--use_cpu true --bf16 false --disable_tqdm true --save_strategy no --output_dir {output}"
        module.main(argv.split())
        assert (output / "predictions.jsonl").exists()


# Any bytes: bytes at random, and bytes that look like the format.
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_subnormal=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=9,
)
PIECES = [*'"\\,{}[]: \t\r\n#', "-DOCSTART-", "B-PER", "I-LOC", "O", "null", "1e999", "\ufeff", "\0", "\u2028"]
pieces = st.lists(st.sampled_from(PIECES) | st.text(max_size=4), max_size=30).map("".join)
documents = st.one_of(
    st.binary(max_size=60),
    pieces.map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.lists(json_values, max_size=4).map(lambda rows: "\n".join(map(json.dumps, rows)).encode()),
    json_values.map(lambda value: json.dumps(value).encode()),
)
PARSERS = {
    "texts": lambda source: labelled_texts(source, *find_columns({"train": source}, 1, None, None), None),
    "pairs": lambda source: labelled_texts(source, *find_columns({"train": source}, 2, None, None), None),
    "words": lambda source: tagged_sentences(source, None, None, None),
    "questions": questions_and_answers,
}


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".json", ".conll", ".parquet"])
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=documents)
def test_any_bytes_are_read_or_refused(suffix, content, tmp_path):
    path = tmp_path / f"any{suffix}"
    path.write_bytes(content)
    for read in (lambda source: read_rows(source.path), *PARSERS.values()):
        try:
            list(read(Source(str(path), "", path=str(path))))
        except InputError as error:
            assert str(path) in str(error)


def test_a_dataset_with_code_in_it_is_not_run(folder, tmp_path, capsys):
    data = tmp_path / "data"
    data.mkdir()
    (data / "data.py").write_text(f"open({str(tmp_path / 'attacked')!r}, 'w')\n")
    argv = f"--dataset_name {data} --model_name_or_path {folder}/model --use_cpu true --output_dir {tmp_path}/run"
    with pytest.raises(SystemExit, match="2"):
        run_as_command(lambda: ner.main(argv.split()))
    assert capsys.readouterr().err.count("error: ") == 1 and not (tmp_path / "attacked").exists()


def test_a_pickle_is_never_opened(folder, tmp_path, capsys):
    """A checkpoint whose optimizer state runs code when unpickled is refused; so is a model of pickled weights."""

    class Attack:
        def __reduce__(self):
            return open, (str(tmp_path / "attacked"), "w")

    argv = [*TRAIN.format(folder=folder, output=tmp_path / "run").split(), "--num_train_epochs", "2"]
    text_classification.main([*argv, "--save_strategy", "epoch"])
    checkpoint = next((tmp_path / "run").glob("checkpoint-*"))
    (tmp_path / "run" / "training_args.bin").write_bytes(pickle.dumps(Attack()))
    evaluate = f"--do_train false --model_name_or_path {tmp_path}/run --output_dir {tmp_path}/eval"
    text_classification.main([*argv, *evaluate.split()])
    torch.save(Attack(), checkpoint / "optimizer.pt")
    sizes = json.loads((checkpoint / "complete.json").read_text())
    sizes["optimizer.pt"] = (checkpoint / "optimizer.pt").stat().st_size
    (checkpoint / "complete.json").write_text(json.dumps(sizes))
    resume = f"--resume_from_checkpoint {checkpoint} --output_dir {tmp_path}/other --save_strategy epoch"
    with pytest.raises(SystemExit, match="2"):
        run_as_command(lambda: text_classification.main([*argv, *resume.split()]))
    assert not (tmp_path / "attacked").exists()
    assert "error: " in capsys.readouterr().err


def test_a_text_never_becomes_a_path_or_markup(folder, tmp_path):
    """Label names and texts from data stay text: in file names, in the model card, in the predictions."""
    labels = ["<script>alert(1)</script>", "../../escape"]
    data = tmp_path / "a.csv"
    data.write_text("text,label\n" + "".join(f"<img src=x> {i},{labels[i % 2]}\n" for i in range(20)))
    argv = TRAIN.format(folder=folder, output=tmp_path / "run").split()
    text_classification.main([*argv, "--train_file", str(data), "--validation_file", str(data)])
    card = (tmp_path / "run" / "README.md").read_text()
    assert "<script" not in card and "<img" not in card
    outside = {path.name for path in tmp_path.iterdir()}
    assert outside == {"a.csv", "run"}
