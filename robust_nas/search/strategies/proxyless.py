"""ProxylessNAS (Cai, Zhu and Han, ICLR 2019), its binary gates on the cells of DARTS."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from robust_nas.search.presets import SearchPreset
from robust_nas.search.strategies.base import Step, Strategy
from robust_nas.spaces.supernet import Supernet


class BinaryGates(Strategy):
    """One operation an edge counts at a time, drawn from softmax(alpha).

    The weights step with one path an edge. For alpha's step two paths an edge are drawn without replacement; one of
    the two is open, drawn by their probabilities p, and alpha's gradient is sum_j dL/dg_j dp_j/dalpha: that of the
    gates g passes to p as in BinaryConnect (eq. 4). Then both alphas move by a constant, so that the paths that were
    not drawn keep their probabilities (section 3.2.2). Adam has neither momentum nor weight
    decay for alpha, which would move the alphas of those.

    The paper's space is another one, and its point is memory, where this saves none: all paths are computed, and the
    closed ones count 0 times. So also the batch statistics of all paths move, and the weights of closed ones decay.
    """

    orders = ("first",)

    def stages(self, preset: SearchPreset) -> Sequence[SearchPreset]:
        return (replace(preset, alpha_betas=(0.0, 0.999), alpha_weight_decay=0.0),)

    @contextmanager
    def around_weight_step(self, model: Supernet, step: Step, loss: Callable[[], Tensor]) -> Iterator[None]:
        with model.held_at(_gates(model, step)):
            yield

    @contextmanager
    def around_alpha_step(self, model: Supernet, step: Step) -> Iterator[None]:
        before = {kind: alpha.detach().clone() for kind, alpha in model.alphas.items()}
        pairs = {kind: drawn(alpha.softmax(1), 2, step.generator) for kind, alpha in before.items()}
        with ExitStack() as stack:
            for kind, pair in pairs.items():
                stack.enter_context(model.relaxation(kind).changed(kept=pair))
            stack.enter_context(model.held_at(_gates(model, step)))
            yield
        with torch.no_grad():
            for kind, alpha in model.alphas.items():
                alpha -= shift(before[kind], alpha, pairs[kind])


def _gates(model: Supernet, step: Step) -> dict[str, Tensor]:
    """One operation an edge, drawn by the weights that it has: 1, and 0 for the others."""
    weights = {kind: model.relaxation(kind)(alpha).detach() for kind, alpha in model.alphas.items()}
    return {kind: drawn(rows, 1, step.generator).to(rows) for kind, rows in weights.items()}


def drawn(
    probabilities: Float[Tensor, "edges ops"], count: int, generator: torch.Generator
) -> Bool[Tensor, "edges ops"]:
    """So many operations of every edge, without replacement."""
    chosen = torch.multinomial(probabilities.cpu(), count, generator=generator).to(probabilities.device)
    return torch.zeros_like(probabilities, dtype=torch.bool).scatter(1, chosen, True)


def shift(
    before: Float[Tensor, "edges ops"], after: Float[Tensor, "edges ops"], drawn: Bool[Tensor, "edges ops"]
) -> Float[Tensor, "edges ops"]:
    """What to take from alphas after a step, so that those drawn have the total probability that they had before."""
    old, new = (alpha.masked_fill(~drawn, -torch.inf).logsumexp(1, keepdim=True) for alpha in (before, after))
    return (new - old) * drawn
