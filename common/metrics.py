"""Scores as the official scorers give them, without network or downloaded code; errors by kind; trivial baselines."""

import logging
import re
import string
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain, groupby
from typing import Any

import datasets
import numpy as np

from common.data import is_tag
from common.errors import InputError
from common.thresholds import decide

log = logging.getLogger("recipes")
HAS_ANSWER = {"HasAns": True, "NoAns": False}


# Tags, classes and numbers


def split_tag(tag: str) -> tuple[str, str]:
    """Prefix and entity type of a tag; one without a prefix, as of parts of speech, is that of a word on its own.

    >>> split_tag("B-PER"), split_tag("O"), split_tag("NOUN")
    (('B', 'PER'), ('O', ''), ('S', 'NOUN'))
    """
    if not is_tag(tag):
        return "S", tag
    prefix, _, entity_type = tag.partition("-")
    return {"L": "E", "U": "S", "M": "I"}.get(prefix, prefix), entity_type


def entities(tags: Sequence[str]) -> list[tuple[str, int, int]]:
    """Entities of one BIO sentence as (type, first word, last word + 1), by the rule of `conlleval` and of seqeval's
    default mode: an I- that continues nothing starts an entity.

    >>> entities(["B-PER", "I-PER", "O", "I-LOC"])
    [('PER', 0, 2), ('LOC', 3, 4)]
    """
    spans: list[tuple[str, int, int]] = []
    for i, tag in enumerate(tags):
        prefix, entity_type = split_tag(tag)
        if prefix == "I" and spans and spans[-1][0] == entity_type and spans[-1][2] == i:
            spans[-1] = (entity_type, spans[-1][1], i + 1)
        elif prefix != "O":
            spans.append((entity_type, i, i + 1))
    return spans


def score(kind: str, references: Sequence, predictions: Sequence, **options: Any) -> dict[str, Any]:
    """The scores of one kind of `KINDS`, in memory, through an `evaluate.Metric`.

    >>> score("classes", [1, 0], [1, 1])["accuracy"]
    0.5
    """
    import evaluate  # half a second, which --help and predict need not wait for

    class Scores(evaluate.Metric):
        def _info(self) -> evaluate.MetricInfo:
            function, predicted, gold = KINDS[self.config_name]
            features = datasets.Features({"predictions": predicted, "references": gold})
            return evaluate.MetricInfo(description=function.__doc__, citation="", features=features)

        def _compute(self, predictions: Sequence, references: Sequence, **options: Any) -> dict[str, Any]:
            if not len(references):
                raise ValueError("no rows to score")
            return KINDS[self.config_name][0](references, predictions, **options)

    return Scores(kind, keep_in_memory=True).compute(predictions=predictions, references=references, **options)


def entity_scores(references: Sequence[Sequence[str]], predictions: Sequence[Sequence[str]]) -> dict:
    """Entity-level precision, recall and F1, overall (micro) and per type, and accuracy per word, each from 0 to 1.

    The rule is that of the CoNLL-2003 scorer `conlleval` (Tjong Kim Sang and De Meulder 2003): an entity counts when
    its type and all its words are right, and an I- that continues nothing starts an entity. seqeval computes it, in its
    default (lenient) mode; its strict mode gives other figures on broken sequences.

    >>> scores = entity_scores([["B-PER", "I-PER", "O", "B-LOC"]], [["B-PER", "I-PER", "O", "O"]])
    >>> scores["precision"], scores["recall"], scores["types"]["PER"]["f1"], scores["types"]["LOC"]["support"]
    (1.0, 0.5, 1.0, 1)

    Raises:
        ValueError: a prediction of another length than its reference.
    """
    from seqeval.metrics import classification_report

    accuracy = word_accuracy(references, predictions)
    # zero_division=0 is conlleval's rule: no entity predicted is a precision of 0.
    if any(tag != "O" for tags in (*references, *predictions) for tag in tags):
        report = classification_report(references, predictions, output_dict=True, zero_division=0)
    else:
        report = {"micro avg": {"precision": 0, "recall": 0, "f1-score": 0, "support": 0}}
    scores = {
        name: {n: float(row[n if n != "f1" else "f1-score"]) for n in ("precision", "recall", "f1")}
        | {"support": int(row["support"])}
        for name, row in report.items()
    }
    types = {name: row for name, row in scores.items() if not name.endswith(" avg")}
    return {**scores["micro avg"], "accuracy": accuracy, "types": types}


