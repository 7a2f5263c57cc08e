"""VNN-LIB 1.0 in and out: properties as the verification competition writes them.

A file declares X_0 ... and Y_0 ..., all Real, and asserts what is unsafe: constraints of one X each, linear constraints
of the Y, joined by `and` and `or`. Everything is read as fractions. What a float64 cannot hold is rounded so that the
unsafe set grows: a proof about what was read is one about what is written.
"""

from __future__ import annotations

import gzip
import itertools
import math
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import torch

from verify.checks.errors import InputError
from verify.complete.property import Case, Halfspaces, Property
from verify.regions import Ball, Box, Region

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


class Linear(NamedTuple):
    """sum of coefficients[name] name + constant."""

    coefficients: dict[str, Fraction]
    constant: Fraction

    def plus(self, other: Linear, factor: Fraction) -> Linear:
        total = dict(self.coefficients)
        for name, value in other.coefficients.items():
            total[name] = total.get(name, Fraction(0)) + factor * value
        kept = {name: value for name, value in total.items() if value}
        return Linear(kept, self.constant + factor * other.constant)


Conjunction: TypeAlias = tuple[Linear, ...]
"""Of constraints "linear <= 0"."""


@dataclass(frozen=True)
class _Names:
    """The declared variables."""

    inputs: int
    outputs: int


def read_vnnlib(path: str | Path) -> Property:
    """The property in a VNN-LIB 1.0 file, plain or gzip.

    Its regions are boxes "1 n" over the flattened input; `prove_property` gives them the network's shape.

    Raises:
        InputError: the file is not there, or not such a property; the line says where it fails.
    """
    try:
        content = Path(path).read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
        text = content.decode("utf-8-sig")
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: no VNN-LIB file: it is no text") from error
    try:
        return parse_vnnlib(text)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def parse_vnnlib(text: str) -> Property:
    """The property that a text of VNN-LIB 1.0 states.

    Raises:
        InputError: it states none.
    """
    declared: list[str] = []
    asserted: list[Expression] = []
    for command in _parse(text):
        match command:
            case ["declare-const", str(name), str(kind)]:
                declared.append(_declared(name, kind))
            case ["assert", expression]:
                asserted.append(expression)
            case _:
                raise InputError(f"{_short(command)} is neither (declare-const NAME Real) nor (assert ...)")
    names = _Names(_count(declared, "X"), _count(declared, "Y"))
    alternatives = [_alternatives(expression, names) for expression in asserted]
    if math.prod(map(len, alternatives)) > MOST:
        raise InputError(f"more than {MOST} conjunctions; split the property into several files")
    return _property(names, (sum(parts, ()) for parts in itertools.product(*alternatives)))


def vnnlib_text(wanted: Property, comment: str = "") -> str:
    """A property as VNN-LIB 1.0, which `parse_vnnlib` reads back to the last bit.

    Raises:
        InputError: a region is not a box; l2 and l1 balls are none.
    """
    lines = [f"; {line}" for line in comment.splitlines()]
    lines += [f"(declare-const X_{number} Real)" for number in range(wanted.inputs)]
    lines += [f"(declare-const Y_{number} Real)" for number in range(wanted.outputs)]
    boxes = [list(_box_atoms(case.region)) for case in wanted.cases]
    alone = len(wanted.cases) == 1
    if alone:
        lines += [f"(assert {atom})" for atom in boxes[0]]
    disjuncts = [
        " ".join(["(and", *([] if alone else box), *_output_atoms(part)]) + ")"
        for case, box in zip(wanted.cases, boxes, strict=True)
        for part in case.unsafe
    ]
    lines += ["(assert (or", *(f"    {disjunct}" for disjunct in disjuncts), "))"]
    return "\n".join(lines) + "\n"


def _box_atoms(region: Region) -> Iterator[str]:
    if isinstance(region, Ball) and region.norm != "linf":
        raise InputError(f"VNN-LIB 1.0 has boxes only, and no {region.norm} ball")
    for number, (low, high) in enumerate(
        zip(region.lower.flatten().tolist(), region.upper.flatten().tolist(), strict=True)
    ):
        yield f"(>= X_{number} {_decimal(low)})"
        yield f"(<= X_{number} {_decimal(high)})"


