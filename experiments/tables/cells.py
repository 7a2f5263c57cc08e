"""The cells of a table: which job gives each figure, and the figures of finished jobs as rows of results.csv."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from experiments.tables.jobs import RESULT, Job, chain
from experiments.tables.scale import Scale, TableScale


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        name: as the paper heads it, or nearly.
        job: which of a row's jobs gives it, a key of `jobs.chain`.
        figure: its name among the job's figures; "" where it is the column's.
    """

    name: str
    job: str
    figure: str = ""

    def figure_of(self, result: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """The figure in the result of the job."""
        figure: Mapping[str, Any] | None = result["figures"].get(self.figure or self.name)
        return figure


def _attacks(*names: str) -> tuple[Column, ...]:
    return tuple(Column(name, "attack") for name in ("Without attack", *names, "Signs of masked gradients"))


_ACCURACY = Column("Test accuracy", "train")
_STRONG = ("PGD (100)", "FGSM", "C&W", "AutoAttack (linf)", "AutoAttack (l2)")
TABLES: dict[int, tuple[Column, ...]] = {
    1: (_ACCURACY, *_attacks("PGD (10)", "PGD (20)", *_STRONG)),
    2: (_ACCURACY, Column("Params (M)", "train", "Params (M) on CIFAR-10"), Column("Search cost (s)", "search")),
    3: (_ACCURACY, *_attacks(*_STRONG), Column("Params (M)", "train", "Params (M) on ImageNet")),
    4: (_ACCURACY, *_attacks(*_STRONG)),
    5: (_ACCURACY, Column("Certified linf", "linf")),
    6: (_ACCURACY, Column("Certified l2", "l2")),
}
"""By the number of the paper's table; clean accuracy stands beside every other figure."""


@dataclass(frozen=True)
class Cell:
    """A figure of a table, and the job that gives it.

    Attributes:
        channels: of the network, where it is of another width than the scale's.
    """

    row: str
    seed: int
    dataset: str
    channels: int | None
    column: Column
    job: Job


def cells(
    scale: Scale, number: int, table: TableScale, protocol: str, seeds: Sequence[int], targeted: bool
) -> list[Cell]:
    """All cells of a table, row by row. Rows without a search have no cell for its cost."""
    found = []
    for images, row, seed, channels in product(table.images, table.rows, seeds, (None, *table.channels)):
        jobs = chain(scale, scale.protocols[protocol], row, images, seed, targeted, channels)
        found += [
            Cell(row.label, seed, images.train, channels, column, jobs[column.job])
            for column in TABLES[number]
            if column.job in jobs
        ]
    return found


def gather(found: Sequence[Cell], root: Path) -> list[dict[str, Any]]:
    """The cells whose jobs are done, as rows of results.csv without the columns that say which table it is.

    Accuracies are in percent, radii in [0, 1] pixels within `domain`, seconds those of the job's device; `images` is
    the number of images that a figure is about, 0 where it is about none.
    """
    results: dict[str, Any] = {}
    rows = []
    for cell in found:
        if not cell.job.done(root):
            continue
        if cell.job.name not in results:
            results[cell.job.name] = json.loads((root / cell.job.name / RESULT).read_text(encoding="utf-8"))
        result = results[cell.job.name]
        figure = cell.column.figure_of(result)
        if figure is not None:
            place = {"row": cell.row, "seed": cell.seed, "dataset": cell.dataset, "channels": cell.channels}
            domain = cell.job.options.get("domain", "unit") if cell.job.kind == "certify" else ""
            rows.append(
                {**place, "column": cell.column.name, "domain": domain, **figure, "device": result["device"]}
            )
    return rows
