"""Jobs spread over processes: one an idle worker, as soon as what it needs is there."""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context, parent_process, resource_tracker
from multiprocessing.reduction import DupFd
from pathlib import Path
from threading import Thread
from typing import Any, Protocol

from experiments.tables.jobs import LOG, Job
from robust_nas.runs import notice, progress, stop_signals
from verify.checks.errors import InputError

POLL_SECONDS = 0.05
STOPS = (signal.SIGINT, signal.SIGTERM)
VISIBLE = "CUDA_VISIBLE_DEVICES"
LOCK_SECONDS = 10.0
"""How long the processes of a run that was killed may take to notice it."""
PRELOADED = ("experiments.tables.worker", "torch._dynamo", "sklearn.datasets", "foolbox", "pyautoattack")
"""What jobs import, the last four when they are at work: seconds for each process that would do so by itself."""


class Process(Protocol):
    """What the pool asks of a process, as `multiprocessing.Process` has it."""

    @property
    def exitcode(self) -> int | None:
        """None while it runs; minus the signal that killed it."""

    def terminate(self) -> None:
        """Send SIGTERM."""

    def kill(self) -> None:
        """Send SIGKILL."""

    def join(self) -> None:
        """Wait for its end."""


Launch = Callable[[Job, int], Process]
"""Starts a job's process on a worker, whose number is given."""


@dataclass(frozen=True)
class Launcher:
    """Starts a process for a job, in which `experiments.tables.worker` carries it out.

    On a CPU processes are forks of a server that has imported everything and done nothing else. Where there are GPUs
    each starts from nothing: an import that asks for CUDA in the server would make it useless in the forks.

    Attributes:
        root: holds the jobs' folders.
        threads: of torch in each process.
        gpus: what CUDA_VISIBLE_DEVICES may be, given out round robin; none leaves it as it is.
        device: argument of all jobs.
        places: the folder of every data set.
        lock: a file that the processes keep open while they live.
    """

    root: Path
    threads: int
    gpus: Sequence[str]
    device: str
    places: Mapping[str, Path]
    lock: int

    def __call__(self, job: Job, worker: int) -> Process:
        """Start a job; what it prints goes to the log in its folder."""
        folder = self.root / job.name
        folder.mkdir(parents=True, exist_ok=True)
        place = {"device": self.device, "data": str(self.places[job.options["dataset"]])}
        options = {**job.arguments(self.root), **place}
        about = {"kind": job.kind, "subject": job.subject, "setting": job.setting}
        task = {"kind": job.kind, "options": options, "about": about}
        context = get_context("spawn") if self.gpus else get_context("forkserver")
        context.set_forkserver_preload(list(PRELOADED))
        gpu = self.gpus[worker % len(self.gpus)] if self.gpus else None
        process = context.Process(target=work, args=(task, folder / LOG, self.threads, _Inherited(self.lock)))
        resource_tracker.ensure_running()  # the first start would do it, and let the signals through
        with _signals_blocked(), _visible(gpu):
            process.start()
        return process


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Within the block stops wait, and processes that are started wait for their own: Ctrl-C reaches all of them, also
    before they can deal with it.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _visible(gpu: str | None) -> Iterator[None]:
    """Processes that are started within the block see this GPU alone, those without one what there is.

    CUDA reads the variable when it is first asked for anything, which an import may do: in the process it is too late.
    """
    before = os.environ.get(VISIBLE)
    if gpu is not None:
        os.environ[VISIBLE] = gpu
    try:
        yield
    finally:
        if before is not None:
            os.environ[VISIBLE] = before
        else:
            os.environ.pop(VISIBLE, None)


class _Inherited:
    """A file descriptor that a process gets as an argument."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self) -> tuple[Callable[[Any], int], tuple[Any]]:
        return _number, (DupFd(self.number),)


def _number(duplicate: Any) -> int:
    return int(duplicate.detach())


def work(task: Mapping[str, Any], log: Path, threads: int, lock: int) -> None:
    """What a job's process does, from its start to its exit code; `lock` stays open until then."""
    Thread(target=die_with_parent, daemon=True).start()
    with log.open("wb") as file:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(file.fileno(), stream.fileno())
    os.environ.pop("WORLD_SIZE", None)  # torchrun's, who may have started the parent: a job works alone
    os.setsid()  # Ctrl-C is for the parent, which tells the others
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
    from experiments.tables import worker  # takes seconds, and only these processes need it

    sys.exit(worker.main(task, threads))


