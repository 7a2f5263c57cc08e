"""Smooth functions: their lines on intervals of all kinds, their intervals, and networks with them."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tests.levels import few
from tests.verify.helpers import BALLS, Function, around, assert_sound, random_images, randomise
from verify import Ball, BoundedNetwork, certified_radius
from verify.graph.lirpa import BoundedModule, BoundedTensor, PerturbationLpNorm
from verify.operators.curve import Curve

CURVES = {
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "elu": F.elu,
    "elu, steeper": lambda x: F.elu(x, 1.7),
    "selu": F.selu,
    "celu": lambda x: F.celu(x, 0.5),
    "softplus": F.softplus,
    "softplus, another": lambda x: F.softplus(x, 2.0, 5.0),
    "logsigmoid": F.logsigmoid,
    "gelu": F.gelu,
    "gelu by tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "mish": F.mish,
    "hardswish": F.hardswish,
    "exp": torch.exp,
    "expm1": torch.expm1,
    "sinh": torch.sinh,
    "cosh": torch.cosh,
    "erf": torch.erf,
    "atan": torch.atan,
    "log": torch.log,
    "sqrt": torch.sqrt,
    "sin": torch.sin,
    "cos": torch.cos,
    "square": torch.square,
    "cube": lambda x: x**3,
    "fourth": lambda x: x.pow(4),
    "reciprocal": torch.reciprocal,
    "reciprocal of the root": torch.rsqrt,
    "a power": lambda x: x**2.5,
    "a root": lambda x: x**0.3,
    "a negative power": lambda x: x**-3,
    "a negative root": lambda x: x**-0.4,
}
POSITIVE = ("log", "sqrt", "reciprocal", "reciprocal of the root", "a power", "a root", "a negative power", "a negative root")
SHARES = torch.linspace(0, 1, 401, dtype=torch.float64)[:, None]


def node_of(name: str) -> Curve:
    node = BoundedNetwork(Function(lambda m, x: CURVES[name](x)), torch.ones(1, 1)).graph.final_node()
    assert isinstance(node, Curve)
    return node


NODES = {name: node_of(name) for name in CURVES}


def intervals(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Between ends huge, tiny, next to each other and at the knots; and points."""
    ends = [0.0, 1e-300, 1e-9, 0.3, 1.0, 3.0, 5.7, 19.0, 21.0, 800.0, 1e5, 1e9, 1e300, *NODES[name].knots, *NODES[name].turns]
    ends = [end for end in ends if end >= 0] if name in POSITIVE else ends + [-end for end in ends]
    ends += [math.nextafter(end, math.inf) for end in ends if end < 1e10]
    grid = torch.meshgrid(*[torch.tensor(sorted(ends), dtype=torch.float64)] * 2, indexing="ij")
    return tuple(side[torch.triu(torch.ones(len(ends), len(ends))).bool()] for side in grid)


