"""Work on many items, spread over the cores of a machine."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import joblib
import torch
from joblib.externals.loky.process_executor import TerminatedWorkerError

from robust_nas import verbosity

T = TypeVar("T")
R = TypeVar("R")

PARENT_SECONDS = 0.5
"""How often a process looks whether the one that started it is still there."""


def workers_for(device: torch.device, asked: int | None, items: int) -> int:
    """How many processes there are at a time for so many items: those asked for, else one a core, or one for a GPU."""
    return min(items, asked or (int(joblib.cpu_count()) if device.type == "cpu" else 1))


def spread(function: Callable[[T], R], items: Iterable[T], workers: int) -> Iterator[R]:
    """What a function gives for each item, in the order of the items.

    Every process computes with one thread, this one too where it works alone, so that the results are the same bit for
    bit for any number of processes. Processes end when this one ends, however it does.

    Args:
        function: goes to each process once, pickled.
        items: what to do; they are taken as they are needed.
        workers: processes at a time; with 1 this one does it.

    Raises:
        MemoryError: a process was killed, which is what systems do that run out of memory.
    """
    with _one_thread():
        if workers < 2:
            yield from map(function, items)
            return
        start = {"initializer": _begin, "initargs": (os.getpid(), function, verbosity.are_shown())}
        processes = joblib.Parallel(workers, backend="loky", return_as="generator", batch_size=1, **start)
        try:
            yield from processes(joblib.delayed(_do)(item) for item in items)
        except TerminatedWorkerError as error:
            if "SIGKILL" not in str(error):
                raise
            raise MemoryError("a process was killed; take fewer --workers") from error


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


_function: Callable[[Any], Any]
"""What this process does with an item, where it is one of those that were started for that."""


def _begin(parent: int, function: Callable[[Any], Any], verbose: bool) -> None:
    """The first thing that a process does: Ctrl-C is for the one that started it, whose end is its own."""
    global _function
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    torch.set_num_threads(1)
    if verbose:
        verbosity.show()
    _function = function


def _do(item: Any) -> Any:
    return _function(item)


def _end_with(parent: int) -> None:
    """End when the parent has ended, which gives its children another one."""
    while os.getppid() == parent:
        time.sleep(PARENT_SECONDS)
    os._exit(1)
