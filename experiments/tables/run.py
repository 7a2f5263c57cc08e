"""A table of the paper, from nothing to its figures beside ours."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import joblib
import torch

from experiments.tables.cells import cells, gather
from experiments.tables.estimates import Estimates, listing
from experiments.tables.jobs import Job, graph
from experiments.tables.options import TableOptions
from experiments.tables.pool import Launcher, alone, carry_out
from experiments.tables.report import report
from experiments.tables.scale import load_scale
from robust_nas.data import DEFAULT_ROOT, load
from robust_nas.registry import DATASETS, named
from robust_nas.runs import Run, choose_device, versions
from verify.checks.errors import InputError

RESULTS = "results.csv"
JOBS = "jobs"


@dataclass(frozen=True)
class TableResult:
    """What a table gave.

    Attributes:
        text: the table, or the jobs that it needs, for people.
        paths: of the files with its results; none of a dry run.
        failed: why a job has no result, by its name; the cells that need it are empty.
    """

    text: str
    paths: list[Path]
    failed: Mapping[str, str]


def run_table(options: TableOptions) -> TableResult:
    """Run what a table of DSRNA (CVPR 2021) still needs, and write it.

    Each search, training, attack and certification has a folder of its own in `out`/jobs, which other tables and
    protocols share. Finished ones are not run again, interrupted ones go on. The table lies in
    `out`/tableN-SCALE-PROTOCOL: results.csv, a figure a row, what `report` makes of it, and config.json with the
    options and versions. On a CPU, however often it was stopped and with however many workers, the same figures come
    out, but for measured times. Under torchrun its first process hands the jobs out to as many workers as torchrun
    started processes, and the others return at once.

    Raises:
        InputError: an option is wrong, the data are not there, another run is at work in `out`, or torchrun started
            processes on several machines.
        KeyboardInterrupt: stopped by Ctrl-C or SIGTERM.
    """
    rank, team = _of_torchrun()
    if rank:
        return TableResult("", [], {})
    plan = load_scale(options.scale)
    if options.table not in plan.tables:
        raise InputError(f"no table {options.table} at this scale; known: {', '.join(map(str, plan.tables))}")
    if options.workers is not None and options.workers < 1:
        raise InputError(f"workers must be at least 1, not {options.workers}")
    named("protocol", options.protocol, plan.protocols)
    wanted = plan.tables[options.table].only(options.rows, options.datasets)
    found = cells(plan, options.table, wanted, options.protocol, options.seeds or plan.seeds, options.targeted)
    jobs = graph(cell.job for cell in found)
    root = Path(options.out) / JOBS
    gpus = visible_gpus(options.device)
    workers = options.workers or team or len(gpus) or max(1, usable_cores() // plan.threads)
    if options.dry_run:
        return TableResult(listing(jobs, root, workers, Estimates.read()), [], {})
    places = _places([job for job in jobs if not job.done(root)], options.data, options.imagefolder)
    for dataset, place in places.items():  # here and not in the jobs, which must not fetch it at the same time
        load(dataset, place, options.download)
    with alone(root) as lock:
        failed = carry_out(jobs, root, workers, Launcher(root, plan.threads, gpus, options.device, places, lock))
    block = {"table": options.table, "scale": plan.name, "protocol": options.protocol}
    figures = [{**block, **row} for row in gather(found, root)]
    if not figures:
        return TableResult("no figure yet", [], failed)
    targeted = "-targeted" if options.targeted else ""
    results = Run(Path(options.out) / f"table{options.table}-{plan.name}-{options.protocol}{targeted}")
    asked = {name: getattr(options, name) for name in ("targeted", "rows", "datasets", "seeds")}
    path = results.write_csv(RESULTS, figures)
    text = report(path, options.table, results.folder)
    results.write_json("config.json", {"command": "table", "options": {**block, **asked}, "versions": versions()})
    return TableResult(text, sorted(each for each in results.folder.iterdir() if each.is_file()), failed)


def _places(jobs: Sequence[Job], data: str | Path | None, imagefolder: str | Path | None) -> dict[str, Path]:
    """The folder of each data set that the jobs need."""
    common = Path(DEFAULT_ROOT if data is None else data)
    folders = common if imagefolder is None else Path(imagefolder)
    datasets = sorted({job.options["dataset"] for job in jobs})
    return {dataset: folders if DATASETS[dataset].own_folder else common for dataset in datasets}


def _of_torchrun() -> tuple[int, int]:
    """This process' number among those that torchrun started, and how many they are; 0 and 0 without torchrun."""
    team = os.environ.get("WORLD_SIZE", "0")
    if os.environ.get("LOCAL_WORLD_SIZE", team) != team:
        raise InputError("a table runs on one machine; take torchrun --nnodes 1, and another --out on each machine")
    return int(os.environ.get("RANK", 0)), int(team)


def usable_cores() -> int:
    """Those that this process may use, by its affinity and its control group."""
    return int(joblib.cpu_count())


def visible_gpus(device: str) -> list[str]:
    """What CUDA_VISIBLE_DEVICES may be, one GPU each; none where the CPU computes.

    Raises:
        InputError: see `choose_device`.
    """
    if choose_device(device).type != "cuda":
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",") if visible else [str(number) for number in range(torch.cuda.device_count())]
