"""Pictures of an architecture's cells.

Inputs, nodes and output stand on one line, from left to right. Every operation runs along a lane above or
below the line and carries its name in the gap before its target, so that names never overlap; a bus under all
lanes collects the nodes that make the output.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path as Curve

from robust_nas.files import atomic_path
from robust_nas.genotype import Architecture, CellPlan

Point = tuple[float, float]

FAMILIES = {"conv": "#1f5fa8", "pool": "#b3541e", "skip": "#3f7d3a"}
TITLES = {"normal": "Normal cell", "reduce": "Reduction cell (inputs 0 and 1 at stride 2)"}
GREY = "#8a8a8a"
INK = "#222222"

# All lengths are in inches; y = 0 is the line of the nodes.
COLUMN = 1.75
LANE = 0.42
FIRST_LANE = 0.62
MARGIN = 0.75
BOX = (0.86, 0.5)
PORT = 0.13
CORNER = 0.12


@dataclass(frozen=True)
class Lane:
    """Where an operation runs: from state `source` to `target`, `level` lanes (1, 2, ...) above or below."""

    operation: str
    source: int
    target: int
    side: int
    level: int

    @property
    def height(self) -> float:
        """The lane's y."""
        return self.side * (FIRST_LANE + LANE * (self.level - 1))


def draw(architecture: Architecture, out: Path) -> list[Path]:
    """Draw every different cell, by its name, as a PNG and an SVG file in the folder `out`; the paths."""
    paths = []
    for name, plan in architecture.plans().items():
        figure = draw_cell(plan, TITLES.get(name, name.replace("_", " ").capitalize()))
        for suffix in ("png", "svg"):
            path = out / f"{name}.{suffix}"
            with atomic_path(path) as temporary:
                figure.savefig(temporary, dpi=160, metadata={"Date": None} if suffix == "svg" else None)
            paths.append(path)
    return paths


def draw_cell(plan: CellPlan, title: str) -> Figure:
    """The picture of one cell."""
    output = 2 + len(plan.nodes)
    lanes = assign_lanes(plan)
    top = max(lane.height for lane in lanes)
    bus = min(lane.height for lane in lanes) - LANE
    left, right = -MARGIN, COLUMN * output + MARGIN
    bottom, ceiling = bus - 0.3, top + 0.65
    figure = Figure(figsize=(right - left, ceiling - bottom))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(left, right), ylim=(bottom, ceiling))
    axes.set_axis_off()
    axes.text(left + 0.3, ceiling - 0.3, title, fontsize=12, fontweight="bold", color=INK, va="center")
    _draw_bus(axes, plan.concat, output, bus)
    for lane in sorted(lanes, key=lambda lane: -lane.level):
        _draw_lane(axes, lane, lanes)
    for state in range(output + 1):
        _draw_state(axes, state, output)
    return figure


def assign_lanes(plan: CellPlan) -> list[Lane]:
    """A lane for every edge, short edges nearest to the line; edges that share a lane do not overlap."""
    spans = [(source, 2 + i, operation) for i, node in enumerate(plan.nodes) for operation, source in node]
    lanes: list[Lane] = []
    for source, target, operation in sorted(spans, key=lambda span: span[1] - span[0]):
        taken = {(lane.side, lane.level) for lane in lanes if lane.source < target and source < lane.target}
        free = ((side, level) for level in range(1, len(spans) + 1) for side in (1, -1))
        side, level = next(place for place in free if place not in taken)
        lanes.append(Lane(operation, source, target, side, level))
    return lanes


def _draw_lane(axes: Axes, lane: Lane, lanes: Sequence[Lane]) -> None:
    # Outer lanes leave further left and arrive further right than inner ones, so that they do not cross.
    leaving = _rank(lane, [other for other in lanes if other.source == lane.source])
    arriving = _rank(lane, [other for other in lanes if other.target == lane.target])
    start = COLUMN * lane.source + BOX[0] / 2 - PORT * (0.6 + leaving)
    end = COLUMN * lane.target - BOX[0] / 2 + PORT * (0.9 + arriving)
    border = lane.side * BOX[1] / 2
    colour = next((colour for family, colour in FAMILIES.items() if family in lane.operation), GREY)
    _draw_line(axes, (start, border), lane.height, (end, border), colour, width=1.6)
    axes.text(
        COLUMN * (lane.target - 0.5),
        lane.height,
        lane.operation,
        fontsize=8,
        color=colour,
        ha="center",
        va="center",
        zorder=4,
        bbox={"boxstyle": "round,pad=0.25", "facecolor": "white", "edgecolor": colour, "linewidth": 0.8},
    )


def _rank(lane: Lane, others: Sequence[Lane]) -> int:
    """How many of the others run between this lane and the line."""
    return sum(other.side == lane.side and other.level < lane.level for other in others)


def _draw_bus(axes: Axes, concat: Sequence[int], output: int, height: float) -> None:
    border = -BOX[1] / 2
    for node in concat:
        _draw_line(axes, (COLUMN * node, border), height, (COLUMN * output, border), GREY, width=1.2)


def _draw_line(axes: Axes, start: Point, height: float, end: Point, colour: str, width: float) -> None:
    """From `start` straight to the height, across, and straight to `end`: round corners, an arrow head."""
    (x0, y0), (x1, y1) = start, end
    turn = CORNER if height > y0 else -CORNER
    corners = [
        (Curve.MOVETO, (x0, y0)),
        (Curve.LINETO, (x0, height - turn)),
        (Curve.CURVE3, (x0, height)),
        (Curve.CURVE3, (x0 + CORNER, height)),
        (Curve.LINETO, (x1 - CORNER, height)),
        (Curve.CURVE3, (x1, height)),
        (Curve.CURVE3, (x1, height - turn)),
        (Curve.LINETO, (x1, y1)),
    ]
    path = Curve([point for _, point in corners], [code for code, _ in corners])
    arrow = FancyArrowPatch(path=path, arrowstyle="-|>", mutation_scale=9, color=colour, linewidth=width)
    axes.add_patch(arrow)


def _draw_state(axes: Axes, state: int, output: int) -> None:
    labels = {0: "0\ncell k−2", 1: "1\ncell k−1", output: "output"}
    x, (width, height) = COLUMN * state, BOX
    axes.add_patch(
        FancyBboxPatch(
            (x - width / 2 + 0.06, -height / 2 + 0.06),
            width - 0.12,
            height - 0.12,
            boxstyle="round,pad=0.06",
            facecolor="#eef1f5" if state in labels else "#fff7df",
            edgecolor=INK,
            linewidth=1,
            zorder=3,
        )
    )
    label = labels.get(state, str(state))
    axes.text(x, 0, label, fontsize=9, color=INK, ha="center", va="center", linespacing=1.3, zorder=4)
