"""Sentences with a tag per word: every way files hold them, and the schemes IOB1, BIO (IOB2) and BIOES in, BIO out.

References: Ramshaw and Marcus 1995 (IOB1), Tjong Kim Sang and Veenstra 1999 (IOB2, here BIO), Ratinov and Roth 2009
(BILOU, the same as BIOES with L for E and U for S).
"""

import functools
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from common.errors import InputError
from common.splits import column, columns, source_name

if TYPE_CHECKING:
    from common.data import Source

PREFIXES = "BIESLU"
TOKEN_COLUMNS, TAG_COLUMNS = ("tokens", "words"), ("ner_tags", "tags", "labels", "ner")


def is_tag(text: str) -> bool:
    """Whether a tag is O or has a prefix that a scheme knows.

    >>> is_tag("B-PER"), is_tag("O"), is_tag("X-PER"), is_tag("NOUN")
    (True, True, False, False)
    """
    prefix, _, entity_type = text.partition("-")
    return text == "O" or (len(prefix) == 1 and prefix in PREFIXES and entity_type != "")


def split_tag(tag: str) -> tuple[str, str]:
    """Prefix and entity type of a tag; one without a prefix, as of parts of speech, is that of a word on its own.

    >>> split_tag("B-PER"), split_tag("O"), split_tag("NOUN")
    (('B', 'PER'), ('O', ''), ('S', 'NOUN'))
    """
    if not is_tag(tag):
        return "S", tag
    prefix, _, entity_type = tag.partition("-")
    return {"L": "E", "U": "S"}.get(prefix, prefix), entity_type


def detect_scheme(sentences: Iterable[Sequence[str]]) -> str:
    """The scheme that explains all sentences: "BIO", "IOB1" or "BIOES".

    BIOES where E- or S- occurs. IOB1 where an entity starts with I- and B- only ever parts an entity from one of the
    same type right before it. Else BIO, which a broken sequence then fails (`to_bio`).

    >>> detect_scheme([["B-PER", "I-PER", "O"]]), detect_scheme([["I-PER", "B-PER", "O"]])
    ('BIO', 'IOB1')
    >>> detect_scheme([["S-PER", "O"]]), detect_scheme([["B-PER", "O", "I-PER"]])
    ('BIOES', 'BIO')
    """
    starts_with_i = b_after_other = False
    for tags in sentences:
        previous = ""  # type of the entity that the word before belongs to
        for tag in tags:
            prefix, entity_type = split_tag(tag)
            if prefix in "ES":
                return "BIOES"
            starts_with_i |= prefix == "I" and entity_type != previous
            b_after_other |= prefix == "B" and entity_type != previous
            previous = entity_type
    return "IOB1" if starts_with_i and not b_after_other else "BIO"


def to_bio(tags: Sequence[str], scheme: str) -> list[str]:
    """Tags of one sentence in BIO.

    >>> to_bio(["I-PER", "I-PER", "B-PER", "O"], "IOB1")
    ['B-PER', 'I-PER', 'B-PER', 'O']
    >>> to_bio(["B-PER", "E-PER", "S-LOC"], "BIOES")
    ['B-PER', 'I-PER', 'B-LOC']

    Raises:
        ValueError: `(index, message)` where a tag continues an entity that is not there.
    """
    bio, previous = [], ("O", "")
    for i, tag in enumerate(tags):
        prefix, entity_type = split_tag(tag)
        # Under BIOES an entity that E- or S- has closed cannot be continued.
        open_type = "" if previous[0] in "ES" else previous[1]
        if prefix in "IE" and entity_type != open_type and scheme != "IOB1":
            before = f'follows "{tags[i - 1]}"' if i else "starts a sentence"
            raise ValueError(i, f'tag "{tag}" {before}, but no {entity_type} entity is open there (scheme {scheme})')
        starts = prefix in "BS" or (prefix == "I" and entity_type != open_type)
        bio.append("O" if prefix == "O" else f"{'B' if starts else 'I'}-{entity_type}")
        previous = prefix, entity_type
    return bio


