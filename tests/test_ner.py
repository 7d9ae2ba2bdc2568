"""The NER recipe from end to end, on slices of the bundled sample and a tiny random model."""

import gc
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import Dataset

from common import training
from common.errors import InputError
from common.metrics import entities, entity_scores
from common.runs import checkpoint_fault
from recipes import ner, predict, text_classification
from tests.conftest import ROOT, read_sample

ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}


def changed(flags, **values):
    """The same flags with other values."""
    flags = list(flags)
    for name, value in values.items():
        if f"--{name}" in flags:
            flags[flags.index(f"--{name}") + 1] = str(value)
        else:
            flags += [f"--{name}", str(value)]
    return flags


def weights(folder):
    return (Path(folder) / "model.safetensors").read_bytes()


def columns(path):
    """Sentences of a column file as lists of fields per word."""
    return [[line.split() for line in block.splitlines()] for block in path.read_text().strip().split("\n\n")]


def test_it_learns_and_writes_what_it_promises(ner_flags, small_files, tmp_path, capsys):
    flags = changed(ner_flags, validation_file=small_files["train"], learning_rate="5e-3", num_train_epochs=15)
    results = ner.main(flags)
    # A model that learned nothing tags everything O: F1 0. Evaluated on what it was trained on, on purpose.
    assert results["eval_f1"] > 0.8
    folder = tmp_path / "run"
    assert json.loads((folder / "all_results.json").read_text()) == results
    assert {"eval_f1", "eval_precision", "eval_recall", "eval_accuracy", "eval_PER_f1", "eval_loss", "test_f1"} <= set(
        results
    )
    record = json.loads((folder / "run.json").read_text())
    assert record["status"] == "finished" and record["total_batch_size"] == 8
    assert record["useful_tokens_per_second"] > 0
    seconds = record["seconds"]
    parts = seconds["set-up"] + seconds["training"] + seconds["evaluation"]
    assert min(seconds.values()) > 0 and parts == pytest.approx(seconds["total"], abs=0.3)
    config = json.loads((folder / "config.json").read_text())
    assert config["id2label"]["1"] == "B-LOC" and "LABEL_0" not in config["label2id"]
    assert not (folder / "training_args.bin").exists() and not (folder / ".saving").exists()
    output = capsys.readouterr().out
    assert "trivial baseline" in output and "invented" in output and "windows" in output


def test_predictions_are_in_input_order_and_score_as_reported(ner_flags, small_files, tmp_path):
    results = ner.main(ner_flags)
    rows = [json.loads(line) for line in (tmp_path / "run" / "predictions.jsonl").read_text().splitlines()]
    test = read_sample("validation")[21:36]
    assert [tuple(row["tokens"]) for row in rows] == [words for words, _ in test]
    assert all(len(row["predicted"]) == len(row["tokens"]) for row in rows)
    scores = entity_scores([row["ner_tags"] for row in rows], [row["predicted"] for row in rows])
    assert scores["f1"] == results["test_f1"]
    table = columns(tmp_path / "run" / "predictions.conll")
    assert [[word for word, _, _ in sentence] for sentence in table] == [list(words) for words, _ in test]
    assert [[tag for _, _, tag in sentence] for sentence in table] == [row["predicted"] for row in rows]


