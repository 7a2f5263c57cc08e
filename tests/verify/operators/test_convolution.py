"""Convolutions of every geometry, transposed ones, and fully connected layers in all their spellings."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn

from tests.levels import few
from tests.verify.helpers import BALLS, Function, around, assert_sound, randomise
from verify import BoundedNetwork, UnsupportedOperator

SHAPE = (2, 6, 7)


@st.composite
def geometries(draw: st.DrawFn) -> tuple[nn.Module, tuple[int, int, int]]:
    """A convolution and a shape it fits: strides that leave columns over, even kernels, groups, dilation."""
    pairs = [draw(st.tuples(*[st.integers(low, high)] * 2)) for low, high in ((1, 4), (1, 3), (0, 3), (1, 2))]
    kernel, stride, padding, dilation = pairs
    size = draw(st.tuples(*[st.integers(3, 8)] * 2))
    reach = [n + 2 * p - d * (k - 1) for n, p, d, k in zip(size, padding, dilation, kernel, strict=True)]
    assume(min(reach) >= 1)
    groups = draw(st.sampled_from([1, 2]))
    out = groups * draw(st.integers(1, 2))
    bias = draw(st.booleans())
    return nn.Conv2d(2, out, kernel, stride, padding, dilation, groups, bias), (2, *size)


@few
@given(geometries(), st.booleans())
def test_a_convolution_is_sound_whatever_its_geometry(geometry, first):
    convolution, shape = geometry
    model = around(convolution, shape, first=first)
    assert_sound(model, shape if first else (1, *shape[1:]), balls=BALLS[:2])


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("kernel", [2, 3, 4])
def test_a_padding_given_by_name(padding, kernel):
    convolution = nn.Conv2d(2, 3, kernel, padding=padding, dilation=1 + kernel % 2)
    assert_sound(around(convolution, SHAPE), (1, *SHAPE[1:]))


@pytest.mark.parametrize(
    "convolution",
    [
        nn.Conv2d(2, 4, 3, padding=1, groups=2),
        nn.Conv2d(2, 2, 5, stride=2, padding=4, dilation=2, groups=2, bias=False),
        nn.ConvTranspose2d(2, 3, 3, stride=2, padding=1, output_padding=1),
        nn.ConvTranspose2d(2, 4, (2, 3), stride=(1, 2), groups=2, dilation=2, bias=False),
        nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"),
    ],
    ids=["grouped", "depthwise-dilated", "transposed", "transposed-grouped", "reflect", "circular"],
)
@pytest.mark.parametrize("first", [False, True])
def test_a_convolution_in_every_norm_and_domain(convolution, first):
    assert_sound(around(convolution, SHAPE, first=first), SHAPE if first else (1, *SHAPE[1:]))


@pytest.mark.parametrize(
    ("convolution", "shape"),
    [
        (nn.Conv1d(2, 3, 3, stride=2, padding=1, dilation=2), (2, 9)),
        (nn.Conv1d(2, 4, 4, padding="same", groups=2), (2, 9)),
        (nn.ConvTranspose1d(2, 3, 3, stride=2), (2, 5)),
        (nn.Conv3d(2, 3, 2, stride=(1, 2, 1), padding=1), (2, 3, 4, 3)),
        (nn.ConvTranspose3d(2, 3, 2, stride=2), (2, 2, 2, 3)),
    ],
)
def test_one_and_three_dimensions(convolution, shape):
    assert_sound(around(convolution, shape, first=True), shape)


FULLY_CONNECTED = {
    "linear": lambda m, x: F.linear(x, m.weight, m.bias),
    "linear without bias": lambda m, x: F.linear(x, m.weight),
    "matmul": lambda m, x: x @ m.weight.T,
    "mm": lambda m, x: torch.mm(x, m.weight.T),
    "addmm": lambda m, x: torch.addmm(m.bias, x, m.weight.T),
    "addmm with factors": lambda m, x: torch.addmm(m.bias, x, m.weight.T, beta=2, alpha=-0.5),
    "addmm of two that vary": lambda m, x: torch.addmm(x[:, :4], x, m.weight.T, alpha=2),
    "addmv": lambda m, x: torch.addmv(x[:, 0], x, m.weight[0], beta=2, alpha=3).unsqueeze(1),
    "inner": lambda m, x: torch.inner(x, m.weight),
    "a weight computed from parameters": lambda m, x: F.linear(x, torch.tanh(m.weight) * 2 - m.weight, m.bias),
    "tokens": lambda m, x: F.linear(x.unflatten(1, (-1, 2)), m.weight[:, :2], m.bias).flatten(1),
    "a shared factor for tokens": lambda m, x: (x.unflatten(1, (-1, 2)) @ m.weight[:, :2].T).flatten(1),
}


@pytest.mark.parametrize("form", FULLY_CONNECTED)
def test_fully_connected(form):
    operator = Function(FULLY_CONNECTED[form], weight=torch.ones(4, 10), bias=torch.ones(4))
    assert_sound(around(operator, (10,), first=True), (10,))
    behind = nn.Sequential(nn.Linear(6, 10), nn.ReLU(), operator, nn.ReLU(), nn.Linear(operator_width(operator), 3))
    assert_sound(randomise(behind, 1), (6,))


def operator_width(operator: nn.Module) -> int:
    return operator.double()(torch.zeros(2, 10, dtype=torch.float64)).shape[1]


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: F.linear(x, m.weight, x[0, 0]).flatten(1),
        lambda m, x: F.bilinear(x.flatten(1), x.flatten(1), m.cube),
    ],
)
def test_a_product_without_a_rule_is_refused(function):
    model = Function(function, weight=torch.ones(3, 3), cube=torch.ones(2, 9, 9))
    with pytest.raises(UnsupportedOperator, match=r"^aten\.\w+"):
        BoundedNetwork(model, torch.rand(1, 3, 3))


def test_the_input_as_kernel_is_refused():
    # A square image over itself; the batch is what makes conv2d(x, x) mix images, too.
    model = Function(lambda m, x: F.conv2d(x, x).flatten(1))
    with pytest.raises(UnsupportedOperator, match="a weight or bias that depends on the network's input"):
        BoundedNetwork(model, torch.rand(1, 2, 3, 3))
