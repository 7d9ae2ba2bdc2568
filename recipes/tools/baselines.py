"""Published figures, with their sources: baselines.json beside this file."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

BASELINES = Path(__file__).with_suffix(".json")


def load_baselines() -> list[dict[str, Any]]:
    """Rows of `model`, `source`, `split` and `scores` (task -> metric -> percent); where the source gives them, `runs`,
    how many the scores are the mean of, `sd`, their standard deviations, in the form of `scores`, `parameters` in
    millions, and `epochs` (task -> number)."""
    return json.loads(BASELINES.read_text(encoding="utf-8"))


def published(baselines: list[dict], model: str, task: str, metric: str, split: str) -> dict[str, Any] | None:
    """`model`, `source`, `score`, `sd`, `runs`, `parameters` and `epochs` of the same model if there is such a row,
    else of the first model that has the task; the last four are None where the source does not give them.

    Args:
        model: its name, or the folder that holds it.
        split: "dev" or "test"; a figure on the other one is never given.
    """
    rows = [row for row in baselines if row["split"] == split and task in row["scores"]]
    own = Path(model).name
    own = own if any(row["model"] == own for row in rows) else next((row["model"] for row in rows), None)
    row = next((row for row in rows if row["model"] == own and metric in row["scores"][task]), None)
    if row is None:
        return None
    sd = row.get("sd", {}).get(task, {}).get(metric)
    score = {"score": row["scores"][task][metric], "sd": sd, "runs": row.get("runs")}
    score |= {"parameters": row.get("parameters"), "epochs": row.get("epochs", {}).get(task)}
    return {"model": row["model"], "source": row["source"], **score}


def incomparable(run: dict[str, Any], figure: dict[str, Any], rows: tuple[int, int]) -> list[str]:
    """Why scores do not stand for what a published figure stands for; empty where nothing is known against it.

    Args:
        run: `training rows`, `validation rows`, `epochs`, `million parameters` (or None).
        figure: of `published`.
        rows: those of the whole task, of train and of validation.

    >>> run = {"training rows": 200, "validation rows": 408, "epochs": 5, "million parameters": 22.7}
    >>> incomparable(run, {"epochs": 5, "parameters": 108}, (3668, 408))
    ['200 of 3668 training rows', '22.7 million parameters, published 108']
    """
    kinds = zip(("training rows", "validation rows"), rows, strict=True)
    reasons = [f"{run[kind]} of {whole} {kind}" for kind, whole in kinds if run[kind] < 0.99 * whole]
    if figure["epochs"] and run["epochs"] != figure["epochs"]:
        reasons.append(f"epochs {run['epochs']:g}, published {figure['epochs']}")
    size, other = run["million parameters"], figure["parameters"]
    if size and other and not 0.9 < size / other < 1.1:
        reasons.append(f"{size} million parameters, published {other}")
    return reasons


def chance_of_difference(values: Sequence[float], mean: float, sd: float | None, runs: int | None) -> float | None:
    """The p-value of Welch's t-test between one's own runs and published ones; None where either side has no spread.

    >>> round(chance_of_difference([88.0, 89.0, 90.0], 88.97, 0.72, 5), 2)
    0.97
    """
    from scipy.stats import ttest_ind_from_stats

    if sd is None or len(values) < 2 or not np.std(values):
        return None
    own = np.mean(values), np.std(values, ddof=1), len(values)
    return float(ttest_ind_from_stats(*own, mean, sd, runs, equal_var=False).pvalue)
