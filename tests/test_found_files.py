"""Files as people have them are read right, and a part of train is held out; bad ones: tests/test_bad_input.py."""

import argparse
import json
import logging
import re
import unicodedata

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value

from common.data import find_sources, hold_out, read_rows
from common.errors import InputError
from common.questions import checked_questions, context_groups
from common.texts import checked_labels, find_columns, label_groups, labelled_texts
from common.words import conll_block, has_conll_form, sentence_groups
from recipes import predict
from tests.conftest import ROOT, read_questions, read_texts, read_words, source_of, write


@pytest.fixture
def log(monkeypatch, caplog):
    monkeypatch.setattr(logging.getLogger("recipes"), "propagate", True)
    return caplog


# CSV and TSV


def test_lone_quotes_in_a_tsv_are_characters(tmp_path):
    path = write(tmp_path / "a.tsv", 'text\tlabel\n"I waited.\tneg\nNobody came."\tneg\nFine.\tpos\n')
    assert [row["text"] for _, row in read_rows(path)] == ['"I waited.', 'Nobody came."', "Fine."]


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("a.csv", 'label,text\npos,Great\npos,"Great\nBought it twice."\n', "Great\nBought it twice."),
        ("a.tsv", 'text\tlabel\nFine.\tneg\n"two\nlines"\tneg\n', "two\nlines"),
        ("a.tsv", 'text\tlabel\nd\tneg\n"a\tb\nc"\tpos\n', "a\tb\nc"),
        ("a.csv", '\ntext,label\nx,a\n"Well, two\nlines, and more",b\n', "Well, two\nlines, and more"),
        ("a.csv", "text,label\ncaf\xe9,a\n".encode("utf-16"), "caf\xe9"),
        ("a.csv", "text,label\ncaf\xe9,a\n".encode("utf-8-sig"), "caf\xe9"),
        ("a.csv", "text,label\rcaf\xe9,a\r", "caf\xe9"),
        ("a.csv", 'text,label\r\n"two\rlines",a\r\n', "two\rlines"),
        ("a.json", '[\n{"text": "caf\xe9"}\n]'.encode("utf-16"), "caf\xe9"),
    ],
)
def test_texts_of_several_lines_and_other_encodings(tmp_path, name, content, text):
    *_, (_, row) = read_rows(write(tmp_path / name, content))
    assert row["text"] == text


def test_without_a_header(tmp_path):
    source = source_of(write(tmp_path / "a.csv", "Lovely,positive\nDreadful,negative\n"), has_header=False)
    columns = find_columns({"train": source}, 1, None, None)
    assert [row["label"] for row in labelled_texts(source, *columns, None)] == ["positive", "negative"]


# Texts and labels


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", 'text,label\n"Fine, really",yes\nbad,no\n'),
        ("a.tsv", "text\tlabel\nFine, really\tyes\nbad\tno\n"),
        ("tabs.csv", "text\tlabel\nFine, really\tyes\nbad\tno\n"),
        ("commas.tsv", 'text,label\n"Fine, really",yes\nbad,no\n'),
        ("excel.csv", '\ufefftext;label\r\n"Fine, really";yes\r\nbad;no\r\n'),
        ("sep.csv", "sep=;\r\ntext;label\r\nFine, really;yes\r\nbad;no\r\n"),
        ("empty.csv", 'text,label,,\n"Fine, really",yes,,\n,,,\nbad,no,,\n,,,\n'),
        ("pandas.csv", ',comment,label\n57,"Fine, really",yes\n3,bad,no\n'),
        ("doccano.jsonl", [{"text": "Fine, really", "label": ["yes"]}, {"text": "bad", "label": ["no"]}]),
        ("pairs.json", '[["Fine, really", {"label": "yes"}], ["bad", {"label": "no"}]]'),
        ("a.jsonl", [{"id": "1", "review": "Fine, really", "class": "yes"}, {"review": "bad", "class": "no"}]),
        ("a.json", '[{"comment": "Fine, really", "label": "yes"}, {"comment": "bad", "label": "no"}]'),
    ],
)
def test_forms_of_labelled_texts_and_inferred_columns(tmp_path, name, content):
    dataset = read_texts(write(tmp_path / name, content))
    assert (dataset["text"][:], dataset["label"][:]) == (["Fine, really", "bad"], ["yes", "no"])


