"""Words with a tag each: file forms and tagging schemes, alignment with word pieces, windows, and what is printed.

References: Ramshaw and Marcus 1995 (BIO); Tjong Kim Sang and De Meulder 2003 (CoNLL-2003, IOB1); Ratinov and Roth 2009
(BILOU).
"""

import functools
import json
import logging
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, chain, groupby, pairwise
from typing import Any

import numpy as np
from scipy.special import softmax

from common import data, metrics
from common.data import Row, Source
from common.errors import InputError, check_at_least_one

log = logging.getLogger("recipes")
TOKEN_COLUMNS, TAG_COLUMNS = ("tokens", "words"), ("ner_tags", "tags", "labels", "ner")
SENTENCE_COLUMNS = ("sentence #", "sentence_id", "sentence id", "sent_id", "sentence_number", "sentence")
SPAN_COLUMNS = ("entities", "spans", "ents", "label", "labels")
ONE_FORM = 'write {"tokens": ["Ada", "ran"], "ner_tags": ["B-PER", "O"]} or ' + data.SPANS
CLITIC = r"['’](?:s|re|ve|ll|d|m)\b"
IDEOGRAPHS = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
BROKEN = "a tag continues an entity that is not there; it begins one, as in conlleval"
IGNORED = -100  # the label that PyTorch's cross entropy leaves out


def detect_scheme(sentences: Iterable[Sequence[str]]) -> str:
    """The scheme that explains all sentences: "BIO", "IOB1" or "BIOES".

    BIOES (also spelt BILOU and BMES) where E- or S- occurs. IOB1 where an entity starts with I- and B- only ever parts
    an entity from one of the same type right before it. Else BIO.

    >>> detect_scheme([["B-PER", "I-PER", "O"]]), detect_scheme([["I-PER", "B-PER", "O"]])
    ('BIO', 'IOB1')
    >>> detect_scheme([["S-PER", "O"]]), detect_scheme([["B-PER", "O", "I-PER"]])
    ('BIOES', 'BIO')
    """
    starts_with_i = b_after_other = has_ends = False
    for tags in sentences:
        previous = ""  # type of the entity that the word before belongs to
        for tag in tags:
            prefix, entity_type = metrics.split_tag(tag)
            has_ends |= prefix in "ES"
            starts_with_i |= prefix == "I" and entity_type != previous
            b_after_other |= prefix == "B" and entity_type != previous
            previous = entity_type
    return "BIOES" if has_ends else "IOB1" if starts_with_i and not b_after_other else "BIO"


def to_bio(tags: Sequence[str], scheme: str) -> tuple[list[str], int | None]:
    """Tags of one sentence in BIO, and the first word whose tag continues an entity that is not there, which it begins.

    >>> to_bio(["I-PER", "I-PER", "B-PER", "O"], "IOB1")
    (['B-PER', 'I-PER', 'B-PER', 'O'], None)
    >>> to_bio(["B-PER", "E-PER", "S-LOC", "E-LOC"], "BIOES")
    (['B-PER', 'I-PER', 'B-LOC', 'B-LOC'], 3)
    """
    bio, previous, broken = [], ("O", ""), None
    for i, tag in enumerate(tags):
        prefix, entity_type = metrics.split_tag(tag)
        # Under BIOES an entity that E- or S- has closed cannot be continued.
        open_type = "" if previous[0] in "ES" else previous[1]
        continues = prefix in "IE" and entity_type == open_type
        if prefix in "IE" and not continues and scheme != "IOB1" and broken is None:
            broken = i
        bio.append("O" if prefix == "O" else f"{'I' if continues else 'B'}-{entity_type}")
        previous = prefix, entity_type
    return bio, broken


def bio_label_list(types: Iterable[str]) -> list[str]:
    """O, then B- and I- of each type, so that a type whose I- is rare is still complete.

    >>> bio_label_list(["PER", "LOC"])
    ['O', 'B-LOC', 'I-LOC', 'B-PER', 'I-PER']
    """
    return ["O", *(f"{prefix}-{entity_type}" for entity_type in sorted(set(types)) for prefix in "BI")]


