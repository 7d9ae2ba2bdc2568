"""Several processes against one with the same total batch, on CPUs over gloo."""

import importlib
import json
import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT, read_sample, save_tiny_bert, write_sentences
from tests.test_qa import article

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "TORCH_CPP_LOG_LEVEL": "ERROR"}
LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", "--quiet", "--num_processes", "2", "--config_file"]
KILL = str(ROOT / "tests" / "kill_at_step.py")
NAMES = ("ner", "nli", "nli scores", "text_classification", "qa")


def launch(*words, config="multi_gpu", environment=None, timeout=240):
    command = [*LAUNCH, str(ROOT / "recipes" / "launch" / f"{config}.yaml"), *map(str, words)]
    environment = ENVIRONMENT | (environment or {})
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, timeout=timeout)


def write_rows(path, header, rows):
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
    """For each recipe the flags of a run of 12 steps: two epochs of 41 rows, in batches of 8 and one of a single row,
    which leaves a second process without; 21 rows to validate."""
    folder = tmp_path_factory.mktemp("distributed")
    train, held_out = read_sample("train"), read_sample("validation")
    write_sentences(folder / "ner-train.conll", train[:41])
    write_sentences(folder / "ner-validation.conll", held_out[:21])
    words = ["warm", "cold", "long", "short", "film", "day", "was", "the"]
    texts = [" ".join(words[(i * k) % 8] for k in range(1, 3 + i % 7)) for i in range(62)]
    rows = {
        "text_classification": ("text,label", [f"{text},{int(i % 4 == 0)}" for i, text in enumerate(texts)]),
        "nli": ("premise,hypothesis,label", [f"{t},{t[:9]},{i % 3}" for i, t in enumerate(texts)]),
        "nli scores": ("premise,hypothesis,label", [f"{t},{t[:9]},{i % 7 / 2}" for i, t in enumerate(texts)]),
    }
    for name, (header, lines) in rows.items():
        write_rows(folder / f"{name.replace(' ', '-')}-train.csv", header, lines[:41])
        write_rows(folder / f"{name.replace(' ', '-')}-validation.csv", header, lines[41:])
    for split, count in (("train", 41), ("validation", 21)):
        (folder / f"qa-{split}.json").write_text(json.dumps(article(count, count)))
    known = [" ".join(words) for words, _ in train] + [*texts, json.dumps(article(20, 1))]
    model = save_tiny_bert(folder / "model", known, dropout=0.0, positions=128)
    common = f"--model_name_or_path {model} --num_train_epochs 2 --learning_rate 1e-3 --logging_steps 1 --bf16 false "
    common += "--per_device_eval_batch_size 4 --disable_tqdm true --save_total_limit 9 --max_seq_length 64"
    found = {}
    for name in NAMES:
        ending = {"ner": "conll", "qa": "json"}.get(name, "csv")
        files = [
            f"--{split}_file {folder / name.replace(' ', '-')}-{split}.{ending}" for split in ("train", "validation")
        ]
        found[name] = f"{common} {' '.join(files)}".split()
    found["text_classification"] += ["--class_weights", "balanced"]
    found["nli"] += ["--train_sampling_strategy", "group_by_length"]
    return found


@pytest.fixture(scope="module")
def alone(flags, tmp_path_factory):
    """The folder of a recipe's run in one process, with batches of 8."""
    folder = tmp_path_factory.mktemp("alone")

    def run(name):
        if not (folder / name).exists():
            module = importlib.import_module(f"recipes.{name.split()[0]}")
            module.main([*flags[name], "--per_device_train_batch_size", "8", "--output_dir", str(folder / name)])
        return folder / name

    return run


def assert_same(run, expected):
    assert len(logged_last(expected, "loss")) == 12
    assert logged_last(run, "loss") == pytest.approx(logged_last(expected, "loss"), abs=1e-5)
    assert logged_last(run, "grad_norm") == pytest.approx(logged_last(expected, "grad_norm"), rel=1e-3)
    results = [json.loads((folder / "all_results.json").read_text()) for folder in (run, expected)]
    assert results[0] == pytest.approx(results[1], abs=1e-4)
    rows = [(folder / "predictions.jsonl").read_text().splitlines() for folder in (run, expected)]
    assert len(rows[0]) == 21
    for ours, theirs in zip(*map(lambda lines: map(json.loads, lines), rows), strict=True):
        for key in theirs:
            assert ours[key] == (
                pytest.approx(theirs[key], abs=1e-3) if isinstance(theirs[key], float) else theirs[key]
            )


def logged_last(run, key):
    state = json.loads((run / "checkpoint-12" / "trainer_state.json").read_text())
    return [row[key] for row in state["log_history"] if key in row]


def test_two_processes_train_and_score_as_one_and_speak_with_one_voice(flags, alone, tmp_path):
    done = launch(
        "-m", "recipes.ner", *flags["ner"], "--per_device_train_batch_size", 4, "--output_dir", tmp_path / "run"
    )
    assert done.returncode == 0, done.stderr
    assert_same(tmp_path / "run", alone("ner"))
    assert (tmp_path / "run" / "predictions.conll").read_text() == (alone("ner") / "predictions.conll").read_text()
    assert done.stdout.count("Effective batch 8: 4 per device, 2 processes, 1 accumulation step.") == 1
    assert done.stdout.count("Model and results") == done.stdout.count("'train_runtime'") == 1
    assert done.stderr.count("Tokenizing train: 100%") == 1
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["processes"] == 2 and record["total_batch_size"] == 8


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if name != "ner"])
def test_every_recipe_trains_and_scores_alike(flags, alone, tmp_path, name):
    two = ["--per_device_train_batch_size", 2, "--gradient_accumulation_steps", 2, "--output_dir", tmp_path / "run"]
    done = launch("-m", f"recipes.{name.split()[0]}", *flags[name], *two)
    assert done.returncode == 0, done.stderr
    assert_same(tmp_path / "run", alone(name))
