"""A finished run as ONNX, for servers without PyTorch: proved on real rows, timed, and in int8 where that costs little.

    make export-ner MODEL=runs/ner
    python -m recipes.tools.export --model runs/ner --file data/test.conll --tolerance 0.5
    python -m recipes.predict --model runs/ner/onnx --text "Ada Lovelace worked in London."

It leaves MODEL/onnx: model.onnx with its weights in model.onnx.data, tokenizer, config.json, README.md, and
model_int8.onnx (`--int8` of recipes/predict.py) if its score lies within the tolerance.
"""

import argparse
import contextlib
import inspect
import io
import logging
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common import metrics, training, words
from common.data import is_tag
from common.errors import InputError, OneLineParser, check_at_least_one, check_range, run_as_command
from common.packing import pack
from recipes import predict
from recipes.tools.compare import read_run, row_scores
from recipes.tools.onnx_model import OnnxModel, check_packages
from recipes.tools.statistics import RowScore, bootstrap_interval, mcnemar

LARGEST_DIFFERENCE = 1e-3  # of a logit; rounding alone is some 1e-5
BATCH_SIZES = (1, 32)  # that are timed
README = """# {name} as ONNX

Written by `recipes/tools/export.py` from {run}. `model.onnx` has its weights in `model.onnx.data`; `config.json`
holds the label names, and under `recipe` the lengths of windows. `python -m recipes.predict --model {folder}` asks it.

{rows} rows of {file}:

```
{report}
```
"""


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = OneLineParser("python -m recipes.tools.export", description=__doc__, allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--model", required=True, help="folder of a finished run")
    parser.add_argument("--file", help="rows with answers; unset: the run's test file, else its validation file")
    parser.add_argument("--tolerance", type=float, default=1.0, help="points of the score that int8 may lose")
    parser.add_argument("--max_rows", type=int, help="score no more rows of the file; unset: all")
    return parser.parse_args(argv)


def load_inputs(args: argparse.Namespace, record: dict[str, Any]) -> tuple[predict.Predictor, list[predict.Input]]:
    """What predicts with the run, and the rows to compare models on, as `predict` reads them.

    Raises:
        InputError: no file is named, and the run's own is not there; no text in it.
    """
    arguments = record["arguments"]
    file = args.file or arguments.get("test_file") or arguments.get("validation_file")
    if file is None or not os.path.exists(file):
        raise InputError(f"{args.model}: {file or 'the run names no test or validation file'}; give rows with --file")
    settings = predict.parse(["--model", args.model, "--file", file])
    if not args.file:
        settings.no_header = bool(arguments.get("no_header"))
        settings.label_column = arguments.get("label_column")
    predictor = predict.load_predictor(settings)
    filled = ((place, row) for place, row in predictor.inputs() if predictor.has_text(row))
    inputs = list(islice(filled, args.max_rows))
    if not inputs:
        raise InputError(f"{file}: holds no text")
    return predictor, inputs


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """The exporters print their steps, and warn of versions and of operators that no encoder has."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)


def export(predictor: predict.Predictor, inputs: list[predict.Input], folder: Path) -> tuple[Any, Any]:
    """Write model.onnx and what stands beside it; return the model, packed as `predict` runs it, and its graph.

    Raises:
        InputError: the exporter cannot do this architecture.
    """
    from transformers.exporters import OnnxConfig, OnnxExporter

    run = predictor.args.model
    model_class = predict.model_class(run, predictor.config, predictor.auto_class)
    model, missing = training.read_weights(model_class, run)  # unpacked: packing reads the lengths, a graph cannot
    training.refuse_missing(run, missing)
    model.eval()
    predictor.model = model
    predictor.answer((inputs * 2)[:2])  # two rows or more, or the batch becomes a constant of the graph
    read = [key for key in inspect.signature(model.forward).parameters if key in predictor.features and key != "labels"]
    sample = [{key: predictor.features[key][i] for key in read} for i in range(2)]
    batch = dict(type(predictor).collator(predictor.tokenizer)(sample))
    try:
        with quiet():
            exported = OnnxExporter().export(model, batch, OnnxConfig(dynamic=True))
            for node in exported.program.graph:
                node.metadata_props.clear()  # where it was traced, with the names of folders of this machine
            exported.save_pretrained(folder)
    except Exception as error:  # of torch, onnxscript and transformers, as many kinds as there are operators
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{run}: {model.config.model_type} cannot be exported to ONNX: {reason}") from error
    predictor.tokenizer.save_pretrained(folder)
    pack(model)
    return model, exported.program


def quantize(graph: Any, path: Path) -> Iterator[str]:
    """Write the model in int8 to `path`, one way after the other, and yield what each is called."""
    import onnx_ir
    from transformers.exporters import OnnxRuntimeDynamicConfig, OnnxRuntimeQuantizer

    # Embeddings and head: little of the work, and where int8 can hurt most. The quantizer renames a Gemm.
    head = [node.name for node in graph.graph if node.op_type in ("MatMul", "Gemm")][-1]
    in_fp32 = [head, f"{head}_MatMul", *(node.name for node in graph.graph if node.op_type == "Gather")]
    for name, options in (
        ("int8", {}),
        ("int8 per channel", {"per_channel": True}),
        ("int8 inner layers", {"per_channel": True, "nodes_to_exclude": in_fp32}),
    ):
        with quiet():
            quantizer = OnnxRuntimeQuantizer(OnnxRuntimeDynamicConfig(**options))
            onnx_ir.save(quantizer.quantize(graph, {}, "onnx"), str(path))
        yield name


def take(features: dict[str, list], chosen: Iterable[int]) -> dict[str, list]:
    return {key: [values[i] for i in chosen] for key, values in features.items()}


def largest_difference(predictor: predict.Predictor, model: Any, other: Any) -> float:
    """Of any logit, over a hundred of the rows answered last, alone and in batches of mixed lengths."""
    count = len(predictor.features["input_ids"])
    features = take(predictor.features, range(0, count, -(-count // 100)))
    collator, found = type(predictor).collator(predictor.tokenizer), []
    for batch_size in (1, 7, 32):
        pair = (training.compute_logits(each, features, collator, batch_size) for each in (model, other))
        found += [np.abs(a - b).max() for a, b in zip(*pair, strict=True)]
    return float(np.max(found))  # not a number where one is none, which Python's max would pass over


def milliseconds(predictor: predict.Predictor, model: Any, batch_size: int) -> float:
    """The median time of a batch, of the rows answered last, padding and copying included."""
    count, seconds = len(predictor.features["input_ids"]), []
    collator = type(predictor).collator(predictor.tokenizer)
    for start in range(0, (20 if batch_size > 1 else 100) * batch_size, batch_size):
        batch = take(predictor.features, [i % count for i in range(start, start + batch_size)])
        begin = time.perf_counter()
        training.compute_logits(model, batch, collator, batch_size)
        seconds.append(time.perf_counter() - begin)
    return 1000 * statistics.median(seconds)


def score(
    predictor: predict.Predictor, model: Any, inputs: list[predict.Input], record: dict[str, Any]
) -> dict[str, RowScore]:
    """Scores of a model as `recipes/predict.py` answers with it, the task's first; none where gold is missing."""
    predictor.model, predictor.gold, predictor.found = model, [], []
    for start in range(0, len(inputs), predict.BLOCK):
        predictor.answer(inputs[start : start + predict.BLOCK])
    return {} if None in predictor.gold else row_scores(rows_of(predictor), record)


def rows_of(predictor: predict.Predictor) -> list[dict[str, Any]]:
    """What was answered beside what is right, as in the `predictions.jsonl` of a run."""
    gold, found, name = predictor.gold, predictor.found, "ner_tags"
    if isinstance(predictor, predict.Reader):
        name, found = "answers", metrics.chosen_answers(found, predictor.rule()[1])
    elif isinstance(predictor, predict.Classifier):
        name, gold = "label", predictor.names_of(gold)
        found = [answer["predicted"] for answer in predictor.decoded(np.stack(found))]
        used = set(chain.from_iterable(gold) if predictor.several else gold)
        unknown = used - set(predictor.label_list or used)
        if unknown:
            raise InputError(f'{predictor.name}: the model has no label "{min(unknown)}"')
    else:
        gold = words.bio_tags(predictor.name, gold, None if all(map(is_tag, predictor.label_list)) else "plain")
    return [{name: right, "predicted": answer} for right, answer in zip(gold, found, strict=True)]


def points_lost(score: RowScore, other: RowScore, scale: float) -> float:
    return scale * (score.value - other.value)


def verdict(name: str, score: RowScore, other: RowScore, scale: float) -> str:
    """What a score became, and whether that could be chance on these rows."""
    low, high = (scale * end for end in bootstrap_interval(score, other))
    change = scale * (other.value - score.value)
    text = f"{name} {change:+.2f} points (95 % from {low:+.2f} to {high:+.2f})"
    if score.right is None:
        return f"{text}, {'could be chance' if low <= 0 <= high else 'more than chance'}"
    before, after, chance = mcnemar(score.right, other.right)
    told_apart = "more than chance" if chance < 0.05 else "could be chance"
    return f"{text}; right in PyTorch alone {before}, in int8 alone {after}: {told_apart} (McNemar {chance:.2g})"


def prove(args: argparse.Namespace, record: dict[str, Any], folder: Path) -> str:
    """Fill `folder` with what holds, and return the README.md that says how well.

    Raises:
        InputError: no rows to try it on, no export, or one that computes something else.
    """
    predictor, inputs = load_inputs(args, record)
    model, graph = export(predictor, inputs, folder)
    exported, int8, lines, table_rows = OnnxModel(folder / "model.onnx"), folder / "model_int8.onnx", [], []

    def measure(label: str, model: Any, files: Iterable[Path]) -> dict[str, RowScore]:
        scores = score(predictor, model, inputs, record)
        value = next((score.value for score in scores.values()), "-")
        times = [f"{milliseconds(predictor, model, size):.1f}" for size in BATCH_SIZES]
        table_rows.append([label, value, f"{sum(file.stat().st_size for file in files) / 1e6:.1f}", *times])
        return scores

    scores = measure("PyTorch", model, Path(args.model).glob("*.safetensors"))
    difference = largest_difference(predictor, model, exported)
    if not difference <= LARGEST_DIFFERENCE:  # nor where it is not a number
        raise InputError(f"{args.model}: a logit of ONNX is {difference:.2g} off PyTorch's, so nothing was written")
    measure("ONNX", exported, folder.glob("model.onnx*"))
    name = next(iter(scores), "score")
    scale = 1 if isinstance(predictor, predict.Reader) else 100  # those of answers are in percent
    for label in quantize(graph, int8) if scores else ():
        other = measure(label, OnnxModel(int8), [int8])
        lines.append(f"{label}: {verdict(name, scores[name], other[name], scale)}.")
        if points_lost(scores[name], other[name], scale) <= args.tolerance:
            lines.append(f"Kept as {int8.name}: {label}, within {args.tolerance:g} points.")
            break
        int8.unlink()
    else:
        reason = f"each lost more than {args.tolerance:g} points" if scores else "the rows have no answers to score"
        lines.append(f"No {int8.name}: {reason}.")
    report = metrics.table(["model", name, "MB", *(f"ms, batch {size}" for size in BATCH_SIZES)], table_rows)
    threads = f"Median times on a CPU, threads: {torch.get_num_threads()}; what else ran on it shows in them."
    report += "\n\n" + "\n".join([threads, f"Logits of ONNX are within {difference:.0e} of PyTorch's.", *lines])
    facts = dict(name=Path(args.model).name, run=args.model, rows=len(inputs), file=predictor.name, report=report)
    return README.format(**facts, folder=Path(args.model, "onnx"))


def main(argv: list[str] | None = None) -> str:
    """Export, print what came of it, and return that."""
    args = parse(argv)
    check_range(args, 0, 100, "tolerance")
    if args.max_rows is not None:
        check_at_least_one(args, "max_rows")
    check_packages("onnx", "onnxscript", "onnxruntime")
    run = Path(args.model)
    record = read_run(run)
    with tempfile.TemporaryDirectory(dir=run) as folder:  # an older export stays until this one is proved
        report = prove(args, record, Path(folder))
        Path(folder, "README.md").write_text(report, encoding="utf-8")
        target = run / "onnx"
        target.mkdir(exist_ok=True)
        Path(target, "model_int8.onnx").unlink(missing_ok=True)
        for file in Path(folder).iterdir():
            os.replace(file, target / file.name)
    print(report)
    return report


if __name__ == "__main__":
    run_as_command(main)
