"""Piecewise linear functions: those with lines of their own, and those that are rectifiers or pools in disguise."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.verify.helpers import BALLS, Function, around, assert_sound
from verify import BoundedNetwork, UnsupportedOperator
from verify.operators.piecewise import PiecewiseLinear

SHAPE = (4, 4, 6)
ENDS = torch.tensor([-1e6, -4.0, -1.0, -0.5, -1e-9, 0.0, 1e-9, 0.2, 3.0, 6.0, 7.0, 1e6], dtype=torch.float64)
LINES = {
    "relu6": F.relu6,
    "hardtanh": lambda x: F.hardtanh(x, -0.5, 0.2),
    "clamp": lambda x: x.clamp(0.1, 0.4),
    "clip": lambda x: x.clip(-1, -1),
    "clamp in place": lambda x: (x * 1).clamp_(max=0.3),
    "clamp_min in place": lambda x: (x * 1).clamp_min_(0.3),
    "hardsigmoid": F.hardsigmoid,
    "abs": torch.abs,
    "softshrink": F.softshrink,
    "leaky_relu, steep": lambda x: F.leaky_relu(x, 1.5),
    "leaky_relu, falling": lambda x: F.leaky_relu(x, -0.2),
}


@pytest.mark.parametrize("name", LINES)
def test_the_lines_are_the_tightest_there_are(name):
    """On intervals of all kinds they enclose the function; and in the middle, where lines have their area, the lines over
    and under all chords of the function are no nearer."""
    network = BoundedNetwork(nn.Sequential(Function(lambda m, x: LINES[name](x))), torch.zeros(1, 1))
    node = network.graph.final_node()
    assert isinstance(node, PiecewiseLinear)
    l, u = (side[torch.triu(torch.ones(len(ENDS), len(ENDS))).bool()] for side in torch.meshgrid(ENDS, ENDS, indexing="ij"))
    inside = torch.cat([l + torch.linspace(0, 1, 41, dtype=torch.float64)[:, None] * (u - l),
                        *(torch.full_like(l, knot).clamp(l, u)[None] for knot in node.knots)]).clamp(l, u)  # fmt: skip
    value, slack = node.forward(inside), 1e-13 * (1 + inside.abs().amax(0))
    for lines in (node.lines(l, u), node.parallel(l, u)):
        assert (lines.upper_slope * inside + lines.upper_intercept >= value).all()
        assert (lines.lower_slope * inside + lines.lower_intercept <= value).all()
    assert node.parallel(l, u).lower_slope.equal(node.parallel(l, u).upper_slope)
    middle = l / 2 + u / 2
    left, right = torch.where(inside <= middle, inside, l), torch.where(inside >= middle, inside, u)
    share = (middle - left[:, None]) / (right[None] - left[:, None]).clamp(min=1e-300)
    chords = node.forward(left)[:, None] * (1 - share) + node.forward(right)[None] * share
    lines = node.lines(l, u)
    highest, lowest = chords.amax((0, 1)), chords.amin((0, 1))
    wide = u > l
    assert (lines.upper_slope * middle + lines.upper_intercept <= highest + slack)[wide].all()
    assert (lines.lower_slope * middle + lines.lower_intercept >= lowest - slack)[wide].all()


@pytest.mark.parametrize("name", LINES)
def test_a_piecewise_linear_function_is_sound(name):
    assert_sound(around(Function(lambda m, x: LINES[name](2 * x)), (2, 4, 3)), (1, 4, 3))
    assert_sound(around(Function(lambda m, x: LINES[name](x - 0.5)), (2, 4, 3), first=True), (2, 4, 3), methods=("ibp", "crown"))


@pytest.mark.parametrize("name", LINES)
@pytest.mark.parametrize("epsilon", [0.0, 1e-30, 1e-5, 0.1, 10.0])
def test_intervals_are_exact_however_small(name, epsilon):
    """In float32, also where a ball is far smaller than what a number near it can show, and at a kink."""
    kinks = ENDS[1:-1].float().expand(1, -1)
    network = BoundedNetwork(Function(lambda m, x: LINES[name](x)), torch.zeros_like(kinks))
    found = network.bounds(kinks, epsilon, domain="free", method="ibp")
    slopes = network.graph.final_node().slopes
    if epsilon < 1e-20:
        steep = network.width_slope(kinks, domain="free", specification=torch.eye(kinks.shape[1])).exp()
        assert (steep <= max(map(abs, slopes)) * 1.001).all()
        assert (found.lower <= found.upper).all()
        return
    x = kinks.double() + epsilon * torch.linspace(-1, 1, 2001, dtype=torch.float64)[:, None]
    value = LINES[name](x)
    torch.testing.assert_close(found.lower[0].double(), value.amin(0), rtol=1e-5, atol=1e-2 * epsilon + 1e-6)
    torch.testing.assert_close(found.upper[0].double(), value.amax(0), rtol=1e-5, atol=1e-2 * epsilon + 1e-6)


def test_a_tiny_interval_at_a_kink_has_the_steeper_side():
    """Where one side is flat, half of the ball's width; the slope at the pixel alone might say 0."""
    network = BoundedNetwork(nn.Hardtanh(), torch.zeros(1, 2))
    x = torch.tensor([[1.0, -1.0]])
    slope = network.width_slope(x, domain="free", specification=torch.eye(2)).exp()
    torch.testing.assert_close(slope, torch.tensor([[0.5, 0.5]]))


