"""Every way of handing in tagged sentences, right and wrong: a wrong one gives one line with file and row."""

import json
import os
import subprocess
import sys

import pytest
from datasets import ClassLabel, Dataset, Features, List, Value

from common.data import Source, build_dataset, file_digest, hold_out
from common.errors import InputError
from common.words import sentence_groups, tagged_sentences
from recipes import ner
from tests.conftest import ROOT

GOOD = "Ada B-PER\nLovelace I-PER\nran O\n\nLondon B-LOC\n"
TOKENS, TAGS = [["Ada", "Lovelace", "ran"], ["London"]], [["B-PER", "I-PER", "O"], ["B-LOC"]]


def read(path, tokens_column=None, tags_column=None, label_list=None):
    source = Source(str(path), file_digest(str(path)), path=str(path))
    options = dict(tokens_column=tokens_column, tags_column=tags_column, label_list=label_list)
    return build_dataset(source, tagged_sentences, ner.FEATURES, **options)


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def json_lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


SAME_DATA = {
    "spaces.conll": GOOD,
    "tabs.txt": GOOD.replace(" ", "\t"),
    "crlf.conll": GOOD.replace("\n", "\r\n"),
    "bom.conll": "\ufeff" + GOOD,
    "four_columns.conll": "Ada NNP B-NP B-PER\nLovelace NNP I-NP I-PER\nran VBD B-VP O\n\nLondon NNP B-NP B-LOC",
    "documents.conll": "-DOCSTART- -X- O O\n\n" + GOOD,
    "comments.conll": "# text = Ada Lovelace ran\n" + GOOD,
    "iob1.conll": "Ada I-PER\nLovelace I-PER\nran O\n\nLondon I-LOC\n",
    "bioes.conll": "Ada B-PER\nLovelace E-PER\nran O\n\nLondon S-LOC\n",
    "names.jsonl": json_lines([{"tokens": w, "ner_tags": t} for w, t in zip(TOKENS, TAGS, strict=True)]),
    "words.json": json.dumps([{"words": w, "tags": t} for w, t in zip(TOKENS, TAGS, strict=True)]),
    "data.json": json.dumps({"data": [{"tokens": w, "labels": t} for w, t in zip(TOKENS, TAGS, strict=True)]}),
    "lines.json": json_lines([{"tokens": w, "ner_tags": t} for w, t in zip(TOKENS, TAGS, strict=True)]),
    "spans.jsonl": json_lines(
        [
            {"text": "Ada Lovelace ran", "entities": [{"start": 0, "end": 12, "label": "PER"}]},
            {"text": "London", "entities": [{"start": 0, "end": 6, "label": "LOC"}]},
        ]
    ),
}


@pytest.mark.parametrize("name", SAME_DATA)
def test_every_format_gives_the_same_sentences(tmp_path, name):
    dataset = read(write(tmp_path / name, SAME_DATA[name]))
    assert (dataset["tokens"][:], dataset["ner_tags"][:]) == (TOKENS, TAGS)
    converted = name.split(".")[0].upper() if name.startswith(("iob1", "bioes")) else ""
    assert dataset["note"][0] == (f"{converted} tags converted to BIO" if converted else "")


def test_integers_take_their_names_from_parquet_or_from_the_flag(tmp_path):
    names = ["O", "B-PER", "I-PER", "B-LOC"]
    rows = {"tokens": TOKENS, "ner_tags": [[names.index(t) for t in tags] for tags in TAGS]}
    features = Features(tokens=List(Value("string")), ner_tags=List(ClassLabel(names=names)))
    Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "named.parquet")
    assert read(tmp_path / "named.parquet")["ner_tags"][:] == TAGS
    bare = write(
        tmp_path / "bare.jsonl", json_lines({"tokens": w, "ner_tags": t} for w, t in zip(*rows.values(), strict=True))
    )
    assert read(bare, label_list=names)["ner_tags"][:] == TAGS
    with pytest.raises(InputError, match=r"bare.jsonl, line 1: tags are integers.*--label_list"):
        read(bare)


def test_a_hash_can_be_a_word(tmp_path):
    assert read(write(tmp_path / "b.conll", "#Monday\nis\n"))["tokens"][:] == [["#Monday", "is"]]
    assert read(write(tmp_path / "a.conll", "# O\n1 O\n"))["tokens"][:] == [["#", "1"]]


def test_files_without_tags_are_read(tmp_path):
    assert read(write(tmp_path / "a.conll", "Ada\nran\n"))["ner_tags"][:] == [None]
    assert read(write(tmp_path / "a.jsonl", json_lines([{"text": "Ada ran"}])))["tokens"][:] == [["Ada", "ran"]]


