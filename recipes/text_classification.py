"""Text classification: a label, or a score, for every text. SST-2 by default, CoLA, or your own files.

One row in:   text    "Three weeks in and I still haven't needed the manual."
One row out:  label   "positive"

The benchmark (Hub):   python -m recipes.text_classification --task_name sst2
The bundled sample:    make train-text-classification OFFLINE=1
Your own files:        python -m recipes.text_classification --train_file data/train.csv --validation_file data/dev.csv

Score and time to expect: README.md, Results.
"""

import json
import logging
from dataclasses import dataclass
from pathlib import Path

from datasets import DatasetDict, Features, Value
from transformers import (
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    EvalPrediction,
    TrainingArguments,
    set_seed,
)

from common import data, errors, metrics, runs, texts, thresholds, training
from common.arguments import RecipeArguments, flag, parse_arguments
from recipes.tools.report import write_report

log = logging.getLogger("recipes")

# GLUE (Wang et al. 2019): text columns, label names in the order of their ids, metrics; the first metric is the best's.
TASKS = {
    "sst2": (("sentence",), ("negative", "positive"), ("accuracy",)),
    "cola": (("sentence",), ("unacceptable", "acceptable"), ("matthews_correlation", "accuracy")),
}


@dataclass
class Arguments(RecipeArguments):
    model_name_or_path: str = flag("google-bert/bert-base-uncased", "Encoder with a fast tokenizer: name or folder.")
    dataset_name: str = flag("nyu-mll/glue", "Dataset on the Hub, or a local folder.")
    task_name: str | None = flag(None, f"One of {', '.join(TASKS)}. Unset: the first, or none with own files.")
    text_columns: list[str] | None = flag(None, "Text columns. Unset: the task's, or inferred.")
    label_column: list[str] | None = flag(None, "Column of the label, or columns of 0 and 1. Unset: inferred.")
    regression: bool | None = flag(None, "Learn a score, not a class. Unset: where labels have fractions.")
    class_weights: str | None = flag(None, "balanced: all classes weigh alike in the loss. Unset: all rows do.")
    threshold_for: str | None = flag(None, "f1, precision>=0.9 or recall>=0.9 on validation. Unset: 0.5 is enough.")


# The example scripts' GLUE settings, which are within BERT's grid (arXiv 1810.04805, appendix A.3).
DEFAULTS = dict(
    do_train=True,
    do_eval=True,
    do_predict=True,
    num_train_epochs=3,
    learning_rate=2e-5,
    per_device_train_batch_size=32,
    per_device_eval_batch_size=128,
    weight_decay=0.01,
    eval_strategy="epoch",
    save_strategy="epoch",
    save_total_limit=2,
    logging_steps=0.05,  # of the run
    logging_nan_inf_filter=False,  # hides a broken loss, and reads it back every step
    restore_callback_states_from_checkpoint=True,
)

FEATURES = Features({name: Value("string") for name in ("text", "text_pair", "label", "place", "note")})


def load_datasets(args: Arguments, training_args: TrainingArguments) -> tuple[DatasetDict, list | None, bool, dict]:
    """Splits of texts and labels; the label names in their order, or None where a score is learned; whether a text may
    have several labels; the columns read."""
    columns, names, _ = TASKS.get(args.task_name, (None, None, None))
    sources = data.find_sources(args, training_args)
    trained = {} if training_args.do_train else training.settings_of(args.model_name_or_path)
    columns, label_columns = texts.find_columns(
        sources, 1, args.text_columns or columns, args.label_column or (["label"] if columns else None), trained
    )
    options = dict(text_columns=columns, label_columns=label_columns, names=names, is_task=args.task_name is not None)
    datasets = data.load_splits(sources, texts.labelled_texts, FEATURES, **options)
    regression = trained.get("regression", args.regression if args.task_name is None else names is None)
    datasets, label_list, several = texts.checked_labels(datasets, names, regression, trained.get("several"))
    thresholds.check_goal(args.threshold_for, label_list, several, training_args)
    if training_args.do_train and training_args.do_eval and "validation" not in datasets:
        groups = texts.label_groups(datasets["train"], label_list is None)
        datasets |= data.hold_out(datasets["train"], training_args.seed, **groups)
    columns = dict(text_columns=list(columns), label_columns=list(label_columns))
    return data.take_rows(datasets, args), label_list, several, columns


def preprocess(datasets: DatasetDict, label_list: list | None, several: bool, tokenizer, max_length) -> DatasetDict:
    """Word pieces of each text, cut at `max_seq_length`."""
    label2id = None if label_list is None else {label: i for i, label in enumerate(label_list)}
    features = DatasetDict()
    for split, dataset in datasets.items():
        labelled = dict(label2id=label2id, scores=label_list is None, several=several)
        labelled = labelled if data.has_gold(dataset, "label") else {}
        features[split] = data.map_cached(
            dataset, texts.tokenize_texts, tokenizer, f"Tokenizing {split}", max_length=max_length, **labelled
        )
    return features


