"""Rows with a question, a context and the answers in it: read in every form, answers placed, splits checked."""

import json
import logging
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from common.errors import InputError, check_at_least_one
from common.metrics import chosen_answers, null_odds
from common.splits import column, source_name

if TYPE_CHECKING:
    from datasets import Dataset

    from common.data import Row, Source

log = logging.getLogger("recipes")
REPAIRED = "an answer is not at its answer_start; its only occurrence is taken"
MISPLACED = "an answer is not at its answer_start, nor is it elsewhere just once"


def question_rows(source: "Source") -> Iterator["Row"]:
    """Flat rows of a source: those of the nested SQuAD JSON by article and paragraph, others as they are."""
    for place, row in source.rows():
        if "paragraphs" not in row:
            yield place, row
            continue
        place = place.replace("row", "article")
        for i, paragraph in enumerate(objects(f"{source.name}, {place}", "paragraphs", row["paragraphs"]), 1):
            where = f"{place}, paragraph {i}"
            for j, question in enumerate(objects(f"{source.name}, {where}", "qas", paragraph.get("qas")), 1):
                flat = {"title": row.get("title", ""), "context": paragraph.get("context"), **question}
                yield f"{where}, question {j}", flat


def objects(where: str, name: str, value: Any) -> list[dict[str, Any]]:
    """`value` if it is a list of objects, as `name` must be in SQuAD's nested form."""
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise InputError(f'{where}: "{name}" is no list of objects, as in the JSON of SQuAD')
    return value