@functools.cache
def word_pattern() -> re.Pattern:
    """A word: letters and digits with inner dashes, apostrophes ("follow-up", "O'Brien"; "n't" stays with its verb),
    dots before a small letter ("amazon.com") or marks between digits ("12,400"); letters with dots ("U.S."); a clitic
    ("'s", "'ll"); or one mark on its own. CoNLL's way, as far as a rule can. "Paris,London" is three words.

    Of Chinese and Japanese each character is a word, for nothing stands between words. Accents and vowel signs belong
    to the letter before them, as do the joiners within words of Persian; for Python's `\\w` they are no letters.
    """
    signs = "".join(c for c in map(chr, range(0x300, 0x20000)) if unicodedata.category(c).startswith("M"))
    letter = rf"(?:[^\W{IDEOGRAPHS}]|[{signs}\u200c\u200d])"
    joint = r"['’-]|\.(?=(?-i:[a-z]))|(?<=\d)[.,:/](?=\d)"
    inner = rf"(?:(?!{CLITIC})(?:{joint})?{letter}+|&{letter}+)*"
    return re.compile(rf"(?:[^\W\d_]\.){{2,}}|{CLITIC}|[{IDEOGRAPHS}]|{letter}+{inner}|\S", re.IGNORECASE)


def split_words(text: str) -> list[tuple[int, int]]:
    """Character spans (start, end) of the words of raw text.

    >>> text = "Dr. O'Brien's U.S. follow-up didn't cost 12,400."
    >>> [text[start:end] for start, end in split_words(text)]
    ['Dr', '.', "O'Brien", "'s", 'U.S.', 'follow-up', "didn't", 'cost', '12,400', '.']
    """
    return [match.span() for match in word_pattern().finditer(text)]


def spans_to_tags(text: str, spans: Iterable[tuple[int, int, str]]) -> tuple[list[tuple[int, int]], list[str]]:
    """Words of a text, which part at the ends of the spans too, and their BIO tags under these (start, end, label).

    Blanks at the ends of a span do not belong to it; the same span twice is one.

    >>> spans_to_tags("Oslo-Bern", [(0, 4, "LOC"), (5, 9, "LOC")])
    ([(0, 4), (4, 5), (5, 9)], ['B-LOC', 'O', 'B-LOC'])

    Raises:
        ValueError: two spans claim one word, or a span holds no word.
    """
    trimmed = set()
    for start, end, label in spans:
        inside = text[start:end]
        if not inside.strip():
            raise ValueError(f"entity {start}-{end} ({label}) holds no word")
        trimmed.add((start + len(inside) - len(inside.lstrip()), end - len(inside) + len(inside.rstrip()), label))
    edges = sorted({0, len(text), *(edge for start, end, _ in trimmed for edge in (start, end))})
    words = [(a + start, a + end) for a, b in pairwise(edges) for start, end in split_words(text[a:b])]
    tags = ["O"] * len(words)
    for start, end, label in sorted(trimmed):
        inside = [i for i, word in enumerate(words) if start <= word[0] and word[1] <= end]
        if any(tags[i] != "O" for i in inside):
            raise ValueError(f"entity {start}-{end} ({label}) overlaps the one before it; keep one of the two")
        for i in inside:
            tags[i] = f"{'B' if i == inside[0] else 'I'}-{label}"
    return words, tags


# Rows of a file to tagged sentences


def tagged_sentences(
    source: "Source",
    tokens_column: str | None,
    tags_column: str | None,
    label_list: list[str] | None,
    scheme: str | None = None,
) -> Iterator[dict]:
    """Rows -> {"tokens", "ner_tags" in BIO or None, "document", "place", "note"}.

    A row holds words and tags (as text, or integers that index the file's class names or `label_list`), or `text`
    and `entities`, a list of {"start", "end", "label"} character spans as annotation tools export them.

    Args:
        scheme: of the tags; None detects it. "plain" leaves them as they are, for tags that are no entities.

    A tag that continues an entity which is not there begins one, as in `conlleval`, and is noted.

    Raises:
        InputError: words and tags of unequal length, no tags, an unknown prefix, overlapping spans, or more than one
            entity in 20 that begins without a B-.
    """
    parsed = functools.partial(tagged_row, source.name, tokens_column, tags_column, label_list)
    rows = functools.partial(sentence_rows, source, tokens_column, tags_column)
    scheme = scheme or detect_scheme(checked_tags(source.name, (parsed(place, row) for place, row in rows())))
    begin = broken = 0
    first = ""
    for place, row in rows():
        example = in_bio(parsed(place, row), scheme)
        begin += sum(tag.startswith("B-") for tag in example["ner_tags"] or [])
        if example["note"] == BROKEN:
            broken, first = broken + 1, first or example["place"]
        yield {name: example[name] for name in ("tokens", "ner_tags", "document", "place", "note")}
    if broken > 0.05 * begin:
        raise InputError(
            f"{source.name}, {first}: a tag continues an entity that is not there; {broken} sentences have such a tag, "
            f"too many for the scheme {scheme}: is B- missing, or are lines out of order?"
        )


