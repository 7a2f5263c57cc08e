"""alpha-CROWN: never looser than CROWN, sound whatever the slopes, and as good as the best slopes."""

import itertools

import pytest
import torch
from torch import nn

from tests.levels import level
from tests.verify.helpers import (
    BALLS,
    RADII,
    apply,
    assert_between,
    assert_neurons,
    attack,
    extremes,
    lower_with,
    neurons_of,
    random_images,
    random_rows,
    randomise,
)
from verify import Ball, BoundedNetwork
from verify.operators.relaxation import Slopes


def network(seed: int) -> nn.Module:
    layers = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten()]
    return randomise(nn.Sequential(*layers, nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3)), seed)


@pytest.mark.parametrize(("norm", "domain"), BALLS)
@pytest.mark.parametrize("seed", range(level(1, 3)))
def test_no_looser_than_crown_and_no_attack_below_it(norm, domain, seed):
    model, images, rows = network(seed), random_images((1, 6, 6)), random_rows(3, 3, 3, seed)
    bounded, ball = BoundedNetwork(model, images), Ball(images, RADII[norm], norm, domain)
    crown, alpha = (bounded.bounds(ball, specification=rows, method=method) for method in ("crown", "alpha-crown"))
    assert (alpha.lower >= crown.lower).all()
    assert (alpha.lower - crown.lower).max() > 1e-3
    for x in attack(model, ball, rows):
        assert (apply(rows, model(x)) >= alpha.lower).all()
    below = ball.least(alpha.line.coefficients) + alpha.line.intercept
    assert (below <= alpha.lower + 1e-9).all()


@pytest.mark.parametrize("seed", range(level(2, 6)))
def test_neurons_get_slopes_of_their_own(seed):
    """Where margins stay open their bounds are narrower than CROWN's, and hold; so the margins gain once more."""
    layers = [layer for width in (24, 24, 24) for layer in (nn.LazyLinear(width), nn.ReLU())]
    model = nn.Sequential(nn.Flatten(), *layers, nn.LazyLinear(3))
    model(torch.zeros(1, 1, 4, 4))
    model, images, rows = randomise(model, seed), random_images((1, 4, 4)), random_rows(3, 3, 3, seed)
    bounded, ball = BoundedNetwork(model, images), Ball(images, 0.3)
    crown, alpha, last = (
        bounded.bounds(ball, specification=rows, method=method, time_limit=limit)
        for method, limit in (("crown", 60.0), ("alpha-crown", 60.0), ("alpha-crown", 0.0))
    )
    widths = {name: (upper - lower) for name, (lower, upper) in crown.intervals.items()}
    gains = [(widths[name] - (upper - lower)) / widths[name] for name, (lower, upper) in alpha.intervals.items()]
    assert all((gain >= -1e-9).all() for gain in gains)
    assert max(gain.max() for gain in gains) > 0.02
    assert (alpha.lower >= last.lower).all() and (alpha.lower - last.lower).mean() > 1e-2
    points = attack(model, ball, rows)
    assert_neurons(bounded, points, alpha)
    assert_between(alpha, *extremes(model, points, rows))


def test_one_unit_gets_its_best_slope():
    """relu(x) - x / 2 on [-1, 1] is |x| / 2, at least 0; the adaptive slope 0 proves -1/2, slope 1/2 proves 0."""

    class Unit(nn.Module):
        def forward(self, x):
            return (torch.relu(x) - x / 2).expand(-1, 2)

    centre = torch.zeros(1, 1, dtype=torch.float64)
    bounded = BoundedNetwork(Unit(), centre)
    crown, alpha = (bounded.bounds(centre, 1.0, domain="free", method=m).lower for m in ("crown", "alpha-crown"))
    neurons = neurons_of(bounded, Ball(centre, 1.0, domain="free"))
    plain = lower_with(bounded, neurons, torch.eye(2, dtype=torch.float64)[None])
    assert plain.amin().item() == pytest.approx(-0.5)
    assert crown.amin().item() == pytest.approx(0, abs=1e-6)
    assert alpha.amin().item() == pytest.approx(0, abs=0.03)


def test_as_good_as_the_best_of_all_combinations_of_slopes():
    """Brute force over a grid of the slopes of a net with few unstable neurons."""
    model = randomise(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2)), 3)
    x, rows = random_images((2,), 1), random_rows(1, 2, 1)
    with torch.no_grad():
        model[2].bias -= 10 * rows[0, 0]  # the bound is negative: nothing stops early
    bounded = BoundedNetwork(model, x)
    alpha = bounded.bounds(x, 0.6, domain="free", specification=rows, method="alpha-crown").lower.item()
    neurons = neurons_of(bounded, Ball(x, 0.6, domain="free"))
    best = -torch.inf
    for slopes in itertools.product(torch.linspace(0, 1, 11).tolist(), repeat=3):
        own = Slopes(torch.arange(3)[None], torch.tensor(slopes, dtype=torch.float64).view(1, 1, 3))
        best = max(best, lower_with(bounded, neurons, rows, lambda _, own=own: own).item())
    assert alpha >= best - 0.02 * abs(best)


def test_it_stops_when_all_bounds_are_positive():
    """A certificate needs no more; so the bound is CROWN's own."""
    model, images = network(0), random_images((1, 6, 6))
    bounded, rows = BoundedNetwork(model, images), random_rows(1, 3, 3)
    lower = bounded.bounds(images, 1e-4, specification=rows).lower
    rows = rows * lower.sign().unsqueeze(-1)
    crown, alpha = (bounded.bounds(images, 1e-5, specification=rows, method=m).lower for m in ("crown", "alpha-crown"))
    assert (crown > 0).all()
    torch.testing.assert_close(alpha, crown)
