"""Every recipe with every architecture: it trains, accumulation does not change it, and the saved model answers.

Two architectures in `make test`: byte pairs without a class of their own, and unigrams.
"""

from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification

from common.errors import InputError
from common.training import freeze, load_model, load_tokenizer, model_label_list
from recipes import ner, nli, predict, qa, text_classification
from tests.conftest import ENDINGS, SAMPLES, logged, read_lines, read_sample, run, write
from tests.encoders import ENCODERS

RECIPES = [ner, nli, qa, text_classification]
FAST = ("modernbert", "xlm-roberta")
NAMES = [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in ENCODERS]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.__name__)
@pytest.mark.parametrize("name", NAMES)
def test_it_trains_alike_when_accumulated_and_answers_as_it_was_scored(recipe, name, encoder, tmp_path):
    """Two steps of 8 rows on the bundled sample, and 8 rows to validate."""
    sample = recipe.__name__.removeprefix("recipes.")
    train, validation = (SAMPLES / sample / f"{split}.{ENDINGS[sample]}" for split in ("train", "validation"))
    flags = f"--model_name_or_path {encoder(name)} --train_file {train} --validation_file {validation} --max_steps 2 "
    flags += "--max_train_samples 16 --max_eval_samples 8 --logging_steps 1 --learning_rate 1e-3"
    runs = []
    for batch, steps in ((8, 1), (2, 4)):
        folder = tmp_path / f"{batch}x{steps}"
        sizes = f"--per_device_train_batch_size {batch} --gradient_accumulation_steps {steps}"
        results = run(recipe, flags, sizes, output_dir=folder)
        runs.append([*logged(folder, "loss"), *logged(folder, "grad_norm"), results["eval_loss"]])
    assert len(runs[0]) == 5 and all(value > 0 for value in runs[0])
    assert runs[1] == pytest.approx(runs[0], rel=1e-3)

    answers = predict.main(["--model", str(folder), "--file", str(validation), "--json"])[:8]
    found = {ner: "tags", qa: "answer"}.get(recipe, "predicted")
    assert [answer[found] for answer in answers] == [
        row["predicted"] for row in read_lines(folder / "predictions.jsonl")
    ]


@pytest.mark.parametrize("name", ENCODERS)
def test_a_word_has_the_pieces_that_it_has_inside_a_text(name, encoder):
    """Byte-level tokenizers mark the blank before a word, and a word without one is read as the rest of another."""
    words = ["Grace", "met", "Ada", "Lovelace", "in", "O'Brien's", "house"]
    whole = load_tokenizer(encoder(name))(" ".join(words)).tokens()
    tokenizer = load_tokenizer(encoder(name), is_split_into_words=True)
    encoding = tokenizer([words], is_split_into_words=True)
    inner = encoding.tokens(0)[encoding.word_ids(0).index(1) : -1]  # the first word stands at the start of a text
    assert whole[-1 - len(inner) : -1] == inner
    tokenizer.save_pretrained(encoder(name) + "-saved")
    assert load_tokenizer(encoder(name) + "-saved")(words[1:], is_split_into_words=True).tokens()[1:-1] == inner


def test_a_tokenizer_that_is_a_sentencepiece_model_alone_is_read_and_saved_whole(tmp_path):
    """As DeBERTa-v3 lies on the Hub: spm.model and no tokenizer.json."""
    import sentencepiece

    texts = write(tmp_path / "texts.txt", "\n".join(" ".join(words) for words, _ in read_sample("train")))
    special = dict(zip(("pad", "bos", "eos", "unk"), ("[PAD]", "[CLS]", "[SEP]", "[UNK]"), strict=True))
    sentencepiece.SentencePieceTrainer.train(
        input=texts,
        model_prefix=str(tmp_path / "spm"),
        vocab_size=400,
        minloglevel=2,
        **{f"{name}_id": i for i, name in enumerate(special)},
        **{f"{name}_piece": piece for name, piece in special.items()},
    )
    (tmp_path / "config.json").write_text('{"model_type": "deberta-v2"}')
    tokenizer = load_tokenizer(str(tmp_path))
    encoding = tokenizer("Grace met Ada in London.")
    assert encoding.tokens()[0] == "[CLS]" and encoding.word_ids()[1] == 0 and "[UNK]" not in encoding.tokens()
    tokenizer.save_pretrained(tmp_path / "saved")
    assert (tmp_path / "saved" / "tokenizer.json").exists()
    assert load_tokenizer(str(tmp_path / "saved"))("Grace met Ada in London.").tokens() == encoding.tokens()


def load(model, device="cpu", attention=None, new_head=False, model_class=AutoModelForTokenClassification, **config):
    options = dict(attn_implementation=attention, packing=False, new_head=new_head)
    args = SimpleNamespace(model_name_or_path=model, **options)
    machine = SimpleNamespace(device=torch.device(device), torch_compile=False, do_train=True)
    return load_model(model_class, model, args, machine, **config)


@pytest.mark.parametrize("name", ENCODERS)
def test_the_choice_of_attention_is_one_that_the_model_has(name, encoder):
    """As on a GPU, where the stock flag `sdpa` stops models that lack it."""
    has_sdpa = not name.startswith(("deberta", "mpnet"))
    assert load(encoder(name), device="cuda").config._attn_implementation == ("sdpa" if has_sdpa else "eager")
    assert load(encoder(name)).config._attn_implementation == "eager"
    if not has_sdpa:
        with pytest.raises(InputError, match="does not support an attention implementation"):
            load(encoder(name), attention="sdpa")


@pytest.mark.parametrize("name", NAMES)
def test_frozen_parts_are_found_in_every_architecture(name, encoder):
    model = load(encoder(name))
    for what in ("embeddings", "1", "encoder"):
        freeze(model, what)
        trained = {n for n, p in model.named_parameters() if p.requires_grad}
        assert trained and not any("word_embeddings" in n or "tok_embeddings" in n for n in trained)
        of_encoder = {n for n in trained if n.startswith(f"{model.base_model_prefix}.")}
        assert bool(of_encoder) == (what != "encoder")
        assert not (what == "1" and any("layer.0." in n or "layers.0." in n for n in of_encoder))
        assert any("classifier" in n for n in trained)


@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert", "electra"])
def test_a_new_head_on_the_encoder_of_a_trained_model(name, encoder, tmp_path):
    """From one of three classes to tags, whose heads have parameters of one name, and back to two classes."""
    names = {"id2label": dict(enumerate("abc")), "label2id": {"a": 0, "b": 1, "c": 2}}
    trained = AutoModelForSequenceClassification.from_pretrained(encoder(name), **names)
    trained.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="keep only its encoder with --new_head true"):
        model_label_list(str(tmp_path), ["x", "y"], is_trained=False)
    for model_class, labels in ((AutoModelForTokenClassification, ["O", "B-X", "I-X"]), (type(trained), ["x", "y"])):
        chosen = model_label_list(str(tmp_path), labels, is_trained=False, new_head=True)
        config = {"id2label": dict(enumerate(chosen)), "label2id": {label: i for i, label in enumerate(chosen)}}
        model = load(str(tmp_path), new_head=True, model_class=model_class, **config)
        assert list(model.config.label2id) == labels
        prefix, old, new = f"{model.base_model_prefix}.", trained.state_dict(), model.state_dict()
        for key, value in new.items():
            if key.startswith(prefix) and ".pooler." not in key:
                assert torch.equal(value, old[key]), key
            elif value.dim() == 2 and key in old and not key.startswith(prefix):
                assert not (value.shape == old[key].shape and torch.equal(value, old[key])), key
