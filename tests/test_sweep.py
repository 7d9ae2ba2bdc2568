"""Runs side by side, sweeps over settings and folds, and labels that a model does not believe."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from common.errors import InputError
from common.runs import read_record
from recipes.tools import runner, sweep
from tests.conftest import ENDINGS, ROOT, SAMPLES, flags_of, read_lines, write

# Writes its process id; on SIGTERM it saves, as a recipe does.
SLOW = """
import os, pathlib, signal, sys, time
def save(*_):
    time.sleep(0.3); pathlib.Path(sys.argv[1], "saved").touch(); print("saved"); sys.exit(143)
signal.signal(signal.SIGTERM, save); signal.signal(signal.SIGINT, save)
pathlib.Path(sys.argv[1]).mkdir(); print(os.environ.get("OMP_NUM_THREADS"), flush=True)
time.sleep(60)
"""


def job(name, code, tmp_path):
    return runner.Job(name, [sys.executable, "-c", code, str(tmp_path / name)], tmp_path / name)


def test_two_jobs_run_at_once_and_each_is_told_as_it_ends(tmp_path, monkeypatch, capsys):
    """`first` waits for `second`; one after another they would never end."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    wait = f"import os, time\nwhile not os.path.exists({str(tmp_path / 'sign')!r}): time.sleep(0.01)\n"
    show = f"import os; open({str(tmp_path / 'sign')!r}, 'w').close(); print(os.environ['OMP_NUM_THREADS'])"
    jobs = [job("first", wait, tmp_path), job("second", show, tmp_path)]
    jobs.append(job("broken", "import sys; print('error: no such file'); sys.exit(2)", tmp_path))
    jobs.append(job("again", "print('runs/x: this run is finished')", tmp_path))
    failed = runner.run_all(jobs, 2, lambda job: {"f1": 0.5})
    assert failed == {"broken": "no such file"}
    shown = capsys.readouterr().out
    assert "second: f1 0.5000 (0.0 min; about" in shown and "broken: FAILED: no such file" in shown
    assert "again: f1 0.5000 (finished before; about" in shown and "[4/4]" in shown
    assert jobs[1].log.read_text() == "4\n"
    with pytest.raises(InputError, match="no run has succeeded; broken: no such file"):
        runner.run_all([jobs[2]], 1, lambda job: {})
    assert jobs[2].log.read_text() == "error: no such file\n" * 2  # the log of the first try stays


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_reaches_every_run_once_and_is_waited_for(tmp_path, number):
    """The runs end their steps and save; the benchmark ends after them, and starts no other."""
    code = f"""if True:
    import sys
    from pathlib import Path
    from recipes.tools import runner
    jobs = [runner.Job(n, [sys.executable, "-c", {SLOW!r}, n], Path(n)) for n in ("a", "b", "c")]
    list(runner.run_jobs(jobs, [{{}}, {{}}]))"""
    process = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)})
    while not ((tmp_path / "a").exists() and (tmp_path / "b").exists()):
        time.sleep(0.05)
    process.send_signal(number)
    assert process.wait(timeout=30) == 128 + number
    assert (tmp_path / "a" / "saved").exists() and (tmp_path / "b" / "saved").exists()
    assert not (tmp_path / "c").exists()


