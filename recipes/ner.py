"""Named entity recognition: a tag for every word. CoNLL-2003 by default, or your own files.

One row in:   tokens   ["Ada", "Lovelace", "worked", "in", "London"]
One row out:  tags     ["B-PER", "I-PER", "O", "O", "B-LOC"]

The benchmark (Hub):   python -m recipes.ner
The bundled sample:    make train-ner OFFLINE=1
Your own files:        python -m recipes.ner --train_file data/train.conll --validation_file data/dev.conll

Score and time to expect: README.md, Results.
"""

import json
import logging
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from datasets import DatasetDict, Features, List, Value
from transformers import (
    AutoModelForTokenClassification,
    DataCollatorForTokenClassification,
    EvalPrediction,
    TrainingArguments,
    set_seed,
)

from common import data, errors, metrics, runs, training, words
from common.arguments import RecipeArguments, flag, parse_arguments
from recipes.tools.report import write_report

log = logging.getLogger("recipes")


@dataclass
class Arguments(RecipeArguments):
    model_name_or_path: str = flag("google-bert/bert-base-cased", "Encoder with a fast tokenizer: name or folder.")
    dataset_name: str = flag("lhoestq/conll2003", "Dataset on the Hub, or a local folder.")
    tokens_column: str | None = flag(None, "Column of words. Unset: tokens or words.")
    tags_column: str | None = flag(None, "Column of tags. Unset: ner_tags, tags, labels or ner.")
    label_list: list[str] | None = flag(None, "Names of integer tags, in order. Unset: the file says them.")
    viterbi: bool | None = flag(
        None, "Predict the likeliest tags among legal ones. Unset: as trained, else each alone."
    )
    context: str | None = flag(None, "sentence, or document to read neighbours too. Unset: as trained, else sentence.")
    document_size: int | None = flag(None, "Sentences in a document where the file marks none. Unset: none is taken.")
    doc_stride: int | None = flag(None, "Word pieces that windows share. Unset: a quarter of a window, in qa a third.")


# BERT's fine-tuning grid (arXiv 1810.04805, appendix A.3): batch 16 or 32, rate 2e-5 to 5e-5, 2 to 4 epochs.
DEFAULTS = dict(
    do_train=True,
    do_eval=True,
    do_predict=True,
    num_train_epochs=3,
    learning_rate=5e-5,
    per_device_train_batch_size=32,
    per_device_eval_batch_size=64,
    weight_decay=0.01,
    eval_strategy="epoch",
    save_strategy="epoch",
    save_total_limit=2,
    logging_steps=0.05,  # of the run
    logging_nan_inf_filter=False,  # hides a broken loss, and reads it back every step
    metric_for_best_model="f1",
    restore_callback_states_from_checkpoint=True,
)

FEATURES = Features(
    tokens=List(Value("string")),
    ner_tags=List(Value("string")),
    document=Value("string"),
    place=Value("string"),
    note=Value("string"),
)


def load_datasets(args: Arguments, training_args: TrainingArguments) -> tuple[DatasetDict, list[str]]:
    """Splits of sentences with BIO tags, and the label names of the training data (of all data when not training)."""
    columns = dict(tokens_column=args.tokens_column, tags_column=args.tags_column, label_list=args.label_list)
    sources = data.find_sources(args, training_args)
    datasets = data.load_splits(sources, words.tagged_sentences, FEATURES, **columns)
    if training_args.do_train and training_args.do_eval and "validation" not in datasets:
        groups = words.sentence_groups(datasets["train"], args.document_size)
        datasets |= data.hold_out(datasets["train"], training_args.seed, **groups)
    label_list = words.bio_label_list(words.entity_types(datasets))
    return data.take_rows(datasets, args), label_list


def preprocess(datasets: DatasetDict, label_list: list[str], tokenizer, **windows) -> DatasetDict:
    """Windows of word pieces in which every word has one place."""
    features = DatasetDict()
    for split, dataset in datasets.items():
        label2id = {label: i for i, label in enumerate(label_list)} if data.has_gold(dataset, "ner_tags") else None
        features[split] = data.map_cached(
            dataset, words.tokenize_and_align_labels, tokenizer, f"Tokenizing {split}", label2id=label2id, **windows
        )
    return features


def decode(predictions, features, dataset, label_list: list[str]) -> tuple[list[list[str]], list[list[float]]]:
    """Predictions of windows -> a tag per word and its probability, in the order of `dataset`."""
    places = features["word_ids"], features["row"], [len(tokens) for tokens in dataset["tokens"]]
    if not isinstance(predictions, tuple):  # of all labels, with --viterbi
        return words.legal_tags(predictions, *places, label_list)
    ids, probabilities = predictions
    return words.tags_of_sentences(ids, *places, label_list), words.values_of_words(probabilities, *places)


