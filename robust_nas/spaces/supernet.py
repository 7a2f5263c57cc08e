"""The supernet of DARTS: all architectures of the space in one network, mixed by architecture parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from robust_nas.genotype import Edge, Genotype
from robust_nas.spaces.backbone import Backbone
from robust_nas.spaces.cells import SearchCell
from robust_nas.spaces.operations import PRIMITIVES

ALPHA_SCALE = 1e-3


class Supernet(Backbone):
    """A stack of cells of mixed operations (Liu, Simonyan and Yang, ICLR 2019).

    All normal cells share one alpha, all reduction cells another. The forward pass has no control flow that
    depends on data and nothing in place, so that it can be traced.

    Args:
        in_channels: channels of the images.
        classes: number of classes.
        channels: channels of a node in the first cells.
        cells: number of cells; reductions at a third and two thirds.
        nodes: intermediate nodes a cell.
        mean, std: of the data set, one a channel, in pixels of [0, 1].
        pad: zero pixels added on every side, inside the network.
        stem_stride: 2 halves the resolution before the first cell.

    Attributes:
        alphas: `normal` and `reduce`, each `edges x operations`; rows by node and then by input, columns in
            the order of `PRIMITIVES`. They start at 1e-3 N(0, 1).
    """

    def __init__(
        self,
        in_channels: int,
        classes: int,
        *,
        channels: int = 16,
        cells: int = 8,
        nodes: int = 3,
        mean: Sequence[float],
        std: Sequence[float],
        pad: int = 0,
        stem_stride: int = 1,
    ) -> None:
        super().__init__(
            lambda shape: SearchCell(shape, nodes),
            in_channels,
            classes,
            channels=channels,
            cells=cells,
            mean=mean,
            std=std,
            pad=pad,
            stem_stride=stem_stride,
        )
        edges = sum(range(2, 2 + nodes))
        self.nodes = nodes
        self.alphas = nn.ParameterDict(
            {cell: ALPHA_SCALE * torch.randn(edges, len(PRIMITIVES)) for cell in ("normal", "reduce")}
        )

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b classes"]:
        normal = torch.softmax(self.alphas["normal"], dim=-1)
        reduction = torch.softmax(self.alphas["reduce"], dim=-1)
        return self.run(
            x, lambda cell, before, last: cell(before, last, reduction if cell.reduction else normal)
        )

    def architecture_parameters(self) -> list[nn.Parameter]:
        """The two alphas."""
        return list(self.alphas.values())

    def weights(self) -> list[nn.Parameter]:
        """Every parameter that is not an alpha."""
        return [parameter for name, parameter in self.named_parameters() if not name.startswith("alphas.")]

    def genotype(self, meta: Mapping[str, Any] | None = None) -> Genotype:
        """The architecture that alpha prefers (see `derive`); all nodes make the cell's output."""
        concat = tuple(range(2, 2 + self.nodes))
        return Genotype(
            normal=derive(torch.softmax(self.alphas["normal"].detach(), dim=-1), self.nodes),
            normal_concat=concat,
            reduce=derive(torch.softmax(self.alphas["reduce"].detach(), dim=-1), self.nodes),
            reduce_concat=concat,
            nodes=self.nodes,
            meta=meta or {},
        )


def derive(weights: Float[Tensor, "edges ops"], nodes: int) -> tuple[Edge, ...]:
    """The two strongest incoming edges of every node, each with its strongest operation.

    `none` does not count. An edge is as strong as the largest weight among its operations. Ties go to the
    earlier input and operation; a node's pairs are listed by input, so that equal architectures are equal
    genotypes.
    """
    candidates = [i for i, name in enumerate(PRIMITIVES) if name != "none"]
    rows = weights[:, candidates].tolist()
    chosen: list[Edge] = []
    for node in range(2, 2 + nodes):
        incoming, rows = rows[:node], rows[node:]
        strongest = sorted(range(node), key=lambda source: -max(incoming[source]))[:2]
        for source in sorted(strongest):
            operation = candidates[incoming[source].index(max(incoming[source]))]
            chosen.append((PRIMITIVES[operation], source))
    return tuple(chosen)
