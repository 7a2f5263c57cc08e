"""Sums and scalings of every spelling, with coefficients of either sign, and gradients to them."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tests.levels import few, level
from tests.verify.helpers import BALLS, FAST, Function, around, assert_sound, random_images, randomise
from verify import METHODS, BoundedNetwork, UnsupportedOperator

SHAPE = (2, 4, 3)


def mixed(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """A mixed operation: weights from a softmax, operations with and without a window."""
    weights = torch.softmax(m.alpha, -1)
    terms = [F.max_pool2d(x, 3, 1, 1), F.avg_pool2d(x, 3, 1, 1), x, F.relu(-x)]
    return sum(weights[i] * term for i, term in enumerate(terms))


SUMS = {
    "x + y": lambda m, x: x + F.relu(x - 0.3),
    "x - y": lambda m, x: x - F.relu(x - 0.3),
    "x + x": lambda m, x: x + x,
    "x - x": lambda m, x: (x - x) + x,
    "2 x - x, apart": lambda m, x: 2 * x - x * 1.0,
    "rsub": lambda m, x: 0.7 - x,
    "rsub of a tensor": lambda m, x: torch.rsub(x, F.relu(x - 0.2), alpha=3),
    "alpha of add": lambda m, x: torch.add(x, F.relu(x - 0.2), alpha=-2.5),
    "alpha of sub": lambda m, x: torch.sub(x, F.relu(x - 0.2), alpha=1.5),
    "alpha with itself": lambda m, x: torch.sub(x, x, alpha=3),
    "alpha and a number": lambda m, x: torch.add(x, 2, alpha=-0.1),
    "a parameter for each channel": lambda m, x: x + m.channel,
    "a parameter less x": lambda m, x: m.channel - x,
    "broadcast of x": lambda m, x: x[:, :1] - x + x[:, :, :1],
    "broadcast to a parameter": lambda m, x: x[:, :, :1, :1] - m.full,
    "times a negative number": lambda m, x: x * -1.7,
    "number times x": lambda m, x: -0.3 * x,
    "times zero": lambda m, x: 0 * x + x[:, :, :1],
    "neg": lambda m, x: -x,
    "times parameters of both signs": lambda m, x: x * m.full,
    "parameter times x, broadcast": lambda m, x: m.full * x[:, :1, :1],
    "div": lambda m, x: x / -3,
    "div by parameters": lambda m, x: x / (2 * m.channel + torch.sign(m.channel)),
    "weights of a softmax": mixed,
    "normalised": lambda m, x: (x - m.channel) / (0.1 + m.channel.abs()),
    "sum() of a list": lambda m, x: sum([x, -F.relu(x), 0.5 * x]),
    "in place": lambda m, x: (x * 1).mul_(-2).add_(x, alpha=0.5).sub_(0.1).div_(3).neg_(),
    "in place, a residue": lambda m, x: F.relu_(x.clone().add_(x).sub_(0.7)) - x,
    "a tensor of no dimension": lambda m, x: m.alpha[2] * x + m.alpha[1],
    "a product of parameters": lambda m, x: (m.alpha[0] * m.channel * m.alpha[1]) * x,
    "a number of numpy": lambda m, x: x * float(torch.pi) - 1,
}


def operator(name: str) -> nn.Module:
    parameters = {"channel": torch.ones(2, 1, 1), "full": torch.ones(1, *SHAPE), "alpha": torch.ones(4)}
    return Function(SUMS[name], **parameters)


@pytest.mark.parametrize("name", SUMS)
@pytest.mark.parametrize("first", [False, True])
def test_a_sum_or_product_is_sound(name, first):
    balls, methods = (BALLS, METHODS) if first else (BALLS[:1], level(FAST, METHODS))
    shape = SHAPE if first else (1, *SHAPE[1:])
    assert_sound(around(operator(name), SHAPE, first=first), shape, balls=balls, methods=methods)


@pytest.mark.parametrize("method", ["ibp", "crown-ibp", "crown"])
def test_x_less_x_is_nothing(method):
    model = Function(lambda m, x: x - x + 1.5)
    images = random_images((3,))
    bounds = BoundedNetwork(model, images).bounds(images, 0.2, method=method)
    torch.testing.assert_close(bounds.lower, torch.full_like(bounds.lower, 1.5))
    torch.testing.assert_close(bounds.upper, torch.full_like(bounds.upper, 1.5))


@few
@given(st.lists(st.floats(-3, 3, allow_subnormal=False), min_size=4, max_size=4), st.floats(0, 0.4))
def test_negative_weights_swap_the_bounds(weights, epsilon):
    """Four operations on one image, each exact on its own: the interval of their weighted sum in closed form."""
    x = torch.tensor([[0.2, 0.9, 0.5, 0.4]], dtype=torch.float64)
    w = torch.tensor(weights, dtype=torch.float64)
    model = Function(
        lambda m, x: sum(m.w[i] * (x[:, i : i + 1] if i % 2 else -x[:, i : i + 1]) for i in range(4)), w=w
    )
    signed = w * torch.tensor([-1, 1, -1, 1])
    expected = (signed * x).sum() - epsilon * w.abs().sum(), (signed * x).sum() + epsilon * w.abs().sum()
    network = BoundedNetwork(model, x)
    for method in ("ibp", "crown-ibp", "crown"):
        bounds = network.bounds(x, epsilon, domain="free", method=method)
        torch.testing.assert_close((bounds.lower.squeeze(), bounds.upper.squeeze()), expected)


@pytest.mark.parametrize("method", ["ibp", "crown-ibp", "crown"])
def test_the_gradient_reaches_alpha(method):
    model = around(operator("weights of a softmax"), SHAPE)
    images = random_images((1, *SHAPE[1:]))
    BoundedNetwork(model, images).bounds(images, 0.05, method=method).lower.sum().backward()
    gradient = model[1].alpha.grad
    assert gradient.abs().min() > 1e-6
    assert abs(gradient.sum()) < 1e-9 * gradient.abs().sum()  # a softmax does not change when all alphas rise


REFUSED = {
    "floor": lambda m, x: torch.div(x, 2, rounding_mode="floor"),
    "softmax of images": lambda m, x: torch.softmax(x, 0),
    "where": lambda m, x: torch.where(x > 0.5, x, -x),
    "masked_fill": lambda m, x: x.masked_fill(x > 0.5, 0.0),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_linear_is_refused_by_name(name):
    model = Function(REFUSED[name], w=torch.ones(1, 4))
    with pytest.raises(UnsupportedOperator, match=r"^aten\.\w+") as caught:
        BoundedNetwork(model, torch.rand(1, 4))
    assert "\n" not in str(caught.value)


def test_recurrent_networks_are_refused():
    model = Function(lambda m, x: m.lstm(x)[0].flatten(1))
    model.lstm = nn.LSTM(2, 3, batch_first=True)
    with pytest.raises(UnsupportedOperator):
        BoundedNetwork(model, torch.rand(1, 4, 2))


def test_a_factor_of_zero_keeps_the_bounds_finite():
    model = randomise(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), Function(lambda m, x: 0.0 * x), nn.Linear(4, 2)))
    images = random_images((3,))
    for method in ("ibp", "crown"):
        bounds = BoundedNetwork(model, images).bounds(images, 0.5, method=method)
        torch.testing.assert_close(bounds.lower, model(images))
        torch.testing.assert_close(bounds.upper, model(images))
