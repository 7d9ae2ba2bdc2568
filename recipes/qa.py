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

from common.arguments import RecipeArguments, flag, parse_arguments
from common.data import hold_out, load_splits, map_cached, take_rows
from common.errors import run_as_command
from common.metrics import question_scores
from common.postprocessing import choose_answers
from common.preprocessing import load_tokenizer, resolve_lengths, tokenize_questions
from common.questions import (
    answer_files,
    checked_questions,
    context_groups,
    has_answers,
    questions_and_answers,
    resolve_answer_limits,
)
from common.runs import finish_run, open_run, push_to_hub, write_predictions
from common.tables import show_answers, show_question_data
from common.training import (
    RecipeTrainer,
    early_stopping,
    freeze,
    load_model,
    padding_multiple,
    span_loss,
)
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
    datasets = load_splits(args, training_args, questions_and_answers, FEATURES, lambda source: {})
    datasets, version_2 = checked_questions(datasets, args.version_2_with_negative)
    if training_args.do_train and training_args.do_eval and "validation" not in datasets:
        datasets |= hold_out(datasets["train"], training_args.seed, **context_groups(datasets["train"]))
    return take_rows(datasets, args), version_2


def preprocess(datasets: DatasetDict, tokenizer, config, args: Arguments) -> DatasetDict:
    """Windows of question and context."""
    resolve_answer_limits(args, config)
    max_length, stride = resolve_lengths(tokenizer, config, args.max_seq_length, args.doc_stride, default=384, parts=3)
    features = DatasetDict()
    for split, dataset in datasets.items():
        options = dict(max_length=max_length, stride=stride, labelled=has_answers(dataset), offsets=split != "train")
        features[split] = map_cached(dataset, tokenize_questions, tokenizer, f"Tokenizing {split}", **options)
    show_question_data(datasets, features)
    return features


def decode(predictions, features, dataset, args: Arguments) -> list[dict]:
    """Start and end logits of windows -> the best spans of every question, in the order of `dataset`."""
    return choose_answers(*predictions, features, dataset["context"][:], args.n_best_size, args.max_answer_length)


def build_compute_metrics(dataset, features, args: Arguments, version_2: bool):
    """Exact match and F1 over whole questions, as the official scorers give them."""

    def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
        found = decode(prediction.predictions, features, dataset, args)
        return question_scores(found, dataset["answers"][:], version_2)

    return compute_metrics


def main(argv: list[str] | None = None) -> dict[str, float]:
    # Flags; the seed is set before the head is initialised.
    args, training_args = parse_arguments(Arguments, DEFAULTS, argv, __file__)
    set_seed(training_args.seed)

    # Data.
    datasets, version_2 = load_datasets(args, training_args)

    # The folder that this run owns: finished, to be resumed, or new.
    run = open_run(__file__, argv, args, training_args, datasets)
    if run.results is not None:
        return run.results

    # Tokenizer and model.
    tokenizer = load_tokenizer(args.model_name_or_path)
    model = load_model(AutoModelForQuestionAnswering, args, training_args)
    if training_args.do_train:
        model.config.version_2_with_negative, model.config.null_threshold = version_2, 0.0
    version_2 = version_2 or getattr(model.config, "version_2_with_negative", False)
    freeze(model, args.freeze)

    # Features.
    features = preprocess(datasets, tokenizer, model.config, args)
    loss = span_loss(training_args.label_smoothing_factor)

    # Trainer.
    trainer = RecipeTrainer(
        model=model,
        args=training_args,
        data_collator=DataCollatorWithPadding(tokenizer, pad_to_multiple_of=padding_multiple(training_args)),
        train_dataset=features.get("train"),
        eval_dataset=features.get("validation"),
        processing_class=tokenizer,
        compute_loss_func=loss,
        compute_metrics=build_compute_metrics(datasets.get("validation"), features.get("validation"), args, version_2),
        callbacks=run.callbacks + early_stopping(args.early_stopping_patience),
    )
    if training_args.do_train:
        trainer.train(resume_from_checkpoint=run.checkpoint)

    # Scores of the model as it is saved, and predictions: of the test split where there is one, else of validation.
    results, trainer.compute_metrics = {}, None
    for split, prefix in (("validation", "eval"), ("test", "test")):
        if split not in features:
            continue
        output = trainer.predict(features[split], metric_key_prefix=prefix)
        found = decode(output.predictions, features[split], datasets[split], args)
        tuned = getattr(model.config, "null_threshold", 0.0)
        if has_answers(datasets[split]):
            # The threshold tuned on validation is kept with the model; other splits are also scored at it.
            scores = question_scores(
                found, datasets[split]["answers"][:], version_2, None if split == "validation" else tuned
            )
            if training_args.do_train and "best_threshold" in scores:
                model.config.null_threshold = scores["best_threshold"]
            show_answers(split, datasets[split], found, scores, version_2)
            results |= {f"{prefix}_{name}": score for name, score in scores.items()}
            results[f"{prefix}_loss"], tuned = output.metrics[f"{prefix}_loss"], 0.0
        for name, (rows, form) in answer_files(datasets[split], found, version_2, tuned).items():
            write_predictions(run.file(name, split), rows, form)

    # Save, and draw the report.
    finish_run(run, trainer, results)
    write_report(run.folder)
    push_to_hub(run.folder, trainer)
    log.info("Model and results: %s", run.folder)
    log.info('Try it: make predict-qa MODEL=%s QUESTION="Who wrote it?" CONTEXT="Mary Shelley wrote it."', run.folder)
    return results


if __name__ == "__main__":
    run_as_command(main)
