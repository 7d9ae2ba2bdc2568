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

import pytest
from transformers import TrainingArguments

from common.arguments import parse_arguments
from common.errors import InputError
from recipes import ner, text_classification
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
    losses = [scores.pop("eval_loss") for scores in results]  # a mean of the means of batches
    assert losses[0] == pytest.approx(losses[1], rel=0.05)
    assert results[0] == pytest.approx(results[1], abs=1e-4)
    rows = [(folder / "predictions.jsonl").read_text().splitlines() for folder in (run, expected)]
    assert len(rows[0]) == 21
    for ours, theirs in zip(*map(lambda lines: map(json.loads, lines), rows), strict=True):
        for key in theirs:
            assert ours[key] == (
                pytest.approx(theirs[key], abs=1e-3) if isinstance(theirs[key], float) else theirs[key]
            )


def logged_last(run, key):
    """What the checkpoint of the last step says was logged under `key`."""
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
    assert done.stdout.count("Packing: the encoder computes no padding") == 1
    assert done.stdout.count("Model and results") == done.stdout.count("train_runtime") == 1
    assert "Tokenizing" not in done.stderr  # a file gets no progress bars
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["processes"] == 2 and record["total_batch_size"] == 8


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if name != "ner"])
def test_every_recipe_trains_and_scores_alike(flags, alone, tmp_path, name):
    two = ["--per_device_train_batch_size", 2, "--gradient_accumulation_steps", 2, "--output_dir", tmp_path / "run"]
    done = launch("-m", f"recipes.{name.split()[0]}", *flags[name], *two)
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
    ner.main([*map(str, two), "--per_device_train_batch_size", "8"])
    assert_same(tmp_path / "run", alone("ner"))
    four = [*two, "--per_device_train_batch_size", 2, "--output_dir", tmp_path / "other"]
    done = launch("--num_processes", 4, "-m", "recipes.ner", *four)
    assert "Resuming from" in done.stdout, done.stderr
    assert_same(tmp_path / "other", alone("ner"))


@pytest.mark.slow
def test_the_launcher_passes_sigterm_on(flags, tmp_path):
    command = [*LAUNCH, str(ROOT / "recipes" / "launch" / "multi_gpu.yaml"), "-m", "recipes.ner", *flags["ner"]]
    command += ["--num_train_epochs", "10000", "--eval_strategy", "no", "--output_dir", str(tmp_path / "run")]
    command += ["--save_strategy", "steps", "--save_steps", "1000000"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    for line in process.stdout:
        if ": loss " in line:
            break
    process.terminate()
    said, _ = process.communicate(timeout=60)
    assert process.returncode != 0 and said.count("Stopped by SIGTERM at step") == 1
    assert len(list((tmp_path / "run").glob("checkpoint-*/complete.json"))) == 1


@pytest.mark.slow
def test_a_killed_process_ends_the_others_within_a_minute(flags, tmp_path):
    start = time.monotonic()
    done = launch(KILL, 3, "9@1", "ner", *flags["ner"], "--output_dir", tmp_path / "run")
    assert done.returncode != 0 and time.monotonic() - start < 120  # of which most is the start
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert errors == ["error: another process of this run has ended or is out of reach; the same command resumes"]
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
    assert done.returncode != 0
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and errors[0].startswith(says), done.stderr


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
@pytest.mark.parametrize("rows", [1, 2, 3, 9])
def test_every_row_is_scored_once_whatever_their_number(flags, tmp_path, rows):
    """Of 9 rows in batches of 4 on two processes the second batch is of one row."""
    some = [*flags["text_classification"], "--max_steps", 1, "--max_eval_samples", rows]
    one, two = tmp_path / "one", tmp_path / "two"
    text_classification.main([*map(str, some), "--output_dir", str(one), "--per_device_train_batch_size", "8"])
    done = launch("-m", "recipes.text_classification", *some, "--output_dir", two, "--per_device_train_batch_size", 4)
    assert done.returncode == 0, done.stderr
    predicted = [[json.loads(line) for line in (run / "predictions.jsonl").open()] for run in (one, two)]
    assert len(predicted[0]) == rows
    assert [row["text"] for row in predicted[1]] == [row["text"] for row in predicted[0]]
    for key in ("predicted", "probability"):
        assert [row[key] for row in predicted[1]] == pytest.approx([row[key] for row in predicted[0]], abs=1e-3)


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def together(commands, timeout=240):
    """Run commands at the same time, as machines would; their (status, stdout, stderr)."""
    started = [
        subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=environment)
        for words, environment in commands
    ]
    said = [process.communicate(timeout=timeout) for process in started]
    return [(process.returncode, *outputs) for process, outputs in zip(started, said, strict=True)]