def test_the_same_seed_gives_the_same_result_and_another_one_another(ner_flags, tmp_path):
    runs = [
        ner.main(changed(ner_flags, output_dir=tmp_path / name, seed=seed))
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    assert runs[0] == runs[1] and weights(tmp_path / "a") == weights(tmp_path / "b")
    assert weights(tmp_path / "a") != weights(tmp_path / "c")


def test_short_windows_lose_no_entity(ner_flags):
    """Cut as in the example scripts, a short max_seq_length takes entities out of the score and F1 looks better."""
    gold = read_sample("validation")[:21]
    entities = sum(tag.startswith("B-") for _, tags in gold for tag in tags)
    for length in (8, 64):
        folder = ner_flags[ner_flags.index("--output_dir") + 1] + str(length)
        ner.main(
            changed(
                ner_flags, max_seq_length=length, output_dir=folder, max_steps=1, eval_strategy="no", save_strategy="no"
            )
        )
        # Of the validation split, through an evaluation of its own.
        flags = [
            "--model_name_or_path",
            folder,
            "--validation_file",
            ner_flags[ner_flags.index("--validation_file") + 1],
        ]
        ner.main(
            [*flags, "--do_train", "false", "--output_dir", folder + "e", "--bf16", "false", "--disable_tqdm", "true"]
        )
        rows = columns(Path(folder + "e") / "predictions.conll")
        assert sum(row[1].startswith("B-") for sentence in rows for row in sentence) == entities
        assert [len(sentence) for sentence in rows] == [len(words) for words, _ in gold]


def test_the_saved_folder_scores_the_same_in_a_fresh_process(ner_flags, small_files, tmp_path):
    """Through `pipeline()` with whole words and real type names, through predict, and through the recipe itself."""
    # Tested on what it was trained on, so that it finds many entities.
    flags = changed(ner_flags, learning_rate="5e-3", num_train_epochs=12, test_file=small_files["train"])
    results = ner.main(changed(flags, max_seq_length=64))
    folder = str(tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run" / "predictions.jsonl").read_text().splitlines()]
    (tmp_path / "tokens.json").write_text(json.dumps([row["tokens"] for row in rows]))
    script = """
import json, sys
from transformers import pipeline
tag = pipeline("token-classification", model=sys.argv[1], aggregation_strategy="first")
found = [tag(words, is_split_into_words=True)[0] for words in json.load(open(sys.argv[2]))]
print(json.dumps([[(int(e["start"]), int(e["end"]), e["entity_group"]) for e in entities] for entities in found]))
"""
    command = [sys.executable, "-c", script, folder, str(tmp_path / "tokens.json")]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, cwd=ROOT, check=True)
    theirs = [[tuple(entity) for entity in found] for found in json.loads(done.stdout)]
    ours = []  # as spans of characters in the words joined by blanks
    for row in rows:
        starts = [sum(len(word) + 1 for word in row["tokens"][:i]) for i in range(len(row["tokens"]))]
        words = [(start, start + len(word)) for start, word in zip(starts, row["tokens"], strict=True)]
        ours.append([(words[first][0], words[end - 1][1], name) for name, first, end in entities(row["predicted"])])
    # pipeline() takes the parts of a word with inner punctuation for words, so there it may part what we join.
    plain = [i for i, row in enumerate(rows) if all(word.isalnum() or len(word) == 1 for word in row["tokens"])]
    assert sum(len(ours[i]) for i in plain) > 20
    assert [theirs[i] for i in plain] == [ours[i] for i in plain]

    answers = predict.main(["--model", folder, "--file", small_files["train"], "--json"])
    assert [answer["tags"] for answer in answers] == [row["predicted"] for row in rows]
    again = ner.main(
        f"--do_train false --model_name_or_path {folder} --validation_file {small_files['validation']} --bf16 false "
        f"--output_dir {tmp_path / 'again'} --disable_tqdm true".split()
    )
    assert again["eval_f1"] == results["eval_f1"]
    assert not (tmp_path / "again" / "model.safetensors").exists()


def test_predicting_a_file_without_tags(ner_flags, tmp_path):
    """Neither train nor validation files, nor tags, are asked for."""
    ner.main(ner_flags)
    untagged = tmp_path / "untagged.conll"
    untagged.write_text("Anna\nran\n\nHome\n")
    flags = [
        "--do_train",
        "false",
        "--do_eval",
        "false",
        "--model_name_or_path",
        str(tmp_path / "run"),
        "--test_file",
        str(untagged),
    ]
    results = ner.main([*flags, "--output_dir", str(tmp_path / "p"), "--bf16", "false", "--disable_tqdm", "true"])
    assert results == {}
    assert [[word for word, _ in s] for s in columns(tmp_path / "p" / "predictions.conll")] == [
        ["Anna", "ran"],
        ["Home"],
    ]


def test_no_validation_file_holds_a_share_out(ner_flags, capsys, tmp_path):
    i = ner_flags.index("--validation_file")
    results = ner.main(ner_flags[:i] + ner_flags[i + 2 :])
    assert "held out" in capsys.readouterr().out
    assert "eval_f1" in results


def test_a_finished_run_says_so_and_stops(ner_flags, tmp_path, capsys):
    results = ner.main(ner_flags)
    before = (tmp_path / "run" / "model.safetensors").stat().st_mtime_ns
    assert ner.main(ner_flags) == results
    assert "finished" in capsys.readouterr().out
    assert (tmp_path / "run" / "model.safetensors").stat().st_mtime_ns == before
    # Logging, evaluation batch and the like are no part of a run's identity; files count by content.
    copy = shutil.copy(ner_flags[ner_flags.index("--train_file") + 1], tmp_path / "copy.conll")
    assert ner.main(changed(ner_flags, per_device_eval_batch_size=3, logging_steps=1, train_file=copy)) == results
    with pytest.raises(InputError, match="dataloader_drop_last: False there, True here"):
        ner.main(changed(ner_flags, dataloader_drop_last="true"))


def test_another_run_in_the_same_folder_is_refused(ner_flags, tmp_path):
    """The example scripts overwrite it silently."""
    ner.main(ner_flags)
    before = weights(tmp_path / "run")
    with pytest.raises(InputError, match=r"seed: 42 there, 7 here.*--output_dir.*--overwrite true"):
        ner.main(changed(ner_flags, seed=7))
    assert weights(tmp_path / "run") == before
    ner.main([*changed(ner_flags, seed=7), "--overwrite", "true"])
    assert weights(tmp_path / "run") != before


def test_a_folder_that_is_no_run_is_left_alone(ner_flags, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("years of work")
    for extra in ([], ["--overwrite", "true"]):
        with pytest.raises(InputError, match=r"thesis.tex but no run.json"):
            ner.main([*ner_flags, *extra])
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.tex"]


def test_the_old_model_goes_when_the_run_that_replaces_it_begins(ner_flags, tmp_path):
    """Else `predict` answers with it while the new one trains, or after the new one was killed."""
    ner.main(ner_flags)
    assert (tmp_path / "run" / "model.safetensors").exists()
    wrong = changed(ner_flags, overwrite="true", seed=7, freeze="nothing")  # found before training begins
    with pytest.raises(InputError, match="--freeze nothing"):
        ner.main(wrong)
    assert (tmp_path / "run" / "model.safetensors").exists()
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "finished"
    replaced = changed(ner_flags, overwrite="true", seed=7, save_strategy="steps", save_steps=5)
    assert interrupt(replaced, 7, signal.SIGKILL).returncode == -9
    assert not list((tmp_path / "run").glob("*.safetensors")) and not (tmp_path / "run" / "config.json").exists()
    assert (tmp_path / "run" / "checkpoint-5" / "model.safetensors").exists()


def test_what_a_run_did_not_write_is_never_removed(ner_flags, tmp_path):
    """Not on resume, and not by --overwrite."""
    flags = changed(ner_flags, save_strategy="steps", save_steps=5)
    assert interrupt(flags, 7, signal.SIGKILL).returncode == -9
    run = tmp_path / "run"
    (run / "checkpoint-onnx").mkdir()
    for name in (
        "checkpoint-onnx/model.onnx",
        "checkpoint-notes.txt",
        "model-backup.safetensors",
        "validation_plan.md",
    ):
        (run / name).write_text("of hours")
    ner.main(flags)
    ner.main([*flags, "--overwrite", "true"])
    ner.main(changed(flags, seed=9, overwrite="true"))
    for name in (
        "checkpoint-onnx/model.onnx",
        "checkpoint-notes.txt",
        "model-backup.safetensors",
        "validation_plan.md",
    ):
        assert (run / name).read_text() == "of hours"


def test_a_kill_while_an_old_run_is_removed_is_repeated(ner_flags, tmp_path, monkeypatch):
    flags = changed(ner_flags, save_strategy="steps", save_steps=5)
    ner.main(flags)
    unlink = Path.unlink

    def stop(path, **kwargs):
        if path.name == "config.json":
            raise KeyboardInterrupt
        unlink(path, **kwargs)

    monkeypatch.setattr(Path, "unlink", stop)
    replaced = changed(flags, seed=9, overwrite="true")
    with pytest.raises(KeyboardInterrupt):
        ner.main(replaced)
    monkeypatch.undo()
    gc.collect()  # the operating system lets go of a killed process's lock
    assert not list((tmp_path / "run").glob("checkpoint-*"))
    assert ner.main(replaced) == ner.main(changed(flags, seed=9, output_dir=tmp_path / "other"))


def test_a_folder_that_another_run_took_meanwhile_is_left_to_it(ner_flags, tmp_path, monkeypatch):
    """While this run made its features, another with other flags began in the folder, and ended."""
    preprocess = ner.preprocess

    def meanwhile(*args):
        monkeypatch.setattr(ner, "preprocess", preprocess)
        ner.main(changed(ner_flags, seed=9))
        return preprocess(*args)

    monkeypatch.setattr(ner, "preprocess", meanwhile)
    with pytest.raises(InputError, match="another run has begun in it meanwhile; repeat the command"):
        ner.main(ner_flags)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["arguments"]["seed"] == 9
    assert (tmp_path / "run" / "model.safetensors").exists()


def test_a_run_is_not_replaced_by_one_that_starts_from_its_model(ner_flags, tmp_path):
    ner.main(ner_flags)
    again = changed(ner_flags, model_name_or_path=tmp_path / "run", overwrite="true")
    with pytest.raises(InputError, match="holds the model that this run starts from; choose another --output_dir"):
        ner.main(again)
    assert (tmp_path / "run" / "model.safetensors").exists()


def test_a_finished_or_refused_run_says_so_before_a_model_is_loaded(ner_flags, monkeypatch):
    results = ner.main(ner_flags)
    monkeypatch.setattr(training, "load_tokenizer", lambda *args, **kwargs: pytest.fail("a tokenizer was loaded"))
    assert ner.main(ner_flags) == results
    with pytest.raises(InputError, match="holds another run"):
        ner.main(changed(ner_flags, seed=8))


def test_the_same_rows_are_the_same_run_whatever_file_they_come_from(tiny_bert, tmp_path):
    """Line numbers and the form of the file are no part of a run's identity."""
    texts = [f"a {word} day" for word in ("warm", "cold", "long", "short")] * 4
    rows = {"text": texts, "label": ["good", "bad"] * 8}
    dataset = Dataset.from_dict(rows)
    dataset.to_csv(tmp_path / "a.csv")
    dataset.to_parquet(tmp_path / "a.parquet")
    lines = (tmp_path / "a.csv").read_text().splitlines()
    (tmp_path / "b.csv").write_text("\n\n".join(lines) + "\n")  # with empty lines between
    fixed = (
        f"--model_name_or_path {tiny_bert} --max_steps 1 --bf16 false --disable_tqdm true --output_dir {tmp_path}/run"
    )
    results = []
    for name in ("a.csv", "b.csv", "a.parquet"):
        files = ["--train_file", str(tmp_path / name), "--validation_file", str(tmp_path / name)]
        results.append(text_classification.main([*fixed.split(), *files]))
    assert results[0] == results[1] == results[2]
    command = json.loads((tmp_path / "run" / "run.json").read_text())["command"]
    assert command.startswith("python -m recipes.text_classification --model_name_or_path")  # not pytest's
    assert command.endswith("a.csv")


def test_a_run_in_progress_is_recognised(ner_flags, tmp_path):
    import filelock

    (tmp_path / "run").mkdir()
    with filelock.FileLock(tmp_path / "run" / ".lock"), pytest.raises(InputError, match="another process"):
        ner.main(ner_flags)


def interrupt(flags, step, number):
    command = [sys.executable, str(ROOT / "tests" / "kill_at_step.py"), str(step), str(int(number)), "ner", *flags]
    return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, cwd=ROOT)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 143)])
