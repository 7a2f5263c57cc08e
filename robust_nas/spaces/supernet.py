"""The supernet of DARTS: all architectures of the space in one network, mixed by architecture parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from robust_nas.genotype import Edge, Genotype
from robust_nas.spaces.backbone import OneShot
from robust_nas.spaces.cells import KINDS, SEARCHED, MixedFactory, MixedOperation, SearchCell
from robust_nas.spaces.operations import PRIMITIVES
from robust_nas.spaces.relaxation import Relaxation
from verify.checks.errors import InputError, known_names

ALPHA_SCALE = 1e-3

Operations = Mapping[str, Sequence[Sequence[str]]]
"""By kind of cell: the names of every edge's operations; edges by node and then by input."""


class Supernet(OneShot):
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
        operations: what each edge chooses from, as many on all edges of a kind of cell; all of `PRIMITIVES`
            unless given.
        mixed: builds the mixed operation of an edge.
        activation: of the cells, a key of `ACTIVATIONS`.

    Attributes:
        alphas: `normal` and `reduce`, each `edges x operations`; rows by node and then by input, columns in
            the order of the edge's operations. They start at 1e-3 N(0, 1).
        operations: `normal` and `reduce`, each the names of every edge's operations.
        relaxations: `normal` and `reduce`, each how alpha weighs the operations.

    Raises:
        InputError: `operations` are not those of such cells.
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
        operations: Operations | None = None,
        mixed: MixedFactory = MixedOperation,
        activation: str = "relu",
    ) -> None:
        edges, style = sum(range(2, 2 + nodes)), replace(SEARCHED, activation=activation)
        names = _checked(dict.fromkeys(KINDS, [PRIMITIVES] * edges) if operations is None else operations, edges)
        super().__init__(
            lambda shape: SearchCell(shape, nodes, names[shape.kind], mixed, style),
            in_channels,
            classes,
            channels=channels,
            cells=cells,
            mean=mean,
            std=std,
            pad=pad,
            stem_stride=stem_stride,
        )
        self.nodes, self.activation = nodes, activation
        self.operations = names
        self.alphas = nn.ParameterDict(
            {kind: ALPHA_SCALE * torch.randn(edges, len(names[kind][0])) for kind in KINDS}
        )
        self.relaxations = nn.ModuleDict({kind: Relaxation(edges, len(names[kind][0])) for kind in KINDS})

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b classes"]:
        normal, reduction = (self.mixture(kind) for kind in KINDS)
        return self.run(
            x, lambda cell, before, last: cell(before, last, *(reduction if cell.reduction else normal))
        )

    def mixture(self, kind: str) -> tuple[Tensor, ...]:
        """What a cell of this kind takes beside its inputs: alpha relaxed, `edges x operations`."""
        return (self.relaxation(kind)(self.alphas[kind]),)

    def probabilities(self) -> dict[str, Float[Tensor, "edges _"]]:
        """What the genotype is derived from, by kind of cell: softmax(alpha), without what is pruned.

        Differentiable in alpha.
        """
        return {
            kind: torch.softmax(alpha, dim=-1).masked_fill(~self.relaxation(kind).kept, 0.0)
            for kind, alpha in self.alphas.items()
        }

    def logits(self) -> dict[str, Float[Tensor, "edges _"]]:
        """Alpha by kind of cell, -infinity where an operation is pruned."""
        return {
            kind: alpha.masked_fill(~self.relaxation(kind).kept, -torch.inf) for kind, alpha in self.alphas.items()
        }

    @contextmanager
    def held_at(self, weights: Mapping[str, Float[Tensor, "edges _"]]) -> Iterator[None]:
        """Have these weights of the operations, by kind of cell, within the block (see `Relaxation.held_at`)."""
        with ExitStack() as stack:
            for kind, alpha in self.alphas.items():
                stack.enter_context(self.relaxation(kind).held_at(weights[kind], alpha))
            yield

    def relaxation(self, kind: str) -> Relaxation:
        """How alpha of this kind of cell weighs the operations."""
        relaxation = self.relaxations[kind]
        assert isinstance(relaxation, Relaxation)
        return relaxation

    def architecture_parameters(self) -> list[nn.Parameter]:
        """The two alphas."""
        return list(self.alphas.values())

    @contextmanager
    def skip_dropout(self, probability: float) -> Iterator[None]:
        """Drop elements of the outputs of identities within this context, in training mode.

        P-DARTS (Chen et al., ICCV 2019, section 3.4). For steps of the weights alone: a network that draws random
        numbers can neither be traced nor bounded.

        Raises:
            InputError: not a probability below 1.
        """
        if not 0 <= probability < 1:
            raise InputError(f"skip-dropout must be at least 0 and below 1, not {probability}")
        try:
            self._set_skip_dropout(probability)
            yield
        finally:
            self._set_skip_dropout(0.0)

    def _set_skip_dropout(self, probability: float) -> None:
        for module in self.modules():
            if isinstance(module, MixedOperation):
                module.skip_dropout = probability

    def strongest(self, keep: int) -> dict[str, tuple[tuple[str, ...], ...]]:
        """The operations of largest weight on every edge: what is left of the space in P-DARTS' next stage.

        Args:
            keep: how many an edge; they come in the order of `PRIMITIVES`.

        Raises:
            InputError: an edge does not have as many.
        """
        return {
            kind: tuple(
                _largest(alpha, names, keep)
                for alpha, names in zip(self.alphas[kind].tolist(), self.operations[kind], strict=True)
            )
            for kind in KINDS
        }

    def genotype(self, meta: Mapping[str, Any] | None = None, skip_limit: int | None = None) -> Genotype:
        """The architecture that `probabilities` prefer (see `derive`); all nodes make the cell's output.

        Args:
            meta: what the genotype's file says of its origin.
            skip_limit: most skip connections in the normal cell (see `limit_skips`); None for any number.

        Raises:
            InputError: the operations leave no normal cell with so few skip connections.
        """
        weights = {kind: probabilities.detach() for kind, probabilities in self.probabilities().items()}
        if skip_limit is not None:
            weights["normal"] = limit_skips(weights["normal"], self.operations["normal"], skip_limit)
        concat = tuple(range(2, 2 + self.nodes))
        return Genotype(
            normal=derive(weights["normal"], self.operations["normal"]),
            normal_concat=concat,
            reduce=derive(weights["reduce"], self.operations["reduce"]),
            reduce_concat=concat,
            nodes=self.nodes,
            meta=meta or {},
            activation=self.activation,
        )


