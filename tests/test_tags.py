import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.metrics import entities
from common.words import detect_scheme, spans_to_tags, split_words, to_bio

BIO = ["B-PER", "B-PER", "I-PER", "O", "B-LOC", "B-PER"]
SAME_IN = {
    "IOB1": ["I-PER", "B-PER", "I-PER", "O", "I-LOC", "I-PER"],
    "BIOES": ["S-PER", "B-PER", "E-PER", "O", "S-LOC", "S-PER"],
    "BIO": BIO,
}


@pytest.mark.parametrize("scheme", SAME_IN)
def test_every_scheme_is_recognised_and_becomes_the_same_bio(scheme):
    assert detect_scheme([SAME_IN[scheme]]) == scheme
    assert to_bio(SAME_IN[scheme], scheme) == BIO


def test_bilou_is_bioes_by_other_letters():
    assert to_bio(["U-PER", "B-LOC", "I-LOC", "L-LOC"], "BIOES") == ["B-PER", "B-LOC", "I-LOC", "I-LOC"]


@pytest.mark.parametrize(
    ("tags", "scheme", "index"),
    [
        (["O", "I-PER"], "BIO", 1),
        (["B-PER", "I-LOC"], "BIO", 1),
        (["S-PER", "I-PER"], "BIOES", 1),
        (["E-PER"], "BIOES", 0),
    ],
)
def test_a_broken_sequence_names_its_place(tags, scheme, index):
    with pytest.raises(ValueError) as error:
        to_bio(tags, scheme)
    assert error.value.args[0] == index


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
    assert to_bio(to_iob1(bio), "IOB1") == bio
    assert to_bio(bio, "BIO") == bio


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


def test_spans_that_cut_a_word_take_it_whole_and_are_told():
    tags, cut = spans_to_tags([(0, 6)], [(0, 3, "PER")])
    assert (tags, cut) == (["B-PER"], [(0, 3, "PER")])


def test_overlapping_spans_are_refused():
    with pytest.raises(ValueError, match="overlaps"):
        spans_to_tags([(0, 3), (4, 7)], [(0, 7, "ORG"), (4, 7, "LOC")])