def test_killed_in_the_second_epoch_and_resumed_is_bit_for_bit_the_same(ner_flags, tmp_path, number, code):
    # 9 steps an epoch: checkpoints at 5, 10 and 15; killed after step 13.
    flags = changed(ner_flags, save_strategy="steps", save_steps=5)
    undisturbed = ner.main(changed(flags, output_dir=tmp_path / "undisturbed"))
    stopped = interrupt(flags, 13, number)
    assert stopped.returncode == code, stopped.stderr
    checkpoints = {path.name for path in (tmp_path / "run").glob("checkpoint-*")}
    assert checkpoints == ({"checkpoint-5", "checkpoint-10"} if code == -9 else {"checkpoint-10", "checkpoint-13"})
    if code == 143:
        assert "Stopped by SIGTERM at step 13; the same command resumes." in stopped.stdout
    assert ner.main(flags) == undisturbed
    assert weights(tmp_path / "run") == weights(tmp_path / "undisturbed")
    assert (tmp_path / "run" / "predictions.conll").read_text() == (
        tmp_path / "undisturbed" / "predictions.conll"
    ).read_text()


def test_evaluations_leave_training_as_it_is(ner_flags, tmp_path):
    """Also across a resumed run: the checkpoint of step 9 ends the first epoch and is older than its evaluation."""
    flags = changed(ner_flags, save_strategy="steps", save_steps=9)
    often = ner.main(changed(flags, output_dir=tmp_path / "often", eval_strategy="steps", eval_steps=2))
    assert ner.main(changed(flags, output_dir=tmp_path / "never", eval_strategy="no")) == often
    assert interrupt(changed(flags, output_dir=tmp_path / "killed"), 12, signal.SIGKILL).returncode == -9
    assert ner.main(changed(flags, output_dir=tmp_path / "killed")) == often
    assert weights(tmp_path / "often") == weights(tmp_path / "never") == weights(tmp_path / "killed")