def questions_and_answers(source: "Source") -> Iterator[dict]:
    """Rows -> {"id", "title", "question", "context", "answers", "answer_starts", "place", "note"}.

    `answers` are the gold texts: none for an unanswerable question, None where the source has no answers at all.
    `answer_starts` are the characters at which they begin, -1 for one that cannot be placed: an answer that does not
    stand at its start is looked for, and taken where it occurs just once.

    Read are the nested SQuAD JSON; flat rows whose `answers` are {"text": [...], "answer_start": [...]} or a list of
    {"text", "answer_start"}; and rows with `answer_text` and `answer_start`, an empty text being no answer.

    Raises:
        InputError: a question or context that is no text, or answers of another form.
    """
    for number, (place, row) in enumerate(question_rows(source), 1):
        where = f"{source.name}, {place}"
        for name in ("question", "context"):
            if not isinstance(row.get(name), str):
                kind = type(row[name]).__name__ if name in row else "missing"
                raise InputError(f'{where}: "{name}" is no text ({kind}); every row needs a question and its context')
            if not is_unicode(row[name]):
                raise InputError(f'{where}: "{name}" holds half of a surrogate pair (a cut emoji); mend it')
        context, note = row["context"], "" if row["context"].strip() else "empty context"
        answers = read_answers(where, row)
        placed = []
        for text, start in answers or ():
            place_found = place_answer(text, start, context)
            placed.append(place_found)
            if place_found < 0:
                note = MISPLACED
            elif start not in (-1, place_found):
                note = note or REPAIRED
        yield {
            "id": str(number if row.get("id") in (None, "") else row["id"]),
            "title": str(row.get("title") or ""),
            "question": row["question"].strip(),
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
    if isinstance(answers, dict):
        texts, starts = answers.get("text"), answers.get("answer_start")
        if not isinstance(texts, list) or not isinstance(starts or [], list) or len(starts or texts) != len(texts):
            raise InputError(f'{where}: "answers" needs lists "text" and "answer_start" of one length')
        answers = [{"text": t, "answer_start": s} for t, s in zip(texts, starts or [None] * len(texts), strict=True)]
    found = []
    for answer in answers if isinstance(answers, list) else [None]:
        text = answer.get("text") if isinstance(answer, dict) else None
        start = answer.get("answer_start") if isinstance(answer, dict) else None
        if start in (None, ""):
            start = -1
        elif not re.fullmatch(r"\d+(\.0)?", str(start)):
            raise InputError(f'{where}: answer_start "{start}" is no whole number from 0')
        start = int(float(start))
        if not isinstance(text, str) or not text.strip() or not is_unicode(text):
            raise InputError(
                f'{where}: an answer without text; an unanswerable question has an empty list of "answers"'
            )
        found.append((text.strip(), start + len(text) - len(text.lstrip()) if start >= 0 else -1))
    return found


def is_true(where: str, value: Any) -> bool:
    """A truth value, also as text.

    >>> is_true("a.csv, line 2", "False"), is_true("a.csv, line 2", 1), is_true("a.csv, line 2", None)
    (False, True, False)
    """
    text = str(value).strip().lower()
    if text not in ("true", "1", "false", "0", "", "none"):
        raise InputError(f'{where}: is_impossible "{value}" is neither true nor false')
    return text in ("true", "1")


def is_unicode(text: str) -> bool:
    """Whether a text can be encoded; JSON may hold half of a surrogate pair, which cannot."""
    return not any("\ud800" <= c <= "\udfff" for c in text)


def place_answer(text: str, start: int, context: str) -> int:
    """Where an answer begins in its context: at `start` if it does, else at its only occurrence, else -1.

    >>> place_answer("Lyon", 3, "In Lyon."), place_answer("Lyon", 9, "In Lyon."), place_answer("n", 0, "In Lyon.")
    (3, 3, -1)
    """
    if start >= 0 and context.startswith(text, start):
        return start
    first = context.find(text)
    return first if first >= 0 and context.find(text, first + 1) < 0 else -1


def has_answers(dataset: "Dataset") -> bool:
    """Whether the split has gold answers; `checked_questions` has seen to it that all rows have them or none."""
    return dataset[0]["answers"] is not None


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
    for split, dataset in list(datasets.items()):
        answers, name = dataset["answers"][:], source_name(dataset, split)
        without = [place for place, gold in zip(column(dataset, "place"), answers, strict=True) if gold is None]
        if without and (split != "test" or len(without) < len(dataset)):
            raise InputError(
                f'{name}, {without[0]}: no "answers" or answer_text; an unanswerable question has empty ones'
            )
        repeated = [i for i, count in Counter(column(dataset, "id")).items() if count > 1]
        if repeated and split != "train":
            raise InputError(f'{name}: id "{repeated[0]}" and {len(repeated) - 1} more occur twice; ids must differ')
        if repeated:
            log.warning("Warning: %d ids of train occur more than once.", len(repeated))
        if any(answers):
            unanswerable[split] = sum(not gold for gold in answers)
        elif split != "test":
            raise InputError(f"{name}: no question has an answer; questions to predict alone are a --test_file")
        else:
            withheld = dataset.remove_columns("answers")
            datasets[split] = withheld.add_column("answers", [None] * len(dataset), feature=dataset.features["answers"])
    if "train" in datasets:
        train = datasets["train"]
        keep = [i for i, starts in enumerate(column(train, "answer_starts")) if not starts or max(starts) >= 0]
        lost = len(train) - len(keep)
        if lost > 0.05 * len(train):
            kept = set(keep)
            first = next(place for i, place in enumerate(column(train, "place")) if i not in kept)
            raise InputError(
                f"{source_name(train, 'train')}, {first}: the answers of this question and {lost - 1} more of "
                f"{len(train)} are not in their context at answer_start; "
                "check that it counts characters from 0, in the context as it stands"
            )
        if lost:
            log.warning("Warning: %d questions of train are dropped, for their answers cannot be placed.", lost)
            datasets["train"] = train.select(keep)
    counts = ", ".join(f"{count} of {split}" for split, count in unanswerable.items() if count)
    if version_2 is False and counts:
        raise InputError(
            f"--version_2_with_negative false: {counts} have no answer; leave the flag out, or take those questions out"
        )
    if version_2 is None and counts:
        log.info(
            "Some questions have no answer (%s): the rules of SQuAD 2.0 apply (--version_2_with_negative).", counts
        )
    return datasets, bool(version_2 or counts)


def resolve_answer_limits(args: Any, config: Any) -> None:
    """Set `n_best_size` and `max_answer_length` where the flags leave them open: as the model was trained, else 20 and
    30; and save them with the model, for whoever predicts with it.

    Raises:
        InputError: one of them is less than 1.
    """
    limits = {"n_best_size": 20, "max_answer_length": 30, **(getattr(config, "answer_limits", None) or {})}
    for name, value in limits.items():
        if getattr(args, name, None) is None:
            setattr(args, name, value)
    check_at_least_one(args, *limits)
    config.answer_limits = {name: getattr(args, name) for name in limits}


def answer_files(
    dataset: "Dataset", found: list[dict], version_2: bool, threshold: float = 0.0
) -> dict[str, tuple[list, Callable]]:
    """What a run writes, for `common.runs.write_predictions`: file name -> (rows, how a row becomes text).

    `predictions.json` (id -> answer, "" for none) and `null_odds.json` (id -> score of no answer minus score of the
    best one; 2.0 alone) are what the official scorers read.

    Args:
        found: of `common.postprocessing.choose_answers`, in the order of `dataset`.
        threshold: of the null odds; 0 is the official one.
    """
    ids = dataset["id"][:]
    answers = chosen_answers(found, threshold if version_2 else None)
    n_best = [with_probabilities(row, version_2) for row in found]
    rows = []
    for row, answer, candidates in zip(dataset, answers, n_best, strict=True):
        of = next((c for c in candidates if c["text"] == answer), {"start": None, "end": None, "probability": 0.0})
        gold = {} if row["answers"] is None else {name: row[name] for name in ("answers", "answer_starts")}
        place = {name: of[name] for name in ("start", "end", "probability")}
        rows.append({name: row[name] for name in ("id", "question", "context")} | gold | {"predicted": answer} | place)
    files: dict[str, Any] = {
        "predictions.jsonl": (rows, partial(json.dumps, ensure_ascii=False)),
        "predictions.json": ([dict(zip(ids, answers, strict=True))], partial(json.dumps, indent=1, ensure_ascii=False)),
        "nbest_predictions.json": (
            [dict(zip(ids, n_best, strict=True))],
            partial(json.dumps, indent=1, ensure_ascii=False),
        ),
    }
    if version_2:
        odds = {question: null_odds(row) for question, row in zip(ids, found, strict=True)}
        files["null_odds.json"] = ([odds], partial(json.dumps, indent=1))
    return files


def with_probabilities(found: dict, version_2: bool) -> list[dict[str, Any]]:
    """The candidates of a question, best first, with their probability among themselves; in 2.0 "" is one of them.

    >>> with_probabilities({"n_best": [{"text": "Lyon", "start": 3, "end": 7, "score": 2.0}], "null_score": 2.0}, True)
    ... # doctest: +NORMALIZE_WHITESPACE
    [{'text': 'Lyon', 'start': 3, 'end': 7, 'score': 2.0, 'probability': 0.5},
     {'text': '', 'start': None, 'end': None, 'score': 2.0, 'probability': 0.5}]
    """
    candidates = found["n_best"]
    if version_2:
        candidates = [*candidates, {"text": "", "start": None, "end": None, "score": found["null_score"]}]
        candidates.sort(key=lambda candidate: -candidate["score"])
    if not candidates:
        return []
    weights = [math.exp(candidate["score"] - candidates[0]["score"]) for candidate in candidates]
    total = sum(weights)
    return [
        {**candidate, "probability": round(weight / total, 4)}
        for candidate, weight in zip(candidates, weights, strict=True)
    ]
