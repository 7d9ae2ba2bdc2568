"""Questions about contexts: rows, windows, the choice of spans, and what is printed about them."""

import ast
import contextlib
import json
import logging
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.special import softmax
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from common import data, metrics
from common.data import Row, Source
from common.errors import InputError

if TYPE_CHECKING:
    from datasets import Dataset

log = logging.getLogger("recipes")
RESPELT = "an answer is in another Unicode form (NFC, NFD) than its context; it takes the context's"
REPAIRED = "an answer is not at its answer_start; the occurrence nearby, or the only one, is taken"
MISPLACED = "an answer is not at its answer_start, or without one not just once in its context, and cannot be placed"


def question_rows(source: "Source") -> Iterator["Row"]:
    """Flat rows of a source: those of the nested SQuAD JSON by article and paragraph, or of a list of its paragraphs;
    others as they are."""
    for place, row in source.rows():
        if "paragraphs" not in row and "qas" not in row:
            yield place, row
            continue
        place = place.replace("row", "article")
        paragraphs = row.get("paragraphs", [row])
        for i, paragraph in enumerate(objects(f"{source.name}, {place}", "paragraphs", paragraphs), 1):
            where = f"{place}, paragraph {i}"
            for j, question in enumerate(objects(f"{source.name}, {where}", "qas", paragraph.get("qas")), 1):
                flat = {"title": row.get("title", ""), "context": paragraph.get("context"), **question}
                yield f"{where}, question {j}", flat


def objects(where: str, name: str, value: Any) -> list[dict[str, Any]]:
    """`value` if it is a list of objects, as `name` must be in SQuAD's nested form."""
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise InputError(f'{where}: "{name}" is not a list of objects, as in the JSON of SQuAD')
    return value


def questions_and_answers(source: "Source") -> Iterator[dict]:
    """Rows -> {"id", "title", "question", "context", "answers", "answer_starts", "place", "note"}.

    `answers` are the gold texts: none for an unanswerable question, None where the source has no answers at all.
    `answer_starts` are the characters at which they begin, -1 for one that cannot be placed: an answer that does not
    stand at its start is looked for, and taken where it occurs just once. An answer that the context holds in another
    Unicode form is written as there.

    Read are the nested SQuAD JSON; flat rows whose `answers` are {"text": [...], "answer_start": [...]}, also as the
    text of a cell, or one {"text", "answer_start"}, or a list of them; and rows with `answer_text` and `answer_start`,
    an empty text being no answer.

    Raises:
        InputError: a question or context that is no text, or answers of another form.
    """
    for number, (place, row) in enumerate(question_rows(source), 1):
        where = f"{source.name}, {place}"
        question, context = (data.text_of(where, row, name) for name in ("question", "context"))
        note = "" if context.strip() else "empty context"
        answers = read_answers(where, row)
        placed = []
        for i, (text, start) in enumerate(answers or ()):
            forms = (text, unicodedata.normalize("NFC", text), unicodedata.normalize("NFD", text))
            spelt = next((form for form in forms if form in context), text)
            place_found = place_answer(spelt, start, context)
            answers[i] = spelt, start
            placed.append(place_found)
            if place_found < 0:
                note = MISPLACED
            elif spelt != text:
                note = note or RESPELT
            elif start not in (-1, place_found):
                note = note or REPAIRED
        yield {
            "id": str(number if row.get("id") in (None, "") else row["id"]),
            "title": str(row.get("title") or ""),
            "question": question.strip(),
            "context": context,
            "answers": None if answers is None else [text for text, _ in answers],
            "answer_starts": None if answers is None else placed,
            "place": place,
            "note": note,
        }


