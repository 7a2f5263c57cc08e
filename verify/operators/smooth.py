"""Smooth functions: each with its derivative, its knots and its turns, see `Curve`."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from verify.operators.curve import Curve
from verify.operators.operator import rule
from verify.operators.relaxation import Lines


@rule("sigmoid.default")
class Sigmoid(Curve):
    """1 / (1 + exp(-x))."""

    knots = (-6.0, 0.0, 6.0)

    def derivative(self, x: Tensor) -> Tensor:
        return torch.sigmoid(x) * torch.sigmoid(-x)


@rule("tanh.default")
class Tanh(Curve):
    """(exp(x) - exp(-x)) / (exp(x) + exp(-x))."""

    knots = (-3.0, 0.0, 3.0)

    def derivative(self, x: Tensor) -> Tensor:
        return 4 * torch.sigmoid(2 * x) * torch.sigmoid(-2 * x)


@rule("elu.default", "celu.default", "selu.default")
class ELU(Curve):
    """scale x for x > 0 and scale alpha (exp(x / width) - 1) elsewhere: ELU, SELU and CELU."""

    knots = (-6.0, 0.0)

    def check(self) -> None:
        alpha = float(self.call.argument(1, 1.0))
        self.alpha, self.scale, self.width = alpha, float(self.call.argument(2, 1.0)), 1.0
        if self.call.name == "aten.selu.default":
            self.alpha, self.scale = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946
        if self.call.name == "aten.celu.default":
            self.width = alpha
        elif self.call.name == "aten.elu.default":
            self.width = 1 / float(self.call.argument(3, 1.0))
        if min(self.alpha, self.scale, self.width) <= 0:
            raise self.refuse("a scale that is not positive")

    def derivative(self, x: Tensor) -> Tensor:
        left = self.alpha / self.width * torch.exp(x.clamp(max=0) / self.width)
        return self.scale * torch.where(x > 0, 1.0, left)


@rule("softplus.default")
class Softplus(Curve):
    """log(1 + exp(beta x)) / beta; from a threshold on x, as torch has it, so that it falls there by some 1e-9."""

    jumps = True

    def check(self) -> None:
        self.beta, self.threshold = float(self.call.argument(1, 1.0)), float(self.call.argument(2, 20.0))
        if self.beta <= 0:
            raise self.refuse("a factor that is not positive")
        end = self.threshold / self.beta
        self.knots, self.turns = (end,), (end, math.nextafter(end, math.inf))

    def derivative(self, x: Tensor) -> Tensor:
        scaled = self.beta * x
        return torch.where(scaled > self.threshold, 1.0, torch.sigmoid(scaled))


@rule("log_sigmoid.default")
class LogSigmoid(Curve):
    """-log(1 + exp(-x))."""

    def derivative(self, x: Tensor) -> Tensor:
        return torch.sigmoid(-x)


@rule("gelu.default")
class GELU(Curve):
    """x Phi(x), Phi the normal distribution, or its approximation by tanh."""

    def check(self) -> None:
        self.by_tanh = self.call.kwargs.get("approximate", "none") == "tanh"
        bend = 1.41850400879 if self.by_tanh else math.sqrt(2)
        self.knots = (-5.0, -bend, bend, 5.0)
        self.turns = (-0.75246142207,) if self.by_tanh else (-0.7517915247,)

    def value(self, x: Tensor) -> Tensor:
        if self.by_tanh:
            return x * torch.sigmoid(2 * self._inner(x))
        return x * self._share(x)

    def derivative(self, x: Tensor) -> Tensor:
        if self.by_tanh:
            inner = self._inner(x)
            share, rest = torch.sigmoid(2 * inner), torch.sigmoid(-2 * inner)
            return share + 2 * x * share * rest * _ROOT * (1 + 3 * _CUBIC * x * x)
        return self._share(x) + x * torch.exp(-x * x / 2) / math.sqrt(2 * math.pi)

    @staticmethod
    def _share(x: Tensor) -> Tensor:
        return torch.special.erfc(-x / math.sqrt(2)) / 2

    @staticmethod
    def _inner(x: Tensor) -> Tensor:
        return _ROOT * (x + _CUBIC * x * x * x)


_ROOT, _CUBIC = math.sqrt(2 / math.pi), 0.044715


@rule("silu.default")
class SiLU(Curve):
    """x / (1 + exp(-x))."""

    knots = (-10.0, -5.0, -2.3993572805, 2.3993572805, 5.0, 10.0)
    turns = (-1.27846454276,)

    def derivative(self, x: Tensor) -> Tensor:
        share, rest = torch.sigmoid(x), torch.sigmoid(-x)
        return share * (1 + x * rest)


@rule("mish.default")
class Mish(Curve):
    """x tanh(log(1 + exp(x)))."""

    knots = (-10.0, -5.0, -2.25637639636, 1.49057117949, 5.0)
    turns = (-1.19243121450,)

    def derivative(self, x: Tensor) -> Tensor:
        share = torch.tanh(torch.logaddexp(x, x.new_zeros(())))
        return share + x * (1 - share) * (1 + share) * torch.sigmoid(x)


@rule("hardswish.default")
class HardSwish(Curve):
    """x min(max(x + 3, 0), 6) / 6."""

    knots, turns = (-3.0, 3.0), (-1.5,)

    def derivative(self, x: Tensor) -> Tensor:
        inside = x / 3 + 0.5
        return torch.where(x <= -3, 0.0, torch.where(x >= 3, 1.0, inside))


@rule("exp.default")
class Exp(Curve):
    """exp(x)."""

    def derivative(self, x: Tensor) -> Tensor:
        return torch.exp(x)


@rule("expm1.default")
class Expm1(Exp):
    """exp(x) - 1."""


@rule("sinh.default")
class Sinh(Curve):
    """(exp(x) - exp(-x)) / 2."""

    knots = (0.0,)

    def derivative(self, x: Tensor) -> Tensor:
        return torch.cosh(x)


@rule("cosh.default")
class Cosh(Curve):
    """(exp(x) + exp(-x)) / 2."""

    turns = (0.0,)

    def derivative(self, x: Tensor) -> Tensor:
        return torch.sinh(x)


@rule("erf.default")
class Erf(Curve):
    """The error function."""

    knots = (-2.0, 0.0, 2.0)

    def derivative(self, x: Tensor) -> Tensor:
        return 2 / math.sqrt(math.pi) * torch.exp(-x * x)


@rule("atan.default")
class Atan(Curve):
    """The angle of a slope."""

    knots = (-10.0, -3.0, 0.0, 3.0, 10.0)

    def derivative(self, x: Tensor) -> Tensor:
        return 1 / (1 + x * x)


@rule("log.default")
class Log(Curve):
    """log(x) for x > 0; where x may be 0 or less there is no bound."""

    def derivative(self, x: Tensor) -> Tensor:
        return 1 / torch.where(x > 0, x, torch.nan)

    def terms(self, largest: list[Tensor]) -> Tensor:
        """A line meets the logarithm, of at most 745 either way, and rises by no more over the interval, but for a
        tangent's slope of at most 2 / x.
        """
        return torch.full_like(largest[0], 2300.0)


@rule("sin.default", "cos.default")
class Wave(Curve):
    """sin or cos."""

    FURTHEST, WIDEST = 1e5, 6.28
    """How far from 0 multiples of pi are known well enough, and how wide an interval is no more than a wave."""

    @property
    def _phase(self) -> float:
        """Where it crosses 0."""
        return math.pi / 2 if self.call.name == "aten.cos.default" else 0.0

    def knots_in(self, lower: Tensor, upper: Tensor) -> list[Tensor]:
        return self._multiples(lower, upper, self._phase)

    def turns_in(self, lower: Tensor, upper: Tensor) -> list[Tensor]:
        return self._multiples(lower, upper, self._phase + math.pi / 2)

    @staticmethod
    def _multiples(lower: Tensor, upper: Tensor, first: float) -> list[Tensor]:
        number = torch.ceil((lower.detach() - first) / math.pi)
        return [(first + (number + k) * math.pi).maximum(lower).minimum(upper) for k in range(3)]

    def derivative(self, x: Tensor) -> Tensor:
        return -torch.sin(x) if self._phase else torch.cos(x)

    def range(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        low, high = super().range(lower, upper)
        known = self._known(lower, upper)
        return torch.where(known, low, -1.0), torch.where(known, high, 1.0)

    def steepest(self, lower: Tensor, upper: Tensor) -> Tensor:
        return torch.where(self._known(lower, upper), super().steepest(lower, upper), 1.0)

    def _finite(self, lines: Lines, lower: Tensor, upper: Tensor) -> Lines:
        known = self._known(lower, upper)
        return super()._finite(Lines(*(torch.where(known, line, torch.nan) for line in lines)), lower, upper)

    def _known(self, lower: Tensor, upper: Tensor) -> Tensor:
        return ~((upper - lower > self.WIDEST) | (lower < -self.FURTHEST) | (upper > self.FURTHEST))
