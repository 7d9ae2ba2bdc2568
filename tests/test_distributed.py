"""Several processes against one with the same total batch, on CPUs over gloo."""

import importlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from torch.distributed.run import get_args_parser
from transformers import TrainingArguments

from common.arguments import parse_arguments
from common.errors import InputError
from recipes import ner, text_classification
from tests.conftest import (
    ENVIRONMENT,
    ROOT,
    process,
    read_json,
    read_lines,
    read_sample,
    run,
    save_tiny_bert,
    write,
    write_sentences,
)
from tests.test_qa import article

ENVIRONMENT = ENVIRONMENT | {"TORCH_CPP_LOG_LEVEL": "ERROR"}
LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", "--quiet", "--num_processes", "2", "--config_file"]
KILL = str(ROOT / "tests" / "kill_at_step.py")


def launch(*words, config="multi_gpu"):
    return process(
        *LAUNCH, ROOT / "recipes" / "launch" / f"{config}.yaml", *words, environment=ENVIRONMENT, timeout=240
    )


def complaints(stderr):
    return [line for line in stderr.splitlines() if line.startswith("error: ")]


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
    """For each recipe the flags of a run of 12 steps: two epochs of 41 rows, in batches of 8 and one of a single row,
    which leaves a second process without; 21 rows to validate."""
    folder = tmp_path_factory.mktemp("distributed")
    tagged, held_out = read_sample("train"), read_sample("validation")
    words = ["warm", "cold", "long", "short", "film", "day", "was", "the"]
    texts = [" ".join(words[(i * k) % 8] for k in range(1, 3 + i % 7)) for i in range(62)]
    lines = [f"{text},{int(i % 4 == 0)}\n" for i, text in enumerate(texts)]
    files = {
        "ner": [write_sentences(folder / f"{len(rows)}.conll", rows) for rows in (tagged[:41], held_out[:21])],
        "text_classification": [
            write(folder / f"{len(part)}.csv", "text,label\n" + "".join(part)) for part in (lines[:41], lines[41:])
        ],
        "qa": [write(folder / f"{count}.json", json.dumps(article(count, count))) for count in (41, 21)],
    }
    known = [" ".join(words) for words, _ in tagged] + [*texts, json.dumps(article(20, 1))]
    model = save_tiny_bert(folder / "model", known, dropout=0.0, positions=128)
    common = f"--model_name_or_path {model} --num_train_epochs 2 --learning_rate 1e-3 --logging_steps 1 --bf16 false "
    common += "--per_device_eval_batch_size 4 --disable_tqdm true --save_total_limit 9 --max_seq_length 64"
    found = {
        name: f"{common} --train_file {train} --validation_file {validation}".split()
        for name, (train, validation) in files.items()
    }
    found["text_classification"] += ["--class_weights", "balanced"]
    return found


@pytest.fixture(scope="module")
def alone(flags, tmp_path_factory):
    """The folder of a recipe's run in one process, with batches of 8."""
    folder = tmp_path_factory.mktemp("alone")

    def folder_of(name):
        if not (folder / name).exists():
            recipe = importlib.import_module(f"recipes.{name}")
            run(recipe, flags[name], "--per_device_train_batch_size 8", ["--output_dir", folder / name])
        return folder / name

    return folder_of


def logged_last(run, key):
    """What the checkpoint of the last step says was logged under `key`."""
    state = read_json(run / "checkpoint-12" / "trainer_state.json")
    return [row[key] for row in state["log_history"] if key in row]


def close(value):
    return pytest.approx(value, abs=1e-3) if isinstance(value, float) else value


def assert_same(run, expected):
    assert len(logged_last(expected, "loss")) == 12
    assert logged_last(run, "loss") == pytest.approx(logged_last(expected, "loss"), abs=1e-5)
    assert logged_last(run, "grad_norm") == pytest.approx(logged_last(expected, "grad_norm"), rel=1e-3)
    results = [read_json(folder / "all_results.json") for folder in (run, expected)]
    losses = [scores.pop("eval_loss") for scores in results]  # a mean of the means of batches
    assert losses[0] == pytest.approx(losses[1], rel=0.05)
    assert results[0] == pytest.approx(results[1], abs=1e-4)
    rows, wanted = (read_lines(folder / "predictions.jsonl") for folder in (run, expected))
    assert len(rows) == 21
    assert rows == [{key: close(value) for key, value in row.items()} for row in wanted]


