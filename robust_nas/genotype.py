"""The architecture of a network as data: one validated, versioned JSON schema.

A network is a stack of cells; normal cells keep the resolution, reduction cells halve it. Within a cell,
input 0 is the output of the cell before last, input 1 that of the last cell, and 2, 3, ... are the nodes in
order. A node adds up operations, each a pair (operation, input); the cell's output concatenates some of the nodes.

Two search spaces describe such cells, each in its own way: `Genotype` and `RobNetGenotype`. What takes either takes an
`Architecture`.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from robust_nas import notations
from robust_nas.files import atomic_path, decoded
from robust_nas.notations import FORMAT, VERSION
from robust_nas.registry import ACTIVATIONS
from robust_nas.spaces.operations import OPERATIONS, Style
from verify.checks.errors import InputError, known_names

CODES = {"00": "none", "01": "sep_conv_3x3", "10": "skip_connect", "11": "res_sep_conv_3x3"}
"""RobNet's codes of an edge, and the operations that they mean."""

Edge = tuple[str, int]
"""An operation's name and the input that it reads."""

_HEADER = ("format", "version", "space")
_OPTIONAL = ("activation", "meta")
_WORDS: dict[type, str] = {int: "a whole number", str: "text", list: "a list", dict: "an object"}

Json = TypeVar("Json")
AnyArchitecture = TypeVar("AnyArchitecture", bound="Architecture")


@dataclass(frozen=True)
class CellPlan:
    """The operations of a cell: what the cells of every space come down to.

    Attributes:
        nodes: the (operation, input) pairs that each node adds up, at least one.
        concat: the nodes that make the cell's output.
        style: of the operations.
    """

    nodes: tuple[tuple[Edge, ...], ...]
    concat: tuple[int, ...]
    style: Style = Style()

    @property
    def edges(self) -> tuple[Edge, ...]:
        """The pairs of all nodes, in order."""
        return tuple(edge for node in self.nodes for edge in node)


class Architecture(ABC):
    """What a genotype file holds, whatever the search space.

    Two architectures are equal when they describe the same network: `meta` (data set, metric, seed, source, ...;
    anything JSON can hold) does not count.

    Attributes:
        space: the search space; the file's field of that name.
        normalised: whether the network reads normalised pixels, or those of [0, 1] as they are.
        nodes: intermediate nodes of a cell.
        activation: of all cells, a key of `ACTIVATIONS`; a file that has no such field means relu.
        meta: where the architecture comes from.
    """

    space: ClassVar[str]
    normalised: ClassVar[bool] = True
    nodes: int
    activation: str
    meta: Mapping[str, Any]

    @property
    def depth(self) -> int | None:
        """The number of cells of the network; None where any number will do."""
        return None

    @abstractmethod
    def plans(self) -> dict[str, CellPlan]:
        """The different cells by name."""

    @abstractmethod
    def plan(self, index: int, reduction: bool) -> CellPlan:
        """The cell at a place of the stack, 0 for the first."""

    @classmethod
    def load(cls: type[AnyArchitecture], path: str | Path, name: str | None = None) -> AnyArchitecture:
        """Read a genotype file, or another in a notation of `robust_nas.notations`.

        Args:
            name: of the genotype in a file that holds several.

        Raises:
            InputError: the file cannot be read, or see `from_text`; one line with file and field.
        """
        try:
            content = Path(path).read_bytes()
        except OSError as error:
            raise InputError(f"{path}: cannot read the genotype: {error.strerror}") from error
        return cls.from_text(decoded(content, str(path)), str(path), name)

    @classmethod
    def from_text(
        cls: type[AnyArchitecture], text: str, source: str = "genotype", name: str | None = None
    ) -> AnyArchitecture:
        """Build an architecture from a text in any notation, see `robust_nas.notations.read`.

        Args:
            source: says in errors where the text came from.
            name: of the genotype in a text that holds several.

        Raises:
            InputError: the text is in no known notation or leaves a choice, or see `from_dict`.
        """
        try:
            data = notations.read(text, name)
        except InputError as error:
            raise InputError(f"{source}: {error}") from error
        return cls.from_dict(data, source)

    @classmethod
    def from_dict(cls: type[AnyArchitecture], data: object, source: str = "genotype") -> AnyArchitecture:
        """Build an architecture from parsed JSON; `source` says in errors where it came from.

        Raises:
            InputError: the data break the schema or are of another space than this class; one line with source and
                field.
        """
        try:
            architecture = _parse(data)
            if not isinstance(architecture, cls):
                raise InputError(f"space: must be {cls.space!r} here, not {architecture.space!r}")
        except InputError as error:
            raise InputError(f"{source}: {error}") from error
        return architecture

    def to_dict(self) -> dict[str, Any]:
        """The architecture as JSON can hold it; `from_dict` is the inverse."""
        header = {"format": FORMAT, "version": VERSION, "space": self.space, "nodes": self.nodes}
        activation = {} if self.activation == "relu" else {"activation": self.activation}
        return {**header, **activation, **self._cells(), "meta": dict(self.meta)}

    @abstractmethod
    def _cells(self) -> dict[str, Any]:
        """The fields of the file that describe the cells."""

    @abstractmethod
    def with_meta(self: AnyArchitecture, meta: Mapping[str, Any]) -> AnyArchitecture:
        """The same network, said to come from elsewhere."""

    def to_json(self) -> str:
        """The text of the genotype file.

        Raises:
            ValueError: `meta` holds what JSON cannot, such as NaN.
        """
        return json.dumps(self.to_dict(), indent=2, allow_nan=False)

    def save(self, path: str | Path) -> None:
        """Write the genotype file, whole or not at all.

        Raises:
            ValueError: see `to_json`.
        """
        text = self.to_json()
        with atomic_path(Path(path)) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")


