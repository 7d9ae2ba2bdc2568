"""One row each of Italian, German, Chinese and Arabic through words, alignment, windows and answers."""

import numpy as np
import pytest

from common.questions import choose_answers, tokenize_questions
from common.words import spans_to_tags, split_words, tags_of_sentences, tokenize_and_align_labels
from tests.encoders import build_tokenizer

# Text, its entities, a question and the answer to it. With a decomposed accent, German compounds, full-width marks and
# Arabic vowel signs.
ROWS = {
    "Italian": (
        "L'architetta Caterina Dell'Orto è nata a Forlì e dirige perciò l'Officina Adriatica di Santarcangelo.",
        [("Caterina Dell'Orto", "PER"), ("Forlì", "LOC"), ("Santarcangelo", "LOC")],
        "Perche\u0301 è nota Caterina Dell'Orto?",
        "dirige percio\u0300 l'Officina Adriatica",
    ),
    "German": (
        "Die Straßenbahnführerin Änne Müller-Großkopf zog von Görlitz nach Überlingen zur Bodenseeschifffahrt GmbH.",
        [
            ("Änne Müller-Großkopf", "PER"),
            ("Görlitz", "LOC"),
            ("Überlingen", "LOC"),
            ("Bodenseeschifffahrt GmbH", "ORG"),
        ],
        "Wohin zog Änne Müller-Großkopf?",
        "Überlingen",
    ),
    "Chinese": (
        "工程师王小明１９８７年离开上海，到柏林的“白塔桥梁公司”工作，后来又回到杭州教书，住在西湖边的一座小楼里。",
        [("王小明", "PER"), ("上海", "LOC"), ("柏林", "LOC"), ("白塔桥梁公司", "ORG"), ("杭州", "LOC")],
        "王小明在哪里教书？",
        "杭州",
    ),
    "Arabic": (
        "وُلِدَتْ المهندسة ليلى الخوري في مدينة صور عام ١٩٦٢، وتعمل اليوم في شركة الأرز للجسور قرب بيروت.",
        [("ليلى الخوري", "PER"), ("صور", "LOC"), ("شركة الأرز للجسور", "ORG"), ("بيروت", "LOC")],
        "أين وُلِدَتْ ليلى الخوري؟",
        "في مدينة صور",
    ),
}
TOKENIZERS = ("bert", "xlm-roberta", "albert", "modernbert")  # word pieces, unigrams with and without accents, bytes


def decomposed(text):
    return text.replace("perciò", "percio\u0300")


@pytest.fixture(scope="module", params=TOKENIZERS)
def tokenizer(request):
    texts = [text for row in ROWS.values() for text in (decomposed(row[0]), row[2])]
    return build_tokenizer(request.param, texts, size=300)


def tagged(language):
    """The words of the row, and a BIO tag for each."""
    text, entities, *_ = ROWS[language]
    text = decomposed(text)
    spans = [(text.index(name), text.index(name) + len(name), label) for name, label in entities]
    words, tags = spans_to_tags(text, spans)
    assert words == split_words(text)
    return [text[start:end] for start, end in words], tags


@pytest.mark.parametrize(
    ("language", "expected"),
    [
        ("Italian", "percio\u0300 l'Officina"),
        ("German", "Straßenbahnführerin Änne Müller-Großkopf"),
        ("Chinese", "王 小 明 １９８７ 年"),
        ("Arabic", "وُلِدَتْ المهندسة"),
        ("Arabic", "١٩٦٢ ،"),
    ],
)
def test_words_keep_their_signs_and_chinese_has_a_word_a_character(language, expected):
    assert f" {expected} " in " ".join(["", *tagged(language)[0], ""])


@pytest.mark.parametrize("language", ROWS)
@pytest.mark.parametrize(("max_length", "stride"), [(200, 16), (24, 8)])
def test_every_word_is_read_once_at_its_beginning(tokenizer, language, max_length, stride):
    words, tags = tagged(language)
    label_list = sorted(set(tags))
    label2id = {label: i for i, label in enumerate(label_list)}
    batch = {"tokens": [words], "ner_tags": [tags]}
    features = tokenize_and_align_labels(batch, [0], tokenizer, max_length, stride, label2id)
    assert (len(features["input_ids"]) > 1) == (max_length == 24)
    read = sorted(word for window in features["word_ids"] for word in window if word >= 0)
    assert read == list(range(len(words)))

    alone = [tokenizer([[word]], is_split_into_words=True, add_special_tokens=False)["input_ids"][0] for word in words]
    for ids, owned in zip(features["input_ids"], features["word_ids"], strict=True):
        for position, word in enumerate(owned):
            if word >= 0:
                piece = tokenizer.convert_ids_to_tokens(ids[position])
                assert piece == tokenizer.convert_ids_to_tokens(alone[word][0])
    predicted = [[max(label, 0) for label in window] for window in features["labels"]]
    assert tags_of_sentences(predicted, features["word_ids"], features["row"], [len(words)], label_list) == [tags]


@pytest.mark.parametrize("language", ROWS)
@pytest.mark.parametrize(("max_length", "stride"), [(300, 20), (120, 30)])
def test_an_answer_comes_back_to_its_characters(tokenizer, language, max_length, stride):
    text, _, question, answer = ROWS[language]
    context = decomposed(text)
    start = context.index(answer)
    batch = {"question": [question], "context": [context], "answers": [[answer]], "answer_starts": [[start]]}
    features = tokenize_questions(batch, [0], tokenizer, max_length, stride, labelled=True)
    held = [labels[0] > 0 for labels in features["labels"]]
    assert any(held) and not any(features["question_cut"])
    logits = np.full((2, len(held), max(features["length"])), -9.0)
    for window, labels in enumerate(features["labels"]):
        for side in (0, 1):
            logits[side, window, labels[side]] = 9.0 if held[window] else 0.0
    (found,) = choose_answers(*logits, features, [context], max_answer_length=60)
    best = found["n_best"][0]
    assert (best["text"], best["start"], best["end"]) == (answer, start, start + len(answer))
    for starts, ends, is_held in zip(features["starts"], features["ends"], held, strict=True):
        shown = (min(a for a in starts if a >= 0), max(ends))
        assert is_held == (shown[0] <= start and start + len(answer) <= shown[1])
