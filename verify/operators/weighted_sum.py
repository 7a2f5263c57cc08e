"""Sums and scalings: what joins the operations of a cell, with gradients to the weights.

A mixed operation sum_i w_i o_i(x) arrives here as products with a weight and additions; w = softmax(alpha)
is an ordinary tensor of the graph, so bounds are differentiable in alpha. Weights of either sign are sound:
a negative one swaps the two bounds.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import cached_property

from torch import Tensor

from verify.operators.call import Call, Slot
from verify.operators.linear import LinearOperator
from verify.operators.operator import Operator, rule
from verify.operators.power import Square
from verify.operators.product import ElementProduct


class Signed(LinearOperator):
    """Linear with coefficients of either sign."""

    has_offset = True

    @cached_property
    def pixelwise(self) -> bool:
        one = len(self.varying_arguments) == 1
        return one and self.output_shape[1:] == self.inputs[self.varying[0]].output_shape[1:]

    @property
    def summands(self) -> int:
        return 2

    @classmethod
    def has_part_an_image(cls, call: Call, slot: int, rank: int) -> bool:
        return True

    def check(self) -> None:
        ranks = [len(node.output_shape) for node in self.inputs]
        if any(ranks[position] < max(ranks) for position in self.varying):
            raise self.refuse("broadcasting that moves the batch dimension")


@rule(
    "add.Tensor", "add.Scalar", "sub.Tensor", "sub.Scalar", "rsub.Tensor", "rsub.Scalar"
)
class Sum(Signed):
    """x + y, x - y, y - x, with tensors or numbers; an `alpha` of torch's calls scales the second."""

    @property
    def has_offset(self) -> bool:  # type: ignore[override]
        numbers = [part for part in self.call.args[:2] if isinstance(part, (int, float))]
        return any(numbers) or len(self.varying) < len(self.inputs)

    @property
    def factors(self) -> dict[int, float]:
        """The coefficient of every input that varies."""
        alpha = self.call.kwargs.get("alpha", self.call.argument(2, 1))
        signs = {"add": (1, alpha), "sub": (1, -alpha), "rsub": (-alpha, 1)}
        first, second = signs[self.call.name.split(".")[1]]
        total: dict[int, float] = {}
        for argument, factor in ((0, first), (1, second)):
            slot = self.slot_of(argument)
            if slot in self.varying:
                total[slot] = total.get(slot, 0.0) + float(factor)
        return total

    def magnitude(self, values: list[Tensor]) -> Tensor:
        factors = self.factors.items()
        terms = [values[slot] if abs(factor) == 1 else abs(factor) * values[slot] for slot, factor in factors]
        total = sum(terms[1:], terms[0])
        return total.expand(len(total), *self.output_shape[1:])

    def transpose(self, rows: Tensor, values: list[Tensor]) -> list[Tensor]:
        factors = self.factors
        if any(values[slot].shape[1:] != rows.shape[1:] for slot in factors):
            return super().transpose(rows, values)  # broadcasting: the gradient sums over it
        return [rows if factor == 1 else factor * rows for _, factor in sorted(factors.items())]


class Scaled(Signed):
    """A product with a factor that does not depend on the network's input."""

    has_offset = False

    def check(self) -> None:
        super().check()
        if len(self.varying_arguments) > 1:
            raise self.refuse("a product of two tensors that both depend on the network's input")

    def magnitude(self, values: list[Tensor]) -> Tensor:
        return self.forward(*values).abs()


@rule("mul.Tensor", "mul.Scalar", "neg.default")
class Product(Scaled):
    """w x, with w a number, a parameter or a function of parameters such as softmax(alpha)[i]."""

    @classmethod
    def rule_for(cls, call: Call, varying: Collection[int]) -> type[Operator]:
        factors = [part.position for part in call.args[:2] if isinstance(part, Slot)]
        if len(factors) < 2 or not set(factors) <= set(varying):
            return cls
        return Square if factors[0] == factors[1] else ElementProduct

    def transpose(self, rows: Tensor, values: list[Tensor]) -> list[Tensor]:
        if values[self.varying[0]].shape[1:] != rows.shape[1:]:
            return super().transpose(rows, values)
        return [self.call(*(rows if position in self.varying else value for position, value in enumerate(values)))]


@rule("div.Tensor", "div.Scalar")
class Quotient(Scaled):
    """x / w; by what depends on the image it is a product with the reciprocal, see `verify.graph.composed`."""