def entities(tags: Sequence[str]) -> list[tuple[str, int, int]]:
    """Entities of one BIO sentence as (type, first word, last word + 1), by the rule of `conlleval` and of seqeval's
    default mode: an I- that continues nothing starts an entity.

    >>> entities(["B-PER", "I-PER", "O", "I-LOC"])
    [('PER', 0, 2), ('LOC', 3, 4)]
    """
    found: list[tuple[str, int, int]] = []
    for i, tag in enumerate(tags):
        prefix, entity_type = split_tag(tag)
        if prefix == "I" and found and found[-1][0] == entity_type and found[-1][2] == i:
            found[-1] = (entity_type, found[-1][1], i + 1)
        elif prefix != "O":
            found.append((entity_type, i, i + 1))
    return found


def bio_label_list(types: Iterable[str]) -> list[str]:
    """O, then B- and I- of each type, so that a type whose I- is rare is still complete.

    >>> bio_label_list(["PER", "LOC"])
    ['O', 'B-LOC', 'I-LOC', 'B-PER', 'I-PER']
    """
    return ["O", *(f"{prefix}-{entity_type}" for entity_type in sorted(set(types)) for prefix in "BI")]


CLITIC = r"['’](?:s|re|ve|ll|d|m)\b"
IDEOGRAPHS = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"


@functools.cache
def word_pattern() -> re.Pattern:
    """A word: letters and digits with inner dots, dashes and apostrophes ("U.S.", "follow-up", "12,400", "O'Brien";
    "n't" stays with its verb), a clitic ("'s", "'ll"), or one mark on its own. CoNLL's way, as far as a rule can.

    Of Chinese and Japanese each character is a word, for nothing stands between words. Accents and vowel signs belong
    to the letter before them, as do the joiners within words of Persian; for Python's `\\w` they are no letters.
    """
    signs = "".join(c for c in map(chr, range(0x300, 0x20000)) if unicodedata.category(c).startswith("M"))
    letter = rf"(?:[^\W{IDEOGRAPHS}]|[{signs}\u200c\u200d])"
    inner = rf"(?:(?!{CLITIC})[.,:/'’-]?{letter}+|&{letter}+)*"
    return re.compile(rf"(?:[^\W\d_]\.){{2,}}|{CLITIC}|[{IDEOGRAPHS}]|{letter}+{inner}|\S", re.IGNORECASE)


def split_words(text: str) -> list[tuple[int, int]]:
    """Character spans (start, end) of the words of raw text.

    >>> text = "Dr. O'Brien's U.S. follow-up didn't cost 12,400."
    >>> [text[start:end] for start, end in split_words(text)]
    ['Dr', '.', "O'Brien", "'s", 'U.S.', 'follow-up', "didn't", 'cost', '12,400', '.']
    """
    return [match.span() for match in word_pattern().finditer(text)]


def spans_to_tags(words: Sequence[tuple[int, int]], spans: Sequence[tuple[int, int, str]]) -> tuple[list[str], list]:
    """BIO tags of the words under character spans (start, end, label); a word that a span cuts belongs to it whole.

    Returns the tags and the spans that cut a word.

    >>> spans_to_tags([(0, 3), (4, 9), (9, 10)], [(4, 9, "PER")])
    (['O', 'B-PER', 'O'], [])

    Raises:
        ValueError: two spans claim one word, or a span holds no word.
    """
    tags, cut = ["O"] * len(words), []
    for start, end, label in sorted(spans):
        inside = [i for i, (word_start, word_end) in enumerate(words) if word_start < end and word_end > start]
        if not inside:
            raise ValueError(f"entity {start}-{end} ({label}) holds no word")
        if any(tags[i] != "O" for i in inside):
            raise ValueError(f"entity {start}-{end} ({label}) overlaps the one before it; keep one of the two")
        if (words[inside[0]][0], words[inside[-1]][1]) != (start, end):
            cut.append((start, end, label))
        for i in inside:
            tags[i] = f"{'B' if i == inside[0] else 'I'}-{label}"
    return tags, cut


