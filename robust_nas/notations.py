"""Genotypes as people post them, read: JSON, DARTS' namedtuples and logs that print them, RobNet's codes, ENAS' arcs.

A text may come from anywhere: it is parsed, never evaluated. What comes out is what a genotype file would hold;
`robust_nas.genotype` checks it.
"""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any, NoReturn

from verify.checks.errors import InputError

FORMAT = "dsrna-genotype"
VERSION = 1

ENAS_OPERATIONS = ("sep_conv_3x3", "sep_conv_5x5", "avg_pool_3x3", "max_pool_3x3", "skip_connect")
"""By the number that an arc has for each: the micro search space of ENAS (Pham et al., ICML 2018) in its code."""

FIELDS = ("normal", "normal_concat", "reduce", "reduce_concat")
"""Of DARTS' namedtuple, in order."""

_CALL = re.compile(r"\bGenotype\(")
_LONGEST_RANGE = 100
_MOST_NAMED = 20

Found = Mapping[str, ast.expr]
"""Expressions that are genotypes, by their names; those without one are called by the numbers of their lines."""


def read(text: str, name: str | None = None) -> object:
    """What a genotype file would hold of an architecture, unchecked, from a text in any notation.

    | notation | example |
    |---|---|
    | genotype file | `{"format": "dsrna-genotype", ...}` |
    | ENAS | `0 2 0 0 0 4 0 1 ...`: input and operation, twice a node; first the normal, then the reduction cell |
    | DARTS | `Genotype(normal=[('sep_conv_3x3', 1), ...], normal_concat=range(2, 6), reduce=..., reduce_concat=...)` |
    | RobNet | `[['11', '01', ...], ...]`: codes by node and then by input, of one cell or of all |

    The last two may stand in a file of Python, as `NAME = ...`, among statements that are of no interest here; and
    DARTS' in a log, each on one line. In DARTS' the pairs of a node may stand in a list or tuple of their own. ENAS
    joins the nodes that no other reads; we write them into the genotype.

    Args:
        name: which, where there are several: that of a variable, or the number of a line.

    Raises:
        InputError: it is in no known notation, holds several architectures and no name chooses one, or none of that
            name; or an ENAS arc leaves an input of a cell unread, so that the output would hold the input. One line.
    """
    text = text.strip()
    if not text:
        raise InputError("is empty")
    is_json = text.startswith("{")
    is_arc = re.match(r"\d+(\s|$)", text) and "Genotype" not in text  # a log may begin with a year
    if name is not None and (is_json or is_arc):
        raise InputError(f"holds one genotype, which has no name; leave out :{name}")
    if is_json:
        return _json(text)
    data = _enas(text) if is_arc else _fields(_chosen(_found(text), name))
    return {"format": FORMAT, "version": VERSION, **data}


