"""Which neuron to split, and the two parts that it makes."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from verify.complete.domains import Domains, Frame, joined
from verify.operators.layout import flat
from verify.operators.relaxation import Relaxation
from verify.propagation.neurons import Intervals

EARLIER = 3.0
"""How much more a split counts for every layer that it is further from the output, as it tightens what is behind it."""


class Splits(NamedTuple):
    """One for each part.

    Attributes:
        node: its number among the frame's.
        neuron: its place among those of the node that can be split.
        point: where; NaN where there is nothing to split.
        choices: how many neurons could have been split.
    """

    node: Int[Tensor, " b"]
    neuron: Int[Tensor, " b"]
    point: Float[Tensor, " b"]
    choices: Int[Tensor, " b"]

    def take(self, index: Int[Tensor, " m"]) -> Splits:
        return Splits(*(part[index] for part in self))

    def plus(self, other: Splits) -> Splits:
        """Those of both, one set after the other."""
        return Splits(*(torch.cat(pair) for pair in zip(self, other, strict=True)))


def best_splits(frame: Frame, intervals: Intervals, reached: dict[str, Tensor], count: int) -> Splits:
    """Of each part the neuron whose relaxation costs its bound most.

    For ReLU that is what BaBSR (Bunel et al. 2020) counts by the intercept of the upper line.

    Args:
        intervals: of the parts.
        reached: coefficients "b *shape" of their bounds, see `verify.propagation.crown.Backward`.
        count: of parts.
    """
    if not frame.neurons:
        nothing = torch.zeros(count, dtype=torch.int64)
        return Splits(nothing, nothing, torch.full((count,), torch.nan, dtype=torch.float64), nothing)
    costs, points, places = [], [], []
    for number, (name, numbers) in enumerate(frame.neurons.items()):
        lower, upper = intervals[name]
        cost, point = torch.zeros_like(lower), torch.full_like(lower, torch.nan)
        for user in frame.graph.users(frame.graph[name]):
            if isinstance(user, Relaxation) and user.name in reached:
                more, at = user.split(reached[user.name], lower, upper)
                cost, point = cost + more.nan_to_num(0.0), torch.where(point.isnan(), at, point)
        numbers = numbers.expand(count, -1)
        costs.append(flat(cost).gather(1, numbers) * EARLIER ** (len(frame.neurons) - number))
        points.append(flat(point).gather(1, numbers))
        places.append(torch.stack([torch.full_like(numbers[0], number), torch.arange(numbers.shape[1])]))
    where, (node, neuron) = torch.cat(points, 1), torch.cat(places, 1)
    best = torch.cat(costs, 1).masked_fill(where.isnan(), -1.0).argmax(1)
    point = where.gather(1, best.unsqueeze(1)).squeeze(1)
    return Splits(node[best], neuron[best], point, (~where.isnan()).sum(1))


def halves(domains: Domains, frame: Frame, splits: Splits) -> Domains:
    """Both parts of each domain: those below the points, then those above.

    Args:
        splits: with a point each.
    """
    below, above = domains.each(torch.clone), domains.each(torch.clone)
    for number, name in enumerate(frame.neurons):
        (here,) = (splits.node == number).nonzero(as_tuple=True)
        place = here, splits.neuron[here]
        below.upper[name][place] = splits.point[here]
        below.lowered[name][place] = True
        above.lower[name][place] = splits.point[here]
        above.raised[name][place] = True
    return joined(below, above)
