"""Threads on a CPU: how many, and that they sleep while they wait. Torch reads both from the environment when it is
imported, so nothing here imports it.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

NUMBER = "OMP_NUM_THREADS"
WAITING = "OMP_WAIT_POLICY"
TIMES = Path("/proc/stat")
"""Where Linux counts what each core has done, in ticks of 10 ms."""
IDLE = slice(3, 5)
"""Places of those in which it had nothing to do, or waited for a disk."""
WATCHED_SECONDS = 0.2


def sleep_while_waiting() -> None:
    """Have threads that wait for others sleep. Those that spin, as is OpenMP's custom, keep the others from a core that
    is shared with another job. What is set already stays.
    """
    os.environ.setdefault(WAITING, "passive")


def take(number: int | None = None) -> None:
    """Have torch take so many threads; None for one a core that is free. A number that is set already stays."""
    if NUMBER not in os.environ:
        os.environ[NUMBER] = str(number or free_cores())


def free_cores() -> int:
    """Cores that this process may use and that other jobs leave idle at this moment, at least 1.

    It may use those of its affinity, and as many as its control group has the time of. Elsewhere than on Linux nobody
    knows what is idle, and all of them count.
    """
    from joblib import cpu_count  # a tenth of a second

    before = _ticks()
    if not before:
        return int(cpu_count())
    time.sleep(WATCHED_SECONDS)
    after = _ticks()
    idle = sum(_idle_share(before[core], after[core]) for core in before if core in after)
    return max(1, min(int(cpu_count()), round(idle)))


def _ticks() -> dict[str, list[int]]:
    """What each core that this process may use has done so far; nothing where the system does not tell."""
    if not TIMES.exists():
        return {}
    mine = {f"cpu{number}" for number in os.sched_getaffinity(0)}
    lines = (line.split() for line in TIMES.read_text().splitlines())
    return {name: [int(ticks) for ticks in counted] for name, *counted in lines if name in mine}


def _idle_share(before: list[int], after: list[int]) -> float:
    """Of the time in between."""
    passed = [late - early for early, late in zip(before, after, strict=True)]
    return sum(passed[IDLE]) / max(1, sum(passed))
