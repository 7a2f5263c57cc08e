"""Products of two tensors that both depend on the network's input: gates, attention to channels."""

from __future__ import annotations

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
    near to the product in the middle as each of them.
    """

    def check(self) -> None:
        ranks = {len(self.inputs[slot].output_shape) for slot in self._slots}
        if len(ranks) > 1:
            raise self.refuse("broadcasting that moves the batch dimension")

    @property
    def _slots(self) -> tuple[int, int]:
        """The inputs that the factors are."""
        first, second = self.slot_of(0), self.slot_of(1)
        assert first is not None and second is not None
        return first, second

    def centred(
        self, centres: list[Tensor], radii: list[Radius], scale: Tensor, relaxed: bool = False
    ) -> tuple[Tensor, Tensor]:
        (p, r), (q, t) = ((centres[slot], radii[slot]) for slot in self._slots)
        assert r is not None and t is not None
        return p * q, p.abs() * t + q.abs() * r + scale * r * t

    def pullback(self, rows: Float[Tensor, "b *out"], values: list[Tensor]) -> list[Tensor]:
        first, second = self._slots
        return self._to_inputs([rows * values[second], rows * values[first]], 1)

    def terms(self, largest: list[Tensor]) -> Tensor:
        first, second = self._slots
        return 4 * largest[first] * largest[second]

    @property
    def summands(self) -> int:
        return 4

    def backward(self, last_lA: Coefficients, last_uA: Coefficients, read: Read) -> Backward:
        p, q, error = self._plane(read)
        lower, below = self._one_side(last_lA, p, q, error)
        upper, above = self._one_side(last_uA, p, q, -error)
        return list(zip(lower, upper, strict=True)), below, above

    def _one_side(self, A: Coefficients, p: Tensor, q: Tensor, error: Tensor) -> tuple[list[Coefficients], Any]:
        """A lower bound of <A, x y>; an upper one with a negative error."""
        if A is None:
            return [None] * len(self.inputs), 0
        p, q, error = (in_layout_of(A, part) for part in (p, q, error))
        image = self._to_inputs([A * q, A * p], 2)
        return [*image], inner(A, -p * q) - inner(A.abs(), error)

    def affine(self, forms: list[Form | None], read: Read, sweep: Sweep) -> Form:
        p, q, error = self._plane(read)
        first, second = (forms[slot] for slot in self._slots)
        assert first is not None and second is not None
        left, right = aligned([first, second])
        rows = left * in_layout_of(left, q) + right * in_layout_of(right, p)
        ends = [_ends(form, factor) for form, factor in ((first, q), (second, p))]
        lower, upper = (mine + theirs - p * q for mine, theirs in zip(*ends, strict=True))
        return Form(lower, upper, rows).with_error(-error, error, sweep)

    def _plane(self, read: Read) -> tuple[Tensor, Tensor, Tensor]:
        """p, q and the most that is not linear, with what rounding may do to it; all as large as the result."""
        intervals = [read[slot] for slot in self._slots]
        (l, u), (m, v) = (interval for interval in intervals if interval is not None)
        p, q, size = l / 2 + u / 2, m / 2 + v / 2, l.abs().maximum(u.abs()) * m.abs().maximum(v.abs())
        error = (u - p).maximum(p - l) * (v - q).maximum(q - m) + ULPS * torch.finfo(size.dtype).eps * size
        return p.expand_as(error), q.expand_as(error), error

    def _to_inputs(self, parts: list[Tensor], leading: int) -> list[Tensor]:
        """The coefficients of the factors, added up where they are broadcast."""
        result = list(parts)
        for slot, part in zip(self._slots, parts, strict=True):
            shape = self.inputs[slot].output_shape[1:]
            repeated = [place + leading for place, size in enumerate(shape) if size < part.shape[place + leading]]
            result[slot] = part.sum(repeated, keepdim=True) if repeated else part
        return result


def _ends(form: Form, factor: Tensor) -> Interval:
    """The ends of a form's constant, times a factor."""
    ends = form.lower * factor, form.upper * factor
    return torch.minimum(*ends), torch.maximum(*ends)