def derive(weights: Float[Tensor, "edges ops"], operations: Sequence[Sequence[str]]) -> tuple[Edge, ...]:
    """The two strongest incoming edges of every node, each with its strongest operation.

    `none` does not count. An edge is as strong as the largest weight among its operations. Ties go to the
    earlier input and operation; a node's pairs are listed by input, so that equal architectures are equal
    genotypes.

    Args:
        weights: of each edge's operations; edges by node and then by input.
        operations: their names.
    """
    best = [
        max((pair for pair in zip(row, names, strict=True) if pair[1] != "none"), key=lambda pair: pair[0])
        for row, names in zip(weights.tolist(), operations, strict=True)
    ]
    chosen: list[Edge] = []
    node = 2
    while best:
        incoming, best = best[:node], best[node:]
        strongest = sorted(range(node), key=lambda source: -incoming[source][0])[:2]
        chosen += ((incoming[source][1], source) for source in sorted(strongest))
        node += 1
    return tuple(chosen)


def limit_skips(
    weights: Float[Tensor, "edges ops"], operations: Sequence[Sequence[str]], limit: int
) -> Float[Tensor, "edges ops"]:
    """Weights from which `derive` takes at most `limit` skip connections (P-DARTS, section 3.4).

    As long as it takes more, the one of smallest weight among those that it takes gets the weight 0.

    Raises:
        InputError: too many of its edges hold nothing else.
    """
    weights = weights.clone()
    while len(skips := _derived_skips(weights, operations)) > limit:
        left = [place for place in skips if weights[place] > 0]
        if not left:
            raise InputError(f"no cell of these operations has {limit} skip connections or fewer")
        weights[min(left, key=lambda place: weights[place].item())] = 0
    return weights


def _derived_skips(weights: Tensor, operations: Sequence[Sequence[str]]) -> list[tuple[int, int]]:
    """Where in the weights, (edge, operation), the skip connections are that `derive` takes."""
    edges = [
        sum(range(2, 2 + i // 2)) + source
        for i, (name, source) in enumerate(derive(weights, operations))
        if name == "skip_connect"
    ]
    return [(edge, operations[edge].index("skip_connect")) for edge in edges]


def _largest(alpha: Sequence[float], names: Sequence[str], keep: int) -> tuple[str, ...]:
    """The `keep` operations of largest alpha on an edge: softmax does not change their order."""
    candidates = dict(zip(names, alpha, strict=True))
    if not 1 <= keep <= len(candidates):
        raise InputError(f"keep: must be 1 to {len(candidates)}, the operations of an edge, not {keep}")
    kept = sorted(candidates, key=lambda name: -candidates[name])[:keep]
    return tuple(sorted(kept, key=PRIMITIVES.index))


def _checked(operations: Operations, edges: int) -> dict[str, tuple[tuple[str, ...], ...]]:
    if set(operations) != set(KINDS):
        raise InputError(f"operations: must be given for {' and '.join(KINDS)}, not for {', '.join(operations)}")
    for kind, rows in operations.items():
        if len(rows) != edges:
            raise InputError(f"operations: {kind}: the cell has {edges} edges, not {len(rows)}")
        if len({len(names) for names in rows}) > 1:
            raise InputError(f"operations: {kind}: every edge must have as many operations as the others")
        for edge, names in enumerate(rows):
            _check_names(f"operations: {kind}[{edge}]", names)
    return {kind: tuple(tuple(names) for names in operations[kind]) for kind in KINDS}


def _check_names(edge: str, names: Sequence[str]) -> None:
    for name in names:
        if name not in PRIMITIVES:
            raise InputError(f"{edge}: unknown operation {name!r}; {known_names(name, PRIMITIVES)}")
    if len(set(names)) < len(names):
        raise InputError(f"{edge}: names an operation twice")
    if set(names) <= {"none"}:
        raise InputError(f"{edge}: needs an operation other than none")