def word_accuracy(references: Iterable[Sequence[str]], predictions: Iterable[Sequence[str]]) -> float:
    """Share of the words whose tag is right, where tags are no entities (parts of speech).

    >>> word_accuracy([["DET", "NOUN"], ["VERB"]], [["DET", "VERB"], ["VERB"]])
    0.6666666666666666
    """
    from sklearn.metrics import accuracy_score

    return float(accuracy_score(list(chain.from_iterable(references)), list(chain.from_iterable(predictions))))


def flat_scores(scores: dict, per_type: bool = True) -> dict[str, float]:
    """Overall scores under their names, and those of a type with it in front.

    >>> flat_scores({"f1": 0.5, "support": 2, "types": {"PER": {"f1": 0.5, "support": 2}}})
    {'f1': 0.5, 'PER_f1': 0.5}
    """
    named = {name: value for name, value in scores.items() if name != "types"}
    for entity_type, row in scores["types"].items() if per_type else ():
        named |= {f"{entity_type}_{name}": value for name, value in row.items()}
    return {name: value for name, value in named.items() if not name.endswith("support")}


def entity_errors(references: Sequence[Sequence[str]], predictions: Sequence[Sequence[str]]) -> dict[str, int]:
    """Kinds of error counted over entities: each gold or predicted entity that is not right falls in one.

    `wrong type`: the same words, another type. `wrong boundary`: an overlap with the same type. `wrong type and
    boundary`: an overlap with another type. `missed`: a gold entity that no predicted one touches. `invented`: a
    predicted entity that touches no gold one. The first three count gold entities.

    >>> entity_errors([["B-PER", "I-PER", "O", "B-LOC", "O"]], [["B-PER", "O", "O", "B-ORG", "B-ORG"]])
    {'missed': 0, 'invented': 1, 'wrong type': 1, 'wrong boundary': 1, 'wrong type and boundary': 0}
    """
    counts = Counter({"missed": 0, "invented": 0, "wrong type": 0, "wrong boundary": 0, "wrong type and boundary": 0})
    for gold_tags, predicted_tags in zip(references, predictions, strict=True):
        gold, predicted = entities(gold_tags), entities(predicted_tags)
        for entity in gold:
            if entity in predicted:
                continue
            touching = [other for other in predicted if other[1] < entity[2] and other[2] > entity[1]]
            if not touching:
                counts["missed"] += 1
            elif any(other[1:] == entity[1:] for other in touching):
                counts["wrong type"] += 1
            elif any(other[0] == entity[0] for other in touching):
                counts["wrong boundary"] += 1
            else:
                counts["wrong type and boundary"] += 1
        counts["invented"] += sum(not any(e[1] < o[2] and e[2] > o[1] for e in gold) for o in predicted)
    return dict(counts)


def entity_lookup(train_tokens: Iterable, train_tags: Iterable, tokens: Iterable) -> list[list[str]]:
    """The CoNLL-2003 shared task's baseline: tag the phrases that are entities of one type only in the training data,
    the longest first (Tjong Kim Sang and De Meulder 2003, section 3.2). What a dictionary of names reaches alone.

    >>> entity_lookup([["Ada", "Lee", "ran"]], [["B-PER", "I-PER", "O"]], [["Met", "Ada", "Lee"]])
    [['O', 'B-PER', 'I-PER']]
    """
    types: dict[tuple, set[str]] = {}
    for words, tags in zip(train_tokens, train_tags, strict=True):
        for entity_type, start, end in entities(tags):
            types.setdefault(tuple(words[start:end]), set()).add(entity_type)
    longest = max(map(len, types), default=0)
    tagged = []
    for words in tokens:
        tags, i = ["O"] * len(words), 0
        while i < len(words):
            for length in range(min(longest, len(words) - i), 0, -1):
                known = types.get(tuple(words[i : i + length]), ())
                if len(known) == 1:
                    (entity_type,) = known
                    tags[i : i + length] = [f"B-{entity_type}", *[f"I-{entity_type}"] * (length - 1)]
                    i += length
                    break
            else:
                i += 1
        tagged.append(tags)
    return tagged


def default_metrics(label_list: Sequence[str] | None, several: bool = False) -> tuple[str, ...]:
    """Metrics where no task says them: of classes accuracy and the mean F1 over them, of scores both correlations; of
    several labels a text F1 over all decisions and its mean over the labels, and the share of rows that are right."""
    if several:
        return ("micro_f1", "macro_f1", "accuracy")
    return ("pearson", "spearmanr") if label_list is None else ("accuracy", "macro_f1")


