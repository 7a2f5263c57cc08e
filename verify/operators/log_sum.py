"""Sums of exponentials, in logarithms: logsumexp and log_softmax, and by way of them softmax.

L(x) = log(exp(x_1) + ... + exp(x_n)) is convex. A tangent lies below it. Above it lies the logarithm of what the chords
of the exponentials add up to, and above that, as it is concave, its own tangent. With exp(x_i - L(x)) for softmax these
are the bounds L^LSE and U^LSE of Wei et al., Convex bounds on the softmax function, AISTATS 2023. Chords are tried for
x, and for its differences to the largest element.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from verify.operators.arithmetic import inner
from verify.operators.call import Call
from verify.operators.envelope import ULPS
from verify.operators.form import Form, Sweep
from verify.operators.operator import Backward, Coefficients, Interval, Radius, Read, rule
from verify.operators.relaxation import Relaxation


class Planes(NamedTuple):
    """<below, x> + under <= L(x) <= <above, x> + over in a box.

    Slopes are as large as x; the intercepts have one element in the dimension that L sums over.
    """

    below: Tensor
    under: Tensor
    above: Tensor
    over: Tensor


@rule("logsumexp.default")
class LogSumExp(Relaxation):
    """L(x) of the elements along a dimension of an image, which is kept with one element."""

    def check(self) -> None:
        self.dim = self._dimension() % len(self.inputs[0].output_shape)
        if not self.dim:
            raise self.refuse("a sum over images")

    def _dimension(self) -> int:
        (dim,) = self.call.args[1]
        return int(dim)

    def ends(self, lower: Tensor, upper: Tensor) -> Interval:
        """The least and the largest value in a box."""
        return self._log_sum(lower), self._log_sum(upper)

    def value(self, x: Tensor) -> Tensor:
        return self.forward(x)

    def reach(self, share: Tensor, radius: Tensor) -> Tensor:
        """How far the result goes from the centre of a narrow box, where the derivatives of L are these."""
        return (share * radius).sum(self.dim, keepdim=True)

    def portions(self, A: Tensor, leading: int = 0) -> tuple[Tensor, Tensor | None]:
        """The coefficients of L(x) and of x itself in <A, y>."""
        return A, None

    def joined(self, x: Form, log_sum: Form, low: Tensor, high: Tensor, sweep: Sweep) -> Form:
        """The form of the result from those of x and of L, less an error in [low, high]."""
        return log_sum.with_error(low, high, sweep)

    def _log_sum(self, x: Tensor) -> Tensor:
        return torch.logsumexp(x, self.dim, keepdim=True)

    def centred(
        self, centres: list[Tensor], radii: list[Radius], scale: Tensor, relaxed: bool = False
    ) -> tuple[Tensor, Tensor]:
        """By the ends of the box; of a narrow one, where they would cancel, by the derivative, which is exp(2 r) times
        that at the centre at most."""
        (centre,), (radius,) = centres, radii
        assert radius is not None
        half = radius * scale
        lower, upper = centre - half, centre + half
        low, high = self.ends(lower, upper)
        if relaxed:
            below, above = self._ends_of_planes(lower, upper)
            low, high = torch.minimum(low, below), torch.maximum(high, above)
        widest, size = (part.amax(self.dim, keepdim=True) for part in (half, centre.abs()))
        narrow = (widest <= torch.finfo(half.dtype).eps ** 0.5 * (1 + size)) & (widest <= 1)
        steep = torch.exp(2 * widest.clamp(max=1)) * self.reach(centre.softmax(self.dim), radius)
        per_scale = 0.5 / scale.clamp(min=torch.finfo(scale.dtype).tiny)
        middle = torch.where(narrow, self.value(centre), low / 2 + high / 2)
        return middle, torch.where(narrow, steep, (high - low) * per_scale)

    def _ends_of_planes(self, lower: Tensor, upper: Tensor) -> Interval:
        """The least value of the result's lower plane in the box, and the largest of its upper one."""
        planes = planes_of(lower, upper, self.dim)
        least = torch.minimum(planes.below * lower, planes.below * upper).sum(self.dim, keepdim=True)
        largest = torch.maximum(planes.above * lower, planes.above * upper).sum(self.dim, keepdim=True)
        return least + planes.under, largest + planes.over

    def pullback(self, rows: Float[Tensor, "b *out"], values: list[Tensor]) -> list[Tensor]:
        (x,) = values
        total, own = self.portions(rows)
        image = total * x.softmax(self.dim)
        return [image if own is None else image + own]

    def backward(self, last_lA: Coefficients, last_uA: Coefficients, read: Read) -> Backward:
        planes = planes_of(*self.of(read), self.dim)
        lA, lower = self._one_side(last_lA, planes)
        uA, upper = self._one_side(None if last_uA is None else -last_uA, planes)
        return [(lA, None if uA is None else -uA)], lower, -upper

    def _one_side(self, A: Coefficients, planes: Planes) -> tuple[Coefficients, Any]:
        """A lower bound of <A, y> that is linear in x."""
        if A is None:
            return None, 0
        total, own = self.portions(A, 1)
        rising, falling = total.clamp(min=0), total.clamp(max=0)
        image = rising * planes.below + falling * planes.above
        bias = inner(rising, planes.under) + inner(falling, planes.over)
        return image if own is None else image + own, bias

    def affine(self, forms: list[Form | None], read: Read, sweep: Sweep) -> Form:
        """Along the tangent; what the plane above adds to it is the error, one for all elements of a sum."""
        (form,), (lower, upper) = forms, self.of(read)
        assert form is not None
        share, under, above, over = planes_of(lower, upper, self.dim)
        middle, steeper = lower / 2 + upper / 2, above - share
        over = over + (steeper * middle + steeper.abs() * (upper - lower) / 2).sum(self.dim, keepdim=True)
        error: Tensor | float = 0.0
        if sweep.rounding.step:
            size = (share + above.abs()) * torch.maximum(lower.abs(), upper.abs())
            terms = sweep.terms(form)
            terms = self.magnitude(terms, (share * terms + size).sum(self.dim, keepdim=True))
            error = sweep.rounding.step * (1 + terms)
        low, high = ((share * end).sum(self.dim, keepdim=True) for end in (form.lower, form.upper))
        rows = (form.rows * share).sum(self.dim + 1, keepdim=True)
        result = self.joined(form, Form(low, high, rows), under, over, sweep)
        return Form(result.lower - error, result.upper + error, result.rows)

    def magnitude(self, x: Tensor, log_sum: Tensor) -> Tensor:
        """The sum of the magnitudes of what the result is a sum of, from those of x and of L."""
        return log_sum

    def terms(self, largest: list[Tensor]) -> Tensor:
        """The slopes of a plane add up to 3 at most, all of one sign but one."""
        (x,) = largest
        return self.magnitude(x, 8 * x.amax(self.dim, keepdim=True) + 1 + math.log(x.shape[self.dim]))

    def hidden(self, values: list[Tensor]) -> Tensor:
        """The largest element, to which the logarithm of the others' share is added."""
        (x,) = values
        return x.abs().amax(self.dim, keepdim=True) + math.log(x.shape[self.dim])


