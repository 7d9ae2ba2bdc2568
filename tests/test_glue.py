"""The benchmark runs, continues, survives a failing run, and tells dev from test."""

import csv
import json
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from common.errors import InputError
from recipes import glue, nli, text_classification
from recipes.tools import baselines
from recipes.tools.glue_files import OFFICIAL, SUBMISSION, convert_official, write_submission

SCORES = {("mrpc", 1): (3, 1), ("mrpc", 2): (2, 2), ("mnli", 1): (4, 0), ("mnli", 2): (1, 3)}  # right and wrong rows


def answer(task, folder):
    """What a recipe leaves that predicts a test file of two rows."""
    names = {"mnli": ["neutral", "entailment"], "qnli": ["entailment", "not_entailment"], "stsb": None}
    names = names.get(task, ["entailment", "not_entailment"] if task == "rte" else ["no", "yes"])
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"label2id": {name: i for i, name in enumerate(names or [])}}))
    rows = [{"predicted": value} for value in (names or [-0.25, 3.14159])]
    (folder / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def fake_runs(monkeypatch):
    """Runs that leave what a recipe leaves, without a model; their commands are kept."""
    commands = []

    def run(command, log):
        commands.append(command)
        value = {flag: command[i + 1] for i, flag in enumerate(command[:-1]) if flag.startswith("--")}
        task, folder = value["--task_name"], Path(value["--output_dir"])
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text("")
        if value.get("--do_train") == "false":
            return answer(task, folder)
        if (folder / "run.json").exists():
            log.write_text("this run is finished")
            return None
        seed = int(value["--seed"])
        if (task, seed) not in SCORES:
            return "train.csv: no such file"
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
        record = {
            "status": "finished",
            "results": results,
            "total_batch_size": 32,
            "device": "cpu",
            "precision": "fp32",
        }
        record |= {"identity": {"num_train_epochs": 3}, "seconds": {"set-up": 10, "training": 60.0}}
        record["data"] = {"labels": ["no", "yes"], "splits": {"train": {"classes": {"no": 9, "yes": 5}}}}
        folder.mkdir(parents=True)
        (folder / "run.json").write_text(json.dumps(record))
        (folder / "all_results.json").write_text(json.dumps(results))
        (folder / "config.json").write_text(json.dumps({"id2label": {"0": "no", "1": "yes"}}))
        (folder / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return None

    monkeypatch.setattr(glue, "run_process", run)
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
    assert accuracy["published_dev"]["score"] == 84.36 and "Flax" in accuracy["published_dev"]["source"]
    assert accuracy["published_dev"]["runs"] == 5 and accuracy["published_dev"]["sd"] == 1.09
    assert 0.2 < accuracy["chance"] < 0.5  # two runs, 75 and 50, against 84.36 with a deviation of 1.09
    assert accuracy["trivial"] == 50  # always no
    assert accuracy["published_test"] is None  # BERT's table gives F1 alone
    assert by_name["mnli", "matched_accuracy"]["published_dev"]["score"] == 83.80
    output = capsys.readouterr().out
    assert "[4/4] mnli seed 2: matched_accuracy 0.2500" in output and "-21.86" in output
    assert "Published on test, another split, not to be compared: bert-base (Devlin" in output
    assert "No GLUE average: it is over nine tasks, and cola, sst2, stsb" in output
    assert all(command[-2:] == ["--fp16", "true"] for command in fake_runs)
    assert (tmp_path / "bert-base-cased" / "glue.svg").read_text().startswith("<?xml")
    assert json.loads((tmp_path / "bert-base-cased" / "glue.json").read_text())["scores"] == entries


def test_a_stopped_benchmark_continues(fake_runs, tmp_path, capsys):
    glue.main(flags(tmp_path, "--tasks", "mrpc", "--seeds", "1"))
    entries = glue.main(flags(tmp_path, "--tasks", "mrpc", "--seeds", "1", "2"))
    assert len(entries[0]["values"]) == 2
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


def test_a_dry_run_counts_runs_steps_and_hours(fake_runs, tmp_path, capsys):
    (tmp_path / "data" / "mrpc").mkdir(parents=True)
    for split, rows in (("train", 320), ("validation", 96)):
        lines = "".join(f"a{i},b{i},1\n" for i in range(rows))
        (tmp_path / "data" / "mrpc" / f"{split}.csv").write_text("sentence1,sentence2,label\n" + lines)
    more = ["--tasks", "mrpc", "--seeds", "1", "2", "--dry_run", "--data_dir", str(tmp_path / "data")]
    assert glue.main(flags(tmp_path / "runs", *more)) == []
    assert len(fake_runs) == 1 and not (tmp_path / "runs").exists()
    # 320 rows in batches of 32 over 3 epochs are 30 steps of 3 s; 4 evaluations of 96 rows are 12 batches of 1 s.
    line = next(line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("all"))
    assert line == ["all", "2", "60", "-", f"{2 * (10 + 30 * 3 + 12) / 3600:.2f}"]


def test_a_dry_run_of_the_hubs_tasks_knows_their_rows(fake_runs, tmp_path, capsys):
    glue.main(["--output_dir", str(tmp_path), "--tasks", "mrpc", "--dry_run"])
    assert f" {3 * 3 * 115} " in capsys.readouterr().out  # 3 seeds, 3 epochs of 3,668 / 32 steps


def test_a_stop_is_handed_to_the_run_and_waited_for(tmp_path):
    """The run ends its step and saves; the benchmark ends after it, with the same code."""
    slow = "import signal, sys, time; signal.signal(15, lambda *_: (time.sleep(0.3), print('saved'), sys.exit(143)));"
    inner = f"{slow} print('ready', flush=True); time.sleep(60)"
    log = tmp_path / "run.log"
    outer = f"from recipes.glue import *; run_process([sys.executable, '-c', {inner!r}], Path({str(log)!r}))"
    process = subprocess.Popen([sys.executable, "-c", outer])
    while not (log.exists() and "ready" in log.read_text()):
        time.sleep(0.1)
    process.terminate()
    assert process.wait() == 143 and "saved" in log.read_text()


OFFICIAL_ROWS = {  # header and a row of test, or of train where there is one, as the download has them
    "cola": ("train", None, 'gj04\t1\t\tOur friends won"t buy this.'),
    "mrpc": ("test", "index\t#1 ID\t#2 ID\t#1 String\t#2 String", '0\t1\t2\tHe said "no\tHe said, no'),
    "qqp": ("dev", "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate", "7\t1\t2\tWhy?\tHow?\t0"),
    "mnli": (
        "dev_mismatched",
        "index\tpromptID\tsentence1_parse\tsentence1\tsentence2\tlabel1\tgold_label",
        "0\t9\t( a )\tA, b\tc\tneutral\tentailment",
    ),
    "stsb": (
        "dev",
        "index\tgenre\tsource1\tsentence1\tsentence2\tscore",
        "0\tnews\tx\tA man.\tA woman.\t2.500",
    ),
}
READ = {
    "cola": ("train", {"sentence": 'Our friends won"t buy this.', "label": "1"}),
    "mrpc": ("test", {"sentence1": 'He said "no', "sentence2": "He said, no"}),
    "qqp": ("validation", {"question1": "Why?", "question2": "How?", "label": "0"}),
    "mnli": ("validation_mismatched", {"premise": "A, b", "hypothesis": "c", "label": "entailment"}),
    "stsb": ("validation", {"sentence1": "A man.", "sentence2": "A woman.", "label": "2.500"}),
}


def official(folder, task, *more_rows):
    split, header, row = OFFICIAL_ROWS[task]
    path = folder / OFFICIAL[task][0] / f"{split}.tsv"
    path.parent.mkdir(parents=True)
    path.write_text("\n".join(filter(None, [header, row, *more_rows])) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("task", READ)
def test_the_official_download_is_read_without_quoting(tmp_path, task):
    official(tmp_path, task)
    convert_official(tmp_path, task, tmp_path / "data")
    split, expected = READ[task]
    with open(tmp_path / "data" / task / f"{split}.csv", newline="") as file:
        assert list(csv.DictReader(file)) == [expected]


def test_a_broken_row_is_counted_in_train_and_refused_in_test(tmp_path, caplog):
    path = official(tmp_path, "qqp", "8\tbroken")
    convert_official(tmp_path, "qqp", tmp_path / "data")
    assert f"{path}: 1 rows do not have" in caplog.text
    path = official(tmp_path, "mrpc", "2\t1\t2\ta\tb")
    with pytest.raises(InputError, match=r"test.tsv: index 2 where 1 follows"):
        convert_official(tmp_path, "mrpc", tmp_path / "data")
    path.write_text("0\tbroken\n")
    with pytest.raises(InputError, match="line 1: has no column #1 String"):
        convert_official(tmp_path, "mrpc", tmp_path / "data")


def test_the_benchmark_reads_the_official_download(fake_runs, tmp_path):
    official(tmp_path / "glue", "mrpc")
    glue.main(flags(tmp_path / "runs", "--tasks", "mrpc", "--seeds", "1", "--data_dir", str(tmp_path / "glue")))
    data = tmp_path / "runs" / "bert-base-cased" / "data" / "mrpc"
    assert fake_runs[0][fake_runs[0].index("--train_file") + 1] == str(data / "train.csv")
    assert (data / "test.csv").exists()
    with pytest.raises(InputError, match="leave rte out of --tasks"):
        glue.main(flags(tmp_path / "runs", "--tasks", "mrpc", "rte", "--data_dir", str(tmp_path / "glue")))


def test_a_submission_has_eleven_files_in_glues_form(fake_runs, tmp_path, monkeypatch, capsys):
    for task in glue.TASKS:
        monkeypatch.setitem(SCORES, (task, 1), (3, 1))
        monkeypatch.setitem(SCORES, (task, 2), (4, 0))
    small = {name: (task, split, 2, labels) for name, (task, split, _, labels) in SUBMISSION.items()}
    monkeypatch.setattr("recipes.tools.glue_files.SUBMISSION", small)
    monkeypatch.setattr(glue, "read_scores", lambda task, folder: {"accuracy": 0.75 if "seed1" in folder.name else 1.0})
    glue.main(flags(tmp_path, "--seeds", "1", "2", "--submission"))
    folder = tmp_path / "bert-base-cased" / "submission"
    expected = {
        "CoLA": "0 1",
        "MNLI-mm": "neutral entailment",
        "STS-B": "0.000 3.142",
        "RTE": "entailment not_entailment",
    }
    for name, (first, second) in ((name, answers.split()) for name, answers in expected.items()):
        assert (folder / f"{name}.tsv").read_text() == f"index\tprediction\n0\t{first}\n1\t{second}\n"
    names = ["CoLA", "SST-2", "MRPC", "STS-B", "QQP", "MNLI-m", "MNLI-mm", "QNLI", "RTE", "WNLI", "AX"]
    assert zipfile.ZipFile(folder / "submission.zip").namelist() == [f"{name}.tsv" for name in names]
    asked = {command[-1].rsplit("/")[-1]: command for command in fake_runs if "--test_file" in command}
    assert asked["AX"][asked["AX"].index("--test_file") + 1] == "data/ax/test.csv"
    assert asked["AX"][asked["AX"].index("--model_name_or_path") + 1].endswith("mnli-seed2")  # the better of two
    assert "QNLI: answered by qnli seed 2" in capsys.readouterr().out


def test_a_submission_is_checked(fake_runs, tmp_path):
    folders = {}
    for name, (task, *_) in SUBMISSION.items():
        answer(task, folders.setdefault(name, tmp_path / name))
    with pytest.raises(InputError, match=r"CoLA.tsv: 2 predictions where GLUE's test set has 1063 rows"):
        write_submission(folders, tmp_path / "out")
    (tmp_path / "CoLA" / "predictions.jsonl").write_text('{"predicted": "perhaps"}\n')
    with pytest.raises(InputError, match="predicts perhaps; GLUE knows 0, 1"):
        write_submission(folders, tmp_path / "out")
    with pytest.raises(InputError, match=r"CoLA.tsv: no predictions"):
        write_submission({}, tmp_path / "out")
    with pytest.raises(InputError, match="--submission: needs every task, and --tasks lacks cola"):
        glue.main(flags(tmp_path, "--tasks", "mrpc", "--submission"))


def test_every_baseline_has_a_source_and_metrics_of_its_task(monkeypatch, tmp_path):
    for row in baselines.load_baselines():
        for task, scores in row["scores"].items():
            assert task in (*glue.TASKS, "conll2003", "squad") and all(0 <= score <= 100 for score in scores.values())
    (tmp_path / "b.json").write_text('[{"model": "x", "split": "dev", "scores": {}}]')
    monkeypatch.setattr(baselines, "BASELINES", tmp_path / "b.json")
    with pytest.raises(InputError, match="every row needs a source"):
        baselines.load_baselines()


def test_the_tasks_are_those_of_the_recipes():
    for task, (recipe, metrics, _) in glue.TASKS.items():
        own = {"nli": nli, "text_classification": text_classification}[recipe].TASKS[task][-1]
        assert metrics == own or (task == "mnli" and own == ("accuracy",)) or set(metrics) <= set(own), task


@pytest.mark.parametrize("given", [["--seed", "7"], ["--seed=7"], ["--task_name=rte"], ["--learning-rate=1"]])
def test_what_is_set_for_each_run_is_refused_in_any_spelling(given, tmp_path):
    """Else all seeds run with one seed, and the deviation is reported as 0."""
    with pytest.raises(InputError, match=r"^--(seed|task_name|learning_rate): is set for each run"):
        glue.main(flags(tmp_path, "--tasks", "mrpc", *given))
