"""What float64 cannot hold is in the bounds that confirm certificates: against exact rational arithmetic."""

from fractions import Fraction
from itertools import pairwise, product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from verify import RADIUS_METHODS, BoundedNetwork, certified_radius
from verify.bounds import FORWARD

Rows = list[list[float]]


def linear(weight: Rows, bias: list[float]) -> nn.Linear:
    layer = nn.Linear(len(weight[0]), len(weight)).double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weight))
        layer.bias.copy_(torch.tensor(bias))
    return layer


def with_relus(*layers: nn.Linear) -> nn.Sequential:
    return nn.Sequential(*(module for layer in layers for module in (layer, nn.ReLU())))[:-1]


def times(weight: Tensor, x: list[Fraction]) -> list[Fraction]:
    return [sum((Fraction(w) * value for w, value in zip(row, x, strict=True)), Fraction()) for row in weight.tolist()]


def exact(model: nn.Sequential, pixels: list[Fraction]) -> list[Fraction]:
    for layer in model:
        if isinstance(layer, nn.Linear):
            sums = times(layer.weight, pixels)
            pixels = [value + Fraction(b) for value, b in zip(sums, layer.bias.tolist(), strict=True)]
        else:
            pixels = [max(value, Fraction()) for value in pixels]
    return pixels


def bounded(model: nn.Sequential, image: list[float]) -> BoundedNetwork:
    return BoundedNetwork(model, torch.tensor([image], dtype=torch.float64)).double()


def assert_contain(
    network: BoundedNetwork, model: nn.Sequential, image: list[float], epsilon: float, rows: Tensor, method: str
) -> None:
    """The exact values at the image and at all corners are within the bounds, without any tolerance."""
    x, reach = torch.tensor([image], dtype=torch.float64), Fraction(epsilon)
    bounds = network.bounds(x, epsilon, "linf", rows, method, "free")
    for point in product(*({Fraction(pixel) - reach, Fraction(pixel), Fraction(pixel) + reach} for pixel in image)):
        (value,) = times(rows, exact(model, list(point)))
        assert not bounds.lower.item() > value  # a NaN claims nothing
        assert not bounds.upper.item() < value


CANCELLING = {
    "pixels": ([linear([[1, 1, -1]], [0]), linear([[2.0**70]], [0])], [1, 2.0**-60, 1]),
    "a bias": ([linear([[1]], [2.0**60]), linear([[1]], [-(2.0**60)]), linear([[1]], [0])], [1]),
    "weights": ([linear([[1], [1], [1]], [0, 0, 0]), linear([[2.0**60, 1, -(2.0**60)]], [0])], [1]),
    "no rectifier": ([linear([[2.0**60], [1], [2.0**60]], [0.0, 0.0, 0.0]), linear([[1, 1, -1]], [0])], [0.5]),
}


@pytest.mark.parametrize("method", FORWARD)
@pytest.mark.parametrize("epsilon", [0.0, 2.0**-80])
@pytest.mark.parametrize("case", CANCELLING)
def test_what_cancels_between_layers(case, epsilon, method):
    layers, image = CANCELLING[case]
    model, rows = with_relus(*layers), torch.ones(1, 1, dtype=torch.float64)
    assert_contain(bounded(model, image), model, image, epsilon, rows, method)


@pytest.mark.parametrize("method", FORWARD)
def test_what_cancels_in_a_specification(method):
    """Rows are merged with the last layer: 2^60 + 1 - 2^60, of weights and of biases."""
    large, rows = 2.0**60, torch.ones(1, 3, dtype=torch.float64)
    for layer in (linear([[large], [1], [-large]], [0, 0, 0]), linear([[0], [0], [0]], [large, 1, -large])):
        model = nn.Sequential(layer)
        assert_contain(bounded(model, [1.0]), model, [1.0], 0.0, rows, method)


@pytest.mark.parametrize("method", RADIUS_METHODS)
def test_a_certificate_that_only_rounding_gives(method):
    """relu(relu(x + 2^60) - 2^60) is x, but 0 in float64, and so below 1/2 in every ball around 1."""
    model = with_relus(linear([[1]], [2.0**60]), linear([[1]], [-(2.0**60)]), linear([[1], [0]], [0, 0.5]))
    image = torch.ones(1, 1, dtype=torch.float64)
    found = certified_radius(BoundedNetwork(model, image), image, torch.tensor([1]), method=method)
    assert found.radius.item() == 0


sizes = st.sampled_from([1.0, -1.0, 2.0**60, -(2.0**60)])


@st.composite
def cancelling_networks(draw: st.DrawFn) -> tuple[nn.Sequential, list[float], Tensor]:
    """Few sizes of weights, so that they cancel often, and so far apart that float64 forgets the smaller."""

    def vector(length: int) -> list[float]:
        return draw(st.lists(sizes, min_size=length, max_size=length))

    widths = draw(st.lists(st.integers(1, 3), min_size=4, max_size=4))
    layers = [linear([vector(before) for _ in range(after)], vector(after)) for before, after in pairwise(widths)]
    rows = torch.tensor([vector(widths[-1])], dtype=torch.float64)
    return with_relus(*layers), vector(widths[0]), rows


@settings(max_examples=25)
@given(cancelling_networks(), st.sampled_from([0.0, 2.0**-70]))
def test_networks_of_powers_of_two(case, epsilon):
    model, image, rows = case
    network = bounded(model, image)
    for method in FORWARD:
        assert_contain(network, model, image, epsilon, rows, method)
