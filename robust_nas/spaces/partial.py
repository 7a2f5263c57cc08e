"""The supernet of PC-DARTS: a part of the channels goes through the operations, and edges have a strength."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from robust_nas.spaces.cells import KINDS, SEARCHED, MixedOperation
from robust_nas.spaces.operations import Style
from robust_nas.spaces.supernet import ALPHA_SCALE, Supernet
from verify.checks.errors import InputError


class PartialMixedOperation(MixedOperation):
    """A mixed operation on the first 1/K of the channels; the others bypass it (PC-DARTS, eq. 1).

    Where the stride is 2 those go through a 2x2 max pool. Both parts are joined and their channels shuffled, so
    that the next edge has others in front.

    Args:
        channels: of the input; a multiple of `partial`.
        stride: of the operations.
        operations: their names, in the order of the weights.
        partial: K.
        style: of the operations.
    """

    def __init__(
        self, channels: int, stride: int, operations: Sequence[str], partial: int, style: Style = SEARCHED
    ) -> None:
        super().__init__(channels // partial, stride, operations, style)
        self.stride = stride
        self.partial = partial

    def forward(
        self, x: Float[Tensor, "b c h w"], weights: Float[Tensor, " ops"]
    ) -> Float[Tensor, "b c h2 w2"]:
        width = x.shape[1] // self.partial
        mixed = super().forward(x[:, :width], weights)
        return shuffle(torch.cat([mixed, self._bypass(x[:, width:])], dim=1), self.partial)

    def _bypass(self, x: Tensor) -> Tensor:
        if self.stride == 1:
            return x
        # An odd side comes out as long as that of the operations, ceil(h / 2): the first window is cut off.
        height, width = x.shape[2:]
        return F.max_pool2d(x, 2, 2, padding=(height % 2, width % 2))


class PartialSupernet(Supernet):
    """PC-DARTS (Xu et al., ICLR 2020): partial channel connections and edge normalisation.

    A node is the sum over its incoming edges of beta_e times the mixed operation of the edge, with beta softmaxed
    over them (eq. 2); the genotype comes from the product of both softmaxes.

    Args:
        in_channels: channels of the images.
        classes: number of classes.
        channels: channels of a node in the first cells; a multiple of `partial`.
        partial: K; one in K channels goes through the operations.
        options: those of `Supernet`.

    Attributes:
        betas: `normal` and `reduce`, one element an edge, edges by node and then by input. They start at
            1e-3 N(0, 1).

    Raises:
        InputError: K below 2, channels that it does not divide, or wrong operations.
    """

    def __init__(
        self, in_channels: int, classes: int, *, channels: int = 16, partial: int = 4, **options: Any
    ) -> None:
        if partial < 2:
            raise InputError(f"partial must be at least 2, not {partial}; without partial channels use Supernet")
        if channels % partial:
            raise InputError(f"channels must be a multiple of {partial} (one in {partial} is mixed), not {channels}")
        super().__init__(
            in_channels,
            classes,
            channels=channels,
            mixed=lambda c, stride, names, style: PartialMixedOperation(c, stride, names, partial, style),
            **options,
        )
        self.betas = nn.ParameterDict(
            {kind: ALPHA_SCALE * torch.randn(len(self.operations[kind])) for kind in KINDS}
        )

    def mixture(self, kind: str) -> tuple[Tensor, ...]:
        """Alpha relaxed, `edges x operations`, and beta softmaxed over the edges into each node, `edges`."""
        return (*super().mixture(kind), self._strengths(kind))

    def probabilities(self) -> dict[str, Float[Tensor, "edges _"]]:
        """What the genotype is derived from: softmax(alpha) times the softmaxed beta of the edge."""
        return {
            kind: operations * self._strengths(kind).unsqueeze(1)
            for kind, operations in super().probabilities().items()
        }

    def _strengths(self, kind: str) -> Float[Tensor, " edges"]:
        nodes = self.betas[kind].split(list(range(2, 2 + self.nodes)))
        return torch.cat([torch.softmax(beta, dim=0) for beta in nodes])

    def architecture_parameters(self) -> list[nn.Parameter]:
        """The two alphas, then the two betas."""
        return [*super().architecture_parameters(), *self.betas.values()]


def shuffle(x: Float[Tensor, "b c h w"], groups: int) -> Float[Tensor, "b c h w"]:
    """Interleave the channels of so many groups: the first of each, then the second of each, ..."""
    return x.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)