def sentence_rows(source: "Source", tokens_column: str | None = None, tags_column: str | None = None) -> Iterator[Row]:
    """Rows of a source, each a sentence. Of a table with a word a row (as `sentence #,word,pos,tag`) those that follow
    each other under one name of a sentence and, where there is that column, of a `document`; either may stand in its
    first row alone.

    >>> rows = [{"sentence #": "1", "word": "Ada", "tag": "B-PER"}, {"sentence #": "", "word": "ran", "tag": "O"}]
    >>> next(sentence_rows(Source("a.csv", "", given=[("line 2", rows[0]), ("line 3", rows[1])])))
    ('line 2', {'tokens': ['Ada', 'ran'], 'ner_tags': ['B-PER', 'O'], 'lines': [2, 3]})
    """
    rows = source.rows()
    place, row = next(rows, (None, {}))
    columns = {name.lower(): name for name in row} | {name: name for name in row}
    sentence, word, tag = (
        next((columns[name] for name in names if name in columns), None)
        for names in (
            SENTENCE_COLUMNS,
            [tokens_column] if tokens_column else ["word", "words", "token"],
            [tags_column] if tags_column else ["tag", "ner", "labels"],
        )
    )
    if place is None or sentence is None or not isinstance(row.get(word), str):
        yield from chain([(place, row)] if place else [], rows)
        return
    names = [sentence, *filter(None, [columns.get("document")])]
    known = dict.fromkeys(names, "")

    def named(row: Row) -> tuple:
        known.update({name: row[1][name] for name in names if row[1].get(name) not in (None, "")})
        return tuple(known.values())

    for (_, *document), group in groupby(chain([(place, row)], rows), key=named):
        places, of_words = zip(*group, strict=True)
        tagged = {tags_column or "ner_tags": [of_word[tag] for of_word in of_words]} if tag else {}
        tokens = {tokens_column or "tokens": [of_word[word] for of_word in of_words]}
        tokens |= {"document": document[0]} if document else {}
        yield places[0], tokens | tagged | {"lines": [int(place.split()[-1]) for place in places]}


def bio_tags(name: str, rows: list[dict], scheme: str | None = None) -> list[list[str]]:
    """The tags of rows that `tagged_row` gave, in BIO, whatever their scheme; see `tagged_sentences`."""
    scheme = scheme or detect_scheme(checked_tags(name, rows))
    return [in_bio(row, scheme)["ner_tags"] for row in rows]


def in_bio(row: dict[str, Any], scheme: str) -> dict[str, Any]:
    """A row with its tags in BIO, and a note of what was changed; plain tags stay as they are."""
    if row["ner_tags"] is None or scheme == "plain":
        return row
    tags, broken = to_bio(row["ner_tags"], scheme)
    note = "" if scheme == "BIO" else f"{scheme} tags converted to BIO"
    if broken is not None:
        note = BROKEN
        row = row | {"place": token_place(row["place"], row.get("lines"), broken)}
    return row | {"ner_tags": tags, "note": note or row["note"]}


def token_place(place: str, lines: list[int] | None, i: int) -> str:
    return f"line {lines[i]}" if lines else f"{place}, word {i + 1}"


def checked_tags(name: str, examples: Iterable[dict]) -> Iterator[list[str]]:
    """The tags of each row, for `detect_scheme`; of one that belongs to no scheme the place is told."""
    for example in examples:
        for i, tag in enumerate(example["ner_tags"] or []):
            if not data.is_tag(tag):
                place = token_place(example["place"], example.get("lines"), i)
                what = f'tag "{tag}"{data.odd_blanks(tag or chr(9))} has an unknown prefix'
                remedy = "known: O, B-, I-, E-, S-, L-, U-, M-; write B-X for B, I-X for X, and delete a header line"
                raise InputError(f"{name}, {place}: {what}; {remedy}")
        yield example["ner_tags"] or []