def test_resume_from_checkpoint_takes_true_false_and_a_path(ner_flags, tmp_path, capsys):
    """The example scripts answer `Can't find a valid checkpoint at True`."""
    flags = changed(ner_flags, save_strategy="steps", save_steps=5)
    results = ner.main(changed(flags, output_dir=tmp_path / "whole"))
    assert interrupt(changed(flags, output_dir=tmp_path / "killed"), 7, signal.SIGKILL).returncode == -9
    for value, says in (("True", "Resuming from"), ("false", None), (None, "Resuming from")):
        folder = shutil.copytree(tmp_path / "killed", tmp_path / f"run-{value}")
        capsys.readouterr()
        resumed = changed(flags, output_dir=folder, **({"resume_from_checkpoint": value} if value else {}))
        assert ner.main(resumed) == results
        assert ("Resuming from" in capsys.readouterr().out) == bool(says)
    path = changed(flags, output_dir=tmp_path / "by-path", resume_from_checkpoint=tmp_path / "whole" / "checkpoint-15")
    assert ner.main(path) == results
    with pytest.raises(InputError, match="is no folder"):
        ner.main(changed(flags, output_dir=tmp_path / "x", resume_from_checkpoint=tmp_path / "nowhere"))


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken(ner_flags, tmp_path, capsys):
    flags = changed(ner_flags, save_strategy="steps", save_steps=5)
    results = ner.main(changed(flags, output_dir=tmp_path / "whole"))
    assert interrupt(flags, 13, signal.SIGKILL).returncode == -9
    newest = tmp_path / "run" / "checkpoint-10" / "optimizer.pt"
    newest.write_bytes(newest.read_bytes()[:-1])
    assert checkpoint_fault(newest.parent) == "optimizer.pt is damaged or missing"
    (tmp_path / "run" / "checkpoint-99").mkdir()  # a crash while writing
    assert ner.main(flags) == results
    output = capsys.readouterr().out
    assert "checkpoint-99: was not written to the end" in output
    assert "checkpoint-10: optimizer.pt is damaged" in output and "Resuming from" in output and "checkpoint-5" in output


