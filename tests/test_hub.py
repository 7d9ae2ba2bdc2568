"""The Hub's code paths: against folders that look like what the Hub gives, and against a Hub that does not answer."""

import shutil
import socket
import time

import pytest
from datasets import ClassLabel, Dataset, Features, List, Value

from common import errors
from recipes import ner
from tests.conftest import ENVIRONMENT, process, read_sample, run


def test_no_flags_train_the_default_model_on_the_default_dataset(tiny_bert, tmp_path, monkeypatch):
    """Hub names resolve to local folders of that relative name, in the layout of the Hub's own files."""
    names = ["O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC", "B-MISC", "I-MISC"]
    features = Features(id=Value("string"), tokens=List(Value("string")), ner_tags=List(ClassLabel(names=names)))
    data = tmp_path / "lhoestq" / "conll2003" / "data"
    for split, sentences in (("train", read_sample("train")[:40]), ("validation", read_sample("validation")[:9])):
        rows = [{"id": str(i), "tokens": words, "ner_tags": tags} for i, (words, tags) in enumerate(sentences)]
        dataset = Dataset.from_list(rows, features=features)
        dataset.to_parquet(data / f"{split}-00000-of-00001.parquet")
    shutil.copytree(tiny_bert, tmp_path / "google-bert" / "bert-base-cased")
    monkeypatch.chdir(tmp_path)
    assert set(run(ner, "--max_steps 2")) >= {"eval_f1", "eval_loss"}
    assert (tmp_path / "runs" / "ner" / "model.safetensors").exists()


@pytest.fixture
def silent_hub():
    """A server that takes connections and never says a word: the slowest way for a Hub not to be there."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_without_hub_one_line_within_ten_seconds(silent_hub, tmp_path):
    hub = {"HF_HOME": str(tmp_path / "hf"), "HF_ENDPOINT": silent_hub, "HF_HUB_OFFLINE": "0"}
    start = time.monotonic()
    done = process("-m", "recipes.ner", "--output_dir", tmp_path / "run", environment=ENVIRONMENT | hub, timeout=60)
    # Bounded by the probe, not by the libraries' retries of 24 and 49 seconds; the rest is importing PyTorch.
    assert time.monotonic() - start < 40
    assert done.returncode == 2 and "Traceback" not in done.stderr and not (tmp_path / "run").exists()
    assert done.stderr.splitlines()[-1].startswith('error: the dataset "lhoestq/conll2003"')
    assert all(remedy in done.stderr for remedy in ("OFFLINE=1", "local path", "HF_HOME"))


def test_a_local_model_is_never_asked_of_the_hub(monkeypatch, tiny_bert):
    monkeypatch.setattr(errors, "hub_answers", lambda: pytest.fail("the Hub was asked"))
    errors.go_offline_without_hub(tiny_bert, None)


@pytest.mark.parametrize("bug", [TypeError, AttributeError, KeyError, RuntimeError])
def test_a_bug_is_not_blamed_on_the_hub(bug):
    with pytest.raises(bug, match="a bug"), errors.hub_errors("model", "nobody/nothing"):
        raise bug("a bug")
