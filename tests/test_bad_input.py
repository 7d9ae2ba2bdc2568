"""Bad input: one line with the place and the remedy, exit code 2, nothing left behind. All readers, in one table."""

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

from common.data import read_rows
from common.errors import InputError, run_as_command
from common.questions import questions_and_answers
from common.texts import find_columns, labelled_texts
from common.words import tagged_sentences
from recipes import ner, nli, qa, text_classification
from tests.conftest import process, read_json, run, save_tiny_bert, source_of, write

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
GOOD = {
    text_classification: ("a.csv", ROWS),
    nli: ("a.csv", PAIRS),
    ner: ("a.conll", TAGGED),
    qa: ("a.json", json.dumps(QUESTIONS)),
}


def rows(*extra):
    return [*({"text": f"row {i}", "label": ("yes", "no")[i % 2]} for i in range(4)), *extra]


def sentence(**fields):
    return [{"tokens": ["Ada"], "ner_tags": ["B-PER"]}, fields]


def spans(*entities, text="Ada ran"):
    return [{"text": text, "entities": [dict(zip(("start", "end", "label"), e, strict=True)) for e in entities]}]


def question(**fields):
    return [*QUESTIONS[:4], {**QUESTIONS[4], **fields}]


def answer(**fields):
    return question(answers=[{"text": "Ada", **fields}])


def nested(paragraph):
    return json.dumps({"data": [{"title": "t", "paragraphs": [paragraph]}]})


BARE = [{name: value for name, value in row.items() if name != "answers"} for row in QUESTIONS]
EMPTY = [{**row, "answers": []} for row in BARE]

