"""Average pools and means, which are linear, and max pools, which are relaxed."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, example, given
from hypothesis import strategies as st
from torch import nn

from tests.levels import few
from tests.verify.helpers import BALLS, Function, around, assert_sound, random_images, random_rows, randomise
from verify import Ball, BoundedNetwork, Box, UnsupportedOperator

SHAPE = (2, 6, 7)


@st.composite
def windows(draw: st.DrawFn) -> tuple[dict[str, tuple[int, int]], tuple[int, int, int]]:
    """Kernel, stride, padding and dilation of a pool, and a shape it fits."""
    size, kernel, stride = (draw(st.tuples(*[st.integers(*ends)] * 2)) for ends in ((3, 8), (1, 3), (1, 3)))
    padding = tuple(draw(st.integers(0, k // 2)) for k in kernel)
    dilation = draw(st.tuples(*[st.integers(1, 2)] * 2))
    assume(all(n + 2 * p > d * (k - 1) for n, p, d, k in zip(size, padding, dilation, kernel, strict=True)))
    pool = {"kernel_size": kernel, "stride": stride, "padding": padding, "dilation": dilation}
    return pool, (2, *size)


@few
@given(windows(), st.booleans(), st.booleans())
@example(({"kernel_size": 3, "stride": 2, "padding": 0}, (2, 6, 6)), False, True)  # a column of padding on one side
def test_a_max_pool_is_sound_whatever_its_geometry(window, first, ceil_mode):
    """Overlapping, padded, strided, dilated, with columns left over or windows that reach beyond the padding."""
    pool, shape = window
    pool = nn.MaxPool2d(**pool, ceil_mode=ceil_mode)
    assume(torch.isfinite(pool(torch.zeros(1, *shape))).all())
    model = around(pool, shape, first=first)
    assert_sound(model, shape if first else (1, *shape[1:]), balls=BALLS[:2])


@st.composite
def wide_windows(draw: st.DrawFn) -> tuple[dict[str, tuple[int, int]], tuple[int, int]]:
    """A pool and a size of images, some of them smaller than a step of the dilation."""
    size, kernel, stride, dilation = (draw(st.tuples(*[st.integers(1, 4)] * 2)) for _ in range(4))
    padding = tuple(draw(st.integers(0, k // 2)) for k in kernel)
    assume(all(n + 2 * p > d * (k - 1) for n, p, d, k in zip(size, padding, dilation, kernel, strict=True)))
    return {"kernel_size": kernel, "stride": stride, "padding": padding, "dilation": dilation}, size


@few
@given(wide_windows())
@example(({"kernel_size": (2, 1), "stride": (1, 1), "padding": (1, 0), "dilation": (2, 1)}, (1, 1)))
@example(({"kernel_size": (2, 2), "stride": (1, 1), "padding": (1, 1), "dilation": (3, 2)}, (2, 2)))
def test_a_window_of_nothing_but_padding_is_refused(window):
    """There torch's derivative writes beyond its memory; all others are taken."""
    pool, size = window
    model, example = nn.Sequential(nn.MaxPool2d(**pool), nn.Flatten()), torch.zeros(1, 1, *size)
    if torch.isfinite(model(example)).all():
        BoundedNetwork(model, example)
    else:
        with pytest.raises(UnsupportedOperator, match="a window of nothing but padding"):
            BoundedNetwork(model, example)


@pytest.mark.parametrize(
    "pool",
    [nn.MaxPool1d(2, 1, 1, 2), nn.MaxPool3d(2, 1, 1, 2), nn.MaxPool2d(2, 1, 1, 2, ceil_mode=True)],
)
def test_pools_of_other_dimensions_with_such_windows_are_refused(pool):
    shape = (1,) * (2 + {nn.MaxPool1d: 0, nn.MaxPool2d: 1, nn.MaxPool3d: 2}[type(pool)])
    with pytest.raises(UnsupportedOperator, match=r"^aten\.max_pool"):
        BoundedNetwork(nn.Sequential(pool, nn.Flatten()), torch.zeros(1, *shape))


@few
@given(windows(), st.booleans(), st.booleans(), st.booleans())
def test_an_average_pool_is_sound_whatever_its_geometry(window, first, count_include_pad, ceil_mode):
    pool, shape = window
    del pool["dilation"]
    pool |= {"count_include_pad": count_include_pad, "ceil_mode": ceil_mode}
    assume(all(n + 2 * p >= k for n, p, k in zip(shape[1:], pool["padding"], pool["kernel_size"], strict=True)))
    model = around(nn.AvgPool2d(**pool), shape, first=first)
    assert_sound(model, shape if first else (1, *shape[1:]), balls=BALLS[:2])


