"""Accuracy under a cheap PGD as epsilon grows: it must fall to 0, or the attack does not see the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from torch import nn

from robust_nas.attacks.base import Attack, Perturb
from robust_nas.attacks.evaluate import Target, evaluate
from robust_nas.attacks.gradient import ProjectedGradient
from robust_nas.attacks.outcomes import Attacked
from robust_nas.attacks.threats import NORM_NAMES, Threat
from robust_nas.files import atomic_path
from verify.regions import largest_epsilon

STEPS = 20
RADII = 8
_LEAST = 0.5  # of the attacks' smallest epsilon: where the sweep begins
_DPI = 130


@dataclass(frozen=True)
class Point:
    """A row of sweep.csv; its fields are the columns.

    Attributes:
        norm, epsilon: of the perturbations, in [0,1] pixels.
        accuracy: of the images, fraction that no epsilon so far changed.
    """

    norm: str
    epsilon: float
    accuracy: float


@dataclass(frozen=True)
class Sweep(Attack):
    """PGD of 20 steps at one epsilon after the other, each on what still stands.

    Attributes:
        epsilons: growing.
    """

    epsilons: tuple[float, ...]

    @property
    def name(self) -> str:
        return "sweep"

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(f"epsilon {epsilon:.3g}" for epsilon in self.epsilons)

    def stages(self, network: nn.Module, threat: Threat, classes: int, seed: int) -> Mapping[str, Perturb]:
        pgd = ProjectedGradient(STEPS, step_size=None)
        threats = (Threat(threat.norm, epsilon) for epsilon in self.epsilons)
        runs = (pgd.stages(network, narrow, classes, seed)[pgd.name] for narrow in threats)
        return dict(zip(self.parts, runs, strict=True))


def sweep(target: Target, threat: Threat, seed: int) -> list[Point]:
    """The accuracy from half of the threat's epsilon up to where the ball holds every image there is."""
    largest = largest_epsilon(threat.norm, target.examples.images.shape[1:])
    grid = np.geomspace(_LEAST * min(threat.epsilon, largest), largest, RADII).tolist()
    attack = Sweep(tuple(grid))
    widest = Threat(threat.norm, largest)
    attacked = Attacked(attack, widest, evaluate(target, attack, widest, seed))
    accuracies = attacked.accuracy_after.values()
    return [Point(threat.norm, epsilon, accuracy) for epsilon, accuracy in zip(grid, accuracies, strict=True)]


def plot_sweeps(sweeps: Sequence[Sequence[Point]], attacked: Sequence[Attacked], path: Path) -> None:
    """Draw the accuracy over epsilon, a panel for each norm, and in it the attacks that ran.

    Args:
        sweeps: one a norm.
        path: of the PNG.
    """
    figure = Figure(figsize=(5.6 * len(sweeps), 4), layout="constrained")
    for axes, points in zip(figure.subplots(1, len(sweeps), squeeze=False)[0], sweeps, strict=True):
        _draw(axes, points, [each for each in attacked if each.threat.norm == points[0].norm])
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=_DPI)


def _draw(axes: Axes, points: Sequence[Point], attacked: Sequence[Attacked]) -> None:
    epsilons, accuracies = [point.epsilon for point in points], [point.accuracy for point in points]
    axes.plot(epsilons, accuracies, marker=".", color="C0", label=f"PGD, {STEPS} steps")
    for number, each in enumerate(attacked, start=1):
        point = ([each.threat.epsilon], [each.accuracy])
        axes.plot(*point, marker="x", linestyle="", color=f"C{number}", label=each.attack.name)
    axes.set(title=NORM_NAMES[points[0].norm], xlabel="epsilon (pixel range)", ylabel="accuracy", xscale="log")
    axes.set(ylim=(-0.03, 1.03))
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())  # whose labels would overlap
    axes.grid(linewidth=0.4, alpha=0.6)
    axes.legend(fontsize="small", framealpha=0.7)
