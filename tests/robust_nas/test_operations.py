"""Operations: shapes at any size, and the functions that DARTS defines."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from robust_nas.spaces.operations import OPERATIONS, PRIMITIVES, FactorizedReduce


def test_the_space_is_registered():
    assert set(PRIMITIVES) <= set(OPERATIONS)
    assert len(PRIMITIVES) == 8


@pytest.mark.parametrize("name", OPERATIONS)
@given(
    channels=st.integers(1, 5).map(lambda half: 2 * half),
    stride=st.sampled_from([1, 2]),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    affine=st.booleans(),
)
def test_shape(name, channels, stride, height, width, affine):
    operation = OPERATIONS[name](channels, stride, affine).eval()
    out = operation(torch.rand(2, channels, height, width))
    assert out.shape == (2, channels, math.ceil(height / stride), math.ceil(width / stride))


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("stride", [1, 2])
def test_images_do_not_mix_and_the_input_stays(name, stride):
    torch.manual_seed(0)
    operation = OPERATIONS[name](4, stride, True).double().eval()
    x = torch.randn(3, 4, 7, 7, dtype=torch.float64)
    before = x.clone()
    together = operation(x)
    apart = torch.cat([operation(image) for image in x.split(1)])
    assert torch.allclose(together, apart)
    assert torch.equal(x, before)


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("affine", [True, False])
def test_affine_reaches_every_batch_norm(name, affine):
    norms = [
        module for module in OPERATIONS[name](4, 2, affine).modules() if isinstance(module, nn.BatchNorm2d)
    ]
    assert all(norm.affine is affine for norm in norms)


def test_average_pool_leaves_padding_out():
    assert torch.equal(OPERATIONS["avg_pool_3x3"](1, 1, True)(torch.ones(1, 1, 3, 3)), torch.ones(1, 1, 3, 3))


def test_none_and_identity():
    x = torch.randn(1, 2, 5, 5)
    assert OPERATIONS["none"](2, 1, True)(x).count_nonzero() == 0
    assert torch.equal(OPERATIONS["skip_connect"](2, 1, True)(x), x)


@pytest.mark.parametrize("size", [4, 5])
def test_factorized_reduce_reads_even_and_odd_pixels(size):
    reduce = FactorizedReduce(1, 2, affine=False).eval()
    x = torch.rand(1, 1, size, size)
    out = reduce(x)
    padded = F.pad(x, (0, size % 2, 0, size % 2))
    expected = [
        x[0, 0, ::2, ::2] * reduce.even.weight.item(),
        padded[0, 0, 1::2, 1::2] * reduce.odd.weight.item(),
    ]
    assert torch.allclose(out[0], torch.stack(expected), rtol=1e-4)