def loose_ends(kind: str, sources: Sequence[int]) -> list[int]:
    """The nodes of a cell that no other reads, from the inputs of all nodes, two a node.

    Raises:
        InputError: an input of the cell is not read either.
    """
    for state in (0, 1):
        if state not in sources:
            raise InputError(f"{kind}: nothing reads input {state}; ENAS would join it to the output, which we cannot")
    return [node for node in range(2, 2 + len(sources) // 2) if node not in sources]


def _json(text: str) -> object:
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InputError(f"not JSON: {error}") from error


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


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
        data[f"{kind}_concat"] = loose_ends(kind, sources)
    return data


def _found(text: str) -> Found:
    """The genotypes in a file of Python, or in a log."""
    try:
        found = _of_python(_parsed(text).body)
    except _NoPython as error:
        found = dict(_of_log(text))
        if not found:
            raise InputError(f"in no notation known (JSON, DARTS, RobNet, ENAS): {error}") from error
    if not found:
        raise InputError("holds no genotype: no Genotype(...), no [['11', ...], ...], no ENAS arc and no JSON object")
    return found


def _chosen(found: Found, name: str | None) -> ast.expr:
    names = ", ".join(list(found)[-_MOST_NAMED:])
    if len(found) > _MOST_NAMED:
        names = f"..., {names}"
    if name is not None:
        if name not in found:
            raise InputError(f"holds no genotype {name}; it has {names}")
        return found[name]
    if len(set(found.values())) > 1:  # two names of one and the same leave no choice
        raise InputError(f"holds several genotypes, {names}; say which, as in FILE:{list(found)[-1]}")
    return next(iter(found.values()))


class _NoPython(Exception):
    """A text is not a program."""


def _parsed(text: str) -> ast.Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the style of a program that nobody runs
            return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise _NoPython(error) from error


def _of_python(body: Sequence[ast.stmt]) -> Found:
    """The genotypes that a program leaves in its variables, and those that it only states."""
    values: dict[str, ast.expr | None] = {}
    for statement in body:
        match statement:
            case ast.Expr(value):
                line = str(statement.lineno)
                values[line] = None if line in values else value  # of two on a line none can be named
            case ast.Assign(targets, value) if all(isinstance(target, ast.Name) for target in targets):
                values.update(dict.fromkeys(_names(statement), _followed(value, values)))
            case ast.AnnAssign(ast.Name(), _, ast.expr() as value):
                values.update(dict.fromkeys(_names(statement), _followed(value, values)))
            case _:  # whatever else gives a variable a value, we do not know that value
                values.update(dict.fromkeys(_names(statement)))
    return {name: value for name, value in values.items() if value is not None and _is_genotype(value)}


def _names(statement: ast.stmt) -> Iterator[str]:
    """The variables that a statement changes; what a function does when it is called is not followed."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield statement.name
        return
    for node in ast.walk(statement):
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            yield node.id
        elif isinstance(node, ast.alias):
            yield node.asname or node.name


def _followed(value: ast.expr, values: Mapping[str, ast.expr | None]) -> ast.expr | None:
    """The value of a variable where the expression is one: DARTS' own file ends in `DARTS = DARTS_V2`."""
    return values.get(value.id) if isinstance(value, ast.Name) else value


def _is_genotype(value: ast.expr) -> bool:
    match value:
        case ast.Call(ast.Name("Genotype") | ast.Attribute(_, "Genotype")):
            return True
        case ast.List([ast.List([ast.Constant(str(code)), *_]), *_]):
            return code.isdecimal()
    return False


def _of_log(text: str) -> Iterator[tuple[str, ast.expr]]:
    """The genotypes that lines hold among other words, as in `07/20 08:55:01 PM genotype = Genotype(...)`."""
    for number, line in enumerate(text.split("\n"), start=1):
        calls = [_balanced(line[match.start() :]) for match in _CALL.finditer(line)]
        try:
            [call] = calls  # of two on a line none can be named
            [statement] = _parsed(call).body
        except (_NoPython, ValueError):
            continue  # none, cut short, or words about genotypes
        if isinstance(statement, ast.Expr) and _is_genotype(statement.value):
            yield str(number), statement.value


def _balanced(text: str) -> str:
    """Up to the bracket that closes the first one; no operation has one in its name."""
    depths = accumulate({"(": 1, ")": -1}.get(letter, 0) for letter in text)
    closing = (place for place, depth in enumerate(depths) if text[place] == ")" and not depth)
    return text[: next(closing, len(text)) + 1]


def _fields(genotype: ast.expr) -> dict[str, Any]:
    return _darts(genotype) if isinstance(genotype, ast.Call) else _robnet(genotype)


def _darts(call: ast.Call) -> dict[str, Any]:
    given = [*zip(FIELDS, call.args, strict=False), *((keyword.arg, keyword.value) for keyword in call.keywords)]
    if len(call.args) > len(FIELDS) or sorted(str(name) for name, _ in given) != sorted(FIELDS):
        raise InputError(f"Genotype takes {', '.join(FIELDS)}, each once and nothing else")
    data = {str(name): _value(str(name), expression) for name, expression in given}
    for name in ("normal", "reduce"):
        data[name] = _pairs(name, data[name])
    pairs = data["normal"] if isinstance(data["normal"], list) else []
    return {"space": "darts", "nodes": len(pairs) // 2, **data}


def _pairs(name: str, value: Any) -> Any:
    """The pairs of all nodes in one list, where each node has a list of its own."""
    if not (isinstance(value, list) and value and all(_is_group(each) for each in value)):
        return value
    for node, group in enumerate(value):
        if len(group) != 2:
            raise InputError(f"{name}[{node}]: a node adds up two operations, not {len(group)}")
    return [pair for group in value for pair in group]


def _is_group(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(pair, list) for pair in value)


def _robnet(expression: ast.expr) -> dict[str, Any]:
    cells = _value("codes", expression)
    codes = len(cells[0])
    # Node 2 + i has 2 + i inputs.
    nodes = next((nodes for nodes in range(1, codes + 1) if sum(range(2, 2 + nodes)) >= codes), 1)
    return {"space": "robnet", "nodes": nodes, "cells": cells}


def _value(name: str, expression: ast.expr) -> Any:
    """A literal as JSON would hold it; `range(2, 6)`, `list(...)` and `tuple(...)` are the lists that they are."""
    match expression:
        case ast.Call(ast.Name("list" | "tuple"), [inner], []):
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
