"""From architecture parameters to the weights of an edge's operations: the continuous relaxation of the choice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn


class Relaxation(nn.Module):
    """softmax((alpha + noise) / temperature) over the operations that are kept, plus an offset.

    Fresh, it is softmax(alpha), eq. 2 of DARTS. What other methods make of it is a matter of its buffers, so that a
    traced graph of the supernet, and every bound of it, follows:

    | method | what it sets |
    |---|---|
    | SNAS | `noise` to a Gumbel sample, `temperature` to its schedule: a sample of the concrete distribution |
    | ASAP | `temperature` to its schedule, `kept` to what is not pruned |
    | SDARTS | `offset` to a perturbation |
    | ProxylessNAS | `kept` to the sampled paths, `offset` so that the weights become binary gates |
    | ENAS | `offset` so that the weights become a given architecture |

    Args:
        edges, operations: the shape of alpha.

    Attributes:
        noise, offset: "edges ops", 0 at first.
        temperature: 1 at first.
        kept: "edges ops", all at first.
    """

    noise: Tensor
    offset: Tensor
    temperature: Tensor
    kept: Tensor

    def __init__(self, edges: int, operations: int) -> None:
        super().__init__()
        self.register_buffer("noise", torch.zeros(edges, operations))
        self.register_buffer("offset", torch.zeros(edges, operations))
        self.register_buffer("temperature", torch.tensor(1.0))
        self.register_buffer("kept", torch.ones(edges, operations, dtype=torch.bool))

    def forward(self, alpha: Float[Tensor, "edges ops"]) -> Float[Tensor, "edges ops"]:
        logits = (alpha + self.noise) / self.temperature
        return torch.softmax(logits.masked_fill(~self.kept, -torch.inf), dim=-1) + self.offset

    @contextmanager
    def changed(
        self,
        *,
        noise: Float[Tensor, "edges ops"] | None = None,
        kept: Bool[Tensor, "edges ops"] | None = None,
        offset: Float[Tensor, "edges ops"] | None = None,
        temperature: float | None = None,
    ) -> Iterator[None]:
        """Have these in place within the block."""
        before = self.noise, self.kept, self.offset, self.temperature
        self.noise = self.noise if noise is None else noise
        self.kept = self.kept if kept is None else kept
        self.offset = self.offset if offset is None else offset
        self.temperature = self.temperature if temperature is None else self.temperature.new_tensor(temperature)
        try:
            yield
        finally:
            self.noise, self.kept, self.offset, self.temperature = before

    @contextmanager
    def held_at(self, weights: Float[Tensor, "edges ops"], alpha: Float[Tensor, "edges ops"]) -> Iterator[None]:
        """Have the value `weights` within the block, whatever alpha is; a weight of 0 is exactly 0.

        The gradient in alpha stays that of the softmax.
        """
        with torch.no_grad():
            offset = weights.to(alpha) - (self(alpha) - self.offset)
        with self.changed(offset=offset):
            yield