POOLS = {
    "max 3x3": nn.MaxPool2d(3, 1, 1),
    "max 3x3 stride 2": nn.MaxPool2d(3, 2, 1),
    "max 2x2": nn.MaxPool2d(2),
    "average 3x3, padding counted": nn.AvgPool2d(3, 1, 1),
    "average 3x3 stride 2, padding counted": nn.AvgPool2d(3, 2, 1),
    "average 3x3": nn.AvgPool2d(3, 1, 1, count_include_pad=False),
    "average 3x3 stride 2": nn.AvgPool2d(3, 2, 1, count_include_pad=False),
    "average with a divisor": nn.AvgPool2d(2, 1, divisor_override=3),
    "adaptive to one": nn.AdaptiveAvgPool2d(1),
    "adaptive, uneven": nn.AdaptiveAvgPool2d((4, 3)),
    "mean of rows": Function(lambda m, x: x.mean(2)),
    "mean of channels, kept": Function(lambda m, x: x.mean(1, keepdim=True) - x),
    "mean of columns, from the end": Function(lambda m, x: x.mean(-1)),
    "sum": Function(lambda m, x: x.sum((1, 3))),
    "global pool": Function(lambda m, x: x.mean((2, 3))),
    "softened": Function(lambda m, x: F.max_pool2d(-F.avg_pool2d(x, 3, 1, 1), 3, 2, 1)),
}


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("first", [False, True])
def test_a_pool_in_every_norm(pool, first):
    assert_sound(around(POOLS[pool], SHAPE, first=first), SHAPE if first else (1, *SHAPE[1:]))


@pytest.mark.parametrize("pool", [nn.AvgPool1d(3, 2, 1), nn.AdaptiveAvgPool1d(3)])
def test_one_dimension(pool):
    assert_sound(around(pool, (2, 8), first=True), (2, 8))


@pytest.mark.parametrize("pool", [nn.AvgPool3d(2, 1), nn.AdaptiveAvgPool3d((1, 2, 1))])
def test_three_dimensions(pool):
    assert_sound(around(pool, (2, 3, 3, 3), first=True), (2, 3, 3, 3))


def test_a_network_that_ends_in_a_max_pool():
    model = Function(lambda m, x: F.max_pool2d(m.conv(x), 2).flatten(1))
    model.conv = nn.Conv2d(1, 2, 3)
    assert_sound(randomise(model), (1, 4, 6))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("counted", [False, True])
@pytest.mark.parametrize("method", ["ibp", "crown-ibp", "crown"])
def test_an_average_pool_is_the_convolution_it_equals(stride, counted, method):
    """The same bounds as a depthwise convolution with constant weights, divided by the count where it varies."""
    ones = torch.ones(2, 1, 3, 3, dtype=torch.float64)
    count = F.conv2d(torch.ones(1, 1, 6, 7, dtype=torch.float64), ones[:1], stride=stride, padding=1)

    def as_convolution(m, x):
        return F.conv2d(x, ones, stride=stride, padding=1, groups=2) / (9 if counted else count)

    pool = around(nn.AvgPool2d(3, stride, 1, count_include_pad=counted), SHAPE)
    convolution = around(Function(as_convolution), SHAPE)
    images = random_images((1, *SHAPE[1:]))
    torch.testing.assert_close(pool(images), convolution(images))
    first, second = (
        BoundedNetwork(model, images).bounds(images, 0.1, specification=random_rows(3, 3, 3), method=method)
        for model in (pool, convolution)
    )
    torch.testing.assert_close(first.lower, second.lower)
    torch.testing.assert_close(first.upper, second.upper)


