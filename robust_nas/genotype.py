"""The architecture of a cell as data: one validated, versioned JSON schema.

A network is a stack of cells; normal cells keep the resolution, reduction cells halve it. Within a cell,
input 0 is the output of the cell before last, input 1 that of the last cell, and 2, 3, ... are the nodes in
order. Every node adds up two operations, each a pair (operation, input); the cell's output concatenates the
nodes of `concat`. The form is that of DARTS (Liu, Simonyan and Yang, ICLR 2019).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from robust_nas.files import atomic_path
from robust_nas.spaces.operations import OPERATIONS
from verify.errors import InputError

FORMAT = "dsrna-genotype"
VERSION = 1
SPACES = ("darts",)

Edge = tuple[str, int]
"""An operation's name and the input that it reads."""

_REQUIRED = ("format", "version", "space", "nodes", "normal", "normal_concat", "reduce", "reduce_concat")
_FIELDS = (*_REQUIRED, "meta")
_WORDS: dict[type, str] = {int: "a whole number", str: "text", list: "a list", dict: "an object"}

Json = TypeVar("Json")


@dataclass(frozen=True)
class Genotype:
    """A normal and a reduction cell.

    Two genotypes are equal when they describe the same architecture: `meta` (data set, metric, seed, ...;
    anything JSON can hold) does not count.

    Raises:
        InputError: a field breaks the schema; the message names it.
    """

    normal: tuple[Edge, ...]
    normal_concat: tuple[int, ...]
    reduce: tuple[Edge, ...]
    reduce_concat: tuple[int, ...]
    nodes: int
    space: str = "darts"
    meta: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        if self.space not in SPACES:
            raise InputError(f"space: unknown search space {self.space!r}; known: {', '.join(SPACES)}")
        if self.nodes < 1:
            raise InputError(f"nodes: must be at least 1, not {self.nodes}")
        for cell in ("normal", "reduce"):
            _check_edges(cell, getattr(self, cell), self.nodes)
            _check_concat(f"{cell}_concat", getattr(self, f"{cell}_concat"), self.nodes)

    @classmethod
    def load(cls, path: str | Path) -> Genotype:
        """Read a genotype file.

        Raises:
            InputError: the file cannot be read, is not JSON, or breaks the schema; one line with file and
                field.
        """
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"), parse_constant=_refuse_constant)
        except OSError as error:
            raise InputError(f"{path}: cannot read the genotype: {error.strerror}") from error
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}: not JSON: {error}") from error
        return cls.from_dict(data, source=str(path))

    @classmethod
    def from_dict(cls, data: object, source: str = "genotype") -> Genotype:
        """Build a genotype from parsed JSON; `source` says in errors where it came from.

        Raises:
            InputError: the data break the schema; one line with source and field.
        """
        try:
            return cls(**_fields(data))
        except InputError as error:
            raise InputError(f"{source}: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """The genotype as JSON can hold it; `from_dict` is the inverse."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "space": self.space,
            "nodes": self.nodes,
            "normal": [list(edge) for edge in self.normal],
            "normal_concat": list(self.normal_concat),
            "reduce": [list(edge) for edge in self.reduce],
            "reduce_concat": list(self.reduce_concat),
            "meta": dict(self.meta),
        }

    def save(self, path: str | Path) -> None:
        """Write the genotype file, whole or not at all.

        Raises:
            ValueError: `meta` holds what JSON cannot, such as NaN.
        """
        text = json.dumps(self.to_dict(), indent=2, allow_nan=False)
        with atomic_path(Path(path)) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")


def _fields(data: object) -> dict[str, Any]:
    """The constructor's arguments, from JSON: types are checked here, what they say by the constructor."""
    if not isinstance(data, dict):
        raise InputError("must be a JSON object")
    if data.get("format") != FORMAT:
        raise InputError(f"format: must be {FORMAT!r}, not {data.get('format')!r}")
    if _typed("version", data.get("version"), int) != VERSION:
        raise InputError(f"version: this program reads version {VERSION}, not {data.get('version')!r}")
    for name in _REQUIRED:
        if name not in data:
            raise InputError(f"{name}: missing")
    for name in data:
        if name not in _FIELDS:
            raise InputError(f"{name}: unknown field; known: {', '.join(_FIELDS)}")
    return {
        "normal": _edges("normal", data["normal"]),
        "normal_concat": _nodes("normal_concat", data["normal_concat"]),
        "reduce": _edges("reduce", data["reduce"]),
        "reduce_concat": _nodes("reduce_concat", data["reduce_concat"]),
        "nodes": _typed("nodes", data["nodes"], int),
        "space": _typed("space", data["space"], str),
        "meta": _typed("meta", data.get("meta", {}), dict),
    }


def _edges(name: str, value: object) -> tuple[Edge, ...]:
    return tuple(_edge(f"{name}[{i}]", pair) for i, pair in enumerate(_typed(name, value, list)))


def _edge(name: str, value: object) -> Edge:
    pair = _typed(name, value, list)
    if len(pair) != 2:
        raise InputError(f"{name}: must be a pair [operation, input], not {pair!r}")
    return _typed(f"{name}: operation", pair[0], str), _typed(f"{name}: input", pair[1], int)


def _nodes(name: str, value: object) -> tuple[int, ...]:
    return tuple(_typed(f"{name}[{i}]", node, int) for i, node in enumerate(_typed(name, value, list)))


def _typed(name: str, value: object, kind: type[Json]) -> Json:
    """The value, if it is of that type; true and false, which Python counts as numbers, are not."""
    if not isinstance(value, kind) or isinstance(value, bool):
        raise InputError(f"{name}: must be {_WORDS[kind]}, not {value!r}")
    return value


def _check_edges(name: str, edges: tuple[Edge, ...], nodes: int) -> None:
    if len(edges) != 2 * nodes:
        raise InputError(f"{name}: {nodes} nodes need {2 * nodes} [operation, input] pairs, not {len(edges)}")
    for i, (operation, source) in enumerate(edges):
        if operation not in OPERATIONS:
            raise InputError(f"{name}[{i}]: unknown operation {operation!r}; known: {', '.join(OPERATIONS)}")
        node = 2 + i // 2
        if not 0 <= source < node:
            raise InputError(f"{name}[{i}]: the input of node {node} must be 0 to {node - 1}, not {source}")


def _check_concat(name: str, concat: tuple[int, ...], nodes: int) -> None:
    if not concat:
        raise InputError(f"{name}: is empty; list the nodes that make the cell's output")
    for i, node in enumerate(concat):
        if not 2 <= node < 2 + nodes:
            raise InputError(f"{name}[{i}]: must be a node, 2 to {nodes + 1}, not {node}")
    if len(set(concat)) != len(concat):
        raise InputError(f"{name}: names a node twice")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")