def tagged_row(
    name: str, tokens_column: str | None, tags_column: str | None, label_list: list[str] | None, place: str, row: dict
) -> dict:
    """One row in the form of `tagged_sentences`, its tags still in the scheme of the file."""
    tokens_name = tokens_column or next((c for c in TOKEN_COLUMNS if c in row), None)
    document = row.get("document")
    example = {
        "document": "" if document in (None, -1) else str(document),
        "place": place,
        "note": row.get("note") or "",
    }
    by_number = {str(i): values for i, values in enumerate(row.get("columns", ()), 1)}  # of a CoNLL file
    row = row | {name: by_number[name] for name in (tokens_column, tags_column) if name in by_number}
    if isinstance(row.get("data"), dict) and isinstance(row.get("annotations"), list):  # Label Studio's JSON
        results = [result.get("value", {}) for of in row["annotations"][:1] for result in of.get("result", [])]
        spans = [value for value in results if "labels" in value] if row["annotations"] else None
        row = {**row["data"], "entities": spans}
    if tokens_column is None and "text" in row and (tokens_name is None or {*SPAN_COLUMNS[:3]} & {*row}):
        return example | tagged_text(name, place, row)
    if tokens_name is None or tokens_name not in row:
        raise InputError(
            f"{name}, {place}: no column of words among {list(row)}; name it with --tokens_column, name the sentence "
            f"of each word in a column sentence_id, call a file of a word and its tag a line .conll, or {ONE_FORM}"
        )
    tokens = row[tokens_name]
    if not isinstance(tokens, list) or not tokens or not all(isinstance(token, str) for token in tokens):
        raise InputError(f'{name}, {place}: "{tokens_name}" is not a list of words, at least of one; {ONE_FORM}')
    tags_name = tags_column or next((c for c in TAG_COLUMNS if c in row), None)
    tags = row.get(tags_name)
    if tags is not None:
        if not isinstance(tags, list) or len(tags) != len(tokens):
            count = f"{len(tags)} tags" if isinstance(tags, list) else f"a {type(tags).__name__}"
            raise InputError(f'{name}, {place}: {len(tokens)} words but {count} in "{tags_name}"')
        tags = [tag_name(f"{name}, {place}", tag, label_list) for tag in tags]
    return example | {"tokens": tokens, "ner_tags": tags} | ({"lines": row["lines"]} if "lines" in row else {})


def tag_name(where: str, tag: Any, label_list: list[str] | None) -> str:
    """A tag, or the name in `label_list` that an integer stands for."""
    if isinstance(tag, str):
        return tag
    if isinstance(tag, int) and not isinstance(tag, bool) and 0 <= tag < len(label_list or ()):
        return label_list[tag]
    raise InputError(
        f"{where}: tag {json.dumps(tag, default=str)} is neither text nor the number of a name; name integer tags in "
        "order, for instance --label_list O B-PER I-PER B-LOC I-LOC"
    )


def read_span(span: Any) -> tuple[int, int, str, str | None]:
    """Start, end, label and, where it is there, text of an entity, as annotation tools write it: an object with `label`
    (spaCy, Prodigy) or with a list `labels` (Label Studio), or a list of the first three (doccano).

    >>> read_span({"start": 0, "end": 3, "labels": ["PER"], "text": "Ada"}), read_span([0, 3, "PER"])
    ((0, 3, 'PER', 'Ada'), (0, 3, 'PER', None))
    """
    if isinstance(span, list):
        return span[0], span[1], span[2], None
    return span["start"], span["end"], span["label"] if "label" in span else span["labels"][0], span.get("text")


def in_code_points(text: str, spans: list) -> list[tuple[int, int, str]]:
    """Start, end and label of the spans of a text. Annotation tools in a browser count an emoji as two characters: that
    is undone where spans hold their `text` and fit only then.

    >>> in_code_points("😀 Ada", [{"start": 3, "end": 6, "label": "PER", "text": "Ada"}])
    [(2, 5, 'PER')]

    Raises:
        ValueError: a span's `text` is not what the text holds there.
    """
    spans = [read_span(span) for span in spans]
    place = {unit: i for i, unit in enumerate(accumulate((1 + (c > "\uffff") for c in text), initial=0))}
    for counted in (spans, [(place.get(start, -1), place.get(end, -1), *rest) for start, end, *rest in spans]):
        if all(said in (None, text[start:end]) for start, end, _, said in counted):
            return [span[:3] for span in counted]
    start, end, _, said = next(span for span in spans if span[3] not in (None, text[span[0] : span[1]]))
    raise ValueError(f'entity {start}-{end} is "{said}", but the text has "{text[start:end]}" there')


