"""The final network: a stack of the cells that an architecture describes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from robust_nas.genotype import Architecture
from robust_nas.spaces.backbone import Backbone
from robust_nas.spaces.cells import Cell
from verify.checks.errors import InputError


class Network(Backbone):
    """A discrete network; an auxiliary head is the training's business.

    Args:
        genotype: the cells.
        in_channels: channels of the images.
        classes: number of classes.
        channels: channels of a node in the first cells.
        cells: number of cells; reductions at a third and two thirds.
        mean, std: of the data set, one a channel, in pixels of [0, 1].
        pad: zero pixels added on every side, inside the network.
        stem_stride: 2 halves the resolution before the first cell.
        stem: "cifar", or "imagenet": see `Backbone`.
        drop_path: probability of drop-path in training mode; `set_drop_path` changes it.

    Attributes:
        genotype: the cells.
        settings: the other arguments, as JSON can hold them: `Network(genotype, **settings)` builds the same
            network with fresh weights. Drop-path, which belongs to training, is not among them.

    Raises:
        InputError: the architecture is one of another number of cells.
    """

    def __init__(
        self,
        genotype: Architecture,
        in_channels: int,
        classes: int,
        *,
        channels: int,
        cells: int,
        mean: Sequence[float],
        std: Sequence[float],
        pad: int = 0,
        stem_stride: int = 1,
        stem: str = "cifar",
        drop_path: float = 0.0,
    ) -> None:
        if genotype.depth not in (None, cells):
            raise InputError(f"cells: this architecture is one of {genotype.depth} cells, not {cells}")
        super().__init__(
            lambda shape: Cell(genotype, shape),
            in_channels,
            classes,
            channels=channels,
            cells=cells,
            mean=mean,
            std=std,
            pad=pad,
            stem_stride=stem_stride,
            stem=stem,
            activation=genotype.activation,
        )
        self.genotype = genotype
        self.settings: dict[str, Any] = {
            "in_channels": in_channels,
            "classes": classes,
            "channels": channels,
            "cells": cells,
            "mean": list(mean),
            "std": list(std),
            "pad": pad,
            "stem_stride": stem_stride,
            "stem": stem,
        }
        self.set_drop_path(drop_path)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b classes"]:
        return self.run(x, lambda cell, before, last: cell(before, last))

    @property
    def second_reduction(self) -> int:
        """The place of the cell whose output an auxiliary head reads."""
        return 2 * len(self.cells) // 3

    @property
    def feature_channels(self) -> int:
        """Its channels."""
        cell = self.cells[self.second_reduction]
        assert isinstance(cell, Cell)
        return cell.out_channels

    def with_features(
        self, x: Float[Tensor, "b c h w"]
    ) -> tuple[Float[Tensor, "b classes"], Float[Tensor, "b c2 h2 w2"]]:
        """The logits, and the output of the second reduction cell."""
        outputs: list[Tensor] = []

        def apply(cell: nn.Module, before: Tensor, last: Tensor) -> Tensor:
            outputs.append(cell(before, last))
            return outputs[-1]

        logits = self.run(x, apply)
        return logits, outputs[self.second_reduction]

    def set_drop_path(self, probability: float) -> None:
        """Drop operations of every cell with this probability from now on, in training mode."""
        for module in self.modules():
            if isinstance(module, Cell):
                module.drop_path = probability