def test_a_checkpoint_without_optimizer_is_not_resumed_from(ner_flags, tmp_path, capsys):
    flags = changed(ner_flags, save_strategy="steps", save_steps=5, save_only_model="true")
    results = ner.main(changed(flags, output_dir=tmp_path / "whole"))
    assert interrupt(flags, 13, signal.SIGKILL).returncode == -9
    assert ner.main(flags) == results
    assert "holds no state of the optimizer" in capsys.readouterr().out


def test_the_best_model_is_kept_and_training_stops_early(ner_flags, tmp_path):
    flags = changed(ner_flags, num_train_epochs=30, early_stopping_patience=2, learning_rate="5e-3")
    results = ner.main(flags)
    states = [json.loads(path.read_text()) for path in (tmp_path / "run").glob("checkpoint-*/trainer_state.json")]
    evaluated = {row["step"]: row["eval_f1"] for state in states for row in state["log_history"] if "eval_f1" in row}
    assert max(evaluated) < 30 * 8
    assert results["eval_f1"] == pytest.approx(max(evaluated.values()))


def test_a_renamed_copy_runs_and_an_edited_one_is_another_run(ner_flags, tmp_path):
    (tmp_path / "recipes").mkdir()
    for name in ("__init__.py", "predict.py"):
        shutil.copy(ROOT / "recipes" / name, tmp_path / "recipes" / name)
    copy = tmp_path / "recipes" / "my_task.py"
    shutil.copy(ROOT / "recipes" / "ner.py", copy)
    os.symlink(ROOT / "common", tmp_path / "common")
    os.symlink(ROOT / "recipes" / "tools", tmp_path / "recipes" / "tools")
    i = ner_flags.index("--output_dir")
    command = [sys.executable, "-m", "recipes.my_task", *ner_flags[:i], *ner_flags[i + 2 :], "--max_steps", "2"]
    environment = {name: value for name, value in ENVIRONMENT.items() if name != "PYTHONPATH"}

    def run():
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)

    done = run()
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs" / "my_task" / "all_results.json").exists()
    assert "this run is finished" in run().stdout
    copy.write_text(copy.read_text().replace("weight_decay=0.01", "weight_decay=0.02"))
    edited = run()
    assert edited.returncode == 2 and "holds another run (recipe: " in edited.stderr


