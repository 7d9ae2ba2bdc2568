"""Files as people have them, each of a kind from a public bug report, are read right or refused with what to do."""

import json
import logging

import pytest

from common.data import Source, read_rows
from common.errors import InputError
from common.texts import checked_labels, find_columns, labelled_texts
from common.words import conll_block, has_conll_form, tagged_sentences
from recipes import predict, text_classification
from tests.test_classification import read


def rows_of(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(read_rows(str(path)))


def sentences(tmp_path, name, content, **options):
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    given = {"tokens_column": None, "tags_column": None, "label_list": None} | options
    return list(tagged_sentences(Source(name, "", path=str(path)), **given))


def tagged(row):
    return " ".join(f"{word}/{tag}" for word, tag in zip(row["tokens"], row["ner_tags"], strict=True))


# CSV and TSV


def test_lone_quotes_in_a_tsv_are_characters(tmp_path):
    content = 'text\tlabel\n"I waited.\tneg\nNobody came."\tneg\nFine.\tpos\n'
    assert [row["text"] for _, row in rows_of(tmp_path, "a.tsv", content)] == ['"I waited.', 'Nobody came."', "Fine."]


def test_good_quotes_stay_what_they_are(tmp_path):
    (_, row), *_ = rows_of(tmp_path, "a.tsv", 'text\tlabel\n"two\nlines"\tneg\nFine.\tpos\n')
    assert row["text"] == "two\nlines"
    (_, row), *_ = rows_of(tmp_path, "a.csv", 'text,label\n"Well, two\nlines, and more",neg\nFine.,pos\n')
    assert row == {"text": "Well, two\nlines, and more", "label": "neg"}


@pytest.mark.parametrize(
    "content",
    [
        'text,label\nBad.,neg\n"I waited.,neg\nNobody came.",neg\nFine.,pos\n',
        'label,text\npos,Fine\nneg,Bad\npos,"Great\nneg,bad"\n',
    ],
)
def test_a_quote_that_swallows_a_row_of_a_csv_stops(tmp_path, content):
    with pytest.raises(InputError, match=r"a.csv.*, lines \d to \d: quotes make one row of these lines; double"):
        rows_of(tmp_path, "a.csv", content)


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        (
            "a.csv",
            'label,text\npos,Great phone\npos,"Great phone\nBought it twice."\n',
            "Great phone\nBought it twice.",
        ),
        ("a.tsv", 'text\tlabel\nd\tneg\n"a\tb\nc"\tpos\n', "a\tb\nc"),
        ("a.csv", '\ntext,label\nx,a\n"Well, two\nlines, and more",b\n', "Well, two\nlines, and more"),
    ],
)
def test_texts_of_several_lines_are_read(tmp_path, name, content, text):
    assert rows_of(tmp_path, name, content)[-1][1]["text"] == text


def test_without_a_header(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("Lovely,positive\nDreadful,negative\n")
    with pytest.raises(InputError, match=r"cannot tell which of its columns .*--no_header"):
        find_columns({"train": Source("a.csv", "", path=str(path))}, 1, None, None)
    source = Source("a.csv", "", path=str(path), has_header=False)
    columns = find_columns({"train": source}, 1, None, None)
    assert [row["label"] for row in labelled_texts(source, *columns, None)] == ["positive", "negative"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("text,label\ncaf\xe9,a\n".encode("utf-16"), "caf\xe9"),
        ("text,label\ncaf\xe9,a\n".encode("utf-8-sig"), "caf\xe9"),
        ("text,label\ndon\u2019t,a\n".encode("cp1252"), "iconv -f cp1252 -t utf-8"),
        ("text,label\ncaf\xe9,a\n".encode("latin1"), "iconv -f latin1 -t utf-8"),
    ],
)
def test_encodings(tmp_path, content, expected):
    if "iconv" in expected:
        with pytest.raises(InputError, match=expected):
            rows_of(tmp_path, "a.csv", content)
    else:
        assert rows_of(tmp_path, "a.csv", content)[0][1]["text"] == expected


# Labels


def labels_of(tmp_path, values, split="train", **more):
    path = tmp_path / f"{split}.csv"
    path.write_text("text,label\n" + "".join(f'text {i},"{value}"\n' for i, value in enumerate(values)))
    return checked_labels({split: read(path)} | more, None, None)


