"""Genotypes in the notations of others, and back: DARTS' namedtuples, RobNet's codes, ENAS' arcs.

What is read may come from anywhere: it is parsed, never evaluated.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from robust_nas.genotype import FORMAT, VERSION, Architecture, Genotype, RobNetGenotype
from robust_nas.zoo import find, is_file
from verify.errors import InputError

ENAS_OPERATIONS = ("sep_conv_3x3", "sep_conv_5x5", "avg_pool_3x3", "max_pool_3x3", "skip_connect")
"""By the number that an arc has for each: the micro search space of ENAS (Pham et al., ICML 2018) in its code."""

_FIELDS = ("normal", "normal_concat", "reduce", "reduce_concat")
_LONGEST_RANGE = 100


def parse(text: str, source: str = "genotype") -> Architecture:
    """The architecture in a text; how it begins tells the notation. The last two may follow a `name =`.

    | notation | example |
    |---|---|
    | genotype file | `{"format": "dsrna-genotype", ...}` |
    | ENAS | `0 2 0 0 0 4 0 1 ...`: input and operation, twice a node; first the normal, then the reduction cell |
    | DARTS | `Genotype(normal=[('sep_conv_3x3', 1), ...], normal_concat=range(2, 6), reduce=..., reduce_concat=...)` |
    | RobNet | `[['11', '01', ...], ...]`: codes by node and then by input, of one cell or of all |

    ENAS joins the nodes that no other reads; we write them into the genotype.

    Args:
        text: of any length, from any source.
        source: says in errors where it came from.

    Raises:
        InputError: it is in no known notation or breaks the schema; or an ENAS arc leaves an input of a cell unread, so
            that the output would hold the input. One line.
    """
    text = text.strip()
    if text.startswith("{"):
        return Architecture.from_json(text, source)
    try:
        data = _enas(text) if text[:1].isdigit() else _python(text)
    except InputError as error:
        raise InputError(f"{source}: {error}") from error
    return Architecture.from_dict({"format": FORMAT, "version": VERSION, **data}, source)


def read(source: str) -> Architecture:
    """The architecture in a file of any notation, or of that name in the zoo, or on the standard input if `-`.

    Raises:
        InputError: there is none, it cannot be read, or see `parse`.
    """
    if source == "-":
        return parse(sys.stdin.read(), "standard input")
    if not is_file(source):
        return find(source)
    try:
        return parse(Path(source).read_text(encoding="utf-8"), source)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{source}: cannot read the genotype: {error}") from error


def to_darts(architecture: Architecture) -> str:
    """A line as in DARTS' genotypes.py: `Genotype(normal=[('sep_conv_3x3', 1), ...], ...)`.

    Raises:
        InputError: the architecture is not of the DARTS space.
    """
    genotype = _of_darts(architecture, "DARTS' notation")
    return f"Genotype({', '.join(f'{name}={list(getattr(genotype, name))!r}' for name in _FIELDS)})"


def to_robnet(architecture: Architecture) -> str:
    """Lists of codes as in RobNet's architecture_code.py: `[['11', '01', ...], ...]`.

    Raises:
        InputError: the architecture is not of RobNet's space.
    """
    if not isinstance(architecture, RobNetGenotype):
        raise InputError(f"RobNet's codes cannot say an architecture of space {architecture.space!r}")
    return repr([list(codes) for codes in architecture.cells])


def to_enas(architecture: Architecture) -> str:
    """A fixed arc of ENAS' micro search space: `0 2 0 0 0 4 0 1 ...`.

    Raises:
        InputError: the architecture is not of the DARTS space, has an operation that ENAS has not, or does not join
            exactly the nodes that no other reads.
    """
    genotype = _of_darts(architecture, "an ENAS arc")
    numbers: list[int] = []
    for kind, edges, concat in (
        ("normal", genotype.normal, genotype.normal_concat),
        ("reduce", genotype.reduce, genotype.reduce_concat),
    ):
        sources = [source for _, source in edges]
        if list(concat) != _loose_ends(kind, sources):
            raise InputError(f"{kind}_concat: ENAS joins just the nodes that no other reads, in order; not so here")
        for i, (operation, source) in enumerate(edges):
            if operation not in ENAS_OPERATIONS:
                raise InputError(f"{kind}[{i}]: ENAS has no {operation}; it has {', '.join(ENAS_OPERATIONS)}")
            numbers += (source, ENAS_OPERATIONS.index(operation))
    return " ".join(map(str, numbers))


NOTATIONS: dict[str, Callable[[Architecture], str]] = {
    "json": lambda architecture: architecture.to_json(),
    "darts": to_darts,
    "robnet": to_robnet,
    "enas": to_enas,
}
"""What writes an architecture, by the notation's name; `parse` reads them all."""