SMALL = {
    "clamp from below": lambda m, x: x.clamp(min=0.2) - x.clamp_min(0),
    "clamp from above": lambda m, x: x.clamp(max=0.2) + torch.clamp_max(-x, 0.5),
    "clamp between tensors": lambda m, x: x.clamp(m.full - 0.3, m.full),
    "threshold": lambda m, x: F.threshold(x, 0.2, 0.2),
    "prelu": lambda m, x: F.prelu(x, m.slopes),
    "prelu of one slope": lambda m, x: F.prelu(x, m.slopes[1:2]),
    "rrelu": lambda m, x: F.rrelu(x),
    "max with 0": lambda m, x: torch.maximum(x, torch.zeros_like(x)),
    "maximum": lambda m, x: torch.maximum(x, 0.3 - x.flip(1)),
    "max of two": lambda m, x: torch.max(x, m.full),
    "minimum": lambda m, x: torch.minimum(x, x.flip(2)),
    "minimum, broadcast": lambda m, x: torch.min(x, x[:, :1]),
    "amax": lambda m, x: x.amax((2, 3), keepdim=True),
    "max over a dimension": lambda m, x: x.max(1)[0] - x.max(dim=-1, keepdim=True).values.squeeze(-1)[:, :, :1],
    "min over a dimension": lambda m, x: x.min(1).values + x.amin(2)[:, :1],
    "fmax and fmin": lambda m, x: torch.fmin(torch.fmax(x, x.flip(1)), m.full),
    "aminmax": lambda m, x: sum(torch.aminmax(x, dim=1)),
    "max pool in one dimension, ceil_mode": lambda m, x: F.max_pool1d(x.flatten(2), 3, 2, ceil_mode=True),
    "max pool in three dimensions, ceil_mode": lambda m, x: F.max_pool3d(x[:, None], 3, 2, 1, ceil_mode=True),
    "max pool in one dimension": lambda m, x: F.max_pool1d(x.flatten(2), 3, 2, 1),
    "max pool in three dimensions": lambda m, x: F.max_pool3d(x[:, None], (2, 3, 2), 2, (0, 1, 1)),
    "adaptive max pool": lambda m, x: F.adaptive_max_pool2d(x, 2),
    "adaptive max pool, uneven": lambda m, x: F.adaptive_max_pool2d(x, (3, 4)),
    "adaptive max pool in three dimensions, uneven": lambda m, x: F.adaptive_max_pool3d(x[:, None], (3, 1, 4)),
    "adaptive max pool in one dimension": lambda m, x: F.adaptive_max_pool1d(x.flatten(2), 6),
    "adaptive max pool in three dimensions": lambda m, x: F.adaptive_max_pool3d(x[:, None], 2),
    "max pool with its places": lambda m, x: F.max_pool2d(x, 2, return_indices=True)[0],
}


@pytest.mark.parametrize("name", SMALL)
def test_a_rectifier_or_pool_in_disguise_is_sound(name):
    module = Function(SMALL[name], full=torch.ones(1, *SHAPE), slopes=torch.ones(4))
    assert_sound(around(module, SHAPE), (1, *SHAPE[1:]), balls=BALLS[:1], methods=("ibp", "affine", "alpha-crown"), ties=True)


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (lambda m, x: F.threshold(x, 0.2, 0.0), "threshold"),
        (lambda m, x: F.hardshrink(x), "hardshrink"),
        (lambda m, x: F.rrelu(x, training=True), "rrelu"),
        (lambda m, x: torch.where(x > 0, x, 0.0), "gt"),
        (lambda m, x: x.sign(), "sign.*tanh"),
        (lambda m, x: x.round(), "round.*certify the network without it"),
        (lambda m, x: x.max(1)[1][:, None] + x, "argmax"),
        (lambda m, x: sum(F.max_pool2d(x, 1, return_indices=True)), r"(to|_to_copy)"),
        (lambda m, x: sum(F.adaptive_max_pool2d(x, x.shape[2:], return_indices=True)), r"(to|_to_copy)"),
        (lambda m, x: x.amax(0, keepdim=True) + x, "amax"),
        (lambda m, x: x.clamp(0.5, 0.2), "clamp"),
    ],
)
def test_what_jumps_or_is_no_function_of_one_image_is_refused_by_name(function, name):
    with pytest.raises(UnsupportedOperator, match=rf"aten\.{name}") as caught:
        BoundedNetwork(nn.Sequential(Function(function), nn.Flatten()), torch.rand(1, 2, 4, 4))
    assert "\n" not in str(caught.value)


def test_two_functions_of_one_state_have_slopes_of_their_own():
    """A line of slope 0 lies below a rectifier, and above a leaky one where that is negative."""
    model = Function(lambda m, x: F.leaky_relu(x, 0.5) + 0.1 * F.relu(x))
    x, radius = torch.tensor([[0.2, 0.5, 0.8]], dtype=torch.float64) - 0.5, 0.6
    for method in ("affine", "crown", "alpha-crown"):
        bounds = BoundedNetwork(model, x).bounds(x, radius, domain="free", method=method)
        for end in (-radius, radius):
            assert (bounds.lower <= model(x + end) + 1e-12).all()
            assert (bounds.upper >= model(x + end) - 1e-12).all()
