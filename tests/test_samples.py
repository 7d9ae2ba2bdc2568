"""The rules that the bundled samples keep."""

import csv
import re
from collections import Counter

import pytest

from common.metrics import entities
from tests.conftest import SAMPLES, read_json, read_sample

SPLITS = {split: read_sample(split) for split in ("train", "validation", "test")}


def names(split):
    return [(kind, " ".join(words[a:b]).lower()) for words, tags in SPLITS[split] for kind, a, b in entities(tags)]


def frames(split):
    """Each sentence with its entities replaced by their type."""
    found = set()
    for words, tags in SPLITS[split]:
        frame = [word.lower() for word in words]
        for kind, start, end in reversed(entities(tags)):
            frame[start:end] = [kind]
        found.add(tuple(frame))
    return found


def test_sizes_and_frames_of_their_own():
    parts = [frames(split) for split in SPLITS]
    assert [len(part) for part in parts] == [len(sentences) for sentences in SPLITS.values()] == [1200, 200, 200]
    assert len(set().union(*parts)) == 1600


@pytest.mark.parametrize("split", ["validation", "test"])
def test_at_most_a_fifth_of_the_names_occur_in_train(split):
    known, held_out = ({name for _, name in names(of)} for of in ("train", split))
    assert len(held_out & known) <= len(held_out) / 5


@pytest.mark.parametrize("split", SPLITS)
def test_types_lengths_ambiguous_names_and_sentences_without_entity(split):
    kinds = Counter(kind for kind, _ in names(split))
    assert set(kinds) == {"PER", "ORG", "LOC", "MISC"} and min(kinds.values()) > 0.1 * kinds.total()
    assert {len(name.split()) for _, name in names(split)} >= {1, 2, 3, 4, 5}
    without = sum(not entities(tags) for _, tags in SPLITS[split])
    assert 0.1 < without / len(SPLITS[split]) < 0.25
    assert (max(len(words) for words, _ in SPLITS[split]) > 128) == (split != "validation")
    kinds = {}
    for kind, name in names(split):
        for word in name.split():
            kinds.setdefault(word, set()).add(kind)
    assert sum(len(k) > 1 for word, k in kinds.items() if len(word) > 3) >= 5


TEXTS = {"text_classification": ("text",), "nli": ("premise", "hypothesis")}


def read_texts(name, split):
    with (SAMPLES / name / f"{split}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("name", "sizes", "classes"), [("text_classification", (800, 200, 200), 2), ("nli", (900, 200, 200), 3)]
)
def test_sizes_and_equal_classes(name, sizes, classes):
    for split, size in zip(("train", "validation", "test"), sizes, strict=True):
        counts = Counter(row["label"] for row in read_texts(name, split))
        assert counts.total() == size and len(counts) == classes
        assert max(counts.values()) - min(counts.values()) <= 1


@pytest.mark.parametrize("name", TEXTS)
def test_no_word_gives_the_label_away(name):
    labels = {}
    for row in read_texts(name, "train"):
        for word in set(re.findall(r"\w+", " ".join(row[column] for column in TEXTS[name]).lower())):
            labels.setdefault(word, Counter())[row["label"]] += 1
    assert max(max(c.values()) / c.total() for c in labels.values() if c.total() >= 15) < 0.8


@pytest.mark.parametrize(("name", "reached"), [("text_classification", (0.645, 0.665)), ("nli", (0.425, 0.445))])
def test_bags_of_words_reach_what_the_readme_says(name, reached):
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    rows = {split: read_texts(name, split) for split in ("train", "validation", "test")}
    texts = {split: [" ".join(row[column] for column in TEXTS[name]) for row in rows[split]] for split in rows}
    labels = {split: [row["label"] for row in rows[split]] for split in rows}
    model = make_pipeline(CountVectorizer(), LogisticRegression(max_iter=2000)).fit(texts["train"], labels["train"])
    scores = [model.score(texts[split], labels[split]) for split in ("validation", "test")]
    assert scores == pytest.approx(reached, abs=0.011)


QUESTIONS = {"train": 970, "validation": 107, "test": 118, "train-v2": 94, "validation-v2": 42}


def paragraphs(name):
    document = read_json(SAMPLES / "qa" / f"{name}.json")
    return [paragraph for article in document["data"] for paragraph in article["paragraphs"]]


@pytest.mark.parametrize("name", QUESTIONS)
def test_questions_answers_and_contexts(name):
    questions = [question for paragraph in paragraphs(name) for question in paragraph["qas"]]
    assert len(questions) == QUESTIONS[name] == len({question["id"] for question in questions})
    for paragraph in paragraphs(name):
        assert 50 <= len(paragraph["context"].split()) <= 110 and 4 <= len(paragraph["qas"]) <= 8
        for answer in (answer for question in paragraph["qas"] for answer in question["answers"]):
            assert paragraph["context"].startswith(answer["text"], answer["answer_start"])
            assert 1 <= len(answer["text"].split()) <= 12
    unanswerable = sum(not question["answers"] for question in questions)
    assert 0.3 < unanswerable / len(questions) < 0.36 if name.endswith("v2") else unanswerable == 0


@pytest.mark.parametrize(("name", "length"), [("text_classification", 7), ("nli", 7), ("qa", 8)])
def test_no_run_of_words_stands_in_two_files(name, length):
    if name == "qa":
        parts = [[paragraph["context"] for paragraph in paragraphs(file)] for file in QUESTIONS]
    else:
        parts = [[row[column] for row in read_texts(name, split) for column in TEXTS[name]] for split in SPLITS]
    runs = []
    for part in parts:
        words = [re.findall(r"\w+", text.lower()) for text in part]
        runs.append({tuple(w[i : i + length]) for w in words for i in range(len(w) - length + 1)})
    assert sum(map(len, runs)) == len(set().union(*runs))