def test_tabs_count_where_texts_hold_commas_and_no_line_names_columns(tmp_path):
    source = source_of(write(tmp_path / "sts.csv", "MSR\t2.5\tA plane, far\tA bird\n"), has_header=False)
    assert next(source.rows()) == ("line 1", {"1": "MSR", "2": "2.5", "3": "A plane, far", "4": "A bird"})
    source = source_of(write(tmp_path / "one.csv", "Fine; really\n"), has_header=False)
    assert next(source.rows()) == ("line 1", {"1": "Fine; really"})


def test_parquet_and_arrow_keep_their_class_names(tmp_path):
    features = Features(text=Value("string"), label=ClassLabel(names=["neg", "pos"]))
    dataset = Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}, features=features)
    dataset.to_parquet(tmp_path / "a.parquet")
    dataset.save_to_disk(tmp_path / "saved")
    for path in (tmp_path / "a.parquet", *(tmp_path / "saved").glob("*.arrow")):
        assert read_texts(path)["label"][:] == ["pos", "neg"]
    args = argparse.Namespace(dataset_name=str(tmp_path / "saved"), dataset_config_name=None)
    sources = find_sources(args, argparse.Namespace(do_train=True, do_eval=True, do_predict=False))
    assert [row["label"] for _, row in sources["train"].rows()] == ["pos", "neg"] and len(sources) == 1


def test_what_was_rejected_in_prodigy_is_left_out_and_counted(tmp_path, log):
    rows = [{"text": of, "label": "pos", "_task_hash": 1, "answer": of} for of in ("accept", "reject", "ignore")]
    assert read_texts(write(tmp_path / "a.jsonl", rows))["text"][:] == ["accept"]
    assert "2 rows whose answer is reject or ignore are left out" in log.text


def test_columns_that_are_not_read_are_told(tmp_path, log):
    log.set_level(logging.INFO, logger="recipes")
    read_texts(write(tmp_path / "a.csv", "split,text,label\ntrain,a,x\ntest,b,y\n"))
    assert "reading column text as text, label as label; not read: split." in log.text


def labels_of(tmp_path, values, split="train", **more):
    rows = "".join(f'text {i},"{value}"\n' for i, value in enumerate(values))
    path = write(tmp_path / f"{split}.csv", "text,label\n" + rows)
    return checked_labels({split: read_texts(path)} | more, None, None)


@pytest.mark.parametrize(
    ("values", "names"),
    [
        (["equivalent", "other", "equivalent"], ["equivalent", "other"]),
        (["True", "False", "True"], ["False", "True"]),
        (["10", "9", "2"], ["2", "9", "10"]),
        (["0.0", "1.0", "0.0"], ["0.0", "1.0"]),
        (["3.8", "0", "5.0"], None),
        (["1.0", "1.10"], None),
        (["-1", "0.25", "1"], None),
        ([".5", "4."], None),
        (["a", "1.5", "b"], ["1.5", "a", "b"]),
        (["1_1", "2"], ["1_1", "2"]),
        (["12E4", "3"], ["12E4", "3"]),
        (["①", "②"], ["①", "②"]),
        (["--1", "1"], ["--1", "1"]),
    ],
)
def test_labels_are_scores_only_if_all_are_plain_numbers_and_one_has_a_fraction(tmp_path, values, names):
    assert labels_of(tmp_path, values)[1] == names


def test_rows_without_a_label_are_left_out_and_counted(tmp_path, log):
    datasets, names, _ = labels_of(tmp_path, ["yes", "-", "no", "no"])
    assert names == ["no", "yes"] and len(datasets["train"]) == 3
    assert "1 rows of 4 have no label and are left out (the first: line 3)" in log.text
    assert labels_of(tmp_path, ["+", "-"])[1] == ["+", "-"]
    assert labels_of(tmp_path, ["-", "yes"])[1] == ["-", "yes"]
    test = labels_of(tmp_path, ["-", "-"], split="test", train=datasets["train"])[0]["test"]
    assert test["label"][:] == [None, None]
    glue = write(tmp_path / "glue.csv", "sentence1,sentence2,label\na,b,-1.0\nc,d,-1\n")
    assert read_texts(glue, 2, is_task=True)["label"][:] == [None, None]


def test_labels_that_differ_in_case_alone_are_told(tmp_path, log):
    assert labels_of(tmp_path, ["positive", "Positive"])[1] == ["Positive", "positive"]
    assert "Positive and positive are two labels" in log.text


# Words and tags