def entity_spans(tags: Sequence[str], words: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int, str]]:
    """Character spans (start, end, label) of the entities of a tagged sentence.

    >>> list(entity_spans(["O", "B-PER", "I-PER"], [(0, 2), (3, 8), (9, 12)]))
    [(3, 12, 'PER')]
    """
    for entity_type, first, last in entities(tags):
        yield words[first][0], words[last - 1][1], entity_type


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

    Raises:
        InputError: words and tags of unequal length, no tags, an unknown prefix, a broken sequence, overlapping spans.
    """
    parsed = functools.partial(tagged_row, source.name, tokens_column, tags_column, label_list)
    scheme = scheme or detect_scheme_of(source.name, (parsed(place, row) for place, row in source.rows()))
    for place, row in source.rows():
        example = parsed(place, row)
        example["ner_tags"] = row_to_bio(source.name, example, scheme)
        example.pop("lines", None)
        if scheme not in ("BIO", "plain"):
            example["note"] = example["note"] or f"{scheme} tags converted to BIO"
        yield example


def bio_tags(name: str, rows: list[dict], scheme: str | None = None) -> list[list[str]]:
    """The tags of rows that `tagged_row` gave, in BIO, whatever their scheme; see `tagged_sentences`."""
    scheme = scheme or detect_scheme_of(name, iter(rows))
    return [row_to_bio(name, row, scheme) for row in rows]


def row_to_bio(name: str, row: dict, scheme: str) -> list[str] | None:
    """`to_bio` with the place of a broken sequence in the message; plain tags stay as they are."""
    try:
        return row["ner_tags"] if row["ner_tags"] is None or scheme == "plain" else to_bio(row["ner_tags"], scheme)
    except ValueError as error:
        i, message = error.args
        raise InputError(f"{name}, {token_place(row['place'], row.get('lines'), i)}: {message}") from None


def token_place(place: str, lines: list[int] | None, i: int) -> str:
    return f"line {lines[i]}" if lines else f"{place}, word {i + 1}"


def detect_scheme_of(name: str, examples: Iterator[dict]) -> str:
    """`detect_scheme` over a file, with the place of a tag that belongs to no scheme."""

    def checked() -> Iterator[list[str]]:
        for example in examples:
            for i, tag in enumerate(example["ner_tags"] or []):
                if not is_tag(tag):
                    raise InputError(
                        f"{name}, {token_place(example['place'], example.get('lines'), i)}: "
                        f'tag "{tag}" has an unknown prefix; known are O and B-, I-, E-, S-, L-, U- before a type'
                    )
            yield example["ner_tags"] or []

    return detect_scheme(checked())


def tagged_row(
    name: str, tokens_column: str | None, tags_column: str | None, label_list: list[str] | None, place: str, row: dict
) -> dict:
    """One row in the form of `tagged_sentences`, its tags still in the scheme of the file."""
    tokens_name = tokens_column or next((c for c in TOKEN_COLUMNS if c in row), None)
    example = {"document": row.get("document", -1), "place": place, "note": ""}
    if not isinstance(example["document"], int):
        example["document"] = -1
    if tokens_column is None and "text" in row and ("entities" in row or tokens_name is None):
        return example | tagged_text(name, place, row)
    if tokens_name is None or tokens_name not in row:
        raise InputError(
            f"{name}, {place}: no column of words among {list(row)}; name it with --tokens_column, or let the name "
            "end in .conll where a line is a word and its tag"
        )
    tokens = row[tokens_name]
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        raise InputError(f'{name}, {place}: "{tokens_name}" is no list of words')
    if not tokens:
        raise InputError(f'{name}, {place}: "{tokens_name}" is empty; delete the row')
    tags_name = tags_column or next((c for c in TAG_COLUMNS if c in row), None)
    tags = row.get(tags_name)
    if tags is not None:
        if not isinstance(tags, list) or len(tags) != len(tokens):
            count = f"{len(tags)} tags" if isinstance(tags, list) else f"a {type(tags).__name__}"
            raise InputError(f'{name}, {place}: {len(tokens)} words but {count} in "{tags_name}"')
        tags = [tag_name(f"{name}, {place}", tag, label_list) for tag in tags]
    return example | {"tokens": tokens, "ner_tags": tags} | ({"lines": row["lines"]} if "lines" in row else {})


def tag_name(where: str, tag: Any, label_list: list[str] | None) -> str:
    if isinstance(tag, str):
        return tag
    if isinstance(tag, bool) or not isinstance(tag, int):
        raise InputError(f"{where}: a tag is {json.dumps(tag, default=str)}, which is neither text nor an integer")
    if label_list is None:
        raise InputError(
            f"{where}: tags are integers and the file does not say what they stand for; "
            "name them in order, for instance --label_list O B-PER I-PER B-LOC I-LOC"
        )
    if not 0 <= tag < len(label_list):
        raise InputError(f"{where}: tag {tag} is not among the {len(label_list)} names of --label_list")
    return label_list[tag]


def tagged_text(name: str, place: str, row: dict) -> dict:
    """Words and tags of raw `text` with `entities` as character spans."""
    text, spans = row["text"], row.get("entities")
    if not isinstance(text, str) or not text.strip():
        raise InputError(f'{name}, {place}: "text" is empty or no text; delete the row')
    words = split_words(text)
    tokens = [text[start:end] for start, end in words]
    if spans is None:
        return {"tokens": tokens, "ner_tags": None}
    try:
        checked = [(span["start"], span["end"], span["label"]) for span in spans]
        for start, end, label in checked:
            if not (isinstance(start, int) and isinstance(end, int) and isinstance(label, str) and label):
                raise TypeError
            if not 0 <= start < end <= len(text):
                raise ValueError(f"entity {start}-{end} ({label}) lies outside the text of {len(text)} characters")
        tags, cut = spans_to_tags(words, checked)
    except (TypeError, KeyError):
        raise InputError(f'{name}, {place}: "entities" is no list of {{"start", "end", "label"}}') from None
    except ValueError as error:
        raise InputError(f"{name}, {place}: {error}") from None
    note = "an entity cuts a word; the whole word is taken" if cut else ""
    return {"tokens": tokens, "ner_tags": tags, "note": note}


# Splits of tagged sentences


def has_tags(dataset: Any) -> bool:
    """Whether every sentence has tags; `entity_types` has seen to it that all have them or none."""
    return dataset[0]["ner_tags"] is not None


def entity_types(datasets: Any) -> set[str]:
    """The entity types of the training split or, without one, of all splits.

    Raises:
        InputError: training or validation sentences without tags, some tagged and some not, a training split without
            any entity, or a type that training has not seen.
    """
    found: dict[str, dict[str, str]] = {}
    for split, dataset in datasets.items():
        found[split] = {}
        untagged = tagged = None
        for place, tags in columns(dataset, "place", "ner_tags"):
            if tags is None:
                untagged = untagged or place
                continue
            tagged = place
            for tag in tags:
                if tag != "O":
                    found[split].setdefault(split_tag(tag)[1], place)
        if untagged and (tagged or split != "test"):
            name, known = source_name(dataset, split), " or ".join(TAG_COLUMNS)
            raise InputError(
                f"{name}, {untagged}: no tags; add a column {known}, name it with --tags_column, or give entities "
                "beside the text"
            )
    if "train" not in found:
        return {entity_type for types in found.values() for entity_type in types}
    if not found["train"]:
        name = source_name(datasets["train"], "train")
        raise InputError(f"{name}: every tag is O, so there is nothing to learn; check the column of tags")
    for split, types in found.items():
        for entity_type, place in types.items():
            if entity_type not in found["train"]:
                known = ", ".join(sorted(found["train"]))
                name = source_name(datasets[split], split)
                raise InputError(
                    f'{name}, {place}: entity type "{entity_type}" does not occur in train ({known}); '
                    "add examples of it there, or rename it"
                )
    return set(found["train"])


def sentence_groups(dataset: Any) -> dict[str, list]:
    """For `common.data.hold_out`: the document of each sentence, or the sentence itself where none are marked; the
    sentence's text; and its entity types."""
    texts = [" ".join(tokens) for tokens in column(dataset, "tokens")]
    documents = dataset["document"][:]
    kinds = [{split_tag(tag)[1] for tag in tags or []} - {""} for tags in column(dataset, "ner_tags")]
    return {"groups": documents if len(set(documents)) > 1 else texts, "texts": texts, "kinds": kinds}


def tagged_rows(dataset: Any, predicted: list[list[str]]) -> list[dict[str, Any]]:
    """For the prediction files: words, gold tags (None where unknown) and predicted tags of each sentence."""
    rows = zip(columns(dataset, "tokens", "ner_tags"), predicted, strict=True)
    return [dict(tokens=words, ner_tags=gold, predicted=found) for (words, gold), found in rows]


def conll_block(row: dict[str, Any]) -> str:
    """A sentence in the column form that `conlleval` reads: word, tag (where known), predicted tag.

    >>> print(conll_block({"tokens": ["Ada"], "ner_tags": ["B-PER"], "predicted": ["O"]}), end="")
    Ada B-PER O
    """
    columns = [row["tokens"], *([row["ner_tags"]] if row["ner_tags"] else []), row["predicted"]]
    blank = "\t" if any(" " in word for word in row["tokens"]) else " "
    return "".join(blank.join(fields) + "\n" for fields in zip(*columns, strict=True))