def tagged_text(name: str, place: str, row: dict) -> dict:
    """Words and tags of raw `text` with `entities` as character spans."""
    spans = next((row[key] for key in SPAN_COLUMNS if isinstance(row.get(key), list)), row.get("entities"))
    text = row["text"]
    if not isinstance(text, str) or not text.strip():
        raise InputError(f'{name}, {place}: "text" is empty or no text; delete the row')
    if spans is None:
        return {"tokens": [text[start:end] for start, end in split_words(text)], "ner_tags": None}
    try:
        checked = in_code_points(text, spans)
        for start, end, label in checked:
            if not (isinstance(start, int) and isinstance(end, int) and isinstance(label, str) and label):
                raise TypeError
            if not 0 <= start < end <= len(text):
                raise ValueError(f"entity {start}-{end} ({label}) lies outside the text of {len(text)} characters")
        words, tags = spans_to_tags(text, checked)
    except (TypeError, KeyError, IndexError):
        raise InputError(f'{name}, {place}: "entities" is not a list of spans, as in {data.SPANS}') from None
    except ValueError as error:
        raise InputError(f"{name}, {place}: {error}") from None
    return {"tokens": [text[start:end] for start, end in words], "ner_tags": tags}


# Splits of tagged sentences


def types_in(tags: Sequence[str] | None) -> set[str]:
    """
    >>> types_in(["B-PER", "I-PER", "O"])
    {'PER'}
    """
    return {metrics.split_tag(tag)[1] for tag in tags or () if tag != "O"}


def entity_types(datasets: Any) -> set[str]:
    """The entity types of the training split or, without one, of all splits.

    Raises:
        InputError: training or validation sentences without tags, some tagged and some not, a training split without
            any entity, or a type that training has not seen.
    """
    data.check_all_or_none(datasets, "ner_tags", f"no tags; name a column of lists with --tags_column, or {ONE_FORM}")
    types = {of: set().union(*map(types_in, data.column(split, "ner_tags"))) for of, split in datasets.items()}
    if "train" not in types:
        return set().union(*types.values())
    if not types["train"]:
        name = data.source_name(datasets["train"], "train")
        raise InputError(f"{name}: every tag is O, so there is nothing to learn; check the column of tags")
    data.check_names(datasets, "ner_tags", types_in, types["train"], "entity type")
    return types["train"]