GOOD = "Ada B-PER\nLovelace I-PER\nran O\n\nLondon B-LOC\n"
FOUND = "Ada/B-PER Lovelace/I-PER ran/O | London/B-LOC"
TOKENS, TAGS = [["Ada", "Lovelace", "ran"], ["London"]], [["B-PER", "I-PER", "O"], ["B-LOC"]]
UNIVERSAL = "1-2\tDu\t_\t_\t_\n1\tDe\tde\tADP\t_\n2\tle\tle\tDET\t_\n"
STUDIO = {"data": {"text": "Ada ran"}}
STUDIO |= {"annotations": [{"result": [{"value": {"start": 0, "end": 3, "labels": ["PER"]}}]}]}
PRODIGY = {"text": "Ada ran", "tokens": [{"text": "Ada"}], "spans": [{"start": 0, "end": 3, "label": "PER"}]}
DOC = {"text": "Ada ran", "ents": [{"start": 0, "end": 3, "label": "PER"}], "spans": {}}
DOC |= {"tokens": [{"id": 0, "start": 0, "end": 3}, {"id": 1, "start": 4, "end": 7}]}
SPANS = [
    {"text": "Ada Lovelace ran", "entities": [{"start": 0, "end": 12, "label": "PER"}]},
    {"text": "London", "entities": [{"start": 0, "end": 6, "label": "LOC"}]},
]


def rows(words, tags):
    return [{words: w, tags: t} for w, t in zip(TOKENS, TAGS, strict=True)]


def tagged(dataset):
    def sentence(row):
        tags = row["ner_tags"] or ["?"] * len(row["tokens"])
        return " ".join(f"{word}/{tag}" for word, tag in zip(row["tokens"], tags, strict=True))

    return " | ".join(map(sentence, dataset))


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("spaces.conll", GOOD, FOUND),
        ("tabs.txt", GOOD.replace(" ", "\t"), FOUND),
        ("crlf.conll", GOOD.replace("\n", "\r\n"), FOUND),
        ("bom.conll", "\ufeff" + GOOD, FOUND),
        ("columns.conll", "Ada N X B-PER\nLovelace N X I-PER\nran V X O\n\nLondon N X B-LOC", FOUND),
        ("documents.conll", "-DOCSTART- -X- O O\n\n" + GOOD, FOUND),
        ("comments.conll", "# text = Ada Lovelace ran\n" + GOOD, FOUND),
        ("iob1.conll", "Ada I-PER\nLovelace I-PER\nran O\n\nLondon I-LOC\n", FOUND),
        ("bioes.conll", "Ada B-PER\nLovelace E-PER\nran O\n\nLondon S-LOC\n", FOUND),
        ("bmes.conll", "New B-LOC\nYork M-LOC\nCity E-LOC\nran O\n", "New/B-LOC York/I-LOC City/I-LOC ran/O"),
        ("counted.conll", "1 Ada B-PER\n2 ran O\n", "Ada/B-PER ran/O"),
        ("number.conll", "Ada NN B-PER\n\n1 CD O\n2 CD O\n", "Ada/B-PER | 1/O 2/O"),
        ("germeval.conll", "#\thttp://a.de\n1\tAda\tO\tB-PER\n2\tran\tO\tO\n", "Ada/B-PER ran/O"),
        ("comment.conll", "1\tAda\tB-PER\n2\tran\tO\n\n# Ada ran\n1\tAda\tB-PER\n", "Ada/B-PER ran/O | Ada/B-PER"),
        ("mac.conll", GOOD.replace("\n", "\r"), FOUND),
        ("remark.conll", "# text = He took vitamin B-12\nHe x O\ntook x O\n", "He/O took/O"),
        ("hash.conll", "# O\n1 O\n", "#/O 1/O"),
        ("untagged.conll", "#Monday\nis\n", "#Monday/? is/?"),
        ("untagged.jsonl", [{"text": "Ada ran"}], "Ada/? ran/?"),
        ("names.jsonl", rows("tokens", "ner_tags"), FOUND),
        ("lines.json", rows("tokens", "ner_tags"), FOUND),
        ("words.json", json.dumps(rows("words", "tags")), FOUND),
        ("data.json", json.dumps({"data": rows("tokens", "labels")}), FOUND),
        ("spans.jsonl", SPANS, FOUND),
        ("doccano.jsonl", [{"text": "Ada ran.", "label": [[0, 3, "PER"]]}], "Ada/B-PER ran/O ./O"),
        ("prodigy.jsonl", [PRODIGY], "Ada/B-PER ran/O"),
        ("doc.jsonl", [DOC], "Ada/B-PER ran/O"),
        ("spacy2.json", json.dumps([["Ada ran", {"entities": [[0, 3, "PER"]]}]]), "Ada/B-PER ran/O"),
        ("studio.json", json.dumps([STUDIO]), "Ada/B-PER ran/O"),
        ("skipped.json", json.dumps([STUDIO | {"annotations": []}]), "Ada/? ran/?"),
        ("other.json", json.dumps([STUDIO | {"annotations": [{"result": [{"value": {}}]}]}]), "Ada/O ran/O"),
    ],
)
def test_forms_of_tagged_text(tmp_path, name, content, expected):
    dataset = read_words(write(tmp_path / name, content))
    assert tagged(dataset) == expected
    scheme = {"iob1.conll": "IOB1", "bioes.conll": "BIOES", "bmes.conll": "BIOES"}.get(name)
    assert re.findall(r"(\w+) tags converted to BIO", dataset["note"][0]) == ([scheme] if scheme else [])