def points(l: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """Of each interval: everywhere, and near its ends and near 0, as logarithms go."""
    near = torch.logspace(-12, 2, 60, dtype=torch.float64)[:, None]
    return torch.cat([l * (1 - SHARES) + u * SHARES, l + near, u - near, near + 0 * l, -near + 0 * l]).clamp(l, u)


@pytest.mark.parametrize("name", CURVES)
def test_the_lines_enclose_the_curve_on_every_interval(name):
    """Without any tolerance but what the comparison itself rounds."""
    l, u = intervals(name)
    x = points(l, u)
    value = NODES[name].value(x)  # torch's own is off by rounding relative to x, in the tail of a GELU
    for lines in (NODES[name].lines(l, u), NODES[name].parallel(l, u)):
        below, above = lines.lower_slope * x + lines.lower_intercept, lines.upper_slope * x + lines.upper_intercept
        for slope, intercept in (lines[:2], lines[2:]):
            assert (torch.isfinite(slope) | torch.isnan(intercept)).all()
        room = 4e-16 * ((lines.lower_slope * x).abs() + (lines.upper_slope * x).abs() + value.abs())
        assert not (below > value + room).any(), (l, u)
        assert not (above < value - room).any()
        assert torch.isfinite(lines.lower_slope)[(u - l < 30) & (u.abs() < 20) & (l.abs() < 20) & (l > 1e-6)].all()
    assert not (NODES[name].parallel(l, u).lower_slope != NODES[name].parallel(l, u).upper_slope).any()


@pytest.mark.parametrize("name", CURVES)
def test_lines_of_intervals_without_an_end_claim_nothing_false(name):
    x = torch.tensor([1.0, 3.0, 1e4, 1e300], dtype=torch.float64)
    infinite = torch.full_like(x, math.inf)
    for l, u in ((x, infinite), (-infinite, -x), (-infinite, infinite), (x * math.nan, x)):
        lines = NODES[name].lines(l, u)
        inside = torch.where(l > 0, x, -x)
        value = CURVES[name](inside)
        assert not (lines.lower_slope * inside + lines.lower_intercept > value + 1e-15 * value.abs()).any()
        assert not (lines.upper_slope * inside + lines.upper_intercept < value - 1e-15 * value.abs()).any()


def best_area(name: str, l: float, u: float) -> float:
    """Between the best two lines of slopes on a fine grid, by brute force."""
    x = torch.linspace(l, u, 4001, dtype=torch.float64)
    value, slopes = CURVES[name](x), NODES[name].derivative(x[::10])
    slopes = torch.linspace(float(slopes.min()), float(slopes.max()), 4001, dtype=torch.float64)[:, None]
    middle = slopes[:, 0] * (l + u) / 2
    above = min(((value - part * x).amax(1) + at).min() for part, at in zip(slopes.split(500), middle.split(500), strict=True))
    below = max(((value - part * x).amin(1) + at).max() for part, at in zip(slopes.split(500), middle.split(500), strict=True))
    return float(above - below)


@pytest.mark.parametrize("name", CURVES)
def test_the_lines_are_as_tight_as_any(name):
    for l, u in ((-1.0, 1.5), (-4.0, 0.7), (0.4, 2.5), (-3.0, 3.0), (-0.2, 8.0)):
        if name in POSITIVE:
            l, u = abs(l) + 0.01, u + 5
        lower, upper = (torch.tensor([end], dtype=torch.float64) for end in (l, u))
        lines = NODES[name].lines(lower, upper)
        middle = (l + u) / 2
        mine = float((lines.upper_slope - lines.lower_slope) * middle + lines.upper_intercept - lines.lower_intercept)
        if not (name == "sin" or name == "cos") or u - l < 6.28:
            assert mine <= best_area(name, l, u) * 1.001 + 1e-9, (l, u)


def areas_of_stock(module: nn.Module, l: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """Between auto_LiRPA's two lines, over the width of each interval; in float32, as it is used."""
    lower, upper = l.float()[None], u.float()[None]
    stock = BoundedModule(nn.Sequential(module), lower)
    ball = BoundedTensor(lower / 2 + upper / 2, PerturbationLpNorm(norm=torch.inf, x_L=lower, x_U=upper))
    names = stock.output_name[0], stock.input_name[0]
    *_, found = stock.compute_bounds(x=(ball,), method="backward", return_A=True, needed_A_dict={names[0]: {names[1]}})
    lines = found[names[0]][names[1]]
    slopes = lines["uA"][0].diagonal() - lines["lA"][0].diagonal()
    return (slopes * ball[0] + lines["ubias"][0] - lines["lbias"][0]).double()


@pytest.mark.parametrize(("name", "module"), [("sigmoid", nn.Sigmoid()), ("tanh", nn.Tanh())])
def test_the_lines_are_no_looser_than_those_of_auto_lirpa(name, module):
    """Wherever its curves are these: it has no GELU, SiLU or ELU."""
    ends = torch.linspace(-9, 9, 25, dtype=torch.float64)
    l, u = (side[torch.triu(torch.ones(25, 25), 1).bool()] for side in torch.meshgrid(ends, ends, indexing="ij"))
    lines, middle = NODES[name].lines(l, u), (l + u) / 2
    mine = (lines.upper_slope - lines.lower_slope) * middle + lines.upper_intercept - lines.lower_intercept
    assert (mine <= areas_of_stock(module, l, u) * 1.001 + 1e-5).all()


@pytest.mark.parametrize("name", CURVES)
def test_the_derivative_is_the_functions(name):
    x = torch.linspace(0.01 if name in POSITIVE else -12, 12, 1001, dtype=torch.float64).requires_grad_()
    (expected,) = torch.autograd.grad(CURVES[name](x).sum(), x)
    torch.testing.assert_close(NODES[name].derivative(x.detach()), expected, rtol=1e-9, atol=1e-14)
    torch.testing.assert_close(NODES[name].value(x.detach()), CURVES[name](x.detach()), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", CURVES)
def test_between_knots_a_curve_bends_one_way(name):
    node = NODES[name]
    edges = [0.01 if name in POSITIVE else -12.0, *node.knots, 12.0] if name not in ("sin", "cos") else [0.0, math.pi / 2]
    for left, right in zip(edges, edges[1:], strict=False):
        x = torch.linspace(left, right, 400, dtype=torch.float64)[1:-1]
        change = node.derivative(x).diff()
        assert (change >= -1e-12).all() or (change <= 1e-12).all(), (left, right)
    for turn in node.turns if name not in ("sin", "cos", "softplus", "softplus, another") else ():
        assert abs(float(node.derivative(torch.tensor(turn, dtype=torch.float64)))) < 1e-9


@few
@given(st.sampled_from(list(CURVES)), st.floats(-15, 15), st.sampled_from([0.0, 1e-30, 1e-12, 1e-6, 1e-3, 0.5, 20.0]))
def test_intervals_hold_and_are_tight_however_small(name, centre, radius):
    node = NODES[name]
    if name in POSITIVE:
        centre = abs(centre) + radius + 0.01
    for dtype, ulps in ((torch.float64, 1e-15), (torch.float32, 1e-6)):
        c, r = torch.tensor([[centre]], dtype=dtype), torch.tensor([[1.0]], dtype=dtype)
        scale = torch.tensor([[radius]], dtype=dtype)
        x = c.double() + radius * torch.linspace(-1, 1, 2001, dtype=torch.float64)
        value = CURVES[name](x)
        for relaxed in (False, True):
            middle, half = node.centred([c], [r], scale, relaxed)
            slack = 20 * ulps * (1 + value.abs().max() + abs(centre) * node.steepest(c, c).double())
            assert (middle - half * scale).double() <= value.min() + slack
            assert (middle + half * scale).double() >= value.max() - slack
        steep = node.derivative(x).abs().max()
        assert node.centred([c], [r], scale)[1] <= steep * (1 + 1e-3) + 1e-4 + slack / (radius + 1e-300) * (radius > 1e-9)


def test_intervals_hold_where_softplus_falls():
    """Torch's is x from 20 on, and 20 + 2e-9 just before; no derivative tells."""
    node = NODES["softplus"]
    scale, one = torch.full((1, 1), 1e-9, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
    for centre in (20 - 5e-10, 20.0, 20 + 5e-10):
        c = centre * one
        value = F.softplus(c + torch.linspace(-1e-9, 1e-9, 101, dtype=torch.float64))
        middle, half = node.centred([c], [one], scale)
        assert middle - half * scale <= value.min() + 1e-14
        assert middle + half * scale >= value.max() - 1e-14


NETWORKS = [name for name in CURVES if name not in POSITIVE]


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_with_a_curve_is_sound(name):
    assert_sound(around(Function(lambda m, x: CURVES[name](x)), (2, 3, 3)), (1, 3, 3), balls=BALLS[:2])


@pytest.mark.parametrize("name", [*POSITIVE, "gelu", "sin"])
def test_a_network_that_begins_with_a_curve_is_sound(name):
    model = around(Function(lambda m, x: CURVES[name](1.5 + x)), (2, 3, 3), first=True)
    assert_sound(model, (2, 3, 3), balls=BALLS[1:], methods=("ibp", "block", "crown", "alpha-crown"))


def test_a_logarithm_of_what_may_be_negative_claims_nothing():
    images = random_images((3,))
    network = BoundedNetwork(nn.Sequential(nn.Linear(3, 3), Function(lambda m, x: x.log())).double(), images)
    for method in ("ibp", "crown"):
        assert not torch.isfinite(network.bounds(images, 2.0, method=method).lower).any()


@pytest.mark.parametrize("module", [nn.Sigmoid(), nn.GELU(), nn.Softplus()])
def test_certificates_of_smooth_networks_hold(module):
    model = randomise(nn.Sequential(nn.Linear(4, 8), module, nn.Linear(8, 8), module, nn.Linear(8, 3)))
    images = random_images((4,))
    labels = model(images).argmax(1)
    network = BoundedNetwork(model, images)
    found = certified_radius(network, images, labels, tolerance=0.2)
    assert (found.radius > 0).all()
    ball = Ball(images, found.radius.double(), "linf")
    for _ in range(50):
        assert model(ball.sample(torch.Generator().manual_seed(_))).argmax(1).equal(labels)


def test_the_gradient_of_bounds_passes_through_the_lines():
    """Against differences, on intervals that hold knots and on others; no slopes are chosen, and none are held."""
    model = randomise(nn.Sequential(nn.Linear(3, 5), nn.GELU(), nn.Linear(5, 4), nn.Sigmoid(), nn.Linear(4, 2)), 1)
    images, weight = random_images((3,), 2), model[0].weight
    network = BoundedNetwork(model, images)
    network.bounds(images, 0.3, method="crown-ibp").lower.sum().backward()
    step = 1e-6
    with torch.no_grad():
        ends = []
        for sign in (-1, 1):
            weight[0, 1] += sign * step
            ends.append(network.bounds(images, 0.3, method="crown-ibp").lower.sum())
            weight[0, 1] -= sign * step
    torch.testing.assert_close(weight.grad[0, 1], (ends[1] - ends[0]) / (2 * step), rtol=1e-3, atol=1e-4)
