"""A run's folder: finished, resumed, refused, replaced, one test for each mechanism."""

import gc
import shutil
import signal
from pathlib import Path

import pytest
from datasets import Dataset

from common import training
from common.errors import InputError
from common.runs import CompleteCheckpoints
from recipes import ner, nli, qa, text_classification
from tests.conftest import ENDINGS, SAMPLES, process, read_json, run, write


class Killed(BaseException):
    pass


@pytest.fixture
def kill(monkeypatch):
    """A function that runs a recipe and stops it at the end of a step, as a kill would: nothing more is written."""

    def run_until(step, recipe, *flags, **values):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == step:
                raise Killed

        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(CompleteCheckpoints, "on_step_end", on_step_end)
            run(recipe, *flags, **values)
        gc.collect()  # the operating system lets go of a killed process's lock

    return run_until


@pytest.fixture(scope="module")
def flags(ner_line):
    """9 steps an epoch: checkpoints at 5, 10 and 15."""
    return ner_line + " --save_strategy steps --save_steps 5"


@pytest.fixture(scope="module")
def whole(flags, tmp_path_factory):
    """The folder and the results of an undisturbed run."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    return folder, run(ner, flags, output_dir=folder)


@pytest.fixture
def finished(whole, tmp_path):
    """A folder of its own with that run, and the flag that names it."""
    shutil.copytree(whole[0], tmp_path / "run")
    return tmp_path / "run", f"--output_dir {tmp_path / 'run'}"


def weights(folder):
    return (Path(folder) / "model.safetensors").read_bytes()


def same_files(folder, other):
    return all(
        (folder / n).read_bytes() == (other / n).read_bytes() for n in ("model.safetensors", "predictions.jsonl")
    )


def test_the_same_seed_gives_the_same_result_and_another_one_another(flags, whole, tmp_path):
    folder, results = whole
    assert run(ner, flags, output_dir=tmp_path / "b") == results and same_files(tmp_path / "b", folder)
    run(ner, flags, output_dir=tmp_path / "c", seed=7)
    assert weights(tmp_path / "c") != weights(folder)


# Finished, or another run's


def test_a_finished_or_refused_run_says_so_before_a_model_is_loaded(
    flags, whole, finished, tmp_path, monkeypatch, capsys
):
    folder, output = finished
    monkeypatch.setattr(training, "load_tokenizer", lambda *args, **kwargs: pytest.fail("a tokenizer was loaded"))
    assert run(ner, flags, output) == whole[1]
    assert "this run is finished" in capsys.readouterr().out
    # Logging, evaluation batch and the like are no part of a run's identity; files count by content.
    words = flags.split()
    copy = shutil.copy(words[words.index("--train_file") + 1], tmp_path / "copy.conll")
    other = f"--per_device_eval_batch_size 3 --logging_steps 1 --train_file {copy}"
    assert run(ner, flags, output, other) == whole[1]
    for flag, value in (("dataloader_drop_last", "True"), ("seed", "7")):
        with pytest.raises(InputError, match=rf"{flag}: \w+ there, {value} here.*--output_dir.*--overwrite true"):
            run(ner, flags, output, f"--{flag} {value}")
    assert same_files(folder, whole[0])


def test_the_same_rows_are_the_same_run_whatever_file_they_come_from(tiny_bert, tmp_path):
    """Line numbers and the form of the file are no part of a run's identity."""
    texts = [f"a {word} day" for word in ("warm", "cold", "long", "short")] * 4
    dataset = Dataset.from_dict({"text": texts, "label": ["good", "bad"] * 8})
    dataset.to_csv(tmp_path / "a.csv")
    dataset.to_parquet(tmp_path / "a.parquet")
    write(tmp_path / "b.csv", "\n\n".join((tmp_path / "a.csv").read_text().splitlines()) + "\n")
    results = []
    for name in ("a.csv", "b.csv", "a.parquet"):
        files = f"--train_file {tmp_path / name} --validation_file {tmp_path / name} --model_name_or_path {tiny_bert}"
        results.append(run(text_classification, files, output_dir=tmp_path / "run", max_steps=1))
    assert results[0] == results[1] == results[2]


def test_a_run_in_progress_is_recognised(flags, tmp_path):
    import filelock

    (tmp_path / "run").mkdir()
    with filelock.FileLock(tmp_path / "run" / ".lock"), pytest.raises(InputError, match="another process"):
        run(ner, flags, output_dir=tmp_path / "run")


