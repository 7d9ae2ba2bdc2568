"""The four recipes are twins: one flow, and flags of one name that say and mean the same."""

import argparse
import ast
import difflib
import re
import tokenize

import pytest
from transformers import HfArgumentParser, TrainingArguments

from common.arguments import build_parser
from recipes import glue, ner, nli, predict, qa, text_classification
from tests.conftest import ROOT

RECIPES = {"ner": ner, "nli": nli, "qa": qa, "text_classification": text_classification}
# Lines of code.
BUDGETS = {f"recipes/{name}.py": 150 for name in RECIPES}
BUDGETS |= {"common/*.py": 3324, "recipes/tools/*.py": 1553, "recipes/predict.py": 371, "recipes/glue.py": 300}
# What a task decides.
OWN_DEFAULTS = {"model_name_or_path", "dataset_name", "output_dir", "num_train_epochs", "learning_rate"}
OWN_DEFAULTS |= {"per_device_train_batch_size", "per_device_eval_batch_size", "metric_for_best_model", "label_names"}


def flags(name):
    """The flags of a recipe in the order of `--help`."""
    parser = build_parser(RECIPES[name].Arguments, RECIPES[name].DEFAULTS, name, shows_all=True)
    return {action.dest: action for action in parser._actions if action.help != argparse.SUPPRESS}


def test_flags_of_one_name_say_and_mean_the_same():
    seen = {}
    for recipe in RECIPES:
        for name, action in flags(recipe).items():
            # The names of a task are its own.
            text = re.sub(r"^One of [\w, ]+\.", "One of these.", action.help or "")
            default = None if name in OWN_DEFAULTS else action.default
            choices = action.choices and [str(choice) for choice in action.choices]
            kind = getattr(action.type, "__name__", None)
            meaning = (text, kind, action.nargs, choices, default)
            assert seen.setdefault(name, meaning) == meaning, f"--{name} of {recipe}"


@pytest.mark.parametrize("recipe", RECIPES)
def test_own_flags_come_first_and_are_explained(recipe):
    stock = {action.dest for action in HfArgumentParser((TrainingArguments,))._actions}
    is_own = [name not in stock for name in flags(recipe)]
    count = sum(is_own)
    assert count >= 15 and all(is_own[:count])
    for name in list(flags(recipe))[:count]:
        assert re.fullmatch(r"[A-Za-z].*\.", flags(recipe)[name].help), name


@pytest.mark.parametrize("module", [*RECIPES.values(), predict, glue])
def test_help_is_shown_whole(module, capsys):
    """Every text of every library, bare `%` included, and the docstring with its lines."""
    parse = {predict: predict.parse, glue: glue.parse_arguments}.get(module, module.main)
    with pytest.raises(SystemExit) as stop:
        parse(["--help"])
    shown = capsys.readouterr().out
    assert stop.value.code == 0 and "%%" not in shown and "%(" not in shown
    assert module.__doc__.splitlines()[0] in shown
    if module in RECIPES.values():
        own, stock = (shown.index(f"\n  --{name}") for name in ("max_predict_samples", "per_device_train_batch"))
        assert module.__doc__ in shown and own < stock


def outline(recipe):
    """Names at the top of a recipe's file, and the comments that part `main`, in their order."""
    text = (ROOT / "recipes" / f"{recipe}.py").read_text(encoding="utf-8")
    names = []
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.append(node.name)
        elif isinstance(node, ast.Assign):
            names.append(node.targets[0].id)
    comments = [comment.split()[0].strip(".,;") for comment in re.findall(r"^    # (.+)", text, re.M)]
    return names, comments


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_has_the_same_parts_in_the_same_order(recipe):
    names, comments = outline(recipe)
    optional = {"TASKS", "NOT_ENTAILED", "decode"}
    parts = ["log", "Arguments", "DEFAULTS", "FEATURES", "load_datasets", "preprocess", "build_compute_metrics", "main"]
    assert [name for name in names if name not in optional] == parts
    assert comments == [f"{i}" for i in range(1, 10)]


def code_lines(path):
    """Lines of a file that hold code: no blank lines, comments, docstrings."""
    with path.open("rb") as file:
        tokens = list(tokenize.tokenize(file.readline))
    other = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING}
    lines = {
        line for t in tokens if t.type not in other | {tokenize.ENDMARKER} for line in range(t.start[0], t.end[0] + 1)
    }
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node):
            lines -= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return len(lines)


@pytest.mark.parametrize(("pattern", "at_most"), BUDGETS.items())
def test_weight(pattern, at_most):
    """Drop a case, a message or a hop to meet a budget; never pack lines."""
    assert sum(map(code_lines, ROOT.glob(pattern))) <= at_most


def imported_from_common(path):
    """The modules of `common` that a file imports anywhere in it."""
    modules = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "common":
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("common."):
            modules.add(node.module.removeprefix("common."))
        elif isinstance(node, ast.ImportFrom | ast.Import):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            modules |= {name for name in names if name.startswith("recipes")}
    return modules


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_imports_few_modules_and_one_tool(recipe):
    modules = imported_from_common(ROOT / "recipes" / f"{recipe}.py")
    assert len(modules - {"recipes.tools.report"}) <= 8 and "recipes.tools.report" in modules


def test_imports_in_common_go_one_way():
    """No circle, and nothing of `recipes`."""
    imports = {path.stem: imported_from_common(path) for path in (ROOT / "common").glob("*.py")}
    while imports:
        leaves = {name for name, needed in imports.items() if not needed & imports.keys()}
        assert leaves, f"a circle among {sorted(imports)}"
        for name in leaves:
            assert not any(module.startswith("recipes") for module in imports.pop(name))


def test_texts_and_pairs_differ_in_little():
    """One recipe read, the other is known."""
    ours, theirs = ((ROOT / "recipes" / f"{n}.py").read_text().splitlines() for n in ("text_classification", "nli"))
    changed = [line for line in difflib.unified_diff(ours, theirs, n=0) if re.match(r"[+-](?![+-])", line)]
    assert len(changed) <= 45
