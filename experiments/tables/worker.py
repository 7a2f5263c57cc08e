"""The process that carries out one job: `python -m experiments.tables.worker TASK`, TASK being JSON."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from threading import Thread
from typing import Any

from experiments.tables.figures import DO
from experiments.tables.jobs import RESULT
from robust_nas.runs import Run, choose_device, device_name, peak_memory
from verify.errors import InputError


def main() -> int:
    """Carry out a job and write its result; the exit code: 0, 2 after one line for people, 130 when stopped."""
    Thread(target=_die_with_parent, daemon=True).start()
    try:
        carry_out(json.loads(sys.argv[1]))
    except KeyboardInterrupt:
        return 130
    except InputError as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return 2
    return 0


def carry_out(task: dict[str, Any]) -> None:
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


def _die_with_parent() -> None:
    """End when the parent has ended, killed or not: nobody else holds the other end of this process' standard input."""
    while os.read(sys.stdin.fileno(), 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
