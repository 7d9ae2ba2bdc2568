"""How probable a label must be to be given: a half, or a threshold that was chosen on validation."""

import logging
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import expit, log_softmax, softmax

from common.errors import InputError

log = logging.getLogger("recipes")
LIMITS = (0.1, 10.0)  # of temperatures


def check_goal(goal: str | None, label_list: Sequence[str] | None, several: bool, training_args: Any) -> None:
    """Refuse a `--threshold_for` that cannot be met, before anything is trained."""
    if goal is None:
        return
    if not re.fullmatch(r"f1|(precision|recall)>=(0?\.\d+|1(\.0+)?)", goal):
        raise InputError(
            f'--threshold_for {goal}: must be f1, "precision>=0.9" or "recall>=0.95", quoted because of the shell'
        )
    if label_list is None or not (several or len(label_list) == 2):
        raise InputError("--threshold_for: is for two classes, or for texts with several labels; drop it")
    if not (training_args.do_train and training_args.do_eval):
        raise InputError("--threshold_for: is chosen on validation after training; leave --do_train and --do_eval on")


def as_trained(settings: dict[str, Any], label_list: Sequence[str] | None) -> dict[str, Any]:
    """What `tune` chose for the model that has these `settings`, its labels spelt as in `label_list`.

    >>> as_trained({"temperature": 1.5, "thresholds": {"yes": 0.3}}, ["No", "Yes"])
    {'temperature': 1.5, 'thresholds': {'Yes': 0.3}}
    """
    chosen, spelling = settings.get("thresholds"), {label.casefold(): label for label in label_list or ()}
    chosen = chosen and {n if n in label_list else spelling[n.casefold()]: at for n, at in chosen.items()}
    return {"temperature": settings.get("temperature", 1.0), "thresholds": chosen}


def choose_threshold(scores: np.ndarray, is_right: np.ndarray, goal: str) -> float | None:
    """The threshold of a label that serves `goal` best on these rows, None where no threshold reaches it.

    `f1` is the highest F1, `precision>=0.9` the highest recall among the thresholds with that precision, `recall>=0.95`
    the highest precision likewise; the curve is scikit-learn's. The threshold lies midway between the scores that it
    parts, so that rounding on another device changes no decision.

    Args:
        scores: the label's probability in each row.
        is_right: whether a row has the label.

    >>> choose_threshold(np.array([0.1, 0.4, 0.6, 0.9]), np.array([False, True, False, True]), "precision>=0.9")
    0.75
    >>> choose_threshold(np.array([0.1, 0.2, 0.8, 0.9]), np.array([False, False, True, True]), "precision>=0.5")
    0.5
    """
    from sklearn.metrics import precision_recall_curve

    if not is_right.any():
        return None
    precision, recall, at = precision_recall_curve(is_right, scores)
    precision, recall = precision[:-1], recall[:-1]  # the last point is that of no row at all
    name, _, least = goal.partition(">=")
    if name == "f1":
        worth = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    else:
        held, other = (precision, recall) if name == "precision" else (recall, precision)
        worth = np.where(held >= float(least), other, -1.0)
    # Of equals the one with the higher precision, or else recall: both change with the threshold in one direction.
    best = int(np.flatnonzero(worth == worth.max())[-1 if name == "precision" else 0])
    return (float(at[best]) + (float(at[best - 1]) if best else 0.0)) / 2 if worth[best] >= 0 else None


def tune(goal: str | None, logits: np.ndarray, gold: np.ndarray, label_list: Sequence[str] | None) -> dict[str, Any]:
    """What is chosen on validation and stored with the model: of classes the `temperature` that logits are divided by,
    and, where there is a goal, `thresholds`.

    Args:
        logits: of validation, rows x labels.
        gold: 0 or 1 for each row and label, or the class of each row.
    """
    is_class = label_list is not None and np.ndim(gold) == 1
    temperature = within_limits(fit_temperature(logits, gold)) if is_class else 1.0
    thresholds = None if goal is None else choose_thresholds(goal, logits / temperature, gold, label_list)
    return {"temperature": temperature, "thresholds": thresholds}


