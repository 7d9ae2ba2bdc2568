"""Question answering: files, windows, the choice of answers, scores, and the recipe from end to end on tiny models."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from common.metrics import answer_scores, best_threshold, question_scores, score
from common.questions import choose_answers, tokenize_questions
from common.training import load_tokenizer, span_loss
from recipes import predict, qa
from tests.conftest import process, read_json, read_lines, run, save_tiny_bert, write

NAMES = ["ada", "kurt", "mia", "noor", "ivan", "lea", "omar", "tess"]
PLACES = ["lyon", "oslo", "turin", "ghent", "cork", "minsk", "porto", "bergen"]
CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789?.,;é中文"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    words = " ".join([*NAMES, *PLACES, "who where lives works in met saw went to", " ".join(CHARACTERS)])
    return save_tiny_bert(tmp_path_factory.mktemp("tiny-qa"), [words], dropout=0.0)


@pytest.fixture(scope="module")
def tokenizer(tiny):
    return load_tokenizer(tiny)


def article(count, seed, unanswerable=False):
    """SQuAD's nested form: one question a paragraph, "who" asks for a name and "where" for a place."""
    generator = np.random.default_rng(seed)
    paragraphs = []
    for i in range(count):
        name, place = generator.choice(NAMES), generator.choice(PLACES)
        context = f"{generator.choice(['a', 'b', 'c'])} {name} lives in {place}."
        kind, answer = (("who", name), ("where", place))[i % 2]
        question = {"id": f"{seed}-{i}", "question": f"{kind} lives?", "answers": []}
        if unanswerable and i % 3 == 0:
            question |= {"question": "what?", "is_impossible": True}
        else:
            question["answers"] = [{"text": answer, "answer_start": context.index(answer, 1)}]
        paragraphs.append({"context": context, "qas": [question]})
    return {"version": "1.1", "data": [{"title": "t", "paragraphs": paragraphs}]}


# Windows


TEXT = st.text(st.sampled_from(CHARACTERS + " \t\n\u00a0\u0301🙂"), min_size=1, max_size=120)


