"""Products of two tensors that both depend on the network's input: gates, attention."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from verify.operators.arithmetic import inner
from verify.operators.envelope import ULPS
from verify.operators.form import Form, Sweep, aligned
from verify.operators.layout import in_layout_of
from verify.operators.operator import Backward, Coefficients, Interval, Radius, Read
from verify.operators.relaxation import Relaxation


class Bilinear(Relaxation):
    """x y = p y + q x - p q + (x - p) (y - q), with p and q the middles of the intervals.

    What is not linear is no larger than the product of the radii. These are the averages of McCormick's planes, and as
    near to the product in the middle as each of them. The product may be any: subclasses say which.
    """

    @property
    def factors(self) -> tuple[int, int]:
        """The inputs that the factors are."""
        first, second = self.slot_of(0), self.slot_of(1)
        assert first is not None and second is not None
        return first, second

    @property
    def length(self) -> int:
        """How many products an element of the result is a sum of."""
        return 1

    def product(self, x: Tensor, y: Tensor) -> Tensor:
        """The product; of either there may be several, in dimensions before the batch."""
        raise self.refuse("a product without a rule")

    def back(self, A: Tensor, other: Tensor, first: bool) -> Tensor:
        """The coefficients of a factor, the first or the second, from those of the product and the other factor."""
        raise self.refuse("a product without a rule")

    def forward(self, *values: Tensor) -> Tensor:
        return self.product(*(values[slot] for slot in self.factors))

    def shortfalls(self, first: Interval, second: Interval, scale: Tensor) -> tuple[Tensor, Tensor]:
        """See `shortfall`; added up as the product is.

        Args:
            first, second: centre and radius of the factors.
            scale: of the radii and of the results, "b 1 ... 1", with the dimensions of the result.
        """
        raise self.refuse("a product without a rule")

    def centred(
        self, centres: list[Tensor], radii: list[Radius], scale: Tensor, relaxed: bool = False
    ) -> tuple[Tensor, Tensor]:
        """By the products of the ends; those of the planes reach as far on both sides as these do on one."""
        (p, r), (q, t) = ((centres[slot], radii[slot]) for slot in self.factors)
        assert r is not None and t is not None
        both = self.product(r, t)
        scale = scale.reshape(-1, *[1] * (both.dim() - 1))
        centre, radius = self.product(p, q), self.product(p.abs(), t) + self.product(r, q.abs()) + scale * both
        if relaxed:
            return centre, radius
        short, side = (part.masked_fill(~torch.isfinite(radius), 0) for part in self.shortfalls((p, r), (q, t), scale))
        return centre + scale * side, radius - short

    def hidden(self, values: list[Tensor]) -> Tensor | float:
        if self.length == 1:
            return 0.0
        return self.product(*(values[slot].abs() for slot in self.factors))

    def pullback(self, rows: Float[Tensor, "b *out"], values: list[Tensor]) -> list[Tensor]:
        first, second = (values[slot] for slot in self.factors)
        return self._to_inputs(rows, first, second, leading=1)

    def terms(self, largest: list[Tensor]) -> Tensor:
        return 4 * self.product(*(largest[slot] for slot in self.factors))

    @property
    def summands(self) -> int:
        return 4 * self.length

    def backward(self, last_lA: Coefficients, last_uA: Coefficients, read: Read) -> Backward:
        p, q, error = self._plane(read)
        lower, below = self._one_side(last_lA, p, q, error)
        upper, above = self._one_side(last_uA, p, q, -error)
        return list(zip(lower, upper, strict=True)), below, above

    def _one_side(self, A: Coefficients, p: Tensor, q: Tensor, error: Tensor) -> tuple[list[Coefficients], Any]:
        """A lower bound of <A, x y>; an upper one with a negative error."""
        if A is None:
            return [None] * len(self.inputs), 0
        image = self._to_inputs(A, p, q, leading=2)
        return [*image], inner(A, -self.product(p, q)) - inner(A.abs(), error)

    def affine(self, forms: list[Form | None], read: Read, sweep: Sweep) -> Form:
        p, q, error = self._plane(read)
        first, second = (forms[slot] for slot in self.factors)
        assert first is not None and second is not None
        if sweep.rounding.step:
            sizes = [sweep.terms(form) for form in (first, second)]
            terms = self.product(sizes[0], q.abs()) + self.product(p.abs(), sizes[1] + q.abs())
            error = error + sweep.rounding.step * (1 + terms)
        left, right = aligned([first, second])
        rows = self.product(left, in_layout_of(left, q)) + self.product(in_layout_of(right, p), right)
        (x, r), (y, t) = (_middle_and_half(form.lower, form.upper) for form in (first, second))
        constant = self.product(x, q) + self.product(p, y - q)
        half = self.product(r, q.abs()) + self.product(p.abs(), t)
        return Form(constant - half, constant + half, rows).with_error(-error, error, sweep)

    def _plane(self, read: Read) -> tuple[Tensor, Tensor, Tensor]:
        """p, q and the most that is not linear, with what rounding may do to it."""
        intervals = [read[slot] for slot in self.factors]
        (l, u), (m, v) = (interval for interval in intervals if interval is not None)
        (p, r), (q, t) = _middle_and_half(l, u), _middle_and_half(m, v)
        size = self.product(l.abs().maximum(u.abs()), m.abs().maximum(v.abs()))
        return p, q, self.product(r, t) + (ULPS + self.length) * torch.finfo(size.dtype).eps * size

    def _to_inputs(self, A: Tensor, p: Tensor, q: Tensor, leading: int) -> list[Tensor]:
        """The coefficients of the factors p and q; added up where they are broadcast, and where they are one input."""
        result: dict[int, Tensor] = {}
        for slot, other, first in zip(self.factors, (q, p), (True, False), strict=True):
            part = self.back(A, in_layout_of(A, other) if leading > 1 else other, first)
            shape = self.inputs[slot].output_shape[1:]
            repeated = [place + leading for place, size in enumerate(shape) if size < part.shape[place + leading]]
            part = part.sum(repeated, keepdim=True) if repeated else part
            result[slot] = result[slot] + part if slot in result else part
        return [part for _, part in sorted(result.items())]


class ElementProduct(Bilinear):
    """Of each element with another, with broadcasting."""

    def check(self) -> None:
        ranks = {len(self.inputs[slot].output_shape) for slot in self.factors}
        if len(ranks) > 1:
            raise self.refuse("broadcasting that moves the batch dimension")

    def product(self, x: Tensor, y: Tensor) -> Tensor:
        return x * y

    def shortfalls(self, first: Interval, second: Interval, scale: Tensor) -> tuple[Tensor, Tensor]:
        return shortfall(first, second, scale)

    def back(self, A: Tensor, other: Tensor, first: bool) -> Tensor:
        return A * other


class MatrixProduct(Bilinear):
    """A sum of products over an index that both factors have: `matmul`, `bmm`, and `einsum` of two tensors.

    Each index of a factor is one of the other or of the result; of both, where it counts images.
    """

    def check(self) -> None:
        first, second, result = self.indices
        indices = {index for term in (first, second, result) for index in term}
        if any(term[:1] != result[:1] for term in (first, second)):
            raise self.refuse("a product in which images meet")
        if any(sum(index in term for term in (first, second, result)) < 2 for index in indices):
            raise self.refuse("a sum over an index that one factor has")
        if any(len(set(term)) < len(term) for term in (first, second, result)):
            raise self.refuse("a diagonal")

    @property
    def factors(self) -> tuple[int, int]:
        if self.call.name != "aten.einsum.default":
            return super().factors
        first, second = self.call.args[1]
        return first.position, second.position

    @cached_property
    def indices(self) -> tuple[str, str, str]:
        """Those of the first factor, of the second and of the result, a letter each."""
        ranks = [len(self.inputs[slot].output_shape) for slot in self.factors]
        if self.call.name == "aten.einsum.default":
            return _spelt_out(self.call.args[0], ranks)
        if ranks[0] != ranks[1] or ranks[0] < 3:
            raise self.refuse("broadcasting that moves the batch dimension")
        outer = _LETTERS[: ranks[0] - 2]
        return f"{outer}IJ", f"{outer}JK", f"{outer}IK"

    @property
    def length(self) -> int:
        shapes = [self.inputs[slot].output_shape for slot in self.factors]
        sizes = [dict(zip(term, shape, strict=True)) for term, shape in zip(self.indices, shapes, strict=False)]
        return math.prod(size for index, size in sizes[0].items() if index in sizes[1] and index not in self.indices[2])

    def product(self, x: Tensor, y: Tensor) -> Tensor:
        first, second, result = self.indices
        rows = "R" if x.dim() > len(first) else "", "R" if y.dim() > len(second) else ""
        leading = max(rows)
        return torch.einsum(f"{rows[0]}{first},{rows[1]}{second}->{leading}{result}", x, y)

    def shortfalls(self, first: Interval, second: Interval, scale: Tensor) -> tuple[Tensor, Tensor]:
        """With all products side by side, for as many images at once as memory is well spent on."""
        terms = self.indices
        summed = [index for index in terms[0] if index not in terms[2]]
        order = terms[2] + "".join(summed)
        at_once = max(1, AT_ONCE // (self.output_shape[1:].numel() * self.length))
        scale = scale.expand(len(first[0]), *scale.shape[1:]).reshape(-1, *[1] * (len(order) - 1))
        p, r = (_laid_out(side, terms[0], order) for side in first)
        q, t = (_laid_out(side, terms[1], order) for side in second)
        parts = []
        for own, reach, others, its, unit in zip(*(side.split(at_once) for side in (p, r, q, t, scale)), strict=True):
            both = shortfall((own, reach), (others, its), unit)
            parts.append([side.sum(list(range(-len(summed), 0))) if summed else side for side in both])
        less, side = (torch.cat(each) for each in zip(*parts, strict=True))
        return less, side

    def back(self, A: Tensor, other: Tensor, first: bool) -> Tensor:
        mine, theirs, result = self.indices if first else (self.indices[1], self.indices[0], self.indices[2])
        leading = "R" if A.dim() > len(result) else ""
        return torch.einsum(f"{leading}{result},{theirs}->{leading}{mine}", A, other)


AT_ONCE = 2**22
"""Products of two elements that are held at one time."""
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
"""Indices of a product; "R" counts rows."""


def shortfall(first: Interval, second: Interval, scale: Tensor) -> tuple[Tensor, Tensor]:
    """By how much the products of all x in p -+ r and y in q -+ t fall short of the planes' interval, halved, and
    towards which side they do not.

    x y - p q = p e + q d + d e with |d| <= r, |e| <= t, so its ends are among +-|p| t +-|q| r +-r t, with the signs'
    product that of p q. On the side of p q it reaches the sum of the three, on the other one the sum less twice the
    least of them.

    Args:
        first, second: p and r, q and t.
        scale: what radii are in units of, and the results.
    """
    (p, r), (q, t) = first, second
    least = torch.minimum(torch.minimum(p.abs() * t, q.abs() * r), scale * (r * t))
    return least, least * p.sign() * q.sign()


def _laid_out(x: Tensor, term: str, order: str) -> Tensor:
    """With the dimensions in another order, of one element each that it does not have."""
    x = x.permute(*(term.index(index) for index in order if index in term))
    sizes = iter(x.shape)
    return x.reshape([next(sizes) if index in term else 1 for index in order])


def _spelt_out(equation: str, ranks: list[int]) -> tuple[str, str, str]:
    """The indices of two factors and of their product; dots stand for as many letters as there are dimensions."""
    terms, _, result = equation.replace(" ", "").partition("->")
    first, second = terms.split(",")
    if not result and "->" not in equation:
        named = sorted(set(first + second) - {"."})
        dots = "..." if "." in terms else ""
        result = dots + "".join(index for index in named if (first + second).count(index) == 1)
    free = [letter for letter in _LETTERS + _LETTERS.upper() if letter not in equation]
    width = max(rank - len(term.replace("...", "")) for rank, term in zip(ranks, (first, second), strict=True))
    dots = "".join(free[:width])
    spelt = []
    for term, rank in ((first, ranks[0]), (second, ranks[1]), (result, None)):
        count = width if rank is None else rank - len(term.replace("...", ""))
        spelt.append(term.replace("...", dots[width - count :]))
    names = dict(zip(dict.fromkeys("".join(spelt)), _LETTERS, strict=False))
    first, second, result = ("".join(names[index] for index in term) for term in spelt)
    return first, second, result


def _middle_and_half(lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    middle = lower / 2 + upper / 2
    return middle, torch.maximum(upper - middle, middle - lower)
