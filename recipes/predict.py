"""Answers from a trained model: text, a file or standard input -> a readable table or JSON lines.

What the model reads stands in its config, as the recipe that trained it wrote it there; inputs are cut into windows as
the evaluation cut them. There is one answer for each input, in order, also for one without text.

    python -m recipes.predict --model runs/ner --text "Ada Lovelace worked in London."
    python -m recipes.predict --model runs/ner --file data/test.conll --json > answers.jsonl
    cat letters.txt | python -m recipes.predict --model runs/ner --at_least 0.8
    python -m recipes.predict --model runs/qa --question "Who wrote it?" --context "Mary Shelley wrote it."
    python -m recipes.predict --model runs/qa --file data/questions.jsonl --json
"""

import argparse
import contextlib
import ctypes
import importlib.util
import json
import os
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import transformers
from scipy.special import log_softmax
from tqdm.auto import tqdm

from common import errors, metrics, questions, texts, training, words
from common.data import COMMENTS, Source, decode_lines, is_tag, read_lines, read_rows, split_columns
from common.errors import InputError
from recipes.tools.model_card import task_of
from recipes.tools.onnx_model import OnnxModel
from recipes.tools.statistics import scores_of_rows

BLOCK = 1000  # rows in memory
Input = tuple[str, dict[str, Any]]  # where it stands, and what it holds


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = errors.OneLineParser("python -m recipes.predict", description=__doc__)
    parser.add_argument("--model", required=True, help="folder of a finished run, or a model's name on the Hub")
    inputs, contexts = parser.add_mutually_exclusive_group(), parser.add_mutually_exclusive_group()
    inputs.add_argument("--text", nargs="+", help="one or more texts")
    parser.add_argument("--text_pair", nargs="+", help="the second text of each, for a model that reads pairs")
    inputs.add_argument("--question", nargs="+", help="one or more questions, for a model that answers them")
    contexts.add_argument("--context", help="the text that holds their answers")
    contexts.add_argument("--context_file", help="a file that holds it")
    inputs.add_argument("--file", help="a text per line (.txt), or .conll .jsonl .json .parquet .arrow .csv .tsv")
    parser.add_argument("--no_header", action="store_true", help="the .csv or .tsv begins with data")
    parser.add_argument("--text_columns", nargs="+", help="columns of a file that hold the texts; unset: as trained")
    parser.add_argument("--label_column", nargs="+", help="column of a file that holds the label; unset: inferred")
    parser.add_argument("--top_k", type=int, default=1, help="show so many of the likeliest classes; unset: 1")
    parser.add_argument(
        "--at_least", type=float, default=0.0, help="below this probability, entities are dropped and answers marked"
    )
    parser.add_argument("--json", action="store_true", help="JSON lines instead of a table")
    parser.add_argument("--batch_size", type=int, default=64, help="windows computed at once")
    parser.add_argument("--int8", action="store_true", help="of an exported model the small one (make export-ner)")
    return parser.parse_args(argv)


def read_inputs(args: argparse.Namespace, tags: list[str] | None = None) -> Iterator[Input]:
    """(place, row) of each input; raw text becomes a row with `text`.

    Args:
        tags: of a model that tags words, which also reads a .txt of columns; else None.
    """
    if args.question:
        lines = read_lines(args.context_file) if args.context_file else [(1, args.context)]
        context = "\n".join(line for _, line in lines)
        yield from ((f"question {i}", {"question": q, "context": context}) for i, q in enumerate(args.question, 1))
    elif args.text:
        pairs = args.text_pair or [None] * len(args.text)
        for i, (text, pair) in enumerate(zip(args.text, pairs, strict=True), 1):
            yield f"text {i}", {"text": text} | ({"text_pair": pair} if pair is not None else {})
    elif args.file and not is_plain_text(args.file, tags):
        yield from read_rows(args.file, not args.no_header)
    else:
        if not args.file and sys.stdin.isatty():
            print("Reading a text per line; end with Ctrl-D.", file=sys.stderr)
        lines = read_lines(args.file) if args.file else decode_lines(sys.stdin.buffer, "standard input")
        yield from ((f"line {i}", {"text": line}) for i, line in lines)