def test_an_edited_file_is_read_anew(tmp_path):
    path = write(tmp_path / "a.conll", "Ada B-PER\n")
    assert read(path)["tokens"][:] == [["Ada"]]
    assert read(write(path, "Eve B-PER\n"))["tokens"][:] == [["Eve"]]


def row(**fields):
    return json_lines([{"tokens": ["Ada"], "ner_tags": ["B-PER"]}, fields])


BAD = [
    ("empty.conll", "", "holds no rows"),
    ("blank.conll", "\n\n \n", "holds no rows"),
    ("ragged.conll", "Ada B-PER\nran\n", "line 2: 1 columns where the lines before have 2"),
    ("ragged_tab.conll", "Ada\tNNP\tB-PER\nran\tO\n", "line 2: 2 columns"),
    ("prefix.conll", "Ada B-PER\nran O\n\nYork X-LOC\n", 'line 4: tag "X-LOC" has an unknown prefix'),
    ("bare_type.conll", "Ada PER\n", 'line 1: tag "PER" has an unknown prefix'),
    ("dash.conll", "Ada B-\n", 'line 1: tag "B-" has an unknown prefix'),
    ("pos.conll", "Ada NNP\nran VBD\n", 'line 1: tag "NNP"'),
    (
        "broken.conll",
        "Ada B-PER\nran O\nIndia I-GPE\nof O\nYork B-LOC\n",
        "line 3: a tag continues an entity that is not there",
    ),
    ("broken_bioes.conll", "Ada S-PER\nran E-PER\n", "line 2: a tag continues an entity that is not there"),
    ("latin1.conll", "Ada B-PER\nCaf\xe9 O\n".encode("latin1"), "line 2: not UTF-8"),
    ("nul.conll", "Ada B-PER\n\0 O\n", "line 2: holds a NUL byte"),
    ("unequal.jsonl", row(tokens=["Ada", "ran"], ner_tags=["O"]), "line 2: 2 words but 1 tags"),
    ("tags_as_text.jsonl", row(tokens=["Ada"], ner_tags="O"), "line 2: 1 words but a str"),
    ("tokens_as_text.jsonl", row(tokens="Ada", ner_tags=["O"]), 'line 2: "tokens" is no list of words'),
    ("tokens_of_numbers.jsonl", row(tokens=[1], ner_tags=["O"]), 'line 2: "tokens" is no list of words'),
    ("no_tokens.jsonl", row(tokens=[], ner_tags=[]), 'line 2: "tokens" is empty'),
    ("tag_of_float.jsonl", row(tokens=["Ada"], ner_tags=[1.5]), "line 2: a tag is 1.5"),
    ("tag_of_bool.jsonl", row(tokens=["Ada"], ner_tags=[True]), "line 2: a tag is true"),
    ("columns.jsonl", json_lines([{"sentence": "Ada", "y": 1}]), "line 1: no column of words among"),
    ("list.jsonl", "[1, 2]\n", "line 1: a list where an object"),
    ("half.jsonl", '{"tokens": ["Ada"], "ner_tags": ["O"]}\n{"tokens": ["A', "line 2: broken JSON"),
    ("half.json", '[{"tokens": ["Ada"], "ner_tags": ["O"]},', "broken JSON"),
    ("data.json", '{"data": 3}', '"data" is not a list'),
    ("deep.json", "[" * 100_000, "JSON"),
    ("text.parquet", "not parquet", "no readable Parquet"),
    (
        "span_outside.jsonl",
        json_lines([{"text": "Ada", "entities": [{"start": 0, "end": 9, "label": "PER"}]}]),
        "line 1: entity 0-9",
    ),
    (
        "span_empty.jsonl",
        json_lines([{"text": "A b", "entities": [{"start": 1, "end": 2, "label": "X"}]}]),
        "line 1: entity 1-2 (X) holds no word",
    ),
    ("span_form.jsonl", json_lines([{"text": "Ada", "entities": ["PER"]}]), 'line 1: "entities" is no list'),
    (
        "span_overlap.jsonl",
        json_lines(
            [
                {
                    "text": "Ada ran",
                    "entities": [{"start": 0, "end": 7, "label": "A"}, {"start": 4, "end": 7, "label": "B"}],
                }
            ]
        ),
        "line 1: entity 4-7 (B) overlaps",
    ),
    ("empty_text.jsonl", json_lines([{"text": " ", "entities": []}]), 'line 1: "text" is empty'),
    ("sheet.xlsx", "PK", 'unknown ending ".xlsx"'),
]


@pytest.mark.parametrize(("name", "content", "message"), BAD, ids=[name for name, *_ in BAD])
def test_bad_input_names_file_and_row(tmp_path, name, content, message):
    path = write(tmp_path / name, content)
    with pytest.raises(InputError) as error:
        read(path)
    assert name in str(error.value) and message in str(error.value)
    assert "\n" not in str(error.value)