def test_a_folder_that_another_run_took_meanwhile_is_left_to_it(flags, tmp_path, monkeypatch):
    """While this run made its features, another with other flags began in the folder, and ended."""
    preprocess = ner.preprocess

    def meanwhile(*args, **kwargs):
        monkeypatch.setattr(ner, "preprocess", preprocess)
        run(ner, flags, output_dir=tmp_path / "run", max_steps=1)
        return preprocess(*args, **kwargs)

    monkeypatch.setattr(ner, "preprocess", meanwhile)
    with pytest.raises(InputError, match="another run has begun in it meanwhile; repeat the command"):
        run(ner, flags, output_dir=tmp_path / "run")
    assert read_json(tmp_path / "run" / "run.json")["arguments"]["max_steps"] == 1
    assert (tmp_path / "run" / "model.safetensors").exists()


def test_a_folder_that_is_no_run_is_left_alone(flags, tmp_path):
    (tmp_path / "run").mkdir()
    write(tmp_path / "run" / "thesis.tex", "years of work")
    for extra in ("", "--overwrite true"):
        with pytest.raises(InputError, match=r"thesis.tex and no run"):
            run(ner, flags, extra, output_dir=tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.tex"]


# Replaced


def test_the_old_model_goes_when_the_run_that_replaces_it_begins(flags, finished, kill):
    """Else `predict` answers with it while the new one trains, or after the new one was killed."""
    folder, output = finished
    replaced = f"{flags} {output} --overwrite true --seed 7"
    with pytest.raises(InputError, match="--freeze nothing"):  # found before training begins
        run(ner, replaced, "--freeze nothing")
    assert (folder / "model.safetensors").exists() and read_json(folder / "run.json")["status"] == "finished"
    kill(7, ner, replaced)
    assert not list(folder.glob("*.safetensors")) and not (folder / "config.json").exists()
    assert (folder / "checkpoint-5" / "model.safetensors").exists()
    run(ner, replaced)
    assert (folder / "model.safetensors").exists()


def test_what_a_run_did_not_write_is_never_removed(flags, tmp_path, kill):
    """Not on resume, and not by --overwrite."""
    folder = tmp_path / "run"
    kill(7, ner, flags, output_dir=folder)
    (folder / "checkpoint-onnx").mkdir()
    foreign = ["checkpoint-onnx/model.onnx", "checkpoint-notes.txt", "model-backup.safetensors", "validation_plan.md"]
    for name in foreign:
        write(folder / name, "of hours")
    for more in ("", "--overwrite true", "--overwrite true --seed 9"):
        run(ner, flags, more, output_dir=folder)
        assert all((folder / name).read_text() == "of hours" for name in foreign)


def test_a_kill_while_an_old_run_is_removed_is_repeated(flags, whole, finished, monkeypatch):
    folder, output = finished
    unlink = Path.unlink

    def stop(path, **kwargs):
        if path.name == "config.json":
            raise KeyboardInterrupt
        unlink(path, **kwargs)

    replaced = f"{flags} {output} --overwrite true"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "unlink", stop)
        run(ner, replaced)
    gc.collect()
    assert not list(folder.glob("checkpoint-*"))
    assert run(ner, replaced) == whole[1] and same_files(folder, whole[0])


def test_a_run_is_not_replaced_by_one_that_starts_from_its_model(flags, finished):
    folder, output = finished
    with pytest.raises(InputError, match="holds the model that this run starts from; choose another --output_dir"):
        run(ner, flags, output, f"--model_name_or_path {folder} --overwrite true")
    assert (folder / "model.safetensors").exists()


# Stopped and resumed


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 143)])
def test_killed_in_the_second_epoch_and_resumed_is_bit_for_bit_the_same(flags, whole, tmp_path, number, code):
    folder = tmp_path / "run"
    command = f"{flags} --bf16 false --disable_tqdm true --output_dir {folder}"
    stopped = process("-m", "tests.kill_at_step", 13, int(number), "ner", *command.split())
    assert stopped.returncode == code, stopped.stderr
    checkpoints = {path.name for path in folder.glob("checkpoint-*")}
    assert checkpoints == ({"checkpoint-5", "checkpoint-10"} if code == -9 else {"checkpoint-10", "checkpoint-13"})
    assert ("Stopped by SIGTERM at step 13; the same command resumes." in stopped.stdout) == (code == 143)
    assert run(ner, command) == whole[1] and same_files(folder, whole[0])
    assert (folder / "predictions.conll").read_text() == (whole[0] / "predictions.conll").read_text()


