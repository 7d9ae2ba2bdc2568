"""What README.md and the docstrings tell people to type is there and parses."""

import ast
import os
import re
import shlex
import shutil
import subprocess

import pytest

from common.arguments import build_parser
from recipes import glue, ner, nli, predict, qa, text_classification
from tests.conftest import ROOT

TEXTS = {
    "README.md": (ROOT / "README.md").read_text(encoding="utf-8"),
    "RESULTS.md": (ROOT / "recipes" / "RESULTS.md").read_text(encoding="utf-8"),
    **{path.name: ast.get_docstring(ast.parse(path.read_text())) or "" for path in (ROOT / "recipes").glob("*.py")},
}
(SMALL,) = re.findall(r'SMALL="([^"]+)"', TEXTS["RESULTS.md"])
TEXTS["RESULTS.md"] = TEXTS["RESULTS.md"].replace("$SMALL", SMALL)
# As typed by a person, also when these tests themselves run under make.
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "ARGS"))}
RECIPES = {"ner": ner, "nli": nli, "qa": qa, "text_classification": text_classification}


def commands(start):
    """Lines of any text that begin with `start`, continuation lines joined, comments and pipes cut off."""
    found = []
    for name, text in TEXTS.items():
        for line in re.findall(rf"{start}[^\n`]*", text.replace("\\\n", " ")):
            found.append((name, re.split(r"\s+#|\s+[|>]|  +\(|&&", line)[0].strip()))
    return sorted(set(found))


@pytest.mark.parametrize(("where", "command"), commands(r"python -m recipes\."))
def test_recipe_commands_parse(where, command):
    name, *flags = shlex.split(command)[2:]
    name = name.removeprefix("recipes.")
    if name == "predict":
        assert predict.parse(flags).model
    elif name == "glue":
        passed_on = glue.parse_arguments(flags)[1]
        build_parser(nli.Arguments, nli.DEFAULTS, "nli").parse_args_into_dataclasses(
            passed_on, look_for_args_file=False
        )
    else:
        module = RECIPES[name]
        build_parser(module.Arguments, module.DEFAULTS, name).parse_args_into_dataclasses(
            flags, look_for_args_file=False
        )


@pytest.mark.parametrize(("where", "command"), commands(r"make [a-z]"))
def test_make_commands_are_known_to_make(where, command):
    words = shlex.split(command)
    done = subprocess.run([*words[:1], "-n", *words[1:]], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for flags in re.findall(r"-m recipes\.(\w+) (.*)", done.stdout):
        if flags[0] in RECIPES and "--help" not in flags[1]:
            module = RECIPES[flags[0]]
            parser = build_parser(module.Arguments, module.DEFAULTS, flags[0])
            typed = shlex.split(re.split(r"\s+(?:>|&&|;)", flags[1])[0])
            parser.parse_args_into_dataclasses(typed, look_for_args_file=False)


def test_help_lists_every_target():
    text = subprocess.run(
        ["make", "help"], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=True
    ).stdout
    makefile = (ROOT / "Makefile").read_text()
    targets = {t for t in re.findall(r"^([a-z%-]+):", makefile, re.M)}
    assert {line.split()[0] for line in text.splitlines()} == targets


def test_an_old_python_gets_one_line(tmp_path):
    old = tmp_path / "python3"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    done = subprocess.run(
        ["make", "setup", f"PYTHON={old}", f"VENV={tmp_path / 'venv'}"],
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[0].startswith("error: ") and "3.11 or later" in done.stderr
    assert not (tmp_path / "venv").exists()


@pytest.mark.parametrize("processes", [1, 3, 8])
def test_the_sample_trains_with_the_batch_that_suits_it(processes):
    """Formerly a batch of 0 for qa with 8 processes, and one of 6 with 3."""

    def command(*words):
        done = subprocess.run(
            ["make", "-n", *words], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=True
        )
        return done.stdout.splitlines()[-1]

    given = command("train-qa", "OFFLINE=1", f"NPROC={processes}")
    assert "--per_device_train_batch_size 8 " in given and ("--num_processes" in given) == (processes > 1)
    assert "--num_processes" not in command("train-qa", "OFFLINE=1")


def test_hidden_accelerators_start_no_process():
    environment = ENVIRONMENT | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        ["make", "-n", "train-ner"], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert "accelerate launch" not in done.stdout


@pytest.mark.parametrize(("count", "launched"), [(0, False), (1, False), (4, True)])
def test_a_process_is_started_for_each_accelerator_that_python_sees(count, launched, tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / ".ready").touch()
    (tmp_path / "bin" / "python").write_text(f"#!/bin/sh\necho {count}\n")
    (tmp_path / "bin" / "python").chmod(0o755)
    words = ["make", "-n", "train-ner", f"VENV={tmp_path}", "-o", f"{tmp_path}/.ready"]
    done = subprocess.run(words, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert (f"--num_processes {count}" in done.stdout) == launched


def test_predict_finds_the_newest_model_of_a_recipe(tmp_path):
    """`make train-nli` leaves it in runs/nli-mrpc, and `make predict-nli` formerly looked in runs/nli."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    shutil.copy(ROOT / "requirements.txt", tmp_path)
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / ".ready").touch()

    def model(recipe):
        words = ["make", "-n", f"predict-{recipe}", "TEXT=x"]
        done = subprocess.run(words, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=True)
        return re.search(r'--model "(.*?)"', done.stdout).group(1)

    assert model("nli") == "runs/nli"  # where predict then says that there is none
    for age, name in ((30, "nli"), (20, "nli-mrpc"), (10, "nli-rte-eval"), (5, "text_classification-sst2")):
        (tmp_path / "runs" / name).mkdir(parents=True)
        if not name.endswith("-eval"):
            (tmp_path / "runs" / name / "config.json").touch()
            os.utime(tmp_path / "runs" / name / "config.json", (1e9 - age, 1e9 - age))
    assert model("nli") == "runs/nli-mrpc"
    assert model("text-classification") == "runs/text_classification-sst2"