def class_scores(
    references: Sequence[float], predictions: Sequence[float], labels: Sequence[int] | None = None
) -> dict:
    """Accuracy, F1 and Matthews correlation of predicted class ids, as GLUE defines them (Wang et al. 2019, arXiv
    1804.07461), computed by scikit-learn.

    `accuracy` (0 to 1); `f1` of the second class, with two classes only (MRPC and QQP score their positive class 1);
    `macro_f1`, the mean over classes; `matthews_correlation` (-1 to 1; CoLA's metric); and `classes`, precision,
    recall, F1 and support of each.

    >>> scores = class_scores([1, 0, 0, 0], [1, 1, 0, 0])
    >>> scores["accuracy"], round(scores["f1"], 4), round(scores["matthews_correlation"], 4)
    (0.75, 0.6667, 0.5774)

    Raises:
        ValueError: predictions that are not whole numbers.
    """
    from sklearn.metrics import accuracy_score, matthews_corrcoef

    ids = list(labels) if labels is not None else sorted({int(v) for v in (*references, *predictions)})
    classes = per_class(references, predictions, ids)
    scores = {
        "accuracy": float(accuracy_score(references, predictions)),
        "macro_f1": sum(row["f1"] for row in classes.values()) / len(classes),
        "matthews_correlation": float(matthews_corrcoef(references, predictions)),
        "classes": classes,
    }
    return scores | ({"f1": classes[ids[1]]["f1"]} if len(ids) == 2 else {})


def per_class(references: Sequence, predictions: Sequence, ids: Sequence[int]) -> dict[int, dict[str, float]]:
    """Precision, recall, F1 and support of each class, 0 where there is nothing to divide by."""
    from sklearn.metrics import precision_recall_fscore_support

    columns = precision_recall_fscore_support(references, predictions, labels=ids, zero_division=0)
    names = ("precision", "recall", "f1", "support")
    rows = zip(*columns, strict=True)
    return {i: dict(zip(names, map(float, row), strict=True)) for i, row in zip(ids, rows, strict=True)}


def label_set_scores(references: Sequence[Sequence[int]], predictions: Sequence[Sequence[int]]) -> dict:
    """Scores of 0 or 1 for each row and label, where a row may have several labels, computed by scikit-learn.

    `micro_f1` over all decisions, `macro_f1`, the mean over labels, `accuracy`, the share of rows whose labels are all
    right and no other; and `classes`, precision, recall, F1 and support of each label.

    >>> scores = label_set_scores([[1, 1], [0, 1]], [[1, 0], [0, 1]])
    >>> scores["micro_f1"], round(scores["macro_f1"], 4), scores["accuracy"]
    (0.8, 0.8333, 0.5)
    """
    references, predictions = (np.asarray(rows, dtype=int) for rows in (references, predictions))
    # Label by label: scikit-learn takes a table of one column for two classes, 0 and 1.
    classes = {i: per_class(references[:, i], predictions[:, i], [1])[1] for i in range(references.shape[1])}
    return {
        "micro_f1": per_class(references.ravel(), predictions.ravel(), [1])[1]["f1"],
        "macro_f1": sum(row["f1"] for row in classes.values()) / len(classes),
        "accuracy": float((references == predictions).all(axis=1).mean()),
        "classes": classes,
    }


def number_scores(references: Sequence[float], predictions: Sequence[float]) -> dict[str, float]:
    """Pearson and Spearman correlation of predicted scores (-1 to 1; STS-B's metrics, Wang et al. 2019), computed by
    scipy.

    A model that predicts one score for every row has no correlation: both are nan then, and a warning says so.

    >>> scores = number_scores([1.0, 2.0, 3.0], [1.0, 2.0, 4.0])
    >>> round(scores["pearson"], 4), scores["spearmanr"]
    (0.982, 1.0)

    Raises:
        InputError: fewer than two rows, or rows that all have one score.
    """
    from scipy.stats import pearsonr, spearmanr

    if len(references) < 2 or len(set(references)) < 2:
        raise InputError("a correlation needs at least two rows with different scores; take more rows")
    if len(set(predictions)) < 2:
        log.warning("The model predicts one score for every row, so no correlation is defined.")
        return {"pearson": float("nan"), "spearmanr": float("nan")}
    correlations = {"pearson": pearsonr, "spearmanr": spearmanr}
    return {name: float(of(predictions, references)[0]) for name, of in correlations.items()}


