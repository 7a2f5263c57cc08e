"""Softmax and its logarithms: planes in boxes of all kinds, intervals, errors that cancel, networks."""

import itertools
from decimal import Decimal, localcontext

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from torch import Tensor, nn

from tests.verify.helpers import BALLS, Function, around, assert_sound, random_images, randomise
from verify import Ball, BoundedNetwork, UnsupportedOperator, certified_radius
from verify.operators.log_sum import LogSoftmax, LogSumExp, planes_of

OPERATORS = {
    "softmax": lambda m, x: F.softmax(3 * x, 1),
    "softmax in another place": lambda m, x: x.softmax(-1, dtype=x.dtype) * x,
    "log_softmax": lambda m, x: 1 + F.log_softmax(x, 2),
    "logsumexp": lambda m, x: torch.cat([x.logsumexp(1), x.logsumexp((1, 3), keepdim=True).squeeze(1)], 2),
    "softmin": lambda m, x: F.softmin(x, 1),
}


def boxes(corner: float, width: float, size: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    centre = corner + 2 * torch.randn(20, size, generator=generator, dtype=torch.float64)
    half = width * torch.rand(20, size, generator=generator, dtype=torch.float64)
    half[:5, 0] = 0.0
    return centre - half, centre + half


def points_of(lower: Tensor, upper: Tensor) -> Tensor:
    """Corners of the boxes and points inside, "n b k"."""
    generator = torch.Generator().manual_seed(1)
    share = torch.rand(200, *lower.shape, generator=generator, dtype=torch.float64)
    share[:100] = share[:100].round()
    share[:2] = torch.tensor([0.0, 1.0], dtype=torch.float64).view(2, 1, 1)
    return torch.maximum(torch.minimum(lower + share * (upper - lower), upper), lower)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([0.0, -3.0, 40.0, 1e4, -1e8, 1e15]),
    st.sampled_from([0.0, 1e-300, 1e-12, 1e-7, 0.1, 1.0, 5.0, 50.0, 1e3, 1e9, 1e200]),
    st.integers(1, 6),
    st.integers(0, 5),
)
def test_planes_enclose_the_function_in_every_box(corner, width, size, seed):
    """Up to what the comparison itself rounds: relative to the largest element, and to what slopes are multiplied by."""
    l, u = boxes(corner, width, size, seed)
    x = points_of(l, u)
    planes, value = planes_of(l, u, 1), x.logsumexp(-1)
    for slope, intercept, sign in ((planes.below, planes.under, 1), (planes.above, planes.over, -1)):
        line = (slope * x).sum(-1) + intercept[:, 0]
        room = 1e-15 * (value.abs() + (slope * x).abs().sum(-1) + intercept[:, 0].abs())
        assert not (sign * (line - value) > room).any()
        assert torch.isfinite(line).all() or width > 1e15


@pytest.mark.parametrize("width", [0.0, 1e-15, 1e-9])
def test_planes_hold_in_real_arithmetic(width):
    """Where they touch, nothing but what rounding is given is between them and the function."""
    with localcontext() as context:
        context.prec = 60
        for seed in range(6):
            l, u = boxes(3.0, width, 4, seed)
            planes = planes_of(l, u, 1)
            for row, x in enumerate((l / 2 + u / 2)[:4].tolist()):
                value = sum(Decimal(part).exp() for part in x).ln()
                under, over = (
                    sum(Decimal(s) * Decimal(part) for s, part in zip(slope[row].tolist(), x, strict=True))
                    + Decimal(intercept[row].item())
                    for slope, intercept in ((planes.below, planes.under), (planes.above, planes.over))
                )
                assert under <= value <= over


def test_boxes_without_an_end_claim_nothing_false():
    infinite, one = torch.full((1, 2), torch.inf, dtype=torch.float64), torch.ones(1, 2, dtype=torch.float64)
    for l, u in ((one, infinite), (-infinite, one), (-infinite, infinite), (one, one * torch.nan)):
        planes = planes_of(l, u, 1)
        value, x = one.logsumexp(1, keepdim=True), one
        assert not ((planes.below * x).sum(1, keepdim=True) + planes.under > value + 1e-12).any()
        assert not ((planes.above * x).sum(1, keepdim=True) + planes.over < value - 1e-12).any()


