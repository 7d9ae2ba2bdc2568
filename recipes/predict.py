"""Answers from a trained model: text, a file or standard input -> a readable table or JSON lines.

What the model reads stands in its config, as the recipe that trained it wrote it there; inputs are cut into windows as
the evaluation cut them.

    python -m recipes.predict --model runs/ner --text "Ada Lovelace worked in London."
    python -m recipes.predict --model runs/ner --file data/test.conll --json > answers.jsonl
    cat letters.txt | python -m recipes.predict --model runs/ner
    python -m recipes.predict --model runs/qa --question "Who wrote it?" --context "Mary Shelley wrote it."
    python -m recipes.predict --model runs/qa --file data/questions.jsonl --json
"""

import argparse
import importlib.util
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common.data import decode_lines, is_tag, read_lines, read_rows
from common.errors import InputError, OneLineParser, go_offline_without_hub, hub_errors, run_as_command
from recipes.tools.model_card import task_of


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = OneLineParser("python -m recipes.predict", description=__doc__, allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--model", required=True, help="folder of a finished run, or a model's name on the Hub")
    parser.add_argument("--text", nargs="+", help="one or more texts")
    parser.add_argument("--text_pair", nargs="+", help="the second text of each, for a model that reads pairs")
    parser.add_argument("--question", nargs="+", help="one or more questions, for a model that answers them")
    parser.add_argument("--context", help="the text that holds their answers")
    parser.add_argument("--context_file", help="a file that holds it")
    parser.add_argument(
        "--file", help="a text per line (.txt), or .conll .jsonl .json .parquet .csv .tsv as for training"
    )
    parser.add_argument("--text_columns", nargs="+", help="columns of a file that hold the texts; unset: inferred")
    parser.add_argument("--label_column", help="column of a file that holds the label; unset: inferred")
    parser.add_argument("--json", action="store_true", help="JSON lines instead of a table")
    parser.add_argument("--batch_size", type=int, default=64, help="windows computed at once")
    return parser.parse_args(argv)


def read_inputs(args: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, row) of each input; raw text becomes a row with `text`."""
    if bool(args.text) + bool(args.file) + bool(args.question) > 1:
        raise InputError("--text, --question and --file exclude each other")
    if bool(args.question) != bool(args.context or args.context_file) or (args.context and args.context_file):
        raise InputError("--question needs its text: either --context or --context_file")
    if args.text_pair and len(args.text or []) != len(args.text_pair):
        raise InputError(f"{len(args.text or [])} --text but {len(args.text_pair)} --text_pair; give one for each")
    if args.question:
        lines = read_lines(args.context_file) if args.context_file else [(1, args.context)]
        context = "\n".join(line for _, line in lines)
        yield from ((f"question {i}", {"question": q, "context": context}) for i, q in enumerate(args.question, 1))
    elif args.text:
        pairs = args.text_pair or [None] * len(args.text)
        for i, (text, pair) in enumerate(zip(args.text, pairs, strict=True), 1):
            yield f"text {i}", {"text": text} | ({"text_pair": pair} if pair is not None else {})
    elif args.file and not is_plain_text(args.file):
        yield from read_rows(args.file)
    else:
        if not args.file and sys.stdin.isatty():
            print("Reading a text per line; end with Ctrl-D.", file=sys.stderr)
        lines = read_lines(args.file) if args.file else decode_lines(sys.stdin.buffer, "standard input")
        yield from ((f"line {i}", {"text": line}) for i, line in lines if line.strip())


def is_plain_text(path: str) -> bool:
    """A .txt file is raw text unless its first filled line looks like CoNLL columns."""

    if Path(path).suffix.lower() != ".txt":
        return False
    fields = next((line.split() for _, line in read_lines(path) if line.strip()), [])
    return not (fields[:1] == ["-DOCSTART-"] or (len(fields) > 1 and is_tag(fields[-1])))


def main(argv: list[str] | None = None) -> list[dict[str, Any]]:
    args = parse(argv)
    if args.batch_size < 1:
        raise InputError(f"--batch_size {args.batch_size}: must be at least 1")
    inputs = list(read_inputs(args))
    if not inputs:
        raise InputError(f"{args.file or 'standard input'}: holds no text")
    if not os.path.exists(args.model) and args.model.startswith(("runs/", ".", "/")):
        raise InputError(f"{args.model}: no such folder; train a model first, for instance make train-ner OFFLINE=1")
    go_offline_without_hub(args.model)
    from transformers import AutoConfig

    with hub_errors("model", args.model):
        config = AutoConfig.from_pretrained(args.model)
    predict = TASKS.get(task_of(config.to_dict()))
    if predict is None:
        own = (config.architectures or ["its config"])[0]
        raise InputError(f"{args.model}: {own} names no task that can be predicted; train it first")
    if bool(args.question) != (predict is predict_answers) and not args.file:
        given = "--question and --context" if predict is predict_answers else "--text"
        raise InputError(f"{args.model}: a model for another task than that; give {given}, or --file")
    return predict(args, config, inputs)


def model_class(name: str, config: Any, auto_class: Any) -> Any:
    """`auto_class`, or the class that the recipe which trained the model defines: a module of this package, for nothing
    else is ever imported because a folder says so.

    Raises:
        InputError: the class is neither transformers' nor that recipe's.
    """
    import transformers

    own, module = (config.architectures or [""])[0], (getattr(config, "recipe", None) or {}).get("module", "")
    if hasattr(transformers, own):
        return auto_class
    if module.isidentifier() and importlib.util.find_spec(f"recipes.{module}"):
        defined = getattr(importlib.import_module(f"recipes.{module}"), own, None)
        if isinstance(defined, type) and issubclass(defined, transformers.PreTrainedModel):
            return defined
    raise InputError(
        f"{name}: its class {own} is none of transformers', and recipes/{module or '?'}.py does not define it; put it "
        "there, at the top level"
    )


# Named entities


def predict_tags(args: argparse.Namespace, config: Any, inputs: list[tuple[str, dict]]) -> list[dict[str, Any]]:
    """Tags and entities of each input; scored as well where every row has tags."""
    from transformers import AutoModelForTokenClassification, DataCollatorForTokenClassification

    from common.metrics import entities, entity_scores, table, word_accuracy
    from common.training import compute_logits, load_tokenizer, model_label_list, resolve_lengths
    from common.words import (
        bio_tags,
        entity_spans,
        entity_table,
        split_words,
        tagged_row,
        tags_of_sentences,
        tokenize_and_align_labels,
    )

    name = args.file or "input"
    label_list = model_label_list(args.model, [], is_trained=True)
    rows = [tagged_row(name, None, None, label_list, place, row) for place, row in inputs]
    texts = [row.get("text") for _, row in inputs]
    # Character spans where the words are those of the text, and not a column of their own.
    words = [split_words(text) if text and isinstance(text, str) else None for text in texts]
    words = [
        spans if spans and row["tokens"] == [text[a:b] for a, b in spans] else None
        for spans, text, row in zip(words, texts, rows, strict=True)
    ]

    tokenizer = load_tokenizer(args.model, is_split_into_words=True)
    max_length, stride = resolve_lengths(tokenizer, config, None, None)
    batch = {"tokens": [row["tokens"] for row in rows]}
    features = tokenize_and_align_labels(batch, range(len(rows)), tokenizer, max_length, stride)
    logits = compute_logits(
        model_class(args.model, config, AutoModelForTokenClassification),
        args.model,
        features,
        DataCollatorForTokenClassification(tokenizer),
        args.batch_size,
    )
    predicted = tags_of_sentences(
        [window.argmax(-1) for window in logits],
        features["word_ids"],
        features["sentence"],
        [len(row["tokens"]) for row in rows],
        label_list,
    )

    answers = []
    for row, text, spans, tags in zip(rows, texts, words, predicted, strict=True):
        if spans is None:
            found = [
                {"label": t, "text": " ".join(row["tokens"][a:b]), "first_word": a, "last_word": b - 1}
                for t, a, b in entities(tags)
            ]
            answers.append({"tokens": row["tokens"], "tags": tags, "entities": found})
        else:
            found = [{"label": t, "text": text[a:b], "start": a, "end": b} for a, b, t in entity_spans(tags, spans)]
            answers.append({"text": text, "tokens": row["tokens"], "tags": tags, "entities": found})

    for answer in answers:
        if args.json:
            print(json.dumps(answer, ensure_ascii=False))
        else:
            print(answer.get("text") or " ".join(answer["tokens"]))
            places = [[e["text"], e["label"], *list(e.values())[2:]] for e in answer["entities"]]
            header = ["entity", "type", *(["start", "end"] if "text" in answer else ["first word", "last word"])]
            print(table(header, places) + "\n" if places else "no entities\n")
    if all(row["ner_tags"] is not None for row in rows):
        if all(map(is_tag, label_list)):
            scores = entity_table(entity_scores(bio_tags(name, rows), predicted))
        else:
            scores = f"accuracy {word_accuracy(bio_tags(name, rows, 'plain'), predicted):.4f}"
        print(f"Scored against the tags of {name}:\n{scores}", file=sys.stderr if args.json else sys.stdout)
    return answers


# Labels and scores of one text or two


def predict_labels(args: argparse.Namespace, config: Any, inputs: list[tuple[str, dict]]) -> list[dict[str, Any]]:
    """Label and probability, or score, of each input; scored as well where every row has a label."""
    import numpy as np
    from transformers import AutoModelForSequenceClassification, DataCollatorWithPadding

    from common.data import Source
    from common.metrics import default_metrics, label_scores, score_line, table
    from common.texts import answers, find_columns, label_name, mean_over_windows, tokenize_texts
    from common.training import compute_logits, load_tokenizer, model_label_list, recipe_settings, resolve_lengths

    name = args.file or "input"
    label_list = model_label_list(args.model, [], is_trained=True)
    trained = recipe_settings(config)
    texts = len(trained.get("text_columns", ["text"]))
    columns, label_column = ("text", "text_pair")[:texts], None
    if args.file and not is_plain_text(args.file):
        source = Source(args.file, digest="", path=args.file)
        known = args.text_columns
        if not known and all(column in inputs[0][1] for column in trained.get("text_columns", ())):
            known = trained["text_columns"]  # else they are inferred, as many
        columns, label_column = find_columns({args.file: source}, texts, known, args.label_column)
        if not args.text_columns and "recipe" in config.to_dict() and list(columns) != trained["text_columns"]:
            as_trained = " and ".join(trained["text_columns"])
            print(f"{args.file}: {' and '.join(columns)} is read for {as_trained}.", file=sys.stderr)
    rows = []
    for place, row in inputs:
        if texts == 2 and label_column is None and "\t" in str(row.get("text", "")) and "text_pair" not in row:
            row["text"], row["text_pair"] = row["text"].split("\t", 1)  # a pair per line, with a tab between
        if any(not isinstance(row.get(column), str) for column in columns) or (texts == 1 and "text_pair" in row):
            what = "two texts: --text and --text_pair, or a line with a tab between them" if texts == 2 else "one text"
            raise InputError(f"{name}, {place}: this model reads {what}")
        rows.append([row[column] for column in columns])
    tokenizer = load_tokenizer(args.model)
    max_length, stride = resolve_lengths(tokenizer, config, None, trained.get("doc_stride", 0))
    pairs = [row[1] if len(row) == 2 else None for row in rows]
    batch = {"text": [row[0] for row in rows], "text_pair": pairs}
    features = tokenize_texts(batch, range(len(rows)), tokenizer, max_length, stride)
    collator = DataCollatorWithPadding(tokenizer)
    model = model_class(args.model, config, AutoModelForSequenceClassification)
    logits = compute_logits(model, args.model, features, collator, args.batch_size)
    logits = mean_over_windows(np.stack(logits), features)
    multi_label = config.problem_type == "multi_label_classification"

    def cell(value: Any) -> Any:
        return (", ".join(map(str, value)) or "none") if isinstance(value, list) else value

    found = [{"text": row[0]} | ({"text_pair": row[1]} if len(row) == 2 else {}) for row in rows]
    found = [texts | answer for texts, answer in zip(found, answers(logits, label_list, multi_label), strict=True)]

    if args.json:
        for answer in found:
            print(json.dumps(answer, ensure_ascii=False))
    else:
        shown = [
            [cell(a["predicted"]), *([cell(a["probability"])] if label_list else []), " | ".join(r)[:90]]
            for a, r in zip(found, rows, strict=True)
        ]
        print(table(["label" if label_list else "score", *(["probability"] if label_list else []), "text"], shown))
    gold = [row.get(label_column) if label_column else None for _, row in inputs]
    if all(value not in (None, "", -1, "-1") for value in gold) and not multi_label:
        if label_list:
            named = [
                label_name(f"{name}, {p}", label_column, v, label_list) for (p, _), v in zip(inputs, gold, strict=True)
            ]
            ids = [label_list.index(label) for label in named]
        else:
            ids = [float(value) for value in gold]
        scores = label_scores(logits, ids, label_list)
        figures = score_line(scores, default_metrics(label_list))
        print(f"Scored against the labels of {name}: {figures}.", file=sys.stderr if args.json else sys.stdout)
    return found


# Answers to questions


def predict_answers(args: argparse.Namespace, config: Any, inputs: list[tuple[str, dict]]) -> list[dict[str, Any]]:
    """The best answer of each question with its place and the next-best; scored as well where every row has answers."""
    from transformers import AutoModelForQuestionAnswering, DataCollatorWithPadding

    from common.data import Source
    from common.metrics import chosen_answers, question_scores, score_line, table
    from common.questions import (
        choose_answers,
        padded,
        questions_and_answers,
        resolve_answer_limits,
        tokenize_questions,
        with_probabilities,
    )
    from common.training import compute_logits, load_tokenizer, recipe_settings, resolve_lengths

    name = args.file or "input"
    rows = list(questions_and_answers(Source(name, digest="", given=inputs)))
    trained = recipe_settings(config)
    version_2 = trained.get("version_2_with_negative", False)
    threshold = trained.get("null_threshold", 0.0) if version_2 else None

    tokenizer = load_tokenizer(args.model)
    max_length, stride = resolve_lengths(tokenizer, config, None, None, default=384, parts=3)
    batch = {column: [row[column] for row in rows] for column in ("question", "context")}
    features = tokenize_questions(batch, range(len(rows)), tokenizer, max_length, stride)
    logits = compute_logits(
        model_class(args.model, config, AutoModelForQuestionAnswering),
        args.model,
        features,
        DataCollatorWithPadding(tokenizer),
        args.batch_size,
    )
    starts, ends = (padded([window[:, i] for window in logits]) for i in (0, 1))
    found = choose_answers(starts, ends, features, batch["context"], **resolve_answer_limits(trained))
    answers = []
    for row, of_row, text in zip(rows, found, chosen_answers(found, threshold), strict=True):
        candidates = with_probabilities(of_row, version_2)
        best = next((c for c in candidates if c["text"] == text), {"start": None, "end": None, "probability": 0.0})
        others = [c for c in candidates if c is not best][:3]
        place = {key: best[key] for key in ("start", "end", "probability")}
        answers.append({"id": row["id"], "question": row["question"], "answer": text, **place, "next": others})

    for answer in answers:
        if args.json:
            print(json.dumps(answer, ensure_ascii=False))
        else:
            shown = [{"text": answer["answer"], **answer}, *answer["next"]]
            print(answer["question"])
            cells = [
                [c["text"] or "no answer", c["probability"], *("-" if c[k] is None else c[k] for k in ("start", "end"))]
                for c in shown
            ]
            print(table(["answer", "probability", "start", "end"], cells) + "\n")
    golds = [row["answers"] for row in rows]
    if None not in golds and any(golds) and (version_2 or all(golds)):
        scores = question_scores(found, golds, version_2, threshold)
        figures = score_line(scores)
        print(f"Scored against the answers of {name}: {figures}.", file=sys.stderr if args.json else sys.stdout)
    return answers


TASKS = {
    "token-classification": predict_tags,
    "text-classification": predict_labels,
    "question-answering": predict_answers,
}


if __name__ == "__main__":
    run_as_command(main)
