"""Convolutions of many rows: torch's own in float64 and with every geometry is the reference."""

from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from verify.operators import correlation
from verify.operators.correlation import WINDOWS, Geometry, correlate, correlate_transposed
from verify.operators.layout import MANY

PAIRS = st.tuples(st.integers(1, 3), st.integers(1, 3))


@given(
    stride=PAIRS,
    dilation=PAIRS,
    kernel=PAIRS,
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    extra=st.tuples(st.integers(0, 4), st.integers(0, 4)),
    channels=st.sampled_from([(1, 1, 1), (1, 4, 1), (3, 3, 3), (2, 5, 1), (4, 2, 2), (3, 6, 3)]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    count=st.sampled_from([4, MANY + 1]),
    tracked=st.booleans(),
    at_once=st.sampled_from([1, WINDOWS]),
)
def test_both_ways_are_those_of_torch(stride, dilation, kernel, padding, extra, channels, dtype, count, tracked, at_once):
    inputs, outputs, groups = channels
    generator = torch.Generator().manual_seed(0)
    size = [d * (k - 1) + 1 + e for d, k, e in zip(dilation, kernel, extra, strict=True)]
    x = torch.rand(count, inputs, *size, generator=generator, dtype=dtype, requires_grad=True)
    weight = torch.rand(outputs, inputs // groups, *kernel, generator=generator, dtype=dtype) - 0.5
    expected = F.conv2d(x, weight, None, stride, padding, dilation, groups)
    geometry = Geometry(stride, padding, dilation, groups)
    close = {"rtol": 1e-4, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 1e-12, "atol": 1e-12}
    rows = torch.rand(expected.shape, generator=generator, dtype=dtype) - 0.5
    (transposed,) = torch.autograd.grad(expected, x, rows)
    with torch.set_grad_enabled(tracked), mock.patch.object(correlation, "WINDOWS", at_once):
        torch.testing.assert_close(correlate(x, weight, geometry), expected, **close)
        torch.testing.assert_close(correlate_transposed(rows, weight, geometry, x.shape[2:]), transposed, **close)


@pytest.mark.parametrize("count", [2, MANY + 1])
@pytest.mark.parametrize("dimensions", [1, 3])
@pytest.mark.parametrize("stride", [1, 2])
def test_other_dimensions_take_the_same_way(stride, dimensions, count):
    x = torch.rand(count, 2, *[5] * dimensions, dtype=torch.float64, requires_grad=True)
    weight = torch.rand(3, 2, *[3] * dimensions, dtype=torch.float64)
    geometry = Geometry((stride,) * dimensions, (1,) * dimensions, (1,) * dimensions, 1)
    convolve = {1: F.conv1d, 3: F.conv3d}[dimensions]
    expected = convolve(x, weight, None, stride, 1)
    torch.testing.assert_close(correlate(x, weight, geometry), expected)
    rows = torch.rand_like(expected)
    torch.testing.assert_close(
        correlate_transposed(rows, weight, geometry, x.shape[2:]), torch.autograd.grad(expected, x, rows)[0]
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_strided_pointwise_convolution_of_few_channels(dtype):
    """A factorised reduction's. Torch's own derivative of its transpose ends in a corrupted heap on some CPUs."""
    geometry, generator = Geometry((2, 2), (0, 0), (1, 1), 1), torch.Generator().manual_seed(0)
    rows = torch.rand(10, 4, 4, 4, generator=generator, dtype=dtype, requires_grad=True)
    weight = torch.rand(4, 2, 1, 1, generator=generator, dtype=dtype, requires_grad=True)
    for _ in range(200):
        image = correlate_transposed(rows, weight, geometry, torch.Size((8, 8)))
        found = torch.autograd.grad(image.square().sum(), (rows, weight))
    placed = torch.zeros(10, 2, 8, 8, dtype=dtype)
    placed[:, :, ::2, ::2] = product = torch.einsum("rdhw,dc->rchw", rows, weight[:, :, 0, 0])
    torch.testing.assert_close(image, placed)
    torch.testing.assert_close(found, torch.autograd.grad(product.square().sum(), (rows, weight)))


@pytest.mark.parametrize("count", [2, MANY])
@pytest.mark.parametrize(("channels", "groups"), [(4, 1), (4, 4), (1, 1), (2, 2)])
def test_gradients_pass_through(channels, groups, count):
    """Bounds are differentiable in the weights and in the rows."""
    geometry = Geometry((1, 2), (1, 0), (1, 1), groups)
    x = torch.rand(count, channels, 5, 6, dtype=torch.float64, requires_grad=True)
    weight = torch.rand(4, channels // groups, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a, w: correlate(a, w, geometry), (x, weight), fast_mode=True)
    rows = torch.rand_like(correlate(x, weight, geometry)).detach().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda r, w: correlate_transposed(r, w, geometry, torch.Size((5, 6))), (rows, weight), fast_mode=True
    )
