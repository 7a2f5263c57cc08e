"""Powers and quotients: no bound where the denominator may be 0; mirrored on the other side; networks that divide."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.verify.helpers import BALLS, Function, around, assert_sound, random_images
from verify import BoundedNetwork, UnsupportedOperator, certified_radius
from verify.operators.curve import Curve

QUOTIENTS = {
    "x / y": lambda m, x: x / (1.5 + F.relu(x.flip(1))),
    "x / -y": lambda m, x: x / (-1.5 - x.flip(1).square()),
    "1 / x": lambda m, x: 1 / (x.abs() + 0.7),
    "by a sum": lambda m, x: x.exp() / x.exp().sum(1, keepdim=True),
    "a constant by x": lambda m, x: m.w / (x.square() + 0.5),
    "x / |x|": lambda m, x: x / (0.3 + x.norm(dim=1, keepdim=True)),
    "normalised": lambda m, x: F.normalize(x + 3.0 * m.w, dim=1),
    "in place": lambda m, x: (x * 1).div_(x.square() + 1),
    "softsign": lambda m, x: F.softsign(x),
    "addcdiv": lambda m, x: torch.addcdiv(x, x.flip(1), 2 + x.square(), value=0.5),
    "a root of a sum": lambda m, x: (x.square().mean(1, keepdim=True) + 1e-3).rsqrt(),
    "powers": lambda m, x: (x.square() + 0.1) ** -1.5 + (x.abs() + 0.1) ** 0.5 + (2 + x.sigmoid()) ** -2,
}


@pytest.mark.parametrize("name", QUOTIENTS)
def test_a_quotient_is_sound(name):
    operator = Function(QUOTIENTS[name], w=torch.ones(1, 2, 1, 1))
    assert_sound(around(operator, (2, 3, 3)), (1, 3, 3), balls=BALLS[:2], scale=0.5)


@pytest.mark.parametrize("exponent", [-1, -2, -3])
def test_powers_are_bounded_on_either_side_of_0_and_not_across(exponent):
    node = BoundedNetwork(Function(lambda m, x: x**exponent), torch.ones(1, 1)).graph.final_node()
    assert isinstance(node, Curve)
    l, u = torch.tensor([[0.5, 1e-3, 2.0, 1e-90], [0.7, 4.0, 2.0, 1e90]], dtype=torch.float64)
    x = l + torch.linspace(0, 1, 201, dtype=torch.float64)[:, None] * (u - l)
    for low, high, inside in ((l, u, x), (-u, -l, -x)):
        for lines in (node.lines(low, high), node.parallel(low, high)):
            value = inside**exponent
            assert (lines.lower_slope * inside + lines.lower_intercept <= value + 1e-15 * value.abs()).all()
            assert (lines.upper_slope * inside + lines.upper_intercept >= value - 1e-15 * value.abs()).all()
    across = torch.tensor([[-1.0, -1.0, 0.0, -1e-300], [1.0, 0.0, 1.0, 1e-300]], dtype=torch.float64)
    for lines in (node.lines(*across), node.parallel(*across)):
        below = lines.lower_slope * across + lines.lower_intercept
        above = lines.upper_slope * across + lines.upper_intercept
        assert not (below > -1e300).any()
        assert not (above < 1e300).any()
    middle, half = node.centred([across.mean(0)[None]], [(across[1] - across[0])[None] / 2], torch.ones(1, 1).double())
    assert not torch.isfinite(middle + half).any()


def test_lines_hold_where_a_slope_has_lost_its_digits():
    """1 / x^4 is as small as float64 has numbers, with few digits, and times x it is no smaller than 1 / x^3."""
    node = BoundedNetwork(Function(lambda m, x: x**-3), torch.ones(1, 1)).graph.final_node()
    assert isinstance(node, Curve)
    l = torch.logspace(76, 82, 200, dtype=torch.float64)
    u = l * torch.linspace(1.01, 4.0, 200, dtype=torch.float64)
    near = torch.logspace(-7, -1, 200, dtype=torch.float64)[:, None]
    x = torch.cat([(l / 2 + u / 2) * (1 + near), (l / 2 + u / 2) * (1 - near), l[None], u[None]]).clamp(l, u)
    for lines in (node.lines(l, u), node.parallel(l, u)):
        assert not (lines.lower_slope * x + lines.lower_intercept > x**-3 * (1 + 1e-14)).any()
        assert not (lines.upper_slope * x + lines.upper_intercept < x**-3 * (1 - 1e-14)).any()


@pytest.mark.parametrize("function", [lambda m, x: 1 / (x - 0.5), lambda m, x: x / x, lambda m, x: (x - 0.5).rsqrt()])
def test_what_may_divide_by_0_proves_nothing(function):
    images = random_images((3,), 2)
    model = nn.Sequential(Function(function), nn.Linear(3, 2)).double()
    network = BoundedNetwork(model, images)
    for method in ("ibp", "block", "crown-ibp", "crown"):
        bounds = network.bounds(images, 1.0, method=method)
        assert not torch.isfinite(bounds.lower).any()
        assert not torch.isfinite(bounds.upper).any()


def test_a_certificate_of_a_network_that_divides_ends_before_the_pole():
    """Of 1 / (x - 0.2) at 0.5 against the constant 1: the answer changes at 1.2 and at the pole."""
    model = Function(lambda m, x: torch.cat([1 / (x - 0.2), torch.ones_like(x)], 1))
    image = torch.full((1, 1), 0.5)
    found = certified_radius(BoundedNetwork(model, image), image, torch.tensor([0]))
    assert 0.25 < found.radius.item() < 0.3


@pytest.mark.parametrize("exponent", [0, 65, -100, math.inf])
def test_powers_without_a_rule_are_refused(exponent):
    with pytest.raises(UnsupportedOperator, match="exponent"):
        BoundedNetwork(Function(lambda m, x: (x + 1) ** exponent), torch.rand(1, 2))


def test_a_division_by_a_constant_stays_a_division():
    """As a product with a reciprocal it would have another rounding, of the constant."""
    network = BoundedNetwork(Function(lambda m, x: x / m.w, w=torch.tensor([3.0])), torch.rand(1, 2))
    assert [node.call.name for node in network.graph.nodes if node.inputs] == ["aten.div.Tensor"]