def test_two_processes_train_and_score_as_one_and_speak_with_one_voice(flags, alone, tmp_path):
    done = launch(
        "-m", "recipes.ner", *flags["ner"], "--per_device_train_batch_size", 4, "--output_dir", tmp_path / "run"
    )
    assert done.returncode == 0, done.stderr
    assert_same(tmp_path / "run", alone("ner"))
    assert (tmp_path / "run" / "predictions.conll").read_text() == (alone("ner") / "predictions.conll").read_text()
    assert done.stdout.count("Effective batch 8: per device 4, processes 2, accumulation steps 1.") == 1
    assert done.stdout.count("Packing: the encoder computes no padding") == 1
    assert done.stdout.count("Model and results") == done.stdout.count("train_runtime") == 1
    assert "Tokenizing" not in done.stderr  # a file gets no progress bars
    record = read_json(tmp_path / "run" / "run.json")
    assert record["processes"] == 2 and record["total_batch_size"] == 8


@pytest.mark.slow
@pytest.mark.parametrize("name", ["text_classification", "qa"])
def test_texts_and_questions_train_and_score_alike(flags, alone, tmp_path, name):
    two = ["--per_device_train_batch_size", 2, "--gradient_accumulation_steps", 2, "--output_dir", tmp_path / "run"]
    done = launch("-m", f"recipes.{name}", *flags[name], *two)
    assert done.returncode == 0, done.stderr
    assert_same(tmp_path / "run", alone(name))


@pytest.mark.slow
def test_stopped_with_two_processes_and_resumed_with_one_or_three(flags, alone, tmp_path):
    """SIGTERM reaches one process alone; both stop at the same step, of the second epoch, and save one checkpoint."""
    two = [*flags["ner"], "--save_strategy", "steps", "--save_steps", 12, "--output_dir", tmp_path / "run"]
    stopped = launch(KILL, 8, "15@1", "ner", *two, "--per_device_train_batch_size", 4)
    assert stopped.returncode != 0
    assert stopped.stdout.count("Stopped by SIGTERM at step 8; the same command resumes.") == 1
    assert [path.name for path in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-8"]
    shutil.copytree(tmp_path / "run", tmp_path / "other")
    run(ner, two, "--per_device_train_batch_size 8")
    assert_same(tmp_path / "run", alone("ner"))
    four = [*two, "--per_device_train_batch_size", 2, "--output_dir", tmp_path / "other"]
    done = launch("--num_processes", 4, "-m", "recipes.ner", *four)
    assert "Resuming from" in done.stdout, done.stderr
    assert_same(tmp_path / "other", alone("ner"))


@pytest.mark.slow
def test_a_killed_process_ends_the_others(flags, tmp_path):
    start = time.monotonic()
    done = launch(KILL, 3, "9@1", "ner", *flags["ner"], "--output_dir", tmp_path / "run")
    assert done.returncode != 0 and time.monotonic() - start < 150  # of which most is the start
    lost = "error: another process of this run has ended or is out of reach; the same command resumes"
    assert complaints(done.stderr) == [lost]
    assert "exitcode  : -9" in done.stderr  # the launcher's own report names it


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ("--nonsense 3", "error: unknown flag --nonsense"),
        ("--train_file nowhere.conll", "error: nowhere.conll: No such file"),
        ("--num_train_epochs 1 --learning_rate 1e6", "error: loss or gradient became NaN"),
    ],
)
def test_what_stops_all_is_said_once(flags, tmp_path, wrong, says):
    done = launch("-m", "recipes.ner", *flags["ner"], *wrong.split(), "--output_dir", tmp_path / "run")
    (line,) = complaints(done.stderr)
    assert done.returncode != 0 and line.startswith(says)


def test_plain_python_with_several_gpus_uses_one_and_says_how_to_use_all(flags, monkeypatch, capsys):
    stock = TrainingArguments.__post_init__

    def with_four_gpus(self):
        stock(self)
        self._n_gpu = 4 if self.device else 0

    monkeypatch.setattr(TrainingArguments, "__post_init__", with_four_gpus)
    _, args = parse_arguments(ner.Arguments, ner.DEFAULTS, flags["ner"], ner.__file__)
    assert args.n_gpu == 1 and args.train_batch_size == 32
    said = capsys.readouterr().out
    assert "4 GPUs are here and one is used" in said
    (command,) = re.findall(r"accelerate launch .*-m recipes.ner", said)
    words = command.split()
    assert (ROOT / words[words.index("--config_file") + 1]).exists() and "--num_processes 4" in command


