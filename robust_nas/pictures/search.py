"""Pictures of a search: its architecture parameters, at the end and as they grew, and its course."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Shaped
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator
from PIL import Image
from torch import Tensor

from robust_nas.files import atomic_path
from robust_nas.pictures.style import BLUE, GREEN, ORANGE, PURPLE, RED, figure, write
from robust_nas.spaces.operations import PRIMITIVES

_FRAMES = 30
_FRAME_MS, _LAST_MS = 250, 2000
_FEW = 60  # values of a course that are drawn as points too
_MANY = 300  # and from here on as a pale line under the medians of a hundredth of the course each


@dataclass(frozen=True)
class _Panel:
    """Figures that share axes: columns of the log, each with its name in the legend and its colour."""

    title: str
    unit: str
    lines: Mapping[str, tuple[str, str]]
    log: bool = False


_PANELS = (
    _Panel("loss", "cross-entropy", {"train_loss": ("training", BLUE), "val_loss": ("validation", RED)}),
    _Panel("robustness", "R", {"robustness": ("R", BLUE)}),
    _Panel(
        "gradients in alpha",
        "l2 norm",
        {"loss_gradient": ("of the validation loss", RED), "robustness_gradient": ("of gamma R", BLUE)},
        log=True,
    ),
    _Panel("angle between the two gradients", "cosine", {"cosine": ("cosine", BLUE)}),
    _Panel(
        "bounds",
        "pixel range / logits",
        {"epsilon": ("epsilon (pixel range)", BLUE), "gap": ("gap of the bounds (logits)", PURPLE)},
        log=True,
    ),
    _Panel("entropy of an edge's operations", "nats", {"alpha_entropy": ("entropy", BLUE)}),
    _Panel(
        "operations of the genotype",
        "number in both cells",
        {"convolutions": ("convolutions", BLUE), "pools": ("pools", ORANGE), "skips": ("skip connections", GREEN)},
    ),
    _Panel(
        "weight of pools and skips",
        "share of softmax(alpha)",
        {"pool_share": ("pools", ORANGE), "skip_share": ("skip connections", GREEN)},
    ),
    _Panel("curvature of the validation loss", "top eigenvalue in alpha", {"eigenvalue": ("eigenvalue", BLUE)}),
)


Alphas = Mapping[str, Float[Tensor, "edges ops"]]
"""Architecture parameters by kind of cell."""
Operations = Mapping[str, Sequence[Sequence[str]]]
"""The names of alpha's columns, for every edge; what an edge does not have is left blank."""


def plot_alphas(alphas: Alphas, operations: Operations, nodes: int, path: Path) -> None:
    """Write heat maps of softmax(alpha), one a kind of cell, edges by operations.

    Args:
        nodes: intermediate nodes a cell.
        path: of the PNG.
    """
    write(_alphas(alphas, operations, nodes, None), path)


def animate_alphas(course: Sequence[Alphas], operations: Operations, nodes: int, path: Path) -> None:
    """Write the same heat maps as an animation, a frame for every epoch of the course, or for some of a long one.

    Args:
        course: alphas at the end of each epoch.
        nodes: intermediate nodes a cell.
        path: of the GIF.
    """
    most = max(float(torch.softmax(alpha, 1).max()) for alphas in course for alpha in alphas.values())
    frames = []
    for epoch in np.unique(np.linspace(0, len(course) - 1, _FRAMES).round().astype(int)):
        picture = _alphas(course[epoch], operations, nodes, most)
        picture.suptitle(f"after epoch {epoch + 1} of {len(course)}")
        canvas = FigureCanvasAgg(picture)
        canvas.draw()
        frames.append(Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB"))
    with atomic_path(path) as temporary:
        times = [_FRAME_MS] * (len(frames) - 1) + [_LAST_MS]
        frames[0].save(temporary, save_all=True, append_images=frames[1:], duration=times, loop=0)


def _alphas(alphas: Alphas, operations: Operations, nodes: int, most: float | None) -> Figure:
    """The heat maps; with `most`, all of one scale."""
    edges = [f"{source} → {target}" for target in range(2, 2 + nodes) for source in range(target)]
    picture = figure(5.2 * len(alphas), 1.8 + 0.34 * len(edges))
    panels = picture.subplots(1, len(alphas), squeeze=False)[0]
    for axes, (cell, alpha) in zip(panels, alphas.items(), strict=True):
        image = axes.imshow(_heat(alpha, operations[cell]), cmap="viridis", vmin=0, vmax=most, aspect="auto")
        axes.set_xticks(range(len(PRIMITIVES)), PRIMITIVES, rotation=40, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(edges)), edges)
        axes.set(title=f"{cell} cell", ylabel="input → node")
        picture.colorbar(image, ax=axes, label="softmax(alpha)")
    return picture


