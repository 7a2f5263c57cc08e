"""Pictures of cells: all four files, and names that never overlap."""

from itertools import combinations

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from robust_nas.genotype import CellPlan, Genotype, RobNetGenotype
from robust_nas.spaces.draw import assign_lanes, draw, draw_cell

BUSY = (
    ("sep_conv_3x3", 1),
    ("sep_conv_3x3", 1),
    ("max_pool_3x3", 0),
    ("avg_pool_3x3", 1),
    ("dil_conv_5x5", 0),
    ("skip_connect", 2),
    ("sep_conv_5x5", 0),
    ("none", 1),
)
FULL = (2, 3, 4, 5)


def test_writes_both_cells_as_png_and_svg(tmp_path):
    paths = draw(Genotype(BUSY, FULL, BUSY, (3, 5), nodes=4), tmp_path / "new")
    assert [path.name for path in paths] == ["normal.png", "normal.svg", "reduce.png", "reduce.svg"]
    for path in paths:
        start = path.read_bytes()[:200]
        assert start.startswith(b"\x89PNG") if path.suffix == ".png" else b"<svg" in path.read_bytes(), start


def test_writes_every_cell_of_robnet(tmp_path):
    two = RobNetGenotype((("11", "00"), ("01", "10")), nodes=1)
    assert [path.name for path in draw(two, tmp_path)] == [
        f"cell_{i}.{suffix}" for i in ("01", "02") for suffix in ("png", "svg")
    ]


def pairs(edges):
    return CellPlan(tuple(edges[i : i + 2] for i in range(0, len(edges), 2)), FULL)


PLANS = [
    pairs(BUSY),
    pairs((("max_pool_3x3", 1),) * 8),
    RobNetGenotype((("11",) * 14,)).plan(0, reduction=False),
]


@pytest.mark.parametrize("plan", PLANS)
def test_names_overlap_neither_each_other_nor_the_border(plan):
    figure = draw_cell(plan, "A title that is rather long for a cell")
    renderer = FigureCanvasAgg(figure).get_renderer()
    boxes = [text.get_window_extent(renderer) for text in figure.axes[0].texts]
    assert len(boxes) == len(plan.edges) + 4 + 3 + 1  # names, nodes, inputs and output, title
    assert not [pair for pair in combinations(boxes, 2) if pair[0].overlaps(pair[1])]
    assert all(figure.bbox.containsx(x) for box in boxes for x in (box.x0, box.x1))
    assert all(figure.bbox.containsy(y) for box in boxes for y in (box.y0, box.y1))


@pytest.mark.parametrize("plan", PLANS)
def test_edges_on_one_lane_do_not_overlap(plan):
    lanes = assign_lanes(plan)
    assert sorted((lane.operation, lane.source, lane.target) for lane in lanes) == sorted(
        (operation, source, 2 + i) for i, node in enumerate(plan.nodes) for operation, source in node
    )
    for one, other in combinations(lanes, 2):
        if one.height == other.height:
            assert one.target <= other.source or other.target <= one.source
