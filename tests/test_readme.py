"""What README.md and the docstrings tell people to type is there and parses."""

import ast
import os
import re
import shlex
import shutil

import pytest

from common.arguments import build_parser
from recipes import glue, ner, nli, predict, qa, text_classification
from tests.conftest import ROOT, process, write

TEXTS = {
    "README.md": (ROOT / "README.md").read_text(encoding="utf-8"),
    "RESULTS.md": (ROOT / "recipes" / "RESULTS.md").read_text(encoding="utf-8"),
    **{path.name: ast.get_docstring(ast.parse(path.read_text())) or "" for path in (ROOT / "recipes").glob("*.py")},
}
(SMALL,) = re.findall(r'SMALL="([^"]+)"', TEXTS["RESULTS.md"])
TEXTS["RESULTS.md"] = TEXTS["RESULTS.md"].replace("$SMALL", SMALL)
RECIPES = {"ner": ner, "nli": nli, "qa": qa, "text_classification": text_classification}


def commands(start):
    """Lines of any text that begin with `start`, continuation lines joined, comments and pipes cut off."""
    found = []
    for name, text in TEXTS.items():
        for line in re.findall(rf"{start}[^\n`]*", text.replace("\\\n", " ")):
            found.append((name, re.split(r"\s+#|\s+[|>]|  +\(|&&", line)[0].strip()))
    return sorted(set(found))


def parse(recipe, flags):
    parser = build_parser(RECIPES[recipe].Arguments, RECIPES[recipe].DEFAULTS, recipe)
    parser.parse_args_into_dataclasses(flags, look_for_args_file=False)


def make(*words, **options):
    """What make would run, or with `dry=False` what running it printed."""
    return process("make", *["-n"] * options.pop("dry", True), *words, **options)


@pytest.mark.parametrize(("where", "command"), commands(r"python -m recipes\."))
def test_recipe_commands_parse(where, command):
    name, *flags = shlex.split(command)[2:]
    name = name.removeprefix("recipes.")
    if name == "predict":
        assert predict.parse(flags).model
    elif name == "glue":
        parse("nli", glue.parse_arguments(flags)[1])
    else:
        parse(name, flags)


@pytest.mark.parametrize(("where", "command"), commands(r"make [a-z]"))
def test_make_commands_are_known_to_make(where, command):
    done = make(*shlex.split(command)[1:])
    assert done.returncode == 0, done.stderr
    for name, flags in re.findall(r"-m recipes\.(\w+) (.*)", done.stdout):
        if name in RECIPES and "--help" not in flags:
            parse(name, shlex.split(re.split(r"\s+(?:>|&&|;)", flags)[0]))


def test_help_lists_every_target():
    targets = set(re.findall(r"^([a-z%-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert {line.split()[0] for line in make("help", dry=False, check=True).stdout.splitlines()} == targets


def test_an_old_python_gets_one_line(tmp_path):
    write(tmp_path / "python3", "#!/bin/sh\nexit 1\n")
    (tmp_path / "python3").chmod(0o755)
    done = make("setup", f"PYTHON={tmp_path / 'python3'}", f"VENV={tmp_path / 'venv'}", dry=False)
    assert done.returncode == 2 and not (tmp_path / "venv").exists()
    assert done.stderr.splitlines()[0].startswith("error: ") and "3.11 or later" in done.stderr


@pytest.mark.parametrize("processes", [1, 3, 8])
def test_the_sample_trains_with_the_batch_that_suits_it(processes):
    """Formerly a batch of 0 for qa with 8 processes, and one of 6 with 3."""
    command = make("train-qa", "OFFLINE=1", f"NPROC={processes}", check=True).stdout.splitlines()[-1]
    assert "--per_device_train_batch_size 8 " in command and ("--num_processes" in command) == (processes > 1)
    assert "--num_processes" not in make("train-qa", "OFFLINE=1").stdout.splitlines()[-1]


@pytest.mark.parametrize(("count", "launched"), [(0, False), (1, False), (4, True)])
def test_a_process_is_started_for_each_accelerator_that_python_sees(count, launched, tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / ".ready").touch()
    write(tmp_path / "bin" / "python", f"#!/bin/sh\necho {count}\n")
    (tmp_path / "bin" / "python").chmod(0o755)
    done = make("train-ner", f"VENV={tmp_path}", "-o", f"{tmp_path}/.ready", check=True)
    assert (f"--num_processes {count}" in done.stdout) == launched


def test_predict_finds_the_newest_model_of_a_recipe(tmp_path):
    """`make train-nli` leaves it in runs/nli-mrpc, and `make predict-nli` formerly looked in runs/nli."""
    for name in ("Makefile", "requirements.txt"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / ".ready").touch()

    def model(recipe):
        done = make(f"predict-{recipe}", "TEXT=x", cwd=tmp_path, check=True)
        return re.search(r'--model "(.*?)"', done.stdout).group(1)

    assert model("nli") == "runs/nli"  # where predict then says that there is none
    for age, name in ((30, "nli"), (20, "nli-mrpc"), (10, "nli-rte-eval"), (5, "text_classification-sst2")):
        config = tmp_path / "runs" / name / "config.json"
        config.parent.mkdir(parents=True)
        if not name.endswith("-eval"):
            config.touch()
            os.utime(config, (1e9 - age, 1e9 - age))
    assert model("nli") == "runs/nli-mrpc"
    assert model("text-classification") == "runs/text_classification-sst2"
