"""README.md of a run: the Hub's model card, with its block of metadata, and how to use the model."""

from pathlib import Path
from typing import Any

from common.metrics import table

# What the Hub calls a task, and how to use a model of it, by the ending of its class. transformers 5 has no pipeline
# for question answering.
PIPELINES = {
    "ForTokenClassification": "token-classification",
    "ForSequenceClassification": "text-classification",
    "ForQuestionAnswering": "question-answering",
}
USAGE = {
    "token-classification": """from transformers import pipeline

tag = pipeline("token-classification", model="{model}", aggregation_strategy="first")
tag("Ada Lovelace worked in London.")""",
    "text-classification": """from transformers import pipeline

classify = pipeline("text-classification", model="{model}", truncation=True)
classify({texts})""",
    "question-answering": """from transformers import AutoModelForQuestionAnswering, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{model}")
model = AutoModelForQuestionAnswering.from_pretrained("{model}")

question, context = "Who wrote it?", "Mary Shelley wrote the novel in 1816."
inputs = tokenizer(question, context, return_tensors="pt")
outputs = model(**inputs)
start, end = outputs.start_logits.argmax(), outputs.end_logits.argmax()
print(tokenizer.decode(inputs["input_ids"][0, start : end + 1]))""",
}
# The Hub's metrics by the end of a score's name here; names of the Hub: https://huggingface.co/metrics
METRICS = {
    "accuracy": "accuracy",
    "f1": "f1",
    "macro_f1": "f1",
    "precision": "precision",
    "recall": "recall",
    "matthews_correlation": "matthews_correlation",
    "pearson": "pearsonr",
    "spearmanr": "spearmanr",
    "exact_match": "exact_match",
}
SPLITS = {"eval_mismatched": "validation_mismatched", "eval_matched": "validation", "eval": "validation"}
COMMENT = "# Yours to add, a line each: license (for instance apache-2.0) and language (for instance en)."


def model_card(model: str, record: dict[str, Any], config: dict[str, Any]) -> str:
    """The README.md of a run: what was trained from what, by which command, its scores, and how to use it.

    The block at its top follows huggingface/hub-docs, modelcard.md: a base model or a data set is named there only
    where it has a name on the Hub; of scores it holds those over a whole split.

    Args:
        model: its name on the Hub, or the folder.
        record: what is in run.json.
        config: what is in config.json.
    """
    from huggingface_hub import EvalResult, ModelCardData

    arguments = record["arguments"]
    base = arguments["model_name_or_path"]
    architecture = (config.get("architectures") or [""])[0]
    task = next((task for ending, task in PIPELINES.items() if architecture.endswith(ending)), "text-classification")
    is_local = any(arguments.get(f"{split}_file") for split in ("train", "validation", "test"))
    hub_data = None if is_local or Path(arguments["dataset_name"]).is_dir() else arguments["dataset_name"]
    scores, entries = [], []
    for score, value in record["results"].items():
        if not score.islower():  # of one entity type
            continue
        split, name = split_of(score)
        scores.append([split, name, float(value)])
        file = arguments.get(f"{split}_file") or arguments.get("train_file") or arguments["dataset_name"]
        if name in METRICS:
            entries.append(
                EvalResult(
                    task_type=task,
                    dataset_type=hub_data or Path(file).suffix.lstrip(".") or "folder",
                    dataset_name=hub_data or Path(file).name,
                    dataset_config=arguments.get("dataset_config_name"),
                    dataset_split=split,
                    metric_type=METRICS[name],
                    metric_value=float(value),
                    metric_name=name,
                )
            )
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag=task,
        base_model=None if Path(base).is_dir() else base,
        datasets=[hub_data] if hub_data else None,
        metrics=list(dict.fromkeys(entry.metric_type for entry in entries)) or None,
        model_name=Path(model).name,
        eval_results=entries or None,
    )
    texts = '{"text": "One text.", "text_pair": "Another."}' if config.get("texts_per_row", 1) == 2 else '"A text."'
    usage = USAGE[task].replace("{model}", model).replace("{texts}", texts)
    return (
        f"---\n{COMMENT}\n{data.to_yaml()}\n---\n\n# {Path(model).name}\n\n"
        f"`{base}`, fine-tuned by\n\n```\n{record['command']}\n```\n\n"
        f"```\n{table(['split', 'score', 'value'], scores)}\n```\n\n```python\n{usage}\n```\n\n"
        f"With the windows of the evaluation: `python -m recipes.predict --model {model} --help`.\n"
    )


def split_of(score: str) -> tuple[str, str]:
    """The split and the name of a score in `all_results.json`.

    >>> split_of("eval_mismatched_accuracy"), split_of("test_f1"), split_of("eval_exact_match")
    (('validation_mismatched', 'accuracy'), ('test', 'f1'), ('validation', 'exact_match'))
    """
    prefix = next((p for p in SPLITS if score.startswith(f"{p}_")), "test")
    return SPLITS.get(prefix, "test"), score.removeprefix(f"{prefix}_")