def envelope(l: Tensor, u: Tensor) -> float:
    """The least concave function above L in a box, in its middle: over all ways to mix the corners to it."""
    corners = torch.stack([torch.stack(corner) for corner in itertools.product(*zip(l, u, strict=True))])
    equations = torch.cat([corners, torch.ones(len(corners), 1, dtype=torch.float64)], 1).T
    goal = torch.cat([(l + u) / 2, torch.ones(1, dtype=torch.float64)])
    return -float(linprog(-corners.logsumexp(1).numpy(), A_eq=equations.numpy(), b_eq=goal.numpy()).fun)


@pytest.mark.parametrize("width", [0.1, 1.0, 4.0])
@pytest.mark.parametrize("lead", [0.0, 6.0])
def test_the_planes_are_near_the_tightest_there_are(width, lead):
    """The tangent is; over boxes of four elements the plane above is off by at most a quarter of what the best one is,
    whether one element is far larger than the others or not."""
    l, u = boxes(0.0, width, 4, 3)
    l[:, 0], u[:, 0] = l[:, 0] + lead, u[:, 0] + lead
    middle = (l + u) / 2
    planes, value = planes_of(l, u, 1), middle.logsumexp(1)
    torch.testing.assert_close((planes.below * middle).sum(1) + planes.under[:, 0], value, rtol=1e-12, atol=1e-12)
    mine = (planes.above * middle).sum(1) + planes.over[:, 0] - value
    best = torch.tensor([envelope(*box) for box in zip(l, u, strict=True)], dtype=torch.float64) - value
    assert (mine >= best - 1e-9).all()
    assert mine.sum() <= 1.25 * best.sum()