@dataclass(frozen=True)
class Genotype(Architecture):
    """A normal and a reduction cell whose nodes add up two operations each: the form of DARTS (Liu, Simonyan and Yang,
    ICLR 2019), of NASNet before it and of most that followed.

    Raises:
        InputError: a field breaks the schema; the message names it.
    """

    space = "darts"

    normal: tuple[Edge, ...]
    normal_concat: tuple[int, ...]
    reduce: tuple[Edge, ...]
    reduce_concat: tuple[int, ...]
    nodes: int
    meta: Mapping[str, Any] = field(default_factory=dict, compare=False)
    activation: str = "relu"

    def __post_init__(self) -> None:
        _check_count(self.nodes)
        _check_activation(self.activation)
        for cell in ("normal", "reduce"):
            _check_edges(cell, getattr(self, cell), self.nodes)
            _check_concat(f"{cell}_concat", getattr(self, f"{cell}_concat"), self.nodes)

    def plans(self) -> dict[str, CellPlan]:
        """`normal` and `reduce`."""
        return {
            "normal": CellPlan(_pairs(self.normal), self.normal_concat, Style(activation=self.activation)),
            "reduce": CellPlan(_pairs(self.reduce), self.reduce_concat, Style(activation=self.activation)),
        }

    def plan(self, index: int, reduction: bool) -> CellPlan:
        """The cell of that kind, wherever it stands."""
        return self.plans()["reduce" if reduction else "normal"]

    def with_meta(self, meta: Mapping[str, Any]) -> Genotype:
        return replace(self, meta=meta)

    def _cells(self) -> dict[str, Any]:
        return {
            "normal": [list(edge) for edge in self.normal],
            "normal_concat": list(self.normal_concat),
            "reduce": [list(edge) for edge in self.reduce],
            "reduce_concat": list(self.reduce_concat),
        }


@dataclass(frozen=True)
class RobNetGenotype(Architecture):
    """Cells in which every node reads all states before it (RobNet; Guo et al., CVPR 2020).

    The cell's output concatenates all nodes. Batch norms of the cells have no scale or shift, and the network reads
    raw pixels: both as in the authors' code.

    Attributes:
        cells: a code (see `CODES`) for every edge, by node and then by input; one list that all cells share, or one for
            each cell of the network.

    Raises:
        InputError: a field breaks the schema; the message names it.
    """

    space = "robnet"
    normalised = False

    cells: tuple[tuple[str, ...], ...]
    nodes: int = 4
    meta: Mapping[str, Any] = field(default_factory=dict, compare=False)
    activation: str = "relu"

    def __post_init__(self) -> None:
        _check_count(self.nodes)
        _check_activation(self.activation)
        if not self.cells:
            raise InputError("cells: is empty; list the codes of all cells, or of the one that they share")
        for i, codes in enumerate(self.cells):
            _check_codes(f"cells[{i}]", codes, self.nodes)

    @property
    def depth(self) -> int | None:
        """The number of cells of the network, unless all share one list of codes."""
        return len(self.cells) if len(self.cells) > 1 else None

    def plans(self) -> dict[str, CellPlan]:
        """`cell`, or `cell_01`, `cell_02`, ..."""
        if len(self.cells) == 1:
            return {"cell": self.plan(0, False)}
        return {f"cell_{i + 1:02}": self.plan(i, False) for i in range(len(self.cells))}

    def plan(self, index: int, reduction: bool) -> CellPlan:
        """The cell at this place; one that halves the resolution has the same operations."""
        codes = iter(self.cells[index if len(self.cells) > 1 else 0])
        targets = range(2, 2 + self.nodes)
        nodes = tuple(tuple((CODES[next(codes)], source) for source in range(node)) for node in targets)
        return CellPlan(nodes, tuple(targets), Style(affine=False, activation=self.activation))

    def with_meta(self, meta: Mapping[str, Any]) -> RobNetGenotype:
        return replace(self, meta=meta)

    def _cells(self) -> dict[str, Any]:
        return {"cells": [list(codes) for codes in self.cells]}


