import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.metrics import entities
from common.words import detect_scheme, spans_to_tags, split_words, to_bio

BIO = ["B-PER", "B-PER", "I-PER", "I-PER", "O", "B-LOC", "B-PER"]


@pytest.mark.parametrize(
    ("tags", "scheme"),
    [
        ("B-PER B-PER I-PER I-PER O B-LOC B-PER", "BIO"),
        ("I-PER B-PER I-PER I-PER O I-LOC I-PER", "IOB1"),
        ("S-PER B-PER I-PER E-PER O S-LOC S-PER", "BIOES"),
        ("U-PER B-PER I-PER L-PER O U-LOC U-PER", "BIOES"),  # BILOU
        ("S-PER B-PER M-PER E-PER O S-LOC S-PER", "BIOES"),  # BMES
    ],
)
def test_every_scheme_is_recognised_and_becomes_the_same_bio(tags, scheme):
    assert detect_scheme([tags.split()]) == scheme
    assert to_bio(tags.split(), scheme) == (BIO, None)


@pytest.mark.parametrize(
    ("tags", "scheme", "index"),
    [
        (["O", "I-PER"], "BIO", 1),
        (["B-PER", "I-LOC"], "BIO", 1),
        (["S-PER", "I-PER"], "BIOES", 1),
        (["E-PER"], "BIOES", 0),
    ],
)
def test_what_continues_an_entity_that_is_not_there_begins_one(tags, scheme, index):
    bio, broken = to_bio(tags, scheme)
    assert broken == index and bio[index].startswith("B-") and to_bio(bio, "BIO") == (bio, None)


def to_iob1(bio):
    """I- everywhere, but B- after an entity of the same type: the definition, written the other way round."""
    found = []
    for i, tag in enumerate(bio):
        same_before = i and bio[i - 1] != "O" and bio[i - 1][2:] == tag[2:]
        found.append("I" + tag[1:] if tag.startswith("B") and not same_before else tag)
    return found


well_formed = st.lists(st.tuples(st.sampled_from(["", "PER", "LOC"]), st.integers(1, 3)), max_size=6).map(
    lambda parts: ["O" if not kind else f"{'I' if i else 'B'}-{kind}" for kind, length in parts for i in range(length)]
)


@given(well_formed)
def test_iob1_round_trip(bio):
    assert to_bio(to_iob1(bio), "IOB1") == to_bio(bio, "BIO") == (bio, None)


@given(well_formed)
def test_entities_agree_with_seqeval(bio):
    from seqeval.metrics.sequence_labeling import get_entities

    assert entities(bio) == [(kind, first, last + 1) for kind, first, last in get_entities(bio)]


@given(st.text(max_size=80))
def test_words_cover_every_visible_character_once(text):
    spans = split_words(text)
    covered = [i for start, end in spans for i in range(start, end)]
    assert covered == sorted(set(covered))
    assert set(covered) == {i for i, c in enumerate(text) if not c.isspace()}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Paris,London", "Paris , London"),
        ("Obama.He left", "Obama . He left"),
        ("Oslo-Bern on amazon.com", "Oslo-Bern on amazon.com"),
        ("Lima/Riga, 12,400 at 10:30 in the U.S.", "Lima / Riga , 12,400 at 10:30 in the U.S."),
        ("don't e.g. 3.5% A.B", "don't e.g. 3.5 % A . B"),
    ],
)
def test_words_of_raw_text(text, words):
    assert [text[start:end] for start, end in split_words(text)] == words.split()


@pytest.mark.parametrize(
    ("text", "spans", "tagged"),
    [
        ("Paris,London", [(0, 5, "LOC"), (6, 12, "LOC")], "Paris/B-LOC ,/O London/B-LOC"),
        ("Oslo-Bern", [(0, 4, "LOC"), (5, 9, "LOC")], "Oslo/B-LOC -/O Bern/B-LOC"),
        ("Lima ran", [(0, 5, "PER"), (0, 4, "PER"), (0, 5, "PER")], "Lima/B-PER ran/O"),
        ("Londoners ran", [(0, 6, "LOC")], "London/B-LOC ers/O ran/O"),
    ],
)
def test_words_part_at_the_ends_of_spans(text, spans, tagged):
    words, tags = spans_to_tags(text, spans)
    assert " ".join(f"{text[a:b]}/{tag}" for (a, b), tag in zip(words, tags, strict=True)) == tagged