def test_a_text_beside_its_annotations_of_brat_is_not_taken_for_columns(tmp_path):
    path = write(tmp_path / "a.txt", "Ada ran\n")
    write(tmp_path / "a.ann", "T1\tPER 0 3\tAda\n")
    with pytest.raises(InputError, match=r'a\.txt: write JSON lines instead, such as \{"text": "Ada ran", "entities"'):
        list(read_rows(path))
    assert predict.is_plain_text(path, ["O", "B-PER"])


def test_tags_that_are_no_entities(tmp_path):
    path = write(tmp_path / "u.conll", "# text = Du\n" + UNIVERSAL)
    assert tagged(read_words(path, tags_column="4", scheme="plain")) == "De/ADP le/DET"
    path = write(tmp_path / "c.conll", "Ada NOUN\n\n# NN\n1 CD\n")
    assert tagged(read_words(path, scheme="plain")) == "Ada/NOUN | #/NN 1/CD"


def test_integers_take_their_names_from_parquet_or_from_the_flag(tmp_path):
    names = ["O", "B-PER", "I-PER", "B-LOC"]
    ids = [[names.index(tag) for tag in tags] for tags in TAGS]
    features = Features(tokens=List(Value("string")), ner_tags=List(ClassLabel(names=names)))
    Dataset.from_dict({"tokens": TOKENS, "ner_tags": ids}, features=features).to_parquet(tmp_path / "named.parquet")
    assert tagged(read_words(tmp_path / "named.parquet")) == FOUND
    rows = [{"tokens": w, "ner_tags": t} for w, t in zip(TOKENS, ids, strict=True)]
    assert tagged(read_words(write(tmp_path / "bare.jsonl", rows), label_list=names)) == FOUND


def test_an_edited_file_is_read_again(tmp_path):
    for content in ("Ada B-PER\n", "Eve B-PER\n"):
        assert tagged(read_words(write(tmp_path / "a.conll", content))) == content.strip().replace(" ", "/")


def test_one_stray_tag_begins_an_entity_and_is_told(tmp_path):
    good = "Ada B-PER\nran O\n\n" * 30
    dataset = read_words(write(tmp_path / "a.conll", good + "to O\nLyon I-LOC\n\nJo B-LOC\n"))
    assert tagged(dataset).endswith("to/O Lyon/B-LOC | Jo/B-LOC") and dataset["place"][30] == "line 92"
    assert "it begins one, as in conlleval" in dataset["note"][30]


@pytest.mark.parametrize("word", ["two\nlines", "a\tb", "", "#"])
def test_what_columns_cannot_hold_is_not_written(word):
    assert not has_conll_form([{"tokens": ["Ada", word], "ner_tags": None, "predicted": ["O", "O"]}])


def test_predictions_read_back(tmp_path):
    rows = [
        {"tokens": ["New York", "ran"], "ner_tags": None, "predicted": ["B-BIG CITY", "O"]},
        {"tokens": ["\\n", "O"], "ner_tags": None, "predicted": ["O", "B-X"]},
    ]
    assert has_conll_form(rows)
    path = write(tmp_path / "a.conll", "\n".join(conll_block(row) for row in rows))
    assert tagged(read_words(path)) == "New York/B-BIG CITY ran/O | \\n/O O/B-X"


