"""Predictions of windows -> a tag per word, or an answer per question, in the order of the input."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np


def tags_of_sentences(
    label_ids: Iterable[Sequence[int]],
    word_ids: Iterable[Sequence[int]],
    sentence_of_window: Sequence[int],
    words_per_sentence: Sequence[int],
    label_list: Sequence[str],
) -> list[list[str]]:
    """Put the predicted labels of windows back together: exactly one tag per word, O for a word without a piece.

    Args:
        label_ids: predicted label ids, windows x positions (padding on the right is ignored).
        word_ids: the word read at each position of a window, else -1, as `tokenize_and_align_labels` gives it.
        sentence_of_window: the row number of each window's sentence, in any order.
        words_per_sentence: the number of words of each sentence, in the order wanted.

    >>> tags_of_sentences([[0, 1, 2, 0]], [[-1, 0, 2, -1]], [0], [3, 1], ["O", "B-PER", "I-PER"])
    [['B-PER', 'O', 'I-PER'], ['O']]
    """
    tags = [["O"] * count for count in words_per_sentence]
    for labels, words, sentence in zip(label_ids, word_ids, sentence_of_window, strict=True):
        words = np.asarray(words)
        for i in np.flatnonzero(words >= 0):
            tags[sentence][words[i]] = label_list[labels[i]]
    return tags


def in_row_order(predictions: np.ndarray, features: Any) -> np.ndarray:
    """Predictions of an evaluation set that was sorted by length, put back in the order of its rows.

    >>> in_row_order(np.array([[3.0], [1.0]]), {"row": [1, 0]}).tolist()
    [[1.0], [3.0]]
    """
    ordered = np.empty_like(predictions)
    ordered[np.asarray(features["row"][:])] = predictions
    return ordered


def choose_answers(
    start_logits: np.ndarray,
    end_logits: np.ndarray,
    features: Any,
    contexts: Sequence[str],
    n_best_size: int = 20,
    max_answer_length: int = 30,
) -> list[dict[str, Any]]:
    """The best spans of each question over all its windows, in the order of `contexts`.

    In every window the `n_best_size` best starts and ends inside the context are paired; a pair counts when the end
    does not lie before the start and the span has at most `max_answer_length` pieces; its score is the sum of both
    logits (Devlin et al. 2019, section 4.2). The pairs of all windows compete, and a span that several windows show
    counts once. Linear in the number of windows, and computed on arrays.

    Args:
        start_logits, end_logits: shape (windows, positions), padded on the right.
        features: columns as `common.preprocessing.tokenize_questions` gives them: `row`, `starts`, `ends`.
        contexts: the context of each question.

    Returns:
        For each question `n_best`, a list of {"text", "start", "end", "score"} with the best first, `start` and `end`
        in characters, empty where the context has no pieces; and `null_score`, that of no answer: the sum of the
        logits at [CLS], the first piece, in the window that is surest to hold one.
    """
    question_of = np.asarray(features["row"][:])
    kept = []  # of each chunk of windows: question, first character, end, score
    null_scores = np.full(len(contexts), np.inf)
    for at in range(0, len(question_of), 512):  # a chunk's arrays stay in the processor's cache
        chunk = slice(at, at + 512)
        starts, ends = (padded(features[name][chunk]) for name in ("starts", "ends"))
        width = starts.shape[1]
        outside = starts < 0
        first_logits, last_logits = (
            np.where(outside, -np.inf, np.asarray(logits[chunk, :width], np.float32))
            for logits in (start_logits, end_logits)
        )
        firsts, lasts = (best_positions(logits, n_best_size) for logits in (first_logits, last_logits))
        scores = np.take_along_axis(first_logits, firsts, 1)[:, :, None]
        scores = scores + np.take_along_axis(last_logits, lasts, 1)[:, None, :]
        pieces = lasts[:, None, :] - firsts[:, :, None] + 1
        scores[(pieces < 1) | (pieces > max_answer_length)] = -np.inf
        scores = scores.reshape(len(scores), -1)
        best = best_positions(scores, n_best_size)
        window, rank = np.nonzero(np.isfinite(np.take_along_axis(scores, best, 1)))
        pair = best[window, rank]
        first, last = firsts[window, pair // lasts.shape[1]], lasts[window, pair % lasts.shape[1]]
        kept.append((question_of[chunk][window], starts[window, first], ends[window, last], scores[window, pair]))
        null = np.asarray(start_logits[chunk, 0], float) + np.asarray(end_logits[chunk, 0], float)
        np.minimum.at(null_scores, question_of[chunk], null)

    question, start, end, score = (np.concatenate(column) for column in zip(*kept, strict=True))
    # By question, the best first; then each span once.
    order = np.lexsort((-score, question))
    question, start, end, score = (column[order] for column in (question, start, end, score))
    _, once = np.unique(np.stack([question, start, end]), axis=1, return_index=True)
    once.sort()
    found: list[dict[str, Any]] = [{"n_best": [], "null_score": float(null)} for null in null_scores]
    columns = (column[once].tolist() for column in (question, start, end, score))
    for q, a, b, value in zip(*columns, strict=True):
        n_best = found[q]["n_best"]
        if len(n_best) < n_best_size:
            n_best.append({"text": contexts[q][a:b], "start": a, "end": b, "score": value})
    return found


def best_positions(scores: np.ndarray, count: int) -> np.ndarray:
    """Columns of the `count` highest scores of each row (all of them where there are fewer), in no order."""
    if scores.shape[1] <= count:
        return np.broadcast_to(np.arange(scores.shape[1]), scores.shape)
    return np.argpartition(scores, -count, axis=1)[:, -count:]


def padded(rows: Sequence[Sequence[float]]) -> np.ndarray:
    """Rows of unequal length as one array, filled up with -1.

    >>> padded([[0], [1, 2]]).tolist()
    [[0, -1], [1, 2]]
    """
    array = np.full((len(rows), max(map(len, rows))), -1, dtype=np.asarray(rows[0]).dtype)
    for i, row in enumerate(rows):
        array[i, : len(row)] = row
    return array
