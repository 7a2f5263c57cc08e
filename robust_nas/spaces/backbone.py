"""What supernet and final network share: input layer, stem, the stack of cells, classifier."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from robust_nas.registry import ACTIVATIONS
from robust_nas.spaces.cells import Cell, CellShape, SearchCell
from verify.checks.errors import InputError, known_names

STEM_MULTIPLIER = 3
STEMS = ("cifar", "imagenet")


class InputLayer(nn.Module):
    """Pads raw pixels with 0 by `pad` on every side, then normalises a channel at a time.

    Both are inside the network so that a perturbation is measured in pixels of [0, 1] and cannot touch the
    border.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float], pad: int) -> None:
        super().__init__()
        self.pad = pad
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
        if self.pad:
            x = F.pad(x, [self.pad] * 4)
        return (x - self.mean) / self.std


class Backbone(nn.Module):
    """A stack of cells as in DARTS: at one and two thirds of it channels double and resolution halves.

    Args:
        make_cell: builds the cell for a place in the stack.
        in_channels: channels of the images.
        classes: number of classes.
        channels: channels of a node in the first cells; the stem gives three times as many.
        cells: number of cells.
        mean, std: of the data set, one a channel, in pixels of [0, 1].
        pad: zero pixels added on every side before anything else.
        stem_stride: 2 halves the resolution before the first cell.
        stem: "cifar": a convolution of that stride. "imagenet": three of stride 2, as DARTS has them for ImageNet; the
            first cell then reads the output of the second and of the third.
        activation: between these three, a key of `ACTIVATIONS`.

    Raises:
        InputError: another stem, or a number that is no size of a network.
    """

    def __init__(
        self,
        make_cell: Callable[[CellShape], Cell | SearchCell],
        in_channels: int,
        classes: int,
        *,
        channels: int,
        cells: int,
        mean: Sequence[float],
        std: Sequence[float],
        pad: int,
        stem_stride: int,
        stem: str = "cifar",
        activation: str = "relu",
    ) -> None:
        super().__init__()
        if stem not in STEMS:
            raise InputError(f"unknown stem {stem!r}; {known_names(stem, STEMS)}")
        sizes = {"in_channels": in_channels, "classes": classes, "channels": channels, "cells": cells}
        for name, size in {**sizes, "pad": pad, "stem_stride": stem_stride}.items():
            least = 0 if name == "pad" else 1
            if type(size) is not int or size < least:
                raise InputError(f"{name}: must be a whole number >= {least}, not {size!r}")
        self.input = InputLayer(mean, std, pad)
        self.second_stem: nn.Sequential | None = None
        if stem == "cifar":
            width = STEM_MULTIPLIER * channels
            self.stem = _halving(in_channels, width, stem_stride)
        else:
            width = channels
            self.stem = nn.Sequential(
                _halving(in_channels, width // 2), ACTIVATIONS[activation](), _halving(width // 2, width)
            )
            self.second_stem = nn.Sequential(ACTIVATIONS[activation](), _halving(width, width))
        self.cells = nn.ModuleList()
        before = last = width
        after_reduction = self.second_stem is not None
        for index in range(cells):
            reduction = index in (cells // 3, 2 * cells // 3)
            channels = 2 * channels if reduction else channels
            cell = make_cell(CellShape(before, last, channels, reduction, after_reduction, index))
            self.cells.append(cell)
            before, last, after_reduction = last, cell.out_channels, reduction
        self.classifier = nn.Linear(last, classes)

    def run(
        self, x: Float[Tensor, "b c h w"], apply: Callable[[nn.Module, Tensor, Tensor], Tensor]
    ) -> Float[Tensor, "b classes"]:
        """The logits of images in [0, 1]; `apply(cell, before, last)` gives a cell its two inputs."""
        before = last = self.stem(self.input(x))
        if self.second_stem is not None:
            last = self.second_stem(before)
        for cell in self.cells:
            before, last = last, apply(cell, before, last)
        logits: Tensor = self.classifier(last.mean(dim=(2, 3)))
        return logits


class OneShot(Backbone):
    """A backbone that holds all architectures of a space, which share its weights: what a search trains."""

    def architecture_parameters(self) -> list[nn.Parameter]:
        """Those that the architecture is read from; none where it is drawn instead."""
        return []

    def weights(self) -> list[nn.Parameter]:
        """Every parameter that is not of the architecture."""
        architecture = {id(parameter) for parameter in self.architecture_parameters()}
        return [parameter for parameter in self.parameters() if id(parameter) not in architecture]


def _halving(in_channels: int, out_channels: int, stride: int = 2) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False), nn.BatchNorm2d(out_channels)
    )
