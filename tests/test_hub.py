"""The Hub's code paths: against folders that look like what the Hub gives, and against a Hub that does not answer."""

import os
import shutil
import socket
import subprocess
import sys
import time

import pytest
from datasets import ClassLabel, Dataset, Features, List, Value

from common import errors
from common.errors import InputError
from recipes import ner
from tests.conftest import ROOT, read_sample


def test_no_flags_train_the_default_model_on_the_default_dataset(tiny_bert, tmp_path, monkeypatch):
    """Hub names resolve to local folders of that relative name, in the layout of the Hub's own files."""
    names = ["O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC", "B-MISC", "I-MISC"]
    features = Features(id=Value("string"), tokens=List(Value("string")), ner_tags=List(ClassLabel(names=names)))
    data = tmp_path / "lhoestq" / "conll2003" / "data"
    for split, sentences in (("train", read_sample("train")[:40]), ("validation", read_sample("validation")[:9])):
        rows = {
            "id": [str(i) for i in range(len(sentences))],
            "tokens": [list(words) for words, _ in sentences],
            "ner_tags": [[names.index(tag) for tag in tags] for _, tags in sentences],
        }
        Dataset.from_dict(rows, features=features).to_parquet(data / f"{split}-00000-of-00001.parquet")
    shutil.copytree(tiny_bert, tmp_path / "google-bert" / "bert-base-cased")
    monkeypatch.chdir(tmp_path)
    results = ner.main(["--max_steps", "2", "--bf16", "false", "--disable_tqdm", "true"])
    assert set(results) >= {"eval_f1", "eval_loss"}
    assert (tmp_path / "runs" / "ner" / "model.safetensors").exists()


@pytest.fixture
def silent_hub():
    """A server that takes connections and never says a word: the slowest way for a Hub not to be there."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_without_hub_one_line_within_ten_seconds(silent_hub, tmp_path):
    environment = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_ENDPOINT": silent_hub, "HF_HUB_OFFLINE": "0"}
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "recipes.ner", "--output_dir", str(tmp_path / "run")],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
        timeout=60,
    )
    seconds = time.monotonic() - start
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith('error: the dataset "lhoestq/conll2003"')
    for remedy in ("OFFLINE=1", "local path", "HF_HOME"):
        assert remedy in done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "run").exists()
    # Bounded by the probe, not by the libraries' retries of 24 and 49 seconds; the rest is importing PyTorch.
    assert seconds < 40  # the libraries retry for 24 s and 49 s


def test_a_local_model_is_never_asked_of_the_hub(monkeypatch, tiny_bert):
    monkeypatch.setattr(errors, "hub_answers", lambda: pytest.fail("the Hub was asked"))
    errors.go_offline_without_hub(tiny_bert, None)


def test_what_is_wrong_with_a_model_is_said_in_one_line(tiny_bert, tmp_path, small_files):
    def run(model):
        flags = f"--model_name_or_path {model} --train_file {small_files['train']} --output_dir {tmp_path / 'run'}"
        ner.main([*flags.split(), "--validation_file", small_files["validation"], "--bf16", "false"])

    without_tokenizer = shutil.copytree(tiny_bert, tmp_path / "a", ignore=shutil.ignore_patterns("*token*", "vocab*"))
    with pytest.raises(InputError, match=r"/a: "):
        run(without_tokenizer)
    pickled = shutil.copytree(tiny_bert, tmp_path / "b")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"no \*.safetensors weights, and pickled ones are not read"):
        run(pickled)
    damaged = shutil.copytree(tiny_bert, tmp_path / "c")
    (damaged / "model.safetensors").write_bytes((damaged / "model.safetensors").read_bytes()[:500])
    with pytest.raises(InputError, match=r"/c: cannot be loaded as a model"):
        run(damaged)
    with pytest.raises(InputError, match=r'"nobody/nothing" is neither a local path nor in the cache'):
        run("nobody/nothing")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("bug", [TypeError("a bug"), AttributeError("a bug"), KeyError("a bug"), RuntimeError("a bug")])
def test_a_bug_is_not_blamed_on_the_hub(bug):
    with pytest.raises(type(bug), match="a bug"), errors.hub_errors("model", "nobody/nothing"):
        raise bug