def is_plain_text(path: str, tags: list[str] | None) -> bool:
    """A .txt file is raw text, unless a tagger reads it and it is made of columns: as many in every line (of the first
    thousand), the last of them tags, of which the model knows some."""
    if Path(path).suffix.lower() != ".txt":
        return False
    lines = [line for _, line in islice(read_lines(path), BLOCK) if line.strip() and not line.startswith(COMMENTS)]
    rows = [row for row in map(split_columns, lines) if row[0] != "-DOCSTART-"]
    types = {tag.partition("-")[2] or tag for tag in tags or ()}
    known = {f"{prefix}-{name}" for prefix in "BIESLUM" for name in types} | types
    last = {row[-1] for row in rows}
    has_columns = len({len(row) for row in rows}) == 1 < len(rows[0])
    return not (has_columns and last & known and all(map(is_tag, last - known)))


def main(argv: list[str] | None = None, keep: bool = True) -> list[dict[str, Any]]:
    """Print the answers and return them, a dictionary for each input; without `keep` none, however many there are."""
    args = parse(argv)
    errors.check_at_least_one(args, "batch_size", "top_k")
    errors.check_range(args, 0, 1, "at_least")
    if bool(args.question) != bool(args.context or args.context_file):
        raise InputError("--question goes together with its text: either --context or --context_file")
    if args.text_pair and len(args.text or []) != len(args.text_pair):
        raise InputError(f"{len(args.text or [])} --text but {len(args.text_pair)} --text_pair; give one for each")
    predictor = load_predictor(args)
    is_shown = sys.stderr.isatty()
    inputs = iter(tqdm(predictor.inputs(), desc="Read", unit=" inputs", delay=1, disable=not is_shown))
    answers, total = [], 0
    while block := list(islice(inputs, BLOCK)):
        total += len(block)
        filled = [(place, row) for place, row in block if predictor.has_text(row)]
        found = iter(predictor.answer(filled) if filled else [])
        of_block = [
            {"place": place} | (next(found) if predictor.has_text(row) else predictor.no_answer(row))
            for place, row in block
        ]
        lines = (
            [json.dumps(answer, ensure_ascii=False) for answer in of_block] if args.json else predictor.shown(of_block)
        )
        print(*lines, sep="\n")
        answers += of_block if keep else []
        # glibc would keep what a block has freed, in pieces that the next one cannot use.
        with contextlib.suppress(AttributeError, OSError, TypeError):
            ctypes.CDLL(None).malloc_trim(0)
    if total == 0:
        raise InputError(f"{args.file or 'standard input'}: holds no text")
    rows = predictor.rows()
    if rows:
        of = f"{len(rows)} of {total} inputs" if len(rows) < total else "all inputs"
        scored = f"Scored against {args.file or 'the input'}, {of}, in fp32: {predictor.scored(rows)}"
        print(scored, file=sys.stderr if args.json else sys.stdout)
    return answers


def recipe_module(config: Any) -> Any:
    """The recipe that trained the model, if it is here: a module of this package, for nothing else is ever imported
    because a folder says so."""
    name = training.recipe_settings(config).get("module", "")
    if name.isidentifier() and importlib.util.find_spec(f"recipes.{name}"):
        return importlib.import_module(f"recipes.{name}")
    return None


def load_predictor(args: argparse.Namespace) -> "Predictor":
    """The model that `--model` names, with what its task needs.

    Raises:
        InputError: there is none, or it is for another task than the flags.
    """
    if not os.path.exists(args.model) and args.model.startswith(("runs/", ".", "/")):
        raise InputError(f"{args.model}: no such folder; train a model first, for instance make train-ner OFFLINE=1")
    errors.go_offline_without_hub(args.model)
    with errors.hub_errors("model", args.model):
        config = transformers.AutoConfig.from_pretrained(args.model)
    task = getattr(recipe_module(config), "Predictor", None) or TASKS.get(task_of(config.to_dict()))
    if task is None:
        own = (config.architectures or ["its config"])[0]
        raise InputError(f"{args.model}: {own} names no task that can be predicted; train it first")
    if bool(args.question) != issubclass(task, Reader) and not args.file:
        given = "--question and --context" if issubclass(task, Reader) else "--text"
        raise InputError(f"{args.model}: this model is for another task; give {given}, or --file")
    return task(args, config)