def sentence_groups(dataset: Any, document_size: int | None = None) -> dict[str, list]:
    """For `common.data.hold_out`: the document of each sentence; where none are marked, that of `document_size`
    neighbours, or the sentence itself; the sentence's text; and its entity types."""
    texts = [" ".join(tokens) for tokens in data.column(dataset, "tokens")]
    documents = dataset["document"][:]
    if document_size and not any(documents):
        documents = [str(i // document_size) for i in range(len(documents))]
    kinds = list(map(types_in, data.column(dataset, "ner_tags")))
    return {"groups": documents if len(set(documents)) > 1 else texts, "texts": texts, "kinds": kinds}


def tagged_rows(dataset: Any, predicted: list[list[str]], probabilities: list[list[float]]) -> list[dict[str, Any]]:
    """For the prediction files: words, gold tags (None where unknown), predicted tags and the probability of each."""
    rows = zip(data.columns(dataset, "tokens", "ner_tags"), predicted, probabilities, strict=True)
    return [
        dict(tokens=words, ner_tags=gold, predicted=tags, probabilities=[round(value, 4) for value in sure])
        for (words, gold), tags, sure in rows
    ]


def conll_block(row: dict[str, Any]) -> str:
    """A sentence in the column form that `conlleval` reads: word, tag (where known), predicted tag; with tabs between
    them where a word or a type holds a blank.

    >>> print(conll_block({"tokens": ["Ada"], "ner_tags": ["B-PER"], "predicted": ["O"]}), end="")
    Ada B-PER O
    """
    columns = [row["tokens"], *([row["ner_tags"]] if row["ner_tags"] else []), row["predicted"]]
    blank = "\t" if any(" " in text for column in columns for text in column) else " "
    return "".join(blank.join(fields) + "\n" for fields in zip(*columns, strict=True))


def has_conll_form(rows: list[dict[str, Any]]) -> bool:
    """Whether sentences can stand in columns: no word is empty or a comment, or holds a tab or a line end."""
    words = chain.from_iterable(row["tokens"] for row in rows)
    odd = next((word for word in words if re.search(r"^(|#|-DOCSTART-)$|^ | $|[\t\r\n\0]", word)), None)
    if odd is not None:
        log.warning("Warning: predictions.conll is not written, for columns cannot hold the word %r.", odd)
    return odd is None


# Words to model inputs and back


def tokenize_and_align_labels(
    batch: dict[str, list],
    indices: Sequence[int],
    tokenizer: Any,
    max_length: int,
    stride: int,
    label2id: dict[str, int] | None = None,
    context: str = "sentence",
    document_size: int | None = None,
) -> dict[str, list]:
    """Windows of word pieces over sentences or documents, in which every word has exactly one place (for `Dataset.map`,
    batched).

    A text longer than `max_length` becomes several windows that overlap by `stride` pieces. A word is read at its
    first piece, in the window that shows most context around it, and there alone: so loss and score count it once, and
    none is lost to truncation. Windows that own no word are left out. A word without a piece (control characters)
    has no place and gets O in `tags_of_sentences`.

    With the context of the document (Devlin et al. 2019, section 5.3) windows lie over all its sentences, one after the
    other, so each word is read with at least half of the stride on both sides, and a document costs little more than
    its sentences do alone; a window for each sentence would cost as many times more as sentences fit into it.

    BERT's tokenizer splits a word at punctuation ("Delacruz-Webb"), and `pipeline()` takes each part for a word of its
    own. The inner parts are trained too, as inside the entity, so that it does not invent entities there; they are
    not scored.

    Args:
        batch: `tokens`, list of words per sentence; `ner_tags`, list of tags per sentence, when `label2id` is given;
            `document`, the name of its document or "", when `context` is "document".
        indices: the row numbers of the sentences.
        max_length: pieces in a window, special tokens included.
        context: "sentence", or "document" (which ends with the batch).
        document_size: sentences in a document where none is marked; None leaves these alone.

    Returns:
        One row per window: the tokenizer's own inputs; `word_ids`, at each position the word that is read there, else
        -1; `labels`, the label id there and at inner parts of the word, else -100; `row`, that of the
        sentence from whose first word `word_ids` counts; `length`, the number of pieces.
    """
    if context == "document":
        groups = sentences_of_documents(batch["document"], document_size)
    else:
        groups = [range(i, i + 1) for i in range(len(indices))]
    joined = {
        name: [list(chain.from_iterable(batch[name][group.start : group.stop])) for group in groups]
        for name in ("tokens", *(["ner_tags"] if label2id is not None else []))
    }
    encoding = tokenizer(
        joined["tokens"],
        is_split_into_words=True,
        truncation=True,
        max_length=max_length,
        stride=stride,
        return_overflowing_tokens=True,
    )
    sample_of_window = encoding.pop("overflow_to_sample_mapping")
    features: dict[str, list] = {key: [] for key in (*encoding.keys(), "word_ids", "row", "length")}
    if label2id is not None:
        features["labels"] = []
    prefix = getattr(tokenizer.backend_tokenizer.model, "continuing_subword_prefix", None)
    for sample, of_sample in groupby(range(len(sample_of_window)), key=sample_of_window.__getitem__):
        windows = list(of_sample)
        for window, owned in zip(windows, own_words([encoding.word_ids(w) for w in windows], stride), strict=True):
            if all(word < 0 for word in owned):
                continue
            for key in encoding:
                features[key].append(encoding[key][window])
            features["word_ids"].append(owned)
            features["row"].append(indices[groups[sample].start])
            features["length"].append(len(owned))
            if label2id is not None:
                tags, pieces = joined["ner_tags"][sample], encoding.tokens(window)
                labels = [label2id[tags[word]] if word >= 0 else IGNORED for word in owned]
                for i, word in enumerate(encoding.word_ids(window)):
                    inner = word is not None and labels[i] == IGNORED and word in owned
                    if inner and prefix and not pieces[i].startswith(prefix):
                        labels[i] = label2id[re.sub("^B-", "I-", tags[word])]
                features["labels"].append(labels)
    return features


def sentences_of_documents(documents: Sequence[str], document_size: int | None = None) -> list[range]:
    """Which neighbouring sentences are read together.

    Args:
        documents: of each sentence the name of its document, "" where none is marked.
        document_size: sentences in a document where none is marked; None: one.

    >>> sentences_of_documents(["a", "a", "b", "", ""]), sentences_of_documents(["", "", ""], 2)
    ([range(0, 2), range(2, 3), range(3, 4), range(4, 5)], [range(0, 2), range(2, 3)])
    """
    keys = [document or i // (document_size or 1) for i, document in enumerate(documents)]
    starts = [i for i, key in enumerate(keys) if i == 0 or key != keys[i - 1]]
    return list(map(range, starts, [*starts[1:], len(keys)]))


def resolve_context(args: Any, trained: dict[str, Any], datasets: Any) -> dict[str, Any]:
    """`context` and `document_size`: by flag, else as the model was `trained`, else sentences alone.

    Raises:
        InputError: another word than sentence or document, or no document is marked.
    """
    context = args.context or trained.get("context", "sentence")
    size = trained.get("document_size") if args.document_size is None else args.document_size
    if context not in ("sentence", "document"):
        raise InputError(f"--context {context}: must be sentence or document")
    check_at_least_one(args, "document_size")
    if context == "document" and size is None and not any(any(of["document"][:]) for of in datasets.values()):
        raise InputError(
            "--context document: the files mark no documents, with lines -DOCSTART- or a column document; "
            "--document_size 10 takes so many sentences for one, --context sentence reads each alone"
        )
    return {"context": context, "document_size": size}


def own_words(windows: Sequence[Sequence[int | None]], stride: int) -> list[list[int]]:
    """For each window over one sentence the word read at each position, else -1; each word in one window only.

    Args:
        windows: the word of each piece, None for special tokens, as a fast tokenizer's `word_ids` gives it.
        stride: pieces that two neighbouring windows share.

    >>> own_words([[None, 0, 0, 1, 2, None], [None, 1, 2, 3, 3, None]], stride=2)
    [[-1, 0, -1, 1, -1, -1], [-1, -1, 2, 3, -1, -1]]
    """
    owned = [[-1] * len(words) for words in windows]
    best: dict[int, tuple[float, int, int]] = {}  # word -> (context, window, position in it)
    first: dict[int, int] = {}  # word -> place of its first piece in the sentence
    start = 0
    for k, words in enumerate(windows):
        positions = [i for i, word in enumerate(words) if word is not None]
        for place, i in enumerate(positions, start):
            word = words[i]
            # A window may begin inside a word: what it shows first is then not the word's first piece.
            if place == first.setdefault(word, place):
                # The sentence's own ends are no missing context.
                left = place - start if k else float("inf")
                right = start + len(positions) - 1 - place if k < len(windows) - 1 else float("inf")
                context = min(left, right)
                if word not in best or context > best[word][0]:
                    best[word] = (context, k, i)
        start += len(positions) - stride
    for word, (_, k, i) in best.items():
        owned[k][i] = word
    return owned


def tags_of_sentences(
    label_ids: Iterable[Sequence[int]],
    word_ids: Iterable[Sequence[int]],
    row_of_window: Sequence[int],
    words_per_sentence: Sequence[int],
    label_list: Sequence[str],
) -> list[list[str]]:
    """Put the predicted labels of windows back together: exactly one tag per word, O for a word without a piece.

    >>> tags_of_sentences([[0, 1, 2, 0]], [[-1, 0, 2, -1]], [0], [3, 1], ["O", "B-PER", "I-PER"])
    [['B-PER', 'O', 'I-PER'], ['O']]
    """
    ids = values_of_words(label_ids, word_ids, row_of_window, words_per_sentence, default=None)
    return [["O" if i is None else label_list[i] for i in of] for of in ids]


def values_of_words(
    values: Iterable[Sequence],
    word_ids: Iterable[Sequence[int]],
    row_of_window: Sequence[int],
    words_per_sentence: Sequence[int],
    default: Any = 1.0,
) -> list[list]:
    """Put values of windows back together, such as the probability of a word's tag: exactly one for each word.

    Args:
        values: windows x positions (padding on the right is ignored).
        word_ids, row_of_window: `word_ids` and `row` of `tokenize_and_align_labels`.
        words_per_sentence: the number of words of each sentence, in the order of their row numbers.
        default: for a word without a piece.

    >>> values_of_words([[0.1, 0.9, 0.8, 0.7]], [[-1, 0, 2, 3]], [0], [3, 1])
    [[0.9, 1.0, 0.8], [0.7]]
    """
    starts = np.cumsum([0, *words_per_sentence]).tolist()
    of_word = [default] * starts[-1]
    for of_window, words, sentence in zip(values, word_ids, row_of_window, strict=True):
        words = np.asarray(words)
        places = np.flatnonzero(words >= 0)
        for word, value in zip(words[places], np.asarray(of_window)[places].tolist(), strict=True):
            of_word[starts[sentence] + word] = value
    return [of_word[start:end] for start, end in pairwise(starts)]


def legal_tags(
    log_probabilities: Iterable[Sequence],
    word_ids: Iterable[Sequence[int]],
    row_of_window: Sequence[int],
    words_per_sentence: Sequence[int],
    label_list: Sequence[str],
) -> tuple[list[list[str]], list[list[float]]]:
    """The likeliest tags of each sentence in which every I- continues an entity of its type (Viterbi 1967), and the
    probability of each tag among all such sequences (forward-backward, Rabiner 1989).

    Args:
        log_probabilities: of the labels, windows x positions x labels; the rest as in `values_of_words`.

    >>> windows = np.log([[[0.6, 0.3, 0.1], [0.1, 0.2, 0.7]]])
    >>> legal_tags(windows, [[0, 1]], [0], [2], ["O", "B-PER", "I-PER"])
    ([['B-PER', 'I-PER']], [[0.625, 0.4375]])
    """
    outside = [0.0 if label == "O" else -1e9 for label in label_list]
    is_begin = np.array([not label.startswith("I-") for label in label_list])
    types = np.array([metrics.split_tag(label)[1] for label in label_list])
    penalty = np.where(is_begin | ((types[:, None] == types) & (types != "")), 0.0, -1e9)  # from a label to the next
    tags, probabilities = [], []
    for scores in values_of_words(log_probabilities, word_ids, row_of_window, words_per_sentence, outside):
        scores = np.array(scores)
        best, came_from = scores[0] + np.where(is_begin, 0.0, -1e9), []
        for score in scores[1:]:
            through = best[:, None] + penalty
            came_from.append(through.argmax(axis=0))
            best = through.max(axis=0) + score
        path = [int(best.argmax())]
        for previous in reversed(came_from):
            path.append(int(previous[path[-1]]))
        path.reverse()
        tags.append([label_list[i] for i in path])
        before, after = [scores[0] + np.where(is_begin, 0.0, -1e9)], [np.zeros(len(types))]
        for score in scores[1:]:
            before.append(np.logaddexp.reduce(before[-1][:, None] + penalty, axis=0) + score)
        for score in scores[:0:-1]:
            after.append(np.logaddexp.reduce(penalty + score + after[-1], axis=1))
        shares = softmax(np.array(before) + after[::-1], axis=1)
        probabilities.append(shares[np.arange(len(path)), path].round(6).tolist())
    return tags, probabilities


# What is printed


def entity_table(scores: dict) -> str:
    """Scores of `metrics.entity_scores` as a table, a row per type and one for all."""
    rows = {**scores["types"], "all": scores}
    columns = ("precision", "recall", "f1", "support")
    return metrics.table(["type", *columns], [[name, *(row[c] for c in columns)] for name, row in rows.items()])


def show_entities(split: str, dataset: Any, facts: dict[str, Any], predicted: list[list[str]]) -> None:
    """Scores per type, the kinds of error, and what a dictionary of the training names alone would score.

    Args:
        facts: of the split, as `describe` gives them.
    """
    gold = dataset["ner_tags"][:]
    if gold[0] is None:
        return
    scores = metrics.entity_scores(gold, predicted)
    log.info("\n%s (%d sentences)\n%s", split, len(gold), entity_table(scores))
    log.info(
        "Errors: %s.", ", ".join(f"{count} {kind}" for kind, count in metrics.entity_errors(gold, predicted).items())
    )
    metrics.show_trivial(facts.get("trivial"), ["f1"])


def describe(datasets: Any, features: Any) -> dict[str, dict[str, Any]]:
    """Print what the run is about to read: sizes, entities per type, lengths, windows, words without pieces,
    repetitions.

    Returns:
        Of each split `data.window_facts`, `in_train` being sentences that also occur in train; `classes`, the entities
        of each type; `trivial`, what looking up the names of train scores (`entity_lookup`).
    """
    facts = {}
    for split, (_, in_train) in data.repetitions(datasets, "tokens").items():
        dataset, windows = datasets[split], features[split]
        number_of_words = sum(map(len, data.column(dataset, "tokens")))
        types = Counter(e[0] for tags in data.column(dataset, "ner_tags") if tags for e in metrics.entities(tags))
        trivial = None
        if types and split != "train" and "train" in datasets:
            names = data.columns(datasets["train"], "tokens", "ner_tags")
            looked_up = metrics.entity_lookup(*zip(*names, strict=True), data.column(dataset, "tokens"))
            scores = {"f1": metrics.entity_scores(dataset["ner_tags"][:], looked_up)["f1"]}
            trivial = {"answer": "Looking up the names of train", "scores": scores}
        facts[split] = data.window_facts(dataset, windows, in_train) | dict(
            words=number_of_words,
            no_piece=number_of_words - sum(word >= 0 for ids in data.column(windows, "word_ids") for word in ids),
            classes=dict(types),
            trivial=trivial,
        )
    meaning = (
        "pieces: word pieces read together, mean; longest: 99 % are not longer. windowed: read in several windows;\n"
        "with --context document a window holds several sentences.\n"
        "in train: sentences that also occur in train. no piece: words that the tokenizer drops, tagged O."
    )
    return metrics.show_facts(facts, meaning, tolerated=0.1)
