"""Slopes from the worst points of affine forms: the points are where forms end, and bounds gain by the slopes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tests.levels import few, level
from tests.verify.helpers import RADII, apply, attack, lower_with, neurons_of, random_images, random_rows, randomise
from tests.verify.networks import NETWORKS, memory_of, network
from verify import Ball, BoundedNetwork
from verify.propagation.affine import AffineSweep
from verify.propagation.worst_points import WorstPoints


def deep(seed: int, width: int = 12) -> nn.Module:
    layers = [nn.Flatten(), nn.Linear(9, width)]
    for _ in range(3):
        layers += [nn.ReLU(), nn.Linear(width, width)]
    return randomise(nn.Sequential(*layers, nn.ReLU(), nn.Linear(width, 3)), seed)


def swept(bounded: BoundedNetwork, ball: Ball) -> AffineSweep | None:
    """The sweep over a ball."""
    return neurons_of(bounded, ball, "affine").outputs


@few
@given(st.integers(0, 1000), st.sampled_from(list(NETWORKS)), st.sampled_from([("linf", "unit"), ("l2", "free")]))
def test_a_form_ends_at_its_own_worst_points(seed, name, ball):
    """What a kept neuron is where its own row is least is the lower bound that the form gives."""
    images = random_images((3,), seed=seed)
    bounded, ball = BoundedNetwork(network(name, seed), images), Ball(images, 0.5, *ball)
    sweep = swept(bounded, ball)
    for kept in sweep.kept.values():
        rows = kept.rows.double()
        points = WorstPoints(sweep, rows.permute(2, 0, 1))
        low, high = points.values(next(key for key, value in sweep.kept.items() if value is kept))
        pixels = rows[:, :, :3]
        errors = rows[:, :, 3:].abs().sum(2)
        expected_low = kept.middle + ball.least(pixels) - errors
        expected_high = kept.middle - ball.least(-pixels) + errors
        torch.testing.assert_close(low.diagonal(dim1=0, dim2=2).double(), expected_low, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(high.diagonal(dim1=0, dim2=2).double(), expected_high, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("domain", ["unit", "free"])
def test_outputs_gain_and_no_attack_is_below(norm, domain):
    gains = []
    for seed in range(level(3, 6)):
        model, images, rows = deep(seed), random_images((1, 3, 3), seed=seed), random_rows(4, 3, 3, seed)
        bounded, ball = BoundedNetwork(model, images), Ball(images, RADII[norm], norm, domain)
        lower = bounded.bounds(ball, specification=rows, method="affine").lower
        plain = lower_with(bounded, neurons_of(bounded, ball, "affine"), rows)
        gains.append((lower - plain).mean().item())
        for x in attack(model, ball, rows):
            assert (apply(rows, model(x)) >= lower - 1e-9).all()
    assert sum(gains) > 0
    assert sum(gain > 0 for gain in gains) > len(gains) / 2


def test_gains_nearly_what_gradient_ascent_does():
    shares = []
    for seed in range(level(2, 6)):
        model, images, rows = deep(seed), random_images((1, 3, 3), seed=seed), random_rows(4, 3, 3, seed)
        with torch.no_grad():
            model[-1].bias.zero_()
        bounded, ball = BoundedNetwork(model, images), Ball(images, 0.15, "linf", "free")
        chosen = bounded.bounds(ball, specification=rows, method="crown").lower
        ascended = bounded.bounds(ball, specification=rows, method="alpha-crown").lower
        plain = lower_with(bounded, neurons_of(bounded, ball), rows)
        still_open = ascended < 0
        shares.append(((chosen - plain)[still_open].sum() / (ascended - plain)[still_open].sum()).item())
    assert sum(shares) / len(shares) > 0.6


def test_neurons_gain(monkeypatch):
    """Bounds of hidden neurons by backward passes with slopes of their own, against the adaptive ones."""
    widths = {}
    for choice in ("own", "adaptive"):
        for seed in range(level(2, 6)):
            images = random_images((1, 3, 3), seed=seed)
            intervals = BoundedNetwork(deep(seed), images).bounds(images, 0.1, method="crown").intervals
            last = list(intervals)[-1]
            widths.setdefault(choice, []).append((intervals[last][1] - intervals[last][0]).sum().item())
        monkeypatch.setattr(WorstPoints, "__call__", lambda points, activation: None)
    ratios = [own / adaptive for own, adaptive in zip(*widths.values(), strict=True)]
    assert max(ratios) < 1
    assert sum(ratios) / len(ratios) < 0.98


def test_images_have_slopes_of_their_own():
    """Together or alone, with neurons kept for each image: the bounds are the same."""
    images, rows = random_images((1, 3, 3), 4), random_rows(4, 3, 4)
    bounded = BoundedNetwork(deep(1), images)
    epsilon = torch.tensor([0.01, 0.3, 0.05, 0.1])
    for method in ("affine", "crown"):
        together = bounded.bounds(images, epsilon, specification=rows, method=method)
        for i in range(4):
            alone = bounded.bounds(images[i : i + 1], epsilon[i : i + 1], specification=rows[i : i + 1], method=method)
            torch.testing.assert_close(together.lower[i], alone.lower[0], rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(together.upper[i], alone.upper[0], rtol=1e-12, atol=1e-12)


@few
@given(st.integers(0, 100), st.integers(0, 60), st.sampled_from(list(NETWORKS)))
def test_neurons_are_kept_only_while_there_is_memory(seed, rows, name):
    model, images = network(name, seed), random_images((3,), seed=seed)
    bounded = BoundedNetwork(model, images)
    memory = memory_of(bounded.graph, 3 + rows, len(images)) * 1.001
    sweep = swept(BoundedNetwork(model, images, memory), Ball(images, 0.3))
    if sweep is not None:
        kept = sum(neurons.rows.nbytes for neurons in sweep.kept.values()) / 2**20
        assert sweep.used_rows * sweep.row + kept <= memory
    ample = swept(bounded, Ball(images, 0.3))
    assert ample.kept
    node, numbers = bounded.graph.final_node(), torch.zeros(len(images), 1, dtype=torch.long)
    interval = ample.interval(node)
    for memory, keeps in ((ample.memory, True), (ample.used_rows * ample.row, False)):
        ample.kept, ample.memory = {}, memory
        ample.keep(node, interval, numbers)
        assert (node.name in ample.kept) == keeps