def label_scores(
    predictions: Any, label_ids: Any, label_list: Sequence[str] | None, thresholds: dict[str, float] | None = None
) -> dict:
    """Scores of logits (rows, classes) against class ids, or against 0 or 1 for each label where `label_ids` are (rows,
    labels); of predicted numbers (rows, 1) against numbers.

    Args:
        thresholds: of `common.thresholds.choose_thresholds`; None for a half, and for the likeliest class.

    >>> import numpy as np
    >>> label_scores(np.array([[0.0, 1.0], [2.0, 1.0]]), [1, 1], ["no", "yes"])["accuracy"]
    0.5
    """
    if label_list is None:
        return score("numbers", label_ids, predictions[:, 0])
    if np.ndim(label_ids) == 2:
        return score("label sets", label_ids, decide(predictions, label_list, True, thresholds))
    return score(
        "classes", label_ids, decide(predictions, label_list, False, thresholds), labels=range(len(label_list))
    )


def tuned_scores(
    prefix: str, predictions: Any, label_ids: Any, label_list: Sequence[str], names: Sequence[str], thresholds: Any
) -> dict[str, float]:
    """Scores of a split at `thresholds`, as `{prefix}_tuned_{name}`; none without thresholds or right labels."""
    if thresholds is None or label_ids is None:
        return {}
    scores = label_scores(predictions, label_ids, label_list, thresholds)
    return {f"{prefix}_tuned_{name}": scores[name] for name in names}


SPLITS = {"eval_mismatched": "validation_mismatched", "eval_matched": "validation", "eval": "validation"}


def split_of(score: str) -> tuple[str, str]:
    """The split and the name of a score in `all_results.json`.

    >>> split_of("eval_mismatched_accuracy"), split_of("test_f1"), split_of("eval_exact_match")
    (('validation_mismatched', 'accuracy'), ('test', 'f1'), ('validation', 'exact_match'))
    """
    prefix = next((p for p in SPLITS if score.startswith(f"{p}_")), "test")
    return SPLITS.get(prefix, "test"), score.removeprefix(f"{prefix}_")


def score_line(scores: dict[str, Any], names: Sequence[str] | None = None) -> str:
    """Scores in a line, without the split that stands before their names.

    >>> score_line({"eval_accuracy": 0.5, "eval_loss": 1})
    'accuracy 0.5000, loss 1.0000'
    """
    return ", ".join(f"{split_of(name)[1]} {scores[name]:.4f}" for name in names or scores) or "no right answers known"


def show_trivial(trivial: dict[str, Any] | None, names: Sequence[str]) -> None:
    """Beside a model's scores those that a trivial answer gets, `trivial` of a split's facts."""
    if trivial:
        known = [name for name in names if name in trivial["scores"]]
        log.info("%s (trivial baseline): %s.", trivial["answer"], score_line(trivial["scores"], known))


def reported(scores: dict[str, float]) -> dict[str, float]:
    """Of what `Trainer.predict` returns the loss and all that `compute_metrics` gave, without its timings.

    >>> reported({"test_loss": 0.5, "test_f1": 1.0, "test_runtime": 2.0, "test_samples_per_second": 9.0})
    {'test_loss': 0.5, 'test_f1': 1.0}
    """
    timings = ("_runtime", "_per_second", "_model_preparation_time")
    return {name: float(value) for name, value in scores.items() if not name.endswith(timings)}


# Answers to questions


def normalize_answer(text: str) -> str:
    """Lower case, without punctuation and articles, single blanks: the official scorers' normalisation.

    >>> normalize_answer("The  U.S. (an army)!")
    'us army'
    """
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def answer_scores(predicted: str, golds: Sequence[str], version_2: bool = False) -> tuple[float, float]:
    """Exact match and F1 over words of one answer against the gold answer that suits it best, each from 0 to 1.

    Args:
        golds: gold answers; none for an unanswerable question, whose right answer is "".
        version_2: the 2.0 scorer's rule where a text has no words left: F1 is 1 if neither has, else 0. The 1.1 scorer
            gives 0. The 2.0 scorer also leaves out golds without words.

    >>> answer_scores("in the Tower of London", ["London", "Tower of London"])
    (0.0, 0.8571428571428571)
    """
    if version_2:
        golds = [gold for gold in golds if normalize_answer(gold)] or [""]
    words = normalize_answer(predicted).split()
    exact = f1 = 0.0
    for gold in map(normalize_answer, golds):
        gold_words = gold.split()
        exact = max(exact, float(words == gold_words))
        same = (Counter(words) & Counter(gold_words)).total()
        if same:
            f1 = max(f1, 2 * same / (len(words) + len(gold_words)))
        elif version_2 and not words and not gold_words:
            f1 = 1.0
    return exact, f1


