"""The layout of rows: it may change how fast bounds are, and must not change what they are."""

from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tests.levels import few
from verify import BoundedNetwork, margins
from verify.operators import layout
from verify.operators.arithmetic import absolute_inner, inner
from verify.operators.layout import (
    added_at,
    bordered,
    extended,
    innermost,
    lies_innermost,
    listed,
    merged,
    outermost,
    picked,
    separated,
    total_magnitude,
)

SHAPES = st.lists(st.integers(1, 4), max_size=3)


def rows_of(shape, count, images, are_innermost):
    rows = torch.randn(count, images, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return rows.movedim((0, 1), (-1, -2)).contiguous().movedim((-1, -2), (0, 1)) if are_innermost else rows


@given(shape=SHAPES, count=st.integers(2, 6), images=st.integers(1, 3), are_innermost=st.booleans(), more=st.integers(0, 3))
def test_every_rearrangement_keeps_the_values(shape, count, images, are_innermost, more):
    rows = rows_of(shape, count, images, are_innermost)
    assert lies_innermost(rows) or not are_innermost
    for like in (rows, rows_of((1,), count, images, not are_innermost)):  # in the order of whatever comes first
        assert separated(merged(rows, like), like).equal(rows)
    assert merged(rows, rows).untyped_storage().data_ptr() == rows.untyped_storage().data_ptr()  # no copy
    torch.testing.assert_close(outermost(innermost(rows)), rows, rtol=0, atol=0)
    longer = extended(rows, count + more)
    assert longer[:count].equal(rows) and not longer[count:].any() and len(longer) == count + more
    assert lies_innermost(longer) or not are_innermost
    with mock.patch.dict(layout.AT_ONCE, {"cpu": 3}):  # in parts of a few elements
        torch.testing.assert_close(total_magnitude(rows), rows.abs().sum(0))


@given(
    shape=SHAPES, count=st.integers(2, 6), images=st.integers(1, 3), are_innermost=st.booleans(), seed=st.integers(0, 99)
)
def test_elements_are_picked_and_added_to_image_by_image(shape, count, images, are_innermost, seed):
    rows, generator = rows_of(shape, count, images, are_innermost), torch.Generator().manual_seed(seed)
    chosen = torch.rand(images, rows[0, 0].numel(), generator=generator) < 0.4
    index = listed(chosen)
    assert index.shape[1] == chosen.sum(1).max()
    expected, flat = rows.clone().reshape(count, images, -1), rows.reshape(count, images, -1)
    change = torch.randn(count, *index.shape, generator=generator, dtype=torch.float64)
    got = picked(rows, index)
    for image, elements in enumerate(index.tolist()):
        assert set(chosen[image].nonzero().flatten().tolist()) <= set(elements) and len(set(elements)) == len(elements)
        for number, element in enumerate(elements):
            assert got[:, image, number].equal(flat[:, image, element])
            expected[:, image, element] += change[:, image, number]
    torch.testing.assert_close(added_at(rows, index, change), expected.view(rows.shape), rtol=0, atol=0)


@few
@given(shape=SHAPES, count=st.integers(2, 6), images=st.integers(1, 3), are_innermost=st.booleans())
def test_inner_products_are_the_same_in_both_layouts(shape, count, images, are_innermost):
    A = rows_of(shape, count, images, are_innermost)
    x = torch.rand(images, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(inner(A, x), (A * x).reshape(*A.shape[:2], -1).sum(-1))
    torch.testing.assert_close(absolute_inner(A, x), (A.abs() * x).reshape(*A.shape[:2], -1).sum(-1))


@pytest.mark.parametrize("are_innermost", [False, True])
def test_a_border_is_one_of_zeros(are_innermost):
    rows = rows_of((2, 3, 4), 5, 2, are_innermost)
    assert bordered(rows, (1, 2, 0, 3)).equal(F.pad(rows, (1, 2, 0, 3)))


class Cell(nn.Module):
    """What cells are made of, on 8x8 pixels: dense and depthwise convolutions, both pools, a skip, a concatenation."""

    def __init__(self, pool: type[nn.Module]) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 4, 3, 2, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU())
        self.separable = nn.Sequential(nn.Conv2d(4, 4, 3, 1, 2, 2, groups=4), nn.Conv2d(4, 4, 1), nn.ReLU())
        self.pool = pool(3, 1, 1)
        self.reduce = nn.Conv2d(12, 3, 1, 2)
        self.head = nn.Linear(12, 3)

    def forward(self, x):
        x = self.stem(x)
        x = torch.cat([x, self.separable(x) + self.pool(x), x[:, :, :4, :4]], 1)
        return self.head(torch.relu(self.reduce(x)).flatten(1))


@pytest.mark.parametrize("pool", [nn.AvgPool2d, nn.MaxPool2d])
@pytest.mark.parametrize("method", ["affine", "crown", "alpha-crown"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_bounds_are_those_of_torchs_layouts(pool, method, norm):
    torch.manual_seed(0)
    model = Cell(pool).eval().double()
    images = torch.rand(2, 1, 8, 8, dtype=torch.float64)
    network = BoundedNetwork(model, images)
    rows = margins(torch.tensor([0, 2]), 3)

    def bounds():
        with torch.no_grad():
            return network.bounds(images, 0.05, norm, specification=rows, method=method)

    with mock.patch.object(layout, "MANY", 1):
        found = bounds()
    with mock.patch.object(layout, "MANY", 10**9), mock.patch.object(layout, "lies_innermost", lambda rows: False):
        expected = bounds()
    torch.testing.assert_close(found.lower, expected.lower)
    torch.testing.assert_close(found.upper, expected.upper)
    for name, interval in found.intervals.items():
        torch.testing.assert_close(interval, expected.intervals[name])