def load_model(args: argparse.Namespace, config: Any, auto_class: Any) -> Any:
    """The weights of a run, or what recipes/tools/export.py made of them where the folder holds that."""
    exported = Path(args.model, "model_int8.onnx" if args.int8 else "model.onnx")
    if exported.exists():
        return OnnxModel(exported)
    if args.int8:
        raise InputError(f"{args.model}: holds no model_int8.onnx; make export-ner writes one beside model.onnx")
    return training.load_for_prediction(model_class(args.model, config, auto_class), args.model)


def model_class(name: str, config: Any, auto_class: Any) -> Any:
    """`auto_class`, or the class that the recipe which trained the model defines.

    Raises:
        InputError: the class is neither transformers' nor that recipe's.
    """
    own = (config.architectures or [""])[0]
    if hasattr(transformers, own):
        return auto_class
    defined = getattr(recipe_module(config), own, None)
    if isinstance(defined, type) and issubclass(defined, transformers.PreTrainedModel):
        return defined
    module = training.recipe_settings(config).get("module", "?")
    raise InputError(f"{name}: its class {own} is not one of transformers', and recipes/{module}.py does not define it")


class Predictor:
    """A model with its tokenizer, loaded once.

    Attributes:
        no_text: the answer to an input without text.
        features: what the model read of the inputs answered last.
        gold, found: of the inputs answered so far, the right answer (None where it is not known) and the model's.
        gold_name: what `predictions.jsonl` calls the right answer.
    """

    no_text: ClassVar[dict[str, Any]]
    gold_name: str
    auto_class: Any
    collator: Any = transformers.DataCollatorWithPadding
    has_labels = True
    windows: ClassVar[dict[str, Any]] = {}

    def __init__(self, args: argparse.Namespace, config: Any):
        self.args, self.config, self.name = args, config, args.file or "input"
        self.trained = training.recipe_settings(config)
        self.label_list = training.model_label_list(args.model, [], is_trained=True) if self.has_labels else None
        self.tokenizer = training.load_tokenizer(args.model, is_split_into_words=isinstance(self, Tagger))
        stride = self.trained.get("doc_stride", 0 if isinstance(self, Classifier) else None)
        self.length, self.stride = training.resolve_lengths(self.tokenizer, config, None, stride, **self.windows)
        self.model = load_model(args, config, self.auto_class)
        self.features: dict[str, list] = {}
        self.gold: list[Any] = []
        self.found: list[Any] = []

    def inputs(self) -> Iterator[Input]:
        return read_inputs(self.args)

    def logits(self, features: dict[str, list]) -> list[Any]:
        self.features = features
        return training.compute_logits(self.model, features, type(self).collator(self.tokenizer), self.args.batch_size)

    def has_text(self, row: dict[str, Any]) -> bool:
        return bool(row["tokens"]) if "tokens" in row else bool(str(row.get("text", "-") or "").strip())

    def no_answer(self, row: dict[str, Any]) -> dict[str, Any]:
        return self.no_text | {name: row[name] for name in ("id", "question") if name in row} | {"note": "no text"}

    def rows(self) -> list[dict[str, Any]]:
        """What was answered beside what is right, where that is known, as in the `predictions.jsonl` of a run."""
        pairs = [pair for pair in zip(self.gold, self.found, strict=True) if pair[0] is not None]
        return [{self.gold_name: gold, "predicted": found} for gold, found in pairs]

    def scored(self, rows: list[dict[str, Any]]) -> str:
        try:
            scores = scores_of_rows(rows, self.label_list)
        except ValueError as error:  # of a list's `index`, or of `float`
            return f"not scored, for not every label is one of the model's ({error})."
        return ", ".join(f"{name} {score.value:.4f}" for name, score in scores.items()) + "."


