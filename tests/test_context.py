"""NER with the context of the document, and learning rates by layer."""

from itertools import product

import numpy as np
import pytest
import torch
from transformers import AutoModelForTokenClassification, AutoTokenizer

from common import training, words
from common.words import legal_tags
from recipes import ner, predict
from tests.conftest import flags_of, read_lines, read_words, run, save_tiny_bert, write

FIRST = {"LOC": ["Travel", "news"], "ORG": ["Football", "news"]}


def write_documents(path, count=40, marked=True):
    """Documents of two sentences; what the second is about is said in the first alone."""
    blocks = []
    for i in range(count):
        entity = ("LOC", "ORG")[i % 2]
        first = "".join(f"{word} O\n" for word in FIRST[entity])
        blocks += ["-DOCSTART- O\n"] * marked + [first, f"Milan B-{entity}\ntoday O\n"]
    return write(path, "\n".join(blocks))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    texts = [*(" ".join(first) for first in FIRST.values()), "Milan today"]
    return save_tiny_bert(tmp_path_factory.mktemp("bert"), texts, dropout=0.0)


def train(model, file, folder, *flags):
    files = f"--model_name_or_path {model} --train_file {file} --validation_file {file} --output_dir {folder}"
    fixed = "--num_train_epochs 60 --learning_rate 2e-3 --per_device_train_batch_size 8 --max_seq_length 16"
    return run(ner, files, fixed, "--eval_strategy no --save_strategy no", *flags)


def test_every_word_has_one_place_in_windows_over_documents(model):
    tokenizer = training.load_tokenizer(model, is_split_into_words=True)
    sentences = [["Travel", "news"], ["Milan", "today"] * 5, ["Milan"], ["Football", "news", "today"]]
    tags = [["O", "O"], ["B-LOC", "O"] * 5, ["B-LOC"], ["O", "B-ORG", "O"]]
    label_list = ["O", "B-LOC", "B-ORG"]
    features = words.tokenize_and_align_labels(
        {"tokens": sentences, "ner_tags": tags, "document": ["a", "a", "a", "b"]},
        *(range(4), tokenizer, 10, 4, {label: i for i, label in enumerate(label_list)}, "document"),
    )
    assert set(features["row"]) == {0, 3} and max(features["length"]) == 10  # the first three are read as one text
    lengths = list(map(len, sentences))
    places = features["word_ids"], features["row"], lengths
    assert sum(word >= 0 for ids in features["word_ids"] for word in ids) == sum(lengths)
    assert words.tags_of_sentences(features["labels"], *places, label_list) == tags


def test_context_tells_what_a_sentence_alone_does_not(model, tmp_path):
    file = write_documents(tmp_path / "train.conll")
    alone = train(model, file, tmp_path / "sentence")
    together = train(model, file, tmp_path / "document", "--context document")
    assert alone["eval_f1"] <= 0.5 and together["eval_f1"] == 1.0

    # The model keeps it: evaluated and asked as it was trained.
    again = f"--do_train false --model_name_or_path {tmp_path}/document --validation_file {file}"
    assert run(ner, again, output_dir=tmp_path / "again")["eval_f1"] == 1.0
    answers = predict.main(["--model", str(tmp_path / "document"), "--file", file, "--json"])
    assert [answer["tags"] for answer in answers] == read_words(file)["ner_tags"][:]


def test_viterbi_gives_legal_tags_and_predict_gives_the_same(ner_line, small_files, tmp_path):
    more = "--learning_rate 5e-3 --num_train_epochs 8 --eval_strategy no --save_strategy no --viterbi true"
    run(ner, ner_line, more, output_dir=tmp_path / "run")
    rows = read_lines(tmp_path / "run" / "predictions.jsonl")
    for row in rows:
        for before, tag in zip(["O", *row["predicted"]], row["predicted"], strict=False):
            assert not tag.startswith("I-") or before[2:] == tag[2:]
    assert any(tag != "O" for row in rows for tag in row["predicted"])
    answers = predict.main(["--model", str(tmp_path / "run"), "--file", small_files["test"], "--json"])
    assert [answer["tags"] for answer in answers] == [row["predicted"] for row in rows]
    assert answers[0]["probabilities"] == pytest.approx(rows[0]["probabilities"], abs=2e-4)


def test_probabilities_of_legal_tags_are_those_of_all_legal_sequences():
    labels = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
    words = np.random.default_rng(0).dirichlet(np.ones(5), 4)
    legal = {}
    for path in product(range(5), repeat=4):
        tags = [labels[i] for i in path]
        if all(tag[0] != "I" or before[2:] == tag[2:] for before, tag in zip(["O", *tags], tags, strict=False)):
            legal[path] = np.prod(words[range(4), path])
    best = max(legal, key=legal.get)
    shares = [sum(p for path, p in legal.items() if path[i] == best[i]) / sum(legal.values()) for i in range(4)]
    tags, sure = legal_tags(np.log([words]), [range(4)], [0], [4], labels)
    assert tags == [[labels[i] for i in best]] and sure[0] == pytest.approx(shares, abs=1e-6)


def test_documents_that_no_file_marks_have_a_size(model, tmp_path):
    file = write_documents(tmp_path / "train.conll", marked=False)
    assert train(model, file, tmp_path / "run", "--context document --document_size 2")["eval_f1"] == 1.0
    assert words.sentence_groups(read_words(file), 2)["groups"][:5] == ["0", "0", "1", "1", "2"]  # held out whole


def test_rates_fall_from_the_head_to_the_embeddings(model):
    network = AutoModelForTokenClassification.from_pretrained(model)
    rates = training.rates(network, 1e-4, 0.5, 1e-3)
    expected = {"classifier": 1e-3, "encoder.layer.1": 1e-4, "encoder.layer.0": 5e-5, "embeddings": 2.5e-5}
    for name, parameter in network.named_parameters():
        assert rates[parameter] == pytest.approx(next(value for part, value in expected.items() if part in name)), name


def test_the_optimizer_follows_them_and_keeps_weight_decay(model, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(model)
    network = AutoModelForTokenClassification.from_pretrained(model)
    flags = f"--model_name_or_path {model} --train_file x --output_dir {tmp_path}/run --bf16 false --eval_strategy no"
    flags = flags_of(flags, learning_rate=1e-4, layer_decay=0.5, head_learning_rate=1e-3)
    args, training_args = ner.parse_arguments(ner.Arguments, ner.DEFAULTS, flags, ner.__file__)
    trainer = training.RecipeTrainer(model=network, args=training_args, processing_class=tokenizer, flags=args)
    optimizer = trainer.create_optimizer()
    groups = [
        (group["lr"], group["weight_decay"], parameter)
        for group in optimizer.param_groups
        for parameter in group["params"]
    ]
    assert len(groups) == len(list(network.parameters()))
    rates = training.rates(network, 1e-4, 0.5, 1e-3)
    by_id = {id(parameter): name for name, parameter in network.named_parameters()}
    for rate, decay, parameter in groups:
        name = by_id[id(parameter)]
        assert rate == rates[parameter]
        assert decay == (0.0 if "bias" in name or "LayerNorm" in name else 0.01)
    assert not any(torch.isnan(parameter).any() for _, _, parameter in groups)
    assert optimizer.param_groups[0]["lr"] == 1e-4  # which is logged
    assert training.rates(network, 1e-4, 1.0, 0.0)[network.classifier.bias] == 0