@pytest.mark.parametrize("operator", [LogSumExp, LogSoftmax])
def test_intervals_are_exact_and_hold_however_small(operator):
    function = (lambda m, x: x.logsumexp(1, keepdim=True)) if operator is LogSumExp else (lambda m, x: x.log_softmax(1))
    node = BoundedNetwork(Function(function), torch.ones(1, 4)).graph.final_node()
    assert type(node) is operator
    for dtype, ulps in ((torch.float64, 1e-14), (torch.float32, 1e-5)):
        for width in (0.0, 1e-30, 1e-10, 1e-3, 0.5, 8.0, 300.0):
            l, u = (end.to(dtype) for end in boxes(1.0, 1.0, 4, 5))
            centre, radius = (l + u) / 2, (u - l) / 2
            scale = torch.full((len(l), 1), width, dtype=dtype)
            exact, half = centre.double(), radius.double() * width
            share = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=4)), dtype=torch.float64)
            value = node.forward((exact + share[:, None] * half).flatten(0, 1)).unflatten(0, (16, -1))
            middle, found = node.centred([centre], [radius], scale)
            slack = 10 * ulps * (1 + value.abs().amax(0))
            assert (middle - found * scale <= value.amin(0) + slack).all()
            assert (middle + found * scale >= value.amax(0) - slack).all()
            tight = (value.amax(0) - value.amin(0)) / 2 * (1 + 1e-6) + 4 * slack
            assert (found.double() * width <= tight).all()
            steep = torch.autograd.functional.jacobian(lambda x: node.forward(x).sum(0), exact).abs().transpose(0, 1)
            slope = (steep * radius.double()[:, None]).sum(-1)
            if width < 1e-9:  # in units of the scale, where there is no difference left
                torch.testing.assert_close(found.double(), slope, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", OPERATORS)
def test_a_network_with_softmax_is_sound(name):
    model = around(Function(OPERATORS[name]), (3, 2, 3))
    assert_sound(model, (1, 2, 3), balls=BALLS[:1])
    assert_sound(model, (1, 2, 3), balls=BALLS[1:2], methods=("block", "affine", "crown"), scale=5)


def test_shares_are_between_0_and_1_and_sharp_ones_exact():
    """Over the whole of a box; an interval of a share is what its least and largest rivals make it."""
    images = torch.tensor([[0.0, 0.3, 1.0]], dtype=torch.float64)
    network = BoundedNetwork(Function(lambda m, x: x.softmax(1)), images)
    for epsilon in (0.1, 1.0, 100.0):
        bounds = network.bounds(images, epsilon, domain="free", method="ibp")
        assert (bounds.lower >= -1e-15).all()
        assert (bounds.upper <= 1 + 1e-12).all()
        signs = 2 * torch.eye(3, dtype=torch.float64) - 1
        extreme = torch.stack([(images + sign * signs * epsilon).softmax(1).diag() for sign in (-1, 1)])
        torch.testing.assert_close(torch.cat([bounds.lower, bounds.upper]), extreme)


@pytest.mark.parametrize("method", ["affine", "crown"])
def test_the_error_of_a_sum_is_one_error(method):
    """Differences of log-probabilities are differences of logits, and as exact."""
    layer = randomise(nn.Linear(3, 4))
    images = random_images((3,))

    def difference(m: nn.Module, x: Tensor) -> Tensor:
        shares = layer(x).log_softmax(1)
        return F.relu(shares[:, :2] - shares[:, 2:] + 0.1)

    network = BoundedNetwork(Function(difference), images)
    linear = BoundedNetwork(Function(lambda m, x: F.relu(layer(x)[:, :2] - layer(x)[:, 2:] + 0.1)), images)
    for exact in (False, True):
        mine, best = (each.double() if exact else each for each in (network, linear))
        found, expected = (each.bounds(images, 0.3, method=method) for each in (mine, best))
        torch.testing.assert_close(found.lower, expected.lower, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(found.upper, expected.upper, rtol=1e-6, atol=1e-6)


def test_the_gradient_of_bounds_passes_through_the_planes():
    model = randomise(nn.Sequential(nn.Linear(3, 5), nn.Softmax(1), nn.Linear(5, 4), nn.LogSoftmax(1)), 1)
    images, weight = random_images((3,), 2), model[0].weight
    network = BoundedNetwork(model, images)
    for method in ("ibp", "crown-ibp", "affine"):
        weight.grad = None
        network.bounds(images, 0.3, method=method).lower.sum().backward()
        ends, step = [], 1e-6
        with torch.no_grad():
            for sign in (-1, 1):
                weight[0, 1] += sign * step
                ends.append(network.bounds(images, 0.3, method=method).lower.sum())
                weight[0, 1] -= sign * step
        torch.testing.assert_close(weight.grad[0, 1], (ends[1] - ends[0]) / (2 * step), rtol=1e-3, atol=1e-4)


def test_certificates_of_probabilities_are_those_of_logits():
    """A softmax at the end changes no answer; its radii are nearly those without it."""
    logits = randomise(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)))
    images = random_images((4,))
    labels = logits(images).argmax(1)
    radii = [
        certified_radius(BoundedNetwork(model, images), images, labels, tolerance=0.02).radius
        for model in (logits, nn.Sequential(logits, nn.LogSoftmax(1)), nn.Sequential(logits, nn.Softmax(1)))
    ]
    assert (radii[0] > 0).all()
    torch.testing.assert_close(radii[1], radii[0], rtol=0.05, atol=0)
    assert (radii[2] >= 0.3 * radii[0]).all()
    model, ball = nn.Sequential(logits, nn.Softmax(1)), Ball(images, radii[2].double(), "linf")
    for seed in range(20):
        assert model(ball.sample(torch.Generator().manual_seed(seed))).argmax(1).equal(labels)


@pytest.mark.parametrize("function", [lambda x: x.softmax(0), lambda x: x.log_softmax(0), lambda x: x + x.logsumexp((0, 1))])
def test_images_do_not_meet_in_a_sum(function):
    with pytest.raises(UnsupportedOperator, match=r"^aten\.\w+.*images"):
        BoundedNetwork(Function(lambda m, x: function(x)), torch.rand(2, 4))
