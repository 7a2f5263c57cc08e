"""What supernet and final network share: input layer, stem, the stack of cells, classifier."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from robust_nas.spaces.cells import Cell, CellShape, SearchCell

STEM_MULTIPLIER = 3


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
    ) -> None:
        super().__init__()
        width = STEM_MULTIPLIER * channels
        self.input = InputLayer(mean, std, pad)
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, width, 3, stem_stride, padding=1, bias=False), nn.BatchNorm2d(width)
        )
        self.cells = nn.ModuleList()
        before = last = width
        after_reduction = False
        for index in range(cells):
            reduction = index in (cells // 3, 2 * cells // 3)
            channels = 2 * channels if reduction else channels
            cell = make_cell(CellShape(before, last, channels, reduction, after_reduction))
            self.cells.append(cell)
            before, last, after_reduction = last, cell.out_channels, reduction
        self.classifier = nn.Linear(last, classes)

    def run(
        self, x: Float[Tensor, "b c h w"], apply: Callable[[nn.Module, Tensor, Tensor], Tensor]
    ) -> Float[Tensor, "b classes"]:
        """The logits of images in [0, 1]; `apply(cell, before, last)` gives a cell its two inputs."""
        before = last = self.stem(self.input(x))
        for cell in self.cells:
            before, last = last, apply(cell, before, last)
        logits: Tensor = self.classifier(last.mean(dim=(2, 3)))
        return logits