class Tagger(Predictor):
    """Tags and entities. An entity's probability is the least of its words', each that of the tag it was given."""

    no_text: ClassVar[dict[str, Any]] = {"text": "", "tokens": [], "tags": [], "entities": []}
    gold_name = "ner_tags"
    auto_class, collator = transformers.AutoModelForTokenClassification, transformers.DataCollatorForTokenClassification

    def inputs(self) -> Iterator[Input]:
        return words.sentence_rows(Source(self.name, digest="", given=read_inputs(self.args, self.label_list)))

    def answer(self, inputs: list[Input]) -> list[dict[str, Any]]:
        rows = [words.tagged_row(self.name, None, None, self.label_list, place, row) for place, row in inputs]
        batch = {name: [row[name] for row in rows] for name in ("tokens", "document")}
        context = {name: self.trained[name] for name in ("context", "document_size") if name in self.trained}
        windows = dict(max_length=self.length, stride=self.stride, **context)
        features = words.tokenize_and_align_labels(batch, range(len(rows)), self.tokenizer, **windows)
        temperature = self.trained.get("temperature", 1.0)
        windows = [log_softmax(logits / temperature, axis=-1) for logits in self.logits(features)]
        places = features["word_ids"], features["row"], [len(row["tokens"]) for row in rows]
        if self.trained.get("viterbi"):
            tags, sure = words.legal_tags(windows, *places, self.label_list)
        else:
            tags = words.tags_of_sentences([window.argmax(-1) for window in windows], *places, self.label_list)
            sure = words.values_of_words([np.exp(window.max(-1)) for window in windows], *places)
        self.gold += [row if row["ner_tags"] else None for row in rows]
        self.found += tags
        answers = []
        for (_, given), row, of_row, probabilities in zip(inputs, rows, tags, sure, strict=True):
            text = given.get("text")
            spans = words.split_words(text) if isinstance(text, str) else []
            # Character spans where the words are those of the text, and not a column of their own.
            has_spans = bool(spans) and [text[start:end] for start, end in spans] == row["tokens"]
            entities = []
            for label, first, end in metrics.entities(of_row):
                if has_spans:
                    start, stop = spans[first][0], spans[end - 1][1]
                    place = {"text": text[start:stop], "start": start, "end": stop}
                else:
                    place = {"text": " ".join(row["tokens"][first:end]), "first_word": first, "last_word": end - 1}
                entity = {"label": label, **place, "probability": round(min(probabilities[first:end]), 4)}
                entities += [entity] if entity["probability"] >= self.args.at_least else []
            answer = {"text": text} if has_spans else {}
            answer |= {"tokens": row["tokens"], "tags": of_row, "entities": entities}
            answers.append(answer | {"probabilities": [round(value, 4) for value in probabilities]})
        return answers

    def shown(self, answers: list[dict[str, Any]]) -> list[str]:
        lines = []
        for answer in answers:
            cells = [[e["text"], e["label"], *list(e.values())[2:]] for e in answer["entities"]]
            header = ["entity", "type", *[*answer["entities"][0]][2:]] if cells else ["no entities"]
            lines += [answer.get("text") or " ".join(answer["tokens"]), metrics.table(header, cells), ""]
        return lines

    def rows(self) -> list[dict[str, Any]]:
        rows = super().rows()
        scheme = None if all(map(is_tag, self.label_list)) else "plain"
        gold = words.bio_tags(self.name, [row["ner_tags"] for row in rows], scheme) if rows else []
        return [row | {"ner_tags": tags} for row, tags in zip(rows, gold, strict=True)]

    def scored(self, rows: list[dict[str, Any]]) -> str:
        gold, found = ([row[name] for row in rows] for name in ("ner_tags", "predicted"))
        if all(map(is_tag, self.label_list)):
            return "\n" + words.entity_table(metrics.entity_scores(gold, found))
        return f"accuracy {metrics.word_accuracy(gold, found):.4f}."


