"""A packed encoder computes what the padded one does."""

import logging
from types import SimpleNamespace

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from common import packing
from common.packing import PackedBatch, pack, parts_of_similar_length
from common.training import load_model, resolve_packing
from tests.encoders import ENCODERS

PACKABLE = ("bert", "roberta", "xlm-roberta", "camembert", "electra", "albert", "distilbert")
HEADS = [AutoModelForSequenceClassification, AutoModelForTokenClassification, AutoModelForQuestionAnswering]
LENGTHS = [3, 30, 1, 29, 12, 30, 8]


def load(folder, is_packed, auto_class=AutoModelForTokenClassification, **config):
    torch.manual_seed(0)
    model = auto_class.from_pretrained(folder, attn_implementation="eager", **config)
    assert not is_packed or pack(model)
    return model


@pytest.fixture
def pair(encoder):
    """A BERT that computes its padding, and the same one packed."""
    return [load(encoder("bert"), is_packed) for is_packed in (False, True)]


def batch_of(lengths, model):
    """Random tokens, padded on the right."""
    generator = torch.Generator().manual_seed(0)
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    ids = torch.randint(5, model.config.vocab_size, mask.shape, generator=generator)
    return {"input_ids": ids.where(mask.bool(), model.config.pad_token_id), "attention_mask": mask}


def logits_of(model, batch):
    """What the head says: of rows, or at real positions."""
    outputs = model(**batch)
    logits = outputs["logits"] if "logits" in outputs else torch.stack(outputs[:2], dim=-1)
    return logits[batch["attention_mask"].bool()] if logits.ndim == 3 else logits


@pytest.mark.parametrize("head", HEADS, ids=lambda head: head.__name__[12:])
@pytest.mark.parametrize("name", PACKABLE)
@pytest.mark.parametrize(("part_cost", "parts"), [(30_000, 1), (300, 3)])
def test_logits_and_gradients_are_those_of_the_padded_model(name, head, part_cost, parts, encoder, monkeypatch):
    """With one part logits were the same to the last bit (AMD EPYC, AVX-512), with more to rounding."""
    monkeypatch.setattr(packing, "PART_COST", part_cost)
    models = [load(encoder(name), is_packed, head).train() for is_packed in (False, True)]  # without dropout
    batch = batch_of(LENGTHS, models[0])
    assert len(PackedBatch(batch["attention_mask"].bool()).parts) == parts
    padded, packed = (logits_of(model, batch) for model in models)
    torch.testing.assert_close(packed, padded, rtol=1e-5, atol=2e-6)
    for logits in (padded, packed):
        logits.square().sum().backward()
    compared = 0
    for expected, parameter in zip(*(model.parameters() for model in models), strict=True):
        if expected.grad is not None:
            torch.testing.assert_close(parameter.grad, expected.grad, rtol=1e-4, atol=1e-5)
            compared += bool(expected.grad.any())
    assert compared > 20


@pytest.mark.parametrize("lengths", [[9] * 4, [9], [1], [1, 9], [4, 0, 7], [0, 40]])
def test_batches_without_padding_with_one_row_and_with_short_rows(lengths, pair):
    padded, packed = (logits_of(model, batch_of(lengths, model)) for model in pair)
    assert len(padded) == sum(lengths)
    torch.testing.assert_close(packed, padded, rtol=1e-5, atol=2e-6)


def test_padding_may_stand_anywhere(pair):
    batch = batch_of([9, 9, 9], pair[0])
    batch["attention_mask"] = torch.tensor([[0] * 4 + [1] * 5, [1] * 9, [1, 0] * 4 + [1]])
    torch.testing.assert_close(logits_of(pair[1], batch), logits_of(pair[0], batch))


