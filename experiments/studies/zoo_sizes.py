"""How large the networks of the published architectures are, beside the figures in DSRNA's Table 2.

Where the two differ by more than 3 %, the network is counted again as its authors built it, if that is known: the table
says which explanations are computed, and which are only likely. Run it with `python experiments/studies/zoo_sizes.py`.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robust_nas.genotype import CellPlan, Genotype
from robust_nas.runs import Run
from robust_nas.spaces.size import CELLS, CHANNELS, size_on_cifar10
from robust_nas.zoo import find, names

RESULTS = Path(__file__).parents[1] / "results"
TOLERANCE = 0.03
TABLE_2 = {
    "NASNet-A": 3.3,
    "AmoebaNet-B": 2.8,
    "PNAS": 3.2,
    "ENAS-released": 4.6,
    "ENAS-paper": 4.6,
    "DARTS-V1": 3.3,
    "DARTS-V2": 3.3,
    "SNAS-moderate": 2.8,
    "ASAP": 2.5,
    "DARTS+": 3.7,
    "P-DARTS": 3.4,
    "PC-DARTS": 3.6,
    "RobNet-large": 6.9,
    "RobNet-free": 5.5,
    "SDARTS-RS": 3.4,
    "SDARTS-ADV": 3.3,
}
"""Millions of parameters, for those of Table 2's architectures whose cells are published."""


@dataclass(frozen=True)
class Reason:
    """Why a figure of Table 2 is another than ours.

    Attributes:
        why: in words.
        count: the parameters under this explanation; None where it cannot be computed.
    """

    why: str
    count: Callable[[], int] | None = None


class WithInput0(Genotype):
    """A genotype whose normal cell's output holds input 0 as well."""

    def plans(self) -> dict[str, CellPlan]:
        plans = super().plans()
        return {**plans, "normal": CellPlan(plans["normal"].nodes, (0, *self.normal_concat))}


def nasnet() -> int:
    """NASNet-A (6 @ 768), of 32 channels; DARTS' transcription of the cell leaves input 0 out of the output."""
    cell = find("NASNet-A")
    assert isinstance(cell, Genotype)
    whole = WithInput0(cell.normal, cell.normal_concat, cell.reduce, cell.reduce_concat, cell.nodes)
    return size_on_cifar10(whole, channels=32).parameters


def amoebanet_b() -> int:
    """Each of the two reduction cells has one dilated separable convolution; a second is 5x5, 1x1 and batch norm."""
    again = sum(25 * c + c * c + 2 * c for c in (2 * CHANNELS, 4 * CHANNELS))
    return size_on_cifar10(find("AmoebaNet-B")).parameters + again


def enas(name: str, cells: int) -> int:
    """ENAS puts one more ReLU, 1x1 convolution and batch norm on input 1 of every cell ("layer_base" in its code)."""
    channels = (CHANNELS * 2 ** ((i >= cells // 3) + (i >= 2 * cells // 3)) for i in range(cells))
    return size_on_cifar10(find(name), cells=cells).parameters + sum(c * c + 2 * c for c in channels)


REASONS = {
    "NASNet-A": [
        Reason("NASNet-A (6 @ 768) has 32 channels, and its normal cell's output holds input 0 as well", nasnet)
    ],
    "AmoebaNet-B": [Reason("NAO's code applies the dilated separable convolution twice, we once", amoebanet_b)],
    "PNAS": [
        Reason(
            "9 cells of 48 channels: N = 3, reductions among the 3 N cells, as in the code of its authors",
            lambda: size_on_cifar10(find("PNAS"), cells=9, channels=48).parameters,
        )
    ],
    "ENAS-released": [
        Reason(
            "ENAS' cells have one more 1x1 convolution on input 1; 20 cells as here, though its script says 17",
            lambda: enas("ENAS-released", CELLS),
        ),
        Reason("that, in the 17 cells of ENAS' script", lambda: enas("ENAS-released", 17)),
    ],
    "ENAS-paper": [
        Reason(
            "ENAS' cells have one more 1x1 convolution on input 1; but the figure may be that of the released cell",
            lambda: enas("ENAS-paper", CELLS),
        )
    ],
    "DARTS-V1": [Reason("the figure may be that of another run's cell than the one in DARTS' repository")],
    "SDARTS-RS": [Reason("the figure may be that of another run's cell than the one in SmoothDARTS' repository")],
}


def rows() -> list[dict[str, Any]]:
    """A row for every architecture, and one more for every further explanation."""
    found: list[dict[str, Any]] = []
    for name in names():
        architecture = find(name)
        ours = size_on_cifar10(architecture)
        table = TABLE_2.get(name)
        off = None if table is None else ours.parameters / (1e6 * table) - 1
        for reason in reasons(name, off):
            found.append(
                {
                    "name": name,
                    "cells": architecture.depth or CELLS,
                    "channels": CHANNELS,
                    "parameters": ours.parameters,
                    "multiply_adds": ours.multiply_adds,
                    "table_2_millions": table,
                    "off_percent": None if off is None else round(100 * off, 1),
                    **explained(reason, table),
                }
            )
    return found


def reasons(name: str, off: float | None) -> list[Reason | None]:
    """Why it is off; [None] where it is not."""
    return [*REASONS[name]] if off is not None and abs(off) > TOLERANCE else [None]


def explained(reason: Reason | None, table: float | None) -> dict[str, object]:
    """The columns of an explanation: its status is computed, refuted (by the count under it) or likely."""
    if reason is None or table is None:
        return {"why": None, "why_status": None, "why_parameters": None, "why_off_percent": None}
    if reason.count is None:
        return {"why": reason.why, "why_status": "likely", "why_parameters": None, "why_off_percent": None}
    count = reason.count()
    off = count / (1e6 * table) - 1
    return {
        "why": reason.why,
        "why_status": "computed" if abs(off) <= TOLERANCE else "refuted",
        "why_parameters": count,
        "why_off_percent": round(100 * off, 1),
    }


def main() -> None:
    """Write results/zoo_sizes.csv, and print it in short."""
    table = rows()
    text = io.StringIO()
    writer = csv.DictWriter(text, list(table[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    path = Run(RESULTS).write_text("zoo_sizes.csv", text.getvalue())
    for row in table:
        why = f"{row['why_status']}: {row['why']}" if row["why"] else ""
        millions = f"{row['parameters'] / 1e6:.2f} M"
        print(f"{row['name']:18} {millions}  table 2: {row['table_2_millions'] or '-':>4}  {why}")
    print(path)


if __name__ == "__main__":
    main()
