"""The rules that the bundled samples keep."""

from collections import Counter

import pytest

from common.tags import entities
from tests.conftest import read_sample

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


def test_sizes():
    assert {split: len(sentences) for split, sentences in SPLITS.items()} == {
        "train": 600,
        "validation": 150,
        "test": 150,
    }


@pytest.mark.parametrize("split", ["validation", "test"])
def test_at_most_a_fifth_of_the_names_occur_in_train(split):
    known = {name for _, name in names("train")}
    held_out = {name for _, name in names(split)}
    assert len(held_out & known) <= len(held_out) / 5


def test_no_sentence_frame_is_shared():
    train, validation, test = map(frames, SPLITS)
    assert not train & validation and not train & test and not validation & test
    assert [len(part) for part in (train, validation, test)] == [600, 150, 150]


@pytest.mark.parametrize("split", SPLITS)
def test_types_lengths_and_sentences_without_entity(split):
    kinds = Counter(kind for kind, _ in names(split))
    assert set(kinds) == {"PER", "ORG", "LOC", "MISC"} and min(kinds.values()) > 0.1 * kinds.total()
    assert {len(name.split()) for _, name in names(split)} >= {1, 2, 3, 4, 5}
    without = sum(not entities(tags) for _, tags in SPLITS[split])
    assert 0.1 < without / len(SPLITS[split]) < 0.25


def test_very_long_sentences_and_ambiguous_names():
    assert (
        max(len(words) for words, _ in SPLITS["train"]) > 128 and max(len(words) for words, _ in SPLITS["test"]) > 128
    )
    for split in SPLITS:
        kinds = {}
        for kind, name in names(split):
            for word in name.split():
                kinds.setdefault(word, set()).add(kind)
        assert sum(len(k) > 1 for word, k in kinds.items() if len(word) > 3) >= 5