def pooled(method: str, images: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Bounds of a 2x2 max pool of the image itself, "b 2": lower and upper."""
    network = BoundedNetwork(Function(lambda m, x: F.max_pool2d(x, 2).flatten(1)), images)
    bounds = network.bounds(Ball(images, epsilon, "linf", "free"), method=method)
    return torch.cat([bounds.lower, bounds.upper], 1)


@pytest.mark.parametrize("method", ["ibp", "crown-ibp", "crown"])
def test_a_window_with_one_dominating_element_is_exact(method):
    images = torch.tensor([[[[0.9, 0.1], [0.2, 0.3]]]], dtype=torch.float64)
    expected = torch.tensor([[0.7, 1.1]], dtype=torch.float64)
    torch.testing.assert_close(pooled(method, images, 0.2), expected)


@pytest.mark.parametrize("method", ["crown-ibp", "crown"])
def test_a_dominating_element_passes_on_its_sign(method):
    """max(a, small ones) - a is 0: only a rule that is exact, and not its interval, knows."""
    model = Function(lambda m, x: (F.max_pool2d(x, 2) - x[:, :, :1, :1]).flatten(1))
    images = torch.tensor([[[[0.9, 0.1], [0.2, 0.3]]]], dtype=torch.float64)
    bounds = BoundedNetwork(model, images).bounds(images, 0.2, domain="free", method=method)
    assert bounds.lower.abs().item() < 1e-12
    assert bounds.upper.abs().item() < 1e-12


@pytest.mark.parametrize("where", [(0, 0), (3, 3), (1, 2)])
def test_padding_never_wins(where):
    """Negative values beside the border: a pool padded with 0 instead of -inf would give 0."""
    images = torch.full((1, 1, 4, 4), -2.0, dtype=torch.float64)
    images[(0, 0, *where)] = -1.0
    network = BoundedNetwork(Function(lambda m, x: F.max_pool2d(x, 3, 1, 1).flatten(1)), images)
    for method in ("ibp", "crown"):
        assert network.bounds(Ball(images, 0.1, "linf", "free"), method=method).upper.max() <= -0.9 + 1e-12


@pytest.mark.parametrize("method", ["crown-ibp", "affine", "crown"])
def test_rounding_does_not_choose_between_equal_elements(method):
    """max(x, y, ...) - x + y of two equal pixels: which of them stands for the maximum decides the bounds."""
    model = Function(lambda m, x: (F.max_pool2d(x, 2) - x[:, :, :1, :1] + x[:, :, :1, 1:]).flatten(1))
    found = []
    for rounding in (-1e-15, 0.0, 1e-15):
        images = torch.tensor([[[[0.5, 0.5 + rounding], [0.2, 0.3]]]], dtype=torch.float64)
        bounds = BoundedNetwork(model, images).bounds(images, 0.2, domain="free", method=method)
        found.append(torch.cat([bounds.lower, bounds.upper]))
    torch.testing.assert_close(found[0], found[1])
    torch.testing.assert_close(found[2], found[1])


def test_an_affine_form_allows_for_what_a_tie_leaves_out():
    """The first of two nearly equal lower bounds stands for the maximum, and is the smaller one."""
    model = Function(lambda m, x: F.relu(F.max_pool2d(x, 2) - x[:, :, :1, :1]).flatten(1))
    lower = torch.tensor([[[[0.0, 5e-6], [-1.0, -1.0]]]], dtype=torch.float64)
    upper = torch.tensor([[[[1.0, 1.0], [-1.0, -1.0]]]], dtype=torch.float64)
    network = BoundedNetwork(model, lower)
    worst = model(torch.tensor([[[[0.0, 1.0], [-1.0, -1.0]]]], dtype=torch.float64)).item()
    intervals = network.bounds(Box(lower, upper), method="affine").intervals
    assert list(intervals.values())[-1][1].item() >= worst


@given(st.lists(st.tuples(st.floats(-2, 2), st.floats(0, 2)), min_size=4, max_size=4), st.data())
def test_the_relaxation_of_a_window_encloses_the_maximum(sides, data):
    """Equal ends, zero widths and dominated elements included."""
    lower = torch.tensor([side[0] for side in sides], dtype=torch.float64)
    upper = lower + torch.tensor([side[1] for side in sides], dtype=torch.float64)
    relaxed = WINDOW.relax(lower.view(1, 1, 2, 2), upper.view(1, 1, 2, 2))
    for where in ([0.0] * 4, [1.0] * 4, data.draw(st.lists(st.floats(0, 1), min_size=4, max_size=4))):
        x = lower + torch.tensor(where, dtype=torch.float64) * (upper - lower)
        y = x.max()
        assert relaxed.lower.flatten() @ x <= y + 1e-12
        assert relaxed.upper.flatten() @ x + relaxed.intercept.item() >= y - 1e-12


WINDOW = BoundedNetwork(
    Function(lambda m, x: F.max_pool2d(x, 2).flatten(1)), torch.zeros(1, 1, 2, 2)
).graph.nodes[-2]


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (lambda m, x: F.max_pool2d(x[:, 0], 2).flatten(1), "b c h w"),
        (lambda m, x: F.avg_pool2d(x, 2, divisor_override=-2).flatten(1), "a negative divisor"),
        (lambda m, x: x.sum().expand(len(x), 2), "sum.default"),
        (lambda m, x: x.flatten(1) - x.mean(), "mean.default"),
        (lambda m, x: x.flatten(1) - x.flatten(1).mean(0), "batch dimension"),
        (lambda m, x: x.flatten(1) - x.flatten(1).mean(-2, keepdim=True), "batch dimension"),
        (lambda m, x: x.flatten(1) - x.flatten(1).sum((0, 1)), "batch dimension"),
    ],
)
def test_a_pool_without_a_rule_is_refused_by_name(function, why):
    with pytest.raises(UnsupportedOperator, match=why):
        BoundedNetwork(Function(function), torch.rand(1, 2, 5, 5))