def test_in_bf16_the_difference_is_rounding(pair):
    exact = logits_of(pair[0], batch_of(LENGTHS, pair[0]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        padded, packed = (logits_of(model, batch_of(LENGTHS, model)).float() for model in pair)
    assert (packed - exact).abs().max() < 2 * (padded - exact).abs().max()


def test_dropout_keeps_the_expectation_of_attention(encoder):
    """The mean over many draws is what attention gives without; `dropout` itself: tests/test_cpu.py."""
    model = load(encoder("bert"), True, attention_probs_dropout_prob=0.2)
    outputs = []
    attention = model.base_model.encoder.layer[0].attention.self
    attention.register_forward_hook(lambda module, args, output: outputs.append(output[0].view(2000, 12, -1)))
    batch = {name: values.repeat(2000, 1) for name, values in batch_of([12], model).items()}
    with torch.no_grad():
        for is_training in (False, True):
            model.train(is_training)(**batch)
    expected, drawn = outputs
    assert drawn.std(0).max() > 0.01 * expected.abs().max()
    error = (drawn.mean(0) - expected[0]).abs() / (drawn.std(0) / 2000**0.5 + 1e-9)
    assert error.max() < 5  # standard errors


def test_gradient_checkpointing_draws_the_same_masks_again(encoder):
    config = dict(hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.3)
    packing.tune_cpu(True)
    model = load(encoder("bert"), True, AutoModelForSequenceClassification, **config).train()
    packing.replace_dropout(model)

    def gradients():
        model.zero_grad()
        torch.manual_seed(1)
        logits_of(model, batch_of(LENGTHS, model)).square().sum().backward()
        return [parameter.grad.clone() for parameter in model.parameters()]

    plain = gradients()
    model.gradient_checkpointing_enable()
    repeated = gradients()
    packing.tune_cpu(False)
    for ours, theirs in zip(repeated, plain, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("where", ["call", "config"])
def test_hidden_states_of_all_layers_keep_their_shape(where, encoder):
    wanted = dict(output_hidden_states=True)
    of_config, of_call = (wanted, {}) if where == "config" else ({}, wanted)
    models = [load(encoder("bert"), is_packed, **of_config) for is_packed in (False, True)]
    batch = batch_of([4, 7], models[0])
    real = batch["attention_mask"].bool()
    for padded, packed in zip(*(model(**batch, **of_call).hidden_states for model in models), strict=True):
        assert packed.shape == padded.shape == (2, 7, 32)
        torch.testing.assert_close(packed[real], padded[real])


def test_inputs_without_a_mask_and_embeddings_instead_of_ids_are_read(pair):
    batch = batch_of([7, 7], pair[0])
    without = [model(input_ids=batch["input_ids"])["logits"] for model in pair]
    torch.testing.assert_close(*without)
    embedded = pair[1].get_input_embeddings()(batch["input_ids"])
    torch.testing.assert_close(pair[1](inputs_embeds=embedded)["logits"], without[0])


@pytest.mark.parametrize("name", [name for name in ENCODERS if name not in PACKABLE])
def test_what_cannot_pack_runs_padded_and_says_so(name, encoder, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("recipes"), "propagate", True)
    args, folder = SimpleNamespace(attn_implementation=None, packing=None), encoder(name)
    torch.manual_seed(0)
    with caplog.at_level("INFO", "recipes"):
        machine = SimpleNamespace(device=torch.device("cpu"), torch_compile=False, do_train=True)
        model = load_model(AutoModelForTokenClassification, folder, args, machine)
    assert f"Packing: not possible for {name.replace('-v3', '-v2')}; batches are padded" in caplog.text
    assert model.config._attn_implementation == "eager"
    padded = load(encoder(name), is_packed=False)
    batch = batch_of(LENGTHS, padded)
    assert torch.equal(logits_of(model.eval(), batch), logits_of(padded, batch))


def test_an_encoder_that_gives_other_answers_when_packed_is_left_alone(encoder, monkeypatch):
    """As one would that counts positions in its layers: here packing itself is broken."""
    padded, model = (load(encoder("bert"), is_packed=False) for _ in range(2))
    with monkeypatch.context() as patch:
        patch.setattr(PackedBatch, "unpack", lambda self, states: torch.zeros(self.rows, self.positions, 32))
        assert not pack(model)
    assert model.config._attn_implementation == "eager"
    batch = batch_of(LENGTHS, padded)
    assert torch.equal(logits_of(model, batch), logits_of(padded, batch))


def test_a_model_whose_layers_pick_rows_or_whose_attentions_are_wanted_is_left_alone(encoder):
    model = load(encoder("bert"), is_packed=False)
    hook = model.base_model.encoder.layer[0].register_forward_hook(lambda m, a, output: output + 0 * output[[1]])
    assert not pack(model) and model.config._attn_implementation == "eager"
    hook.remove()
    assert pack(model)
    wanted = load(encoder("bert"), is_packed=False, output_attentions=True)
    assert not pack(wanted) and len(wanted(**batch_of([4, 7], wanted)).attentions) == 2


def test_a_packed_model_stays_packed_when_asked_again_and_is_saved_as_an_ordinary_one(pair, tmp_path):
    batch = batch_of(LENGTHS, pair[1])
    before = logits_of(pair[1], batch)
    assert pack(pair[1]) and torch.equal(logits_of(pair[1], batch), before)
    pair[1].save_pretrained(tmp_path)
    assert "packed" not in (tmp_path / "config.json").read_text()
    assert AutoConfig.from_pretrained(tmp_path)._attn_implementation in (None, "sdpa", "eager")
    assert torch.equal(logits_of(load(tmp_path, is_packed=False), batch), before)


@pytest.mark.parametrize(
    ("packed", "attention", "compiled", "device", "expected"),
    [
        (None, None, False, "cpu", True),
        (None, None, False, "cuda", False),
        (True, None, False, "cuda", True),
        (False, None, False, "cpu", False),
        (None, "sdpa", False, "cpu", False),
        (None, None, True, "cpu", False),
    ],
)
def test_packing_is_the_default_on_a_cpu(packed, attention, compiled, device, expected):
    args = SimpleNamespace(packing=packed, attn_implementation=attention)
    assert resolve_packing(args, SimpleNamespace(device=torch.device(device), torch_compile=compiled)) is expected


def test_parts_hold_every_row_once_and_leave_few_scores_unread():
    lengths = sorted([384] * 5 + [60, 70, 90, 150, 160, 200, 300])
    parts = parts_of_similar_length(lengths)
    assert [row for first, last in parts for row in range(first, last)] == list(range(len(lengths)))
    for first, last in parts:
        assert sum(lengths[last - 1] ** 2 - length**2 for length in lengths[first:last]) <= packing.PART_COST
    assert len(parts) == 5 and parts_of_similar_length([12, 20, 30]) == [(0, 3)]


def test_padding_is_not_computed_in_the_encoder(pair):
    """A layer's tensors have a row per token, not per position."""
    shapes = set()
    layer = pair[1].base_model.encoder.layer[0].intermediate
    layer.register_forward_hook(lambda module, args, output: shapes.add(tuple(output.shape)))
    logits_of(pair[1], batch_of([2, 2, 2, 50], pair[1]))
    assert shapes == {(1, 56, 48)}