def build_compute_metrics(label_list: list[str] | None, metric_names: tuple[str, ...]):
    """The task's metrics; a score that you add is reported too."""

    def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
        scores = metrics.label_scores(prediction.predictions, prediction.label_ids, label_list)
        return {name: scores[name] for name in metric_names}

    return compute_metrics


def main(argv: list[str] | None = None) -> dict[str, float]:
    # 1. Flags; the seed is set before the head is initialised.
    args, training_args = parse_arguments(Arguments, DEFAULTS, argv, __file__, TASKS)
    set_seed(training_args.seed)

    # 2. Data.
    datasets, label_list, several, columns = load_datasets(args, training_args)

    # 3. The folder that this run owns: finished, to be resumed, or new.
    run = runs.open_run(__file__, argv, args, training_args, datasets)
    if run.results is not None:
        return run.results

    # 4. Tokenizer and model, which keeps the label names.
    tokenizer = training.load_tokenizer(run.model)
    if label_list is not None:
        is_trained = not training_args.do_train
        label_list = training.model_label_list(run.model, label_list, is_trained, args.new_head)
    head = training.head_config(label_list, several)
    model = training.load_model(AutoModelForSequenceClassification, run.model, args, training_args, **head)
    training.freeze(model, args.freeze)

    # 5. Features. What recipes/predict.py needs beside the weights stands in the config.
    max_length, _ = training.resolve_lengths(tokenizer, model.config, args.max_seq_length, 0)
    settings = dict(task_name=args.task_name, **columns, max_seq_length=max_length, doc_stride=0)
    trained = {} if training_args.do_train else training.recipe_settings(model.config)
    settings |= thresholds.as_trained(trained, label_list)
    model.config.recipe = dict(module=Path(__file__).stem, task="text-classification", **settings)
    features = preprocess(datasets, label_list, several, tokenizer, max_length)
    facts = texts.describe(datasets, features, label_list)
    weights = training.balanced_class_weights(args.class_weights, features, label_list)

    # 6. Trainer.
    metric_names = TASKS[args.task_name][2] if args.task_name else metrics.default_metrics(label_list, several)
    trainer = training.RecipeTrainer(
        model=model,
        args=training_args,
        data_collator=DataCollatorWithPadding(tokenizer, pad_to_multiple_of=training.padding_multiple(training_args)),
        train_dataset=features.get("train"),
        eval_dataset=features.get("validation"),
        processing_class=tokenizer,
        # Of training and of validation; yours may be a mean of (outputs, labels), or as those in common/training.py.
        compute_loss_func=training.label_loss(label_list, weights, training_args.label_smoothing_factor, several),
        compute_metrics=build_compute_metrics(label_list, metric_names),
        callbacks=run.callbacks,
        flags=args,
    )

    # 7. Train, from the newest complete checkpoint where there is one, and save the model before anything is scored.
    if training_args.do_train and not run.is_trained:
        trainer.train(resume_from_checkpoint=run.checkpoint)
        runs.save_model(run, trainer)

    # 8. Scores of the model as it is saved, and predictions: of the test split where there is one, else of validation.
    results = {}
    for split, prefix in (("validation", "eval"), ("test", "test")):
        if split not in features:
            continue
        output = trainer.predict(features[split], metric_key_prefix=prefix)
        if split == "validation" and training_args.do_train:
            settings |= thresholds.tune(args.threshold_for, output.predictions, output.label_ids, label_list)
            model.config.recipe |= settings
        logits, gold, limits = output.predictions / settings["temperature"], output.label_ids, settings["thresholds"]
        scores = metrics.reported(output.metrics)
        scores |= metrics.tuned_scores(prefix, logits, gold, label_list, metric_names, limits)
        results |= scores
        texts.show_labels(split, facts[split], logits, gold, label_list, scores, limits)
        rows = texts.predicted_rows(datasets[split], logits, label_list, several, limits)
        runs.write_predictions(run.file("predictions.jsonl", split), rows, json.dumps)

    # 9. Finish the run, and draw the report.
    runs.finish_run(run, trainer, results, facts)
    write_report(run.folder)
    runs.push_to_hub(run.folder, trainer)
    log.info("Model and results: %s", run.folder)
    example = ("--text", "Three weeks in and it still works.")
    trained = run.folder if training_args.do_train else run.model
    log.info("Try it: %s", runs.command_line("recipes.predict", "--model", trained, *example))
    return results


if __name__ == "__main__":
    errors.run_as_command(main)
