"""The benchmark runs, continues, survives a failing run, and tells dev from test."""

import csv
import json
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from common.errors import InputError
from recipes import glue, nli, text_classification
from recipes.tools import baselines, runner
from recipes.tools.compare import compare
from recipes.tools.glue_files import OFFICIAL, SUBMISSION, convert_official, write_submission
from tests.conftest import read_json, write

ROWS = {task: rows for task, (_, _, rows) in glue.TASKS.items()}
SCORES = {("mrpc", 1): (3, 1), ("mrpc", 2): (2, 2), ("mnli", 1): (4, 0), ("mnli", 2): (1, 3)}  # right and wrong rows


def answer(task, folder):
    """What a recipe leaves that predicts a test file of two rows."""
    names = {"mnli": ["neutral", "entailment"], "qnli": ["entailment", "not_entailment"], "stsb": None}
    names = names.get(task, ["entailment", "not_entailment"] if task == "rte" else ["no", "yes"])
    folder.mkdir(parents=True)
    write(folder / "config.json", json.dumps({"label2id": {name: i for i, name in enumerate(names or [])}}))
    write(folder / "predictions.jsonl", [{"predicted": value} for value in (names or [-0.25, 3.14159])])


def fake_run(command):
    """What a recipe leaves, without a model: the error line of one that fails, and whether it was finished before."""
    value = {flag: command[i + 1] for i, flag in enumerate(command[:-1]) if flag.startswith("--")}
    task, folder = value["--task_name"], Path(value["--output_dir"])
    if value.get("--do_train") == "false":
        return answer(task, folder), False
    if (folder / "run.json").exists():
        return None, True
    seed = int(value["--seed"])
    if (task, seed) not in SCORES:
        return "train.csv: no such file", False
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
    train, validation = ROWS.get(task, (1, 1))
    record = {"status": "finished", "results": results, "total_batch_size": 32, "device": "cpu", "precision": "fp32"}
    record |= {"identity": {"num_train_epochs": 3}, "seconds": {"set-up": 10, "training": 60.0}}
    record["arguments"] = {"task_name": task, "model_name_or_path": value["--model_name_or_path"], "max_steps": -1}
    record["arguments"] |= {"num_train_epochs": int(value.get("--num_train_epochs", 3)), "learning_rate": 2e-5}
    trivial = {"answer": "Always no", "scores": {"accuracy": 0.5}}
    splits = {
        "train": {"classes": {"no": 9, "yes": 5}, "rows": train},
        "validation": {"rows": validation, "trivial": trivial},
    }
    record["data"] = {"labels": ["no", "yes"], "splits": splits}
    folder.mkdir(parents=True)
    write(folder / "run.json", json.dumps(record))
    write(folder / "all_results.json", json.dumps(results))
    write(folder / "predictions.jsonl", rows)
    return None, False


@pytest.fixture
def fake_runs(monkeypatch):
    """`fake_run` in the place of every process; the commands are kept."""
    commands = []

    def run_jobs(jobs, free=({},)):
        for job in jobs:
            commands.append(job.command)
            error, is_repeated = fake_run(job.command)
            yield SimpleNamespace(job=job, error=error, is_repeated=is_repeated, began=time.monotonic())

    monkeypatch.setattr(runner, "run_jobs", run_jobs)
    return commands


def flags(tmp_path, *more):
    return [*f"--model_name_or_path org/bert-base-cased --data_dir data --output_dir {tmp_path}".split(), *more]


def test_scores_over_seeds_beside_the_published_dev_figure(fake_runs, tmp_path, capsys):
    more = ["--num_train_epochs", "5", "--fp16", "true"]
    entries = glue.main(flags(tmp_path, "--tasks", "mrpc", "mnli", "--seeds", "1", "2", *more))
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
    assert "* mnli: not comparable with the published figure: epochs 5, published 3." in output
    assert "* mrpc" not in output and "GLUE average" not in output
    assert "mrpc: training rows 3668, validation rows 408, epochs 5, learning rate" in output
    assert by_name["mnli", "matched_accuracy"]["chance"] is None  # no verdict on what is not comparable
    assert all(command[-2:] == ["--fp16", "true"] for command in fake_runs)
    assert read_json(tmp_path / "bert-base-cased" / "glue.json")["scores"] == entries
    text = (tmp_path / "bert-base-cased" / "glue.md").read_text()
    assert text.startswith("```\norg/bert-base-cased, seeds 1 2, flags:")


