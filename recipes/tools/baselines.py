"""Published figures, with their sources: baselines.json beside this file."""

import json
from pathlib import Path
from typing import Any

from common.errors import InputError

BASELINES = Path(__file__).with_suffix(".json")


def load_baselines() -> list[dict[str, Any]]:
    """Rows of `model`, `source`, `split` and `scores` (task -> metric -> percent).

    Raises:
        InputError: a row without source or split.
    """
    rows = json.loads(BASELINES.read_text(encoding="utf-8"))
    for row in rows:
        if not row.get("source") or row.get("split") not in ("dev", "test"):
            raise InputError(
                f"{BASELINES}: {row.get('model')}: every row needs a source, and a split that is dev or test"
            )
    return rows


def published(baselines: list[dict], model: str, task: str, split: str) -> dict[str, Any] | None:
    """The row of the same model if there is one, else the first with the task.

    Args:
        model: its name, or the folder that holds it.
        split: "dev" or "test"; a figure on the other one is never given.
    """
    rows = [row for row in baselines if row["split"] == split and task in row["scores"]]
    same = [row for row in rows if row["model"] == Path(model).name]
    return next(iter(same + rows), None)
