"""What every operator of a bounded graph is: one ATen call, with rules for intervals and for CROWN.

A rule class is written once for a family of calls and registered under their names with :func:`rule`.
Shapes: `b` images, `s` rows of a specification, `*shape` one image's tensor. A coefficient tensor `A` is
"s b *shape": row s of image b bounds a scalar by <A[s, b], y> + bias.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import cached_property
from typing import Any, ClassVar, TypeAlias

from jaxtyping import Float
from torch import Tensor

from verify.checks.errors import InputError
from verify.graph.lirpa import Bound
from verify.operators.call import Call, Slot
from verify.operators.form import Form, Sweep

Interval: TypeAlias = tuple[Tensor, Tensor]
"""Lower and upper bounds, "b *shape"; of an input that does not vary its value, twice."""
Read: TypeAlias = Sequence[Interval | None]
"""What is known of a node's inputs; None of one that no rule reads."""
Coefficients: TypeAlias = Tensor | None  # "s b *shape"; None where a side or an input is not asked for
Radius: TypeAlias = Tensor | None  # "b *shape"; None for an input that does not vary
Backward: TypeAlias = tuple[list[tuple[Coefficients, Coefficients]], Any, Any]


class UnsupportedOperator(InputError):
    """The network holds an operator, or a use of one, for which no sound rule is known."""


def refused(call: Call, why: str) -> UnsupportedOperator:
    """The refusal of a use of a call, with the reason."""
    return UnsupportedOperator(f"{call.name}: {why}, for which no sound bound is known")


class Operator(Bound):
    """A node of the bounded graph: an ATen call of which at least one input depends on the network's input.

    Subclasses give `centred` (intervals), `backward` (CROWN), `affine` (the forward sweep of affine forms) and `terms`
    (what rounding errors are relative to); `forward` is the call itself. A rule is a function of what it is given: a
    node holds its call and nothing of a computation.
    """

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

    @classmethod
    def rule_for(cls, call: Call, varying: Collection[int]) -> type[Operator]:
        """The class for a call whose inputs at these positions depend on the network's input."""
        return cls

    @classmethod
    def has_part_an_image(cls, call: Call, slot: int, rank: int) -> bool:
        """Whether an input that does not vary, of as many dimensions as those that do, has a part for every image."""
        return False

    def refuse(self, why: str) -> UnsupportedOperator:
        return refused(self.call, why)

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

    def pullback(self, rows: Float[Tensor, "b *out"], values: list[Tensor]) -> list[Tensor]:
        """J^T rows for each input that varies, J the Jacobian of the call at `values`."""
        raise self.refuse("an operator without a rule for its derivative")

    def affine(self, forms: list[Form | None], read: Read, sweep: Sweep) -> Form:
        """The form of the result from those of the inputs (None for one that does not vary), and their intervals."""
        raise self.refuse("an operator without a rule for affine forms")

    def backward(self, last_lA: Coefficients, last_uA: Coefficients, read: Read) -> Backward:
        """CROWN: lower and upper bounds of <A, y> that are linear in the inputs, in exact arithmetic."""
        raise self.refuse("an operator without a rule for CROWN")

    def terms(self, largest: list[Tensor]) -> Float[Tensor, "b *out"]:
        """For each element of the result, at least the sum of the magnitudes of what it, or its lines, are sums of.

        Args:
            largest: magnitudes of the inputs over their intervals; the values of those that do not vary.
        """
        raise self.refuse("an operator whose rounding errors are not known")

    @property
    def summands(self) -> int:
        """At least as many terms as an element of the result is a sum of: here all elements of an image."""
        return sum(node.output_shape[1:].numel() for node in self.inputs if node.from_input)

    def hidden(self, values: list[Tensor]) -> Tensor | float:
        """The magnitude of constants that the call adds up and that its result does not show, as they may cancel."""
        return 0.0


class Constant(Operator):
    """A value that does not depend on the network's input, such as softmax(alpha); only ever evaluated."""


RULES: dict[str, type[Operator]] = {}


def rule(*names: str) -> Callable[[type[Operator]], type[Operator]]:
    """Register an operator class for calls, ATen's each by its name without the namespace: "relu.default"."""

    def register(cls: type[Operator]) -> type[Operator]:
        RULES.update(dict.fromkeys((name if name.count(".") > 1 else f"aten.{name}" for name in names), cls))
        return cls

    return register
