"""A training step on a CPU, alone and beside other jobs: what threads that spin cost, and what ours do.

    python experiments/benchmarks/training_step.py --out experiments/results/training_step.json

Steps of a network of PC-DARTS' cells on random images, each kind in a process of its own. "Beside" is beside one job of
one thread a core, which does nothing but work. Threads: as many as cores, which spin while they wait, as is OpenMP's
custom; as many, which sleep; and those that `dsrna` takes, which sleep and are as many as cores are free.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import click
import joblib
import torch
from rich.console import Console
from rich.table import Table

from experiments.common import Script
from robust_nas.data import Data, Examples
from robust_nas.runs import Run, versions
from robust_nas.threads import NUMBER, WAITING, free_cores
from robust_nas.training.engine import Plan, Training
from robust_nas.training.presets import PRESETS
from robust_nas.zoo import find

SIZES = {"8 cells, 16 channels, batch 32": (8, 16, 32), "20 cells, 36 channels, batch 16": (20, 36, 16)}
KINDS = ("spinning", "sleeping", "dsrna's")
WARM_UP = 1
"""Steps that are not timed."""
BUSY = "while True: pass"


def steps(cells: int, channels: int, batch: int) -> Iterator[float]:
    """Seconds of each step of a training."""
    torch.manual_seed(0)
    preset = replace(
        PRESETS["paper"]["standard"], cells=cells, channels=channels, batch_size=batch, epochs=1000, held_out=0.0
    )
    examples = Examples(torch.rand(64, 3, 32, 32), torch.arange(64) % 10)
    data = Data("random", examples, examples, 10, (0.5,) * 3, (0.3,) * 3)
    training = Training(Plan(find("PC-DARTS"), preset), data)
    begin = time.perf_counter()
    for _ in training.steps():
        yield time.perf_counter() - begin
        begin = time.perf_counter()


@contextmanager
def busy(jobs: int) -> Iterator[None]:
    """Within the block so many jobs of one thread work."""
    processes = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(jobs)]
    try:
        time.sleep(1.0)  # until they do
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def measure(size: str, kind: str, jobs: int, cores: int, count: int, limit: float) -> dict[str, Any]:
    """The median of so many steps, or of those that are done in the limit, in seconds; None where none is."""
    with busy(jobs):
        number = free_cores() if kind == "dsrna's" else cores
        found = {**os.environ, NUMBER: str(number), WAITING: "active" if kind == "spinning" else "passive"}
        command = [sys.executable, __file__, "--steps", size, "--count", str(WARM_UP + count)]
        try:
            printed = subprocess.run(command, env=found, stdout=subprocess.PIPE, check=True, timeout=limit).stdout
        except subprocess.TimeoutExpired as late:
            printed = late.stdout or b""
    timed = [json.loads(line) for line in printed.splitlines()][WARM_UP:]
    return {"threads": number, "steps": len(timed), "seconds": statistics.median(timed) if timed else None}


def ratio(beside: float | None, alone: float | None) -> float | None:
    """How many times as long a step takes beside other jobs; None where not one was done."""
    return beside / alone if beside and alone else None


def show(results: dict[str, Any]) -> Table:
    """A table of all sizes."""
    table = Table("network", "threads", "alone, s", "beside, s", "beside / alone")
    for size, kinds in results.items():
        for kind, row in kinds.items():
            figures = (row["alone"]["seconds"], row["beside"]["seconds"], row["ratio"])
            table.add_row(size, kind, *("none done" if each is None else f"{each:.2f}" for each in figures))
    return table


@click.command(cls=Script)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="JSON file.")
@click.option("--count", type=click.IntRange(1), default=8, show_default=True, help="Steps that are timed.")
@click.option("--limit", type=click.FloatRange(1), default=120.0, show_default=True, help="Seconds for all of them.")
@click.option("--steps", "only", type=click.Choice(list(SIZES)), help="Take steps and print their seconds.")
def main(out: Path | None, count: int, limit: float, only: str | None) -> None:
    """Measure, print, write."""
    if only is not None:
        for seconds in islice(steps(*SIZES[only]), count):
            click.echo(json.dumps(seconds))
        return
    if out is None:
        raise click.UsageError("give --out")
    cores = int(joblib.cpu_count())
    report: dict[str, Any] = {"cores": cores, "versions": versions(), "measured": {}}
    for size in SIZES:
        kinds = report["measured"][size] = {}
        for kind in KINDS:
            alone, beside = (measure(size, kind, jobs, cores, count, limit) for jobs in (0, cores))
            kinds[kind] = {"alone": alone, "beside": beside, "ratio": ratio(beside["seconds"], alone["seconds"])}
            Run(out.parent).write_json(out.name, report)
    Console(width=110).print(show(report["measured"]))


if __name__ == "__main__":
    main()