# A file instead of train: recipe, name, content, what the message must say.
FILES = [
    (text_classification, "empty.csv", "", "holds no rows"),
    (text_classification, "header.csv", "text,label\n", "holds no rows"),
    (text_classification, "latin1.csv", ROWS.replace("row 3", "caf\xe9").encode("latin1"), "line 5: not UTF-8"),
    (text_classification, "latin1.tsv", "text\tlabel\ncaf\xe9\ta\n".encode("latin1"), "iconv -f latin1 -t utf-8"),
    (text_classification, "cp1252.csv", "text,label\ndon\u2019t,a\n".encode("cp1252"), "iconv -f cp1252 -t utf-8"),
    (text_classification, "utf16.csv", ROWS.encode("utf-16")[:-1], "broken UTF-16"),
    (text_classification, "nul.csv", ROWS.replace("row 3", "r\0w"), "line 5: holds a NUL byte"),
    (text_classification, "binary.csv", bytes(range(256)), "line 1: "),
    (text_classification, "ragged.csv", ROWS + "one, two, three\n", "line 22: 3 fields, but the first line has 2"),
    (text_classification, "quote.csv", ROWS + '"open,yes\n', "double a quote within a text"),
    (text_classification, "quotes.csv", ROWS + '"I waited.,no\nNobody came.",no\n', "lines 22 to 23: quotes make one"),
    (text_classification, "last.csv", 'label,text\nno,Bad\nyes,"Great\nno,bad"\n', "lines 3 to 4: quotes make one"),
    (text_classification, "twice.csv", ROWS.replace("text,label", "label,label"), "line 1: a column name occurs twice"),
    (text_classification, "news.csv", "3,Reuters,Reuters\n", "rename one, or add --no_header"),
    (text_classification, "words.txt", "__label__1 Great CD\n__label__2 Bad\n", "a text and its label go into .tsv"),
    (text_classification, "unlabelled.csv", "text\nfine\nbad\n", "no label"),
    (text_classification, "textless.csv", "label\nyes\nno\n", "cannot tell which of its columns"),
    (
        text_classification,
        "two.csv",
        ROWS.replace("text,label", "one,two"),
        "--text_columns, add --no_header",
    ),
    (text_classification, "three.csv", "one,two,label\nfine,day,yes\n", "to read; name 1 with --text_columns"),
    (text_classification, "labels.csv", "text,label,score\nfine,yes,1\n", "name one with --label_column"),
    (text_classification, "one_class.csv", ROWS.replace(",no", ",yes"), "every label is yes"),
    (text_classification, "ignored.csv", "text,label\na,-100\nb,1.5\n", "line 2: a score of -100 would be passed over"),
    (text_classification, "no_label.csv", ROWS + "row,\n", "line 22: its label is empty"),
    (text_classification, "nan.csv", ROWS + "row,nan\n", "line 22: its label is empty or nan"),
    (text_classification, "empty.parquet", "", "not a readable Parquet file"),
    (text_classification, "empty.arrow", "", "not a readable Arrow stream"),
    (text_classification, "sheet.xlsx", "PK", 'unknown ending ".xlsx"'),
    (text_classification, "broken.jsonl", '{"text": "a", "label": "yes"}\n{\n', "line 2: broken JSON"),
    (text_classification, "list.jsonl", "[1]\n", "line 1: a list where an object"),
    (text_classification, "deep.jsonl", "[" * 100_000 + "\n", "line 1: JSON nested too deeply"),
    (text_classification, "deep.json", "[" * 100_000, "nested too deeply"),
    (text_classification, "number.jsonl", rows({"text": 5, "label": "yes"}), 'line 5: "text" is not a text (int)'),
    (text_classification, "lacking.jsonl", rows({"label": "yes"}), 'line 5: has no "text", only label; add it'),
    (text_classification, "comma.csv", 'text,label\na,"5,5"\nb,5\n', 'labels such as "5,5" have a decimal comma'),
    (text_classification, "label_list.jsonl", rows({"text": "a", "label": [["yes"]]}), 'line 5: "label" is a list'),
    (text_classification, "nan.jsonl", rows({"text": "a", "label": float("nan")}), "line 5: "),
    (text_classification, "surrogate.jsonl", rows({"text": "\ud800", "label": "yes"}), "line 5: a text holds half"),
    (text_classification, "scalar.json", "3", "line 1: a int where an object"),
    (text_classification, "null.json", '{"data": null}', 'not a list of rows, alone or as "data"'),
    (text_classification, "columns.json", '{"text": {"0": "a"}, "label": {"0": "b"}}', 'to_json(orient="records")'),
    (
        text_classification,
        "studio.json",
        '[{"id": 1, "data": {"text": "a"}}]',
        "write JSON lines with text and label",
    ),
    (text_classification, "cut.json", '[{"text": "a"', "broken JSON"),
    (nli, "one_text.csv", ROWS, "to read; name 2 with --text_columns"),
    (nli, "pairs.json", '[{"texts": ["a", "b"], "label": 1}]', "write JSON lines with premise, hypothesis and label"),
    (nli, "ragged.tsv", PAIRS.replace(",", "\t") + "a\tb\n", "line 22: 2 fields"),
    (nli, "number.jsonl", [{"premise": "a", "hypothesis": 2, "label": "x"}], "line 1: "),
    (ner, "empty.conll", "", "holds no rows"),
    (ner, "columns.tsv", TAGGED.replace(" ", "\t"), "call a file of a word and its tag a line .conll"),
    (ner, "columns.csv", ROWS, "line 2: no tags; name a column of lists"),
    (
        ner,
        "strings.csv",
        "text,labels\nAda ran,B-PER O\n",
        'write {"tokens": ["Ada", "ran"], "ner_tags": ["B-PER", "O"]}',
    ),
    (
        ner,
        "points.jsonl",
        [{"content": "Ada", "annotation": []}],
        '"entities": [{"start": 0, "end": 3, "label": "PER"}]',
    ),
    (ner, "brat.ann", "T1\tPER 0 3\tAda\n", '"entities": [{"start": 0, "end": 3, "label": "PER"}]'),
    (ner, "docs.spacy", b"\x78\x9c\x00", "doc.to_json()"),
    (ner, "columns.jsonl", [{"sentence": "Ada", "y": 1}], "line 1: no column of words among"),
    (ner, "ragged.conll", TAGGED + "ran\n", "line 61: 1 columns where the lines before have 2"),
    (ner, "ragged_tab.conll", "Ada\tNNP\tB-PER\nran\tO\n", "line 2: 2 columns"),
    (ner, "tab.conll", "Ada\tB-PER\nran\tO\t\n", "line 2: 3 columns (with a tab at the end) where"),
    (ner, "tabs.conll", "Ada\tB-PER\t\nran\tO\t\n", 'line 1: tag "" (with a tab at the end) has an unknown prefix'),
    (ner, "no_break.conll", TAGGED + "Jo\u00a0B-PER\n", "line 61: 1 columns (with NO-BREAK SPACE) where"),
    (ner, "ideographic.conll", TAGGED + "Jo x\u3000O\n", "(with IDEOGRAPHIC SPACE) has an unknown prefix"),
    (ner, "bare.conll", "Ada B\nLovelace I\n", "write B-X for B"),
    (ner, "header.conll", "word tag\n" + TAGGED, 'line 1: tag "tag" has an unknown prefix'),
    (ner, "prefix.conll", TAGGED + "York X-LOC\n", 'line 61: tag "X-LOC" has an unknown prefix'),
    (ner, "bare_type.conll", "Ada S-PER\nran O\nJo PERSON\n", 'line 3: tag "PERSON" has an unknown prefix'),
    (ner, "dash.conll", "Ada B-\n", 'line 1: tag "B-" has an unknown prefix'),
    (ner, "stray.conll", "to O\nLyon I-LOC\n\nJo B-LOC\n", "line 2: a tag continues an entity that is not there"),
    (ner, "bioes.conll", "Ada S-PER\nran E-PER\n", "too many for the scheme BIOES"),
    (ner, "words.conll", "Ada\nran\n", "line 1: no tags"),
    (ner, "only_o.conll", "Ada O\n", "every tag is O"),
    (ner, "no_spans.jsonl", [{"text": "Ada ran", "spans": []}], "every tag is O"),
    (ner, "unequal.jsonl", sentence(tokens=["Ada", "ran"], ner_tags=["O"]), "line 2: 2 words but 1 tags"),
    (ner, "tags_as_text.jsonl", sentence(tokens=["Ada"], ner_tags="O"), "line 2: 1 words but a str"),
    (ner, "tokens_as_text.jsonl", sentence(tokens="Ada", ner_tags=["O"]), 'line 2: "tokens" is not a list of words'),
    (ner, "tokens_of_numbers.jsonl", sentence(tokens=[1], ner_tags=["O"]), 'line 2: "tokens" is not a list of words'),
    (ner, "no_tokens.jsonl", sentence(tokens=[], ner_tags=[]), 'line 2: "tokens" is not a list of words'),
    (ner, "integers.jsonl", [{"tokens": ["a"], "ner_tags": [3]}], "line 1: tag 3 is neither text nor the number"),
    (ner, "tag_of_float.jsonl", sentence(tokens=["Ada"], ner_tags=[1.5]), "line 2: tag 1.5 is neither"),
    (ner, "tag_of_bool.jsonl", sentence(tokens=["Ada"], ner_tags=[True]), "line 2: tag true is neither"),
    (ner, "outside.jsonl", spans((0, 9, "A")), "line 1: entity 0-9"),
    (ner, "blank.jsonl", spans((3, 4, "X")), "line 1: entity 3-4 (X) holds no word"),
    (ner, "overlap.jsonl", spans((0, 7, "A"), (4, 7, "B")), "line 1: entity 4-7 (B) overlaps"),
    (ner, "empty_text.jsonl", spans(text=" "), 'line 1: "text" is empty'),
    (ner, "span_text.jsonl", [{"text": "Ada", "entities": ["PER"]}], 'line 1: "entities" is not a list'),
    (ner, "span_short.jsonl", [{"text": "Ada", "entities": [[0, 3]]}], 'line 1: "entities" is not a list'),
    (ner, "span_unnamed.jsonl", spans((0, 3, [])), 'line 1: "entities" is not a list'),
    (qa, "empty.json", "", "holds no rows"),
    (qa, "cut.json", nested({"context": "a", "qas": []})[:-9], "broken JSON"),
    (qa, "deep.json", '{"data": ' + "[" * 100_000, "nested too deeply"),
    (qa, "columns.csv", ROWS, 'has no "question", only text, label'),
    (qa, "no_context.json", nested({"qas": [{"id": "1", "question": "q", "answers": []}]}), '"context" is not a text'),
    (qa, "no_qas.json", nested({"context": "Ada"}), 'article 1, paragraph 1: "qas" is not a list of objects'),
    (qa, "qas.json", nested({"context": "Ada", "qas": ["q"]}), '"qas" is not a list of objects'),
    (qa, "paragraphs.json", '{"data": [{"paragraphs": 3}]}', 'article 1: "paragraphs" is not a list of objects'),
    (qa, "paragraph.json", nested("x"), 'article 1: "paragraphs" is not a list of objects'),
    (qa, "question.jsonl", question(question=["q"]), 'line 5: "question" is not a text (list)'),
    (qa, "context.jsonl", question(context=""), "line 5: the answers of this question and 0 more of 5"),
    (qa, "elsewhere.jsonl", answer(text="Eve", answer_start=0), "line 5: the answers of this question"),
    (qa, "number.jsonl", question(answers=5), "line 5: an answer without text"),
    (qa, "no_text.jsonl", answer(text="", answer_start=0), "line 5: an answer without text"),
    (qa, "answer_text.jsonl", [{**BARE[0], "answer_text": 0}], "line 1: an answer without text"),
    (qa, "start.jsonl", answer(answer_start="x"), 'line 5: answer_start "x" is not a whole number'),
    (qa, "infinite.jsonl", answer(answer_start=1e999), "not a whole number"),
    (qa, "fraction.jsonl", answer(answer_start=0.5), "not a whole number"),
    (qa, "unequal.jsonl", question(answers={"text": ["Ada"], "answer_start": [0, 1]}), "line 5: "),
    (qa, "impossible.jsonl", question(is_impossible="perhaps"), "neither true nor false"),
    (qa, "some.jsonl", [*QUESTIONS, BARE[0]], 'line 21: no "answers"'),
    (qa, "unanswered.jsonl", EMPTY, "no question has an answer"),
]

