"""Robustness against clean accuracy: a method that gives up accuracy for radius shows as one that moves left.

Where networks of several widths were trained, a line joins them: methods can be compared at equal accuracy.
"""

from __future__ import annotations

import math
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.tables.results import Block, is_robustness
from robust_nas.files import atomic_path

_PANELS_A_ROW = 4
_COLOURS = 10
_MARKERS = "osD^vPX*"


def robust_columns(block: Block) -> list[str]:
    """Attacks and certified radii for which some method has clean accuracy too."""
    return [
        column
        for column in block.columns[1:]
        if is_robustness(column) and any(_points(block, row, column) for row in block.rows)
    ]


def plot(block: Block, path: Path) -> bool:
    """A panel a robust column, a point a method and seed, and lines through the means of each method's networks of
    several widths; False, and no file, where there is no such point."""
    columns = robust_columns(block)
    if not columns:
        return False
    wide = min(len(columns), _PANELS_A_ROW)
    high = math.ceil(len(columns) / wide)
    rows = [row for row in block.rows if any(_points(block, row, column) for column in columns)]
    legend_columns = max(2, wide)
    legend_lines = math.ceil(len(rows) / legend_columns)
    figure = Figure(figsize=(max(5.0, 3.6 * wide), 3.2 * high + 0.5 + 0.22 * legend_lines), layout="constrained")
    for place, column in enumerate(columns, 1):
        _panel(figure.add_subplot(high, wide, place), block, rows, column)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=legend_columns, fontsize="small", frameon=False)
    figure.suptitle(f"Table {block.table}: {block.dataset}, scale {block.scale}, protocol {block.protocol}")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)
    return True


def _panel(axes: Axes, block: Block, rows: list[str], column: str) -> None:
    for row in rows:
        place, points = block.rows.index(row), _points(block, row, column)
        axes.scatter(
            [x for x, _ in points],
            [y for _, y in points],
            label=row,
            color=f"C{place % _COLOURS}",
            marker=_MARKERS[place % len(_MARKERS)],
            s=30,
            alpha=0.8,
        )
        if curve := block.over_widths(row, column):
            x, y = zip(*curve, strict=True)
            axes.plot(x, y, color=f"C{place % _COLOURS}", linewidth=0.8, marker=".", markersize=3, alpha=0.8)
    certified = column.startswith("Certified")
    axes.set(
        title=column,
        xlabel="clean accuracy (%)",
        ylabel="mean radius ([0, 1] pixels)" if certified else "accuracy (%)",
    )
    axes.grid(linewidth=0.4, alpha=0.6)


def _points(block: Block, row: str, column: str) -> list[tuple[float, float]]:
    """Clean accuracy and robustness, at the seeds that have both."""
    accuracy, robustness = (block.cells[row, name].by_seed for name in (block.columns[0], column))
    return [(accuracy[seed], robustness[seed]) for seed in sorted(set(accuracy) & set(robustness))]