def answers_scores(
    references: Sequence[Sequence[str]], predictions: Sequence[str], version_2: bool = False
) -> dict[str, float]:
    """Exact match and F1 of extracted answers in percent, as the official scorers of SQuAD 1.1 and 2.0 give them
    (Rajpurkar et al. 2016, arXiv 1606.05250; 2018, arXiv 1806.03822).

    A prediction is the answer's text, "" for no answer; a reference is the list of gold answers, empty for an
    unanswerable question. Under the rules of 2.0 also `HasAns_exact`, `HasAns_f1`, `NoAns_exact`, `NoAns_f1`.

    >>> answers_scores([["Seine"], ["in 1901", "May 1901"]], ["the Seine", "1901"])
    {'exact_match': 50.0, 'f1': 83.33333333333333}

    Raises:
        ValueError: under the rules of 1.1 a question without a gold answer.
    """
    if not version_2 and not all(references):
        raise ValueError("a question without a gold answer has no score under the rules of SQuAD 1.1")
    each = [(bool(golds), answer_scores(p, golds, version_2)) for p, golds in zip(predictions, references, strict=True)]
    parts = {"": [of for _, of in each]}
    if version_2:
        parts |= {f"{name}_": [of for has, of in each if has == wanted] for name, wanted in HAS_ANSWER.items()}
    scores = {}
    for name, rows in parts.items():
        if rows:
            scores[f"{name}exact" if name else "exact_match"] = 100 * sum(exact for exact, _ in rows) / len(rows)
            scores[f"{name}f1"] = 100 * sum(f1 for _, f1 in rows) / len(rows)
    return scores


def best_threshold(scores: Sequence[float], null_odds: Sequence[float], has_answer: Sequence[bool]) -> tuple:
    """The best total score in percent that a threshold on `null_odds` can reach, and that threshold.

    A question whose null odds exceed the threshold is given no answer. The search is that of evaluate-v2.0.py
    (`find_best_thresh`): from no answers at all, one question after the other in the order of its odds. The threshold
    lies midway between the odds that it parts, so that rounding on another device changes no answer.

    Args:
        scores: of each question's best answer, were it given, from 0 to 1; of an unanswerable question 0.
        null_odds: score of no answer minus score of the best answer.
        has_answer: whether the question has a gold answer.

    >>> best_threshold([1.0, 0.0, 0.5], null_odds=[-2.0, 3.0, 1.0], has_answer=[True, False, True])
    (83.33333333333333, 2.0)
    """
    order = sorted(range(len(scores)), key=lambda i: null_odds[i])
    current = best = sum(not answerable for answerable in has_answer)
    answered = 0
    for count, i in enumerate(order, 1):
        current += scores[i] - (not has_answer[i])
        if current > best:
            best, answered = current, count
    odds = [null_odds[order[0]] - 2.0, *(null_odds[i] for i in order), null_odds[order[-1]] + 2.0]
    return 100 * best / len(scores), (odds[answered] + odds[answered + 1]) / 2


def question_scores(
    spans: Sequence[dict], references: Sequence[Sequence[str]], version_2: bool, threshold: float | None = None
) -> dict[str, float]:
    """Scores of `common.questions.choose_answers` against the gold answers of each question.

    Under the rules of 2.0 `exact_match` and `f1` are at the official threshold (0), `best_exact` and `best_f1` at
    the one that is best on these very questions, `best_threshold`. With a `threshold` that was tuned elsewhere,
    `tuned_exact` and `tuned_f1` are at that one instead of `best_...`.
    """
    scores = score("answers", references, chosen_answers(spans, 0.0 if version_2 else None), version_2=version_2)
    if version_2 and threshold is not None:
        tuned = score("answers", references, chosen_answers(spans, threshold), version_2=True)
        scores |= {"tuned_exact": tuned["exact_match"], "tuned_f1": tuned["f1"]}
    elif version_2:
        has_answer = [bool(golds) for golds in references]
        given = [
            answer_scores(text, golds, True) if golds else (float(not text),) * 2
            for text, golds in zip(chosen_answers(spans, None), references, strict=True)
        ]
        odds = [null_odds(row) for row in spans]
        scores["best_exact"], _ = best_threshold([exact for exact, _ in given], odds, has_answer)
        scores["best_f1"], scores["best_threshold"] = best_threshold([f1 for _, f1 in given], odds, has_answer)
    return scores


