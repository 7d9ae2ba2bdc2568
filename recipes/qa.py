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
    datasets = data.load_splits(args, training_args, questions.questions_and_answers, FEATURES, lambda source: {})
    datasets, version_2 = questions.checked_questions(datasets, args.version_2_with_negative)
    if training_args.do_train and training_args.do_eval and "validation" not in datasets:
        datasets |= data.hold_out(datasets["train"], training_args.seed, **questions.context_groups(datasets["train"]))
    return data.take_rows(datasets, args), version_2


def preprocess(datasets: DatasetDict, tokenizer, config, args: Arguments) -> DatasetDict:
    """Windows of question and context."""
    questions.resolve_answer_limits(args, config)
    max_length, stride = training.resolve_lengths(
        tokenizer, config, args.max_seq_length, args.doc_stride, default=384, parts=3
    )
    features = DatasetDict()
    for split, dataset in datasets.items():
        options = dict(
            max_length=max_length, stride=stride, labelled=questions.has_answers(dataset), offsets=split != "train"
        )
        features[split] = data.map_cached(
            dataset, questions.tokenize_questions, tokenizer, f"Tokenizing {split}", **options
        )
    return features


def decode(predictions, features, dataset, args: Arguments) -> list[dict]:
    """Start and end logits of windows -> the best spans of every question, in the order of `dataset`."""
    return questions.choose_answers(
        *predictions, features, dataset["context"][:], args.n_best_size, args.max_answer_length
    )


def build_compute_metrics(dataset, features, args: Arguments, version_2: bool):
    """Exact match and F1 over whole questions, as the official scorers give them."""

    def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
        found = decode(prediction.predictions, features, dataset, args)
        return metrics.question_scores(found, dataset["answers"][:], version_2)

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
    tokenizer = training.load_tokenizer(args.model_name_or_path)
    model = training.load_model(AutoModelForQuestionAnswering, args, training_args)
    if training_args.do_train:
        model.config.version_2_with_negative, model.config.null_threshold = version_2, 0.0
    version_2 = version_2 or getattr(model.config, "version_2_with_negative", False)
    training.freeze(model, args.freeze)

    # 5. Features.
    features = preprocess(datasets, tokenizer, model.config, args)
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
        compute_loss_func=loss,
        compute_metrics=build_compute_metrics(datasets.get("validation"), features.get("validation"), args, version_2),
        callbacks=run.callbacks + training.early_stopping(args.early_stopping_patience),
    )

    # 7. Train, from the newest complete checkpoint where there is one.
    if training_args.do_train:
        trainer.train(resume_from_checkpoint=run.checkpoint)

    # 8. Scores of the model as it is saved, and predictions: of the test split where there is one, else of validation.
    results, trainer.compute_metrics = {}, None
    for split, prefix in (("validation", "eval"), ("test", "test")):
        if split not in features:
            continue
        output = trainer.predict(features[split], metric_key_prefix=prefix)
        found = decode(output.predictions, features[split], datasets[split], args)
        if questions.has_answers(datasets[split]):
            # The threshold tuned on validation is kept with the model; other splits are also scored at it.
            tuned = None if split == "validation" else getattr(model.config, "null_threshold", 0.0)
            scores = metrics.question_scores(found, datasets[split]["answers"][:], version_2, tuned)
            if training_args.do_train and "best_threshold" in scores:
                model.config.null_threshold = scores["best_threshold"]
            questions.show_answers(split, datasets[split], found, scores, version_2)
            results |= {f"{prefix}_{name}": score for name, score in scores.items()}
            results[f"{prefix}_loss"] = output.metrics[f"{prefix}_loss"]
        for name, (rows, form) in questions.answer_files(datasets[split], found, version_2).items():
            runs.write_predictions(run.file(name, split), rows, form)

    # 9. Save, and draw the report.
    runs.finish_run(run, trainer, results, facts)
    write_report(run.folder)
    runs.push_to_hub(run.folder, trainer)
    log.info("Model and results: %s", run.folder)
    log.info('Try it: make predict-qa MODEL=%s QUESTION="Who wrote it?" CONTEXT="Mary Shelley wrote it."', run.folder)
    return results


if __name__ == "__main__":
    errors.run_as_command(main)