def read_answers(where: str, row: dict[str, Any]) -> list[tuple[str, int]] | None:
    """(text, start) of each gold answer without white space around it; start -1 where the row gives none.

    >>> read_answers("a.csv, line 2", {"answer_text": " Lyon", "answer_start": "4"})
    [('Lyon', 5)]
    >>> read_answers("a.json, row 1", {"answers": {"text": [], "answer_start": []}}), read_answers("", {})
    ([], None)
    """
    if is_true(where, row.get("is_impossible")):
        return []
    answers = row.get("answers")
    if answers is None and row.get("answer_text") is not None:
        text = row["answer_text"]
        answers = [] if text == "" else [{"text": text, "answer_start": row.get("answer_start")}]
    if answers is None:
        return None
    if isinstance(answers, str) and answers.startswith(("{", "[")):  # a cell, as pandas writes lists and arrays
        with contextlib.suppress(ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            answers = ast.literal_eval(re.sub(r"array\((\[.*?\])(, dtype=\w+)?\)", r"\1", answers, flags=re.DOTALL))
    if isinstance(answers, dict) and not isinstance(answers.get("text"), str):
        texts, starts = answers.get("text"), answers.get("answer_start")
        if not isinstance(texts, list) or not isinstance(starts or [], list) or len(starts or texts) != len(texts):
            raise InputError(f'{where}: "answers" needs lists "text" and "answer_start" of one length')
        answers = [{"text": t, "answer_start": s} for t, s in zip(texts, starts or [None] * len(texts), strict=True)]
    placed = []
    for answer in answers if isinstance(answers, list) else [answers]:
        fields = answer if isinstance(answer, dict) else {"text": answer}
        text, start = fields.get("text"), fields.get("answer_start")
        if start in (None, "", -1, "-1"):
            start = -1
            if text == "":  # as some write that there is no answer
                continue
        elif not re.fullmatch(r"\d+(\.0)?", str(start)):
            raise InputError(f'{where}: answer_start "{start}" is not a whole number from 0')
        start = int(float(start))
        if not isinstance(text, str) or not text.strip():
            raise InputError(f'{where}: an answer without text; without any answer "answers" is an empty list')
        placed.append((text.strip(), start + len(text) - len(text.lstrip()) if start >= 0 else -1))
    return placed


def is_true(where: str, value: Any) -> bool:
    """A truth value, also as text.

    >>> is_true("a.csv, line 2", "False"), is_true("a.csv, line 2", 1), is_true("a.csv, line 2", None)
    (False, True, False)
    """
    text = str(value).strip().lower()
    if text not in ("true", "1", "false", "0", "", "none"):
        raise InputError(f'{where}: is_impossible "{value}" is neither true nor false')
    return text in ("true", "1")


def place_answer(text: str, start: int, context: str) -> int:
    """Where an answer begins in its context: at `start` if it does, else at its only occurrence or at the nearest one
    within 10 characters, else -1.

    >>> place_answer("Lyon", 3, "In Lyon."), place_answer("art", 0, "Party art."), place_answer("a", 2, "a a a")
    (3, 6, 2)
    """
    if start >= 0 and context.startswith(text, start):
        return start
    whole = [match.start() for match in re.finditer(rf"(?<!\w){re.escape(text)}(?!\w)", context)]
    places = whole or [match.start() for match in re.finditer(re.escape(text), context)]  # else within a word
    near = [place for place in places if start >= 0 and abs(place - start) <= 10] or places * (len(places) == 1)
    near.sort(key=lambda place: abs(place - start))
    is_tied = len(near) > 1 and abs(near[0] - start) == abs(near[1] - start)
    return near[0] if near and not is_tied else -1


def context_groups(dataset: "Dataset") -> dict[str, list]:
    """For `common.data.hold_out`: the questions about one context stay together."""
    contexts = dataset["context"][:]
    return {"groups": contexts, "texts": contexts, "kinds": [set() for _ in contexts]}


def checked_questions(datasets: Any, version_2: bool | None) -> tuple[Any, bool]:
    """The splits without training questions whose answers cannot be placed, and whether some have no answer.

    A test split in which no question has an answer is one whose answers are withheld; it becomes one without any.

    Args:
        version_2: what the user says; None takes what train, or without it the other splits, hold.

    Raises:
        InputError: train or validation without answers, more than 5 % of train's misplaced, rows of a split of which
            some have answers and some have no such field, repeated ids to be scored, or unanswerable questions where
            the user says that there are none.
    """
    unanswerable = {}
    data.check_all_or_none(datasets, "answers", 'no "answers" or answer_text; an unanswerable question has empty ones')
    for split, dataset in list(datasets.items()):
        answers, name = dataset["answers"][:], data.source_name(dataset, split)
        repeated = [i for i, count in Counter(data.column(dataset, "id")).items() if count > 1]
        if repeated and split != "train":
            raise InputError(f'{name}: id "{repeated[0]}" and {len(repeated) - 1} more occur twice; ids must differ')
        if any(answers):
            unanswerable[split] = sum(not gold for gold in answers)
        elif split != "test":
            raise InputError(f"{name}: no question has an answer; questions to predict alone are a --test_file")
        else:
            datasets[split] = data.without_values(dataset, "answers")
    if "train" in datasets:
        train = datasets["train"]
        keep = [i for i, starts in enumerate(data.column(train, "answer_starts")) if not starts or max(starts) >= 0]
        lost = len(train) - len(keep)
        if lost > 0.05 * len(train):
            first = train[min(set(range(len(train))) - set(keep))]["place"]
            raise InputError(
                f"{data.source_name(train, 'train')}, {first}: the answers of this question and {lost - 1} more of "
                f"{len(train)} cannot be placed in their contexts; give each its answer_start, counted in characters "
                "from 0, or leave these rows out"
            )
        if lost:
            log.warning("Warning: %d questions of train are dropped, for their answers cannot be placed.", lost)
            datasets["train"] = train.select(keep)
    counts = ", ".join(f"{count} of {split}" for split, count in unanswerable.items() if count)
    if version_2 is False and counts:
        raise InputError(f"--version_2_with_negative false: {counts} have no answer; drop the flag or these questions")
    if version_2 is None and counts:
        log.info("Questions have no answer (%s): the rules of SQuAD 2.0 apply (--version_2_with_negative).", counts)
    return datasets, bool(version_2 or counts)


def resolve_answer_limits(trained: dict[str, Any], args: Any = None) -> dict[str, int]:
    """`n_best_size` and `max_answer_length`: by flag, else as the model was `trained`, else 20 and 30."""
    limits = {name: trained.get(name, default) for name, default in (("n_best_size", 20), ("max_answer_length", 30))}
    flags = {name: getattr(args, name, None) for name in limits}
    return limits | {name: value for name, value in flags.items() if value is not None}


def answer_files(dataset: "Dataset", spans: list[dict], version_2: bool) -> dict[str, tuple[list, Callable]]:
    """What a run writes, for `common.runs.write_predictions`: file name -> (rows, how a row becomes text).

    `predictions.json` (id -> answer, "" for none) and `null_odds.json` (id -> score of no answer minus score of the
    best one; 2.0 alone) are what the official scorers read. Answers are those at the official threshold, 0, of which
    `eval_f1` speaks, in every split; another threshold is applied to the odds.

    Args:
        spans: of `choose_answers`, in the order of `dataset`.
    """
    ids = dataset["id"][:]
    answers = metrics.chosen_answers(spans, 0.0 if version_2 else None)
    n_best = [with_probabilities(row, version_2) for row in spans]
    rows = []
    for row, answer, candidates in zip(dataset, answers, n_best, strict=True):
        of = next((c for c in candidates if c["text"] == answer), {"start": None, "end": None, "probability": 0.0})
        gold = {} if row["answers"] is None else {name: row[name] for name in ("answers", "answer_starts")}
        place = {name: of[name] for name in ("start", "end", "probability")}
        rows.append({name: row[name] for name in ("id", "question", "context")} | gold | {"predicted": answer} | place)
    indented = partial(json.dumps, indent=1, ensure_ascii=False)
    files: dict[str, Any] = {
        "predictions.jsonl": (rows, partial(json.dumps, ensure_ascii=False)),
        "predictions.json": ([dict(zip(ids, answers, strict=True))], indented),
        "nbest_predictions.json": ([dict(zip(ids, n_best, strict=True))], indented),
    }
    if version_2:
        odds = {question: metrics.null_odds(row) for question, row in zip(ids, spans, strict=True)}
        files["null_odds.json"] = ([odds], indented)
    return files


def with_probabilities(question: dict, version_2: bool) -> list[dict[str, Any]]:
    """The candidates of a question, best first, with their probability among themselves; in 2.0 "" is one of them.

    >>> with_probabilities({"n_best": [{"text": "Lyon", "start": 3, "end": 7, "score": 2.0}], "null_score": 2.0}, True)
    ... # doctest: +NORMALIZE_WHITESPACE
    [{'text': 'Lyon', 'start': 3, 'end': 7, 'score': 2.0, 'probability': 0.5},
     {'text': '', 'start': None, 'end': None, 'score': 2.0, 'probability': 0.5}]
    """
    candidates = question["n_best"]
    if version_2:
        candidates = [*candidates, {"text": "", "start": None, "end": None, "score": question["null_score"]}]
        candidates.sort(key=lambda candidate: -candidate["score"])
    shares = softmax([candidate["score"] for candidate in candidates]) if candidates else ()
    return [{**c, "probability": round(float(share), 4)} for c, share in zip(candidates, shares, strict=True)]


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
        offsets: keep what `choose_answers` reads.

    Returns:
        One row per window: the tokenizer's own inputs; `row`, the row number; `length`, the number of pieces;
        `question_cut`, whether the question was cut; with `offsets` also `starts` and `ends`, at each piece of the
        context the characters in it that it covers, elsewhere -1; with `labelled` also `labels`, the positions of the
        first and the last piece of the answer (the first gold answer that is placed), or twice the position of [CLS]
        where the window does not hold it whole (Devlin et al. 2019, section 4.3), or -100 where no answer is placed.
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
        features["labels"] = []
        for sample, of_sample in groupby(range(len(sample_of_window)), key=sample_of_window.__getitem__):
            windows = list(of_sample)
            gold = zip(batch["answers"][sample], batch["answer_starts"][sample], strict=True)
            first = next(((start, start + len(text)) for text, start in gold if start >= 0), None)
            spans = answer_positions([encoding.encodings[w] for w in windows], first)
            is_unplaced = first is None and len(batch["answers"][sample]) > 0
            for window, span in zip(windows, spans, strict=True):
                cls = encoding["input_ids"][window].index(tokenizer.cls_token_id)
                features["labels"].append([-100, -100] if is_unplaced else list(span or (cls, cls)))
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
            tokens = [window.char_to_token(character, 1) for window in windows]
            if any(position is not None for position in tokens):
                return tokens
        return [None] * len(windows)

    firsts, lasts = positions(range(*span)), positions(range(span[1] - 1, span[0] - 1, -1))
    return [None if first is None or last is None else (first, last) for first, last in zip(firsts, lasts, strict=True)]


def choose_answers(
    start_logits: np.ndarray,
    end_logits: np.ndarray,
    features: Any,
    contexts: Sequence[str],
    n_best_size: int = 20,
    max_answer_length: int = 30,
) -> list[dict[str, Any]]:
    """The best spans of each question over all its windows, in the order of `contexts`.

    Every span inside the context of at most `max_answer_length` pieces is a candidate; its score is the sum of the
    logits of its start and its end (Devlin et al. 2019, section 4.2). The spans of all windows of a question compete,
    and one that several windows show counts once. The example scripts pair the 20 best starts with the 20 best ends
    only, and may then be left without any span. Computed on arrays: linear in the number of pieces.

    Args:
        start_logits, end_logits: shape (windows, positions), padded on the right.
        features: columns as `tokenize_questions` gives them: `row`, `starts`, `ends`.
        contexts: the context of each question.

    Returns:
        For each question `n_best`, a list of {"text", "start", "end", "score"} with the best first, `start` and `end`
        in characters, empty where the context has no pieces; and `null_score`, that of no answer: the sum of the
        logits at [CLS], the first piece, in the window that is surest to hold one.
    """
    question_of = np.asarray(features["row"][:])
    nothing = -float("inf")
    kept = []  # of each chunk of windows: question, first character, end, score
    null_scores = np.full(len(contexts), np.inf)
    for at in range(0, len(question_of), 256):  # a chunk's arrays stay in the processor's cache
        chunk = slice(at, at + 256)
        starts, ends = (padded(features[name][chunk]) for name in ("starts", "ends"))
        outside = torch.from_numpy(starts < 0)
        first, last = (
            torch.as_tensor(logits[chunk, : starts.shape[1]]).float().masked_fill(outside, nothing)
            for logits in (start_logits, end_logits)
        )
        last = nn.functional.pad(last, (0, max_answer_length - 1), value=nothing)
        # The best spans begin at the best starts, when each start is taken with the best end within reach.
        reach = last.unfold(1, max_answer_length, 1)
        best_starts = (first + reach.amax(-1)).topk(min(n_best_size, first.shape[1])).indices
        reached = best_starts[:, :, None] + torch.arange(max_answer_length)
        scores = first.gather(1, best_starts)[:, :, None] + last.gather(1, reached.flatten(1)).view(reached.shape)
        scores, spans = scores.flatten(1).topk(min(n_best_size, scores[0].numel()))
        window, rank = (index.numpy() for index in torch.nonzero(scores > nothing, as_tuple=True))
        spans = spans.numpy()[window, rank]
        span_starts = best_starts.numpy()[window, spans // max_answer_length]
        span_ends = span_starts + spans % max_answer_length
        columns = (question_of[chunk][window], starts[window, span_starts], ends[window, span_ends])
        kept.append((*columns, scores.numpy()[window, rank]))
        null = np.asarray(start_logits[chunk, 0], float) + np.asarray(end_logits[chunk, 0], float)
        np.minimum.at(null_scores, question_of[chunk], null)

    question, start, end, score = (np.concatenate(column) for column in zip(*kept, strict=True))
    # By question, the best first; then each span once.
    order = np.lexsort((-score, question))
    question, start, end, score = (column[order] for column in (question, start, end, score))
    longest = int(end.max(initial=0)) + 1
    _, once = np.unique((question * longest + start) * longest + end, return_index=True)
    once.sort()
    questions: list[dict[str, Any]] = [{"n_best": [], "null_score": float(null)} for null in null_scores]
    columns = (column[once].tolist() for column in (question, start, end, score))
    for q, a, b, value in zip(*columns, strict=True):
        n_best = questions[q]["n_best"]
        if len(n_best) < n_best_size:
            n_best.append({"text": contexts[q][a:b], "start": a, "end": b, "score": value})
    return questions


def padded(rows: Sequence[Sequence[float]]) -> np.ndarray:
    """Rows of unequal length as one array, filled up with -1.

    >>> padded([[0], [1, 2]]).tolist()
    [[0, -1], [1, 2]]
    """
    return pad_sequence([torch.as_tensor(row) for row in rows], batch_first=True, padding_value=-1).numpy()


def describe(datasets: Any, features: Any) -> dict[str, dict[str, Any]]:
    """Print what the run is about to read: questions, contexts, lengths, windows, what is cut or lies outside, overlap.

    Returns:
        Of each split `data.window_facts`, `in_train` being questions about contexts of train; `classes`, the questions
        with and without an answer; `trivial`, what the nearest name or number scores (`nearest_name`), or, where
        that is more and some questions have none, no answer.
    """
    facts = {}
    for split, (duplicates, in_train) in data.repetitions(datasets, "context").items():
        dataset, windows = datasets[split], features[split]
        classes: dict[str, int] = {}
        outside = trivial = None
        if data.has_gold(dataset, "answers"):
            is_answered = list(map(bool, data.column(dataset, "answers")))
            is_placed = [max(starts, default=-1) >= 0 for starts in data.column(dataset, "answer_starts")]
            classes = {"answered": sum(is_answered), "no answer": is_answered.count(False)}
            # Windows without an answer point at one position twice, and so does an answer of one piece; [CLS] comes
            # first.
            held = {row for row, labels in data.columns(windows, "row", "labels") if labels[1] > 0}
            outside = sum(placed and i not in held for i, placed in enumerate(is_placed))
            if split != "train":
                trivial = trivial_scores(dataset, version_2=not all(is_answered))
        facts[split] = data.window_facts(dataset, windows, in_train) | dict(
            contexts=len(dataset) - duplicates,
            no_answer=classes.get("no answer"),
            question_cut=len({row for row, is_cut in data.columns(windows, "row", "question_cut") if is_cut}),
            outside=outside,
            classes=classes,
            trivial=trivial,
        )
    meaning = (
        "pieces: word pieces in a window, mean; longest: 99 % are not longer. windowed: questions with several.\n"
        "in train: questions whose context occurs in train. question cut: too long for a window. outside: answers\n"
        "that no window holds whole."
    )
    return metrics.show_facts(facts, meaning, tolerated=0.02)


def trivial_scores(dataset: Any, version_2: bool) -> dict[str, Any]:
    """
    >>> from datasets import Dataset
    >>> row = {"question": "Who met Ada?", "context": "Then Ada met Kurt.", "answers": ["Kurt"]}
    >>> trivial_scores(Dataset.from_list([row]), version_2=False)
    {'answer': 'The nearest name or number', 'scores': {'exact_match': 100.0, 'f1': 100.0}}
    """
    golds = dataset["answers"][:]
    pairs = data.columns(dataset, "question", "context")
    answers = [[metrics.nearest_name(*pair) for pair in pairs], *[[""] * len(golds)] * version_2]
    scores = [metrics.score("answers", golds, texts, version_2=version_2) for texts in answers]
    best = {name: max(of[name] for of in scores) for name in scores[0]}
    return {"answer": "The nearest name or number" + ", or no answer" * version_2, "scores": best}