# Flags with good files: recipe, flags, what the message must say. {folder} holds what the fixture makes.
FLAGS = [
    (text_classification, "--train_file {folder}", "Is a directory"),
    (text_classification, "--train_file {folder}/absent.csv", "No such file"),
    (text_classification, "--train_file {folder}/loop.csv", "symbolic link"),
    (text_classification, "--train_file {folder}/secret.csv", "Permission denied"),
    (text_classification, "--train_file {folder}/cut.parquet", "not a readable Parquet file"),
    (text_classification, "--train_file {folder}/numbers.parquet", "row 1: "),
    (text_classification, "--validation_file {folder}/unseen.csv", 'line 22: label "maybe" does not occur in train'),
    (text_classification, "--text_columns body", "has no column body"),
    (text_classification, "--label_column stars", "has no column stars, only text, label; name one with"),
    (text_classification, "--task_name mrpc", "--task_name mrpc: must be one of"),
    (text_classification, "--regression true", 'label "yes" is not a number'),
    (text_classification, "--threshold_for precision", 'must be f1, "precision>=0.9"'),
    (text_classification, "--threshold_for recall>=2", 'must be f1, "precision>=0.9"'),
    (text_classification, "--threshold_for f1 --do_eval false", "is chosen on validation after training"),
    (text_classification, "--class_weights heavy", "--class_weights heavy: must be balanced"),
    (text_classification, "--num_train_epoch 3", "did you mean --num_train_epochs"),
    (text_classification, "--num_train_epochs many", "invalid float value: 'many'"),
    (text_classification, "--train", "unknown flag --train"),
    (text_classification, "--group_by_length", "leave it out"),
    (text_classification, "--no_cuda", "--use_cpu true"),
    (text_classification, "--warmup_ratio=0.1", "--warmup_steps 0.1"),
    (text_classification, "--fp16 true --bf16 true", "fp16 and bf16"),
    (text_classification, "--train_sampling_strategy group_by_length", "invalid choice"),
    (text_classification, "--train_sampling_strategy batch_rebalance", "invalid choice"),
    (text_classification, "--max_train_samples 0", "--max_train_samples 0: must be at least 1"),
    (text_classification, "--max_seq_length 2", "--max_seq_length 2: leaves no room for a word"),
    (text_classification, "--max_seq_length 65", "--max_seq_length 65: the model reads at most 64"),
    (text_classification, "--per_device_train_batch_size 0", "--per_device_train_batch_size"),
    (text_classification, "--gradient_accumulation_steps 0", "--gradient_accumulation_steps"),
    (text_classification, "--learning_rate nan", "--learning_rate"),
    (text_classification, "--learning_rate -1", "--learning_rate"),
    (text_classification, "--num_train_epochs -1", "--num_train_epochs"),
    (text_classification, "--seed -1", "--seed"),
    (text_classification, "--freeze 3", "--freeze 3: must be encoder, embeddings or a number of layers from 0 to 2"),
    (text_classification, "--freeze head", "--freeze head: must be"),
    (text_classification, "--attn_implementation fast", "fast"),
    (text_classification, "--packing true --attn_implementation sdpa", "drop --attn_implementation"),
    (text_classification, "--early_stopping_patience 2 --eval_strategy no", "needs evaluations"),
    (text_classification, "--resume_from_checkpoint {folder}/absent", "is not a folder; name a folder checkpoint-N"),
    (text_classification, "--do_train false", "train it first"),
    (text_classification, "--model_name_or_path {folder}/absent", "neither a local path nor in the cache"),
    (text_classification, "--model_name_or_path {folder}/untokenized", "holds no tokenizer"),
    (text_classification, "--model_name_or_path {folder}/pickle", "no file named model.safetensors"),
    (text_classification, "--model_name_or_path {folder}/cut", "cannot be loaded as a model"),
    (text_classification, "--model_name_or_path {folder}/shape", "cannot be loaded as a model"),
    (text_classification, "--model_name_or_path {folder}/config", "cannot be loaded as a"),
    (text_classification, "--model_name_or_path {folder}/code", "cannot be loaded as a"),
    (text_classification, "--model_name_or_path {folder}/loop.csv", "loop.csv"),
    (text_classification, "--output_dir {folder}/loop.csv", "loop.csv"),
    (nli, "--task_name mnli", 'label "yes" is neither one of entailment, neutral, contradiction nor its number'),
    (nli, "--threshold_for f1 --train_file {folder}/pairs_unseen.csv", "is for two classes, or for texts with several"),
    (nli, "--validation_file {folder}/pairs_unseen.csv", "maybe"),
    (ner, "--validation_file {folder}/event.conll", 'line 1: entity type "EVENT" does not occur in train'),
    (ner, "--validation_file {folder}/words.conll", "words.conll, line 1: no tags"),
    (ner, "--test_file {folder}/mixed.jsonl", "mixed.jsonl, line 2: no tags"),
    (ner, "--context paragraph", "must be sentence or document"),
    (ner, "--context document", "--document_size 10 takes"),
    (ner, "--context document --document_size 0", "--document_size 0: must be at least 1"),
    (ner, "--max_seq_length 1", "--max_seq_length 1"),
    (ner, "--doc_stride 14 --max_seq_length 16", "--doc_stride 14: must lie between 0 and 13"),
    (ner, "--doc_stride -1", "--doc_stride -1"),
    (qa, "--validation_file {folder}/twice.jsonl", 'id "1" and 0 more occur twice'),
    (qa, "--validation_file {folder}/bare.jsonl", 'bare.jsonl, line 1: no "answers"'),
    (qa, "--validation_file {folder}/empty.jsonl", "questions to predict alone are a --test_file"),
    (qa, "--validation_file {folder}/some.jsonl --version_2_with_negative false", "1 of validation have no answer"),
    (qa, "--doc_stride 61 --max_seq_length 64", "--doc_stride 61"),
    (qa, "--doc_stride 17 --max_seq_length 20", "leaves no room for a question"),
    (qa, "--n_best_size 0", "--n_best_size 0: must be at least 1"),
    (qa, "--max_answer_length -3", "--max_answer_length -3: must be at least 1"),
    (qa, "--label_smoothing_factor 0.1", "--label_smoothing_factor"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad")
    model = save_tiny_bert(folder / "model", ["Ada ran first second row yes no times who"])
    for recipe, (name, content) in GOOD.items():
        (folder / recipe.__name__).mkdir()
        write(folder / recipe.__name__ / name, content)
    (folder / "loop.csv").symlink_to(folder / "loop.csv")
    write(folder / "secret.csv", ROWS)
    (folder / "secret.csv").chmod(0)
    write(folder / "unseen.csv", ROWS + "row,maybe\n")
    write(folder / "pairs_unseen.csv", PAIRS + "a,b,maybe\n")
    write(folder / "event.conll", "Ada B-PER\nBrexit B-EVENT\n")
    write(folder / "words.conll", "Ada\nran\n")
    write(folder / "mixed.jsonl", [{"tokens": ["A"], "ner_tags": ["O"]}, {"tokens": ["B"]}])
    write(folder / "twice.jsonl", question(id="1"))
    write(folder / "bare.jsonl", BARE)
    write(folder / "empty.jsonl", EMPTY)
    write(folder / "some.jsonl", [*QUESTIONS[1:], EMPTY[0]])
    table = pyarrow.table({"text": [f"row {i}" for i in range(900)], "label": ["yes", "no", "no"] * 300})
    pyarrow.parquet.write_table(table, folder / "whole.parquet")
    write(folder / "cut.parquet", (folder / "whole.parquet").read_bytes()[:-30])
    pyarrow.parquet.write_table(pyarrow.table({"text": [1, 2], "label": ["a", "b"]}), folder / "numbers.parquet")
    for name in ("untokenized", "pickle", "cut", "shape", "config", "code"):
        shutil.copytree(model, folder / name)
    for path in (folder / "untokenized").glob("*token*"):
        path.unlink()
    (folder / "pickle" / "model.safetensors").unlink()
    torch.save({"weight": torch.ones(1)}, folder / "pickle" / "pytorch_model.bin")
    weights = (folder / "cut" / "model.safetensors").read_bytes()
    write(folder / "cut" / "model.safetensors", weights[: len(weights) // 2])
    config = read_json(folder / "shape" / "config.json")
    write(folder / "shape" / "config.json", json.dumps({**config, "hidden_size": 64}))
    write(folder / "config" / "config.json", "{")
    strange = {**config, "model_type": "strange", "auto_map": {"AutoConfig": "attack.Config"}}
    write(folder / "code" / "config.json", json.dumps(strange))
    write(folder / "code" / "attack.py", f"open({str(folder / 'attacked')!r}, 'w')\n")
    return folder


def good_flags(recipe, folder, output):
    data = folder / recipe.__name__ / GOOD[recipe][0]
    return f"--model_name_or_path {folder}/model --train_file {data} --validation_file {data} --output_dir {output}"


def refused(recipe, folder, tmp_path, *flags):
    """What a recipe complains of, in a line; nothing is left in its output folder."""
    with pytest.raises(InputError) as error:
        run(recipe, good_flags(recipe, folder, tmp_path / "run"), *flags)
    message = str(error.value)
    assert "\n" not in message and len(message) < 700
    assert not (tmp_path / "run").exists() and not (folder / "attacked").exists()
    return message


@pytest.mark.parametrize(
    ("recipe", "name", "content", "expected"), FILES, ids=[f"{f[0].__name__[8:]}-{f[1]}" for f in FILES]
)
def test_a_bad_file_is_refused_in_one_line(recipe, name, content, expected, folder, tmp_path):
    message = refused(recipe, folder, tmp_path, f"--train_file {write(tmp_path / name, content)}")
    assert name in message and expected in message


@pytest.mark.parametrize(("recipe", "flags", "expected"), FLAGS, ids=[f"{f[0].__name__[8:]} {f[1]}" for f in FLAGS])
def test_a_bad_flag_is_refused_in_one_line(recipe, flags, expected, folder, tmp_path):
    if "secret" in flags and os.access(folder / "secret.csv", os.R_OK):
        pytest.skip("this user may read everything")
    assert expected in refused(recipe, folder, tmp_path, flags.format(folder=folder))


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("--validation_file {folder}/words.conll", "--train_file is missing"),
        ("--learnin_rate 1", "did you mean --learning_rate"),
        ("--train_file {folder}/recipes.ner/a.conll --validation_file {folder}/words.conll", "words.conll, line 1"),
    ],
)
def test_a_command_that_fails_prints_one_line_and_leaves_nothing(folder, tmp_path, flags, expected):
    flags = f"--model_name_or_path {folder}/model --output_dir {tmp_path}/run {flags.format(folder=folder)}"
    done = process("-m", "recipes.ner", *flags.split())
    assert done.returncode == 2 and "Traceback" not in done.stderr and not (tmp_path / "run").exists()
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith(("Generating", "\r"))]
    assert line.startswith("error: ") and expected in line


def test_a_word_of_a_megabyte_is_read(folder, tmp_path):
    """It is no error: the tokenizer makes one piece of it, or the text is cut."""
    word = "a" * 2**20
    contents = {
        text_classification: ROWS + f"{word},yes\n",
        nli: PAIRS + f"{word},{word} row,yes\n",
        ner: TAGGED + f"{word} O\nran O\n",
        qa: json.dumps([*QUESTIONS[1:], {**QUESTIONS[0], "context": f"Ada {word} ran."}]),
    }
    for recipe, content in contents.items():
        output = tmp_path / recipe.__name__
        path = write(tmp_path / f"{recipe.__name__}-{GOOD[recipe][0]}", content)
        files = f"--train_file {path} --validation_file {path} --max_steps 1 --save_strategy no"
        run(recipe, good_flags(recipe, folder, output), files)
        assert (output / "predictions.jsonl").exists()


# Any bytes: bytes at random, and bytes that look like the format.
FIELDS = "text label premise hypothesis tokens ner_tags entities start end question context answers answer_start data "
FIELDS += "paragraphs qas is_impossible answer_text id"
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_subnormal=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS.split()), inner, max_size=4),
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
PARSERS = [
    lambda source: read_rows(source.path),
    lambda source: labelled_texts(source, *find_columns({"train": source}, 1, None, None), None),
    lambda source: labelled_texts(source, *find_columns({"train": source}, 2, None, None), None),
    lambda source: tagged_sentences(source, None, None, None),
    questions_and_answers,
]


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".json", ".conll", ".parquet", ".arrow"])
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=documents)
def test_any_bytes_are_read_or_refused(suffix, content, tmp_path):
    path = write(tmp_path / f"any{suffix}", content)
    for parse in PARSERS:
        try:
            list(parse(source_of(path)))
        except InputError as error:
            assert path in str(error)


