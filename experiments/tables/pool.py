"""Jobs spread over processes: one an idle worker, as soon as what it needs is there."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from experiments.tables.jobs import LOG, Job
from robust_nas.runs import notice, progress, stop_signals
from verify.errors import InputError

POLL_SECONDS = 0.05
LOCK_SECONDS = 10.0
"""How long the processes of a run that was killed may take to notice it."""

Launch = Callable[[Job, int], "subprocess.Popen[bytes]"]
"""Starts a job's process on a worker, whose number is given."""


@dataclass(frozen=True)
class Launcher:
    """Starts `experiments.tables.worker`.

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

    def __call__(self, job: Job, worker: int) -> subprocess.Popen[bytes]:
        """Start a job; what it prints goes to the log in its folder."""
        folder = self.root / job.name
        folder.mkdir(parents=True, exist_ok=True)
        place = {"device": self.device, "data": str(self.places[job.options["dataset"]])}
        options = {**job.arguments(self.root), **place}
        about = {"kind": job.kind, "subject": job.subject, "setting": job.setting}
        task = json.dumps({"kind": job.kind, "options": options, "about": about})
        with (folder / LOG).open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "experiments.tables.worker", task],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment(worker),
                pass_fds=[self.lock],
                start_new_session=True,  # Ctrl-C is for the parent, which tells them
            )

    def _environment(self, worker: int) -> dict[str, str]:
        here = str(Path(__file__).parents[2])
        path = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))
        environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": str(self.threads)}
        if self.gpus:
            environment["CUDA_VISIBLE_DEVICES"] = self.gpus[worker % len(self.gpus)]
        return environment


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
        jobs: each after what it needs.
        root: holds their folders.
        workers: how many at a time.

    Returns:
        What went wrong, in one line for each job without a result.

    Raises:
        KeyboardInterrupt: stopped.
    """
    waiting = [job for job in jobs if not job.done(root)]
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
        self.running: dict[int, tuple[Job, subprocess.Popen[bytes]]] = {}
        self.failed: dict[str, str] = {}

    def start(self) -> None:
        """Give each idle worker the first job that has what it needs."""
        while self.idle and (ready := next(filter(self._is_ready, self.waiting), None)):
            self.waiting.remove(ready)
            worker = self.idle.pop(0)
            self.running[worker] = ready, self.launch(ready, worker)

    def collect(self) -> None:
        """Note which processes have ended, and give up the jobs that need what failed."""
        ended = [worker for worker, (_, process) in self.running.items() if process.poll() is not None]
        for worker in ended:
            job, process = self.running.pop(worker)
            self.idle.append(worker)
            if not job.done(self.root):
                self._fail(job, _reason(process.returncode, self.root / job.name / LOG))
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
            process.wait()

    def kill(self) -> None:
        """End those that still run."""
        for _, process in self.running.values():
            process.kill()
            process.wait()

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