class Classifier(Predictor):
    """The label of a text, or of two, with its probability; or their score."""

    no_text: ClassVar[dict[str, Any]] = {"text": "", "predicted": None, "probability": None}
    gold_name = "label"
    auto_class = transformers.AutoModelForSequenceClassification

    def __init__(self, args: argparse.Namespace, config: Any):
        super().__init__(args, config)
        columns = args.text_columns or ["text", "text_pair"][: 1 + bool(args.text_pair)]
        as_trained = self.trained.get("text_columns", columns)
        self.columns, self.label_columns = ["text", "text_pair"][: len(as_trained)], ()
        self.several = config.problem_type == "multi_label_classification"
        self.thresholds = self.trained.get("thresholds")
        self.spelling = {label.casefold(): label for label in self.label_list or ()}
        if self.trained.get("task_name"):  # numbers stand for the classes in their order, as they did in training
            self.spelling |= {str(i): label for i, label in enumerate(self.label_list or ())}
        if not args.file or Path(args.file).suffix.lower() == ".txt":
            return
        # As trained where the file has those columns; else inferred, as many.
        source = Source(args.file, digest="", path=args.file, has_header=not args.no_header)
        sources = {"train" if args.label_column else "test": source}  # a test file may lack the label
        self.columns, self.label_columns = texts.find_columns(
            sources, len(as_trained), args.text_columns, args.label_column, self.trained | {"text_columns": as_trained}
        )
        # Several columns of 0 and 1 that are not the model's labels are something else.
        is_known = args.label_column or {*self.label_columns} <= {*(self.label_list or ())}
        if len(self.label_columns) > 1 and not is_known:
            self.label_columns = ()
        if not args.text_columns and "text_columns" in self.trained and self.columns != tuple(as_trained):
            pairs = (f"{column} is read as {name}" for column, name in zip(self.columns, as_trained, strict=True))
            hint = " (--no_header if line 1 is data)" * (
                source.has_header and Path(args.file).suffix in (".csv", ".tsv")
            )
            print(f"{args.file}: {', '.join(pairs)}{hint}.", file=sys.stderr)

    def has_text(self, row: dict[str, Any]) -> bool:
        return any(str(row.get(column) or "").strip() for column in self.columns) or not (set(self.columns) & set(row))

    def answer(self, inputs: list[Input]) -> list[dict[str, Any]]:
        rows, is_pair = [], len(self.columns) == 2
        for place, row in inputs:
            if is_pair and "text_pair" not in row and not self.label_columns and "\t" in str(row.get("text")):
                row["text"], row["text_pair"] = row["text"].split("\t", 1)  # a pair per line, with a tab between
            too_many = not is_pair and not self.args.file and "text_pair" in row
            if too_many or any(not isinstance(row.get(column), str) for column in self.columns):
                two = "two texts: --text and --text_pair, or a line with a tab between them"
                raise InputError(f"{self.name}, {place}: this model reads {two if is_pair else 'one text'}")
            rows.append({name: row[column] for name, column in zip(("text", "text_pair"), self.columns, strict=False)})
        batch = {name: [row.get(name) for row in rows] for name in ("text", "text_pair")}
        features = texts.tokenize_texts(batch, range(len(rows)), self.tokenizer, self.length, self.stride)
        logits = texts.mean_over_windows(np.stack(self.logits(features)), features)
        logits /= self.trained.get("temperature", 1.0)
        answers = texts.answers(logits, self.label_list, self.several, self.thresholds, self.args.top_k)
        self.found += [answer["predicted"] for answer in answers]
        self.gold += [self.gold_of(place, row) for place, row in inputs]
        for answer in answers:
            probability = answer.get("probability")
            if self.several:
                sure = [i for i, p in enumerate(probability) if p >= self.args.at_least]
                answer |= {name: [answer[name][i] for i in sure] for name in ("predicted", "probability")}
            elif self.label_list and probability < self.args.at_least:
                answer["unsure"] = True
        return [row | answer for row, answer in zip(rows, answers, strict=True)]

    def gold_of(self, place: str, row: dict[str, Any]) -> Any:
        """The right label of a row as the model spells it, or a list of them; None where it is not known."""
        blank = (None, "") if len(self.label_columns) > 1 else (None,)
        if not self.label_columns or any(row.get(column) in blank for column in self.label_columns):
            return None
        label = texts.label_of(f"{self.name}, {place}", row, self.label_columns, None)
        if self.several:
            return list(map(self.spelled, texts.names_in(label)))
        is_withheld = label in ("", "-1", texts.WITHHELD) and label not in (self.label_list or ())
        return None if is_withheld else self.spelled(label)

    def spelled(self, name: str) -> str:
        """A label as the model spells it."""
        return name if name in (self.label_list or ()) else self.spelling.get(name.casefold(), name)

    def shown(self, answers: list[dict[str, Any]]) -> list[str]:
        names = (
            ["label", "probability", *["next"] * (self.args.top_k > 1), "text"]
            if self.label_list
            else ["score", "text"]
        )
        cells = []
        for answer in answers:
            label, probability = (
                "-" if answer.get(key) is None else answer[key] for key in ("predicted", "probability")
            )
            if isinstance(label, list):
                label, probability = ", ".join(label) or "none", ", ".join(map(str, probability)) or "-"
            given = answer["predicted"] if self.several else [answer["predicted"]]
            others = [f"{name} {p:.4f}" for name, p in answer.get("probabilities", {}).items() if name not in given]
            text = " | ".join(answer[name] for name in ("text", "text_pair") if name in answer)[:90]
            cell = {"label": f"{label} (unsure)" if "unsure" in answer else label, "probability": probability}
            cell |= {"score": label, "next": ", ".join(others), "text": text}
            cells.append([cell[name] for name in names])
        return [metrics.table(names, cells)]


