"""The operations an edge of a cell can hold, by name.

`PRIMITIVES` and every detail of them (kernel, order of ReLU, convolution and batch norm, the pools' padding) are
those of DARTS (Liu, Simonyan and Yang, ICLR 2019). So are sep_conv_7x7 and conv_7x1_1x7, which published cells need.
nor_conv_1x1, nor_conv_3x3 and max_pool_2x2 are AmoebaNet-B's (Real et al., AAAI 2019); details as in NAO's code (Luo et
al., NeurIPS 2018). res_sep_conv_3x3 is RobNet's code 11 (Guo et al., CVPR 2020).

Every operation maps `b c h w` to `b c h' w'`, where h' = ceil(h / stride). Where all of these have ReLU, a space may
have another activation, one of `ACTIVATIONS`. None is in place: several operations of a cell read the same state.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, cat, nn

from robust_nas.registry import ACTIVATIONS


@dataclass(frozen=True)
class Style:
    """What the operations of a network have in common.

    Attributes:
        affine: whether batch norms have a scale and a shift.
        activation: a key of `ACTIVATIONS`.
    """

    affine: bool = True
    activation: str = "relu"

    def activate(self) -> nn.Module:
        """A fresh activation."""
        return ACTIVATIONS[self.activation]()

    def normalise(self, channels: int) -> nn.BatchNorm2d:
        """A fresh batch norm."""
        return nn.BatchNorm2d(channels, affine=self.affine)


Factory = Callable[[int, int, Style], nn.Module]
"""(channels, stride, style) -> operation."""


class ActivationConvBN(nn.Sequential):
    """Activation, convolution, batch norm; with a 1x1 kernel it brings a cell's input to the cell's channels."""

    def __init__(self, in_channels: int, out_channels: int, style: Style, kernel: int = 1, stride: int = 1) -> None:
        super().__init__(
            style.activate(),
            nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=False),
            style.normalise(out_channels),
        )


class FactorizedConv(nn.Sequential):
    """Activation, a 1x7 and a 7x1 convolution with nothing between them, batch norm; each strides along its kernel."""

    def __init__(self, channels: int, stride: int, style: Style) -> None:
        super().__init__(
            style.activate(),
            nn.Conv2d(channels, channels, (1, 7), (1, stride), padding=(0, 3), bias=False),
            nn.Conv2d(channels, channels, (7, 1), (stride, 1), padding=(3, 0), bias=False),
            style.normalise(channels),
        )


class DilConv(nn.Sequential):
    """Activation, depthwise (dilated) convolution, pointwise convolution, batch norm."""

    def __init__(self, channels: int, kernel: int, stride: int, style: Style, *, dilation: int) -> None:
        padding = dilation * (kernel - 1) // 2
        super().__init__(
            style.activate(),
            nn.Conv2d(channels, channels, kernel, stride, padding, dilation, groups=channels, bias=False),
            nn.Conv2d(channels, channels, 1, bias=False),
            style.normalise(channels),
        )


class SepConv(nn.Sequential):
    """A depthwise separable convolution applied twice; the first has the stride."""

    def __init__(self, channels: int, kernel: int, stride: int, style: Style) -> None:
        super().__init__(
            DilConv(channels, kernel, stride, style, dilation=1),
            DilConv(channels, kernel, 1, style, dilation=1),
        )


class FactorizedReduce(nn.Module):
    """Halve the resolution: two 1x1 convolutions of stride 2, the second on the image moved by one pixel."""

    def __init__(self, in_channels: int, out_channels: int, style: Style) -> None:
        super().__init__()
        moved = out_channels // 2
        self.activation = style.activate()
        self.even = nn.Conv2d(in_channels, out_channels - moved, 1, stride=2, bias=False)
        self.odd = nn.Conv2d(in_channels, moved, 1, stride=2, bias=False)
        self.norm = style.normalise(out_channels)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
        x = self.activation(x)
        height, width = x.shape[2:]
        moved = x
        if height % 2 or width % 2:  # an odd side would come out one shorter than that of the other half
            moved = F.pad(x, (0, width % 2, 0, height % 2))
        out: Tensor = self.norm(cat([self.even(x), self.odd(moved[:, :, 1:, 1:])], dim=1))
        return out


class Zero(nn.Module):
    """No connection: zeros of the shape that the other operations give."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
        return 0.0 * x[:, :, :: self.stride, :: self.stride]


class ResidualSepConv(nn.Module):
    """A 3x3 separable convolution plus a skip connection."""

    def __init__(self, channels: int, stride: int, style: Style) -> None:
        super().__init__()
        self.convolution = SepConv(channels, 3, stride, style)
        self.skip = _skip(channels, stride, style)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
        out: Tensor = self.convolution(x) + self.skip(x)
        return out


class MaxPool2x2(nn.Module):
    """The maximum of every window of 2 x 2; where the last window is short, of what there is of it."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
        if self.stride == 2 and x.shape[2] % 2 == x.shape[3] % 2 == 0:
            return F.max_pool2d(x, 2)
        # A pool pads both sides or none: of the windows one apart, leave out those that begin outside of the image.
        return F.max_pool2d(x, 2, 1, padding=1)[:, :, 1 :: self.stride, 1 :: self.stride]


def _skip(channels: int, stride: int, style: Style) -> nn.Module:
    return nn.Identity() if stride == 1 else FactorizedReduce(channels, channels, style)


OPERATIONS: dict[str, Factory] = {
    "none": lambda c, stride, style: Zero(stride),
    "max_pool_3x3": lambda c, stride, style: nn.MaxPool2d(3, stride, padding=1),
    "avg_pool_3x3": lambda c, stride, style: nn.AvgPool2d(3, stride, padding=1, count_include_pad=False),
    "skip_connect": _skip,
    "sep_conv_3x3": lambda c, stride, style: SepConv(c, 3, stride, style),
    "sep_conv_5x5": lambda c, stride, style: SepConv(c, 5, stride, style),
    "dil_conv_3x3": lambda c, stride, style: DilConv(c, 3, stride, style, dilation=2),
    "dil_conv_5x5": lambda c, stride, style: DilConv(c, 5, stride, style, dilation=2),
    "sep_conv_7x7": lambda c, stride, style: SepConv(c, 7, stride, style),
    "conv_7x1_1x7": lambda c, stride, style: FactorizedConv(c, stride, style),
    "nor_conv_1x1": lambda c, stride, style: ActivationConvBN(c, c, style, 1, stride),
    "nor_conv_3x3": lambda c, stride, style: ActivationConvBN(c, c, style, 3, stride),
    "max_pool_2x2": lambda c, stride, style: MaxPool2x2(stride),
    "res_sep_conv_3x3": lambda c, stride, style: ResidualSepConv(c, stride, style),
}

PRIMITIVES = (
    "none",
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)
"""What a mixed operation of the DARTS space chooses from; the order is that of the columns of alpha."""


def family(operation: str) -> str:
    """What kind of operation it is: "none", "skip", "pool" or, if it has weights to learn, "convolution"."""
    if operation == "none":
        return "none"
    if operation == "skip_connect":
        return "skip"
    return "pool" if "pool" in operation else "convolution"


def count(operations: Iterable[str]) -> Counter[str]:
    """How many operations there are of every family."""
    return Counter(family(operation) for operation in operations)