SPACES: dict[str, type[Genotype] | type[RobNetGenotype]] = {kind.space: kind for kind in (Genotype, RobNetGenotype)}


def _parse(data: object) -> Genotype | RobNetGenotype:
    """An architecture from JSON: types are checked here, what they say by the constructor."""
    if not isinstance(data, dict):
        raise InputError("must be a JSON object")
    if data.get("format") != FORMAT:
        raise InputError(f"format: must be {FORMAT!r}, not {data.get('format')!r}")
    if _typed("version", data.get("version"), int) != VERSION:
        raise InputError(f"version: this program reads version {VERSION}, not {data.get('version')!r}")
    if "space" not in data:
        raise InputError("space: missing")
    space = _typed("space", data["space"], str)
    if space not in SPACES:
        raise InputError(f"space: unknown search space {space!r}; {known_names(space, SPACES)}")
    names = [attribute.name for attribute in fields(SPACES[space])]
    known = (*_HEADER, *names)
    for name in names:
        if name not in data and name not in _OPTIONAL:
            raise InputError(f"{name}: missing")
    for name in data:
        if name not in known:
            raise InputError(f"{name}: unknown field; {known_names(name, known)}")
    return SPACES[space](**{name: _PARSERS[name](name, data[name]) for name in names if name in data})


def _edges(name: str, value: object) -> tuple[Edge, ...]:
    return tuple(_edge(f"{name}[{i}]", pair) for i, pair in enumerate(_typed(name, value, list)))


def _edge(name: str, value: object) -> Edge:
    pair = _typed(name, value, list)
    if len(pair) != 2:
        raise InputError(f"{name}: must be a pair [operation, input], not {pair!r}")
    return _typed(f"{name}: operation", pair[0], str), _typed(f"{name}: input", pair[1], int)


def _concat(name: str, value: object) -> tuple[int, ...]:
    return tuple(_typed(f"{name}[{i}]", node, int) for i, node in enumerate(_typed(name, value, list)))


def _code_lists(name: str, value: object) -> tuple[tuple[str, ...], ...]:
    return tuple(
        tuple(_typed(f"{name}[{i}][{j}]", code, str) for j, code in enumerate(_typed(f"{name}[{i}]", codes, list)))
        for i, codes in enumerate(_typed(name, value, list))
    )


def _typed(name: str, value: object, kind: type[Json]) -> Json:
    """The value, if it is of that type; true and false, which Python counts as numbers, are not."""
    if not isinstance(value, kind) or isinstance(value, bool):
        raise InputError(f"{name}: must be {_WORDS[kind]}, not {value!r}")
    return value


_PARSERS: dict[str, Callable[[str, object], Any]] = {
    "normal": _edges,
    "normal_concat": _concat,
    "reduce": _edges,
    "reduce_concat": _concat,
    "cells": _code_lists,
    "nodes": lambda name, value: _typed(name, value, int),
    "activation": lambda name, value: _typed(name, value, str),
    "meta": lambda name, value: _typed(name, value, dict),
}


def _pairs(edges: tuple[Edge, ...]) -> tuple[tuple[Edge, ...], ...]:
    return tuple(edges[first : first + 2] for first in range(0, len(edges), 2))


def _check_count(nodes: int) -> None:
    if nodes < 1:
        raise InputError(f"nodes: must be at least 1, not {nodes}")


def _check_activation(activation: str) -> None:
    if activation not in ACTIVATIONS:
        raise InputError(f"activation: unknown activation {activation!r}; {known_names(activation, ACTIVATIONS)}")


def _check_edges(name: str, edges: tuple[Edge, ...], nodes: int) -> None:
    if len(edges) != 2 * nodes:
        raise InputError(f"{name}: {nodes} nodes need {2 * nodes} [operation, input] pairs, not {len(edges)}")
    for i, (operation, source) in enumerate(edges):
        if operation not in OPERATIONS:
            raise InputError(f"{name}[{i}]: unknown operation {operation!r}; {known_names(operation, OPERATIONS)}")
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


def _check_codes(name: str, codes: tuple[str, ...], nodes: int) -> None:
    edges = nodes * (nodes + 3) // 2
    if len(codes) != edges:
        raise InputError(f"{name}: {nodes} nodes have {edges} edges, one code each, not {len(codes)}")
    for i, code in enumerate(codes):
        if code not in CODES:
            raise InputError(f"{name}[{i}]: unknown code {code!r}; {known_names(code, CODES)}")
