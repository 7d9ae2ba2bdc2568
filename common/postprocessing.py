"""Predictions of windows -> a tag per word, in the order of the input."""

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