def _of_darts(architecture: Architecture, notation: str) -> Genotype:
    if not isinstance(architecture, Genotype):
        raise InputError(f"{notation} cannot say an architecture of space {architecture.space!r}")
    return architecture


def _enas(text: str) -> dict[str, Any]:
    """The fields of a genotype from an arc."""
    words = text.split()
    if not all(word.isdecimal() and len(word) < 4 for word in words):
        raise InputError("an ENAS arc is small whole numbers with spaces between them")
    if len(words) % 8:
        raise InputError(f"an ENAS arc has 8 numbers a node, 4 for each of two cells; there are {len(words)}")
    numbers, half = list(map(int, words)), len(words) // 2
    data: dict[str, Any] = {"space": "darts", "nodes": half // 4}
    for kind, arc in (("normal", numbers[:half]), ("reduce", numbers[half:])):
        sources, operations = arc[::2], arc[1::2]
        if max(operations) >= len(ENAS_OPERATIONS):
            raise InputError(f"{kind}: ENAS has operations 0 to {len(ENAS_OPERATIONS) - 1}, not {max(operations)}")
        data[kind] = [[ENAS_OPERATIONS[number], source] for number, source in zip(operations, sources, strict=True)]
        data[f"{kind}_concat"] = _loose_ends(kind, sources)
    return data


def _loose_ends(kind: str, sources: list[int]) -> list[int]:
    """The nodes that no other reads; the sources are two a node."""
    for state in (0, 1):
        if state not in sources:
            raise InputError(f"{kind}: nothing reads input {state}; ENAS would join it to the output, which we cannot")
    return [node for node in range(2, 2 + len(sources) // 2) if node not in sources]


def _python(text: str) -> dict[str, Any]:
    """The fields of a genotype from an expression of Python."""
    try:
        body = ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise InputError(f"in no notation known (JSON, DARTS, RobNet, ENAS): {error}") from error
    match body:
        case [ast.Expr(ast.Call(ast.Name("Genotype")) as call) | ast.Assign(_, ast.Call(ast.Name("Genotype")) as call)]:
            return _darts(call)
        case [ast.Expr(ast.List() as cells) | ast.Assign(_, ast.List() as cells)]:
            return _robnet(cells)
    raise InputError("must be one Genotype(...), one [[code, ...], ...], one ENAS arc or JSON, and nothing else")


def _darts(call: ast.Call) -> dict[str, Any]:
    given = [*zip(_FIELDS, call.args, strict=False), *((keyword.arg, keyword.value) for keyword in call.keywords)]
    if len(call.args) > len(_FIELDS) or sorted(str(name) for name, _ in given) != sorted(_FIELDS):
        raise InputError(f"Genotype takes {', '.join(_FIELDS)}, each once and nothing else")
    data = {str(name): _value(str(name), expression) for name, expression in given}
    pairs = data["normal"] if isinstance(data["normal"], list) else []
    return {"space": "darts", "nodes": len(pairs) // 2, **data}


def _robnet(expression: ast.List) -> dict[str, Any]:
    cells = _value("codes", expression)
    codes = len(cells[0]) if cells and isinstance(cells[0], list) else 0
    # Node 2 + i has 2 + i inputs.
    nodes = next((nodes for nodes in range(1, codes + 1) if sum(range(2, 2 + nodes)) >= codes), 1)
    return {"space": "robnet", "nodes": nodes, "cells": cells}


def _value(name: str, expression: ast.expr) -> Any:
    """A literal as JSON would hold it; `range(2, 6)` and `list(...)` of it are taken as the list that they are."""
    match expression:
        case ast.Call(ast.Name("list"), [inner], []):
            return _value(name, inner)
        case ast.Call(ast.Name("range"), [*bounds], []) if 1 <= len(bounds) <= 3:
            return _range(name, [_value(name, bound) for bound in bounds])
    try:
        return _lists(ast.literal_eval(expression))
    except (ValueError, TypeError, RecursionError, MemoryError) as error:
        raise InputError(f"{name}: must be a list of plain values, or a range") from error


def _range(name: str, bounds: Sequence[Any]) -> list[int]:
    try:
        values = range(*bounds)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name}: not a range: {error}") from error
    if values[_LONGEST_RANGE:]:
        raise InputError(f"{name}: a range of more than {_LONGEST_RANGE} nodes")
    return list(values)


def _lists(value: object) -> object:
    return [_lists(part) for part in value] if isinstance(value, (list, tuple)) else value