def _output_atoms(part: Halfspaces) -> Iterator[str]:
    for row, limit in zip(part.rows.tolist(), part.limits.tolist(), strict=True):
        terms = {f"Y_{number}": value for number, value in enumerate(row) if value}
        match sorted(terms.items(), key=lambda term: -term[1]):
            case [(first, 1.0), (second, -1.0)] if not limit:
                yield f"(<= {first} {second})"
            case [(name, 1.0)]:
                yield f"(<= {name} {_decimal(limit)})"
            case [(name, -1.0)]:
                yield f"(>= {name} {_decimal(-limit)})"
            case _:
                products = " ".join(f"(* {_decimal(value)} {name})" for name, value in terms.items())
                yield f"(<= (+ {products} 0.0) {_decimal(limit)})"


def _decimal(value: float) -> str:
    """The float64 itself, to the last digit: no reader may have to guess which of two neighbours is meant."""
    return f"{Decimal(value + 0.0):f}" if value else "0.0"


def _parse(text: str) -> list[Expression]:
    """The s-expressions of a text."""
    expressions: list[Expression] = []
    stack = [expressions]
    for token in re.findall(r"[()]|[^\s()]+", re.sub(r";[^\n]*", "", text)):
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


def _declared(name: str, kind: str) -> str:
    if not re.fullmatch(r"[XY]_(0|[1-9][0-9]{0,8})", name):
        raise InputError(f"{_short(name)} is neither an input X_i nor an output Y_i")
    if kind != "Real":
        raise InputError(f"{name} is declared {_short(kind)}; only Real is known")
    return name


def _count(declared: list[str], letter: str) -> int:
    numbers = sorted(int(name[2:]) for name in declared if name[0] == letter)
    if not numbers:
        raise InputError(f"declares no {letter}_0")
    for expected, number in enumerate(numbers):
        if number != expected:
            fault = f"{letter}_{number} is declared twice" if number < expected else f"{letter}_{expected} is missing"
            raise InputError(fault)
    return len(numbers)


def _alternatives(expression: Expression, names: _Names) -> list[Conjunction]:
    """The disjunctive normal form."""
    match expression:
        case ["or", _, *_]:
            found = [part for inner in expression[1:] for part in _alternatives(inner, names)]
        case ["and", _, *_]:
            parts = [_alternatives(inner, names) for inner in expression[1:]]
            if math.prod(map(len, parts)) > MOST:
                raise InputError(f"more than {MOST} conjunctions; split the property into several files")
            found = [tuple(itertools.chain(*choice)) for choice in itertools.product(*parts)]
        case ["<=" | ">=" as sign, left, right]:
            smaller, larger = (left, right) if sign == "<=" else (right, left)
            found = [(_linear(smaller, names).plus(_linear(larger, names), Fraction(-1)),)]
        case _:
            raise InputError(f"{_short(expression)} is no constraint; known are and, or, <= and >= of two sides")
    return found


def _linear(expression: Expression, names: _Names) -> Linear:
    match expression:
        case str():
            return _atom(expression, names)
        case ["+", first, *rest]:
            return _sum(_linear(first, names), rest, names, 1)
        case ["-", only]:
            return Linear({}, Fraction(0)).plus(_linear(only, names), Fraction(-1))
        case ["-", first, *rest]:
            return _sum(_linear(first, names), rest, names, -1)
        case ["*", left, right]:
            one, other = _linear(left, names), _linear(right, names)
            factor, term = (other, one) if one.coefficients else (one, other)
            if factor.coefficients:
                raise InputError(f"{_short(expression)} is not linear")
            return Linear({}, Fraction(0)).plus(term, factor.constant)
    raise InputError(f"{_short(expression)} is no linear term; known are numbers, X_i, Y_i, +, - and *")


def _sum(total: Linear, rest: list[Expression], names: _Names, sign: int) -> Linear:
    for part in rest:
        total = total.plus(_linear(part, names), Fraction(sign))
    return total


def _atom(text: str, names: _Names) -> Linear:
    if re.fullmatch(r"[XY]_[0-9]+", text):
        if int(text[2:]) >= (names.inputs if text[0] == "X" else names.outputs):
            raise InputError(f"{_short(text)} is not declared")
        return Linear({text: Fraction(1)}, Fraction(0))
    if not re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,9})?", text) or len(text) > DIGITS:
        raise InputError(f"{_short(text)} is neither a number nor a declared variable")
    number = Decimal(text)
    if number and not SMALLEST_POWER <= number.adjusted() <= LARGEST_POWER:
        raise InputError(f"{_short(text)} is beyond what float64 can hold")
    return Linear({}, Fraction(number) if number else Fraction(0))