@settings(max_examples=150)
@given(context=TEXT, data=st.data())
def test_an_answer_is_in_exactly_the_windows_that_hold_it_and_comes_back_as_text(tokenizer, context, data):
    start = data.draw(st.integers(0, len(context) - 1))
    end = data.draw(st.integers(start + 1, min(len(context), start + 20)))
    text = context[start:end]
    batch = {"question": ["who?"], "context": [context], "answers": [[text]], "answer_starts": [[start]]}
    features = tokenize_questions(batch, [7], tokenizer, max_length=20, stride=5, labelled=True)
    assert set(features["row"]) == {7} and max(features["length"]) <= 20
    whole = tokenizer(context, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    inside = [span for span in whole if span[0] < end and span[1] > start]
    for first, last, (a, b) in zip(features["starts"], features["ends"], features["labels"], strict=True):
        shown = [span for span in zip(first, last, strict=True) if span[0] >= 0]
        assert all(span in whole for span in shown)
        holds = bool(inside) and inside[0] in shown and inside[-1] in shown
        assert (b > 0) == holds
        if holds:  # as many characters as the pieces of the answer cover
            assert (first[a], last[b]) == (inside[0][0], inside[-1][1])
            assert text.strip(" \t\n\u00a0\u0301🙂").casefold() in context[first[a] : last[b]].casefold()
    covered = {
        span for f, e in zip(features["starts"], features["ends"], strict=True) for span in zip(f, e, strict=True)
    }
    assert set(whole) <= covered  # nothing of the context is lost


def test_a_long_question_is_cut_and_counted_and_the_context_is_not(tokenizer):
    batch = {"question": ["a " * 40, "who?"], "context": ["b " * 30, "c"]}
    features = tokenize_questions(batch, [0, 1], tokenizer, max_length=24, stride=6)
    assert features["question_cut"] == [True] * features["row"].count(0) + [False]
    assert sum(start >= 0 for start in features["starts"][0]) >= 6
    shown = {s for row, starts in zip(features["row"], features["starts"], strict=True) if row == 0 for s in starts}
    assert {2 * i for i in range(30)} <= shown
    with pytest.raises(InputError, match="no room for a question"):
        tokenize_questions(batch, [0, 1], tokenizer, max_length=8, stride=5)


def test_an_answer_that_cannot_be_placed_is_not_trained_as_no_answer(tokenizer):
    batch = {"question": ["when?"] * 2, "context": ["a b a"] * 2, "answers": [["a"], []], "answer_starts": [[-1], []]}
    labels = tokenize_questions(batch, [0, 1], tokenizer, max_length=24, stride=6, labelled=True)["labels"]
    assert labels == [[-100, -100], [0, 0]]


# The choice of answers


def double_loop(start_logits, end_logits, features, contexts, n_best_size, max_answer_length):
    """The rule spelt out, one span after the other."""
    found = [{} for _ in contexts]
    nulls = [float("inf")] * len(contexts)
    for window, question in enumerate(features["row"]):
        starts, ends = features["starts"][window], features["ends"][window]
        first, last = start_logits[window].tolist(), end_logits[window].tolist()
        nulls[question] = min(nulls[question], first[0] + last[0])
        spans = found[question]
        for i in range(len(starts)):
            for j in range(i, min(len(starts), i + max_answer_length)):
                if starts[i] >= 0 and starts[j] >= 0:
                    span = (starts[i], ends[j])
                    spans[span] = max(first[i] + last[j], spans.get(span, -math.inf))
    answers = []
    for spans, null, context in zip(found, nulls, contexts, strict=True):
        ranked = sorted(spans.items(), key=lambda item: -item[1])[:n_best_size]
        n_best = [{"text": context[a:b], "start": a, "end": b, "score": s} for (a, b), s in ranked]
        answers.append({"n_best": n_best, "null_score": null})
    return answers


def byte_level(trim_offsets):
    """A tokenizer of RoBERTa's kind: a piece per byte, a blank among them, several for an emoji."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocab = {token: i for i, token in enumerate(["<s>", "<pad>", "</s>", *pre_tokenizers.ByteLevel.alphabet()])}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=trim_offsets)
    names = dict(cls_token="<s>", sep_token="</s>", pad_token="<pad>", bos_token="<s>", eos_token="</s>")
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=64, **names)


@pytest.mark.parametrize("trim_offsets", [True, False])
def test_byte_level_pieces_give_whole_characters_and_no_blanks(trim_offsets):
    tokenizer = byte_level(trim_offsets)
    context = "in  Lyon 🙂 and 中"
    answers = {"answers": [["🙂"]], "answer_starts": [[9]]}
    batch = {"question": ["q"], "context": [context], **answers}
    features = tokenize_questions(batch, [0], tokenizer, max_length=60, stride=5, labelled=True)
    spans = set(zip(features["starts"][0], features["ends"][0], strict=True)) - {(-1, -1)}
    assert spans == {(i, i + 1) for i, c in enumerate(context) if c != " "}
    first, last = features["labels"][0]
    assert (features["starts"][0][first], features["ends"][0][last]) == (9, 10)
    length = len(features["starts"][0])
    ours = choose_answers(*np.random.default_rng(1).normal(size=(2, 1, length)), features, [context])
    texts = [span["text"] for span in ours[0]["n_best"]]
    assert len(texts) == 20 and all(text == text.strip() and text for text in texts)


@pytest.mark.parametrize("kind", ["word pieces", "bytes"])
@pytest.mark.parametrize(("n_best_size", "max_answer_length"), [(20, 30), (3, 4), (1, 1)])
def test_answers_are_those_of_a_double_loop(tokenizer, n_best_size, max_answer_length, kind):
    tokenizer = tokenizer if kind == "word pieces" else byte_level(True)
    generator = np.random.default_rng(0)
    contexts = [" ".join(generator.choice(NAMES + PLACES, n)) for n in (1, 5, 40, 120, 33)] + ["", "ada"]
    batch = {"question": ["who?"] * 7, "context": contexts}
    features = tokenize_questions(batch, range(7), tokenizer, max_length=32, stride=8)
    order = generator.permutation(len(features["row"]))  # evaluation sets are sorted by length
    features = {name: [values[i] for i in order] for name, values in features.items()}
    logits = generator.normal(size=(2, len(order), 40)).astype(np.float32)
    ours = choose_answers(*logits, features, contexts, n_best_size, max_answer_length)
    theirs = double_loop(*logits, features, contexts, n_best_size, max_answer_length)
    for answer, other in zip(ours, theirs, strict=True):
        assert [span["text"] for span in answer["n_best"]] == [span["text"] for span in other["n_best"]]
        scores = [[span["score"] for span in found["n_best"]] + [found["null_score"]] for found in (answer, other)]
        assert scores[0] == pytest.approx(scores[1], abs=1e-5)
    assert ours[5]["n_best"] == [] and max(len(answer["n_best"]) for answer in ours) == n_best_size


# Scores


@pytest.mark.parametrize(
    ("predicted", "golds", "first", "second"),
    [
        ("London", ["London"], (1, 1), (1, 1)),
        ("the  LONDON!", ["London"], (1, 1), (1, 1)),
        ("London Bridge", ["London"], (0, 2 / 3), (0, 2 / 3)),
        ("Tower Bridge in London", ["the bridge", "London Bridge"], (0, 2 / 3), (0, 2 / 3)),
        ("a b b", ["b c"], (0, 0.5), (0, 0.5)),  # "a" is an article; one "b" of two
        ("U.S.", ["US"], (1, 1), (1, 1)),
        ("twenty-one", ["twenty one"], (0, 0), (0, 0)),  # punctuation goes without a blank
        ("x", ["y"], (0, 0), (0, 0)),
        ("", ["x"], (0, 0), (0, 0)),
        ("the", ["an"], (1, 0), (1, 1)),  # nothing is left of either: the scripts differ
        ("the", ["", "x"], (1, 0), (0, 0)),  # 2.0 leaves out golds without words
    ],
)
def test_answer_scores_by_hand(predicted, golds, first, second):
    assert answer_scores(predicted, golds) == pytest.approx(first)
    assert answer_scores(predicted, golds, version_2=True) == pytest.approx(second)


def test_unanswerable_questions_by_hand():
    references = [["London"], ["in Lyon"], [], []]
    scores = score("answers", references, ["London", "Lyon", "", "x"], version_2=True)
    assert scores == pytest.approx(
        {
            "exact_match": 50,
            "f1": 100 * (1 + 2 / 3 + 1) / 4,
            "HasAns_exact": 50,
            "HasAns_f1": 100 * (1 + 2 / 3) / 2,
            "NoAns_exact": 50,
            "NoAns_f1": 50,
        }
    )
    with pytest.raises(ValueError, match="without a gold answer"):
        score("answers", [[]], [""])
    with pytest.raises(ValueError, match="no rows"):
        score("answers", [], [])


def test_the_best_threshold_is_the_best_of_all():
    generator = np.random.default_rng(3)
    for _ in range(50):
        has_answer = generator.random(12) < 0.6
        scores = np.where(has_answer, generator.random(12).round(1), 0.0)
        odds = generator.normal(size=12)
        totals = {
            threshold: np.where(odds > threshold, ~has_answer, scores).mean() * 100 for threshold in [-1e9, 0.0, *odds]
        }
        best, threshold = best_threshold(scores.tolist(), odds.tolist(), has_answer.tolist())
        assert best == pytest.approx(max(totals.values()))
        assert np.where(odds > threshold, ~has_answer, scores).mean() * 100 == pytest.approx(best)


def test_the_official_and_the_tuned_threshold_by_hand():
    def found(text, score, null):
        return {"n_best": [{"text": text, "start": 0, "end": 1, "score": score}], "null_score": null}

    # Null odds -1, 1, 2: at 0 the second is taken for unanswerable, at 1.5 it is answered.
    answers = [found("x", 2.0, 1.0), found("y", 0.0, 1.0), found("z", 0.0, 2.0)]
    references = [["x"], ["y"], []]
    scores = question_scores(answers, references, version_2=True)
    assert scores["f1"] == pytest.approx(200 / 3) and scores["best_f1"] == 100 and scores["best_threshold"] == 1.5
    tuned = question_scores(answers, references, version_2=True, threshold=1.5)
    assert tuned["tuned_f1"] == 100 and "best_f1" not in tuned and tuned["f1"] == scores["f1"]


def test_span_loss_equals_the_models_own_and_does_not_depend_on_the_parts():
    generator = torch.Generator().manual_seed(0)
    outputs = {name: torch.randn(6, 9, generator=generator) for name in ("start_logits", "end_logits")}
    labels = torch.randint(0, 9, (6, 2), generator=generator)
    own = sum(torch.nn.functional.cross_entropy(outputs[name], labels[:, i]) for i, name in enumerate(outputs))
    whole = span_loss(0.0)(outputs, labels)
    assert whole.item() == pytest.approx(own.item() / 2)
    unplaced = torch.cat([labels, torch.full((2, 2), -100)])  # of answers that stand twice, without a start
    more = {name: torch.cat([logits, logits[:2]]) for name, logits in outputs.items()}
    assert span_loss(0.0)(more, unplaced).item() == pytest.approx(whole.item())
    parts = [
        span_loss(0.0)({n: o[part] for n, o in outputs.items()}, labels[part], num_items_in_batch=12)
        for part in (slice(0, 1), slice(1, 6))
    ]
    assert sum(parts).item() == pytest.approx(whole.item())
    with pytest.raises(InputError, match="--label_smoothing_factor"):
        span_loss(0.2)


# The recipe


def write_document(path, document):
    return write(path, json.dumps(document))


def train(tiny, folder, *flags, **values):
    fixed = f"--model_name_or_path {tiny} --output_dir {folder}/run --num_train_epochs 40 --eval_strategy no "
    fixed += "--save_strategy no --learning_rate 1e-3 --per_device_train_batch_size 16 --max_seq_length 32"
    return run(qa, fixed, *flags, **values)


@pytest.fixture(scope="module")
def trained(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("qa")
    files = [
        write_document(folder / f"{n}.json", article(count, seed)) for n, count, seed in (("t", 240, 1), ("v", 41, 2))
    ]
    return folder, train(tiny, folder, train_file=files[0], validation_file=files[1]), files[1]


def test_it_learns_and_writes_what_the_official_scorer_reads(trained):
    folder, results, dev = trained
    # Either name or place alone would be right half of the time.
    assert results["eval_exact_match"] > 90 and results["eval_f1"] >= results["eval_exact_match"]
    assert set(results) == {"eval_exact_match", "eval_f1", "eval_loss"}
    predictions = read_json(folder / "run" / "predictions.json")
    questions = [p["qas"][0] for p in read_json(Path(dev))["data"][0]["paragraphs"]]
    assert list(predictions) == [question["id"] for question in questions]  # in input order
    right = [predictions[q["id"]] == q["answers"][0]["text"] for q in questions]
    assert 100 * np.mean(right) == pytest.approx(results["eval_exact_match"])
    n_best = read_json(folder / "run" / "nbest_predictions.json")
    assert all(n_best[key][0]["text"] == text for key, text in predictions.items())
    rows = read_lines(folder / "run" / "predictions.jsonl")
    assert [row["predicted"] for row in rows] == list(predictions.values())
    assert not (folder / "run" / "null_odds.json").exists()


def test_the_saved_folder_answers_the_same_in_a_fresh_process(trained):
    folder, results, dev = trained
    done = process("-m", "recipes.predict", "--model", folder / "run", "--file", dev, "--json")
    assert done.returncode == 0, done.stderr
    answers = {row["id"]: row["answer"] for row in map(json.loads, done.stdout.splitlines())}
    assert answers == read_json(folder / "run" / "predictions.json")
    assert f"exact_match {results['eval_exact_match']:.2f}" in done.stderr


def test_questions_by_hand(trained, tmp_path, capsys):
    model = ["--model", str(trained[0] / "run")]
    context = write(tmp_path / "c.txt", "b omar lives in cork.\n")
    answers = predict.main([*model, "--question", "who lives?", "where lives?", "--context_file", context])
    assert [(a["answer"], a["start"], a["end"]) for a in answers] == [("omar", 2, 6), ("cork", 16, 20)]
    assert len(answers[0]["next"]) == 3 and "omar" in capsys.readouterr().out
    for flags in ("--question who?", "--context x", "--question who? --context x --text y"):
        with pytest.raises(InputError, match="--question"):
            predict.main([*model, *flags.split()])


def test_a_limit_on_questions_keeps_all_their_windows(trained, tmp_path):
    """The example scripts cut windows to the number of questions, and 7 of 10 were answered with the word "empty"."""
    long = article(20, 3)
    for paragraph in long["data"][0]["paragraphs"]:
        paragraph["context"] += " met saw went to a b c" * 12
    dev = write_document(tmp_path / "long.json", long)
    flags = f"--do_train false --model_name_or_path {trained[0]}/run --validation_file {dev} --output_dir {tmp_path}"
    run(qa, flags + "/all")
    run(qa, flags + "/ten --max_eval_samples 10")
    every, ten = (read_json(tmp_path / name / "predictions.json") for name in ("all", "ten"))
    assert len(every) == 20 and ten == dict(list(every.items())[:10]) and all(ten.values())


def test_predicting_without_answers(trained, tmp_path):
    """The example scripts crash in the metric after writing the predictions."""
    paragraphs = article(8, 4)["data"][0]["paragraphs"]
    rows = [{"context": p["context"], "question": p["qas"][0]["question"], "id": p["qas"][0]["id"]} for p in paragraphs]
    bare = write(tmp_path / "bare.jsonl", rows)
    flags = f"--do_train false --do_eval false --model_name_or_path {trained[0]}/run --test_file {bare}"
    assert run(qa, flags, output_dir=tmp_path / "p") == {}
    predictions = read_json(tmp_path / "p" / "predictions.json")
    assert list(predictions) == [row["id"] for row in rows] and all(predictions.values())


def test_version_2_from_end_to_end(tiny, tmp_path, capsys):
    files = [write_document(tmp_path / f"{n}.json", article(c, s, True)) for n, c, s in (("t", 300, 5), ("v", 60, 6))]
    results = train(tiny, tmp_path, train_file=files[0], validation_file=files[1], test_file=files[1])
    folder = tmp_path / "run"
    assert "the rules of SQuAD 2.0 apply" in capsys.readouterr().out
    assert results["eval_HasAns_exact"] > 80 and results["eval_NoAns_exact"] > 80
    assert results["eval_best_f1"] >= results["eval_f1"] and "test_best_f1" not in results
    config = read_json(folder / "config.json")["recipe"]
    assert config["null_threshold"] == results["eval_best_threshold"] and config["version_2_with_negative"]
    # The threshold was tuned on the very rows that stand for the test split here.
    assert results["test_tuned_f1"] == pytest.approx(results["eval_best_f1"])
    odds, predictions = (read_json(folder / f"{name}.json") for name in ("null_odds", "predictions"))
    assert {key for key, text in predictions.items() if not text} == {key for key, value in odds.items() if value > 0}
    answers = predict.main(["--model", str(folder), "--file", files[1], "--json"])
    given_none = {a["id"] for a in answers if not a["answer"]}
    assert given_none == {key for key, value in odds.items() if value > config["null_threshold"]}
    assert all(a["probability"] >= b["probability"] for a in answers for b in a["next"])
    # The same questions with their answers withheld: still the rules of 2.0, and the same answers.
    document = read_json(Path(files[1]))
    for paragraph in document["data"][0]["paragraphs"]:
        paragraph["qas"] = [{"id": q["id"], "question": q["question"]} for q in paragraph["qas"]]
    bare = write_document(tmp_path / "bare.json", document)
    flags = f"--do_train false --do_eval false --model_name_or_path {folder} --test_file {bare}"
    assert run(qa, flags, output_dir=tmp_path / "p") == {}
    assert read_json(tmp_path / "p" / "predictions.json") == predictions
    assert (tmp_path / "p" / "null_odds.json").exists()


def test_the_first_rows_may_all_be_unanswerable(tiny, tmp_path):
    document = article(60, 9, unanswerable=True)
    document["data"][0]["paragraphs"].sort(key=lambda p: bool(p["qas"][0]["answers"]))
    path = write_document(tmp_path / "a.json", document)
    limits = "--max_train_samples 16 --max_eval_samples 8 --max_steps 2 --eval_strategy epoch"
    results = train(tiny, tmp_path, limits, train_file=path, validation_file=path)
    assert "eval_NoAns_f1" in results and "eval_HasAns_f1" not in results
