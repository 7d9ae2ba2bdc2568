"""Words, texts, or questions with their contexts -> model inputs: alignment, and windows over any length."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.errors import InputError
from common.hub import hub_errors

IGNORED = -100  # the label that PyTorch's cross entropy leaves out


def load_tokenizer(name: str, is_split_into_words: bool = False) -> Any:
    """The fast tokenizer of a model, Hub name or local folder.

    Args:
        is_split_into_words: it will be given lists of words; byte-level tokenizers (RoBERTa, ModernBERT) then need
            `add_prefix_space`, without which a word inside a sentence gets the pieces of one at its start.

    Raises:
        InputError: no such model, no tokenizer beside it, or none of the fast kind, which alone knows offsets.
    """
    from tokenizers import pre_tokenizers
    from transformers import AutoTokenizer

    vocabularies = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model")
    if os.path.isdir(name) and not any(any(Path(name).glob(pattern)) for pattern in vocabularies):
        # transformers would build a tokenizer with an empty vocabulary from the config, and read every word as unknown.
        raise InputError(f"{name}: holds no tokenizer (tokenizer.json); copy it from the model that this one came from")
    with hub_errors("tokenizer", name):
        tokenizer = AutoTokenizer.from_pretrained(name, **({"add_prefix_space": True} if is_split_into_words else {}))
    if not getattr(tokenizer, "is_fast", False):
        raise InputError(
            f"{name}: its tokenizer ({type(tokenizer).__name__}) is not a fast one, and only those map pieces back to "
            "words; choose a model that has tokenizer.json"
        )
    if is_split_into_words:
        # A tokenizer without a class of its own (ModernBERT's) passes the flag over; it is saved with the backend.
        steps = tokenizer.backend_tokenizer.pre_tokenizer
        for step in steps if isinstance(steps, pre_tokenizers.Sequence) else [steps]:
            if isinstance(step, pre_tokenizers.ByteLevel):
                step.add_prefix_space = True
    tokenizer.padding_side = "right"  # what reads predictions counts positions from the left
    return tokenizer


def resolve_lengths(
    tokenizer: Any, config: Any, max_seq_length: int | None, doc_stride: int | None, default: int = 512, parts: int = 4
) -> tuple[int, int]:
    """The window length and the overlap of windows, both in word pieces and within what the model can read.

    Args:
        config: the model's; `windows` in it is what a recipe trained with, goes before the defaults and is set here.
        max_seq_length: special tokens included; None takes `default`, or the model's own limit where that is less.
        doc_stride: pieces that two windows share; None takes one of so many `parts` of the window.

    Raises:
        InputError: a length beyond the model's limit, or windows that could not move on.
    """
    trained = getattr(config, "windows", None) or {}
    # Models without position embeddings say nothing; tokenizers without a limit say 1e30.
    positions = getattr(config, "max_position_embeddings", None) or 10**9
    # RoBERTa's positions start after the padding index: 514 embeddings read 512 pieces.
    if config.model_type in ("roberta", "xlm-roberta", "camembert", "mpnet", "longformer"):
        positions -= 2
    limit = int(min(tokenizer.model_max_length, positions))
    length = trained.get("max_seq_length", min(default, limit)) if max_seq_length is None else max_seq_length
    if doc_stride is not None:
        stride = doc_stride
    else:
        stride = trained.get("doc_stride", length // parts) if max_seq_length is None else length // parts
    room = length - tokenizer.num_special_tokens_to_add()
    if length > limit:
        raise InputError(f"--max_seq_length {length}: the model reads at most {limit} word pieces")
    if room < 1:
        raise InputError(f"--max_seq_length {length}: leaves no room for a word beside the special tokens")
    if not 0 <= stride < room:
        raise InputError(f"--doc_stride {stride}: must lie between 0 and {room - 1} with --max_seq_length {length}")
    # Saved with the model, so that whoever predicts with it cuts windows as the evaluation did.
    config.windows = {"max_seq_length": length, "doc_stride": stride}
    return length, stride


def tokenize_and_align_labels(
    batch: dict[str, list],
    indices: Sequence[int],
    tokenizer: Any,
    max_length: int,
    stride: int,
    label2id: dict[str, int] | None = None,
) -> dict[str, list]:
    """Windows of word pieces over sentences, in which every word has exactly one place (for `Dataset.map`, batched).

    A sentence longer than `max_length` becomes several windows that overlap by `stride` pieces. A word is read at its
    first piece, in the window that shows most context around it, and there alone: so loss and score count it once, and
    none is lost to truncation. Windows that own no word are left out. A word without a piece (control characters)
    has no place and gets O in `common.postprocessing`.

    BERT's tokenizer splits a word at punctuation ("Delacruz-Webb"), and `pipeline()` takes each part for a word of its
    own. The inner parts are trained too, as inside the entity, so that it does not invent entities there; they are
    not scored.

    Args:
        batch: `tokens`, list of words per sentence; `ner_tags`, list of tags per sentence, when `label2id` is given.
        indices: the row numbers of the sentences.
        max_length: pieces in a window, special tokens included.

    Returns:
        One row per window: the tokenizer's own inputs; `word_ids`, at each position the word that is read there, else
        -1; `labels`, the label id there and at inner parts of the word, else -100; `sentence`, the row number;
        `length`, the number of pieces.
    """
    encoding = tokenizer(
        batch["tokens"],
        is_split_into_words=True,
        truncation=True,
        max_length=max_length,
        stride=stride,
        return_overflowing_tokens=True,
    )
    sample_of_window = encoding.pop("overflow_to_sample_mapping")
    features: dict[str, list] = {key: [] for key in (*encoding.keys(), "word_ids", "sentence", "length")}
    if label2id is not None:
        features["labels"] = []
    windows_of: dict[int, list[int]] = {}
    for window, sample in enumerate(sample_of_window):
        windows_of.setdefault(sample, []).append(window)

    prefix = getattr(tokenizer.backend_tokenizer.model, "continuing_subword_prefix", None)
    for sample, windows in windows_of.items():
        for window, owned in zip(windows, own_words([encoding.word_ids(w) for w in windows], stride), strict=True):
            if all(word < 0 for word in owned):
                continue
            for key in encoding:
                features[key].append(encoding[key][window])
            features["word_ids"].append(owned)
            features["sentence"].append(indices[sample])
            features["length"].append(len(owned))
            if label2id is not None:
                tags, pieces = batch["ner_tags"][sample], encoding.tokens(window)
                labels = [label2id[tags[word]] if word >= 0 else IGNORED for word in owned]
                for i, word in enumerate(encoding.word_ids(window)):
                    inner = word is not None and labels[i] == IGNORED and word in owned
                    if inner and prefix and not pieces[i].startswith(prefix):
                        labels[i] = label2id[re.sub("^B-", "I-", tags[word])]
                features["labels"].append(labels)
    return features


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


def tokenize_texts(
    batch: dict[str, list],
    indices: Sequence[int],
    tokenizer: Any,
    max_length: int,
    stride: int = 0,
    label2id: dict[str, int] | None = None,
    scores: bool = False,
) -> dict[str, list]:
    """One model input per row of one or two texts, cut at `max_length` (for `Dataset.map`, batched); or with `stride`
    windows over the whole of one text.

    Args:
        batch: `text`; `text_pair`, a second text or None; `label` as text.
        indices: the row numbers.
        max_length: pieces, special tokens included; of two texts the longer one gives way.
        stride: pieces that two neighbouring windows of a text share; 0 cuts the text instead.
        label2id: ids of the labels, when rows have them.
        scores: labels are numbers to be learnt.

    Returns:
        The tokenizer's own inputs; `labels`, an id or a number; `row`, the row number; `length`, the number of pieces
        kept; `whole_length`, the number there were (in the window).
    """
    pairs = batch["text_pair"] if batch["text_pair"][0] is not None else None
    windows = dict(truncation=True, max_length=max_length, stride=stride, return_overflowing_tokens=True)
    encoding = tokenizer(batch["text"], pairs, **(windows if stride else {}))
    samples = encoding.pop("overflow_to_sample_mapping", range(len(indices)))
    whole = [len(ids) for ids in encoding["input_ids"]]
    features = {key: list(values) for key, values in encoding.items()}
    cut = [i for i, length in enumerate(whole) if length > max_length]
    if cut:
        shorter = tokenizer(
            [batch["text"][i] for i in cut],
            None if pairs is None else [pairs[i] for i in cut],
            truncation=True,
            max_length=max_length,
        )
        for key, values in shorter.items():
            for i, value in zip(cut, values, strict=True):
                features[key][i] = value
    features["row"] = [indices[sample] for sample in samples]
    features |= {"length": [len(ids) for ids in features["input_ids"]], "whole_length": whole}
    if scores or label2id is not None:
        labels = [float(label) if scores else label2id[label] for label in batch["label"]]
        features["labels"] = [labels[sample] for sample in samples]
    return features


def tokenize_questions(
    batch: dict[str, list],
    indices: Sequence[int],
    tokenizer: Any,
    max_length: int,
    stride: int,
    labelled: bool = False,
    offsets: bool = True,
) -> dict[str, list]:
    """Windows of word pieces: the question and a part of its context, in each (for `Dataset.map`, batched).

    A context too long for one window becomes several that overlap by `stride` pieces; the question stands in each. It
    may take half of what the special tokens and the overlap leave, and is cut there.

    Args:
        batch: `question` and `context`; `answers` and `answer_starts` when `labelled`.
        indices: the row numbers of the questions.
        max_length: pieces in a window, special tokens included.
        offsets: keep what `common.postprocessing.choose_answers` reads.

    Returns:
        One row per window: the tokenizer's own inputs; `row`, the row number; `length`, the number of pieces;
        `question_cut`, whether the question was cut; with `offsets` also `starts` and `ends`, at each piece of the
        context the characters in it that it covers, elsewhere -1; with `labelled` also `labels`, the positions of the
        first and the last piece of the answer (the first gold answer that is placed), or twice the position of [CLS]
        where the window does not hold it whole (Devlin et al. 2019, section 4.3).
    """
    limit = (max_length - tokenizer.num_special_tokens_to_add(pair=True) - stride) // 2
    if limit < 1:
        raise InputError(f"--max_seq_length {max_length}: leaves no room for a question beside --doc_stride {stride}")
    questions, cut = list(batch["question"]), [False] * len(batch["question"])
    asked = tokenizer(questions, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    for i, pieces in enumerate(asked):
        if len(pieces) > limit:
            questions[i], cut[i] = questions[i][: pieces[limit - 1][1]], True
    encoding = tokenizer(
        questions,
        batch["context"],
        truncation="only_second",
        max_length=max_length,
        stride=stride,
        return_overflowing_tokens=True,
    )
    if encoding["input_ids"][0][0] != tokenizer.cls_token_id:
        raise InputError(
            f"{tokenizer.name_or_path}: its inputs do not begin with [CLS], where no answer is marked; "
            "choose an encoder of BERT's kind"
        )
    sample_of_window = encoding.pop("overflow_to_sample_mapping")
    features = {key: list(values) for key, values in encoding.items()}
    features |= {
        "row": [indices[sample] for sample in sample_of_window],
        "length": [len(ids) for ids in encoding["input_ids"]],
        "question_cut": [cut[sample] for sample in sample_of_window],
    }
    if offsets:
        features |= {"starts": [], "ends": []}
        for window, sample in zip(encoding.encodings, sample_of_window, strict=True):
            spans = context_spans(window.offsets, window.sequence_ids, batch["context"][sample])
            features["starts"].append([start for start, _ in spans])
            features["ends"].append([end for _, end in spans])
    if labelled:
        windows_of: dict[int, list[int]] = {}
        for window, sample in enumerate(sample_of_window):
            windows_of.setdefault(sample, []).append(window)
        features["labels"] = [None] * len(sample_of_window)
        for sample, windows in windows_of.items():
            gold = zip(batch["answers"][sample], batch["answer_starts"][sample], strict=True)
            first = next(((start, start + len(text)) for text, start in gold if start >= 0), None)
            spans = answer_positions([encoding.encodings[w] for w in windows], first)
            for window, span in zip(windows, spans, strict=True):
                cls = encoding["input_ids"][window].index(tokenizer.cls_token_id)
                features["labels"][window] = list(span or (cls, cls))
    return features


def context_spans(
    offsets: Sequence[tuple[int, int]], parts: Sequence[int | None], context: str
) -> list[tuple[int, int]]:
    """The characters of the context that each piece covers, without white space at its ends; (-1, -1) for others.

    Byte-level tokenizers put a blank before a word into its piece, and give a character of several bytes several
    pieces; the first of these stands for it, as it does in the labels.

    >>> context_spans([(0, 0), (0, 3), (3, 4), (4, 5), (4, 5)], [None, 1, 1, 1, 1], " in é")
    [(-1, -1), (1, 3), (-1, -1), (4, 5), (-1, -1)]
    """
    spans: list[tuple[int, int]] = []
    previous = None
    for (start, end), part in zip(offsets, parts, strict=True):
        if part == 1:
            text = context[start:end]
            start, end = start + len(text) - len(text.lstrip()), end - len(text) + len(text.rstrip())
        is_answer = part == 1 and start < end and (start, end) != previous
        spans.append((start, end) if is_answer else (-1, -1))
        previous = (start, end) if part == 1 else None
    return spans


def answer_positions(windows: Sequence[Any], span: tuple[int, int] | None) -> list[tuple[int, int] | None]:
    """For each window over one context the first and last position of an answer, None where it is not there whole.

    Args:
        windows: `tokenizers.Encoding` of question and context.
        span: the answer's characters in the context, the end exclusive; None for no answer.
    """
    if span is None:
        return [None] * len(windows)

    def positions(characters: range) -> list[int | None]:
        # A character may have no piece (white space, control characters); the next one inward then stands for it.
        for character in characters:
            found = [window.char_to_token(character, 1) for window in windows]
            if any(position is not None for position in found):
                return found
        return [None] * len(windows)

    firsts, lasts = positions(range(*span)), positions(range(span[1] - 1, span[0] - 1, -1))
    return [None if first is None or last is None else (first, last) for first, last in zip(firsts, lasts, strict=True)]
