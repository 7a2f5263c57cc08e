"""A table of the paper, from nothing to its figures beside ours."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from experiments.tables.cells import cells, gather
from experiments.tables.estimates import Estimates, listing
from experiments.tables.jobs import Job, graph
from experiments.tables.pool import Launcher, alone, carry_out
from experiments.tables.report import report
from experiments.tables.scale import load_scale
from robust_nas.data import DEFAULT_ROOT, load
from robust_nas.registry import named
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


def run_table(
    *,
    table: int,
    scale: str | Path = "smoke",
    protocol: str = "paper",
    targeted: bool = False,
    rows: Sequence[str] = (),
    datasets: Sequence[str] = (),
    seeds: Sequence[int] = (),
    workers: int | None = None,
    dry_run: bool = False,
    data: str | Path | None = None,
    imagefolder: str | Path | None = None,
    download: bool = False,
    device: str = "auto",
    out: str | Path = "runs/tables",
) -> TableResult:
    """Run what a table of DSRNA (CVPR 2021) still needs, and write it.

    Each search, training, attack and certification has a folder of its own in `out`/jobs, which other tables and
    protocols share. Finished ones are not run again, interrupted ones go on. The table lies in
    `out`/tableN-SCALE-PROTOCOL: results.csv, a figure a row, what `report` makes of it, and config.json with the
    options and versions. On a CPU, however often it was stopped and with however many workers, the same figures come
    out, but for measured times. Under torchrun its first process hands the jobs out to as many workers as torchrun
    started processes, and the others return at once.

    Args:
        table: 1 to 6.
        scale: see `load_scale`.
        protocol: "paper" (section 4.2.1), or "equal": one recipe for all rows.
        targeted: certify as CNN-Cert does, against one random class an image, without misclassified images.
        rows: labels of those to run; none for all.
        datasets: those to train and evaluate on; none for all of the table.
        seeds: in place of the scale's.
        workers: processes at a time; None for those of torchrun, else as many as there are GPUs, or without one as the
            cores have room for. Where there are several GPUs, they are given out in turn.
        dry_run: only list the jobs, with what they will take.
        data, download: as `robust_nas.data.load` takes them.
        imagefolder: the folder for image folders; None for `data`.
        device: auto, cpu or cuda.
        out: the folder.

    Raises:
        InputError: an argument is wrong, the data are not there, another run is at work in `out`, or torchrun started
            processes on several machines.
        KeyboardInterrupt: stopped by Ctrl-C or SIGTERM.
    """
    rank, team = _of_torchrun()
    if rank:
        return TableResult("", [], {})
    plan = load_scale(scale)
    if table not in plan.tables:
        raise InputError(f"no table {table} at this scale; known: {', '.join(map(str, plan.tables))}")
    if workers is not None and workers < 1:
        raise InputError(f"workers must be at least 1, not {workers}")
    named("protocol", protocol, plan.protocols)
    wanted = plan.tables[table].only(rows, datasets)
    found = cells(plan, table, wanted, protocol, seeds or plan.seeds, targeted)
    jobs = graph(cell.job for cell in found)
    root = Path(out) / JOBS
    gpus = _gpus(device)
    workers = workers or team or len(gpus) or max(1, _cores() // plan.threads)
    if dry_run:
        return TableResult(listing(jobs, root, workers, Estimates.read()), [], {})
    places = _places([job for job in jobs if not job.done(root)], data, imagefolder)
    for dataset, place in places.items():  # here and not in the jobs, which must not fetch it at the same time
        load(dataset, place, download)
    with alone(root) as lock:
        failed = carry_out(jobs, root, workers, Launcher(root, plan.threads, gpus, device, places, lock))
    block = {"table": table, "scale": plan.name, "protocol": protocol}
    figures = [{**block, **row} for row in gather(found, root)]
    if not figures:
        return TableResult("no figure yet", [], failed)
    results = Run(Path(out) / f"table{table}-{plan.name}-{protocol}{'-targeted' if targeted else ''}")
    options = {
        **block, "targeted": targeted, "rows": list(rows), "datasets": list(datasets), "seeds": list(seeds)
    }  # fmt: skip
    path = results.write_csv(RESULTS, figures)
    text = report(path, table, results.folder)
    results.write_json("config.json", {"command": "table", "options": options, "versions": versions()})
    return TableResult(text, sorted(each for each in results.folder.iterdir() if each.is_file()), failed)


def _places(jobs: Sequence[Job], data: str | Path | None, imagefolder: str | Path | None) -> dict[str, Path]:
    """The folder of each data set that the jobs need."""
    common = Path(DEFAULT_ROOT if data is None else data)
    folders = common if imagefolder is None else Path(imagefolder)
    datasets = sorted({job.options["dataset"] for job in jobs})
    return {dataset: folders if dataset.startswith("imagefolder") else common for dataset in datasets}


def _of_torchrun() -> tuple[int, int]:
    """This process' number among those that torchrun started, and how many they are; 0 and 0 without torchrun."""
    team = os.environ.get("WORLD_SIZE", "0")
    if os.environ.get("LOCAL_WORLD_SIZE", team) != team:
        raise InputError("a table runs on one machine; take torchrun --nnodes 1, and another --out on each machine")
    return int(os.environ.get("RANK", 0)), int(team)


def _cores() -> int:
    """Those that this process may use, where the system tells."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _gpus(device: str) -> list[str]:
    """What CUDA_VISIBLE_DEVICES may be, one GPU each; none where the CPU computes.

    Raises:
        InputError: see `choose_device`.
    """
    if choose_device(device).type != "cuda":
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",") if visible else [str(number) for number in range(torch.cuda.device_count())]