def build_compute_metrics(dataset, features, label_list: list[str], per_type: bool = False):
    """Entity scores over whole sentences, as `conlleval` gives them; a score that you add is reported too."""

    def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
        predicted, _ = decode(prediction.predictions, features, dataset, label_list)
        return metrics.flat_scores(metrics.score("entities", dataset["ner_tags"][:], predicted), per_type)

    return compute_metrics


def main(argv: list[str] | None = None) -> dict[str, float]:
    # 1. Flags; the seed is set before the head is initialised.
    args, training_args = parse_arguments(Arguments, DEFAULTS, argv, __file__)
    set_seed(training_args.seed)

    # 2. Data.
    datasets, label_list = load_datasets(args, training_args)

    # 3. The folder that this run owns: finished, to be resumed, or new.
    run = runs.open_run(__file__, argv, args, training_args, datasets)
    if run.results is not None:
        return run.results

    # 4. Tokenizer and model, which keeps the label names.
    tokenizer = training.load_tokenizer(run.model, is_split_into_words=True)
    is_trained = not training_args.do_train
    label_list = training.model_label_list(run.model, label_list, is_trained, args.new_head)
    names = dict(id2label=dict(enumerate(label_list)), label2id={label: i for i, label in enumerate(label_list)})
    model = training.load_model(AutoModelForTokenClassification, run.model, args, training_args, **names)
    training.freeze(model, args.freeze)

    # 5. Features. What recipes/predict.py needs beside the weights stands in the config.
    max_length, stride = training.resolve_lengths(tokenizer, model.config, args.max_seq_length, args.doc_stride)
    as_trained = training.recipe_settings(model.config)
    context = words.resolve_context(args, as_trained, datasets)
    viterbi = as_trained.get("viterbi", False) if args.viterbi is None else args.viterbi
    temperature = 1.0 if training_args.do_train else as_trained.get("temperature", 1.0)
    settings = dict(max_seq_length=max_length, doc_stride=stride, temperature=temperature, viterbi=viterbi, **context)
    model.config.recipe = dict(module=Path(__file__).stem, task="token-classification", **settings)
    features = preprocess(datasets, label_list, tokenizer, max_length=max_length, stride=stride, **context)
    facts = words.describe(datasets, features)

    # 6. Trainer.
    token_outputs = training.token_log_probabilities if viterbi else training.token_predictions
    trainer = training.RecipeTrainer(
        model=model,
        args=training_args,
        data_collator=DataCollatorForTokenClassification(
            tokenizer, pad_to_multiple_of=training.padding_multiple(training_args)
        ),
        train_dataset=features.get("train"),
        eval_dataset=features.get("validation"),
        processing_class=tokenizer,
        # Of training and of validation; yours may be a mean of (outputs, labels), or as those in common/training.py.
        compute_loss_func=training.cross_entropy_loss(label_smoothing=training_args.label_smoothing_factor),
        compute_metrics=build_compute_metrics(datasets.get("validation"), features.get("validation"), label_list),
        preprocess_logits_for_metrics=token_outputs,
        callbacks=run.callbacks,
        flags=args,
    )

    # 7. Train, from the newest complete checkpoint where there is one, and save the model before anything is scored.
    if training_args.do_train and not run.is_trained:
        trainer.train(resume_from_checkpoint=run.checkpoint)
        runs.save_model(run, trainer)

    # 8. Scores of the model as it is saved, and predictions: of the test split where there is one, else of validation.
    results = {}
    if training_args.do_train and "validation" in features:
        temperature = model.config.recipe["temperature"] = training.token_temperature(trainer, features["validation"])
    trainer.preprocess_logits_for_metrics = partial(token_outputs, temperature=temperature)
    for split, prefix in (("validation", "eval"), ("test", "test")):
        if split not in features:
            continue
        trainer.compute_metrics = build_compute_metrics(datasets[split], features[split], label_list, per_type=True)
        output = trainer.predict(features[split], metric_key_prefix=prefix)
        results |= metrics.reported(output.metrics)
        predicted, probabilities = decode(output.predictions, features[split], datasets[split], label_list)
        words.show_entities(split, datasets[split], facts[split], predicted)
        sentences = words.tagged_rows(datasets[split], predicted, probabilities)
        runs.write_predictions(run.file("predictions.jsonl", split), sentences, json.dumps)
        if words.has_conll_form(sentences):
            runs.write_predictions(run.file("predictions.conll", split), sentences, words.conll_block)

    # 9. Finish the run, and draw the report.
    runs.finish_run(run, trainer, results, facts)
    write_report(run.folder)
    runs.push_to_hub(run.folder, trainer)
    log.info("Model and results: %s", run.folder)
    example = ("--text", "Ada Lovelace worked in London.")
    trained = run.folder if training_args.do_train else run.model
    log.info("Try it: %s", runs.command_line("recipes.predict", "--model", trained, *example))
    return results


if __name__ == "__main__":
    errors.run_as_command(main)
