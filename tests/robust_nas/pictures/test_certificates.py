"""The curves say what the radii say, and the pictures are there."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from matplotlib.image import imread

from robust_nas.pictures.certificates import Attacked, Radii, draw_accuracies, plot_extremes, plot_radii
from robust_nas.pictures.comparison import plot_comparison

RADII = Radii.of([0.0, 0.1, 0.2, 0.0], [0.3, 0.15, math.inf, 0.0], [True, True, True, False])
SIZE = st.sampled_from([0.0, 0.01, 0.1, 0.3])


def curve(axes, name):
    (line,) = [line for line in axes.lines if line.get_label() == name]
    return line.get_xdata(), line.get_ydata()


@given(st.lists(st.tuples(SIZE, st.one_of(SIZE, st.just(math.inf)), st.booleans()), min_size=1, max_size=6))
def test_the_curves_are_the_shares_at_every_epsilon(rows):
    rows = [(min(radius, attacked) if correct else 0.0, attacked, correct) for radius, attacked, correct in rows]
    axes = Figure().subplots()
    draw_accuracies(axes, Radii.of(*zip(*rows, strict=True)))
    for name, holds in (
        ("certified", lambda row, epsilon: row[2] and row[0] >= epsilon),
        ("under attack", lambda row, epsilon: row[2] and row[1] > epsilon),
    ):
        x, y = curve(axes, name)
        assert all(y[i] == pytest.approx(np.mean([holds(row, epsilon) for row in rows])) for i, epsilon in enumerate(x))
        falls = np.flatnonzero(np.diff(y))
        assert (np.diff(x)[falls] < 1e-15).all()  # steps, not slopes


def test_a_certified_curve_ends_at_the_accuracy_and_starts_there():
    axes = Figure().subplots()
    draw_accuracies(axes, RADII)
    x, y = curve(axes, "certified")
    assert y[np.flatnonzero(x == 0)[0]] == 0.75 and y[-1] == 0


def test_the_picture_of_radii(tmp_path):
    assert imread(plot_radii(RADII, "l-infinity", tmp_path / "a.png")).ndim == 3
    nothing = Radii.of([0.0], [0.0], [False])
    assert imread(plot_radii(nothing, "l-infinity", tmp_path / "b.png")).ndim == 3


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_the_picture_of_both_ends(tmp_path, channels):
    image = torch.rand(channels, 5, 5, dtype=torch.float64)
    changed = Attacked(image, image + 0.1, 3, 4, 0.01, 0.1)
    unchanged = Attacked(image, image, 3, 3, 0.01, math.inf)
    assert imread(plot_extremes([changed], [unchanged], tmp_path / "a.png")).ndim == 3
    assert imread(plot_extremes([unchanged], [], tmp_path / "b.png")).ndim == 3


def test_several_runs_in_one_picture(tmp_path):
    runs = {f"run {place}": RADII for place in range(9)}
    assert imread(plot_comparison(runs, tmp_path / "a.png")).ndim == 3
