"""What every operator of a bounded graph is: one ATen call, with rules for intervals and for CROWN.

A rule class is written once for a family of calls and registered under their names with :func:`rule`.
Shapes: `b` images, `s` rows of a specification, `*shape` one image's tensor. A coefficient tensor `A` is
"s b *shape": row s of image b bounds a scalar by <A[s, b], y> + bias.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, ClassVar, NamedTuple, TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from verify.errors import InputError
from verify.graph.lirpa import Bound
from verify.operators.arithmetic import inner, weighed
from verify.operators.call import Call, Slot
from verify.operators.form import Form, Sweep, aligned
from verify.operators.layout import added_at, flat, in_layout_of, merged, picked, separated
from verify.rounding import IGNORED, Rounding

Interval: TypeAlias = tuple[Tensor, Tensor]
Coefficients: TypeAlias = Tensor | None  # "s b *shape"; None where a side or an input is not asked for
Radius: TypeAlias = Tensor | None  # "b *shape"; None for an input that does not vary
Backward: TypeAlias = tuple[list[tuple[Coefficients, Coefficients]], Any, Any]


class UnsupportedOperator(InputError):
    """The network holds an operator, or a use of one, for which no sound rule is known."""


class Operator(Bound):
    """A node of the bounded graph: an ATen call of which at least one input depends on the network's input.

    Subclasses give `centred` (intervals), `backward` (CROWN), `affine` (the forward sweep of affine forms) and `terms`
    (what rounding errors are relative to); `forward` is the call itself.

    Attributes:
        rounding: by how much affine forms give way for rounding, relative to `terms`.
    """

    rounding: Rounding = IGNORED
    exact: ClassVar[bool] = False
    """Whether the call moves values only: what is a sum after it was one before."""

    def __init__(self, call: Call, inputs: list[Bound]) -> None:
        super().__init__({}, inputs, 0, {})
        self.call = call
        self.check()

    def check(self) -> None:
        """Refuse a use of the call that the rules do not cover.

        Raises:
            UnsupportedOperator: with the reason.
        """

    def refuse(self, why: str) -> UnsupportedOperator:
        return UnsupportedOperator(f"{self.call.name}: {why}, for which no sound bound is known")

    def forward(self, *values: Tensor) -> Tensor:
        return self.call(*values)

    @cached_property
    def varying(self) -> list[int]:
        """Positions of the inputs that depend on the network's input."""
        return [position for position, node in enumerate(self.inputs) if node.from_input]

    @property
    def varying_arguments(self) -> list[int]:
        """Positional arguments that read such an input: two of them in x * x, which has one input."""
        slots = (self.slot_of(argument) for argument in range(len(self.call.args)))
        return [argument for argument, slot in enumerate(slots) if slot in self.varying]

    def slot_of(self, argument: int) -> int | None:
        """The input that a positional argument of the call reads, None when it is a constant or absent."""
        value = self.call.argument(argument)
        return value.position if isinstance(value, Slot) else None

    def centred(
        self, centres: list[Tensor], radii: list[Radius], scale: Tensor, relaxed: bool = False
    ) -> tuple[Float[Tensor, "b *out"], Float[Tensor, "b *out"]]:
        """The interval of the result, as centre and radius, from those of the inputs.

        Radii are in units of `scale`, so that they are no smaller for a tiny ball, and are never a difference of two
        ends, in which they would vanish.

        Args:
            centres: of the inputs; the value of one that does not vary.
            radii: of the inputs, in units of `scale`.
            scale: a positive number an image ("b 1 ... 1"), or one for all. Where it has underflowed to 0 it stands for
                the limit of a vanishing ball.
            relaxed: go by the two lines of a nonlinear function, at the ends of the interval, and not by its values.
        """
        raise self.refuse("an operator without a rule for intervals")

    def interval_propagate(self, *intervals: Interval) -> Interval:
        """The interval of the result by its lower and upper end."""
        centre, radius = self.centred(*self.halves(intervals))
        return centre - radius, centre + radius

    def halves(self, intervals: Sequence[Interval]) -> tuple[list[Tensor], list[Radius], Tensor]:
        """Centres, radii and a scale of 1, from lower and upper ends."""
        varying = self.varying
        centres = [(lower + upper) / 2 if slot in varying else lower for slot, (lower, upper) in enumerate(intervals)]
        radii = [(upper - lower) / 2 if slot in varying else None for slot, (lower, upper) in enumerate(intervals)]
        return centres, radii, centres[varying[0]].new_ones(())

    def pullback(self, rows: Float[Tensor, "b *out"], values: list[Tensor]) -> list[Tensor]:
        """J^T rows for each input that varies, J the Jacobian of the call at `values`.

        By autograd, with J constant in the values: so it is almost everywhere, the functions here being piecewise
        linear. A curved one needs a rule of its own.
        """
        varying = self.varying
        values = [value.detach().requires_grad_() if slot in varying else value for slot, value in enumerate(values)]
        with torch.enable_grad():
            image = self.forward(*values)
        at = [values[slot] for slot in varying]
        return list(torch.autograd.grad(image, at, rows, create_graph=torch.is_grad_enabled()))

    def affine(self, forms: list[Form | None], sweep: Sweep) -> Form:
        """The form of the result from those of the inputs (None for one that does not vary)."""
        raise self.refuse("an operator without a rule for affine forms")

    def backward(self, last_lA: Coefficients, last_uA: Coefficients, *inputs: Bound) -> Backward:
        """CROWN: lower and upper bounds of <A, y> that are linear in the inputs, in exact arithmetic."""
        raise self.refuse("an operator without a rule for CROWN")

    def largest(self) -> list[Tensor]:
        """Magnitudes of the inputs over their intervals, "b *shape"; the values of those that do not vary."""
        return [
            torch.maximum(node.interval[0].abs(), node.interval[1].abs()) if node.from_input else node.forward_value
            for node in self.inputs
        ]

    def terms(self, largest: list[Tensor]) -> Float[Tensor, "b *out"]:
        """For each element of the result, at least the sum of the magnitudes of what it, or its lines, are sums of.

        Args:
            largest: magnitudes of the inputs, see `largest`.
        """
        raise self.refuse("an operator whose rounding errors are not known")

    @property
    def summands(self) -> int:
        """At least as many terms as an element of the result is a sum of: here all elements of an image."""
        return sum(node.output_shape[1:].numel() for node in self.inputs if node.from_input)

    def hidden(self, values: list[Tensor]) -> Tensor | float:
        """The magnitude of constants that the call adds up and that its result does not show, as they may cancel."""
        return 0.0

    def rows_needed(self, lower: Tensor, upper: Tensor) -> Bool[Tensor, "b *shape"]:
        """Which elements of a relaxed input have bounds worth tightening (see `requires_input_bounds`)."""
        return torch.ones_like(lower, dtype=torch.bool)


