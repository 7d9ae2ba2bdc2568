"""The page of a run says what the run did, whatever its rows hold, and opens anywhere."""

import itertools
import json
import re
import shutil
from html import unescape
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
from huggingface_hub import ModelCard
from huggingface_hub.utils import filter_repo_objects
from transformers import BertConfig

from common.errors import InputError
from recipes import ner, nli, qa, text_classification
from recipes.tools import blocks, report
from recipes.tools.model_card import model_card
from recipes.tools.report import draw_report, published_figure
from tests.conftest import ENDINGS, SAMPLES, read_json, read_lines, run, write

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(1)> {{ 7*7 }} & \u202e\u0001 $x_1$"


def save_run(folder, rows, results, data=None, history=(), arguments=None, **files):
    """A folder as `finish_run` leaves it, without a model."""
    folder.mkdir(parents=True)
    given = {"model_name_or_path": "org/bert", "dataset_name": "org/data", "metric_for_best_model": "loss"}
    record = {
        "status": "finished",
        "command": "python -m recipes.some_task --seed 1",
        "arguments": given | (arguments or {}),
        "versions": {"torch": "2.13.0"},
        "device": "cpu",
        "precision": "fp32",
        "processes": 1,
        "started_at": "2026-01-02T03:04:05Z",
        "seconds": {"set-up": 1.0, "training": 2.0, "evaluation": 0.5, "total": 3.5},
        "useful_tokens_per_second": 1234.5,
        "results": results,
        "data": data or {},
    }
    write(folder / "predictions.jsonl", rows)
    files |= {"run": record} | ({"trainer_state": {"log_history": history}} if history else {})
    for name, content in files.items():
        write(folder / f"{name}.json", json.dumps(content))
    return folder


def curve(losses, validation=(), scores=()):
    """A history: training losses at steps 1, 2, ..., and evaluations spread over them."""
    rows = [{"step": i, "loss": loss, "learning_rate": 1e-4} for i, loss in enumerate(losses, 1)]
    every = len(losses) // max(1, len(validation))
    rows += [
        {"step": every * i, "eval_loss": loss, "eval_accuracy": score}
        for i, (loss, score) in enumerate(itertools.zip_longest(validation, scores, fillvalue=0.5), 1)
    ]
    return rows


