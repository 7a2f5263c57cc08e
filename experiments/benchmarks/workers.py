"""How much of its cores a certification uses: seconds with one process and with one a core, and the same radii.

    python experiments/benchmarks/workers.py --arch GENOTYPE --weights WEIGHTS --out experiments/results/workers.json

Each certification is a `dsrna certify` of its own, start and end included. Efficiency is the time of one process over
the time of N processes, over N.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import joblib
import pandas as pd
from rich.console import Console
from rich.table import Table

from experiments.common import Script
from robust_nas.runs import Run, versions

MEASURED = ["seconds"]
"""Columns of a certify.csv that no two runs share."""


def certify(arch: str, weights: Path, images: int, workers: int, more: tuple[str, ...]) -> tuple[float, pd.DataFrame]:
    """Seconds of a certification and its certificates."""
    with TemporaryDirectory() as out:
        options = ["--arch", arch, "--weights", str(weights), "--images", str(images), "--workers", str(workers)]
        command = [sys.executable, "-m", "cli", "certify", *options, *more, "--device", "cpu", "--out", out]
        begin = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=Path(__file__).parents[2])
        return time.perf_counter() - begin, pd.read_csv(Path(out, "certify.csv")).drop(columns=MEASURED)


@click.command(cls=Script, context_settings={"ignore_unknown_options": True})
@click.option("--arch", required=True, help="As `dsrna certify` takes it.")
@click.option("--weights", type=click.Path(exists=True, path_type=Path), required=True, help="Trained weights.")
@click.option("--images", type=click.IntRange(1), default=64, show_default=True, help="How many.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="JSON file.")
@click.argument("more", nargs=-1, type=click.UNPROCESSED)
def main(arch: str, weights: Path, images: int, out: Path, more: tuple[str, ...]) -> None:
    """Measure, print, write. Whatever else is given goes to `dsrna certify`."""
    counts = sorted({1, int(joblib.cpu_count())})
    weights = weights.resolve()
    found = {workers: certify(arch, weights, images, workers, more) for workers in counts}
    alone, certificates = found[1]
    rows: list[dict[str, Any]] = [
        {
            "workers": workers,
            "seconds": seconds,
            "efficiency": alone / seconds / workers,
            "same": bool(table.equals(certificates)),
        }
        for workers, (seconds, table) in found.items()
    ]
    load = os.getloadavg()[0]
    Run(out.parent).write_json(
        out.name, {"images": images, "options": list(more), "load": load, "versions": versions(), "measured": rows}
    )
    table = Table("processes", "seconds", "efficiency", "same certificates")
    for row in rows:
        table.add_row(str(row["workers"]), f"{row['seconds']:.1f}", f"{row['efficiency']:.2f}", str(row["same"]))
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
