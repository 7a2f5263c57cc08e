"""Operations: shapes at any size, and the functions that their papers define."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from robust_nas.spaces.operations import OPERATIONS, PRIMITIVES, FactorizedReduce, Style, count, family


def test_the_space_is_registered():
    assert set(PRIMITIVES) <= set(OPERATIONS)
    assert len(PRIMITIVES) == 8


def test_families():
    pools = {"max_pool_3x3", "avg_pool_3x3", "max_pool_2x2"}
    assert {name for name in OPERATIONS if family(name) == "pool"} == pools
    assert {name for name in OPERATIONS if family(name) == "convolution"} == (
        set(OPERATIONS) - pools - {"none", "skip_connect"}
    )
    assert (family("none"), family("skip_connect")) == ("none", "skip")
    assert count(["max_pool_2x2", "none", "avg_pool_3x3"]) == {"pool": 2, "none": 1}


@pytest.mark.parametrize("name", OPERATIONS)
@given(
    channels=st.integers(1, 5).map(lambda half: 2 * half),
    stride=st.sampled_from([1, 2]),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    affine=st.booleans(),
)
def test_shape(name, channels, stride, height, width, affine):
    operation = OPERATIONS[name](channels, stride, Style(affine)).eval()
    out = operation(torch.rand(2, channels, height, width))
    assert out.shape == (2, channels, math.ceil(height / stride), math.ceil(width / stride))


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("stride", [1, 2])
def test_images_do_not_mix_and_the_input_stays(name, stride):
    torch.manual_seed(0)
    operation = OPERATIONS[name](4, stride, Style()).double().eval()
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
        module for module in OPERATIONS[name](4, 2, Style(affine)).modules() if isinstance(module, nn.BatchNorm2d)
    ]
    assert all(norm.affine is affine for norm in norms)


def test_average_pool_leaves_padding_out():
    assert torch.equal(OPERATIONS["avg_pool_3x3"](1, 1, Style())(torch.ones(1, 1, 3, 3)), torch.ones(1, 1, 3, 3))


def test_none_and_identity():
    x = torch.randn(1, 2, 5, 5)
    assert OPERATIONS["none"](2, 1, Style())(x).count_nonzero() == 0
    assert torch.equal(OPERATIONS["skip_connect"](2, 1, Style())(x), x)


@pytest.mark.parametrize("size", [4, 5])
def test_factorized_reduce_reads_even_and_odd_pixels(size):
    reduce = FactorizedReduce(1, 2, Style(affine=False)).eval()
    x = torch.rand(1, 1, size, size)
    out = reduce(x)
    padded = F.pad(x, (0, size % 2, 0, size % 2))
    expected = [
        x[0, 0, ::2, ::2] * reduce.even.weight.item(),
        padded[0, 0, 1::2, 1::2] * reduce.odd.weight.item(),
    ]
    assert torch.allclose(out[0], torch.stack(expected), rtol=1e-4)


def reference(operation, x, stride):
    """What an operation of one channel and one convolution gives: its kernel in numbers, batch norms as they begin."""
    kernels = [p for p in operation.parameters() if p.dim() == 4]
    out = torch.relu(x)
    for kernel in kernels:
        rows, columns = kernel.shape[2:]
        padded = F.pad(out, (columns // 2, columns // 2, rows // 2, rows // 2))
        windows = padded.unfold(2, rows, stride if rows > 1 or columns == 1 else 1)
        windows = windows.unfold(3, columns, stride if columns > 1 or rows == 1 else 1)
        out = torch.einsum("bchwkl,ckl->bhw", windows, kernel[0]).unsqueeze(1)
    return out


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("nor_conv_1x1", [(1, 1)]),
        ("nor_conv_3x3", [(3, 3)]),
        ("conv_7x1_1x7", [(1, 7), (7, 1)]),
    ],
)
@pytest.mark.parametrize("stride", [1, 2])
def test_plain_convolutions(name, shapes, stride):
    torch.manual_seed(0)
    operation = OPERATIONS[name](1, stride, Style(affine=False)).eval()
    assert [tuple(p.shape[2:]) for p in operation.parameters()] == shapes
    x = torch.randn(2, 1, 7, 8)
    assert torch.allclose(operation(x), reference(operation, x, stride), atol=1e-5)


@pytest.mark.parametrize("side", [3, 5, 7])
def test_separable_convolutions_differ_in_their_kernels_only(side):
    kernels = [tuple(p.shape) for p in OPERATIONS[f"sep_conv_{side}x{side}"](4, 1, Style(affine=False)).parameters()]
    assert kernels == [(4, 1, side, side), (4, 4, 1, 1)] * 2


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(4, 4), (4, 5), (5, 4), (1, 1)])
def test_max_pool_2x2_by_windows(stride, size):
    torch.manual_seed(0)
    x = torch.randn(1, 2, *size)
    rows, columns = (range(0, side, stride) for side in size)
    expected = torch.stack([x[..., i : i + 2, j : j + 2].amax((2, 3)) for i in rows for j in columns], dim=2)
    assert torch.equal(OPERATIONS["max_pool_2x2"](2, stride, Style())(x).flatten(2), expected)


@pytest.mark.parametrize("stride", [1, 2])
def test_robnets_code_11_adds_code_01_and_code_10(stride):
    torch.manual_seed(0)
    both = OPERATIONS["res_sep_conv_3x3"](4, stride, Style(affine=False)).eval()
    parts = {name: OPERATIONS[name](4, stride, Style(affine=False)).eval() for name in ("sep_conv_3x3", "skip_connect")}
    parts["sep_conv_3x3"].load_state_dict(both.convolution.state_dict())
    parts["skip_connect"].load_state_dict(both.skip.state_dict())
    x = torch.randn(2, 4, 6, 6)
    assert torch.allclose(both(x), parts["sep_conv_3x3"](x) + parts["skip_connect"](x))