def label_run(folder, rows=200, labels=("no", "yes"), text="text"):
    """Every fifth row is wrong, ever more confidently."""
    found = []
    for i in range(rows):
        gold, other = labels[i % len(labels)], labels[(i + 1) % len(labels)]
        row = {"text": f"{text} {i}", "label": gold, "predicted": gold if i % 5 else other}
        found.append(row | {"probability": 0.5 + 0.5 * i / rows})
    facts = {"rows": rows, "classes": dict.fromkeys(labels, rows // len(labels)), "windowed": 0}
    train = facts | {"lengths": {"0": rows - 2, "16": 2}, "cut": 2}
    trivial = {"answer": "Always no", "scores": {"accuracy": 0.5}}
    validation = facts | {"lengths": {"0": rows}, "cut": 0, "in_train": 7, "trivial": trivial}
    data = {"max_seq_length": 16, "labels": list(labels), "splits": {"train": train, "validation": validation}}
    history = curve([2, 1.5, 1, 0.7, 0.5, 0.4], [1.5, 1.0, 1.4], [0.6, 0.8, 0.79])
    return save_run(folder, found, {"eval_accuracy": 0.8, "eval_loss": 1.4}, data, history)


def score_run(folder, rows=200):
    gold = np.random.default_rng(0).uniform(0, 5, rows)
    found = [
        {"text": HOSTILE, "text_pair": f"b {i}", "label": f"{x:.2f}", "predicted": round(x * 0.9 + i % 3 / 10, 4)}
        for i, x in enumerate(gold)
    ]
    pearson = float(np.corrcoef([float(row["label"]) for row in found], [row["predicted"] for row in found])[0, 1])
    data = {"splits": {"train": {"rows": 9, "classes": {}}}}
    return save_run(folder, found, {"eval_pearson": pearson, "eval_loss": 0.1}, data)


def tag_run(folder, rows=60):
    words = ["Ada", "met", "Kurt", "Lang", "in", "Lyon", HOSTILE]
    gold = ["B-PER", "O", "B-PER", "I-PER", "O", "B-LOC", "O"]
    wrong = ["O", "B-PER", "B-PER", "O", "O", "B-ORG", "O"]  # missed, invented, wrong boundary, wrong type
    sure = {"probabilities": [0.9] * len(words)}
    found = [{"tokens": words, "ner_tags": gold, "predicted": wrong if i % 2 else gold} | sure for i in range(rows)]
    trivial = {"answer": "Looking up the names of train", "scores": {"f1": 0.25}}
    data = {"splits": {"test": {"rows": rows, "classes": {"PER": 2 * rows, "LOC": rows}, "trivial": trivial}}}
    return save_run(folder, found, {"test_f1": 0.5, "test_loss": 1.0}, data)


def answer_run(folder, rows=40, version_2=True):
    context = "The bridge was built in 1916. " + "It was long. " * 60 + f"{HOSTILE} In 1916 it fell."
    place = context.rindex("1916")
    right = {"text": "1916", "start": place, "end": place + 4}
    wrong = {"text": "bridge", "start": 4, "end": 10}
    found = []
    for i in range(rows):
        has_answer, given = not version_2 or i % 4 > 0, (right, wrong)[i % 2]
        row = {"id": str(i), "question": f"{('When', 'Who')[i % 2]} was it, {i}?", "context": context}
        row |= {"answers": ["1916"] * has_answer, "answer_starts": [place] * has_answer, "probability": 0.9}
        found.append(row | given | {"predicted": given["text"]})
    results = {"eval_exact_match": 50.0, "eval_f1": 50.0}
    return save_run(folder, found, results, arguments={"metric_for_best_model": "f1"})


RUNS = {"label": label_run, "score": score_run, "tag": tag_run, "answer": answer_run}


def drawn(folder):
    return draw_report(folder).read_text(encoding="utf-8")


def text_of(html):
    """What a reader sees, tags left out."""
    body = html[html.index("<body>") :]
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", body)).split())


@pytest.mark.parametrize("make", RUNS.values(), ids=RUNS)
def test_a_page_holds_all_it_needs_and_nothing_of_the_rows_as_markup(make, tmp_path):
    html = drawn(make(tmp_path / "run"))
    assert not re.search(r"<script|<img|onerror=(?!alert\(1\)&gt;)|<link(?! rel=\"icon\" href=\"data:,\")", html)
    assert not re.search(r"(?:src|href|url\()=?[\"']?(?:https?:)?//", html)
    ids = re.findall(r' id="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:url\(|href=")#([\w-]+)', html)) <= set(ids)
    assert make is label_run or "&lt;script&gt;alert(1)" in html


def test_labels(tmp_path):
    html = drawn(label_run(tmp_path / "run"))
    text = text_of(html)
    assert "accuracy 0.8000 95 % interval 0.7" in text and "trivial baseline 0.5000 Always no" in text
    matrix = re.search(r'class="matrix".*?</table>', html, re.S)[0]
    assert re.findall(r"<td[^>]*>(\d+)<", matrix) == ["80", "20", "20", "80"]
    # Rows 195 and 190 are the surest of the wrong ones.
    assert re.search(r"most confident of 40 mistakes\. gold yes, predicted no \(0\.99\) text 195 gold no", text)
    assert "Validation loss was lowest at step 4 (1) and is 1.4 at the end" in text
    assert "hardly moved" not in text and "train longer" not in text
    assert "2 rows are longer and are cut" in text and "1,234" in text


def test_of_many_classes_the_commonest_confusions(tmp_path):
    html = drawn(label_run(tmp_path / "run", labels=[f"<b>{i}</b>" for i in range(100)]))
    assert "The commonest confusions of 100 classes." in html and "<b>0</b>" not in html


def test_published_figures_are_for_their_own_rows_alone():
    def figure(split, metric, **arguments):
        return published_figure({"arguments": arguments}, split, metric)

    bert = "google-bert/bert-base-cased"
    assert figure("validation", "accuracy", task_name="sst2", model_name_or_path=bert)[0] == pytest.approx(0.9223)
    squad = dict(dataset_name="rajpurkar/squad", model_name_or_path="google-bert/bert-base-uncased")
    assert figure("validation", "f1", **squad)[0] == 88.52
    assert figure("validation", "f1", **squad, validation_file="mine.json") is None
    conll = dict(dataset_name="lhoestq/conll2003", model_name_or_path=bert)
    assert figure("validation", "f1", **conll)[0] == pytest.approx(0.964)
    assert figure("test", "f1", **conll)[0] == pytest.approx(0.924)
    assert figure("validation", "f1", **conll, max_eval_samples=100)[1].endswith("and not its first 100 rows")


def test_scores_tags_and_answers(tmp_path):
    assert "Residuals: mean" in text_of(drawn(score_run(tmp_path / "score")))
    text = text_of(drawn(tag_run(tmp_path / "tag")))
    assert "trivial baseline 0.2500 Looking up the names of train" in text
    for kind in ("missed", "invented", "wrong type", "wrong boundary"):
        assert f"{kind} 30" in text
    assert "gold Ada PER met Kurt Lang PER in Lyon LOC" in text
    assert "predicted Ada met PER Kurt PER Lang in Lyon ORG" in text
    folder = answer_run(tmp_path / "answer")
    html = drawn(folder)
    text = text_of(html)
    # 20 questions "When", of which 10 have no answer but were given one; none of "Who" is right.
    assert re.search(r"question word EM F1 rows (when 50\.0 50\.0 20 who 0\.0 0\.0 20|who 0\.0 0\.0 20 when)", text)
    # The one at answer_start, not the first.
    assert 0 < html.count('<mark class="gold">1916</mark>') <= blocks.SHOWN and '<mark class="found">bridge' in html
    drawn(answer_run(tmp_path / "v1", version_2=False))


def test_calibration_of_a_model_that_knows_its_chances():
    confidence = np.repeat([0.55, 0.75, 0.95], [200, 400, 200])
    right = np.concatenate([np.arange(n) < round(n * c) for n, c in ((200, 0.55), (400, 0.75), (200, 0.95))])
    error, bins = blocks.calibration(confidence, right)
    assert error == pytest.approx(0, abs=1e-6) and [n for _, _, n in bins] == [200, 400, 200]
    assert blocks.calibration(np.array([1.0, 1.0]), np.array([True, False]))[0] == 0.5


def test_what_the_curves_say():
    assert "hardly moved" in blocks.advice(curve([0.7, 0.69, 0.7, 0.7]), None)[0]
    assert "by heart" in blocks.advice(curve([2, 1, 0.5, 0.2], [1.0, 1.3]), None)[0]
    assert "train longer" in blocks.advice(curve([2, 1, 0.5, 0.2], [1, 0.9], [0.6, 0.7]), "test_accuracy")[0]
    assert blocks.advice(curve([2, 1, 0.5, 0.2], [1, 0.9], [0.7, 0.7]), "test_accuracy") == []
    assert blocks.advice(curve([float("nan")] * 9), "eval_accuracy") == []


@pytest.mark.slow
def test_ten_thousand_rows_stay_small(tmp_path):
    sizes = {"label": dict(text="long " * 200), "score": {}, "tag": {}, "answer": {}}
    for name, options in sizes.items():
        size = len(drawn(RUNS[name](tmp_path / name, rows=10_000, **options)))
        assert size < 1_000_000, (name, size)


def test_what_is_no_finished_run_is_told_in_a_line(tmp_path, with_report):
    with pytest.raises(InputError, match="holds no run"):
        report.main([str(tmp_path)])
    folder = label_run(tmp_path / "runs" / "a")
    (folder / "run.json").write_text((folder / "run.json").read_text().replace("finished", "running"))
    with pytest.raises(InputError, match="is not finished"):
        report.main([str(folder)])
    with pytest.raises(InputError, match="holds no finished run"):
        report.main(["--index", str(tmp_path)])


def test_the_table_of_all_runs(tmp_path, capsys, with_report):
    for name in ("b 1", "glue/<x>"):
        label_run(tmp_path / name)
    tag_run(tmp_path / "unfinished")
    (tmp_path / "unfinished" / "run.json").write_text('{"status": "running"}')
    report.main(["--index", str(tmp_path)])
    html = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert 'href="b%201/report.html"' in html and 'href="glue/%3Cx%3E/report.html"' in html
    assert (tmp_path / "b 1" / "report.html").exists() and html.count("<polyline") == 2
    assert "unfinished" not in html and "is not finished" in capsys.readouterr().out


@pytest.fixture
def with_report(monkeypatch):
    monkeypatch.setattr(report, "draw_report", draw_report)


@pytest.fixture
def label_flags(tiny_bert, tmp_path):
    """Of a run of an epoch; 4 rows of validation stand in train, and those of test have no labels."""
    rows = [f"{'good' if i % 2 else 'bad'} number {i},{'yes' if i % 2 else 'no'}\n" for i in range(24)]
    lines = {"train": rows[:16], "validation": rows[12:], "test": [row.split(",")[0] + ",-\n" for row in rows[:6]]}
    flags = f"--model_name_or_path {tiny_bert} --num_train_epochs 1 --save_strategy no"
    for split, of in lines.items():
        flags += f" --{split}_file " + write(tmp_path / f"{split}.csv", "".join(["text,label\n", *of]))
    return flags


def page_of(folder):
    return text_of((folder / "report.html").read_text(encoding="utf-8"))


def test_a_run_draws_its_page_and_keeps_what_it_needs(ner_flags, tmp_path, with_report):
    folder = tmp_path / "run"
    ner.main(ner_flags)
    text = page_of(folder)
    assert "Answers on test" in text and "Looking up the names of train" in text and "Learning rate" in text
    assert len(read_lines(folder / "validation_predictions.jsonl")) == 21
    assert len(read_lines(folder / "predictions.jsonl")) == 15
    data = read_json(folder / "run.json")["data"]
    train = data["splits"]["train"]
    assert data["max_seq_length"] == 32 and 0 <= data["splits"]["test"]["trivial"]["scores"]["f1"] < 1
    assert train["rows"] == 64 and sum(train["lengths"].values()) == train["windows"] > 64 and train["windowed"] >= 1


def test_without_gold_answers_on_test_the_page_is_about_validation(label_flags, tmp_path, with_report):
    folder = tmp_path / "run"
    run(text_classification, label_flags, output_dir=folder)
    assert len(read_lines(folder / "predictions.jsonl")) == 6
    text = page_of(folder)
    assert "Answers on validation" in text and "trivial baseline 0.5000" in text
    data = read_json(folder / "run.json")["data"]
    assert data["labels"] == ["no", "yes"] and data["splits"]["validation"]["in_train"] == 4
    # Predicted alone.
    flags = f"--do_train false --model_name_or_path {folder} --test_file {tmp_path}/test.csv"
    run(text_classification, flags, output_dir=tmp_path / "again")
    text = page_of(tmp_path / "again")
    assert "No split with gold answers" in text and "trained nothing" in text


def test_a_page_that_cannot_be_drawn_costs_a_line_and_not_the_run(ner_flags, tmp_path, monkeypatch, capsys):
    def fail(folder):
        raise ZeroDivisionError("of all things")

    monkeypatch.setattr(report, "draw_report", fail)
    results = ner.main(ner_flags)
    assert "no report (ZeroDivisionError: of all things)" in capsys.readouterr().out
    assert read_json(tmp_path / "run" / "run.json")["results"] == results
    assert not (tmp_path / "run" / ".lock").exists()


# The model card


def card_of(architecture, results, **arguments):
    given = {"model_name_or_path": "google-bert/bert-base-cased", "dataset_name": "rajpurkar/squad"}
    record = {"arguments": given | arguments, "command": "python -m recipes.qa", "results": results}
    card = ModelCard(model_card("me/mine", record, BertConfig(architectures=[architecture]).to_dict()))
    scores = [(e.metric_type, e.metric_value, e.dataset_name, e.dataset_type) for e in card.data.eval_results]
    return card.data, scores


def test_the_card_has_the_metadata_that_the_hub_reads():
    data, scores = card_of("BertForQuestionAnswering", {"eval_f1": 88.5, "eval_exact_match": 80.25, "eval_loss": 1.0})
    assert (data.pipeline_tag, data.library_name) == ("question-answering", "transformers")
    assert (data.base_model, data.datasets) == ("google-bert/bert-base-cased", ["rajpurkar/squad"])
    assert data.metrics == ["f1", "exact_match"] and data.license is None
    assert scores == [(*score, *data.datasets * 2) for score in (("f1", 88.5), ("exact_match", 80.25))]


def test_own_files_and_a_local_model_are_not_taken_for_names_of_the_hub(tmp_path):
    files = dict(model_name_or_path=str(tmp_path), train_file="a/t.conll", test_file="a/x.conll")
    results = {"eval_f1": 0.5, "eval_PER_f1": 0.1, "test_f1": 0.6}
    data, scores = card_of("BertForTokenClassification", results, **files)
    assert data.base_model is None and data.datasets is None
    assert scores == [("f1", 0.5, "t.conll", "conll"), ("f1", 0.6, "x.conll", "conll")]


@pytest.mark.parametrize("recipe", [text_classification, nli, ner, qa], ids=lambda recipe: recipe.__name__)
def test_the_code_of_a_card_runs(recipe, tiny_bert, tmp_path, capsys):
    name = recipe.__name__.split(".")[1]
    train, validation = (SAMPLES / name / f"{split}.{ENDINGS[name]}" for split in ("train", "validation"))
    flags = f"--model_name_or_path {tiny_bert} --max_train_samples 8 --max_eval_samples 8 --num_train_epochs 1 "
    flags += f"--train_file {train} --validation_file {validation} --save_strategy no"
    run(recipe, flags, output_dir=tmp_path / "run")
    (code,) = re.findall(r"```python\n(.*?)```", (tmp_path / "run" / "README.md").read_text(), re.S)
    exec(code, {})


def test_what_is_pushed_is_the_finished_folder_without_texts_of_the_data(label_flags, tmp_path, monkeypatch):
    hub, pushed = Mock(), set()
    hub.create_repo.return_value = SimpleNamespace(repo_id="me/mine")

    def upload_folder(folder_path, ignore_patterns, **kwargs):
        paths = [str(path.relative_to(folder_path)) for path in folder_path.rglob("*") if path.is_file()]
        pushed.update(filter_repo_objects(paths, ignore_patterns=ignore_patterns))

    hub.upload_folder.side_effect = upload_folder
    monkeypatch.setattr("transformers.trainer.hf_api", lambda **kwargs: hub)
    monkeypatch.setattr("huggingface_hub.HfApi", lambda **kwargs: hub)
    run(text_classification, label_flags, output_dir=tmp_path / "mine", push_to_hub="true")
    assert hub.upload_folder.call_args.kwargs["repo_id"] == "me/mine"
    assert 'model="me/mine"' in (tmp_path / "mine" / "README.md").read_text()
    assert {"model.safetensors", "config.json", "README.md", "run.json", "all_results.json"} <= pushed
    assert not [name for name in pushed if "predictions" in name or name.endswith((".html", ".bin", ".lock"))]


# In a browser


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_in_chromium_nothing_is_fetched_complained_of_or_wider_than_the_window(width, scheme, tmp_path):
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    browser = next(filter(None, map(shutil.which, names)), None)
    if browser is None:
        pytest.skip("no Chromium on this machine")
    for name, make in RUNS.items():
        draw_report(make(tmp_path / name))
    draw_report(label_run(tmp_path / "many", labels=[f"{HOSTILE} {i}" for i in range(15)], text="x" * 900))
    index = report.write_index(tmp_path)
    with playwright.sync_playwright() as driver:
        page = driver.chromium.launch(executable_path=browser, args=["--no-sandbox"]).new_page(
            viewport={"width": width, "height": 800}, color_scheme=scheme
        )
        told, asked = [], []
        page.on("console", lambda message: told.append(message.text))
        page.on("pageerror", lambda error: told.append(str(error)))
        page.on("dialog", lambda dialog: (told.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: asked.append(request.url))
        for path in [*tmp_path.glob("*/report.html"), index]:
            asked.clear()
            page.goto(path.as_uri())
            assert asked == [path.as_uri()] and told == []
            assert page.evaluate("document.documentElement.scrollWidth") <= width, path
            background = page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert (sum(map(int, re.findall(r"\d+", background)[:3])) < 200) == (scheme == "dark")
        scores = "[...document.querySelectorAll('tbody tr')].map(row => +row.cells[1].dataset.v)"
        for direction in (-1, 1):
            page.click("th >> text=score")
            found = page.evaluate(scores)
            assert found == sorted(found, reverse=direction < 0) and len(found) == 5