def _property(names: _Names, conjunctions: Iterator[Conjunction]) -> Property:
    """Conjunctions over the same box make one case."""
    cases: dict[tuple[tuple[float, ...], tuple[float, ...]], list[Halfspaces]] = {}
    empty = ""
    for conjunction in conjunctions:
        lower, upper, outputs = _split(conjunction, names)
        crossed = [number for number, (low, high) in enumerate(zip(lower, upper, strict=True)) if low > high]
        if crossed:
            empty = f"X_{crossed[0]} has a lower bound above its upper one"
            continue
        if not outputs:
            raise InputError("a conjunction says nothing of the outputs, which makes every input unsafe")
        box = tuple(map(_below, lower)), tuple(map(_above, upper))
        cases.setdefault(box, []).append(_halfspaces(outputs, names.outputs))
    if not cases:
        raise InputError(empty or "asserts nothing")
    return Property(tuple(_case(*box, unsafe) for box, unsafe in cases.items()))


def _case(lower: tuple[float, ...], upper: tuple[float, ...], unsafe: list[Halfspaces]) -> Case:
    sides = (torch.tensor([side], dtype=torch.float64) for side in (lower, upper))
    return Case(Box(*sides), tuple(unsafe))


def _split(conjunction: Conjunction, names: _Names) -> tuple[list[Fraction], list[Fraction], list[Linear]]:
    """The box of a conjunction, and its constraints on the outputs."""
    lower: dict[str, Fraction] = {}
    upper: dict[str, Fraction] = {}
    outputs = []
    for constraint in conjunction:
        letters = {name[0] for name in constraint.coefficients}
        if letters == {"Y"}:
            outputs.append(constraint)
        elif letters == {"X"} and len(constraint.coefficients) == 1:
            ((name, factor),) = constraint.coefficients.items()
            end = -constraint.constant / factor
            if factor > 0:
                upper[name] = min(end, upper.get(name, end))
            else:
                lower[name] = max(end, lower.get(name, end))
        else:
            about = ", ".join(sorted(constraint.coefficients)) or "numbers alone"
            raise InputError(f"a constraint on {_short(about)}: one input has to be bounded alone, outputs by outputs")
    for number in range(names.inputs):
        if (name := f"X_{number}") not in lower or name not in upper:
            raise InputError(f"X_{number} has no {'upper' if name in lower else 'lower'} bound")
    ordered = [f"X_{number}" for number in range(names.inputs)]
    return [lower[name] for name in ordered], [upper[name] for name in ordered], outputs


def _halfspaces(constraints: list[Linear], outputs: int) -> Halfspaces:
    rows, limits = [], []
    for constraint in constraints:
        scaled = _exact(constraint)
        rows.append([float(scaled.coefficients.get(f"Y_{number}", 0)) for number in range(outputs)])
        limits.append(_above(-scaled.constant))
    return Halfspaces(torch.tensor(rows, dtype=torch.float64), torch.tensor(limits, dtype=torch.float64))


def _exact(constraint: Linear) -> Linear:
    """The same constraint, times a number that makes its coefficients ones that float64 can hold.

    Raises:
        InputError: there is none; the row may not be rounded, because nobody knows how large the outputs are.
    """
    values = constraint.coefficients.values()
    if all(Fraction(float(value)) == value for value in values):
        return constraint
    whole = Linear({}, Fraction(0)).plus(constraint, Fraction(math.lcm(*(value.denominator for value in values))))
    if any(abs(value) >= 2**53 for value in whole.coefficients.values()):
        raise InputError("a constraint on the outputs has coefficients of more digits than float64 can hold")
    return whole


def _below(value: Fraction) -> float:
    nearest = float(value)
    return nearest if Fraction(nearest) <= value else math.nextafter(nearest, -math.inf)


def _above(value: Fraction) -> float:
    return -_below(-value)


def _short(expression: Expression) -> str:
    text = expression if isinstance(expression, str) else "(" + " ".join(map(_short, expression)) + ")"
    return text if len(text) <= 60 else f"{text[:40]} ..."
