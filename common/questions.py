"""Rows with a question, a context and the answers in it: read in every form, answers placed, splits checked."""

import json
import logging
import math
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from common.errors import InputError
from common.metrics import chosen_answers, null_odds

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
        for i, paragraph in enumerate(row["paragraphs"], 1):
            for j, question in enumerate(paragraph.get("qas", []), 1):
                where = place.replace("row", "article")
                flat = {"title": row.get("title", ""), "context": paragraph.get("context"), **question}
                yield f"{where}, paragraph {i}, question {j}", flat


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
        context, note = row["context"], "" if row["context"].strip() else "empty context"
        answers = read_answers(where, row)
        placed = []
        for text, start in answers or ():
            place_found = place_answer(text, start, context)
            placed.append(place_found)
            note = note if place_found == start else MISPLACED if place_found < 0 else note or REPAIRED
        yield {
            "id": str(row.get("id") or number),
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
    if row.get("is_impossible"):
        return []
    answers = row.get("answers")
    if answers is None and row.get("answer_text") is not None:
        answers = [{"text": row["answer_text"], "answer_start": row.get("answer_start")}] if row["answer_text"] else []
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
        try:
            start = -1 if start in (None, "") else int(start)
        except (TypeError, ValueError):
            raise InputError(f'{where}: answer_start "{start}" is no whole number') from None
        if not isinstance(text, str) or not text.strip():
            raise InputError(
                f'{where}: an answer without text; an unanswerable question has an empty list of "answers"'
            )
        found.append((text.strip(), start + len(text) - len(text.lstrip()) if start >= 0 else -1))
    return found


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
    """Whether the split has gold answers; a split in which no question has any is taken for one that has none."""
    return any(dataset["answers"][:])


def context_groups(dataset: "Dataset") -> dict[str, list]:
    """For `common.data.hold_out`: the questions about one context stay together."""
    contexts = dataset["context"][:]
    return {"groups": contexts, "texts": contexts, "kinds": [set() for _ in contexts]}


def checked_questions(datasets: Any, version_2: bool | None) -> tuple[Any, bool]:
    """The splits without training questions whose answers cannot be placed, and whether some have no answer.

    Args:
        version_2: what the user says; None takes what train, or without it the other splits, hold.

    Raises:
        InputError: train without answers, more than 5 % of its answers misplaced, rows of a split of which some have
            answers and some have no such field, repeated ids to be scored, or unanswerable questions where the user
            says that there are none.
    """
    unanswerable = {}
    for split, dataset in datasets.items():
        answers = dataset["answers"][:]
        without = [place for place, gold in zip(dataset["place"], answers, strict=True) if gold is None]
        if without and (split == "train" or len(without) < len(dataset)):
            raise InputError(f'{split}, {without[0]}: no "answers"; an unanswerable question has an empty list')
        repeated = [i for i, count in Counter(dataset["id"]).items() if count > 1]
        if repeated and split != "train":
            raise InputError(f'{split}: id "{repeated[0]}" and {len(repeated) - 1} more occur twice; ids must differ')
        if repeated:
            log.warning("Warning: %d ids of train occur more than once.", len(repeated))
        if has_answers(dataset):
            unanswerable[split] = sum(not gold for gold in answers)
        elif split == "train":
            raise InputError("train: no question has an answer; there is nothing to learn")
    if "train" in datasets:
        train = datasets["train"]
        keep = [i for i, starts in enumerate(train["answer_starts"]) if not starts or max(starts) >= 0]
        lost = len(train) - len(keep)
        if lost > 0.05 * len(train):
            raise InputError(
                f"train: the answers of {lost} of {len(train)} questions are not in their context at answer_start; "
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


def answer_files(dataset: "Dataset", found: list[dict], version_2: bool) -> dict[str, tuple[list, Callable]]:
    """What a run writes, for `common.runs.write_predictions`: file name -> (rows, how a row becomes text).

    `predictions.json` (id -> answer, "" for none) and `null_odds.json` (id -> score of no answer minus score of the
    best one; 2.0 alone) are what the official scorers read.

    Args:
        found: of `common.postprocessing.choose_answers`, in the order of `dataset`.
    """
    ids = dataset["id"][:]
    answers = chosen_answers(found, 0.0 if version_2 else None)
    n_best = [with_probabilities(row, version_2) for row in found]
    rows = []
    for row, answer, candidates in zip(dataset, answers, n_best, strict=True):
        of = next((c for c in candidates if c["text"] == answer), {"start": None, "end": None, "probability": 0.0})
        gold = {} if row["answers"] is None else {"answers": row["answers"]}
        place = {name: of[name] for name in ("start", "end", "probability")}
        rows.append({name: row[name] for name in ("id", "question")} | gold | {"predicted": answer} | place)
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