def test_a_batch_that_does_not_divide_is_refused_with_what_does(flags, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(InputError, match=r"batch of 32 .* 3 processes; --per_device_train_batch_size 11 makes it 33"):
        ner.main(flags["ner"])


@pytest.mark.slow
@pytest.mark.parametrize("rows", [1, 9])
def test_every_row_is_scored_once_whatever_their_number(flags, tmp_path, rows):
    """Of 9 rows in batches of 4 on two processes the second batch is of one row."""
    some = [*flags["text_classification"], "--max_steps", 1, "--max_eval_samples", rows]
    one, two = tmp_path / "one", tmp_path / "two"
    run(text_classification, some, output_dir=one, per_device_train_batch_size=8)
    done = launch("-m", "recipes.text_classification", *some, "--output_dir", two, "--per_device_train_batch_size", 4)
    assert done.returncode == 0, done.stderr
    alone, shared = (read_lines(folder / "predictions.jsonl") for folder in (one, two))
    assert len(alone) == rows
    assert shared == [{key: close(value) for key, value in row.items()} for row in alone]


def machine(how, rank, port, folder):
    """The command that starts one of two machines, and its environment."""
    if how == "accelerate":
        words = [*LAUNCH, str(ROOT / "recipes" / "launch" / "multi_machine.yaml"), "--num_machines", "2"]
        words += ["--main_process_ip", "127.0.0.1", "--main_process_port", port, "--machine_rank", rank]
        return [*words, "-m", "recipes.ner"], ENVIRONMENT
    # srun and scontrol replaced by what they do on one node of the job.
    for name, body in (("srun", 'shift; exec "$@"'), ("scontrol", "echo 127.0.0.1")):
        write(folder / name, f"#!/bin/sh\n{body}\n")
        (folder / name).chmod(0o755)
    slurm = {"SLURM_JOB_NODELIST": "here", "SLURM_JOB_ID": "7", "SLURM_NNODES": "2", "SLURM_GPUS_ON_NODE": "1"}
    slurm |= {"PATH": f"{folder}:{os.environ['PATH']}", "MASTER_PORT": port}
    script = (ROOT / "recipes" / "launch" / "slurm.sh").read_text().replace(".venv/bin/python", sys.executable)
    return ["bash", "-c", script, "slurm.sh", "ner"], ENVIRONMENT | slurm


@pytest.mark.slow
@pytest.mark.parametrize("how", ["accelerate", "slurm"])
def test_two_machines_train_as_one(how, flags, alone, tmp_path):
    command = [*flags["ner"], "--per_device_train_batch_size", "4", "--output_dir", str(tmp_path / "run")]
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = str(server.getsockname()[1])
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    machines = [machine(how, rank, port, tmp_path) for rank in "01"]
    started = [subprocess.Popen([*words, *command], env=environment, **pipes) for words, environment in machines]
    said = [one.communicate(timeout=240) for one in started]
    assert [one.returncode for one in started] == [0, 0], said
    assert_same(tmp_path / "run", alone("ner"))
    assert "".join(stdout for stdout, _ in said).count("Model and results") == 1


def test_the_kubernetes_job_is_one_that_its_parts_agree_on():
    """Its command is the launch of Slurm's script, which runs above."""
    service, job = yaml.safe_load_all((ROOT / "recipes" / "launch" / "kubernetes.yaml").read_text())
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    name = job["metadata"]["name"]
    assert service["spec"]["selector"] == {"job-name": name} and service["metadata"]["name"] == pod["subdomain"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    launch = get_args_parser().parse_args(container["command"][3:])
    gpus = container["resources"]["limits"]["nvidia.com/gpu"]
    assert (launch.nnodes, launch.nproc_per_node) == (str(job["spec"]["completions"]), str(gpus))
    address = f"{name}-0.{pod['subdomain']}:{service['spec']['ports'][0]['port']}"
    assert launch.rdzv_backend == "c10d" and launch.rdzv_endpoint == address
    assert launch.module and launch.training_script == "recipes.ner"
    _, args = parse_arguments(ner.Arguments, ner.DEFAULTS, launch.training_script_args, ner.__file__)
    assert any(Path(mount["mountPath"]) in Path(args.output_dir).parents for mount in container["volumeMounts"])


@pytest.mark.slow
def test_a_model_divided_by_fsdp_trains_alike_and_loads_on_one_device(flags, alone, tmp_path):
    command = [*flags["ner"], "--per_device_train_batch_size", 4, "--output_dir", tmp_path / "run"]
    done = launch("-m", "recipes.ner", *command, config="fsdp2")
    assert done.returncode == 0, done.stderr
    assert "Packing: the encoder computes no padding" in done.stdout
    assert_same(tmp_path / "run", alone("ner"))
    again = run(
        ner, flags["ner"], f"--do_train false --model_name_or_path {tmp_path}/run --output_dir {tmp_path}/again"
    )
    saved = read_json(tmp_path / "run" / "all_results.json")
    assert again.pop("eval_loss") == pytest.approx(saved.pop("eval_loss"), rel=0.05)  # of two processes' batches
    assert again == pytest.approx(saved, abs=1e-4)
