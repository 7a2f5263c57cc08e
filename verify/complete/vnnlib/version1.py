"""VNN-LIB 1.0: inputs X_i and outputs Y_i, one declaration each."""

from __future__ import annotations

import re
from collections.abc import Sequence

from verify.checks.errors import InputError
from verify.complete.vnnlib.expressions import VARIABLE, Expression, Query, short


def query(commands: Sequence[Expression]) -> Query:
    """What the commands of a file declare and assert.

    Raises:
        InputError: a command or a declaration is of another kind, or a variable is missing or declared twice.
    """
    declared: list[str] = []
    asserted: list[Expression] = []
    for command in commands:
        match command:
            case ["declare-const", str(name), str(kind)]:
                declared.append(_declared(name, kind))
            case ["assert", expression]:
                asserted.append(expression)
            case _:
                raise InputError(f"{short(command)} is neither (declare-const NAME Real) nor (assert ...)")
    inputs, outputs = _count(declared, "X"), _count(declared, "Y")
    return Query(inputs, outputs, (inputs,), asserted)


def _declared(name: str, kind: str) -> str:
    if not re.fullmatch(VARIABLE, name):
        raise InputError(f"{short(name)} is neither an input X_i nor an output Y_i")
    if kind != "Real":
        raise InputError(f"{name} is declared {short(kind)}; only Real is known")
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