@pytest.mark.parametrize("recipe", [text_classification, nli, ner, qa])
def test_every_recipe_goes_on_where_it_was_killed(recipe, tiny_bert, tmp_path, kill, monkeypatch):
    """And does not begin again, which would end in the same files."""
    name = recipe.__name__.removeprefix("recipes.")
    data = SAMPLES / name / f"validation.{ENDINGS[name]}"
    flags = f"--model_name_or_path {tiny_bert} --train_file {data} --validation_file {data} --max_train_samples 16 "
    flags += "--max_eval_samples 8 --per_device_train_batch_size 8 --max_steps 6 --save_strategy steps --save_steps 2"
    results = run(recipe, flags, output_dir=tmp_path / "whole")
    kill(5, recipe, flags, output_dir=tmp_path / "run")
    steps = []

    def on_step_begin(self, args, state, control, **kwargs):
        steps.append(state.global_step)

    monkeypatch.setattr(CompleteCheckpoints, "on_step_begin", on_step_begin)
    assert run(recipe, flags, output_dir=tmp_path / "run") == results
    assert steps == [4, 5] and same_files(tmp_path / "run", tmp_path / "whole")


def test_evaluations_leave_training_as_it_is(ner_line, whole, tmp_path, kill):
    """Also across a resumed run: the checkpoint of step 9 ends the first epoch and is older than its evaluation."""
    flags = ner_line + " --save_strategy steps --save_steps 9"
    often = run(ner, flags, output_dir=tmp_path / "often", eval_strategy="steps", eval_steps=2)
    assert run(ner, flags, output_dir=tmp_path / "never", eval_strategy="no") == often == whole[1]
    kill(12, ner, flags, output_dir=tmp_path / "killed")
    assert run(ner, flags, output_dir=tmp_path / "killed") == often
    assert all(same_files(tmp_path / name, whole[0]) for name in ("often", "never", "killed"))


@pytest.fixture
def killed(flags, tmp_path, kill):
    """The folder of a run that was killed after step 13."""
    kill(13, ner, flags, output_dir=tmp_path / "run")
    return tmp_path / "run"


def test_resume_from_checkpoint_takes_true_false_and_a_path(flags, whole, killed, tmp_path, capsys):
    """The example scripts answer `Can't find a valid checkpoint at True`."""
    path = whole[0] / "checkpoint-15"
    for value, says in (("True", "checkpoint-10"), ("false", None), (path, path)):
        folder = shutil.copytree(killed, tmp_path / f"run-{says}" if value != path else tmp_path / "by-path")
        capsys.readouterr()
        assert run(ner, flags, output_dir=folder, resume_from_checkpoint=value) == whole[1]
        assert same_files(folder, whole[0])
        output = capsys.readouterr().out
        assert ("Resuming from" in output) == bool(says) and str(says or "") in output


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken(flags, whole, killed, capsys):
    newest = killed / "checkpoint-10" / "optimizer.pt"
    newest.write_bytes(newest.read_bytes()[:-1])
    shutil.copytree(killed / "checkpoint-5", killed / "checkpoint-99")  # a crash while writing
    (killed / "checkpoint-99" / "complete.json").unlink()
    assert run(ner, flags, output_dir=killed) == whole[1] and same_files(killed, whole[0])
    output = capsys.readouterr().out
    assert "checkpoint-99: was not written to the end" in output
    assert "checkpoint-10: optimizer.pt is damaged" in output and f"Resuming from {killed}/checkpoint-5" in output


def test_a_checkpoint_without_optimizer_is_not_resumed_from(flags, whole, tmp_path, kill, capsys):
    flags += f" --save_only_model true --output_dir {tmp_path / 'run'}"
    kill(13, ner, flags)
    assert run(ner, flags) == whole[1]
    assert "holds no state of the optimizer" in capsys.readouterr().out


def test_the_best_model_is_kept_and_training_stops_early(ner_line, tmp_path):
    flags = "--num_train_epochs 30 --early_stopping_patience 2 --learning_rate 5e-3"
    results = run(ner, ner_line, flags, output_dir=tmp_path / "run")
    states = map(read_json, (tmp_path / "run").glob("checkpoint-*/trainer_state.json"))
    evaluated = {row["step"]: row["eval_f1"] for state in states for row in state["log_history"] if "eval_f1" in row}
    assert max(evaluated) < 30 * 8
    assert results["eval_f1"] == pytest.approx(max(evaluated.values()))


def test_no_validation_file_holds_a_share_out(ner_line, small_files, tmp_path, capsys):
    flags = ner_line.replace(f"--validation_file {small_files['validation']}", "")
    assert "eval_f1" in run(ner, flags, output_dir=tmp_path / "run", max_steps=1)
    assert "held out" in capsys.readouterr().out
