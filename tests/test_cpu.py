"""What is tuned on a CPU leaves the arithmetic as it is."""

import os
import platform
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from transformers import BertConfig, BertForSequenceClassification

from common.cpu import cheap_dropout, dropout_context, stock_dropout, tune_cpu
from tests.conftest import ROOT


@pytest.fixture
def tuned():
    yield tune_cpu
    tune_cpu(False)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_drops_the_asked_share_and_keeps_the_expectation(p, dtype):
    torch.manual_seed(0)
    x = torch.ones(1001, 333, dtype=dtype, requires_grad=True)  # no multiple of 4
    y = cheap_dropout(x, p)
    y.float().sum().backward()
    kept = y != 0
    deviation = 5 * (p * (1 - p) / x.numel()) ** 0.5  # five standard deviations of the share
    assert abs(1 - kept.float().mean().item() - p) < deviation + 2**-16
    rows = kept.float().mean(dim=1)  # neighbours share a draw of 64 bits, but are independent
    assert abs(rows.var().item() / (p * (1 - p) / 333) - 1) < 0.25
    neighbours = (kept[:, 0::2][:, :166] & kept[:, 1::2]).float().mean().item()
    assert abs(neighbours - (1 - p) ** 2) < 0.01
    torch.testing.assert_close(y[kept], torch.full_like(y[kept], 1 / (1 - p)), rtol=0.01, atol=0)
    torch.testing.assert_close(x.grad, y.detach())


def test_dropout_repeats_with_the_seed_and_is_none_outside_training():
    x = torch.randn(50, 50)
    torch.manual_seed(3)
    first = cheap_dropout(x, 0.1)
    torch.manual_seed(3)
    assert torch.equal(first, cheap_dropout(x, 0.1))
    assert not torch.equal(first, cheap_dropout(x, 0.1))
    assert torch.equal(cheap_dropout(x, 0.1, training=False), x)
    assert torch.equal(cheap_dropout(x, 0.0), x) and not cheap_dropout(x, 1.0).any()
    other = x.clone()
    assert cheap_dropout(other, 0.5, inplace=True) is other and not torch.equal(other, x)


def test_dropout_reaches_the_model_also_where_the_forward_is_computed_twice(tuned):
    """With gradient checkpointing the backward pass repeats the forward, which must draw the same masks."""
    config = BertConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, vocab_size=99)
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    model = BertForSequenceClassification(config).train()
    batch = {"input_ids": torch.randint(0, 99, (4, 12)), "labels": torch.tensor([0, 1, 0, 1])}

    def gradients(wanted):
        tuned(wanted)
        torch.manual_seed(1)
        model.zero_grad()
        with dropout_context():
            model(**batch).loss.backward()
        return [parameter.grad.clone() for parameter in model.parameters()]

    plain, stock = gradients(True), gradients(False)
    assert not all(torch.equal(a, b) for a, b in zip(plain, stock, strict=True))  # other masks than the stock ones
    model.gradient_checkpointing_enable()
    for a, b in zip(plain, gradients(True), strict=True):
        torch.testing.assert_close(a, b)


def test_tuning_can_be_switched_off(tuned):
    denormal = torch.full((1000,), 1e-40)
    tuned(True)
    with dropout_context():
        assert not (denormal * 1.0).any() and F.dropout is cheap_dropout
    assert F.dropout is stock_dropout
    tuned(False)
    with dropout_context():
        assert (denormal * 1.0).all() and F.dropout is stock_dropout


def test_freed_memory_is_kept_unless_the_environment_says_otherwise():
    """A tensor of 64 MB made and dropped ten times: fetched anew it costs 16,000 page faults each time."""
    script = """
import resource, torch
from common.cpu import keep_freed_memory
keep_freed_memory()
for _ in range(10):  # until the heap has grown
    torch.zeros(2**24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.zeros(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    if platform.libc_ver()[0] != "glibc":
        pytest.skip("the allocator is glibc's")

    def faults(**variables):
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
        environment = {**kept, "PYTHONPATH": str(ROOT), **variables}
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
        return int(done.stdout)

    # Huge pages make fewer faults of the same work, so the two are compared with each other.
    assert faults() < faults(MALLOC_CHECK_="0") / 5