class Reader(Predictor):
    """The best answer to a question, its place, and the next best."""

    no_text: ClassVar[dict[str, Any]] = dict(question="", answer="", start=None, end=None, probability=None, next=[])
    gold_name = "answers"
    auto_class = transformers.AutoModelForQuestionAnswering
    has_labels = False
    windows: ClassVar[dict[str, Any]] = dict(default=384, parts=3)

    def inputs(self) -> Iterator[Input]:
        rows = questions.question_rows(Source(self.name, digest="", given=super().inputs()))
        for number, (place, row) in enumerate(rows, 1):
            yield place, row | ({"id": str(number)} if row.get("id") in (None, "") else {})

    def has_text(self, row: dict[str, Any]) -> bool:
        return not any(isinstance(row.get(name), str) and not row[name].strip() for name in ("question", "context"))

    def answer(self, inputs: list[Input]) -> list[dict[str, Any]]:
        rows = list(questions.questions_and_answers(Source(self.name, digest="", given=inputs)))
        batch = {column: [row[column] for row in rows] for column in ("question", "context")}
        features = questions.tokenize_questions(batch, range(len(rows)), self.tokenizer, self.length, self.stride)
        logits = self.logits(features)
        starts, ends = (questions.padded([window[:, i] for window in logits]) for i in (0, 1))
        limits = questions.resolve_answer_limits(self.trained)
        spans = questions.choose_answers(starts, ends, features, batch["context"], **limits)
        # Whether a question may have no answer, and above which null odds it is given none.
        version_2 = self.trained.get("version_2_with_negative", False)
        for of_row in spans:  # so that the order and the probabilities of the answers agree with what is given
            of_row["null_score"] -= self.trained.get("null_threshold", 0.0)
        given = metrics.chosen_answers(spans, 0.0 if version_2 else None)
        self.gold += [row["answers"] for row in rows]
        self.found += given
        answers = []
        for row, of_row, text in zip(rows, spans, given, strict=True):
            candidates = questions.with_probabilities(of_row, version_2)
            best = next((c for c in candidates if c["text"] == text), {"start": None, "end": None, "probability": 0.0})
            answer = {"id": row["id"], "question": row["question"], "answer": text}
            answer |= {key: best[key] for key in ("start", "end", "probability")}
            answer |= {"unsure": True} if best["probability"] < self.args.at_least else {}
            answers.append(answer | {"next": [c for c in candidates if c is not best][:3]})
        return answers

    def shown(self, answers: list[dict[str, Any]]) -> list[str]:
        lines = []
        for answer in answers:
            candidates = [{"text": answer["answer"], **answer}, *answer["next"]]
            keys = ("probability", "start", "end")
            cells = [
                [" ".join(c["text"].split()) or "no answer", *("-" if c[k] is None else c[k] for k in keys)]
                for c in candidates
            ]
            cells[0][0] += " (unsure)" * answer.get("unsure", False)
            lines.append(f"{answer['question']}\n{metrics.table(['answer', *keys], cells)}\n")
        return lines


TASKS = {"token-classification": Tagger, "text-classification": Classifier, "question-answering": Reader}


if __name__ == "__main__":
    errors.run_as_command(lambda: main(keep=False))