_CALLS = torch.library.Library("verify", "FRAGMENT")
_CALLS.define("logsumexp_of_some(Tensor x, Tensor kept, int dim) -> Tensor")
_CALLS.define("softmax_of_some(Tensor x, Tensor kept, int dim) -> Tensor")


def _of_some(x: Tensor, kept: Tensor, dim: int) -> Tensor:
    return torch.logsumexp(x.masked_fill(~kept, -torch.inf), dim, keepdim=True)


def softmax_of_some(x: Tensor, kept: Tensor, dim: int) -> Tensor:
    """Shares of the kept elements; the others are 0, and what may be large of them never meets the exponential."""
    shares = torch.exp((x - torch.ops.verify.logsumexp_of_some(x, kept, dim)).masked_fill(~kept, 0.0))
    return shares.masked_fill(~kept, 0.0)


_CALLS.impl("logsumexp_of_some", _of_some, "CompositeImplicitAutograd")
_CALLS.impl("softmax_of_some", softmax_of_some, "CompositeImplicitAutograd")

BELOW = 1e4
"""By how much an element is less than all others where its exponential counts for nothing: it underflows to 0."""


@rule("verify.logsumexp_of_some.default")
class LogSumExpOfSome(LogSumExp):
    """L(x) of the elements that a constant mask keeps.

    The rules are those of all elements, of a box in which the others are far below: what they add is 0 to the last
    digit, and so are the slopes.
    """

    def _dimension(self) -> int:
        return int(self.call.args[2])

    def check(self) -> None:
        super().check()
        if self.varying != [0]:
            raise self.refuse("a mask that depends on the network's input")

    @classmethod
    def has_part_an_image(cls, call: Call, slot: int, rank: int) -> bool:
        return True

    def value(self, x: Tensor) -> Tensor:
        return self._log_sum(x)

    def _of_kept(self, x: Tensor, kept: Tensor) -> Tensor:
        """The same with all other elements far below."""
        least = x.detach().masked_fill(~kept, torch.inf).amin(self.dim, keepdim=True)
        return torch.where(kept, x, least - BELOW)

    def centred(
        self, centres: list[Tensor], radii: list[Radius], scale: Tensor, relaxed: bool = False
    ) -> tuple[Tensor, Tensor]:
        (centre, kept), (radius, _) = centres, radii
        assert radius is not None
        widest = (radius * scale).masked_fill(~kept, 0.0).amax(self.dim, keepdim=True)
        centre = torch.where(kept, centre, self._of_kept(centre, kept) - widest.detach())
        return super().centred([centre], [radius.masked_fill(~kept, 0.0)], scale, relaxed)

    def pullback(self, rows: Float[Tensor, "b *out"], values: list[Tensor]) -> list[Tensor]:
        return super().pullback(rows, [self._of_kept(*values)])

    def _box(self, read: Read) -> Read:
        (x, mask) = read
        assert x is not None and mask is not None
        kept = mask[0]
        lower = self._of_kept(x[0], kept)
        return [(lower, torch.where(kept, x[1], lower))]

    def backward(self, last_lA: Coefficients, last_uA: Coefficients, read: Read) -> Backward:
        sides, below, above = super().backward(last_lA, last_uA, self._box(read))
        return [*sides, (None, None)], below, above

    def affine(self, forms: list[Form | None], read: Read, sweep: Sweep) -> Form:
        return super().affine(forms[:1], self._box(read), sweep)

    def terms_over(self, read: Read) -> Tensor:
        return super().terms_over(read[:1])

    def terms(self, largest: list[Tensor]) -> Tensor:
        return super().terms(largest[:1])

    def hidden(self, values: list[Tensor]) -> Tensor:
        return super().hidden(values[:1])


