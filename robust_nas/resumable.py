"""Long work that writes a row a step, and can be stopped and resumed bit for bit: what search and training share."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch

from robust_nas import checkpoint
from robust_nas.distributed import Processes
from robust_nas.runs import Row, Run, notice, peak_memory, progress, read_rows, stop_signals
from robust_nas.tensorboard import write, writer

log = logging.getLogger(__name__)


@runtime_checkable
class Work(Protocol):
    """Work in progress.

    Attributes:
        device: where it computes.
        processes: those that share it.
    """

    device: torch.device
    processes: Processes

    @property
    def step(self) -> int:
        """Steps done in the epoch under way; 0 where an epoch has just ended."""

    @property
    def done(self) -> int:
        """Steps that are done."""

    @property
    def length(self) -> int:
        """How many steps there are."""

    def steps(self) -> Iterator[Row]:
        """Go on to the end; yields a row for the log after every step, when the state is one to save."""

    def state_dict(self) -> dict[str, Any]:
        """All that decides how it goes on."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the state of other work of the same plan."""


def begin(
    name: str, work: Work, out: str | Path, options: Mapping[str, Any], results: Sequence[str], resume: bool
) -> Run:
    """The run folder of work that starts, or that goes on.

    Args:
        name: of the command.
        out: the folder.
        options: those of the command.
        results: names of files that the work writes at its end.
        resume: go on with the work in the folder from its newest checkpoint; before the first one, it begins again.

    Raises:
        InputError: there is nothing to resume, its options were others, or no checkpoint is intact.
    """
    return _resume(out, options, work) if resume else _start(name, out, options, work, results)


def _start(name: str, out: str | Path, options: Mapping[str, Any], work: Work, results: Sequence[str]) -> Run:
    if not work.processes.leads:
        return Run(Path(out))
    return Run.start(out, name, options, work.device, (*results, checkpoint.NEWEST, checkpoint.PREVIOUS))


def _resume(out: str | Path, options: Mapping[str, Any], work: Work) -> Run:
    run = Run.resume(out, options)
    found = checkpoint.load(run.folder)
    if found is not None:
        work.load_state_dict(found.state)
    if work.processes.leads:
        if found is not None and found.warning:
            notice(found.warning)
        notice(f"resumed after {work.done} of {work.length} steps")
    return run


def follow(name: str, work: Work, run: Run, note: Callable[[Row], str], tensorboard: bool = False) -> float:
    """Carry work to its end.

    Writes NAME.csv, timing.csv, and a checkpoint after every epoch and when it is stopped by Ctrl-C or SIGTERM.

    Args:
        name: of the work.
        note: a row in a few words, for the progress display.
        tensorboard: write the rows for TensorBoard, too.

    Returns:
        Seconds of all its steps, those of earlier runs included; 0 where another process writes.
    """
    leads = work.processes.leads
    if leads:
        rows, clock = run.csv(f"{name}.csv", work.done), run.csv("timing.csv", work.done)
    with ExitStack() as stack:
        asked = stack.enter_context(stop_signals())
        step = stack.enter_context(progress(name, work.length, work.done, leads))
        figures = stack.enter_context(writer(run.folder, work.done)) if leads and tensorboard else None
        started = time.monotonic()
        for number, row in enumerate(work.steps(), work.done):
            if leads:
                rows.append(row)
                log.debug("%s: %s", name, in_words(row, list(row)))
                if figures is not None:
                    write(figures, name, number, row)
                clock.append(
                    {
                        "epoch": row["epoch"],
                        "step": row["step"],
                        "seconds": time.monotonic() - started,
                        "peak_memory_mb": peak_memory(work.device),
                    }
                )
                step(note(row))
            stop = bool(work.processes.total([float(asked())])[0])
            if leads and (stop or work.step == 0):
                checkpoint.save(run.folder, work.state_dict())
            if stop:
                raise KeyboardInterrupt
            started = time.monotonic()
    return sum(row["seconds"] or 0.0 for row in read_rows(run.folder / "timing.csv")) if leads else 0.0


def in_words(row: Row, names: Sequence[str]) -> str:
    """Figures of a row, those that it has."""
    shown = ((name, row.get(name)) for name in names)
    words = ((name, f"{value:.3g}" if isinstance(value, float) else value) for name, value in shown)
    return "  ".join(f"{name} {value}" for name, value in words if value is not None)
