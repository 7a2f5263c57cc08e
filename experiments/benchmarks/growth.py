"""How the time of a certified radius grows with the number of cells and with the size of the image.

    python experiments/benchmarks/growth.py --out DIR

DARTS networks of 4 channels with random weights and batch norms that fit uniform random images, one such image, one
thread: seconds of `certified_radius` and of one evaluation at that radius. Writes growth.csv and growth.png, with the
exponents of a power law fitted to each line.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from torch import Tensor

from experiments.benchmarks.networks import DIL, SEP, SKIP
from experiments.common import Script
from robust_nas.files import atomic_path
from robust_nas.genotype import Edge, Genotype
from robust_nas.runs import Run, progress
from robust_nas.spaces.network import Network
from verify import BoundedNetwork, certified_radius, margins

CELLS, SIDES = (1, 2, 4, 8), (8, 16, 24, 32)
CELLS_AT, SIDE_AT = 2, 16
METHODS = ("affine", "crown")
EDGES: tuple[Edge, ...] = ((SEP, 0), (SEP, 1), ("avg_pool_3x3", 0), (DIL, 1), (SEP, 1), (SKIP, 2))


def problem(cells: int, side: int) -> tuple[BoundedNetwork, Tensor, Tensor]:
    """A random network, an image, and the class it is given."""
    torch.manual_seed(0)
    genotype = Genotype(EDGES, (2, 3, 4), EDGES, (2, 3, 4), nodes=3)
    model = Network(genotype, 1, 10, channels=4, cells=cells, mean=(0.5,), std=(0.3,))
    images = torch.rand(64, 1, side, side)
    for _ in range(50):  # running statistics
        model(images)
    model.eval()
    image = images[:1]
    return BoundedNetwork(model, image), image, model(image).argmax(1)


def measure(cells: int, side: int, method: str) -> dict[str, Any]:
    """A row of growth.csv."""
    network, image, label = problem(cells, side)
    found = certified_radius(network, image, label, "linf", "unit", method)
    begin = time.perf_counter()
    with torch.no_grad():
        network.bounds(image, found.radius.float(), specification=margins(label, 10), method=method)
    return {
        "cells": cells,
        "side": side,
        "method": method,
        "radius": found.radius.item(),
        "evaluations": found.evaluations.item(),
        "seconds": found.seconds.item(),
        "seconds_an_evaluation": time.perf_counter() - begin,
    }


def exponent(x: pd.Series, y: pd.Series) -> float:
    """Of the power law that fits best, in logarithms."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def plot(table: pd.DataFrame, path: Path) -> None:
    """Seconds against cells and against the side of the image, on logarithmic axes."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    views = (("cells", "side", SIDE_AT), ("side", "cells", CELLS_AT))
    for axes, (column, fixed, value) in zip(panels, views, strict=True):
        for method in METHODS:
            line = table[(table["method"] == method) & (table[fixed] == value)].sort_values(column)
            power = exponent(line[column], line["seconds"])
            axes.loglog(line[column], line["seconds"], "o-", label=f"{method}: {column} to the {power:.1f}")
            axes.set_xticks(line[column], [str(number) for number in line[column]])
            axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set(xlabel=column, title=f"{fixed} = {value}")
        axes.legend()
    panels[0].set_ylabel("seconds for a certified radius")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)


@click.command(cls=Script)
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder for the results.")
def main(out: Path) -> None:
    """Measure, write, plot."""
    torch.set_num_threads(1)
    sizes = [(cells, SIDE_AT) for cells in CELLS] + [(CELLS_AT, side) for side in SIDES if side != SIDE_AT]
    rows = []
    with progress("growth", len(sizes) * len(METHODS)) as step:
        for cells, side in sizes:
            for method in METHODS:
                rows.append(measure(cells, side, method))
                step(f"{cells} cells, {side}x{side}, {method}: {rows[-1]['seconds']:.1f} s")
    table = pd.DataFrame(rows)
    Run(out).write_text("growth.csv", table.to_csv(index=False))
    plot(table, out / "growth.png")


if __name__ == "__main__":
    main()
