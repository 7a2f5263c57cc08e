"""VNN-LIB out: properties as the verification competition writes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from typing import TypeAlias

import numpy as np

from verify.checks import inputs as checks
from verify.checks.errors import InputError
from verify.complete.property import Halfspaces, Property
from verify.regions import Ball, Region

Naming: TypeAlias = Callable[[int], str]
"""Of a tensor's elements, by their place in the flattened tensor."""


def vnnlib_text(wanted: Property, comment: str = "", version: int = 1) -> str:
    """A property as VNN-LIB, which `parse_vnnlib` reads back to the last bit.

    Args:
        wanted: its regions are boxes or l-infinity balls.
        comment: at the top of the text.
        version: 1 for VNN-LIB 1.0; 2 for 2.0, which also declares shapes, the regions' "1 *shape" for the input and
            "1 k" for the output, and the type `real`, which is what proofs are about.

    Raises:
        InputError: a region is not a box, or another version.
    """
    version = checks.whole("version", version, 1)
    if version > 2:
        raise InputError(f"version must be 1 or 2, not {version}")
    lines = [f"; {line}" for line in comment.splitlines()]
    body = _version_1 if version == 1 else _version_2
    return "\n".join([*lines, *body(wanted)]) + "\n"


def _version_1(wanted: Property) -> Iterator[str]:
    """In the form that the competition's own reader takes: a disjunction of conjunctions."""
    yield from (f"(declare-const X_{number} Real)" for number in range(wanted.inputs))
    yield from (f"(declare-const Y_{number} Real)" for number in range(wanted.outputs))
    common, conjunctions = _asserted(wanted, "X_{}".format, "Y_{}".format)
    yield from (f"(assert {atom})" for atom in common)
    yield "(assert (or"
    yield from (f"    (and {' '.join(atoms)})" for atoms in conjunctions)
    yield "))"


def _version_2(wanted: Property) -> Iterator[str]:
    shapes = {"X": tuple(wanted.cases[0].region.centre.shape), "Y": (1, wanted.outputs)}
    yield from ("(vnnlib-version <2.0>)", "(declare-network N")
    for kind, (name, shape) in zip(("input", "output"), shapes.items(), strict=True):
        yield f"    (declare-{kind} {name} real {_bracketed(shape)})"
    yield ")"

    def named(name: str) -> Naming:
        return lambda number: name + _bracketed([int(place) for place in np.unravel_index(number, shapes[name])])

    common, conjunctions = _asserted(wanted, named("X"), named("Y"))
    yield from (f"(assert {atom})" for atom in common)
    yield f"(assert {_joined('or', [_joined('and', atoms) for atoms in conjunctions])})"


def _asserted(wanted: Property, x: Naming, y: Naming) -> tuple[list[str], list[list[str]]]:
    """The constraints that hold in all cases, and those of each conjunction."""
    boxes = [list(_box_atoms(case.region, x)) for case in wanted.cases]
    alone = len(wanted.cases) == 1
    conjunctions = [
        [*([] if alone else box), *_output_atoms(part, y)]
        for case, box in zip(wanted.cases, boxes, strict=True)
        for part in case.unsafe
    ]
    return boxes[0] if alone else [], conjunctions


def _joined(word: str, parts: Sequence[str]) -> str:
    return f"({word} {' '.join(parts)})" if len(parts) > 1 else parts[0]


def _bracketed(sizes: Sequence[int]) -> str:
    return f"[{','.join(map(str, sizes))}]"


def _box_atoms(region: Region, x: Naming) -> Iterator[str]:
    if isinstance(region, Ball) and region.norm != "linf":
        raise InputError(f"VNN-LIB has boxes only, and no {region.norm} ball")
    for number, (low, high) in enumerate(
        zip(region.lower.flatten().tolist(), region.upper.flatten().tolist(), strict=True)
    ):
        yield f"(>= {x(number)} {_decimal(low)})"
        yield f"(<= {x(number)} {_decimal(high)})"


def _output_atoms(part: Halfspaces, y: Naming) -> Iterator[str]:
    for row, limit in zip(part.rows.tolist(), part.limits.tolist(), strict=True):
        terms = {y(number): value for number, value in enumerate(row) if value}
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
    """The float64 itself, to the last digit: no reader may have to guess which of two neighbours is meant.

    With a point, which makes it a real number in version 2.
    """
    text = f"{Decimal(value + 0.0):f}" if value else "0.0"
    return text if "." in text else f"{text}.0"