@rule("log_softmax.int")
class LogSoftmax(LogSumExp):
    """x_i - L(x), the logarithms of shares."""

    def _dimension(self) -> int:
        return int(self.call.args[1])

    def ends(self, lower: Tensor, upper: Tensor) -> Interval:
        """At a corner of the box: x_i at one end, the others at the other."""
        low, high = (self._one_end(*box) for box in ((lower, upper), (upper, lower)))
        return low, high

    def _one_end(self, own: Tensor, others: Tensor) -> Tensor:
        """-log(1 + sum_j exp(x_j - x_i)) over the others j."""
        own, others = own.movedim(self.dim, -1), others.movedim(self.dim, -1)
        same = torch.eye(own.shape[-1], dtype=torch.bool, device=own.device)
        differences = (others.unsqueeze(-2) - own.unsqueeze(-1)).masked_fill(same, 0.0)
        return -torch.logsumexp(differences, -1).movedim(-1, self.dim)

    def reach(self, share: Tensor, radius: Tensor) -> Tensor:
        return super().reach(share, radius) + (1 - 2 * share) * radius

    def portions(self, A: Tensor, leading: int = 0) -> tuple[Tensor, Tensor | None]:
        return -A.sum(self.dim + leading, keepdim=True), A

    def joined(self, x: Form, log_sum: Form, low: Tensor, high: Tensor, sweep: Sweep) -> Form:
        difference = Form(x.lower - log_sum.upper, x.upper - log_sum.lower, x.rows - log_sum.rows)
        return difference.with_error(-high, -low, sweep)

    def _ends_of_planes(self, lower: Tensor, upper: Tensor) -> Interval:
        planes = planes_of(lower, upper, self.dim)
        ends = []
        for slope, intercept, pick in (
            (planes.above, planes.over, torch.minimum),
            (planes.below, planes.under, torch.maximum),
        ):
            others, own = pick(-slope * lower, -slope * upper), pick((1 - slope) * lower, (1 - slope) * upper)
            ends.append(others.sum(self.dim, keepdim=True) - others + own - intercept)
        return ends[0], ends[1]

    def magnitude(self, x: Tensor, log_sum: Tensor) -> Tensor:
        return x + log_sum


