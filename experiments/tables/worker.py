"""What the process of a job does: the job, its result, its exit code."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from experiments.tables.figures import DO
from experiments.tables.jobs import RESULT
from robust_nas.runs import Run, choose_device, device_name, peak_memory
from verify.checks.errors import InputError


def main(task: Mapping[str, Any], threads: int) -> int:
    """Carry out a job with so many threads; the exit code: 0, 2 after one line for people, 130 when stopped."""
    torch.set_num_threads(threads)
    try:
        carry_out(task)
    except KeyboardInterrupt:
        return 130
    except InputError as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return 2
    return 0


def carry_out(task: Mapping[str, Any]) -> None:
    """Do what `task` says: `kind`, `options` of the run, and `about` for the result."""
    options = task["options"]
    out = Path(options["out"])
    figures = DO[task["kind"]](options, (out / "config.json").exists())
    place = choose_device(options["device"])
    result = {
        **task["about"],
        "figures": figures,
        "seconds": sum(figure["seconds"] for figure in figures.values()),
        "memory_mb": peak_memory(place),
        "device": device_name(place),
    }
    Run(out).write_json(RESULT, result)
