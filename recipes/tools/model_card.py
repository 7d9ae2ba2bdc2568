"""README.md of a run: the Hub's model card, with its block of metadata, and how to use the model."""

import shlex
from pathlib import Path
from typing import Any

from common.metrics import split_of, table

TEMPLATE = Path(__file__).parent / "templates" / "model_card.md"
# What the Hub calls a task, by the ending of the model's class, for folders that do not say it.
TASKS = {
    "ForTokenClassification": "token-classification",
    "ForSequenceClassification": "text-classification",
    "ForQuestionAnswering": "question-answering",
}
# The Hub's metrics, https://huggingface.co/metrics, and those that have another name here.
METRICS = {"accuracy", "f1", "precision", "recall", "matthews_correlation", "pearsonr", "spearmanr", "exact_match"}
HUB_NAMES = {"macro_f1": "f1", "micro_f1": "f1", "pearson": "pearsonr"}


def task_of(config: dict[str, Any]) -> str | None:
    """The Hub's name of the task of a model: as its recipe wrote it down, else by its class; None for another kind.

    >>> task_of({"architectures": ["BertForTokenClassification"]}), task_of({"architectures": ["BertModel"]})
    ('token-classification', None)
    """
    architecture = (config.get("architectures") or [""])[0]
    by_class = next((task for ending, task in TASKS.items() if architecture.endswith(ending)), None)
    return (config.get("recipe") or {}).get("task", by_class)


def model_card(model: str, record: dict[str, Any], config: dict[str, Any]) -> str:
    """The README.md of a run: what was trained from what, by which command, its scores, and how to use it.

    The block at its top follows huggingface/hub-docs, modelcard.md: a base model or a data set is named there only
    where it has a name on the Hub; of scores it holds those over a whole split.

    Args:
        model: its name on the Hub, or the folder.
        record: what is in run.json.
        config: what is in config.json.
    """
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

    arguments, settings = record["arguments"], config.get("recipe") or {}
    base, task = arguments["model_name_or_path"], task_of(config) or "text-classification"
    is_local = any(arguments.get(f"{split}_file") for split in ("train", "validation", "test"))
    hub_data = None if is_local or Path(arguments["dataset_name"]).is_dir() else arguments["dataset_name"]
    scores, entries = [], []
    for score, value in record["results"].items():
        if not score.islower():  # of one entity type
            continue
        split, name = split_of(score)
        scores.append([split, name, float(value)])
        file = arguments.get(f"{split}_file") or arguments.get("train_file") or arguments["dataset_name"]
        if name != "loss":
            entries.append(
                EvalResult(
                    task_type=task,
                    dataset_type=hub_data or Path(file).suffix.lstrip(".") or "folder",
                    dataset_name=hub_data or Path(file).name,
                    dataset_config=arguments.get("dataset_config_name"),
                    dataset_split=split,
                    metric_type=HUB_NAMES.get(name, name),
                    metric_value=float(value),
                    metric_name=name,
                )
            )
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag=task,
        base_model=None if Path(base).is_dir() else base,
        datasets=[hub_data] if hub_data else None,
        metrics=list(dict.fromkeys(entry.metric_type for entry in entries if entry.metric_type in METRICS)),
        model_name=Path(model).name,
        eval_results=entries or None,
    )
    card = ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        name=Path(model).name,
        model=model,
        base=base,
        task=task,
        command=record["command"],
        scores=table(["split", "score", "value"], scores),
        pairs=len(settings.get("text_columns", ())) == 2 or config.get("texts_per_row") == 2,
        several=config.get("problem_type") == "multi_label_classification",
        temperature=settings.get("temperature", 1.0),
        windows=bool(settings.get("doc_stride")),
        shell_model=shlex.quote(model),
    )
    return str(card)