def test_a_benchmark_goes_on_after_a_failing_run_and_when_it_was_stopped(fake_runs, tmp_path, capsys):
    with pytest.raises(InputError, match="1 of 2 runs failed"):
        glue.main(flags(tmp_path, "--tasks", "rte", "mrpc", "--seeds", "1"))
    output = capsys.readouterr().out
    assert "[1/2] rte seed 1: FAILED: train.csv: no such file" in output
    assert "rte seed 1: failed: train.csv: no such file" in output.split("Intervals")[1]
    entries = glue.main(flags(tmp_path, "--tasks", "mrpc", "--seeds", "1", "2"))
    assert len(entries[0]["values"]) == 2
    assert "[1/2] mrpc seed 1: f1 0.3750, accuracy 0.7500 (finished before" in capsys.readouterr().out


def test_the_best_learning_rate_is_said_to_flatter(fake_runs, tmp_path, capsys):
    rates = ["--learning_rates", "9", "2e-5"]
    entries = glue.main(flags(tmp_path, "--tasks", "mrpc", "--seeds", "1", *rates))
    assert {*entries[0]["runs"]} == {"mrpc-2e-5-seed1"}
    assert "learning rate 2e-5 is the best on validation itself, so its score flatters (9 0.00, 2e-5 37.50)" in (
        capsys.readouterr().out
    )


