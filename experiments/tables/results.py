"""The results of a table, from the long CSV: a block a scale, protocol and data set, with the paper's figures in it."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import mean, stdev

from experiments.tables.published import COST_RATIO, GPU_DAYS, REFERENCE, TABLES, Figure, published
from experiments.tables.statistics import Comparison, compare
from verify.checks.errors import InputError

COLUMNS = (
    "table", "scale", "protocol", "row", "seed", "dataset", "channels", "column", "domain", "value", "images",
    "seconds", "device",
)  # fmt: skip
"""Of the long CSV: `channels` of networks of another width than the scale's, `domain` of certified radii (see
`verify.Ball`), accuracies in percent, radii in pixels from 0 to 1, `images` that the value is a mean of (0 or nothing
where it is none), `seconds` of the device that it took."""
CLEAN = ("Without attack", "Test accuracy")
"""Accuracy on the images that are attacked, and on all test images."""
COST = "Search cost (s)"
_SIZE = "Params (M)"
_WORDS = "Search method"
_OURS_LAST = (_SIZE, COST, COST_RATIO)


@dataclass(frozen=True)
class Line:
    """One line of the long CSV: the value of one method, seed and column."""

    table: int
    scale: str
    protocol: str
    row: str
    seed: int
    dataset: str
    channels: int | None
    column: str
    domain: str
    value: float
    images: int | None
    seconds: float | None
    device: str


@dataclass(frozen=True)
class Cell:
    """All seeds of one method and column, and what the paper has there."""

    lines: tuple[Line, ...]
    paper: Figure | None

    @property
    def by_seed(self) -> dict[int, float]:
        """The values."""
        return {line.seed: line.value for line in self.lines}

    @property
    def mean(self) -> float | None:
        """Over the seeds; None where there is no value."""
        return mean(line.value for line in self.lines) if self.lines else None

    @property
    def deviation(self) -> float | None:
        """The sample standard deviation over the seeds; None with fewer than two."""
        return stdev(line.value for line in self.lines) if len(self.lines) > 1 else None

    @property
    def images(self) -> set[int]:
        """How many images a value is a mean of."""
        return {line.images for line in self.lines if line.images is not None}


@dataclass(frozen=True)
class Block:
    """One table at one scale, protocol and data set.

    Attributes:
        paper_dataset: the paper's figures are those on it: the same data set, or where the paper has nothing on that,
            the first of the paper's table.
        lines: of networks of the scale's own width.
        widths: of the others.
    """

    table: int
    scale: str
    protocol: str
    dataset: str
    paper_dataset: str
    lines: tuple[Line, ...]
    widths: tuple[Line, ...] = ()

    @cached_property
    def rows(self) -> list[str]:
        """The paper's methods in its order, then ours beyond them."""
        return _in_order((figure.row for figure in self._figures), (line.row for line in self.lines))

    @cached_property
    def columns(self) -> list[str]:
        """Clean accuracy first, then the paper's columns in its order and ours beyond them, sizes and costs last."""
        known = _in_order((figure.column for figure in self._figures), (line.column for line in self.lines))
        clean = [name for name in CLEAN if name in known] or [CLEAN[0]]
        middle = [name for name in known if name not in (*clean, GPU_DAYS, _WORDS, *_OURS_LAST)]
        return [*clean, *middle, *(name for name in _OURS_LAST if name in known)]

    @cached_property
    def cells(self) -> Mapping[tuple[str, str], Cell]:
        """By row and column, every one."""
        paper = {(figure.row, figure.column): figure for figure in self._figures}
        ours: dict[tuple[str, str], list[Line]] = {}
        for line in sorted(self.lines, key=lambda line: line.seed):
            ours.setdefault((line.row, line.column), []).append(line)
        places = [(row, column) for row in self.rows for column in self.columns]
        return {place: Cell(tuple(ours.get(place, ())), paper.get(place)) for place in places}

    @property
    def devices(self) -> list[str]:
        """What the values were computed on."""
        return sorted({line.device for line in self.lines})

    @property
    def domains(self) -> list[str]:
        """Of the certified radii, see `verify.Ball`."""
        return sorted({line.domain for line in (*self.lines, *self.widths) if line.domain})

    def seconds(self, row: str) -> float | None:
        """Device time of all of a method's values; None where the CSV has none."""
        found = [line.seconds for line in self.lines if line.row == row and line.seconds is not None]
        return math.fsum(found) if found else None

    def over_widths(self, row: str, column: str) -> list[tuple[float, float]]:
        """Clean accuracy and robustness of a method's networks of every width, means over the seeds that have both.

        By accuracy; nothing where there is only one width.
        """
        by_width: dict[int | None, dict[str, dict[int, float]]] = {}
        for line in (*self.lines, *self.widths):
            if line.row == row and line.column in (self.columns[0], column):
                by_width.setdefault(line.channels, {}).setdefault(line.column, {})[line.seed] = line.value
        points = []
        for found in by_width.values():
            accuracy, robustness = (found.get(name, {}) for name in (self.columns[0], column))
            if seeds := set(accuracy) & set(robustness):
                points.append((mean(accuracy[seed] for seed in seeds), mean(robustness[seed] for seed in seeds)))
        return sorted(points) if len(points) > 1 else []

    def comparisons(self) -> dict[tuple[str, str, str], Comparison]:
        """By method of the paper, baseline and column: all of "the method is better" that can be looked at."""
        ours = [row for row in self.rows if row.startswith("DSRNA")]
        baselines = [row for row in self.rows if row not in ours]
        columns = [column for column in self.columns if column in (*CLEAN, COST_RATIO) or is_robustness(column)]
        found = {}
        for key in ((a, b, column) for a in ours for b in baselines for column in columns):
            first, second, column = key
            compared = compare(self.cells[first, column].by_seed, self.cells[second, column].by_seed)
            if compared is not None:
                found[key] = compared
        return found

    @cached_property
    def _figures(self) -> list[Figure]:
        return [figure for figure in published(self.table) if figure.dataset == self.paper_dataset]