def planes_of(lower: Float[Tensor, "b *shape"], upper: Float[Tensor, "b *shape"], dim: int) -> Planes:
    """Planes below and above L in a box: the tangent in its middle, and the nearer of two from chords."""
    middle = lower / 2 + upper / 2
    half = torch.maximum(upper - middle, middle - lower)
    unit = (ULPS + lower.shape[dim]) * torch.finfo(lower.dtype).eps
    top = middle.detach().amax(dim, keepdim=True)
    distance = middle - top
    below = distance.softmax(dim)
    # Slopes add up to 1, so that the largest element cancels; an exponent has lost digits as it is large.
    under = torch.logsumexp(distance, dim, keepdim=True) - (below * distance).sum(dim, keepdim=True)
    lost = below * (1 + distance.abs())
    under = under - unit * (1 + top.abs() + (lost * (1 + distance.abs() + half)).sum(dim, keepdim=True))

    above, value = _chord(lower, upper, dim)
    largest = torch.zeros_like(middle, dtype=torch.bool).scatter(dim, middle.argmax(dim, keepdim=True), True)
    other, its_value = _chord_of_differences(lower, upper, largest, dim)
    nearer = its_value < value
    above, value = torch.where(nearer, other, above), torch.where(nearer, its_value, value)
    lost = (above.abs() + largest) * (1 + (upper - top).abs())
    slack = unit * (1 + value.abs() + (lost * (middle.abs() + half)).sum(dim, keepdim=True))
    return Planes(below, under, above, value - (above * middle).sum(dim, keepdim=True) + slack)


def _chord(lower: Tensor, upper: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """The tangent, in the middle of the box, to the logarithm of the sum of the exponentials' chords: slopes, value."""
    width, top = upper - lower, upper.detach().amax(dim, keepdim=True)
    wide = width > 0
    mean = torch.where(wide, -torch.expm1(-width) / torch.where(wide, width, 1.0), 1.0)
    largest = torch.exp(upper - top)
    total = (largest * (1 + torch.exp(-width)) / 2).sum(dim, keepdim=True)
    return largest * mean / total, top + torch.log(total)


def _chord_of_differences(lower: Tensor, upper: Tensor, largest: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """The same of x_k + L(x - x_k), k being one element of each sum."""
    low, high = ((end * largest).sum(dim, keepdim=True) for end in (lower, upper))
    slope, value = _chord(
        (lower - high).masked_fill(largest, 0.0), (upper - low).masked_fill(largest, 0.0), dim
    )
    others = slope.masked_fill(largest, 0.0)
    slope = torch.where(largest, 1 - others.sum(dim, keepdim=True), others)
    return slope, low / 2 + high / 2 + value
