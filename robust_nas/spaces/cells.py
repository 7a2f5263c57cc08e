"""Cells: of mixed operations, for the supernet, and of chosen ones, for the final network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from robust_nas.genotype import Architecture
from robust_nas.spaces.operations import OPERATIONS, ActivationConvBN, FactorizedReduce, Style, Zero

KINDS = ("normal", "reduce")
"""The two kinds of cell; every cell of a kind has the same architecture."""

SEARCHED = Style(affine=False)
"""The operations of a supernet, unless their activation is another."""


@dataclass(frozen=True)
class CellShape:
    """What a cell's place in the stack asks of it.

    Attributes:
        before: channels of the cell before last (input 0).
        last: channels of the last cell (input 1).
        channels: channels of every node.
        reduction: whether this cell halves the resolution.
        after_reduction: whether the last cell did, so that input 0 is twice as large as input 1.
        index: how many cells come before it.
    """

    before: int
    last: int
    channels: int
    reduction: bool
    after_reduction: bool
    index: int = 0

    @property
    def kind(self) -> str:
        """Which of `KINDS` the cell is."""
        return "reduce" if self.reduction else "normal"

    def stride(self, source: int) -> int:
        """The stride of an operation that reads input `source`: a reduction halves inputs 0 and 1 only."""
        return 2 if self.reduction and source < 2 else 1


class CellInputs(nn.Module):
    """Brings a cell's two inputs to the cell's channels and to one resolution."""

    def __init__(self, shape: CellShape, style: Style) -> None:
        super().__init__()
        align = FactorizedReduce if shape.after_reduction else ActivationConvBN
        self.before = align(shape.before, shape.channels, style)
        self.last = ActivationConvBN(shape.last, shape.channels, style)

    def forward(
        self, before: Float[Tensor, "b c0 h0 w0"], last: Float[Tensor, "b c1 h w"]
    ) -> list[Float[Tensor, "b c h w"]]:
        return [self.before(before), self.last(last)]


class MixedOperation(nn.Module):
    """The weighted sum of an edge's operations, DARTS eq. 2.

    Batch norms should have no scale or shift of their own, which could stand in for the weights (`SEARCHED`), and each
    pool gets one so that all terms have the same magnitude.

    Args:
        channels: of what the operations read and give.
        stride: of the operations.
        operations: their names, in the order of the weights.
        style: of the operations.

    Attributes:
        skip_dropout: probability that an element of an identity's output is dropped, in training mode only
            (P-DARTS, Chen et al., ICCV 2019, section 3.4). At 0 nothing is drawn, and a trace shows no dropout.
    """

    def __init__(self, channels: int, stride: int, operations: Sequence[str], style: Style = SEARCHED) -> None:
        super().__init__()
        self.skip_dropout = 0.0
        self.operations = nn.ModuleList(_search_operation(name, channels, stride, style) for name in operations)

    def forward(
        self, x: Float[Tensor, "b c h w"], weights: Float[Tensor, " ops"]
    ) -> Float[Tensor, "b c h2 w2"]:
        # `none` adds nothing to the sum; it matters through its share of the softmax.
        terms = [
            weights[i] * self._term(op, x) for i, op in enumerate(self.operations) if not isinstance(op, Zero)
        ]
        return total(terms)

    def _term(self, operation: nn.Module, x: Tensor) -> Tensor:
        out: Tensor = operation(x)
        if self.skip_dropout > 0 and isinstance(operation, nn.Identity):
            out = F.dropout(out, self.skip_dropout, self.training)
        return out


MixedFactory = Callable[[int, int, Sequence[str], Style], MixedOperation]
"""(channels, stride, names of the operations, style) -> what an edge of a search cell computes."""


class SearchCell(nn.Module):
    """A cell whose every edge is a mixed operation.

    Args:
        shape: the cell's place in the stack.
        nodes: intermediate nodes.
        operations: the names of each edge's operations; edges by node and then by input.
        mixed: builds the mixed operation of an edge.
        style: of the operations.
    """

    def __init__(
        self,
        shape: CellShape,
        nodes: int,
        operations: Sequence[Sequence[str]],
        mixed: MixedFactory,
        style: Style = SEARCHED,
    ) -> None:
        super().__init__()
        self.reduction = shape.reduction
        self.out_channels = nodes * shape.channels
        self.inputs = CellInputs(shape, style)
        sources = [source for node in range(2, 2 + nodes) for source in range(node)]
        self.edges = nn.ModuleList(
            mixed(shape.channels, shape.stride(source), names, style)
            for source, names in zip(sources, operations, strict=True)
        )

    def forward(
        self,
        before: Float[Tensor, "b c0 h0 w0"],
        last: Float[Tensor, "b c1 h1 w1"],
        weights: Float[Tensor, "edges ops"],
        strengths: Float[Tensor, " edges"] | None = None,
    ) -> Float[Tensor, "b c h w"]:
        """`weights`: softmaxed alpha, one row an edge; `strengths` scale whole edges, where a space has them."""
        states = self.inputs(before, last)
        first = 0
        while first < len(self.edges):
            terms = [self.edges[first + i](state, weights[first + i]) for i, state in enumerate(states)]
            if strengths is not None:
                terms = [strengths[first + i] * term for i, term in enumerate(terms)]
            states.append(total(terms))
            first += len(terms)
        return torch.cat(states[2:], dim=1)


class Cell(nn.Module):
    """A cell of a final network: the operations of an architecture, with drop-path on all but identities.

    Attributes:
        drop_path: probability that an operation is dropped for an image, in training mode only; training
            raises it.
    """

    def __init__(self, architecture: Architecture, shape: CellShape) -> None:
        super().__init__()
        plan = architecture.plan(shape.index, shape.reduction)
        self.concat = plan.concat
        self.out_channels = len(self.concat) * shape.channels
        self.drop_path = 0.0
        self.inputs = CellInputs(shape, plan.style)
        self.sources = [[source for _, source in node] for node in plan.nodes]
        self.operations = nn.ModuleList(
            OPERATIONS[name](shape.channels, shape.stride(source), plan.style) for name, source in plan.edges
        )

    def forward(
        self, before: Float[Tensor, "b c0 h0 w0"], last: Float[Tensor, "b c1 h1 w1"]
    ) -> Float[Tensor, "b c h w"]:
        states = self.inputs(before, last)
        first = 0
        for sources in self.sources:
            states.append(total([self._term(first + i, states[source]) for i, source in enumerate(sources)]))
            first += len(sources)
        return torch.cat([states[node] for node in self.concat], dim=1)

    def _term(self, edge: int, x: Tensor) -> Tensor:
        operation = self.operations[edge]
        out: Tensor = operation(x)
        if self.training and self.drop_path > 0 and not isinstance(operation, nn.Identity):
            out = drop_path(out, self.drop_path)
        return out


def drop_path(x: Float[Tensor, "b c h w"], probability: float) -> Float[Tensor, "b c h w"]:
    """Zero each image of `x` with this probability and scale up the rest, so that the expectation stays."""
    keep = torch.rand(len(x), 1, 1, 1, dtype=x.dtype, device=x.device) >= probability
    return x * keep / (1 - probability)


def total(terms: Sequence[Tensor]) -> Tensor:
    """The sum of tensors of one shape; unlike `sum` it adds no 0, which a traced graph would carry along."""
    return reduce(add, terms)


def _search_operation(name: str, channels: int, stride: int, style: Style) -> nn.Module:
    operation = OPERATIONS[name](channels, stride, style)
    if isinstance(operation, (nn.MaxPool2d, nn.AvgPool2d)):
        return nn.Sequential(operation, style.normalise(channels))
    return operation