class Constant(Operator):
    """A value that does not depend on the network's input, such as softmax(alpha); only ever evaluated."""


class LinearOperator(Operator):
    """y = T x + offset, for inputs x that vary and anything that does not (weights) inside T and offset.

    The backward rule is the vector-Jacobian product of the call, so it cannot disagree with it. An interval has its
    centre through the call and its radius through `magnitude`, exactly; two lines have nothing to add.
    """

    has_offset: ClassVar[bool] = False
    pixelwise: ClassVar[bool] = False
    """Whether every element of the result depends on one element of its one input that varies, and no two on the same:
    a ball of perturbations stays a ball, stretched along the axes."""

    def centred(
        self, centres: list[Tensor], radii: list[Radius], scale: Tensor, relaxed: bool = False
    ) -> tuple[Tensor, Tensor]:
        values = [centre if radius is None else radius for centre, radius in zip(centres, radii, strict=True)]
        return self.forward(*centres), self.magnitude(values)

    def magnitude(self, values: list[Tensor]) -> Tensor:
        """|T| x; `values` holds the other inputs as they are. Calls with negative coefficients override it."""
        return self.linear_part(values)

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

    def backward(self, last_lA: Coefficients, last_uA: Coefficients, *_: Bound) -> Backward:
        like = last_uA if last_lA is None else last_lA
        assert like is not None
        values = [
            like.new_zeros(1, *node.output_shape[1:]) if node.from_input else node.forward_value
            for node in self.inputs
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

    def affine(self, forms: list[Form | None], sweep: Sweep) -> Form:
        error = self._rounding_error(forms, sweep)  # first: it needs as much memory as the result
        varying = [form for form in forms if form is not None]
        first, *_ = rows = aligned(varying)
        batches = iter(merged(each, first) for each in rows)
        values = [
            node.forward_value if form is None else next(batches)
            for node, form in zip(self.inputs, forms, strict=True)
        ]
        image = separated(self.linear_part(values), first)
        boxes = [
            (node.forward_value, node.forward_value) if form is None else (form.lower, form.upper)
            for node, form in zip(self.inputs, forms, strict=True)
        ]
        lower, upper = self.interval_propagate(*boxes)
        return Form(lower - error, upper + error, image)

    def _rounding_error(self, forms: list[Form | None], sweep: Sweep) -> Tensor | float:
        """What rounding may do to the form of the result."""
        if not self.rounding.step or self.exact:
            return 0.0
        largest = [
            node.forward_value if form is None else sweep.terms(form)
            for node, form in zip(self.inputs, forms, strict=True)
        ]
        return self.rounding.step * (1 + self.terms(largest))

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


class Lines(NamedTuple):
    """Two lines a neuron: lower_slope x + lower_intercept <= f(x) <= upper_slope x + upper_intercept."""

    lower_slope: Tensor
    lower_intercept: Tensor
    upper_slope: Tensor
    upper_intercept: Tensor


class Slopes(NamedTuple):
    """Lower slopes that each row of a bound has of its own, for some neurons.

    Attributes:
        neurons: their numbers in the flattened input of an activation.
        below, above: slopes in [0, 1], for lower and for upper bounds of the rows; None leaves the lines as they are.
            Neurons whose slope is not free keep theirs.
    """

    neurons: Int[Tensor, "b k"]
    below: Float[Tensor, "s b k"]
    above: Float[Tensor, "s b k"] | None = None


class Activation(Operator):
    """An elementwise nonlinear function that does not decrease, bounded by two lines over its input interval."""

    requires_input_bounds: ClassVar[list[int]] = [0]

    def lines(self, lower: Float[Tensor, "*n"], upper: Float[Tensor, "*n"]) -> Lines:
        """The relaxation on [lower, upper]; every sweep consumes this one statement of it."""
        raise self.refuse("an activation without a relaxation")

    def free(self, lower: Float[Tensor, "*n"], upper: Float[Tensor, "*n"]) -> Bool[Tensor, "*n"]:
        """Whether the lower line may have any slope in [0, 1], with the same intercept."""
        return torch.zeros_like(lower, dtype=torch.bool)

    def suited(
        self, lower: Float[Tensor, "*n"], upper: Float[Tensor, "*n"], value: Float[Tensor, "s *n"]
    ) -> Float[Tensor, "s *n"]:
        """Lower slopes, where they are free, for bounds whose worst point has these values as inputs."""
        raise self.refuse("an activation without free slopes")

    def parallel(self, lower: Float[Tensor, "*n"], upper: Float[Tensor, "*n"]) -> Lines:
        """The relaxation with both lines of one slope, which an affine form needs."""
        raise self.refuse("an activation without a relaxation")

    def affine(self, forms: list[Form | None], sweep: Sweep) -> Form:
        (form,) = forms
        assert form is not None
        (x,) = self.inputs
        lines = self.parallel(x.lower, x.upper)
        slope = lines.upper_slope  # not negative: the function does not decrease
        scaled = Form(form.lower * slope, form.upper * slope, form.rows * in_layout_of(form.rows, slope))
        low, high = lines.lower_intercept, lines.upper_intercept
        if self.rounding.step and scaled.box_counts((x.upper - x.lower) * slope):
            middle, half = (scaled.lower + scaled.upper) / 2, (scaled.upper - scaled.lower) / 2
            if flat(high - low + half != 0).sum(1).max() <= sweep.room:
                scaled, low, high = Form(middle, middle, scaled.rows), low - half, high + half
        return scaled.with_error(low, high, sweep)

    def terms(self, largest: list[Tensor]) -> Tensor:
        """Of lines that meet the function or 0, with slopes of at most 1."""
        return 2 * largest[0]

    @property
    def summands(self) -> int:
        return 2

    def backward(
        self, last_lA: Coefficients, last_uA: Coefficients, *inputs: Bound, slopes: Slopes | None = None
    ) -> Backward:
        (x,) = inputs
        lines = self.lines(x.lower, x.upper)
        negated = None if last_uA is None else -last_uA  # <A, y> from above is -(<-A, y> from below)
        lA, lower_bias = _through_lines(last_lA, lines)
        uA, upper_bias = _through_lines(negated, lines)
        if slopes is not None:
            free = self.free(x.lower, x.upper)
            lA = _resloped(lA, last_lA, lines, free, slopes.neurons, slopes.below)
            uA = _resloped(uA, negated, lines, free, slopes.neurons, slopes.above)
        return [(lA, None if uA is None else -uA)], lower_bias, -upper_bias


def _through_lines(A: Coefficients, lines: Lines) -> tuple[Coefficients, Any]:
    """A lower bound of <A, f(x)> that is linear in x: the lower line where A >= 0, the upper one elsewhere."""
    if A is None:
        return None, 0
    lines = Lines(*(in_layout_of(A, line) for line in lines))
    # lower A + (upper - lower) min(A, 0): few passes over A, which is where the time goes.
    negative = A.clamp(max=0)
    bias = inner(negative, lines.upper_intercept - lines.lower_intercept)
    if lines.lower_intercept.any():
        bias = bias + inner(A, lines.lower_intercept)
    return torch.addcmul(A * lines.lower_slope, negative, lines.upper_slope - lines.lower_slope), bias


def _resloped(
    image: Coefficients, A: Coefficients, lines: Lines, free: Tensor, neurons: Tensor, slopes: Tensor | None
) -> Coefficients:
    """The image of A through the lines, mended where rows have lower slopes of their own; see `Slopes`."""
    if image is None or A is None or slopes is None:
        return image
    free, shared = (flat(each).gather(1, neurons) for each in (free, lines.lower_slope))
    change = torch.where(free, slopes, shared) - shared
    return added_at(image, neurons, picked(A, neurons).clamp_(min=0) * change)


RULES: dict[str, type[Operator]] = {}


def rule(*names: str) -> Callable[[type[Operator]], type[Operator]]:
    """Register an operator class for ATen calls, each by its name without the namespace: "relu.default"."""

    def register(cls: type[Operator]) -> type[Operator]:
        RULES.update(dict.fromkeys((f"aten.{name}" for name in names), cls))
        return cls

    return register