# Safe by construction


def test_a_dataset_with_code_in_it_is_not_run(folder, tmp_path):
    (tmp_path / "data").mkdir()
    write(tmp_path / "data" / "data.py", f"open({str(tmp_path / 'attacked')!r}, 'w')\n")
    with pytest.raises(InputError):
        run(ner, f"--dataset_name {tmp_path}/data --model_name_or_path {folder}/model --output_dir {tmp_path}/run")
    assert not (tmp_path / "attacked").exists()


def test_a_pickle_is_never_opened(folder, tmp_path, capsys):
    """A checkpoint whose optimizer state runs code when unpickled is refused; so is a model of pickled weights."""

    class Attack:
        def __reduce__(self):
            return open, (str(tmp_path / "attacked"), "w")

    flags = good_flags(text_classification, folder, tmp_path / "run") + " --num_train_epochs 2"
    run(text_classification, flags)
    checkpoint = next((tmp_path / "run").glob("checkpoint-*"))
    write(tmp_path / "run" / "training_args.bin", pickle.dumps(Attack()))
    run(text_classification, flags, f"--do_train false --model_name_or_path {tmp_path}/run --output_dir {tmp_path}/e")
    torch.save(Attack(), checkpoint / "optimizer.pt")
    sizes = read_json(checkpoint / "complete.json") | {"optimizer.pt": (checkpoint / "optimizer.pt").stat().st_size}
    write(checkpoint / "complete.json", json.dumps(sizes))
    resume = f"--resume_from_checkpoint {checkpoint} --output_dir {tmp_path}/other"
    with pytest.raises(SystemExit, match="2"):
        run_as_command(lambda: run(text_classification, flags, resume))
    assert not (tmp_path / "attacked").exists() and "error: " in capsys.readouterr().err


def test_a_text_never_becomes_a_path_or_markup(folder, tmp_path):
    """Label names and texts from data stay text: in file names, in the model card, in the predictions."""
    labels = ["<script>alert(1)</script>", "../../escape"]
    rows = "".join(f"<img src=x> {i},{labels[i % 2]}\n" for i in range(20))
    data = write(tmp_path / "a.csv", "text,label\n" + rows)
    flags = good_flags(text_classification, folder, tmp_path / "run")
    run(text_classification, flags, f"--train_file {data} --validation_file {data} --save_strategy no")
    card = (tmp_path / "run" / "README.md").read_text()
    assert "<script" not in card and "<img" not in card
    assert {path.name for path in tmp_path.iterdir()} == {"a.csv", "run"}
