"""Linear operators: what is linear in the inputs that vary needs its forward and no more."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from verify.checks.errors import first_line
from verify.operators.arithmetic import inner, weighed
from verify.operators.form import Form, Sweep, aligned
from verify.operators.layout import merged, separated
from verify.operators.operator import Backward, Coefficients, Interval, Operator, Radius, Read


class LinearOperator(Operator):
    """y = T x + offset, for inputs x that vary and anything that does not (weights) inside T and offset.

    The backward rule is the vector-Jacobian product of the call, so it cannot disagree with it. An interval has its
    centre through the call and its radius through `magnitude`, exactly; two lines have nothing to add.
    """

    has_offset: ClassVar[bool] = False

    @cached_property
    def pixelwise(self) -> bool:
        """Whether every element of the result depends on one element of its one input that varies, and no two on the
        same: a ball of perturbations stays a ball, stretched along the axes.

        Tried on numbers of which no two are equal, where the call moves values and nothing but these decides which.
        """
        if not self.exact or len(self.inputs) != 1:
            return False
        (node,) = self.inputs
        shape, device = node.output_shape[1:], node.forward_value.device
        numbers = 1 + torch.arange(shape.numel(), dtype=torch.float64, device=device)
        image = self.linear_part([numbers.view(1, *shape)])
        moved = image[image != 0]
        return len(moved.unique()) == len(moved)

    def centred(
        self, centres: list[Tensor], radii: list[Radius], scale: Tensor, relaxed: bool = False
    ) -> tuple[Tensor, Tensor]:
        values = [centre if radius is None else radius for centre, radius in zip(centres, radii, strict=True)]
        return self.forward(*centres), self.magnitude(values)

    def magnitude(self, values: list[Tensor]) -> Tensor:
        """|T| x; `values` holds the other inputs as they are. Calls with negative coefficients override it."""
        return self.linear_part(values)

    def check_apart(self) -> None:
        """Refuse a use in which images meet: each has to have a result of its own, the same wherever it is in a batch.

        Tried on random images, with random numbers for weights, of which the present ones may be 0: where a call mixes
        images, that shows.

        Raises:
            UnsupportedOperator: they meet.
        """
        generator = torch.Generator().manual_seed(0)

        def noise(like: Tensor, shape: Sequence[int]) -> Tensor:
            return torch.randn(list(shape), generator=generator, dtype=torch.float64).to(like)

        values = [node.forward_value for node in self.inputs]
        shapes = [(3, *value.shape[1:]) if slot in self.varying else value.shape for slot, value in enumerate(values)]
        tried = [
            noise(value, shape) if value.is_floating_point() else value
            for value, shape in zip(values, shapes, strict=True)
        ]
        moved = [value.roll(1, 0) if slot in self.varying else value for slot, value in enumerate(tried)]
        other = [
            torch.cat([noise(value[:2], (2, *shape[1:])), value[2:]]) if slot in self.varying else value
            for slot, (value, shape) in enumerate(zip(tried, shapes, strict=True))
        ]
        try:
            result, rolled, changed = (self.forward(*each) for each in (tried, moved, other))
        except (RuntimeError, IndexError) as error:
            raise self.refuse(f"a use for batches of one size ({first_line(error)})") from error
        apart = len(result) == 3 and torch.allclose(result.roll(1, 0), rolled) and torch.allclose(result[2], changed[2])
        if not apart:
            raise self.refuse("a use in which images meet")

    def specified(
        self, rows: Float[Tensor, "s b *out"], centres: list[Tensor], radii: list[Radius]
    ) -> tuple[Float[Tensor, "b s"], Float[Tensor, "b s"]]:
        """Like `centred`, of linear functions of the result, with which the call is merged: what cancels, does."""
        values = [
            centre if radius is None else centre.new_zeros(1, *centre.shape[1:])
            for centre, radius in zip(centres, radii, strict=True)
        ]
        back, offset = self._one_side(rows, values)
        centre = (rows.new_zeros(rows.shape[:2]) + offset).T
        radius = torch.zeros_like(centre)
        for A, middle, half in zip(back, centres, radii, strict=True):
            if A is not None and half is not None:
                more, wider = weighed(A, middle, half)
                centre, radius = centre + more, radius + wider
        return centre, radius

    def ends(self, intervals: Sequence[Interval]) -> Interval:
        """The interval of the result by its lower and upper end, from those of the inputs."""
        varying = self.varying
        centres = [(lower + upper) / 2 if slot in varying else lower for slot, (lower, upper) in enumerate(intervals)]
        radii = [(upper - lower) / 2 if slot in varying else None for slot, (lower, upper) in enumerate(intervals)]
        centre, radius = self.centred(centres, radii, centres[varying[0]].new_ones(()))
        return centre - radius, centre + radius

    def backward(self, last_lA: Coefficients, last_uA: Coefficients, read: Read) -> Backward:
        like = last_uA if last_lA is None else last_lA
        assert like is not None
        values = [
            like.new_zeros(1, *node.output_shape[1:]) if node.from_input else known(interval)
            for node, interval in zip(self.inputs, read, strict=True)
        ]
        lower = self._one_side(last_lA, values)
        upper = lower if last_uA is last_lA else self._one_side(last_uA, values)
        return list(zip(lower[0], upper[0], strict=True)), lower[1], upper[1]

    def terms(self, largest: list[Tensor]) -> Tensor:
        image = self.magnitude(largest)
        return image + self._offset(largest).abs() if self.has_offset else image

    @property
    def summands(self) -> int:
        return 1 if self.exact or self.pixelwise else super().summands

    def affine(self, forms: list[Form | None], read: Read, sweep: Sweep) -> Form:
        error = self._rounding_error(forms, read, sweep)  # first: it needs as much memory as the result
        varying = [form for form in forms if form is not None]
        first, *_ = rows = aligned(varying)
        batches = iter(merged(each, first) for each in rows)
        both = list(zip(forms, read, strict=True))
        values = [known(interval) if form is None else next(batches) for form, interval in both]
        image = separated(self.linear_part(values), first)
        boxes = [(known(interval),) * 2 if form is None else (form.lower, form.upper) for form, interval in both]
        lower, upper = self.ends(boxes)
        return Form(lower - error, upper + error, image)

    def _rounding_error(self, forms: list[Form | None], read: Read, sweep: Sweep) -> Tensor | float:
        """What rounding may do to the form of the result."""
        if not sweep.rounding.step or self.exact:
            return 0.0
        largest = [
            known(interval) if form is None else sweep.terms(form)
            for form, interval in zip(forms, read, strict=True)
        ]
        return sweep.rounding.step * (1 + self.terms(largest))

    def linear_part(self, values: list[Tensor]) -> Tensor:
        """T x, without the offset, for a batch of x; `values` holds the other inputs as they are."""
        image = self.forward(*values)
        return image - self._offset(values) if self.has_offset else image

    def _offset(self, values: list[Tensor]) -> Tensor:
        """The result for one image of zeros; `values` holds the other inputs as they are."""
        varying = self.varying
        return self.forward(
            *(torch.zeros_like(value[:1]) if position in varying else value for position, value in enumerate(values))
        )

    def transpose(self, rows: Float[Tensor, "r *out"], values: list[Tensor]) -> list[Tensor]:
        """T^T rows, for each input that varies. `values` holds one zero image for those, the rest as is."""
        zeros = {
            position: values[position].expand(len(rows), *values[position].shape[1:]).clone().requires_grad_()
            for position in self.varying
        }
        with torch.enable_grad():
            image = self.forward(*(zeros.get(position, value) for position, value in enumerate(values)))
        return list(torch.autograd.grad(image, list(zeros.values()), rows, create_graph=torch.is_grad_enabled()))

    def pullback(self, rows: Float[Tensor, "b *out"], values: list[Tensor]) -> list[Tensor]:
        varying = self.varying
        return self.transpose(rows, [value[:1] if slot in varying else value for slot, value in enumerate(values)])

    def _one_side(self, A: Coefficients, values: list[Tensor]) -> tuple[list[Coefficients], Any]:
        back: list[Coefficients] = [None] * len(self.inputs)
        if A is None:
            return back, 0
        rows = self.transpose(merged(A, A), values)
        for position, row in zip(self.varying, rows, strict=True):
            back[position] = separated(row, A)
        if not self.has_offset:
            return back, 0
        return back, inner(A, self.forward(*values).expand(A.shape[1:]))


def known(interval: Interval | None) -> Tensor:
    """The value of an input that does not vary."""
    assert interval is not None
    return interval[0]