def test_real_conll_reads_to_the_known_counts():
    """CoNLL-2003 may not be redistributed; this runs where a data folder has it."""
    folders = [ROOT / "data" / "conll2003", ROOT.parent / "shared" / "data" / "conll2003"]
    path = next((folder / "validation.txt" for folder in folders if (folder / "validation.txt").exists()), None)
    if path is None:
        pytest.skip("CoNLL-2003 is not at data/conll2003/validation.txt")
    from tests.test_ner_inputs import read

    dataset = read(path)
    counts = {}
    for tags in dataset["ner_tags"]:
        for tag in tags:
            if tag.startswith("B-"):
                counts[tag[2:]] = counts.get(tag[2:], 0) + 1
    # Tjong Kim Sang and De Meulder 2003, table 2.
    assert len(dataset) == 3250 and counts == {"LOC": 1837, "MISC": 922, "ORG": 1341, "PER": 1842}


def test_the_table_of_the_data_counts_what_is_there(tiny_bert, tmp_path, capsys):
    from tests.test_ner_inputs import json_lines

    rows = [
        {"tokens": ["Ada", "ran"], "ner_tags": ["B-PER", "O"]},
        {"tokens": ["to"] * 70, "ner_tags": ["O"] * 70},  # two windows of 64 pieces
        {"tokens": ["\x01", "Leeds", "won"], "ner_tags": ["O", "B-ORG", "O"]},
    ]
    files = {"train": rows, "validation": [rows[0], {"tokens": ["Ada"], "ner_tags": ["B-PER"]}]}
    for split, content in files.items():
        (tmp_path / f"{split}.jsonl").write_text(json_lines(content))
    flags = f"--model_name_or_path {tiny_bert} --train_file {tmp_path}/train.jsonl --bf16 false --disable_tqdm true"
    flags += f" --validation_file {tmp_path}/validation.jsonl --output_dir {tmp_path}/run --max_steps 1"
    ner.main(flags.split())
    output = capsys.readouterr().out
    lines = [line.split() for line in output.splitlines()]
    table = {fields[0]: fields[1:] for fields in lines if len(fields) == 9}
    # sentences, words, mean and 99th percentile of pieces, windows, sentences in several, words without piece, in train
    assert [table["train"][i] for i in (0, 1, 4, 5, 6, 7)] == ["3", "75", "4", "1", "1", "-"]
    assert [table["validation"][i] for i in (0, 1, 4, 5, 6, 7)] == ["2", "3", "2", "0", "0", "1"]
    assert "train: PER 1 (50%), ORG 1 (50%)." in output
    assert "Warning: 1 of 2 rows of validation also stand in train" in output