def test_real_conll_reads_to_the_known_counts():
    """CoNLL-2003 may not be redistributed; this runs where a data folder has it."""
    path = ROOT / "data" / "conll2003" / "validation.txt"
    if not path.exists():
        pytest.skip("CoNLL-2003 is not at data/conll2003/validation.txt")
    dataset = read_words(path)
    begins = [tag[2:] for tags in dataset["ner_tags"] for tag in tags if tag.startswith("B-")]
    # Tjong Kim Sang and De Meulder 2003, table 2.
    expected = {"LOC": 1837, "MISC": 922, "ORG": 1341, "PER": 1842}
    assert len(dataset) == 3250 and {kind: begins.count(kind) for kind in set(begins)} == expected


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
def test_for_predict_a_txt_is_columns_only_where_every_line_is(tmp_path, content, is_text):
    path = write(tmp_path / "a.txt", content)
    assert predict.is_plain_text(path, ["O", "B-PER", "I-PER"]) is is_text
    assert predict.is_plain_text(path, None)


# Questions


def answered(context, text, start, key="1"):
    return {"id": key, "context": context, "question": "q?", "answers": {"text": [text], "answer_start": [start]}}


def test_forms_of_questions(tmp_path):
    context = "Ada Lovelace lived in London."
    flat = {"id": "1", "title": "t", "context": context, "question": "Where?"}
    listed = [{"text": "London", "answer_start": 22}]
    nested = {"title": "t", "paragraphs": [{"context": context, "qas": [flat | {"answers": listed}]}]}
    header, row = ",".join(flat), ",".join(flat.values())
    answers = {"text": ["London"], "answer_start": [22]}
    arrays = (
        "{'text': array(['London'], dtype=object), 'answer_start': array([22], dtype=int32)}"  # as pandas writes it
    )
    Dataset.from_list([flat | {"answers": answers}]).to_parquet(tmp_path / "a.parquet")
    paths = [
        write(tmp_path / "a.csv", f"{header},answer_text,answer_start\n{row},London,22"),
        write(tmp_path / "b.csv", f"{header},answer_text\n{row},London"),  # looked for: it occurs once
        write(tmp_path / "a.jsonl", [flat | {"answers": answers}]),
        write(tmp_path / "b.jsonl", [flat | {"answers": {"text": ["London"], "answer_start": []}}]),
        write(tmp_path / "c.jsonl", [flat | {"answers": "London"}]),
        write(tmp_path / "d.jsonl", [flat | {"answers": {"text": "London", "answer_start": 22}}]),
        write(tmp_path / "c.csv", f'{header},answers\n{row},"{answers}"'),
        write(tmp_path / "d.csv", f'{header},answers\n{row},"{arrays}"'),
        write(tmp_path / "a.json", json.dumps({"data": [nested]})),
        tmp_path / "a.parquet",
    ]
    for path in paths:
        found = read_questions(path)[0]
        assert found | flat == found and (found["answers"], found["answer_starts"]) == (["London"], [22]), path


def test_truth_values_as_text_and_ids_from_zero(tmp_path):
    rows = "id,question,context,answer_text,is_impossible\n0,q?,in Lyon,Lyon,False\n1,q?,in Lyon,,True"
    dataset = read_questions(write(tmp_path / "a.csv", rows))
    assert dataset["answers"][:] == [["Lyon"], []] and dataset["id"][:] == ["0", "1"]
    assert dataset["note"][:] == ["", ""]
    assert checked_questions(DatasetDict(train=dataset), None)[1] is True  # the rules of 2.0


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_an_answer_takes_the_unicode_form_of_its_context(tmp_path, form):
    context = unicodedata.normalize(form, "Le Caf\xe9 \xe0 Paris")
    rows = [answered(context, unicodedata.normalize(other, "Caf\xe9"), 3, other) for other in ("NFC", "NFD")]
    dataset = read_questions(write(tmp_path / "a.jsonl", rows))
    assert dataset["answers"][:] == [[unicodedata.normalize(form, "Caf\xe9")]] * 2
    assert dataset["answer_starts"][:] == [[3]] * 2
    assert [note != "" for note in dataset["note"]] == [form != "NFC", form != "NFD"]


