"""The look of all pictures: Okabe and Ito's colours, which colour-blind people tell apart, on white."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from robust_nas.files import atomic_path

BLUE, RED, ORANGE, GREEN, PURPLE, SKY = "#0072B2", "#D55E00", "#E69F00", "#009E73", "#CC79A7", "#56B4E9"
COLOURS = (BLUE, RED, GREEN, ORANGE, PURPLE, SKY, "#000000")
MARKERS = "osD^vPX"
"""A shape beside every colour, because a print may have none."""
DPI = 130


def figure(width: float, height: float) -> Figure:
    """An empty figure, in inches, whose parts find their own places."""
    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def finish(axes: Axes, title: str, x: str, y: str) -> None:
    """Names and a thin grid."""
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.grid(linewidth=0.4, alpha=0.6)


def write(figure: Figure, path: Path) -> Path:
    """Write the figure whole or not at all, in the format of the path's suffix."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=DPI)
    return path