def test_a_dry_run_counts_runs_steps_and_hours(fake_runs, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(ROWS, "mrpc", (320, 96))
    (tmp_path / "data" / "mrpc").mkdir(parents=True)
    write(tmp_path / "data" / "mrpc" / "validation.csv", "sentence1,sentence2,label\n" + "a,b,1\n" * 96)
    more = ["--tasks", "mrpc", "--seeds", "1", "2", "--dry_run", "--data_dir", str(tmp_path / "data")]
    assert glue.main(flags(tmp_path / "runs", *more)) == []
    assert len(fake_runs) == 1 and not (tmp_path / "runs").exists()
    # 320 rows in batches of 32 over 3 epochs are 30 steps of 3 s; 4 evaluations of 96 rows are 12 batches of 1 s.
    line = next(line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("all"))
    assert line == ["all", "2", "60", "-", f"{2 * (10 + 30 * 3 + 12) / 3600:.4f}"]


def test_a_dry_run_of_the_hubs_tasks_knows_their_rows(fake_runs, tmp_path, capsys):
    glue.main(["--output_dir", str(tmp_path), "--tasks", "mrpc", "--dry_run"])
    assert f" {3 * 3 * 115} " in capsys.readouterr().out  # 3 seeds, 3 epochs of 3,668 / 32 steps


def test_a_failure_or_other_settings_never_replace_a_good_table(fake_runs, tmp_path, monkeypatch):
    folder, usual = tmp_path / "bert-base-cased", ["--tasks", "mrpc", "--seeds", "1", "2"]
    glue.main(flags(tmp_path, *usual))
    good = (folder / "glue.md").read_text()
    monkeypatch.delitem(SCORES, ("mrpc", 2))
    (folder / "mrpc-seed2" / "run.json").unlink()
    with pytest.raises(InputError, match="1 of 2 runs failed"):
        glue.main(flags(tmp_path, *usual))
    with pytest.raises(InputError, match=r"no run has succeeded; rte seed 1: train\.csv: no such file"):
        glue.main(flags(tmp_path, "--tasks", "rte", "--seeds", "1"))
    assert (folder / "glue.md").read_text() == good
    glue.main(flags(tmp_path, "--tasks", "mrpc", "--seeds", "1"))
    assert (folder / "glue.md").read_text() != good
    assert good in [path.read_text() for path in folder.glob("glue-*.md")]


def test_a_second_round_starts_from_mnli_in_a_folder_of_its_own(fake_runs, tmp_path, capsys):
    glue.main(flags(tmp_path, "--tasks", "mnli", "mrpc", "--seeds", "1"))
    mnli = tmp_path / "bert-base-cased" / "mnli-seed1"
    entries = glue.main(flags(tmp_path, "--from_mnli", str(mnli), "--tasks", "mrpc", "--seeds", "1"))
    command = fake_runs[-1]
    assert command[command.index("--model_name_or_path") + 1] == str(mnli)
    assert command[command.index("--new_head") + 1] == "true"
    assert (tmp_path / "bert-base-cased-from-mnli-seed1" / "mrpc-seed1" / "run.json").exists()
    assert entries[0]["incomparable"][-1] == "started from MNLI"
    assert f"org/bert-base-cased by way of MNLI ({mnli}), seeds 1" in capsys.readouterr().out
    with pytest.raises(InputError, match="--tasks cola: must be of rte, mrpc, stsb with --from_mnli"):
        glue.main(flags(tmp_path, "--from_mnli", str(mnli), "--tasks", "cola"))
    with pytest.raises(InputError, match="is not a run of --model_name_or_path"):
        glue.main(flags(tmp_path, "--from_mnli", str(mnli), "--model_name_or_path", "org/another"))
    with pytest.raises(InputError, match="is not a run of mnli"):
        glue.main(flags(tmp_path, "--from_mnli", str(mnli.with_name("mrpc-seed1"))))


def test_two_benchmarks_are_compared_task_by_task(fake_runs, tmp_path, monkeypatch):
    folders = []
    for name, scores in (("a", {1: (400, 200), 2: (390, 210)}), ("b", {1: (520, 80), 2: (300, 300)})):
        for seed, score in scores.items():
            monkeypatch.setitem(SCORES, ("mrpc", seed), score)
        glue.main(flags(tmp_path / name, "--tasks", "mrpc", "--seeds", "1", "2"))
        folders.append(str(tmp_path / name / "bert-base-cased"))
    text = compare(*folders)
    assert compare(str(Path(folders[0]).parent), folders[1]).split("\n")[1:] == text.split("\n")[1:]
    low, high = map(float, next(line for line in text.splitlines() if line.startswith("mrpc accuracy")).split()[-2:])
    # Of 600 rows alone the interval would be some 0.05 wide; B's seeds are 0.37 apart.
    assert low < -0.1 and high > 0.1
    assert "mrpc: 600 rows, 2 seeds of A and 2 of B; the intervals are over rows and seeds." in text
    assert text.endswith("mrpc: A and B cannot be told apart on 600 rows.")
    with pytest.raises(InputError, match="no task is common to both"):
        compare(folders[0], f"{folders[1]}/mrpc-seed1")


# Task -> a file of the download, its header and a row; the file that is written and its row.
OFFICIAL_ROWS = {
    "cola": (
        ("train", None, 'gj04\t1\t\tOur friends won"t buy this.'),
        ("train", {"sentence": 'Our friends won"t buy this.', "label": "1"}),
    ),
    "mrpc": (
        ("test", "index\t#1 ID\t#2 ID\t#1 String\t#2 String", '0\t1\t2\tHe said "no\tHe said, no'),
        ("test", {"sentence1": 'He said "no', "sentence2": "He said, no"}),
    ),
    "mnli": (
        ("dev_mismatched", "index\tsentence1\tsentence2\tlabel1\tgold_label", "0\tA, b\tc\tneutral\tentailment"),
        ("validation_mismatched", {"premise": "A, b", "hypothesis": "c", "label": "entailment"}),
    ),
}


def official(folder, task, *more_rows):
    (split, header, row), _ = OFFICIAL_ROWS[task]
    path = folder / OFFICIAL[task][0] / f"{split}.tsv"
    path.parent.mkdir(parents=True)
    path.write_text("\n".join(filter(None, [header, row, *more_rows])) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("task", OFFICIAL_ROWS)
def test_the_official_download_is_read_without_quoting(tmp_path, task):
    official(tmp_path, task)
    convert_official(tmp_path, task, tmp_path / "data")
    _, (split, expected) = OFFICIAL_ROWS[task]
    with open(tmp_path / "data" / task / f"{split}.csv", newline="") as file:
        assert list(csv.DictReader(file)) == [expected]


def test_a_broken_row_is_counted_in_train_and_refused_in_test(tmp_path, caplog):
    path = official(tmp_path, "mnli", "8\tbroken")
    convert_official(tmp_path, "mnli", tmp_path / "data")
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
    expected = {"CoLA": (0, 1), "MNLI-mm": ("neutral", "entailment"), "STS-B": ("0.000", "3.142")}
    for name, (first, second) in expected.items():
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


def test_every_baseline_has_a_source_and_metrics_of_its_task():
    for row in baselines.load_baselines():
        assert row["source"] and row["split"] in ("dev", "test"), row["model"]
        for task, scores in row["scores"].items():
            assert task in (*glue.TASKS, "conll2003", "squad") and all(0 <= score <= 100 for score in scores.values())


def test_the_tasks_are_those_of_the_recipes():
    for task, (recipe, metrics, _) in glue.TASKS.items():
        own = {"nli": nli, "text_classification": text_classification}[recipe].TASKS[task][-1]
        assert metrics == own or (task == "mnli" and own == ("accuracy",)) or set(metrics) <= set(own), task


@pytest.mark.parametrize(
    ("flag", "name"),
    [
        ("--tasks=squad", "tasks"),
        ("--seed=7", "seed: is set for each run"),  # else all seeds run with one, and the deviation is reported as 0
        ("--learning-rate=1", "learning_rate: is set for each run"),
    ],
)
def test_a_bad_flag_is_one_line_before_any_run(fake_runs, tmp_path, flag, name):
    with pytest.raises(InputError, match=f"^(argument )?--{name}"):
        glue.main(flags(tmp_path, "--tasks", "mrpc", *flag.split()))
    assert not fake_runs
