"""Predictions of windows -> a tag per word, or an answer per question, in the order of the input."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn


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


def mean_over_windows(predictions: np.ndarray, features: Any) -> np.ndarray:
    """The mean prediction of each row over the windows in which it was read, in the order of the rows.

    >>> mean_over_windows(np.array([[1.0], [3.0], [5.0]]), {"row": [0, 1, 1]}).tolist()
    [[1.0], [4.0]]
    """
    rows = np.asarray(features["row"][:])
    totals = np.zeros((rows.max() + 1, *predictions.shape[1:]))
    np.add.at(totals, rows, predictions)
    counts = np.bincount(rows).reshape(-1, *[1] * (predictions.ndim - 1))
    return (totals / counts).astype(predictions.dtype)


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
        features: columns as `common.preprocessing.tokenize_questions` gives them: `row`, `starts`, `ends`.
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
    found: list[dict[str, Any]] = [{"n_best": [], "null_score": float(null)} for null in null_scores]
    columns = (column[once].tolist() for column in (question, start, end, score))
    for q, a, b, value in zip(*columns, strict=True):
        n_best = found[q]["n_best"]
        if len(n_best) < n_best_size:
            n_best.append({"text": contexts[q][a:b], "start": a, "end": b, "score": value})
    return found


def padded(rows: Sequence[Sequence[float]]) -> np.ndarray:
    """Rows of unequal length as one array, filled up with -1.

    >>> padded([[0], [1, 2]]).tolist()
    [[0, -1], [1, 2]]
    """
    array = np.full((len(rows), max(map(len, rows))), -1, dtype=np.asarray(rows[0]).dtype)
    for i, row in enumerate(rows):
        array[i, : len(row)] = row
    return array