@pytest.mark.slow
def test_two_machines_through_their_configuration(flags, alone, tmp_path):
    config = str(ROOT / "recipes" / "launch" / "multi_machine.yaml")
    machine = [*LAUNCH, config, "--num_machines", "2", "--main_process_ip", "127.0.0.1"]
    machine += ["--main_process_port", str(free_port())]
    run = [*flags["ner"], "--per_device_train_batch_size", "4", "--output_dir", str(tmp_path / "run")]
    done = together([([*machine, "--machine_rank", rank, "-m", "recipes.ner", *run], ENVIRONMENT) for rank in "01"])
    assert [status for status, *_ in done] == [0, 0], done
    assert_same(tmp_path / "run", alone("ner"))
    assert "Model and results" in done[0][1] and done[1][1] == ""


@pytest.mark.slow
def test_a_process_killed_on_one_machine_ends_both(flags, tmp_path):
    machine = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
    machine += ["--rdzv-backend", "c10d", "--rdzv-id", "1", "--rdzv-endpoint", f"127.0.0.1:{free_port()}"]
    run = [KILL, "3", "9@1", "ner", *flags["ner"], "--output_dir", str(tmp_path / "run")]
    start = time.monotonic()
    done = together([([*machine, *run], ENVIRONMENT)] * 2)
    assert all(status != 0 for status, *_ in done) and time.monotonic() - start < 150  # of which most is the start
    errors = [line for _, _, stderr in done for line in stderr.splitlines() if line.startswith("error: ")]
    assert errors == ["error: another process of this run has ended or is out of reach; the same command resumes"]


@pytest.mark.slow
def test_slurm_script_with_two_machines(flags, alone, tmp_path):
    """srun and scontrol replaced by what they do on one node of the job."""
    for name, body in (("srun", 'shift; exec "$@"'), ("scontrol", "echo 127.0.0.1")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    run = [*flags["ner"], "--per_device_train_batch_size", "2", "--output_dir", str(tmp_path / "run")]
    environment = ENVIRONMENT | {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "SLURM_JOB_NODELIST": "here",
        "SLURM_JOB_ID": "7",
        "SLURM_NNODES": "2",
        "SLURM_GPUS_ON_NODE": "2",
        "MASTER_PORT": str(free_port()),
    }
    script = (ROOT / "recipes" / "launch" / "slurm.sh").read_text().replace(".venv/bin/python", sys.executable)
    done = together([(["bash", "-c", script, "slurm.sh", "ner", *run], environment)] * 2)
    assert [status for status, *_ in done] == [0, 0], done
    assert_same(tmp_path / "run", alone("ner"))


@pytest.mark.slow
def test_kubernetes_job_with_two_pods(flags, alone, tmp_path):
    import yaml

    service, job = yaml.safe_load_all((ROOT / "recipes" / "launch" / "kubernetes.yaml").read_text())
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    name = job["metadata"]["name"]
    assert service["spec"]["selector"] == {"job-name": name} and service["metadata"]["name"] == pod["subdomain"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    command = " ".join(container["command"])
    assert f"--nnodes={job['spec']['completions']} " in command
    gpus = container["resources"]["limits"]["nvidia.com/gpu"]
    assert f"--nproc-per-node={gpus} " in command
    address = f"{name}-0.{pod['subdomain']}:{service['spec']['ports'][0]['port']}"
    for there, here in (
        (address, f"127.0.0.1:{free_port()}"),
        (f"per-node={gpus}", "per-node=1"),
        ("/shared", str(tmp_path)),
        ("python ", f"{sys.executable} "),
    ):
        assert there in command
        command = command.replace(there, here)
    run = [*command.split(), *flags["ner"], "--per_device_train_batch_size", "4"]
    done = together([(run, ENVIRONMENT)] * 2)
    assert [status for status, *_ in done] == [0, 0], done
    assert_same(tmp_path / "runs" / "ner", alone("ner"))


@pytest.mark.slow
def test_a_model_divided_by_fsdp_trains_alike_and_loads_on_one_device(flags, alone, tmp_path):
    run = [*flags["ner"], "--per_device_train_batch_size", 4, "--output_dir", tmp_path / "run"]
    done = launch("-m", "recipes.ner", *run, config="fsdp2")
    assert done.returncode == 0, done.stderr
    assert "Packing: the encoder computes no padding" in done.stdout
    assert_same(tmp_path / "run", alone("ner"))
    asked = [
        "--do_train",
        "false",
        "--model_name_or_path",
        str(tmp_path / "run"),
        "--output_dir",
        str(tmp_path / "again"),
    ]
    again = ner.main([*flags["ner"], *asked])
    saved = json.loads((tmp_path / "run" / "all_results.json").read_text())
    assert again.pop("eval_loss") == pytest.approx(saved.pop("eval_loss"), rel=0.05)  # of two processes' batches
    assert again == pytest.approx(saved, abs=1e-4)