def _heat(alpha: Float[Tensor, "edges ops"], operations: Sequence[Sequence[str]]) -> np.ndarray:
    """softmax(alpha) as a matrix, edges by `PRIMITIVES`, NaN for an operation that the edge does not have."""
    heat = np.full((len(alpha), len(PRIMITIVES)), math.nan)
    for row, weights, names in zip(heat, torch.softmax(alpha.detach().cpu().double(), dim=1), operations, strict=True):
        row[[PRIMITIVES.index(name) for name in names]] = weights
    return heat


def plot_search(rows: Sequence[Mapping[str, float | int | None]], path: Path) -> None:
    """Write the course of a search, step by step: a panel for each group of figures that the log holds.

    Args:
        rows: of the log, one a step. A column may be absent, and its value None or not finite.
        path: of the PNG.
    """
    drawn = [(panel, _courses(rows, panel)) for panel in _PANELS]
    shown = [(panel, courses) for panel, courses in drawn if courses]
    across = min(3, math.ceil(math.sqrt(len(shown))))
    down = math.ceil(len(shown) / across)
    picture = figure(4.6 * across, 2.9 * down)
    picture.set_layout_engine(ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1))
    grid = picture.subplots(down, across, squeeze=False).ravel()
    for axes, (panel, courses) in zip(grid, shown, strict=False):
        _draw(axes, panel, courses)
    for axes in grid[len(shown) :]:
        axes.remove()
    write(picture, path)


def _courses(
    rows: Sequence[Mapping[str, float | int | None]], panel: _Panel
) -> dict[str, Float[np.ndarray, " steps"]]:
    """The panel's columns that hold something to draw; NaN where a step does not."""
    courses = {}
    for name in panel.lines:
        found = [row.get(name) for row in rows]
        values = np.array([math.nan if value is None else float(value) for value in found])
        values[~np.isfinite(values) | (panel.log & (values <= 0))] = math.nan
        if not np.isnan(values).all():
            courses[name] = values
    return courses


def _draw(axes: Axes, panel: _Panel, courses: Mapping[str, Float[np.ndarray, " steps"]]) -> None:
    """The courses in thin lines; a long one pale under its medians, a short one with points."""
    for name, course in courses.items():
        label, colour = panel.lines[name]
        steps = np.flatnonzero(~np.isnan(course))
        values = course[steps]
        if len(steps) >= _MANY:
            axes.plot(steps + 1, values, color=colour, linewidth=0.5, alpha=0.25)
            steps, values = (_medians(array) for array in (steps, values))
        marker = "." if len(steps) <= _FEW else ""
        axes.plot(steps + 1, values, color=colour, label=label, linewidth=1, marker=marker, markersize=4)
    axes.set(title=panel.title, xlabel="step", ylabel=panel.unit, xlim=(0, len(course) + 1))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.set_yscale("log" if panel.log else "linear")
    axes.grid(linewidth=0.4, alpha=0.6)
    if len(panel.lines) > 1:
        axes.legend(fontsize="small", framealpha=0.7)


def _medians(values: Shaped[np.ndarray, " n"]) -> Float[np.ndarray, "100"]:
    return np.array([np.median(part) for part in np.array_split(values, 100)])
