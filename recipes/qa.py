"""Extractive question answering: the span of a context that answers a question. SQuAD by default, or your own files.

One row in:   question "Who wrote it?"   context "Mary Shelley wrote the novel in 1816."
One row out:  answer   "Mary Shelley"    (characters 0 to 12)

The benchmark (Hub):   python -m recipes.qa
The bundled sample:    make train-qa OFFLINE=1
Your own files:        python -m recipes.qa --train_file data/train.json --validation_file data/dev.json

Score and time to expect: README.md, Results.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

from datasets import DatasetDict, Features, List, Value
from transformers import (
    AutoModelForQuestionAnswering,
    DataCollatorWithPadding,
    EvalPrediction,
    TrainingArguments,
    set_seed,
)

from common import data, errors, metrics, questions, runs, training
from common.arguments import RecipeArguments, flag, parse_arguments
from recipes.tools.report import write_report

log = logging.getLogger("recipes")


@dataclass
class Arguments(RecipeArguments):
    model_name_or_path: str = flag("google-bert/bert-base-uncased", "Encoder with a fast tokenizer: name or folder.")
    dataset_name: str = flag("rajpurkar/squad", "Dataset on the Hub, or a local folder.")
    doc_stride: int | None = flag(None, "Word pieces that windows share. Unset: a quarter of a window, in qa a third.")
    version_2_with_negative: bool | None = flag(None, "Some questions have no answer. Unset: what the data holds.")
    n_best_size: int | None = flag(None, "Answers kept for a question. Unset: 20.")
    max_answer_length: int | None = flag(None, "Word pieces in an answer, at most. Unset: 30, or as trained.")


# The example scripts' SQuAD settings: batch 12, rate 3e-5, 2 epochs.
DEFAULTS = dict(
    do_train=True,
    do_eval=True,
    do_predict=True,
    num_train_epochs=2,
    learning_rate=3e-5,
    per_device_train_batch_size=12,
    per_device_eval_batch_size=64,
    weight_decay=0.01,
    eval_strategy="epoch",
    save_strategy="epoch",
    save_total_limit=2,
    logging_steps=0.05,  # of the run
    logging_nan_inf_filter=False,  # hides a broken loss, and reads it back every step
    metric_for_best_model="f1",
    label_names=["labels"],  # first and last position of the answer
    restore_callback_states_from_checkpoint=True,
)

FEATURES = Features(
    **{name: Value("string") for name in ("id", "title", "question", "context")},
    answers=List(Value("string")),
    answer_starts=List(Value("int64")),
    place=Value("string"),
    note=Value("string"),
)


def load_datasets(args: Arguments, training_args: TrainingArguments) -> tuple[DatasetDict, bool]:
    """Splits of questions with contexts and placed answers, and whether some questions have no answer (SQuAD 2.0)."""
    datasets = data.load_splits(data.find_sources(args, training_args), questions.questions_and_answers, FEATURES)
    datasets, version_2 = questions.checked_questions(datasets, args.version_2_with_negative)
    if training_args.do_train and training_args.do_eval and "validation" not in datasets:
        datasets |= data.hold_out(datasets["train"], training_args.seed, **questions.context_groups(datasets["train"]))
    return data.take_rows(datasets, args), version_2


def preprocess(datasets: DatasetDict, tokenizer, max_length: int, stride: int) -> DatasetDict:
    """Windows of question and context."""
    features = DatasetDict()
    for split, dataset in datasets.items():
        options = dict(
            max_length=max_length, stride=stride, labelled=data.has_gold(dataset, "answers"), offsets=split != "train"
        )
        features[split] = data.map_cached(
            dataset, questions.tokenize_questions, tokenizer, f"Tokenizing {split}", **options
        )
    return features


def decode(predictions, features, dataset, limits: dict[str, int]) -> list[dict]:
    """Start and end logits of windows -> the best spans of every question, in the order of `dataset`."""
    return questions.choose_answers(*predictions, features, dataset["context"][:], **limits)


def build_compute_metrics(dataset, features, limits: dict[str, int], version_2: bool, threshold: float | None = None):
    """Exact match and F1 over whole questions, as the official scorers give them, and at a `threshold` tuned elsewhere;
    a score that you add is reported too."""

    def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
        spans = decode(prediction.predictions, features, dataset, limits)
        return metrics.question_scores(spans, dataset["answers"][:], version_2, threshold)

    return compute_metrics


def main(argv: list[str] | None = None) -> dict[str, float]:
    # 1. Flags; the seed is set before the head is initialised.
    args, training_args = parse_arguments(Arguments, DEFAULTS, argv, __file__)
    set_seed(training_args.seed)

    # 2. Data.
    datasets, version_2 = load_datasets(args, training_args)

    # 3. The folder that this run owns: finished, to be resumed, or new.
    run = runs.open_run(__file__, argv, args, training_args, datasets)
    if run.results is not None:
        return run.results

    # 4. Tokenizer and model.
    tokenizer = training.load_tokenizer(run.model)
    model = training.load_model(AutoModelForQuestionAnswering, run.model, args, training_args, num_labels=2)
    training.freeze(model, args.freeze)

    # 5. Features. What recipes/predict.py needs beside the weights stands in the config.
    max_length, stride = training.resolve_lengths(
        tokenizer, model.config, args.max_seq_length, args.doc_stride, default=384, parts=3
    )
    trained = training.recipe_settings(model.config)
    errors.check_at_least_one(args, "n_best_size", "max_answer_length")
    limits = questions.resolve_answer_limits(trained, args)
    threshold = 0.0  # of no answer; tuned on validation below
    if not training_args.do_train:
        version_2 = version_2 or trained.get("version_2_with_negative", False)
        threshold = trained.get("null_threshold", 0.0)
    settings = dict(max_seq_length=max_length, doc_stride=stride, **limits, version_2_with_negative=version_2)
    model.config.recipe = dict(
        module=Path(__file__).stem, task="question-answering", **settings, null_threshold=threshold
    )
    features = preprocess(datasets, tokenizer, max_length, stride)
    facts = questions.describe(datasets, features)
    loss = training.span_loss(training_args.label_smoothing_factor)

    # 6. Trainer.
    trainer = training.RecipeTrainer(
        model=model,
        args=training_args,
        data_collator=DataCollatorWithPadding(tokenizer, pad_to_multiple_of=training.padding_multiple(training_args)),
        train_dataset=features.get("train"),
        eval_dataset=features.get("validation"),
        processing_class=tokenizer,
        # Of training and of validation; yours may be a mean of (outputs, labels), or as those in common/training.py.
        compute_loss_func=loss,
        compute_metrics=build_compute_metrics(
            datasets.get("validation"), features.get("validation"), limits, version_2
        ),
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
        # The threshold tuned on validation is kept with the model; other splits are also scored at it.
        tuned = None if split == "validation" else model.config.recipe["null_threshold"]
        trainer.compute_metrics = build_compute_metrics(datasets[split], features[split], limits, version_2, tuned)
        output = trainer.predict(features[split], metric_key_prefix=prefix)
        scores = metrics.reported(output.metrics)
        results |= scores
        if training_args.do_train and split == "validation" and version_2:
            model.config.recipe["null_threshold"] = results["eval_best_threshold"]
        spans = decode(output.predictions, features[split], datasets[split], limits)
        log.info("%s: %s.", split, metrics.score_line(scores))
        metrics.show_trivial(facts[split].get("trivial"), ["exact_match", "f1"])
        for name, (rows, form) in questions.answer_files(datasets[split], spans, version_2).items():
            runs.write_predictions(run.file(name, split), rows, form)

    # 9. Finish the run, and draw the report.
    runs.finish_run(run, trainer, results, facts)
    write_report(run.folder)
    runs.push_to_hub(run.folder, trainer)
    log.info("Model and results: %s", run.folder)
    example = ("--question", "Who wrote it?", "--context", "Mary Shelley wrote it.")
    trained = run.folder if training_args.do_train else run.model
    log.info("Try it: %s", runs.command_line("recipes.predict", "--model", trained, *example))
    return results


if __name__ == "__main__":
    errors.run_as_command(main)