@pytest.mark.parametrize(
    ("values", "names"),
    [
        (["0.0", "1.0", "0.0"], ["0.0", "1.0"]),
        (["1", "2.5", "3"], None),
        (["1.0", "1.10"], None),
        (["1_1", "2"], ["1_1", "2"]),
        (["12E4", "3"], ["12E4", "3"]),
        ([".5", "4."], None),
        (["①", "②"], ["①", "②"]),
        (["10", "9"], ["9", "10"]),
        (["--1", "1"], ["--1", "1"]),
        (["3,5", "4"], ["3,5", "4"]),
    ],
)
def test_a_column_is_a_score_only_if_all_are_plain_numbers_and_one_has_a_fraction(tmp_path, values, names):
    assert labels_of(tmp_path, values)[1] == names


def test_rows_without_a_label_are_left_out_and_counted(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("recipes"), "propagate", True)
    datasets, names, _ = labels_of(tmp_path, ["yes", "-", "no", "no"])
    assert names == ["no", "yes"] and len(datasets["train"]) == 3
    assert "1 rows of 4 have no label and are left out (the first: line 3)" in caplog.text
    assert labels_of(tmp_path, ["+", "-"])[1] == ["+", "-"]
    assert labels_of(tmp_path, ["-", "yes"])[1] == ["-", "yes"]
    test = labels_of(tmp_path, ["-", "-"], split="test", train=datasets["train"])[0]["test"]
    assert test["label"][:] == [None, None]


def test_labels_that_differ_in_case_alone_are_told(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("recipes"), "propagate", True)
    assert labels_of(tmp_path, ["positive", "Positive"])[1] == ["Positive", "positive"]
    assert "Positive and positive are two classes" in caplog.text or "positive and Positive are two" in caplog.text


# Words and tags


@pytest.mark.parametrize(
    ("name", "content", "options", "expected"),
    [
        ("i.conll", "1 Ada B-PER\n2 ran O\n", {}, "Ada/B-PER ran/O"),
        (
            "u.conll",
            "# x\n1-2\tDu\t_\t_\t_\t_\t_\t_\t_\t_\n1\tDe\tde\tADP\t_\t_\t0\t_\t_\t_\n"
            "2\tle\tle\tDET\t_\t_\t1\t_\t_\t_\n",
            {"tags_column": "4", "scheme": "plain"},
            "De/ADP le/DET",
        ),
        ("m.conll", "New B-LOC\nYork M-LOC\nCity E-LOC\nran O\n", {}, "New/B-LOC York/I-LOC City/I-LOC ran/O"),
        (
            "d.jsonl",
            json.dumps({"text": "Ada ran.", "label": [[0, 3, "PER"]]}),
            {},
            "Ada/B-PER ran/O ./O",
        ),
        (
            "p.jsonl",
            json.dumps(
                {"text": "Ada ran", "tokens": [{"text": "Ada"}], "spans": [{"start": 0, "end": 3, "label": "P"}]}
            ),
            {},
            "Ada/B-P ran/O",
        ),
        (
            "l.json",
            json.dumps(
                [
                    {
                        "data": {"text": "Ada ran"},
                        "annotations": [{"result": [{"value": {"start": 0, "end": 3, "labels": ["PER"]}}]}],
                    }
                ]
            ),
            {},
            "Ada/B-PER ran/O",
        ),
    ],
)
def test_forms_of_tagged_text(tmp_path, name, content, options, expected):
    (row,) = sentences(tmp_path, name, content, **options)
    assert tagged(row) == expected


def test_a_sentence_of_numbers_and_a_word_like_a_comment(tmp_path):
    rows = sentences(tmp_path, "n.conll", "Ada NN B-PER\n\n1 CD O\n2 CD O\n")
    assert tagged(rows[1]) == "1/O 2/O"
    rows = sentences(tmp_path, "c.conll", "Ada NOUN\n\n# NN\n1 CD\n", scheme="plain")
    assert tagged(rows[1]) == "#/NN 1/CD"
    (row,) = sentences(tmp_path, "u.conll", "# text = He took vitamin B-12\nHe x O\ntook x O\n")
    assert row["tokens"] == ["He", "took"]


