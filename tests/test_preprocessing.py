"""Alignment and windows on words shown here."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig

from common.errors import InputError
from common.training import load_tokenizer, resolve_lengths
from common.words import tags_of_sentences, tokenize_and_align_labels
from tests.conftest import save_tiny_bert


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    # "grace" is one piece; "hopper" falls into h ##o ##p ##p ##e ##r, since only its letters are known.
    folder = save_tiny_bert(tmp_path_factory.mktemp("model"), ["grace met ada in london", "h o p e r"])
    return load_tokenizer(folder, is_split_into_words=True)


def features_of(tokenizer, sentences, max_length, stride, tags=None, label_list=None):
    label2id = {label: i for i, label in enumerate(label_list)} if label_list else None
    batch = {"tokens": sentences, "ner_tags": tags}
    return tokenize_and_align_labels(batch, range(len(sentences)), tokenizer, max_length, stride, label2id)


def test_a_word_is_labelled_at_its_first_piece_alone(tokenizer):
    features = features_of(
        tokenizer, [["Grace", "Hopper", "met"]], 32, 4, [["B-PER", "I-PER", "O"]], ["O", "B-PER", "I-PER"]
    )
    pieces = tokenizer.convert_ids_to_tokens(features["input_ids"][0])
    assert pieces == ["[CLS]", "grace", "h", "##o", "##p", "##p", "##e", "##r", "met", "[SEP]"]
    assert features["labels"] == [[-100, 1, 2, -100, -100, -100, -100, -100, 0, -100]]
    assert features["word_ids"] == [[-1, 0, 1, -1, -1, -1, -1, -1, 2, -1]]
    assert features["length"] == [10]


def test_inner_parts_of_a_word_are_trained_as_inside_the_entity_but_not_read(tokenizer):
    words, tags = ["Ada-Grace", "London-Hope"], ["B-PER", "O"]
    features = features_of(tokenizer, [words], 32, 4, [tags], ["O", "B-PER", "I-PER"])
    pieces = tokenizer.convert_ids_to_tokens(features["input_ids"][0])
    assert pieces == ["[CLS]", "ada", "[UNK]", "grace", "london", "[UNK]", "h", "##o", "##p", "##e", "[SEP]"]
    assert features["labels"] == [[-100, 1, 2, 2, 0, 0, 0, -100, -100, -100, -100]]
    assert features["word_ids"] == [[-1, 0, -1, -1, 1, -1, -1, -1, -1, -1, -1]]


def test_a_long_sentence_becomes_windows_in_which_each_word_has_one_place(tokenizer):
    words = ["grace", "met", "ada", "in", "london", "hopper", "ada", "met"]
    features = features_of(tokenizer, [words], max_length=8, stride=3)
    shown = [tokenizer.convert_ids_to_tokens(ids)[1:-1] for ids in features["input_ids"]]
    # The sentence has 13 pieces; a window shows 6 and shares 3 with the next. The third, ##o ##p ##p ##e ##r ada, owns
    # nothing: "hopper" begins before it and "ada" has more context in the fourth. So it is left out.
    assert shown == [
        ["grace", "met", "ada", "in", "london", "h"],
        ["in", "london", "h", "##o", "##p", "##p"],
        ["##e", "##r", "ada", "met"],
    ]
    assert features["word_ids"] == [
        [-1, 0, 1, 2, 3, 4, -1, -1],
        [-1, -1, -1, 5, -1, -1, -1, -1],
        [-1, -1, -1, 6, 7, -1],
    ]
    assert features["row"] == [0, 0, 0]


def test_windows_without_a_word_of_their_own_are_left_out(tokenizer):
    features = features_of(tokenizer, [["hopper" * 8]], max_length=8, stride=2)
    assert len(features["input_ids"]) == 1


def test_words_without_a_piece_get_o_and_lose_nobody_elses_place(tokenizer):
    sentences = [["\x01", "Grace", "\u200b", "met"], ["\x01"]]
    features = features_of(tokenizer, sentences, 32, 4)
    assert features["word_ids"] == [[-1, 1, 3, -1]]
    assert features["row"] == [0]
    tags = tags_of_sentences([[0, 1, 0, 0]], features["word_ids"], features["row"], [4, 1], ["O", "B-PER"])
    assert tags == [["O", "B-PER", "O", "O"], ["O"]]


@settings(max_examples=60)
@given(
    st.lists(
        st.lists(st.sampled_from(["grace", "hopper", "ada", "hope", "\x01", "London"]), min_size=1, max_size=30),
        min_size=1,
        max_size=4,
    ),
    st.integers(5, 20),
    st.data(),
)
def test_windows_stitched_give_every_word_its_own_label(tokenizer, sentences, max_length, data):
    """A perfect model (it predicts the label that stands at each place) gives back exactly the gold tags."""
    stride = data.draw(st.integers(0, max_length - 3))
    label_list = ["O", "B-PER", "I-PER", "B-LOC"]
    tags = [data.draw(st.lists(st.sampled_from(label_list), min_size=len(s), max_size=len(s))) for s in sentences]
    features = features_of(tokenizer, sentences, max_length, stride, tags, label_list)
    assert all(len(ids) <= max_length for ids in features["input_ids"])
    predictions = [[max(label, 0) for label in row] for row in features["labels"]]
    stitched = tags_of_sentences(
        predictions, features["word_ids"], features["row"], [len(s) for s in sentences], label_list
    )
    expected = [
        ["O" if word == "\x01" else tag for word, tag in zip(s, t, strict=True)]
        for s, t in zip(sentences, tags, strict=True)
    ]
    assert stitched == expected


def test_windows_share_a_quarter_unless_a_flag_says_otherwise(tiny_bert):
    tokenizer, config = load_tokenizer(tiny_bert), AutoConfig.from_pretrained(tiny_bert)
    assert resolve_lengths(tokenizer, config, None, None) == (64, 16)
    assert resolve_lengths(tokenizer, config, 32, 29) == (32, 29)


def test_a_model_without_a_fast_tokenizer_is_told(monkeypatch, tmp_path):
    import transformers

    class SlowTokenizer:
        is_fast = False

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", lambda name, **options: SlowTokenizer())
    with pytest.raises(InputError, match=r"SlowTokenizer\) is not a fast one"):
        load_tokenizer("somebody/slow")
