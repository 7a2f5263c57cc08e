"""The configuration of a scale: one TOML file that says what runs for every table, and how large it is."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from robust_nas.registry import DATASETS, named
from robust_nas.zoo import find
from verify.checks.errors import InputError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SCALES = Path(__file__).parent / "scales"
Options = Mapping[str, Any]
"""Keyword arguments of `run_search`, `run_training`, `run_attack` or `run_certify`."""


@dataclass(frozen=True)
class Row:
    """A row of a table: a search, or a published architecture.

    Attributes:
        label: the method, as the paper calls it.
        search: options of the search, beside those of its scale; None where the architecture is published.
        zoo: name of the published architecture.
    """

    label: str
    search: Options | None = None
    zoo: str | None = None

    @classmethod
    def parse(cls, label: str, options: Options) -> Row:
        """Read `{ zoo = NAME }`, or another architecture that `find` knows, or `{ method = NAME, ... }`."""
        if set(options) == {"zoo"}:
            find(str(options["zoo"]))
            return cls(label, zoo=str(options["zoo"]))
        if "zoo" in options or "method" not in options:
            raise InputError(f"rows: {label!r} needs a method and its options, or zoo alone")
        return cls(label, search=dict(options))


@dataclass(frozen=True)
class Images:
    """The data sets of a table: where architectures are searched, and where they are trained and evaluated."""

    search: str
    train: str


@dataclass(frozen=True)
class TableScale:
    """What a table is made of at a scale.

    Attributes:
        channels: widths, beside that of the scale's networks, at which every row is trained and evaluated too: for a
            comparison at equal accuracy.
    """

    images: tuple[Images, ...]
    rows: tuple[Row, ...]
    channels: tuple[int, ...] = ()

    @classmethod
    def parse(cls, options: Options, rows: Mapping[str, Row]) -> TableScale:
        """Read `images = [{ search, train }, ...]`, `rows = [label, ...]` and, if need be, `channels = [2, ...]`."""
        images = tuple(Images(**each) for each in options["images"])
        chosen = tuple(named("row", label, rows) for label in options["rows"])
        return cls(images, chosen, tuple(options.get("channels", ())))

    def only(self, rows: Sequence[str], datasets: Sequence[str]) -> TableScale:
        """With the rows of these labels and these data sets to train on alone, where any are named.

        Raises:
            InputError: the table has no such row or data set.
        """
        labels = {row.label: row for row in self.rows}
        images = {each.train: each for each in self.images}
        return replace(
            self,
            images=tuple(named("data set of this table", name, images) for name in datasets or images),
            rows=tuple(named("row", label, labels) for label in rows or labels),
        )


@dataclass(frozen=True)
class Protocol:
    """How networks are trained so that they can be compared.

    Attributes:
        recipe: of all rows but the exceptions.
        exceptions: recipes of single rows, by their labels.
        search, train: options in place of the scale's.
    """

    recipe: str
    exceptions: Mapping[str, str] = field(default_factory=dict)
    search: Options = field(default_factory=dict)
    train: Options = field(default_factory=dict)

    def recipe_of(self, row: Row) -> str:
        """The recipe of a row."""
        return self.exceptions.get(row.label, self.recipe)


@dataclass(frozen=True)
class Scale:
    """Everything that one TOML file says.

    Attributes:
        name: of the file, without suffix.
        seeds: of every row; each is shown, none is picked.
        threads: of torch in each process. Part of the scale, because sums in another order round otherwise.
        search, train, attack, certify: options of every job of that kind.
        protocols, tables: by name, by number.
    """

    name: str
    seeds: tuple[int, ...]
    threads: int
    search: Options
    train: Options
    attack: Options
    certify: Options
    protocols: Mapping[str, Protocol]
    tables: Mapping[int, TableScale]

    @classmethod
    def parse(cls, name: str, content: Mapping[str, Any]) -> Scale:
        """Read the content of a file.

        Raises:
            InputError, KeyError, TypeError, ValueError: it is not what a scale holds.
        """
        content = dict(content)
        rows = {label: Row.parse(label, options) for label, options in content.pop("rows").items()}
        tables = {int(number): TableScale.parse(each, rows) for number, each in content.pop("tables").items()}
        protocols = {name: Protocol(**each) for name, each in content.pop("protocols").items()}
        for label in (label for protocol in protocols.values() for label in protocol.exceptions):
            named("row", label, rows)
        scale = cls(name, tuple(content.pop("seeds")), protocols=protocols, tables=tables, **content)
        scale._check()
        return scale

    def _check(self) -> None:
        """What the jobs' names and the pool need; the rest is for the jobs to refuse."""
        if not self.seeds:
            raise InputError("seeds: is empty")
        _check_wholes("seeds", self.seeds, 0)
        _check_wholes("threads", [self.threads], 1)
        for number, table in self.tables.items():
            _check_wholes(f"tables.{number}.channels", table.channels, 1)
            for each in table.images:
                for dataset in (each.search, each.train):
                    named("data set", dataset, DATASETS)
        for kind, option in (("search", "preset"), ("train", "preset"), ("attack", "images"), ("certify", "images")):
            if option not in getattr(self, kind):
                raise InputError(f"{kind}: {option} is missing")


def _check_wholes(name: str, numbers: Sequence[object], least: int) -> None:
    for number in numbers:
        if type(number) is not int or number < least:
            raise InputError(f"{name}: must be whole numbers >= {least}, not {number!r}")


def scales() -> list[str]:
    """The names of the scales that come with the package."""
    return sorted(path.stem for path in SCALES.glob("*.toml"))


def load_scale(scale: str | Path) -> Scale:
    """Read a scale.

    Args:
        scale: one of `scales()`, or a TOML file like theirs.

    Raises:
        InputError: it is neither, or the file does not hold what it should.
    """
    path = SCALES / f"{scale}.toml" if scale in scales() else Path(scale)
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{scale}: no such scale; known: {', '.join(scales())}, or a file like theirs") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{path}: not TOML: {error}") from error
    try:
        return Scale.parse(path.stem, content)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except KeyError as error:
        raise InputError(f"{path}: {error} is missing") from error
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(f"{path}: not what a scale holds: {error}") from error