def die_with_parent() -> None:
    """End when the parent has ended, killed or not."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


@contextmanager
def alone(root: Path) -> Iterator[int]:
    """Within the block nobody else works in the folder. Processes that inherit the file keep it locked while they live.

    Raises:
        InputError: somebody else does.
    """
    root.mkdir(parents=True, exist_ok=True)
    with (root / ".lock").open("w") as file:
        until = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise InputError(f"{root}: another run is at work here; wait for it, or take --out") from None
                time.sleep(POLL_SECONDS)
        yield file.fileno()


def carry_out(jobs: Sequence[Job], root: Path, workers: int, launch: Launch) -> dict[str, str]:
    """Carry out the jobs that are not done.

    Ctrl-C and SIGTERM stop all of them; those that can save their state do so first, and a second one does not wait.

    Args:
        jobs: whatever they need among them.
        root: holds their folders.
        workers: how many at a time.

    Returns:
        What went wrong, in one line for each job without a result.

    Raises:
        KeyboardInterrupt: stopped.
    """
    # By depth: searches, then trainings, then what is short, so that no worker idles for long at the end.
    waiting = sorted((job for job in jobs if not job.done(root)), key=lambda job: len(job.line))
    with stop_signals() as asked, progress("jobs", len(jobs), len(jobs) - len(waiting)) as step:
        pool = _Pool(waiting, root, workers, launch, step)
        try:
            while pool.waiting or pool.running:
                if asked():
                    pool.stop()
                    raise KeyboardInterrupt
                pool.collect()
                pool.start()
                time.sleep(POLL_SECONDS)
        finally:
            pool.kill()
    return pool.failed


class _Pool:
    """Jobs that wait, jobs that run, by worker, and why jobs failed."""

    def __init__(
        self, waiting: list[Job], root: Path, workers: int, launch: Launch, step: Callable[[str], None]
    ) -> None:
        self.waiting, self.root, self.launch, self.step = waiting, root, launch, step
        self.idle = list(range(workers))
        self.running: dict[int, tuple[Job, Process]] = {}
        self.failed: dict[str, str] = {}

    def start(self) -> None:
        """Give each idle worker the first job that has what it needs."""
        while self.idle and (ready := next(filter(self._is_ready, self.waiting), None)):
            self.waiting.remove(ready)
            worker = self.idle.pop(0)
            self.running[worker] = ready, self.launch(ready, worker)

    def collect(self) -> None:
        """Note which processes have ended, and give up the jobs that need what failed."""
        codes = {worker: process.exitcode for worker, (_, process) in self.running.items()}
        for worker, code in codes.items():
            if code is None:
                continue
            job, _ = self.running.pop(worker)
            self.idle.append(worker)
            if not job.done(self.root):
                self._fail(job, _reason(code, self.root / job.name / LOG))
            self.step(job.name)
        for job in list(self.waiting):
            if job.after is not None and job.after.name in self.failed:
                self.waiting.remove(job)
                self._fail(job, f"not run, because {job.after.name} failed")
                self.step(job.name)

    def stop(self) -> None:
        """Ask all processes to end, and wait for them."""
        for _, process in self.running.values():
            process.terminate()
        for _, process in self.running.values():
            process.join()

    def kill(self) -> None:
        """End those that still run."""
        for _, process in self.running.values():
            process.kill()
            process.join()

    def _is_ready(self, job: Job) -> bool:
        return job.after is None or job.after.done(self.root)

    def _fail(self, job: Job, why: str) -> None:
        self.failed[job.name] = why
        notice(f"failed: {job.name}: {why}")


def _reason(code: int, log: Path) -> str:
    """Why a process ended without a result: a signal, or the last line that it wrote."""
    if code < 0:
        return f"killed by signal {-code}" + (", maybe for want of memory" if code == -9 else "")
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), f"exit code {code}")
