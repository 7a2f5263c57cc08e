"""What a search chooses is counted right, collapse is told in words, and the pictures hold what there is."""

import math

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.image import imread
from PIL import Image

from robust_nas.genotype import Genotype
from robust_nas.pictures import search
from robust_nas.pictures.search import animate_alphas, plot_alphas, plot_search
from robust_nas.search.watch import collapse, composition, entropy
from robust_nas.spaces.operations import PRIMITIVES
from robust_nas.spaces.supernet import Supernet


def supernet(**settings):
    return Supernet(1, 3, channels=1, cells=2, nodes=1, mean=(0.3,), std=(0.4,), **settings)


def prefer(model, kind, *operations, weight=20.0):
    """Give an operation of each edge this weight before softmax, others 0."""
    with torch.no_grad():
        model.alphas[kind].zero_()
        for edge, operation in enumerate(operations):
            model.alphas[kind][edge, model.operations[kind][edge].index(operation)] = weight


def test_composition_counts_both_cells():
    model = supernet()
    prefer(model, "normal", "skip_connect", "sep_conv_3x3")
    prefer(model, "reduce", "max_pool_3x3", "skip_connect")
    figures = composition(model)
    assert list(figures) == ["convolutions", "pools", "skips", "pool_share", "skip_share", "alpha_entropy"]
    assert (figures["convolutions"], figures["pools"], figures["skips"]) == (1, 1, 2)
    assert figures["skip_share"] == pytest.approx(2 / 4, abs=1e-6)
    assert figures["pool_share"] == pytest.approx(1 / 4, abs=1e-6)
    assert figures["alpha_entropy"] == pytest.approx(0, abs=1e-5)


def test_shares_leave_out_none():
    model = supernet()
    for weight in (0.0, 5.0):
        for kind in ("normal", "reduce"):
            prefer(model, kind, "none", "none", weight=weight)
        figures = composition(model)
        assert figures["skip_share"] == pytest.approx(1 / 7)
        assert figures["pool_share"] == pytest.approx(2 / 7)


def test_edges_of_other_operations():
    edges = (("none", "max_pool_3x3", "skip_connect"), ("none", "sep_conv_3x3", "dil_conv_3x3"))
    model = supernet(operations={"normal": edges, "reduce": (("avg_pool_3x3",), ("sep_conv_5x5",))})
    prefer(model, "normal", "skip_connect", "dil_conv_3x3", weight=math.log(3))
    figures = composition(model)
    assert (figures["convolutions"], figures["pools"], figures["skips"]) == (2, 1, 1)
    assert figures["skip_share"] == pytest.approx((3 / 4) / 4)
    assert figures["pool_share"] == pytest.approx((1 / 4 + 1) / 4)
    three = -(3 / 5 * math.log(3 / 5) + 2 / 5 * math.log(1 / 5))
    assert figures["alpha_entropy"] == pytest.approx((2 * three + 0) / 4)


def test_watching_changes_nothing():
    model = supernet()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    composition(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_entropy_of_equal_operations():
    model = supernet()
    for kind in ("normal", "reduce"):
        prefer(model, kind)
    assert entropy(model) == pytest.approx(math.log(8))


def genotype(*normal):
    nodes = len(normal) // 2
    concat = tuple(range(2, 2 + nodes))
    reduce = (("skip_connect", 0), ("skip_connect", 1)) * nodes
    return Genotype(tuple((name, i % 2) for i, name in enumerate(normal)), concat, reduce, concat, nodes)


SKIP, POOL, CONVOLUTION = "skip_connect", "max_pool_3x3", "dil_conv_5x5"


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ([SKIP, POOL, SKIP, CONVOLUTION], "1 convolution, 2 skip connections, 1 pool"),
        ([SKIP] * 8, "0 convolutions, 8 skip connections, 0 pools"),
        (["none", "none"], "0 convolutions, 0 skip connections, 0 pools"),
        ([SKIP, POOL, POOL, CONVOLUTION, CONVOLUTION, SKIP], None),
        ([CONVOLUTION, CONVOLUTION], None),
    ],
)
def test_collapse_of_the_normal_cell(cell, words):
    warning = collapse(genotype(*cell))
    if words is None:
        assert warning is None
    else:
        assert f"({words})" in warning
        assert "--gamma" in warning and "--stop" in warning and "\n" not in warning


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are written."""
    figures = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *args, **kwargs: (figures.append(self), save(self, *args, **kwargs)))
    return figures


def titles(figure):
    return [axes.get_title() for axes in figure.axes if axes.get_title()]


def row(step, **figures):
    return {"epoch": 1, "step": step, "train_loss": 2.0 / step, "val_loss": None if step < 3 else 1.0, **figures}


def test_search_of_every_column(tmp_path, drawn):
    columns = [name for panel in search._PANELS for name in panel.lines]
    rows = [{**row(step), **dict.fromkeys(columns, 0.5 * step)} for step in range(1, 400)]
    plot_search(rows, tmp_path / "search.png")
    assert titles(drawn[0]) == [panel.title for panel in search._PANELS]
    assert imread(tmp_path / "search.png").ndim == 3


def test_search_without_a_metric_has_no_empty_panels(tmp_path, drawn):
    rows = [row(step, robustness=None, robustness_gradient=None, cosine=math.nan, gap=0.0, pools=step) for step in range(1, 9)]
    plot_search(rows, tmp_path / "search.png")
    assert titles(drawn[0]) == ["loss", "operations of the genotype"]
    operations = drawn[0].axes[1]
    assert [line.get_label() for line in operations.lines] == ["pools"]


def test_points_stand_at_their_steps(tmp_path, drawn):
    rows = [row(step, eigenvalue=float(step) if step in (4, 8) else None) for step in range(1, 9)]
    rows[5]["train_loss"] = math.inf
    plot_search(rows, tmp_path / "search.png")
    loss, curvature = drawn[0].axes
    assert list(curvature.lines[0].get_xdata()) == list(curvature.lines[0].get_ydata()) == [4, 8]
    assert curvature.lines[0].get_marker() == "."
    assert list(loss.lines[0].get_xdata()) == [1, 2, 3, 4, 5, 7, 8]


def test_alphas_of_edges_with_other_operations(tmp_path, drawn):
    alpha = torch.tensor([[0.0, 0.0], [0.0, math.log(3)]])
    operations = (("none", "sep_conv_3x3"), ("avg_pool_3x3", "skip_connect"))
    plot_alphas({"normal": alpha, "reduce": alpha}, {"normal": operations, "reduce": operations}, 1, tmp_path / "alphas.png")
    heat = np.ma.filled(drawn[0].axes[0].images[0].get_array(), math.nan)
    expected = np.full((2, len(PRIMITIVES)), math.nan)
    for edge, names in enumerate(operations):
        for name, weight in zip(names, ((0.5, 0.5), (0.25, 0.75))[edge], strict=True):
            expected[edge, PRIMITIVES.index(name)] = weight
    np.testing.assert_allclose(heat, expected)
    assert [label.get_text() for label in drawn[0].axes[0].get_yticklabels()] == ["0 → 2", "1 → 2"]


def test_the_animation_has_a_frame_an_epoch(tmp_path):
    course = [{"normal": torch.full((2, 2), float(epoch)).triu(), "reduce": torch.zeros(2, 2)} for epoch in range(3)]
    operations = (("none", "sep_conv_3x3"),) * 2
    animate_alphas(course, {"normal": operations, "reduce": operations}, 1, tmp_path / "alphas.gif")
    with Image.open(tmp_path / "alphas.gif") as animation:
        assert animation.n_frames == 3
