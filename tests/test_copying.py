"""Recipes are to be copied: by `make` under another name, by the patches of recipes/README.md for other tasks."""

import copy
import importlib.util
import json
import os
import re
import shutil
import sys

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Value
from scipy.special import expit, logit
from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding

from common import data
from common.arguments import build_parser
from common.errors import InputError
from common.packing import pack
from common.training import RecipeTrainer
from recipes import predict, text_classification
from recipes.tools import report
from tests import conftest
from tests.conftest import ROOT, process, read_json, read_lines, save_tiny_bert, write, write_sentences
from tests.test_training import build

README = (ROOT / "recipes" / "README.md").read_text(encoding="utf-8")
EXAMPLES = {
    copy: (original, (ROOT / "recipes" / "patches" / f"{copy}.patch").read_text(encoding="utf-8"))
    for original, copy in re.findall(r"^cp (recipes/\w+\.py) recipes/(\w+)\.py && patch", README, re.MULTILINE)
}


def test_a_copy_is_a_target_of_make_at_once_and_an_edited_one_another_run(tiny_bert, small_files, tmp_path):
    for path in ("Makefile", "requirements.txt"):
        shutil.copy(ROOT / path, tmp_path)
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    os.symlink(ROOT / "common", tmp_path / "common")
    # An environment that make takes for ready: this interpreter.
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    write(tmp_path / ".venv" / "bin" / "python", f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (tmp_path / ".venv" / "bin" / "python").chmod(0o755)
    (tmp_path / ".venv" / ".ready").touch()

    copied, trained = re.search(r"^cp recipes/ner.py .*\nmake train-my-task", README, re.M).group().splitlines()
    assert process(*copied.split(), cwd=tmp_path).returncode == 0
    flags = f"--train_file {small_files['train']} --model_name_or_path {tiny_bert} --max_steps 2 --bf16 false"

    def train():
        return process(*trained.split(), f"ARGS={flags}", cwd=tmp_path)

    done = train()
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs" / "my_task" / "all_results.json").exists()
    assert "python -m recipes.my_task" in (tmp_path / "runs" / "my_task" / "README.md").read_text()
    assert "this run is finished" in train().stdout
    recipe = tmp_path / "recipes" / "my_task.py"
    recipe.write_text(recipe.read_text().replace("weight_decay=0.01", "weight_decay=0.02"))
    edited = train()
    assert edited.returncode == 2 and "holds another run (recipe: " in edited.stderr


@pytest.mark.parametrize("wide", [False, True])
def test_a_copied_recipe_may_have_an_ordinary_loss(wide, tmp_path, tiny_bert_without_dropout):
    """A plain mean, in a step of four parts; and 28 labels a row in a batch of 28 positions."""
    lengths, labels = [28, 3, 25, 4, 5, 28, 3, 6], 28 if wide else 2
    generator = torch.Generator().manual_seed(0)
    ids = [torch.randint(5, 60, (length,), generator=generator).tolist() for length in lengths]
    gold = torch.rand(8, 28, generator=generator).round() if wide else torch.arange(8) % 2
    mean_loss = torch.nn.functional.binary_cross_entropy_with_logits if wide else torch.nn.functional.cross_entropy
    stock = AutoModelForSequenceClassification.from_pretrained(tiny_bert_without_dropout, num_labels=labels).train()
    model = copy.deepcopy(stock)
    assert pack(model)
    collator = DataCollatorWithPadding(AutoTokenizer.from_pretrained(tiny_bert_without_dropout))
    options = {"data_collator": collator}
    options["compute_loss_func"] = lambda outputs, labels: mean_loss(outputs["logits"], labels)
    flags = dict(per_device_train_batch_size=2, gradient_accumulation_steps=4, max_steps=1, logging_steps=1)
    rows = Dataset.from_dict({"input_ids": ids, "attention_mask": [[1] * n for n in lengths], "labels": gold.tolist()})
    trainer = build(RecipeTrainer, tmp_path, model, rows, options, **flags, max_grad_norm=1e9)
    trainer.train()
    logged = trainer.state.log_history[0]

    loss = mean_loss(stock(**collator([{"input_ids": i, "attention_mask": [1] * len(i)} for i in ids])).logits, gold)
    loss.backward()
    norm = torch.nn.utils.get_total_norm([parameter.grad for parameter in stock.parameters()])
    assert logged["loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert logged["grad_norm"] == pytest.approx(norm.item(), rel=1e-3)


def load(path):
    """The module in a file."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses and --help look for it there
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def patched(tmp_path):
    """A function that copies a recipe, applies the example's patch, and returns the module."""

    def build(name):
        original, patch = EXAMPLES[name]
        path = tmp_path / "recipes" / f"{name}.py"
        path.parent.mkdir()
        shutil.copy(ROOT / original, path)
        applied = process("git", "apply", "-", input=patch, cwd=tmp_path)
        assert applied.returncode == 0, applied.stderr
        return load(path)

    return build


def test_the_examples_are_all_here_and_leave_clean_files(patched, tmp_path):
    assert list(EXAMPLES) == ["part_of_speech", "distillation", "long_documents", "own_head"]
    for name in EXAMPLES:
        module = patched(name)
        (command,) = re.findall(rf"^python -m recipes\.{name} (.+)", README, re.M)
        parser = build_parser(module.Arguments, module.DEFAULTS, name)
        parser.parse_args_into_dataclasses(command.split(), look_for_args_file=False)
        (tmp_path / "recipes").rename(tmp_path / name)
    options = ["--isolated", "--select", "E,F,B", "--line-length", "120"]
    done = process("-m", "ruff", "check", *options, *tmp_path.glob("*/*.py"))
    assert done.returncode == 0, done.stdout


def run(module, *flags, **values):
    fixed = "--per_device_train_batch_size 8 --learning_rate 3e-3 --eval_strategy no"
    return conftest.run(module, fixed, *flags, **values)


def predictions(folder):
    return read_lines(folder / "predictions.jsonl")


# Parts of speech

WORDS = {
    "DT": ["the", "a", "this"],
    "JJ": ["old", "red", "quiet"],
    "NN": ["garden", "boat", "letter", "light"],
    "VBZ": ["needs", "sees", "moves"],
}


def parsed_sentences(count, seed):
    """Sentences whose word "light" is an adjective before a noun; with a tag that holds dashes."""
    generator = np.random.default_rng(seed)
    sentences = []
    for _ in range(count):
        tags = ["DT", "JJ", "NN", "VBZ", "DT", "NN", "-LRB-", "NN"]
        words = [str(generator.choice(WORDS.get(tag, ["("]))) for tag in tags]
        if generator.random() < 0.5:
            words[1] = "light"
        sentences.append((words, tags))
    return sentences


def test_parts_of_speech(patched, tmp_path, capsys):
    module = patched("part_of_speech")
    train, held_out = parsed_sentences(120, 0), parsed_sentences(30, 1)
    model = save_tiny_bert(tmp_path / "model", [" ".join(words) for words, _ in train], dropout=0.0)
    files = [write_sentences(tmp_path / f"{n}.conll", s) for n, s in (("train", train), ("dev", held_out))]
    folder = tmp_path / "run"
    flags = f"--train_file {files[0]} --model_name_or_path {model} --num_train_epochs 6"
    results = run(module, flags, validation_file=files[1], output_dir=folder)
    assert set(results) == {"eval_accuracy", "eval_loss"}
    assert results["eval_accuracy"] > 0.95
    rows = predictions(folder)
    assert [row["ner_tags"] for row in rows] == [tags for _, tags in held_out]
    right = [a == b for row in rows for a, b in zip(row["ner_tags"], row["predicted"], strict=True)]
    assert results["eval_accuracy"] == pytest.approx(sum(right) / len(right))
    assert list(read_json(folder / "config.json")["label2id"]) == ["-LRB-", "DT", "JJ", "NN", "VBZ"]

    capsys.readouterr()
    answers = predict.main(["--model", str(folder), "--file", files[1]])
    assert [answer["tags"] for answer in answers] == [row["predicted"] for row in rows]
    assert f"accuracy {results['eval_accuracy']:.4f}" in capsys.readouterr().out

    # The report shows classes of words, not entities.
    answers = next(blocks for title, blocks in report.page(folder)["sections"] if title.startswith("Answers"))
    assert [block["caption"].split()[0] for block in answers] == ["Confusions:", "Classes,"]


# Long documents


def reports(count, seed):
    """Rows of a CSV file: texts of 60 words, of which the last 30 say what the label is."""
    generator = np.random.default_rng(seed)
    rows = []
    for i in range(count):
        words = generator.choice(["the", "bridge", "was", "seen", "in", "may"], 60)
        words[30::6] = ("sound", "cracked")[i % 2]
        rows.append(f"{' '.join(words)},{('good', 'bad')[i % 2]}")
    return "\n".join(["text,label", *rows]) + "\n"


def test_distillation(patched, tmp_path):
    """Of a file whose labels are mostly noise the student learns what the teacher knows."""
    module = patched("distillation")
    words = {"early": ["soon", "quick", "fast"], "late": ["never", "slow", "weeks"]}

    def orders(count, seed, noise):
        generator = np.random.default_rng(seed)
        rows = []
        for _ in range(count):
            label = ("early", "late")[generator.integers(2)]
            text = f"order {generator.choice(words[label])} {generator.choice(['here', 'there'])}"
            other = "late" if label == "early" else "early"
            rows.append({"text": text, "label": other if generator.random() < noise else label})
        return rows

    files = {
        name: write(tmp_path / f"{name}.jsonl", orders(*of))
        for name, of in {"right": (100, 0, 0.0), "noisy": (100, 1, 0.5), "held": (40, 2, 0.0)}.items()
    }
    model = save_tiny_bert(tmp_path / "model", ["order here there", *map(" ".join, words.values())], dropout=0.0)
    flags = f"--model_name_or_path {model} --validation_file {files['held']} --num_train_epochs 25 --learning_rate 3e-3"
    teacher = run(text_classification, flags, train_file=files["right"], output_dir=tmp_path / "teacher")
    alone = run(text_classification, flags, train_file=files["noisy"], output_dir=tmp_path / "alone")
    taught = [flags, f"--teacher {tmp_path / 'teacher'}"]
    student = run(module, *taught, train_file=files["noisy"], output_dir=tmp_path / "student")
    assert teacher["eval_accuracy"] == 1 and alone["eval_accuracy"] < 0.85 and student["eval_accuracy"] > 0.95


def test_long_documents(patched, tmp_path):
    module = patched("long_documents")
    train, held_out = (write(tmp_path / f"{n}.csv", reports(n, i)) for i, n in enumerate((80, 30)))
    model = save_tiny_bert(tmp_path / "model", ["the bridge was seen in may sound cracked"], dropout=0.0)
    folder = tmp_path / "run"
    flags = f"--train_file {train} --model_name_or_path {model} --validation_file {held_out} --max_seq_length 24"
    flags += " --num_train_epochs 4"
    results = run(module, flags, doc_stride=6, output_dir=folder)
    assert results["eval_accuracy"] > 0.9
    cut = run(text_classification, flags, output_dir=tmp_path / "cut")
    assert cut["eval_accuracy"] < 0.75  # what the label hangs on is cut off

    rows = predictions(folder)
    answers = predict.main(["--model", str(folder), "--file", held_out])
    assert [(a["predicted"], a["probability"]) for a in answers] == [
        (row["predicted"], pytest.approx(row["probability"], abs=1e-3)) for row in rows
    ]

    # By hand: the mean of the logits of windows of 22 words that share 6.
    tokenizer = AutoTokenizer.from_pretrained(folder)
    trained = AutoModelForSequenceClassification.from_pretrained(folder)
    words = rows[0]["text"].split()
    windows = [" ".join(words[start : start + 22]) for start in (0, 16, 32, 48)]
    with torch.no_grad():
        logits = trained(**tokenizer(windows, return_tensors="pt", padding=True)).logits.mean(0)
    logits /= trained.config.recipe["temperature"]
    assert logits.softmax(-1).max().item() == pytest.approx(rows[0]["probability"], abs=1e-3)


# What a copier changes, all at once


@pytest.fixture
def mine(patched, tmp_path, monkeypatch):
    """`recipes.own_head`, where `predict` finds it."""
    import recipes

    module = patched("own_head")
    monkeypatch.setattr(recipes, "__path__", [*recipes.__path__, str(tmp_path / "recipes")])
    monkeypatch.setitem(sys.modules, "recipes.own_head", module)
    return module


def titled(count, seed):
    """A row is good if its title is kind and its text is not unkind: neither tells alone."""
    generator = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        title, text = generator.random(2) < 0.6
        words = " ".join(generator.choice(["the", "order", "was"], 3))
        label = ("bad", "good")[int(title and text)]
        rows.append(f"{('awful', 'kind')[int(title)]} {words},{words} {('late', 'fine')[int(text)]},{label}")
    return "\n".join(["title,body,label", *rows]) + "\n"


def test_a_copy_with_two_texts_and_a_head_a_loss_and_a_metric_of_its_own(mine, tmp_path, capsys, monkeypatch):
    train, held_out = (write(tmp_path / f"{n}.csv", titled(n, i)) for i, n in enumerate((160, 60)))
    folder = tmp_path / "my run"
    model = save_tiny_bert(tmp_path / "model", ["awful kind the order was late fine"], dropout=0.0)
    flags = f"--train_file {train} --validation_file {held_out} --model_name_or_path {model} --text_columns title body"
    flags += " --num_train_epochs 6"
    unsaved = dict(output_dir=folder, save_strategy="no", label_smoothing_factor=0.1)
    # A fault while it is scored: the model is there, and the repeated command scores it without training again.
    with monkeypatch.context() as patch:
        patch.setattr("common.texts.show_labels", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(mine, flags, **unsaved)
    assert "--label_smoothing_factor 0.1 has no effect: the loss of this recipe" in capsys.readouterr().out
    assert (folder / "model.safetensors").exists()
    with monkeypatch.context() as patch:
        patch.setattr(RecipeTrainer, "train", lambda *args, **kwargs: 1 / 0)
        results = run(mine, flags, **unsaved)
        assert "it is scored again" in capsys.readouterr().out
        assert run(mine, flags, **unsaved) == results  # finished
    assert set(results) == {f"eval_{name}" for name in ("balanced_accuracy", "accuracy", "macro_f1", "loss")}
    assert results["eval_accuracy"] > 0.9
    record = read_json(folder / "run.json")
    assert record["results"] == results and record["seconds"]["training"] > 0

    # The loss of validation is the recipe's own, of logits before the temperature.
    rows = predictions(folder)
    temperature = read_json(folder / "config.json")["recipe"]["temperature"]
    right = np.array([r["probability"] if r["label"] == r["predicted"] else 1 - r["probability"] for r in rows])
    right = expit(temperature * logit(right.clip(1e-4, 1 - 1e-4)))
    assert results["eval_loss"] == pytest.approx(np.mean(-((1 - right) ** 2) * np.log(right)), rel=0.02)

    # predict reads both columns and refuses to do with one.
    answers = predict.main(["--model", str(folder), "--file", held_out])
    assert [a["predicted"] for a in answers] == [row["predicted"] for row in rows]
    assert f"accuracy {results['eval_accuracy']:.4f}" in capsys.readouterr().out
    with pytest.raises(InputError, match="columns"):
        predict.main(["--model", str(folder), "--file", write(tmp_path / "one.csv", "title,label\nkind order,good\n")])

    # Evaluated again, from another folder; drawn.
    again = ["--do_train", "false", "--model_name_or_path", folder, "--output_dir", tmp_path / "again"]
    assert run(mine, flags, again) == pytest.approx(results, rel=1e-4)
    name, value, *_ = report.page(folder)["tiles"][0]
    assert (name, float(value)) == ("balanced accuracy", pytest.approx(results["eval_balanced_accuracy"], abs=1e-4))
    card = (folder / "README.md").read_text()
    assert "name: balanced_accuracy" in card and "python -m recipes.own_head" in card and "text_pair" in card

    # A class that nobody here defines, and a head that is not in the file.
    config = read_json(folder / "config.json")
    for name, message in (("Unknown", "its class Unknown is not"), ("BertForSequenceClassification", "weights lack")):
        write(folder / "config.json", json.dumps(config | {"architectures": [name]}))
        with pytest.raises(InputError, match=message):
            predict.main(["--model", str(folder), "--file", held_out])


def test_help_of_a_copy_names_the_copy(mine, capsys):
    with pytest.raises(SystemExit):
        mine.main(["--help"])
    shown = capsys.readouterr().out
    assert "python -m recipes.own_head" in shown and "text_classification" not in shown.replace(
        "text-classification", ""
    )
    assert shown.count("--max_steps") == 1 and "--max-steps" not in shown and "(default: None)" not in shown
    assert "--hub_model_id" not in shown
    with pytest.raises(SystemExit):
        mine.main(["--help-all"])
    shown = capsys.readouterr().out
    assert "--hub_model_id" in shown and not re.search("--no_(?!header)", shown)


def test_an_edit_of_a_copy_is_never_answered_with_the_features_of_before(tmp_path, tiny_bert):
    """Neither of the function that reads rows nor of the one that tokenizes, where these stand in the copy."""
    tokenizer, read = AutoTokenizer.from_pretrained(tiny_bert), []
    source = conftest.source_of(write(tmp_path / "a.csv", "text\nfine\n"))
    for row, more in (("one", "+"), ("three", "+"), ("three", "++")):
        code = f"def rows(source):\n    yield {{'text': '{row}'}}\n\n\ndef inputs(batch, indices, tokenizer):\n"
        write(tmp_path / "edited.py", code + f"    return {{'read': [text + '{more}' for text in batch['text']]}}\n")
        module = load(tmp_path / "edited.py")
        dataset = data.build_dataset(source, module.rows, Features(text=Value("string")))
        read += data.map_cached(dataset, module.inputs, tokenizer, "")["read"][:]
    assert read == ["one+", "three+", "three++"]
