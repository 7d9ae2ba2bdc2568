"""Exporting a run: the same logits and answers in ONNX Runtime, and int8 only where it costs little."""

import contextlib
import importlib.util
import json
import re
import shutil
import socket
import subprocess
import sys
import time
from argparse import Namespace
from itertools import islice
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from common.errors import InputError
from recipes import ner, nli, predict, qa, text_classification
from recipes.tools import export
from tests.conftest import ENVIRONMENT, ROOT, SAMPLES, read_json, read_sample, run, write
from tests.encoders import save_encoder

RECIPES = {"ner": (ner, "bert", "conll"), "nli": (nli, "roberta", "csv"), "qa": (qa, "distilbert", "json")}
MISSING = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
needs_packages = pytest.mark.skipif(
    bool(MISSING), reason=f"{', '.join(MISSING)} not installed: recipes/tools/requirements-export.txt"
)


def train(name: str, folder: Path) -> Path:
    """A few steps, on windows shorter than some rows; the answers need not be good."""
    recipe, encoder, ending = RECIPES[name]
    texts = [" ".join(words).replace('"', "") for words, _ in read_sample("train")]
    files = [SAMPLES / name / f"{split}.{ending}" for split in ("train", "validation")]
    if name == "nli":  # the sample's pairs are all longer than what the model reads
        lines = [
            f'"{text[: 4 + i % 30]}","{text[-i % 20 - 4 :]}",{"yes" if i % 2 else "no"}' for i, text in enumerate(texts)
        ]
        files = [write(folder / "pairs.csv", "\n".join(["premise,hypothesis,label", *lines]))] * 2
    flags = f"--model_name_or_path {save_encoder(encoder, folder / 'encoder', texts)} --output_dir {folder / 'run'} "
    flags += f"--train_file {files[0]} --validation_file {files[1]} --max_train_samples 40 --max_eval_samples 4 "
    flags += "--max_seq_length 48 --max_steps 5 --learning_rate 3e-3 --save_strategy no --eval_strategy no"
    run(recipe, flags)
    return folder / "run"


def load(folder: Path, *flags: str):
    """The predictor of a run or an export, on the rows that the run was validated on."""
    home = folder if (folder / "run.json").exists() else folder.parent
    file = read_json(home / "run.json")["arguments"]["validation_file"]
    return predict.load_predictor(predict.parse(["--model", str(folder), "--file", file, *flags]))


@pytest.fixture(scope="module", params=RECIPES)
def exported(request, tmp_path_factory) -> tuple[Path, str]:
    """A run with its export, and the report."""
    run = train(request.param, tmp_path_factory.mktemp(f"export-{request.param}"))
    return run, export.main(["--model", str(run), "--max_rows", "30", "--tolerance", "100"])


@pytest.fixture(scope="module")
def tagger(tmp_path_factory):
    return train("ner", tmp_path_factory.mktemp("export-tagger"))


@pytest.mark.slow
@needs_packages
def test_logits_and_answers_are_those_of_the_run(exported):
    run, report = exported
    original, other = load(run, "--batch_size", "64"), load(run / "onnx", "--batch_size", "5")
    assert isinstance(other.model, export.OnnxModel)
    inputs = list(islice(original.inputs(), 20))
    answers = original.answer(inputs)
    assert len({len(ids) for ids in original.features["input_ids"]}) > 5
    assert export.largest_difference(original, original.model, other.model) < 1e-4
    # Both round to four digits, and a value at the edge may fall to either side.
    for a, b in zip(answers, other.answer(inputs), strict=True):
        key = "probabilities" if "probabilities" in a else "probability"
        assert a.pop(key) == pytest.approx(b.pop(key), abs=2e-4)
        kept = a.keys() - {"entities", "next", "probability"}
        assert {key: a[key] for key in kept} == {key: b[key] for key in kept}
    assert original.rows() == other.rows() and len(original.rows()) == 20
    assert "PyTorch" in report and (run / "onnx" / "README.md").read_text() == report


@pytest.mark.slow
@needs_packages
def test_the_readme_serves_an_export_without_torch(tiny_bert, tmp_path):
    data = SAMPLES / "text_classification" / "train.csv"
    flags = f"--model_name_or_path {tiny_bert} --train_file {data} --output_dir {tmp_path / 'run'} --max_seq_length 48"
    flags += f" --validation_file {data} --max_train_samples 40 --max_eval_samples 40 --max_steps 5"
    run(text_classification, flags, "--save_strategy no --eval_strategy no")
    export.main(["--model", str(tmp_path / "run"), "--max_rows", "5", "--tolerance", "100"])
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    code = re.search(r"```python\n(import json\nfrom http.*?)```", readme, re.S)[1]
    code = code.replace("runs/text_classification/onnx", str(tmp_path / "run" / "onnx")).replace("8000", str(port))
    (tmp_path / "without").mkdir()
    for name in ("torch", "transformers"):
        write(tmp_path / "without" / f"{name}.py", "raise ImportError")
    text = "Kept for years, " * 10
    environment = ENVIRONMENT | {"PYTHONPATH": str(tmp_path / "without")}
    server = subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.DEVNULL)
    try:
        for _ in range(100):
            with contextlib.suppress(URLError):
                reply = json.load(urlopen(f"http://localhost:{port}", data=text.encode()))
                break
            time.sleep(0.2)
    finally:
        server.terminate()
    (answer,) = predict.main(["--model", str(tmp_path / "run"), "--text", text, "--top_k", "2", "--json"])
    assert reply == pytest.approx(answer["probabilities"], abs=2e-4)


