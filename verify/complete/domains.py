"""Parts of a region, in which some neurons are kept to a part of their intervals: what branch and bound divides.

A split of a neuron at a point makes two parts, in one of which it is at most that and in the other at least. A part is
told by the intervals of its neurons alone: the inputs at which all neurons lie within them. Whoever bounds it may use
all of that, and nothing else has to be known of how it came about.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from verify.complete.linear_program import Cuts
from verify.graph.graph import Graph
from verify.operators.layout import flat, listed
from verify.operators.operator import Interval
from verify.operators.relaxation import Elementwise, Slopes
from verify.propagation.alpha import Choice
from verify.propagation.crown import Held
from verify.propagation.neurons import Intervals
from verify.propagation.prior import rows_needed

Parts = dict[str, Tensor]
"""One tensor for each node."""


@dataclass(frozen=True)
class Domains:
    """A batch of parts of a region.

    Attributes:
        bound: "b s": of rows of the outputs from below, proven; or one of the largest row of an unsafe set.
        lower, upper: "b k": ends of the neurons that can be split, by the name of their node.
        raised, lowered: "b k": whether a split has moved the lower end up, the upper end down.
        slopes, weights: "b s k": where the ascent starts from (`verify.propagation.alpha.Choice`), by the names of
            functions and of nodes.
    """

    bound: Float[Tensor, "b s"]
    lower: Parts
    upper: Parts
    raised: Parts
    lowered: Parts
    slopes: Parts
    weights: Parts

    def __len__(self) -> int:
        return len(self.bound)

    def each(self, change: Callable[[Tensor], Tensor]) -> Domains:
        """The same change of every tensor."""
        return Domains(change(self.bound), *(_mapped(getattr(self, part.name), change) for part in fields(self)[1:]))

    def take(self, index: Int[Tensor, " m"]) -> Domains:
        """These parts alone."""
        return self.each(lambda values: values[index])


def _mapped(parts: Parts, change: Callable[[Tensor], Tensor]) -> Parts:
    return {name: change(values) for name, values in parts.items()}


def joined(first: Domains, second: Domains) -> Domains:
    """Both as one batch."""
    names = [part.name for part in fields(first)[1:]]
    pairs = [(getattr(first, name), getattr(second, name)) for name in names]
    parts = ({node: torch.cat([values, others[node]]) for node, values in own.items()} for own, others in pairs)
    return Domains(torch.cat([first.bound, second.bound]), *parts)


class Frame:
    """What all parts of one region share: which neurons can be split, and the intervals of the others.

    Args:
        intervals: of all relaxed neurons over the whole region.
    """

    def __init__(self, graph: Graph, intervals: Intervals) -> None:
        self.graph, self.intervals = graph, intervals
        numbers = {name: listed(rows_needed(graph, graph[name], interval)) for name, interval in intervals.items()}
        self.neurons = {name: each for name, each in numbers.items() if each.numel()}
        """The numbers of the neurons that can be split, "1 k"."""

    def whole(self, bound: Float[Tensor, "1 s"], choice: Choice) -> Domains:
        """The region itself, and a choice for it: of slopes for all the neurons that can be split."""
        lower, upper = (
            {name: flat(self.intervals[name][side]).gather(1, self._of(name, 1)) for name in self.neurons}
            for side in (0, 1)
        )
        uncut = {name: torch.zeros_like(numbers, dtype=torch.bool) for name, numbers in self.neurons.items()}
        slopes = {name: slopes.below.transpose(0, 1) for name, slopes in choice.slopes.items()}
        weights = {name: held.weights.transpose(0, 1) for name, held in choice.held.items()}
        return Domains(bound, lower, upper, uncut, uncut, slopes, weights)

    def intervals_of(self, domains: Domains) -> Intervals:
        """Of all relaxed neurons, "b *shape" each."""
        count, every = len(domains), {}
        for name, (lower, upper) in self.intervals.items():
            lower, upper = (side.expand(count, *side.shape[1:]) for side in (lower, upper))
            if name in self.neurons:
                lower = _placed(lower, self.neurons[name], domains.lower[name])
                upper = _placed(upper, self.neurons[name], domains.upper[name])
            every[name] = lower, upper
        return every

    def narrowed(self, domains: Domains, intervals: Intervals) -> Domains:
        """The same parts with the ends that their neurons have been found to have."""
        lower, upper = (
            {name: flat(intervals[name][side]).gather(1, self._of(name, len(domains))) for name in self.neurons}
            for side in (0, 1)
        )
        return replace(domains, lower=lower, upper=upper)

    def first_choice(self, rows: int) -> Choice:
        """The slopes of CROWN, and nothing held."""
        slopes, held = {}, {}
        for name, numbers in self.neurons.items():
            lower, upper = self.intervals[name]
            for user in self.graph.users(self.graph[name]):
                if isinstance(user, Elementwise) and user.has_slopes:
                    slope = flat(user.lines(lower, upper).lower_slope).gather(1, numbers)
                    slopes[user.name] = Slopes(numbers, slope.expand(rows, -1, -1))
            held[name] = Held(numbers, lower.new_zeros(rows, 1, numbers.shape[1]))
        return Choice(slopes, held)

    def choice_of(self, domains: Domains, index: Int[Tensor, "b m"]) -> Choice:
        """Where the ascent starts for these rows of each part."""
        count = len(domains)

        def chosen(values: Float[Tensor, "b s k"]) -> Float[Tensor, "m b k"]:
            return values.gather(1, _wide(index, values)).transpose(0, 1)

        return Choice(
            {name: Slopes(self._of(self._read(name), count), chosen(each)) for name, each in domains.slopes.items()},
            {name: Held(self._of(name, count), chosen(each)) for name, each in domains.weights.items()},
        )

    def with_choice(self, domains: Domains, index: Int[Tensor, "b m"], choice: Choice) -> Domains:
        """The parts with this choice for these of their rows."""

        def kept(values: Float[Tensor, "b s k"], new: Float[Tensor, "m b k"]) -> Float[Tensor, "b s k"]:
            return values.scatter(1, _wide(index, values), new.transpose(0, 1))

        slopes = {name: kept(each, choice.slopes[name].below) for name, each in domains.slopes.items()}
        weights = {name: kept(each, choice.held[name].weights) for name, each in domains.weights.items()}
        return replace(domains, slopes=slopes, weights=weights)

    def cuts_of(self, part: Domains) -> Cuts:
        """What the splits that made a part say of its neurons, or bounds have found since."""
        cuts: Cuts = {}
        for name, numbers in self.neurons.items():
            raised, lowered = part.raised[name][0], part.lowered[name][0]
            low = part.lower[name][0].masked_fill(~raised, -torch.inf).tolist()
            high = part.upper[name][0].masked_fill(~lowered, torch.inf).tolist()
            for place in (raised | lowered).nonzero().flatten().tolist():
                cuts[name, int(numbers[0, place])] = low[place], high[place]
        return cuts

    def _of(self, name: str, count: int) -> Int[Tensor, "b k"]:
        """The numbers of the neurons of a node that can be split, once for each part."""
        return self.neurons[name].expand(count, -1)

    def _read(self, function: str) -> str:
        """The name of the node that a function reads."""
        name: str = self.graph[function].inputs[0].name
        return name

    @staticmethod
    def signs(domains: Domains) -> dict[str, Interval]:
        """Of the weights that a multiplier of the cuts can have, the least and the largest."""
        return {
            name: (-lowered.to(domains.bound), domains.raised[name].to(domains.bound))
            for name, lowered in domains.lowered.items()
        }


def _wide(index: Int[Tensor, "b m"], values: Float[Tensor, "b s k"]) -> Int[Tensor, "b m k"]:
    return index.unsqueeze(2).expand(-1, -1, values.shape[2])


def _placed(values: Float[Tensor, "b *shape"], neurons: Int[Tensor, "1 k"], ends: Float[Tensor, "b k"]) -> Tensor:
    """The values with others in some places."""
    return flat(values).scatter(1, neurons.expand(len(ends), -1), ends).view(values.shape)
