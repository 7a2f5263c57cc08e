"""The figures of the DSRNA paper's Tables 1-6, and the four of its section 4.3.1 on an early-stopped search."""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import cache
from pathlib import Path

PATH = Path(__file__).with_name("published.csv")
TABLES = range(1, 7)
GPU_DAYS = "Search cost (GPU days)"
COST_RATIO = "Search cost / DARTS (1st)"
REFERENCE = "DARTS (1st)"
"""The row of Table 2 whose search cost is the unit of the others: 1.5 GPU days in the paper."""


@dataclass(frozen=True)
class Figure:
    """One cell of the paper.

    Attributes:
        mean: with the paper's digits; None where the paper gives no number.
        deviation: standard deviation; None where the paper gives none.
        note: the table's marks in words; of a "Search method", the method.
    """

    table: int
    dataset: str
    row: str
    column: str
    mean: Decimal | None
    deviation: Decimal | None
    note: str

    def __str__(self) -> str:
        if self.mean is None:
            return "-"
        return f"{self.mean}" if self.deviation is None else f"{self.mean} ± {self.deviation}"


@cache
def published(table: int) -> tuple[Figure, ...]:
    """A table of the paper, row by row. Table 2's search costs come as ratios to `REFERENCE` too."""
    with PATH.open(newline="", encoding="utf-8") as file:
        figures = [
            Figure(
                int(line["table"]),
                line["dataset"],
                line["row"],
                line["column"],
                _decimal(line["mean"]),
                _decimal(line["deviation"]),
                line["note"],
            )
            for line in csv.DictReader(file)
            if int(line["table"]) == table
        ]
    return tuple(figures + _ratios(figures))


def _ratios(figures: list[Figure]) -> list[Figure]:
    """The GPU days over those of `REFERENCE`."""
    days = [figure for figure in figures if figure.column == GPU_DAYS]
    unit = next((figure.mean for figure in days if figure.row == REFERENCE), None)
    return [
        replace(figure, column=COST_RATIO, mean=(figure.mean / unit).quantize(Decimal("0.01")))
        for figure in days
        if figure.mean is not None and unit is not None
    ]


def _decimal(text: str) -> Decimal | None:
    return Decimal(text) if text else None