@pytest.mark.slow
@needs_packages
def test_the_folder_is_complete_and_int8_is_asked_for_by_a_flag(exported):
    run, _ = exported
    names = {path.name for path in (run / "onnx").iterdir()}
    assert {"model.onnx", "model.onnx.data", "model_int8.onnx", "tokenizer.json", "config.json", "README.md"} <= names
    assert (run / "onnx" / "README.md").stat().st_mode & 0o044, "readable by others, as the run is"
    assert not [path for path in run.iterdir() if path.name.startswith("tmp")]
    small = load(run / "onnx", "--int8")
    inputs = list(islice(small.inputs(), 3))
    assert small.model.session._model_path.endswith("model_int8.onnx") and len(small.answer(inputs)) == 3


@pytest.mark.slow
@needs_packages
def test_int8_beyond_the_tolerance_is_not_kept(tagger, monkeypatch):
    flags = ["--model", str(tagger), "--max_rows", "5", "--tolerance", "0.5"]
    lost = iter((3.0, 0.5, 0.6, 0.6))  # the second way holds; then none does
    monkeypatch.setattr(export, "verdict", lambda *args: (next(lost), ""))
    assert "Kept as model_int8.onnx: int8 inner layers" in export.main(flags)
    assert (tagger / "onnx" / "model_int8.onnx").exists()
    assert "No model_int8.onnx: each lost more than 0.5 points" in export.main(flags)
    assert not (tagger / "onnx" / "model_int8.onnx").exists() and (tagger / "onnx" / "model.onnx").exists()
    with pytest.raises(InputError, match=r"holds no model_int8\.onnx"):
        predict.main(["--model", str(tagger / "onnx"), "--int8", "--text", "Ada ran."])


@pytest.mark.slow
@needs_packages
def test_rows_without_answers_prove_the_export_and_no_int8(tagger, tmp_path):
    words = write(tmp_path / "words.jsonl", [{"tokens": ["Ada", "ran"]}])
    report = export.main(["--model", str(tagger), "--file", words])
    assert "the rows have no answers to score" in report and "Logits of ONNX" in report


@pytest.mark.slow
@needs_packages
def test_what_differs_or_cannot_be_exported_leaves_nothing(tagger, tmp_path, monkeypatch):
    run = Path(shutil.copytree(tagger, tmp_path / "run", ignore=shutil.ignore_patterns("onnx")))
    flags = ["--model", str(run), "--max_rows", "5"]
    before = sorted(run.iterdir())

    def refuse(*args):
        raise RuntimeError("no such\noperator")

    with monkeypatch.context() as patch:
        patch.setattr("transformers.exporters.OnnxExporter.export", refuse)
        with pytest.raises(InputError, match="bert cannot be exported to ONNX: no such operator"):
            export.main(flags)
    monkeypatch.setattr(export, "largest_difference", lambda *args: float("nan"))
    with pytest.raises(InputError, match="nothing was written"):
        export.main(flags)
    assert sorted(run.iterdir()) == before


def test_without_the_packages_one_line_says_what_to_install(tmp_path, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if "onnx" in name else found(name, *rest))
    with pytest.raises(InputError, match=r"^onnx, onnxscript, onnxruntime: not installed; pip install -r recipes/"):
        export.main(["--model", str(tmp_path)])
    with pytest.raises(InputError, match=r"^onnxruntime: not installed"):
        export.OnnxModel(Path("model.onnx"))


@pytest.mark.parametrize(
    ("flags", "message"), [("", "holds no run"), ("--tolerance -1", "from 0 to 100"), ("--max_rows 0", "at least 1")]
)
def test_bad_flags_are_refused(tmp_path, monkeypatch, flags, message):
    monkeypatch.setattr(export, "check_packages", lambda *names: None)
    with pytest.raises(InputError, match=message):
        export.main(["--model", str(tmp_path), *flags.split()])


@pytest.mark.parametrize(
    ("file", "message"),
    [(None, "names no test or validation file; give rows"), ("none.conll", "none.conll; give rows")],
)
def test_a_run_without_a_file_asks_for_one(file, message):
    record = {"arguments": {"test_file": None, "validation_file": None}}
    with pytest.raises(InputError, match=message):
        export.load_inputs(Namespace(model="runs/x", file=file, max_rows=None), record)