def null_odds(question: dict) -> float:
    """Score of no answer minus that of the best answer; for a context without pieces a large number.

    >>> null_odds({"n_best": [{"score": 3.0}], "null_score": 1.0})
    -2.0
    """
    return question["null_score"] - question["n_best"][0]["score"] if question["n_best"] else 1e9


def chosen_answers(spans: Sequence[dict], threshold: float | None) -> list[str]:
    """The best text of each question, "" where its null odds exceed the threshold; None always gives one."""
    return [
        row["n_best"][0]["text"] if row["n_best"] and (threshold is None or null_odds(row) <= threshold) else ""
        for row in spans
    ]


def nearest_name(question: str, context: str) -> str:
    """A trivial answer, to set beside a model's: of the sentence that shares most words with the question, the first
    run of capitalised words or digits that the question does not name, the sentence's own first word left out; without
    one, its last word.

    >>> nearest_name("Who met Ada?", "It rained. Then Ada met Kurt Lang.")
    'Kurt Lang.'
    """
    words = set(normalize_answer(question).split())
    sentences = [s.split() for s in re.split(r"(?<=[.!?])\s+", context) if s.split()] or [[""]]
    nearest = max(sentences, key=lambda s: len(words & set(normalize_answer(" ".join(s)).split())))
    is_name = [
        ((word[:1].isupper() and i > 0) or any(c.isdigit() for c in word)) and normalize_answer(word) not in words
        for i, word in enumerate(nearest)
    ]
    runs = (list(run) for named, run in groupby(range(len(nearest)), key=is_name.__getitem__) if named)
    return " ".join(nearest[i] for i in next(runs, [-1]))


# What an `evaluate.Metric` of each kind computes, and what a row of predictions and of references is.
TEXT, NUMBER = datasets.Value("string"), datasets.Value("float64")
TAGS, NUMBERS = datasets.List(TEXT), datasets.List(datasets.Value("int64"))
KINDS = {
    "entities": (entity_scores, TAGS, TAGS),
    "classes": (class_scores, NUMBER, NUMBER),  # not integers, which would cut fractions off silently
    "label sets": (label_set_scores, NUMBERS, NUMBERS),
    "numbers": (number_scores, NUMBER, NUMBER),
    "answers": (answers_scores, TEXT, datasets.List(TEXT)),
}


# For the terminal


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Columns aligned for a terminal: the first to the left, the others to the right, fractions with four digits.

    >>> print(table(["type", "f1"], [["LOC", 0.5], ["PER", 1.0]]))
    type      f1
    LOC   0.5000
    PER   1.0000
    """
    cells = [[f"{cell:.4f}" if isinstance(cell, float) else str(cell) for cell in row] for row in [header, *rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    lines = (
        "  ".join(c.rjust(w) if i else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        for row in cells
    )
    return "\n".join(line.rstrip() for line in lines)


HIDDEN = ("classes", "lengths", "trivial")


def show_facts(facts: dict[str, dict[str, Any]], meaning: str, tolerated: float) -> dict[str, dict[str, Any]]:
    """Print what is known of the splits as a table, with the meaning of its columns, and return it for run.json.

    Args:
        facts: of each split, by the name of the column; None where there is nothing to say.
        tolerated: share of a split's rows that may also stand in train without a warning.
    """
    names = [name for name in next(iter(facts.values())) if name not in HIDDEN]
    rows = [[split, *("-" if of[name] is None else of[name] for name in names)] for split, of in facts.items()]
    rows = [[f"{cell:.1f}" if isinstance(cell, float) else cell for cell in row] for row in rows]
    log.info("%s\n%s", table(["", *(name.replace("_", " ") for name in names)], rows), meaning)
    for split, of in facts.items():
        classes = Counter(of["classes"])
        parts = ", ".join(f"{name} {n} ({n / classes.total():.0%})" for name, n in classes.most_common())
        if parts:
            log.info("%s: %s.", split, parts)
        rows, repeated = of["rows"], of["in_train"] or 0
        if repeated > tolerated * rows:
            log.warning("Warning: %d of %d rows of %s also stand in train; its score flatters.", repeated, rows, split)
    return {split: {name: value for name, value in of.items() if value is not None} for split, of in facts.items()}
