"""The supernet of RobNet: every edge may hold a convolution, a skip connection, both or neither."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from robust_nas.genotype import RobNetGenotype
from robust_nas.spaces.backbone import OneShot
from robust_nas.spaces.cells import SEARCHED, Cell, MixedOperation, SearchCell, total
from robust_nas.spaces.network import Network
from robust_nas.spaces.operations import ResidualSepConv, SepConv, Style, Zero

GATED = ("sep_conv_3x3", "skip_connect")
"""The operations of an edge; in a code of `CODES` the first one's bit is the last."""


class GatedOperation(MixedOperation):
    """The sum of an edge's operations whose gates are open.

    Attributes:
        open: of every operation whether it is computed; a closed one gets neither gradients nor statistics. All are
            where a graph is traced, which then goes by the weights alone.
    """

    def __init__(self, channels: int, stride: int, operations: Sequence[str], style: Style = SEARCHED) -> None:
        super().__init__(channels, stride, operations, style)
        self.stride = stride
        self.open = (True,) * len(operations)

    def forward(self, x: Float[Tensor, "b c h w"], weights: Float[Tensor, " ops"]) -> Float[Tensor, "b c h2 w2"]:
        terms = [weights[i] * op(x) for i, op in enumerate(self.operations) if self.open[i]]
        return total(terms) if terms else torch.zeros_like(x[:, :, :: self.stride, :: self.stride])


class RobNetSupernet(OneShot):
    """A stack of cells of gated operations (RobNet; Guo et al., CVPR 2020).

    Every node reads all states before it. There are no architecture parameters: architectures are drawn. As in the
    final networks, pixels are those of [0, 1] as they are, and batch norms of the cells have no scale or shift.

    Args:
        in_channels: channels of the images.
        classes: number of classes.
        channels: channels of a node in the first cells.
        cells: number of cells; reductions at a third and two thirds.
        nodes: intermediate nodes a cell; the authors have 4.
        pad: zero pixels added on every side, inside the network.
        stem_stride: 2 halves the resolution before the first cell.
        activation: of the cells, a key of `ACTIVATIONS`.

    Attributes:
        gates: "cells edges 2", 1 where an operation of `GATED` counts; at first everywhere. Edges by node and then by
            input.
    """

    gates: Tensor

    def __init__(
        self,
        in_channels: int,
        classes: int,
        *,
        channels: int,
        cells: int,
        nodes: int,
        pad: int = 0,
        stem_stride: int = 1,
        activation: str = "relu",
    ) -> None:
        edges, style = sum(range(2, 2 + nodes)), replace(SEARCHED, activation=activation)
        super().__init__(
            lambda shape: SearchCell(shape, nodes, [GATED] * edges, GatedOperation, style),
            in_channels,
            classes,
            channels=channels,
            cells=cells,
            mean=[0.0] * in_channels,
            std=[1.0] * in_channels,
            pad=pad,
            stem_stride=stem_stride,
        )
        self.nodes, self.activation = nodes, activation
        self.register_buffer("gates", torch.ones(cells, edges, len(GATED)))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b classes"]:
        gates = (self.gates[place] for place in range(len(self.cells)))
        return self.run(x, lambda cell, before, last: cell(before, last, next(gates)))

    @contextmanager
    def at(self, architecture: RobNetGenotype) -> Iterator[None]:
        """Be this architecture within the block."""
        before = self.gates
        self._set(self._gates(architecture))
        try:
            yield
        finally:
            self._set(before)

    def genotype(self) -> RobNetGenotype:
        """The architecture that the gates stand for, a list of codes for each cell."""
        cells = tuple(tuple(_code(edge) for edge in cell) for cell in self.gates.tolist())
        return RobNetGenotype(cells, self.nodes, activation=self.activation)

    def give(self, network: Network) -> None:
        """Copy to the network of an architecture, at this supernet's size, the weights that it shares with it."""
        for name in ("stem", "classifier"):
            getattr(network, name).load_state_dict(getattr(self, name).state_dict())
        for mine, theirs in zip(self.cells, network.cells, strict=True):
            assert isinstance(mine, SearchCell) and isinstance(theirs, Cell)
            theirs.inputs.load_state_dict(mine.inputs.state_dict())
            for edge, operation in zip(mine.edges, theirs.operations, strict=True):
                assert isinstance(edge, GatedOperation)
                _give(edge, operation)

    def _gates(self, architecture: RobNetGenotype) -> Float[Tensor, "cells edges 2"]:
        """A list that all cells share is repeated."""
        lists = [[[float(bit) for bit in reversed(code)] for code in codes] for codes in architecture.cells]
        return self.gates.new_tensor(lists).expand_as(self.gates).clone()

    def _set(self, gates: Float[Tensor, "cells edges 2"]) -> None:
        self.gates = gates
        edges = [module for module in self.modules() if isinstance(module, GatedOperation)]
        for edge, is_open in zip(edges, (gates > 0).flatten(0, 1).tolist(), strict=True):
            edge.open = tuple(is_open)


def _code(gates: Sequence[float]) -> str:
    return "".join(str(int(gate)) for gate in reversed(gates))


def _give(edge: GatedOperation, operation: nn.Module) -> None:
    """To an operation of a final network the weights of an edge: of its convolution, its skip connection, or both."""
    convolution, skip = (module.state_dict() for module in edge.operations)
    if isinstance(operation, ResidualSepConv):
        operation.convolution.load_state_dict(convolution)
        operation.skip.load_state_dict(skip)
    elif not isinstance(operation, Zero):
        operation.load_state_dict(convolution if isinstance(operation, SepConv) else skip)