def fit_temperature(logits: np.ndarray, gold: np.ndarray) -> float:
    """The temperature from 0.1 to 10 with which the right classes are likeliest (Guo et al. 2017, section 4.2). It
    changes no answer, only how sure one is.

    >>> round(fit_temperature(np.array([[0.0, 4.0]] * 4), np.array([1, 1, 1, 0])), 2)  # 4 / log 3
    3.64
    """
    from scipy.optimize import minimize_scalar

    def loss(temperature: float) -> float:
        return -log_softmax(logits / temperature, axis=-1)[np.arange(len(gold)), gold].mean()

    found = float(minimize_scalar(loss, bounds=LIMITS, method="bounded").x)
    # Where all answers are right the loss is 0 from some temperature down, and the search ends anywhere below it.
    return next((limit for limit in LIMITS if loss(limit) <= loss(found)), found)


def within_limits(temperature: float) -> float:
    """A fitted temperature, printed; 1 at either limit, to which answers that are all right, or all alike, drive it.

    >>> within_limits(1.5), within_limits(0.100001)
    (1.5, 1.0)
    """
    if 1.1 * LIMITS[0] < temperature < 0.95 * LIMITS[1]:
        log.info("Temperature, fitted on validation: %.3f; probabilities come from logits divided by it.", temperature)
        return temperature
    log.info("Temperature: 1, for the answers on validation do not determine one.")
    return 1.0


def choose_thresholds(goal: str, logits: np.ndarray, gold: np.ndarray, label_list: Sequence[str]) -> dict[str, float]:
    """The threshold of each label, or of the second of two classes; printed."""
    several = np.ndim(gold) == 2
    scores = probabilities(logits, several)
    is_right = np.asarray(gold) == 1 if several else np.stack([gold == 0, gold == 1], axis=-1)
    chosen = range(len(label_list)) if several else [1]
    thresholds = {label_list[i]: choose_threshold(scores[:, i], is_right[:, i], goal) for i in chosen}
    beyond = [label for label, threshold in thresholds.items() if threshold is None]
    if beyond:
        log.warning("No threshold gives %s on validation for %s; 0.5 stays.", goal, ", ".join(beyond))
    thresholds = {label: 0.5 if threshold is None else threshold for label, threshold in thresholds.items()}
    shown = ", ".join(f"{label} {threshold:.3g}" for label, threshold in thresholds.items())
    log.info("Thresholds for %s, chosen on validation, whose scores at them therefore flatter: %s.", goal, shown)
    return thresholds


def probabilities(logits: np.ndarray, several: bool) -> np.ndarray:
    """Of each class among all, or with `several` of each label by itself."""
    logits = np.asarray(logits, dtype=np.float64)
    return expit(logits) if several else softmax(logits, axis=-1)


def decide(
    logits: np.ndarray, label_list: Sequence[str], several: bool = False, thresholds: dict[str, float] | None = None
) -> np.ndarray:
    """The class of each row; with `several`, 0 or 1 for each row and label.

    Args:
        thresholds: as `choose_thresholds` gives them; None stands for a half, and for the likeliest class.

    >>> logits = np.array([[1.0, 0.5], [2.0, -2.0]])
    >>> decide(logits, ["no", "yes"]).tolist(), decide(logits, ["no", "yes"], thresholds={"yes": 0.3}).tolist()
    ([0, 0], [1, 0])
    >>> decide(logits, ["slow", "costly"], several=True).tolist()
    [[1, 1], [1, 0]]
    """
    scores = probabilities(logits, several)
    if several:
        return (scores >= [(thresholds or {}).get(label, 0.5) for label in label_list]).astype(int)
    return (scores[:, 1] >= thresholds[label_list[1]]).astype(int) if thresholds else scores.argmax(axis=-1)
