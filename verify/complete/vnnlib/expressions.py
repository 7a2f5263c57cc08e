"""What VNN-LIB's expressions say: linear constraints, read as fractions, in disjunctive normal form."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any, NamedTuple, TypeAlias

from verify.checks.errors import InputError

Expression: TypeAlias = str | list[Any]
"""An atom, or a list of expressions."""

DEPTH = 64
"""Of parentheses within each other."""
MOST = 100_000
"""Conjunctions in a file, once `or` and `and` are multiplied out."""
DIGITS = 2000
"""Of a number."""
SMALLEST_POWER, LARGEST_POWER = -400, 300
"""Of ten, in a number: float64 has nothing beyond."""
LARGEST = 10 ** (LARGEST_POWER + 1)
VARIABLE = "[XY]_(0|[1-9][0-9]{0,8})"
"""In one way each: X_01 is none."""


class Query(NamedTuple):
    """What a file declares and asserts; variables are X_i and Y_i, counted in the order of the flattened tensors.

    Attributes:
        inputs, outputs: how many.
        shape: of one input, without the batch's axis.
        asserted: each must hold for an input and its output to be unsafe.
    """

    inputs: int
    outputs: int
    shape: tuple[int, ...]
    asserted: list[Expression]


class Linear(NamedTuple):
    """sum of coefficients[name] name + constant."""

    coefficients: dict[str, Fraction]
    constant: Fraction

    def plus(self, other: Linear, factor: Fraction) -> Linear:
        """This and another one times a factor."""
        total = dict(self.coefficients)
        for name, value in other.coefficients.items():
            total[name] = total.get(name, Fraction(0)) + factor * value
        kept = {name: value for name, value in total.items() if value}
        return Linear(kept, self.constant + factor * other.constant)


Conjunction: TypeAlias = tuple[Linear, ...]
"""Of constraints "linear <= 0"."""


def parse(text: str) -> list[Expression]:
    """The s-expressions of a text; indices belong to the word before them, as in X[0,1].

    Raises:
        InputError: parentheses do not match.
    """
    expressions: list[Expression] = []
    stack = [expressions]
    text = re.sub(r";[^\n]*", "", text)
    text = re.sub(r"(?<=[^\s(])\s*\[([^\[\]()]*)\]", lambda found: f"[{''.join(found[1].split())}]", text)
    for token in re.findall(r"[()]|[^\s()]+", text):
        if token == "(":
            inner: list[Expression] = []
            stack[-1].append(inner)
            stack.append(inner)
            if len(stack) > DEPTH:
                raise InputError(f"more than {DEPTH} parentheses within each other")
        elif token == ")":
            if len(stack) == 1:
                raise InputError("a ) too many")
            stack.pop()
        else:
            stack[-1].append(token)
    if len(stack) > 1:
        raise InputError("ends within parentheses; is the file whole?")
    return expressions


def alternatives(expression: Expression, names: Query) -> list[Conjunction]:
    """The disjunctive normal form of a constraint.

    Raises:
        InputError: it is none, not linear, of variables that are not declared, or too long.
    """
    match expression:
        case ["or", _, *_]:
            found = [part for inner in expression[1:] for part in alternatives(inner, names)]
        case ["and", _, *_]:
            parts = [alternatives(inner, names) for inner in expression[1:]]
            found = products(parts)
        case ["<=" | ">=" as sign, left, right]:
            smaller, larger = (left, right) if sign == "<=" else (right, left)
            found = [(_linear(smaller, names).plus(_linear(larger, names), Fraction(-1)),)]
        case ["==", left, right]:
            found = alternatives(["and", ["<=", left, right], [">=", left, right]], names)
        case _:
            raise InputError(f"{short(expression)} is no constraint; known are and, or, <=, >= and == of two sides")
    return found


def products(parts: Sequence[Sequence[Conjunction]]) -> list[Conjunction]:
    """One of each, in all ways, joined.

    Raises:
        InputError: there are too many ways.
    """
    if math.prod(map(len, parts)) > MOST:
        raise InputError(f"more than {MOST} conjunctions; split the property into several files")
    return [tuple(itertools.chain(*choice)) for choice in itertools.product(*parts)]


def _linear(expression: Expression, names: Query) -> Linear:
    match expression:
        case str():
            return _atom(expression, names)
        case ["+", first, *rest]:
            return _sum(_linear(first, names), rest, names, 1)
        case ["-", only]:
            return Linear({}, Fraction(0)).plus(_linear(only, names), Fraction(-1))
        case ["-", first, *rest]:
            return _sum(_linear(first, names), rest, names, -1)
        case ["*", first, *rest] if rest:
            product = _linear(first, names)
            for part in rest:
                product = _product(product, _linear(part, names), expression)
            return product
    raise InputError(f"{short(expression)} is no linear term; known are numbers, X_i, Y_i, +, - and *")


def _sum(total: Linear, rest: list[Expression], names: Query, sign: int) -> Linear:
    for part in rest:
        total = total.plus(_linear(part, names), Fraction(sign))
    return total


def _product(one: Linear, other: Linear, expression: Expression) -> Linear:
    factor, term = (other, one) if one.coefficients else (one, other)
    if factor.coefficients:
        raise InputError(f"{short(expression)} is not linear")
    product = Linear({}, Fraction(0)).plus(term, factor.constant)
    if any(abs(value) > LARGEST for value in (product.constant, *product.coefficients.values())):
        raise InputError(f"{short(expression)} is beyond what float64 can hold")
    return product


def _atom(text: str, names: Query) -> Linear:
    if re.fullmatch(VARIABLE, text):
        if int(text[2:]) >= (names.inputs if text[0] == "X" else names.outputs):
            raise InputError(f"{short(text)} is not declared")
        return Linear({text: Fraction(1)}, Fraction(0))
    if len(text) > DIGITS or not re.fullmatch(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,9})?", text):
        raise InputError(f"{short(text)} is neither a number nor a declared variable")
    number = Decimal(text)
    if number and not SMALLEST_POWER <= number.adjusted() <= LARGEST_POWER:
        raise InputError(f"{short(text)} is beyond what float64 can hold")
    return Linear({}, Fraction(number) if number else Fraction(0))


def short(expression: Expression) -> str:
    """An expression as text, its beginning where it is long."""
    text = expression if isinstance(expression, str) else "(" + " ".join(map(short, expression)) + ")"
    return text if len(text) <= 60 else f"{text[:40]} ..."
