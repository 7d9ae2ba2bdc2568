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
import tempfile
import timeit
import warnings
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common import errors, metrics, training
from common.errors import InputError
from common.packing import pack
from recipes import predict
from recipes.tools.compare import read_run, row_scores
from recipes.tools.onnx_model import OnnxModel, check_packages
from recipes.tools.statistics import RowScore, bootstrap_interval

LARGEST_DIFFERENCE = 1e-3  # of a logit; rounding alone is some 1e-5
BATCH_SIZES = (1, 32)  # that are timed
SAMPLE = 96  # rows that are timed


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = errors.OneLineParser("python -m recipes.tools.export", description=__doc__)
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
    pair = [{key: predictor.features[key][i] for key in read} for i in range(2)]
    batch = dict(type(predictor).collator(predictor.tokenizer)(pair))
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
    for name, left_out in (("int8", []), ("int8 inner layers", in_fp32)):
        with quiet():
            config = OnnxRuntimeDynamicConfig(per_channel=True, nodes_to_exclude=left_out)
            onnx_ir.save(OnnxRuntimeQuantizer(config).quantize(graph, {}, "onnx"), str(path))
        yield name


def sample(predictor: predict.Predictor) -> dict[str, list]:
    """`SAMPLE` of the rows answered last, evenly spaced."""
    count = len(predictor.features["input_ids"])
    chosen = [i * count // SAMPLE for i in range(SAMPLE)]
    return {key: [values[i] for i in chosen] for key, values in predictor.features.items()}


def largest_difference(predictor: predict.Predictor, model: Any, other: Any) -> float:
    """Of any logit, alone and in batches of mixed lengths."""
    features, collator, differences = sample(predictor), type(predictor).collator(predictor.tokenizer), []
    for batch_size in (1, 7, 32):
        pair = (training.compute_logits(each, features, collator, batch_size) for each in (model, other))
        differences += [np.abs(a - b).max() for a, b in zip(*pair, strict=True)]
    return float(np.max(differences))  # not a number where one is none, which Python's max would pass over


def milliseconds(predictor: predict.Predictor, model: Any, batch_size: int) -> float:
    """The time of a batch, padding and copying included: the median of five rounds over the sample."""
    features, collator = sample(predictor), type(predictor).collator(predictor.tokenizer)
    compute = partial(training.compute_logits, model, features, collator, batch_size)
    return 1000 * float(np.median(timeit.repeat(compute, number=1, repeat=5))) * batch_size / SAMPLE


def score(
    predictor: predict.Predictor, model: Any, inputs: list[predict.Input], record: dict[str, Any]
) -> dict[str, RowScore]:
    """Scores of a model as `recipes/predict.py` answers with it, the task's first; none where gold is missing."""
    predictor.model, predictor.gold, predictor.found = model, [], []
    for start in range(0, len(inputs), predict.BLOCK):
        predictor.answer(inputs[start : start + predict.BLOCK])
    rows = predictor.rows()
    try:
        return row_scores(rows, record) if rows else {}
    except ValueError as error:
        raise InputError(f"{predictor.name}: not every label is one of the model's: {error}") from None


def verdict(name: str, score: RowScore, other: RowScore, scale: float) -> tuple[float, str]:
    """The points that a score lost, and in words whether that could be chance on these rows."""
    change = scale * (other.value - score.value)
    low, high = (scale * end for end in bootstrap_interval(score, other))
    told_apart = "could be chance" if low <= 0 <= high else "more than chance"
    return -change, f"{name} {change:+.2f} points (95 % from {low:+.2f} to {high:+.2f}), {told_apart}"


def prove(args: argparse.Namespace, record: dict[str, Any], folder: Path) -> str:
    """Fill `folder` with what holds, and return the README.md that says how well.

    Raises:
        InputError: no rows to try it on, no export, or one that computes something else.
    """
    predictor, inputs = load_inputs(args, record)
    model, graph = export(predictor, inputs, folder)
    exported, int8, lines, table_rows = OnnxModel(folder / "model.onnx"), folder / "model_int8.onnx", [], []

    def measure(label: str, model: Any, files: Iterable[Path]) -> dict[str, RowScore]:
        print(f"{label}: scoring {len(inputs)} rows.", flush=True)
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
        lost, text = verdict(name, scores[name], other[name], scale)
        lines.append(f"{label}: {text}.")
        if lost <= args.tolerance:
            lines.append(f"Kept as {int8.name}: {label}, within the tolerance of {args.tolerance:g}.")
            break
        int8.unlink()
    else:
        reason = f"each lost more than {args.tolerance:g} points" if scores else "the rows have no answers to score"
        lines.append(f"No {int8.name}: {reason}.")
    header = ["model", name, "MB", *(f"ms, batch {size}" for size in BATCH_SIZES)]
    threads = f"Median times on a CPU, threads: {torch.get_num_threads()}; what else ran on it shows in them."
    logits = f"Logits of ONNX are within {difference:.0e} of PyTorch's."
    report = "\n".join([metrics.table(header, table_rows), "", threads, logits, *lines])
    return f"""# {Path(args.model).name} as ONNX

Written by `recipes/tools/export.py` from {args.model}. `model.onnx` has its weights in `model.onnx.data`; `config.json`
holds the label names, and under `recipe` the lengths of windows.
`python -m recipes.predict --model {Path(args.model, "onnx")}` asks it.

{len(inputs)} rows of {predictor.name}:

```
{report}
```
"""


def main(argv: list[str] | None = None) -> str:
    """Export, print what came of it, and return that."""
    args = parse(argv)
    errors.check_range(args, 0, 100, "tolerance")
    errors.check_at_least_one(args, "max_rows")
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
    errors.run_as_command(main)