def as_run(tmp_path, tiny_bert, *flags):
    base = f"--model_name_or_path {tiny_bert} --output_dir {tmp_path / 'run'} --bf16 false --disable_tqdm true"
    return ner.main([*base.split(), *flags])


def test_failures_that_need_more_than_one_file(tmp_path, tiny_bert):
    good, folder = str(write(tmp_path / "good.conll", GOOD)), str(tmp_path)
    untagged = str(write(tmp_path / "untagged.conll", "Ada\nran\n"))
    unseen = str(write(tmp_path / "unseen.conll", "Ada B-PER\nBrexit B-EVENT\n"))
    only_o = str(write(tmp_path / "o.conll", "Ada O\n"))
    mixed = str(write(tmp_path / "mixed.jsonl", json_lines([{"tokens": ["A"], "ner_tags": ["O"]}, {"tokens": ["B"]}])))
    cases = [
        (["--train_file", str(tmp_path / "missing.conll"), "--validation_file", good], "missing.conll: No such file"),
        (["--train_file", folder, "--validation_file", good], "is a folder"),
        (["--train_file", untagged, "--validation_file", good], "untagged.conll, line 1: no tags"),
        (["--train_file", good, "--validation_file", untagged], "untagged.conll, line 1: no tags"),
        (["--train_file", good, "--validation_file", good, "--test_file", mixed], "mixed.jsonl, line 2: no tags"),
        # A validation label never seen in training
        (
            ["--train_file", good, "--validation_file", unseen],
            'unseen.conll, line 1: entity type "EVENT" does not occur',
        ),
        (["--train_file", only_o, "--validation_file", good], "every tag is O"),
        (["--validation_file", good], "--train_file is missing"),
        (["--train_file", good, "--validation_file", good, "--max_train_samples", "0"], "must be at least 1"),
        (["--train_file", good, "--validation_file", good, "--doc_stride", "64"], "--doc_stride 64"),
        (["--train_file", good, "--validation_file", good, "--freeze", "9"], "--freeze 9"),
    ]
    for flags, message in cases:
        with pytest.raises(InputError) as error:
            as_run(tmp_path, tiny_bert, *flags)
        assert message in str(error.value)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--train_file {}/missing.conll", "missing.conll"),
        ("--learnin_rate 1", "--learning_rate"),
        ("--train_file {}/good.conll --validation_file {}/bad.conll", "bad.conll, line 2"),
    ],
)
def test_a_command_that_fails_prints_one_line_and_leaves_nothing(tmp_path, tiny_bert, flags, message):
    write(tmp_path / "good.conll", GOOD)
    write(tmp_path / "bad.conll", "Ada B-PER\nran\n")
    command = [
        sys.executable,
        "-m",
        "recipes.ner",
        "--model_name_or_path",
        tiny_bert,
        *flags.format(tmp_path, tmp_path).split(),
    ]
    done = subprocess.run(
        [*command, "--output_dir", str(tmp_path / "run")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if not line.startswith(("Generating", "\r"))]
    assert lines[-1].startswith("error: ") and message in lines[-1]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_held_out_sentences_are_whole_documents_and_repeat_nothing(tmp_path):
    blocks = [f"-DOCSTART- O\n\nword{d} B-PER\n\nrefrain O\n" for d in range(40)]
    dataset = read(write(tmp_path / "a.conll", "\n".join(blocks)))
    split = hold_out(dataset, 1, **sentence_groups(dataset))
    documents = {name: set(part["document"]) for name, part in split.items()}
    assert not documents["train"] & documents["validation"] and len(documents["validation"]) == 4
    texts = {name: {tuple(t) for t in part["tokens"]} for name, part in split.items()}
    assert not texts["train"] & texts["validation"]
    again = hold_out(dataset, 1, **sentence_groups(dataset))
    assert again["validation"]["tokens"][:] == split["validation"]["tokens"][:]


def test_a_type_that_occurs_once_stays_in_train(tmp_path):
    dataset = read(write(tmp_path / "a.conll", "".join(f"w{i} B-PER\n\n" for i in range(39)) + "x B-RARE\n"))
    for seed in range(20):
        split = hold_out(dataset, seed, **sentence_groups(dataset))
        assert ["B-RARE"] in split["train"]["ner_tags"][:]


def test_held_out_without_documents_keeps_copies_together(tmp_path):
    dataset = read(write(tmp_path / "a.conll", "".join(f"w{i % 20} B-PER\n\n" for i in range(60))))
    split = hold_out(dataset, 1, **sentence_groups(dataset))
    assert not {t[0] for t in split["train"]["tokens"]} & {t[0] for t in split["validation"]["tokens"]}
    assert len(split["train"]) + len(split["validation"]) == 60