def is_robustness(column: str) -> bool:
    """Whether the column holds accuracies under an attack, or certified radii."""
    return column.startswith(("PGD", "FGSM", "C&W", "AutoAttack", "Certified"))


def number(column: str, value: float) -> str:
    """A mean of a column as people read it: percent to .01, seconds to .1, ratios to .01, others to three digits."""
    return f"{value:.{decimals(column, value)}f}"


def decimals(column: str, value: float) -> int:
    """Digits after the point for a mean of the column, and for its deviation."""
    if column == COST:
        return 1
    if column != _SIZE and not column.startswith("Certified"):
        return 2
    return max(0, 2 - math.floor(math.log10(abs(value)))) if value else 2


def blocks(results: Path, table: int) -> list[Block]:
    """The blocks of one table, in the order in which the CSV first names them.

    Raises:
        InputError: the table is none of 1 to 6, the CSV cannot be read, or it holds nothing of the table.
    """
    if table not in TABLES:
        raise InputError(f"table {table}: the paper's tables are 1 to 6")
    lines = [line for line in read(results) if line.table == table]
    if not lines:
        raise InputError(f"{results}: no results of table {table}; run `dsrna table {table}` first")
    found: dict[tuple[str, str, str], list[Line]] = {}
    for line in lines:
        found.setdefault((line.scale, line.protocol, line.dataset), []).append(line)
    return [_block(table, key, group) for key, group in found.items()]


def _block(table: int, key: tuple[str, str, str], lines: Sequence[Line]) -> Block:
    own = [line for line in lines if line.channels is None]
    others = [line for line in lines if line.channels is not None]
    return Block(table, *key, _paper_dataset(table, key[2]), tuple(own + cost_ratios(own)), tuple(others))


def cost_ratios(lines: Sequence[Line]) -> list[Line]:
    """Search costs over that of DARTS, first order, at the same seed and on the same device; nothing where it is not
    there."""
    costs = [line for line in lines if line.column == COST]
    units = {(line.seed, line.device): line.value for line in costs if line.row == REFERENCE}
    # A ratio carries no seconds of its own, so that a search's time is counted once.
    return [
        replace(line, column=COST_RATIO, value=line.value / unit, images=None, seconds=None)
        for line in costs
        if (unit := units.get((line.seed, line.device)))
    ]


def read(path: Path) -> list[Line]:
    """The lines of the long CSV that hold a value.

    Raises:
        InputError: there is no such file, a column is missing, a value is no finite number, or a cell is there twice.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            missing = set(COLUMNS) - set(reader.fieldnames or ())
            if missing:
                raise InputError(f"{path}: no column {sorted(missing)[0]}; is it the results of `dsrna table`?")
            lines = [_line(path, place, row) for place, row in enumerate(reader, 2) if row["value"] != ""]
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; give the results.csv of `dsrna table`") from None
    keys = [
        (line.table, line.scale, line.protocol, line.dataset, line.row, line.channels or "", line.column, line.seed)
        for line in lines
    ]
    if len(set(keys)) < len(keys):
        twice = next(key for place, key in enumerate(keys) if key in keys[:place])
        words = ", ".join(str(part) for part in twice if part != "")
        raise InputError(f"{path}: twice the value of {words}; delete one")
    return lines


def _line(path: Path, place: int, row: Mapping[str, str]) -> Line:
    try:
        line = Line(
            int(row["table"]),
            row["scale"],
            row["protocol"],
            row["row"],
            int(row["seed"]),
            row["dataset"],
            int(row["channels"]) if row["channels"] else None,
            row["column"],
            row["domain"],
            float(row["value"]),
            int(row["images"] or 0) or None,
            float(row["seconds"]) if row["seconds"] else None,
            row["device"],
        )
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}, line {place}: not a line of results ({error}); delete or repair it") from None
    if not math.isfinite(line.value):
        raise InputError(f"{path}, line {place}: the value is {line.value}; leave it empty if there is none")
    return line


def _paper_dataset(table: int, dataset: str) -> str:
    datasets = _in_order((figure.dataset for figure in published(table)), ())
    return dataset if dataset in datasets else datasets[0]


def _in_order(first: Iterable[str], then: Iterable[str]) -> list[str]:
    """Each once."""
    return list(dict.fromkeys([*first, *then]))
