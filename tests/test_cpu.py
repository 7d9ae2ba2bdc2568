"""What is tuned on a CPU leaves the arithmetic as it is."""

import pytest
import torch
from torch import nn

from common.packing import Dropout, dropout, replace_dropout, tune_cpu


@pytest.fixture
def tuned():
    yield tune_cpu
    tune_cpu(False)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_drops_its_share_and_keeps_the_expectation(p, dtype, tuned):
    tuned(True)
    torch.manual_seed(0)
    x = torch.ones(1001, 333, dtype=dtype, requires_grad=True)  # no multiple of 4
    y = dropout(x, p)
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


def test_dropout_repeats_with_the_seed_and_does_nothing_outside_training(tuned):
    tuned(True)
    x = torch.randn(50, 50)
    torch.manual_seed(3)
    first = dropout(x, 0.1)
    torch.manual_seed(3)
    assert torch.equal(first, dropout(x, 0.1))
    assert not torch.equal(first, dropout(x, 0.1))
    assert torch.equal(dropout(x, 0.1, training=False), x)
    assert torch.equal(dropout(x, 0.0), x) and not dropout(x, 1.0).any()


def test_dropout_takes_the_place_of_the_stock_module_on_a_tuned_cpu_alone(tuned):
    class Other(nn.Dropout):
        pass

    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.3), nn.Sequential(nn.Dropout(0.1).eval(), Other(0.1)))
    names = model.state_dict().keys()
    tuned(False)
    replace_dropout(model)
    assert type(model[1]) is nn.Dropout
    tuned(True)
    replace_dropout(model)
    assert type(model[1]) is type(model[2][0]) is Dropout and type(model[2][1]) is Other
    assert (model[1].p, model[2][0].p) == (0.3, 0.1) and model.state_dict().keys() == names
    x = torch.ones(1000)
    assert torch.equal(model[2][0](x), x)  # which was not in training
    torch.manual_seed(0)
    ours = model[1](x)
    tuned(False)
    torch.manual_seed(0)
    assert not torch.equal(ours, model[1](x)) and torch.equal(model.eval()[1](x), x)


def test_denormal_numbers_count_as_zero_while_tuned(tuned):
    denormal = torch.full((1000,), 1e-40)
    tuned(True)
    assert not (denormal * 1.0).any()
    tuned(False)
    assert (denormal * 1.0).all()