def test_misplaced_answers_are_mended_or_dropped(tmp_path):
    good = [answered("in Lyon now", "Lyon", 3, f"g{i}") for i in range(30)]
    moved, lost = answered("in Lyon now", "Lyon", 5, "m"), answered("Lyon, Lyon", "Lyon", 3, "l")
    dataset = read_questions(write(tmp_path / "a.jsonl", [*good, moved, lost]))
    assert dataset["answer_starts"][30:] == [[3], [-1]]
    assert [bool(note) for note in dataset["note"]] == [False] * 30 + [True] * 2
    checked, version_2 = checked_questions(DatasetDict(train=dataset), None)
    assert len(checked["train"]) == 31 and not version_2


# Held out of train: whole groups, nothing that stands on both sides, the same for the same seed


def test_held_out_sentences_are_whole_documents_and_repeat_nothing(tmp_path):
    blocks = [f"-DOCSTART- O\n\nword{d} B-PER\n\nrefrain O\n" for d in range(40)]
    dataset = read_words(write(tmp_path / "a.conll", "\n".join(blocks)))
    split, again = (hold_out(dataset, 1, **sentence_groups(dataset)) for _ in range(2))
    documents = {name: set(part["document"]) for name, part in split.items()}
    assert not documents["train"] & documents["validation"] and len(documents["validation"]) == 4
    texts = {name: {tuple(tokens) for tokens in part["tokens"]} for name, part in split.items()}
    assert not texts["train"] & texts["validation"]
    assert again["validation"]["tokens"][:] == split["validation"]["tokens"][:]


def test_a_type_that_occurs_once_stays_in_train_and_copies_together(tmp_path):
    dataset = read_words(write(tmp_path / "a.conll", "".join(f"w{i} B-PER\n\n" for i in range(39)) + "x B-RARE\n"))
    for seed in range(20):
        assert ["B-RARE"] in hold_out(dataset, seed, **sentence_groups(dataset))["train"]["ner_tags"][:]
    dataset = read_words(write(tmp_path / "b.conll", "".join(f"w{i % 20} B-PER\n\n" for i in range(60))))
    split = hold_out(dataset, 1, **sentence_groups(dataset))
    assert not {t[0] for t in split["train"]["tokens"]} & {t[0] for t in split["validation"]["tokens"]}
    assert len(split["train"]) + len(split["validation"]) == 60


def test_held_out_rows_are_stratified_and_copies_stay_together(tmp_path):
    rows = "".join(f"text {i % 70},{'rare' if i % 7 == 0 else 'common'}\n" for i in range(140))
    dataset = read_texts(write(tmp_path / "a.csv", f"text,label\n{rows}single,once\n"))
    split = hold_out(dataset, 3, **label_groups(dataset, False))
    assert not set(split["train"]["text"]) & set(split["validation"]["text"])
    assert set(split["validation"]["label"]) == {"rare", "common"} and "once" in split["train"]["label"][:]
    assert len(split["validation"]) + len(split["train"]) == 141
    small = "".join(f"text {i},{i % 3}\n" for i in range(27))
    dataset = read_texts(write(tmp_path / "b.csv", f"text,label\n{small}"))
    held_out = hold_out(dataset, 1, **label_groups(dataset, False))["validation"]
    assert len(held_out) == 3 and set(held_out["label"]) == {"0", "1", "2"}


def test_whole_contexts_are_held_out(tmp_path):
    rows = [answered(f"in Lyon {i // 4}", "Lyon", 3, str(i)) for i in range(80)]
    dataset = read_questions(write(tmp_path / "a.jsonl", rows))
    parts = hold_out(dataset, 42, **context_groups(dataset))
    contexts = {split: set(part["context"]) for split, part in parts.items()}
    assert not contexts["train"] & contexts["validation"] and len(parts["validation"]) == 8


def test_a_train_too_small_to_hold_out_of_is_refused(tmp_path):
    dataset = read_texts(write(tmp_path / "a.csv", "text,label\na,1\na,1\n"))
    with pytest.raises(InputError, match="--validation_file is missing"):
        hold_out(dataset, 1, **label_groups(dataset, False))


def test_named_columns_of_a_table_with_a_word_a_row_are_read_and_no_others(tmp_path):
    path = write(tmp_path / "a.csv", "Sentence #,Form,POS,Tag\n1,Ada,S-NAME,B-PER\n,ran,O,O\n")
    named = dict(tokens_column="Form", tags_column="POS")
    assert read_words(path, **named)["ner_tags"][:] == [["B-NAME", "O"]]
    assert read_words(path, tokens_column="form")["ner_tags"][:] == [["B-PER", "O"]]
    assert read_words(path, **named | {"tags_column": "NE"})["ner_tags"][:] == [None]  # which training refuses
