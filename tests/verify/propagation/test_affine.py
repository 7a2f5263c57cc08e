"""The forward sweep of affine forms: sound on graphs that branch and meet, and as tight as it claims to be."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tests.levels import few, level
from tests.verify.helpers import Function, assert_neurons, assert_sound, random_images, randomise
from tests.verify.networks import NETWORKS, memory_of, network
from verify import Ball, BoundedNetwork, InputError


@pytest.mark.parametrize("seed", range(level(2, 4)))
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_errors_of_different_branches_do_not_cancel(name, seed, norm):
    """With three pixels, samples come near every corner of what neurons reach."""
    model, images = network(name, seed), random_images((3,), seed=seed)
    bounded, ball = BoundedNetwork(model, images), Ball(images, 0.5, norm, "free")
    generator = torch.Generator().manual_seed(0)
    points = torch.stack([ball.sample(generator) for _ in range(500)])
    for method in ("affine", "crown"):
        assert_neurons(bounded, points, bounded.bounds(ball, method=method), method)


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs(name):
    assert_sound(network(name, 9), (3,))


@few
@given(st.integers(0, 1000), st.integers(0, 40), st.sampled_from(list(NETWORKS)))
def test_order_reduction_only_loosens(seed, rows, name):
    """Errors without a row of their own widen boxes: looser, and as sound."""
    model, images = network(name, seed), random_images((3,), seed=seed)
    bounded, ball = BoundedNetwork(model, images), Ball(images, 0.3, "linf", "free")
    generator = torch.Generator().manual_seed(0)
    points = torch.stack([ball.sample(generator) for _ in range(100)])
    full = bounded.bounds(ball, method="affine")
    short = BoundedNetwork(model, images, memory_of(bounded.graph, 3 + rows, len(images)) * 1.001)
    reduced = short.bounds(ball, method="affine")
    assert_neurons(short, points, reduced)
    for place, (lower, upper) in reduced.intervals.items():
        assert (upper - lower).sum() >= 0.999 * (full.intervals[place][1] - full.intervals[place][0]).sum()


def test_what_is_merged_is_what_weighs_least():
    """With room for half of the errors the bounds are nearer to those with all than to those with none."""
    images = random_images((3,))
    model = network("meeting late", 1)
    bounded, ball = BoundedNetwork(model, images), Ball(images, 0.3, "linf", "free")
    widths = []
    for rows in (0, 8, 100):
        short = BoundedNetwork(model, images, memory_of(bounded.graph, 3 + rows, len(images)) * 1.001)
        bounds = short.bounds(ball, method="affine")
        widths.append(sum((upper - lower).sum().item() for lower, upper in bounds.intervals.values()))
    none, some, full = widths
    assert full < some < none
    assert some - full < none - some


def test_too_little_memory_is_one_line():
    images = random_images((3,))
    with pytest.raises(InputError, match="need at least 1 MiB, not 1e-06"):
        BoundedNetwork(network("branches", 0), images, 1e-6).bounds(images, 0.1)
    with pytest.raises(InputError, match="memory must be positive"):
        BoundedNetwork(network("branches", 0), images, 0.0)


def test_what_two_branches_share_cancels():
    """relu(h) - relu(h), on two nodes, is 0 up to their errors; 3 h - 2 h is h exactly."""
    model = Function(lambda m, x: F.relu(3 * m.a(x) - (m.a(x) + m.a(x) * 1.0)))
    model.a = nn.Linear(3, 6)
    randomise(model)
    images = random_images((3,))
    bounds = BoundedNetwork(model, images).bounds(Ball(images, 0.2, "linf", "free"), method="affine")
    ((lower, upper),) = bounds.intervals.values()
    spread = 0.2 * model.a.weight.abs().sum(1)
    torch.testing.assert_close(lower, model.a(images) - spread)
    torch.testing.assert_close(upper, model.a(images) + spread)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_as_tight_as_fast_lin(norm):
    """On a fully connected network the sweep's intervals are those of Fast-Lin (Weng et al. 2018): backward
    substitution with parallel lines of slope u / (u - l), written out here."""
    sizes = (4, 7, 6, 5)
    linears = [nn.Linear(*pair) for pair in zip(sizes, sizes[1:], strict=False)]
    model = randomise(nn.Sequential(*(layer for linear in linears for layer in (linear, nn.ReLU()))), 3)
    images = random_images((4,), 1)
    ball = Ball(images, 0.3, norm, "free")
    bounds = BoundedNetwork(model, images).bounds(ball, method="affine")
    found = list(bounds.intervals.values())
    dual = {"linf": 1, "l2": 2, "l1": torch.inf}[norm]
    lines: list[tuple[torch.Tensor, torch.Tensor]] = []  # slope and upper intercept of each ReLU
    for depth, (lower, upper) in enumerate(found):
        W, b = linears[depth].weight, linears[depth].bias
        low, high = b.clone(), b.clone()
        for linear, (slope, intercept) in zip(reversed(linears[:depth]), reversed(lines), strict=True):
            low, high = low + W.clamp(max=0) @ intercept, high + W.clamp(min=0) @ intercept
            W = W * slope
            low, high, W = low + W @ linear.bias, high + W @ linear.bias, W @ linear.weight
        spread = 0.3 * W.norm(p=dual, dim=1)
        low, high = low + W @ images[0] - spread, high + W @ images[0] + spread
        # The sweep's are intersected with intervals, which may be tighter here and there.
        assert (lower[0] >= low - 1e-9).all()
        assert (upper[0] <= high + 1e-9).all()
        if depth < 2:
            assert (lower[0] - low).abs().median() < 1e-9
        l, u = lower[0], upper[0]
        slope = torch.where(l >= 0, 1.0, torch.where(u <= 0, 0.0, u / (u - l)))
        lines.append((slope, torch.where((l < 0) & (u > 0), -l * slope, 0.0)))
