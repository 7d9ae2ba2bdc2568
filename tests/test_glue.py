"""The benchmark runs, continues, survives a failing run, and tells dev from test."""

import json
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from common.errors import InputError
from recipes import glue, nli, text_classification

SCORES = {("mrpc", 1): (3, 1), ("mrpc", 2): (2, 2), ("mnli", 1): (4, 0), ("mnli", 2): (1, 3)}  # right and wrong rows


@pytest.fixture
def fake_runs(monkeypatch):
    """Runs that leave what a recipe leaves, without a model; their commands are kept."""
    commands = []

    def run(command, **kwargs):
        commands.append(command)
        value = {flag: command[i + 1] for i, flag in enumerate(command) if flag.startswith("--")}
        task, seed, folder = value["--task_name"], int(value["--seed"]), Path(value["--output_dir"])
        if (folder / "run.json").exists():
            return SimpleNamespace(returncode=0, stdout="this run is finished", stderr="")
        if (task, seed) not in SCORES:
            return SimpleNamespace(returncode=2, stdout="", stderr="noise\nerror: train.csv: no such file\n")
        right, wrong = SCORES[task, seed]
        if value.get("--learning_rate") == "9":
            right, wrong = 0, right + wrong
        labels = [("yes" if i % 2 else "no") for i in range(right + wrong)]
        other = {"yes": "no", "no": "yes"}
        rows = [{"text": str(i), "label": x, "predicted": x if i < right else other[x]} for i, x in enumerate(labels)]
        accuracy = right / (right + wrong)
        results = {"eval_matched_accuracy": accuracy, "eval_mismatched_accuracy": 0.5}
        if task == "mrpc":
            results = {"eval_f1": accuracy / 2, "eval_accuracy": accuracy}
        folder.mkdir(parents=True)
        (folder / "run.json").write_text(json.dumps({"status": "finished", "results": results}))
        (folder / "all_results.json").write_text(json.dumps(results))
        (folder / "config.json").write_text(json.dumps({"id2label": {"0": "no", "1": "yes"}}))
        (folder / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return SimpleNamespace(returncode=0, stdout="", stderr="")

    monkeypatch.setattr(subprocess, "run", run)
    return commands


def flags(tmp_path, *more):
    return [*f"--model_name_or_path org/bert-base-cased --data_dir data --output_dir {tmp_path}".split(), *more]


def test_scores_over_seeds_beside_the_published_dev_figure(fake_runs, tmp_path, capsys):
    entries = glue.main(flags(tmp_path, "--tasks", "mrpc", "mnli", "--seeds", "1", "2", "--fp16", "true"))
    by_name = {(entry["task"], entry["metric"]): entry for entry in entries}
    accuracy = by_name["mrpc", "accuracy"]
    assert (accuracy["mean"], accuracy["best"]) == (62.5, 75.0)
    assert accuracy["sd"] == pytest.approx(17.678, abs=0.001)  # of 75 and 50: 12.5 * sqrt(2)
    assert accuracy["interval"][0] < 62.5 < accuracy["interval"][1]
    assert accuracy["published_dev"]["score"] == 84.07 and "run_glue" in accuracy["published_dev"]["source"]
    assert accuracy["published_test"] is None  # BERT's table gives F1 alone
    assert by_name["mnli", "matched_accuracy"]["published_dev"]["score"] == 83.91
    output = capsys.readouterr().out
    assert "[4/4] mnli seed 2: matched_accuracy 0.2500" in output and "-21.57" in output
    assert "Published on test, another split, not to be compared: bert-base (Devlin" in output
    assert "No GLUE average: it is over nine tasks, and cola, sst2, stsb" in output
    assert all(command[-2:] == ["--fp16", "true"] for command in fake_runs)
    assert json.loads((tmp_path / "bert-base-cased" / "glue.json").read_text())["scores"] == entries


def test_a_stopped_benchmark_continues(fake_runs, tmp_path, capsys):
    glue.main(flags(tmp_path, "--tasks", "mrpc", "--seeds", "1"))
    entries = glue.main(flags(tmp_path, "--tasks", "mrpc", "--seeds", "1", "2"))
    assert entries[0]["seeds"] == 2
    assert "[1/2] mrpc seed 1: f1 0.3750, accuracy 0.7500 (finished before" in capsys.readouterr().out


def test_a_failing_run_is_named_and_the_others_go_on(fake_runs, tmp_path, capsys):
    with pytest.raises(InputError, match="1 of 2 runs failed"):
        glue.main(flags(tmp_path, "--tasks", "rte", "mrpc", "--seeds", "1", "2")[:-1])
    output = capsys.readouterr().out
    assert "[1/2] rte seed 1: FAILED: train.csv: no such file" in output
    assert "rte seed 1: failed: train.csv: no such file" in output.split("Intervals")[1]
    assert "mrpc accuracy" in output


def test_the_best_learning_rate_is_said_to_flatter(fake_runs, tmp_path, capsys):
    rates = ["--learning_rates", "9", "2e-5"]
    entries = glue.main(flags(tmp_path, "--tasks", "mrpc", "--seeds", "1", *rates))
    assert {entry["learning_rate"] for entry in entries} == {"2e-5"}
    assert "learning rate 2e-5 is the best on validation itself, so its score flatters (9 0.00, 2e-5 37.50)" in (
        capsys.readouterr().out
    )


@pytest.mark.parametrize("more", [["--tasks", "squad"], ["--seed", "3"], ["--seeds", "x"]])
def test_bad_flags_are_one_line(fake_runs, tmp_path, more):
    with pytest.raises(InputError, match=more[0]):
        glue.main(flags(tmp_path, *more))
    assert not fake_runs


def test_every_baseline_has_a_source_and_metrics_of_its_task(monkeypatch, tmp_path):
    for row in glue.load_baselines():
        for task, scores in row["scores"].items():
            assert task in glue.TASKS and all(0 <= score <= 100 for score in scores.values())
    (tmp_path / "b.json").write_text('[{"model": "x", "split": "dev", "scores": {}}]')
    monkeypatch.setattr(glue, "BASELINES", tmp_path / "b.json")
    with pytest.raises(InputError, match="every row needs a source"):
        glue.load_baselines()


def test_the_tasks_are_those_of_the_recipes():
    for task, (recipe, metrics) in glue.TASKS.items():
        own = {"nli": nli, "text_classification": text_classification}[recipe].TASKS[task][-1]
        assert metrics == own or (task == "mnli" and own == ("accuracy",)) or set(metrics) <= set(own), task
