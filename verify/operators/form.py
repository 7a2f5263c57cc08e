"""Affine forms: what the forward sweep of :mod:`verify.propagation.affine` carries through the operators."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from jaxtyping import Bool, Float
from torch import Tensor

from verify.operators.layout import extended, flat, innermost, outermost
from verify.rounding import TOTAL, Rounding

NEGLIGIBLE = 1e-5
"""The share of an interval that the box may be before a confirmation turns it into rows."""


class Form(NamedTuple):
    """A set of values an image: {c + sum_i t_i rows_i}, with lower <= c <= upper (a zonotope and a box).

    The first rows belong to the pixels of the network's input, in order, and t_i is the pixel's value; the others
    are errors of relaxations, with t_i anywhere in [-1, 1]. Errors are numbered over the whole sweep, whatever
    branch of the graph they arise in: row i is the same error in every form, and a form with fewer rows has zeros
    for the rest.

    Attributes:
        lower, upper: "b *shape".
        rows: "r b *shape".
    """

    lower: Float[Tensor, "b *shape"]
    upper: Float[Tensor, "b *shape"]
    rows: Float[Tensor, "r b *shape"]

    def with_error(self, low: Tensor, high: Tensor, sweep: Sweep) -> Form:
        """This form plus an independent error in [low, high] an element.

        These are "b *shape", or have one element in some dimensions: one error for all elements along them. The largest
        errors of each image get a row each, as far as the sweep has room; the others widen the box, which is sound and
        only forgets that the same error comes back by several ways. The sweep may take rows from forms to make room,
        so no form from before the call may be used after it.
        """
        middle, half = (low + high) / 2, flat((high - low) / 2)
        form, new = sweep.make_room(self, half)
        size, index = half.topk(new, dim=1)
        rest = half.scatter(1, index, 0.0).view_as(low)
        rows = form.rows
        if new:
            rows = extended(rows, sweep.used_rows + new)
            # A view, or an error: into a copy, errors would be written and lost.
            place = rows[sweep.used_rows :]
            own = place if middle.shape == place.shape[1:] else place.new_zeros(new, *middle.shape)
            own.view(new, len(half), -1).scatter_(2, index.T.unsqueeze(2), size.T.unsqueeze(2))
            if own is not place:
                place.copy_(own)
        sweep.used_rows += new
        return Form(form.lower + middle - rest, form.upper + middle + rest, rows)

    def box_counts(self, width: Float[Tensor, "b *shape"]) -> bool:
        """Whether the box is no longer negligible in intervals of this width: it grows from operator to operator as
        intervals do, while rows only grow as the network does."""
        box = self.upper - self.lower
        return bool((flat(box).sum(1) > NEGLIGIBLE * flat(width).sum(1)).any())

    def without(self, rows: Bool[Tensor, " r"]) -> Form:
        """A set that contains this one: these rows widen the box. (`rows` may be longer than the form's own.)"""
        rows = rows[: len(self.rows)]
        spread = self.rows[rows].abs().sum(0) * (1 + TOTAL)  # 1 in float32, which confirms nothing
        return Form(self.lower - spread, self.upper + spread, outermost(innermost(self.rows)[..., ~rows]))


def aligned(forms: Sequence[Form]) -> list[Float[Tensor, "r b *shape"]]:
    """The rows of several forms, all as many as the most that one of them has."""
    most = max(len(form.rows) for form in forms)
    return [form.rows if len(form.rows) == most else extended(form.rows, most) for form in forms]


@runtime_checkable
class Sweep(Protocol):
    """What an operator may ask of the sweep it is part of.

    Attributes:
        rounding: by how much forms give way for rounding.
        used_rows: how many rows have a number.
        room: how many more there is memory for.
    """

    rounding: Rounding
    used_rows: int

    @property
    def room(self) -> int: ...

    def make_room(self, form: Form, errors: Float[Tensor, "b n"]) -> tuple[Form, int]:
        """Room for rows of new errors of these sizes: how many fit, and the form they are meant for, which may have
        lost rows of less weight."""

    def terms(self, form: Form) -> Float[Tensor, "b *shape"]:
        """For each element of a form, at least the sum of the magnitudes of what it is a sum of over the region."""

    def bounds(self, form: Form) -> tuple[Float[Tensor, "b *shape"], Float[Tensor, "b *shape"]]:
        """Least and largest value of each element of a form over the input region."""