def test_what_label_studio_left_out_has_no_tags(tmp_path):
    rows = [{"data": {"text": "Ada"}, "annotations": []}]
    rows += [{"data": {"text": "Ada"}, "annotations": [{"result": [{"value": {"choices": ["x"]}}]}]}]
    assert [row["ner_tags"] for row in sentences(tmp_path, "l.json", json.dumps(rows))] == [None, ["O"]]


@pytest.mark.parametrize("span", ['{"start": 0, "end": 3, "labels": []}', "[0, 3]", '"PER"'])
def test_broken_spans_are_one_line(tmp_path, span):
    with pytest.raises(InputError, match='line 1: "entities" is no list of'):
        sentences(tmp_path, "s.jsonl", '{"text": "Ada", "entities": [' + span + "]}")


def test_half_a_surrogate_pair_is_one_line(tmp_path):
    with pytest.raises(InputError, match="line 1: a text holds half of a surrogate pair"):
        rows_of(tmp_path, "s.jsonl", '{"text": "\\ud83d", "label": "a"}\n')


def test_utf16_json(tmp_path):
    assert rows_of(tmp_path, "a.json", '[\n{"text": "caf\xe9"}\n]'.encode("utf-16")) == [("row 1", {"text": "caf\xe9"})]
    with pytest.raises(InputError, match="broken UTF-16"):
        rows_of(tmp_path, "b.csv", "text,label\nx,y\n".encode("utf-16")[:-1])


def test_one_stray_tag_begins_an_entity_and_many_stop(tmp_path):
    good = "Ada B-PER\nran O\n\n" * 30
    rows = sentences(tmp_path, "a.conll", good + "to O\nLyon I-LOC\n\nJo B-LOC\n")
    assert tagged(rows[30]) == "to/O Lyon/B-LOC" and rows[30]["place"] == "line 92"
    assert "it begins one, as in conlleval" in rows[30]["note"]
    with pytest.raises(InputError, match=r"line 2: .* too many for the scheme BIO"):
        sentences(tmp_path, "b.conll", "to O\nLyon I-LOC\n\nJo B-LOC\n")


def test_every_tag_is_checked_also_behind_the_first_end(tmp_path):
    with pytest.raises(InputError, match='line 3: tag "PERSON" has an unknown prefix'):
        sentences(tmp_path, "a.conll", "Ada S-PER\nran O\nJo PERSON\n")


@pytest.mark.parametrize("word", ["two\nlines", "a\tb", "", "#"])
def test_what_columns_cannot_hold_is_not_written(word):
    assert not has_conll_form([{"tokens": ["Ada", word], "ner_tags": None, "predicted": ["O", "O"]}])


def test_predictions_read_back(tmp_path):
    rows = [
        {"tokens": ["New York", "ran"], "ner_tags": None, "predicted": ["B-BIG CITY", "O"]},
        {"tokens": ["\\n", "O"], "ner_tags": None, "predicted": ["O", "B-X"]},
    ]
    assert has_conll_form(rows)
    text = "\n".join(conll_block(row) for row in rows)
    assert [tagged(row) for row in sentences(tmp_path, "a.conll", text)] == [
        "New York/B-BIG CITY ran/O",
        "\\n/O O/B-X",
    ]


# predict


@pytest.mark.parametrize(
    ("content", "is_text"),
    [
        ("Ada B-PER\nran O\n", False),
        ("I take the S-Bahn\nYes\n", True),
        ("A U-turn\nno B-movie\n", True),
        ("Grade O\nBlood O\n", False),  # as many columns everywhere, and tags that the model knows
        ("# id 1\nAda B-PRODUCT\nran O\n", False),
        ("one\ntwo\n", True),
    ],
)
def test_a_txt_is_columns_only_where_every_line_is(tmp_path, content, is_text):
    path = tmp_path / "a.txt"
    path.write_text(content)
    assert predict.is_plain_text(str(path), ["O", "B-PER", "I-PER"]) is is_text
    assert predict.is_plain_text(str(path), None)


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--group_by_length", "leave it out"),
        ("--no_cuda", "--use_cpu true"),
        ("--warmup_ratio=0.1", "--warmup_steps 0.1"),
    ],
)
def test_flags_of_the_example_scripts_are_answered(flag, message):
    with pytest.raises(InputError, match=message):
        text_classification.main([flag])