def test_each_accelerator_has_a_run_of_its_own(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: SimpleNamespace(type="cuda"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert runner.environments(None) == [{"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "1"}]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    assert [entry["CUDA_VISIBLE_DEVICES"] for entry in runner.environments(3)] == ["5", "7", "5"]
    with pytest.raises(InputError, match="--jobs 0: must be at least 1"):
        runner.environments(0)


# Folds


def test_folds_divide_no_document_and_no_copy_of_a_text():
    documents = [i // 5 for i in range(60)]
    texts = [f"text {i}" for i in range(60)]
    texts[3] = texts[33] = "the same headline in two documents"
    folds = sweep.divide(documents, texts, [{"PER"}] * 60, None, 4)
    assert sorted(i for fold in folds for i in fold) == list(range(60))
    for fold in folds:
        train = sweep.training_rows(fold, texts)
        assert not {documents[i] for i in fold} & {documents[i] for i in train}
        assert not {texts[i] for i in fold} & {texts[i] for i in train}


def test_folds_keep_classes_and_a_class_that_stands_alone_is_trained_on():
    classes = ["no", "yes"] * 20 + ["rare"]
    texts = [str(i) for i in range(41)]
    folds = sweep.divide(texts, texts, [{c} for c in classes], classes, 4)
    assert sorted(i for fold in folds for i in fold) == list(range(40))
    for fold in folds:
        assert [[classes[i] for i in fold].count(name) for name in ("no", "yes")] == [5, 5]
        assert 40 in sweep.training_rows(fold, texts)
    with pytest.raises(InputError, match=r"--folds 50: .*n_splits=50"):
        sweep.divide(texts, texts, [set()] * 41, None, 50)


# A sweep


def fake_jobs(monkeypatch, commands):
    """Runs of the text recipe that believe "yes" of every text with a y, the more the better the rate."""

    def run_jobs(jobs, free=({},)):
        for job in jobs:
            commands.append(job.command)
            value = {flag: job.command[i + 1] for i, flag in enumerate(job.command[:-1]) if flag.startswith("--")}
            is_repeated = (job.folder / "run.json").exists()
            leave_run(job.folder, value)
            yield SimpleNamespace(job=job, error=None, is_repeated=is_repeated, began=time.monotonic())

    monkeypatch.setattr(runner, "run_jobs", run_jobs)


ARGUMENTS = {}


def leave_run(folder, value):
    rate = float(value.get("--learning_rate", 0.1))
    rows = read_lines(Path(value["--validation_file"]))
    for row in rows:
        row["predicted"] = "yes" if "y" in row["text"] else "no"
        row["label_probability"] = 0.5 + rate if row["predicted"] == row["label"] else 0.5 - rate
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / "predictions.jsonl", rows)
    record = {"status": "finished", "results": {"eval_accuracy": 0.5 + rate}, "arguments": ARGUMENTS}
    record["data"] = {"labels": ["no", "yes"], "splits": {"train": {"classes": {"no": 3, "yes": 2}}}}
    write(folder / "run.json", json.dumps(record))


@pytest.fixture
def train_file(tmp_path):
    """40 rows in columns of the user's own; the label of line 9 is wrong."""
    rows = [(f"a {'y' if i % 2 else 'n'} {i}", "yes" if i % 2 else "no") for i in range(40)]
    rows[7] = (rows[7][0], "no")
    return write(tmp_path / "train.csv", "body,stars\n" + "".join(f"{text},{label}\n" for text, label in rows))


@pytest.fixture
def sweep_flags(train_file, tiny_bert, tmp_path):
    flags = f"text_classification --train_file {train_file} --text_columns body --label_column stars"
    return f"{flags} --model_name_or_path {tiny_bert} --output_dir {tmp_path}/sweep"


def test_folds_give_every_row_an_answer_and_the_wrong_label_comes_first(sweep_flags, tmp_path, monkeypatch, capsys):
    commands, folder = [], tmp_path / "sweep"
    fake_jobs(monkeypatch, commands)
    argv = flags_of(sweep_flags, "--learning_rates 0.1 0.3 --folds 4 --seeds 1 2")
    argv += ["--early_stopping_patience", "2", "--threshold_for", "f1"]  # which need the validation that the runs have
    results = sweep.main(argv)
    assert len(commands) == 2 * 2 * 4 and [result["mean"] for result in results] == [0.8, 0.6]
    answered = read_lines(folder / "out_of_fold.jsonl")
    assert [row["place"] for row in answered] == [f"line {i + 2}" for i in range(40)]
    assert all(row["predicted"] in ("yes", "no") for row in answered)
    suspects = read_lines(folder / "suspects.jsonl")
    assert len(suspects) == 40 and suspects[0]["place"] == "line 9"
    assert (suspects[0]["belief"], suspects[0]["given"], suspects[0]["answer"]) == (0.2, "no", "yes")
    low, high = results[0]["interval"]
    assert low < 39 / 40 <= high  # of the answers themselves
    output, table = capsys.readouterr().out, (folder / "sweep.md").read_text()
    assert ["line", "9", "0.2000", "no", "yes", "a", "y", "7"] in map(str.split, table.splitlines())
    assert f"--learning_rate 0.3 --output_dir {folder / 'best'}" in output.split("The best:")[1]
    # A fold's files are read by the recipe, whatever the user's columns are called.
    value = {flag: commands[0][i + 1] for i, flag in enumerate(commands[0][:-1])}  # the last one counts
    files = [Path(value[flag]).read_text().splitlines() for flag in ("--train_file", "--validation_file")]
    assert len(files[0]) + len(files[1]) == 40 and value["--text_columns"] == "text"
    capsys.readouterr()
    sweep.main(argv)
    assert capsys.readouterr().out.count("finished before") == 16


def test_where_lower_is_better_the_lowest_comes_first(sweep_flags, monkeypatch):
    fake_jobs(monkeypatch, [])
    monkeypatch.setitem(ARGUMENTS, "greater_is_better", False)
    monkeypatch.setitem(ARGUMENTS, "metric_for_best_model", "accuracy")
    results = sweep.main(flags_of(sweep_flags, "--learning_rates 0.3 0.1 --folds 2"))
    assert [result["mean"] for result in results] == [0.6, 0.8]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("parsing", "parsing: is not a recipe"),
        ("ner --folds 1", "--folds 1: must be at least 2"),
        ("ner --folds 2 --max_eval_samples 3", "--max_eval_samples: .* use --max_train_samples"),
    ],
)
def test_bad_flags_are_one_line(flags, message):
    with pytest.raises(InputError, match=message):
        sweep.main(flags.split())


def test_a_sentence_is_believed_as_far_as_its_least_believed_word():
    row = {"tokens": ["Ada", "in", "Lyon"], "ner_tags": ["B-PER", "O", "O"], "probabilities": [0.6, 0.9, 0.7]}
    row["predicted"] = ["B-PER", "O", "B-LOC"]
    assert sweep.belief(row) == {"belief": 0.3, "given": "Lyon O", "answer": "B-LOC"}
    assert sweep.belief({"label": "2.0", "predicted": 3.5}) == {"belief": -1.5, "given": "2.0", "answer": 3.5}
    assert sweep.belief({"answers": ["Lyon"], "predicted": "Lyon"}) == {}


@pytest.mark.slow
def test_a_sweep_with_folds_of_each_recipe(tmp_path, tiny_bert):
    """Runs themselves, on the samples: the files of the folds are what the recipes read, and nothing runs twice."""
    for recipe, ending in ENDINGS.items():
        folder = tmp_path / recipe
        argv = f"{recipe} --model_name_or_path {tiny_bert} --train_file {SAMPLES / recipe}/train.{ending} --folds 2"
        argv += f" --max_train_samples 60 --max_steps 2 --max_seq_length 48 --bf16 false --output_dir {folder} --jobs 2"
        sweep.main(argv.split())
        began = [read_record(path)["started_at"] for path in sorted(folder.glob("seed1-*of2"))]
        answered = read_lines(folder / "out_of_fold.jsonl")
        assert len(answered) == 60 and all("predicted" in row for row in answered)
        assert (folder / "suspects.jsonl").exists() == (recipe != "qa")
        if recipe == "ner":
            sweep.main(argv.split())
        assert began == [read_record(path)["started_at"] for path in sorted(folder.glob("seed1-*of2"))]
