"""Run folders, seeds, devices and progress: what every command needs around its work."""

from __future__ import annotations

import csv
import importlib.metadata
import io
import json
import logging
import os
import platform
import random
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from robust_nas.files import atomic_path
from robust_nas.registry import DEVICES
from verify.checks.errors import InputError, known_names

PACKAGES = ("torch", "numpy", "auto-LiRPA", "dsrna")
_SECONDS_BETWEEN_LINES = 1.0

log = logging.getLogger(__name__)

Row = dict[str, int | float | None]
"""Figures of a step by name, for a log; None where there is none."""


@dataclass(frozen=True)
class Run:
    """A folder with one run's configuration, its CSV of a row a step, and its results.

    An earlier run's files of the same name are overwritten. A stop leaves none half-written.
    """

    folder: Path

    @classmethod
    def start(
        cls,
        out: str | Path,
        command: str,
        options: Mapping[str, object],
        device: torch.device,
        results: Sequence[str] = (),
    ) -> Run:
        """Make the folder and write `config.json`: the command, its options, the machine, the threads and the versions.

        Args:
            results: names of files that an earlier run may have left, and that must not stand beside this
                configuration; they are deleted.

        Raises:
            InputError: `out`, or a folder above it, is a file.
        """
        run = cls(Path(out))
        try:
            run.folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise InputError(f"{out}: a file is in the way; a folder is needed for the results") from None
        config = {
            "command": command,
            "options": dict(options),
            "device": device_name(device),
            "threads": torch.get_num_threads(),
            "versions": versions(),
        }
        run.write_json("config.json", config)
        log.debug("%s in %s, on %s", command, run.folder, config["device"])
        for name in results:
            (run.folder / name).unlink(missing_ok=True)
        return run

    @classmethod
    def resume(cls, out: str | Path, options: Mapping[str, object]) -> Run:
        """The run of an earlier start with the same options. Torch computes with as many threads as it had then: sums
        over another number of them round otherwise.

        Raises:
            InputError: there is none, or its options were others; the message names one.
        """
        run = cls(Path(out))
        try:
            config = json.loads((run.folder / "config.json").read_text(encoding="utf-8"))
            before, threads = dict(config["options"]), int(config.get("threads", torch.get_num_threads()))
        except (OSError, ValueError, TypeError, KeyError):
            raise InputError(f"{out}: no run to resume here; start it without --resume") from None
        now = json.loads(json.dumps(dict(options), default=_as_string))
        for name, then, given in _differences(before, now):
            raise InputError(
                f"{out}: the run was started with {name} {then}, not {given}; "
                "resume it with the same options, or take another --out"
            )
        torch.set_num_threads(threads)
        return run

    def csv(self, name: str, keep: int = 0) -> CsvLog:
        """A CSV file to append rows to, with the first `keep` rows of what was there; it appears with its first row.

        Raises:
            InputError: it does not have so many.
        """
        path = self.folder / name
        if not keep:
            path.unlink(missing_ok=True)
            return CsvLog(path)
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (FileNotFoundError, UnicodeDecodeError):
            lines = []
        if len(lines) <= keep:
            raise InputError(f"{path}: has lost rows of the run; start it again without --resume")
        self.write_text(name, "\n".join(lines[: keep + 1]) + "\n")
        return CsvLog(path, tuple(lines[0].split(",")))

    def write_csv(self, name: str, rows: Sequence[Mapping[str, object]]) -> Path:
        """Write a CSV file of one row or more; the first row's keys are the header."""
        text = io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return self.write_text(name, text.getvalue())

    def write_text(self, name: str, text: str) -> Path:
        """Write a text file."""
        path = self.folder / name
        with atomic_path(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
        return path

    def write_json(self, name: str, value: object) -> Path:
        """Write a JSON file; paths and devices become strings.

        Raises:
            TypeError: `value` holds something else that JSON cannot.
            ValueError: `value` holds NaN or an infinity.
        """
        return self.write_text(name, json.dumps(value, indent=2, allow_nan=False, default=_as_string) + "\n")

    def save_tensors(
        self, name: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
    ) -> Path:
        """Write a safetensors file; tensors are copied, because the format refuses shared memory."""
        path = self.folder / name
        contiguous = torch.contiguous_format
        copies = {
            key: tensor.detach().cpu().clone(memory_format=contiguous) for key, tensor in tensors.items()
        }
        with atomic_path(path) as temporary:
            save_file(copies, temporary, dict(metadata or {}))
        return path


class CsvLog:
    """A CSV file that grows by whole rows; the first row's keys are the header."""

    def __init__(self, path: Path, columns: tuple[str, ...] = ()) -> None:
        self.path = path
        self._columns = columns

    def append(self, row: Mapping[str, object]) -> None:
        """Add a row, and have it on disk when this returns.

        Raises:
            InputError: the keys differ from those of the first row: the file is of something else.
        """
        lines = [] if self._columns else [tuple(row)]
        self._columns = self._columns or tuple(row)
        if set(row) != set(self._columns):
            raise InputError(f"{self.path}: has the columns {self._columns}, not {tuple(row)}; take another --out")
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([*lines, [row[column] for column in self._columns]])
        with self.path.open("ab", buffering=0) as file:  # one write a row: a stop never splits one
            file.write(text.getvalue().encode())


def read_rows(path: Path) -> list[Row]:
    """The rows of a log of numbers.

    Raises:
        InputError: the file holds something else.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = csv.DictReader(file)
            return [{name: float(value) if value else None for name, value in row.items()} for row in rows]
    except (TypeError, ValueError, csv.Error) as error:
        raise InputError(f"{path}: not what a run wrote ({error}); start again without --resume") from error


@contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """Within the block, Ctrl-C and SIGTERM wait for the caller to ask; a second one stops at once.

    Yields:
        A function that says whether one has come. The caller then brings its work to a place where it can be saved,
        and raises KeyboardInterrupt.
    """
    came = False

    def handle(number: int, frame: object) -> None:
        nonlocal came
        if came:
            raise KeyboardInterrupt
        came = True
        notice("stopping after this step; once more to stop at once")

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def notice(text: str) -> None:
    """One line for people, beside the results."""
    print(text, file=sys.stderr, flush=True)


def peak_memory(device: torch.device) -> float:
    """MiB: the most that this process has had on the device so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch (every device), and hold cuDNN to deterministic algorithms."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False


def choose_device(name: str) -> torch.device:
    """The device for `auto`, `cpu` or `cuda`; `auto` takes CUDA where there is one. Holds it to whole float32 numbers.

    Raises:
        InputError: another name, or CUDA asked for and absent.
    """
    if name not in DEVICES:
        raise InputError(f"unknown device {name!r}; {known_names(name, DEVICES)}")
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise InputError("torch finds no CUDA device here; take --device cpu")
    # TF32 keeps ten bits of a float32: attacks, training on bounds and the search need the others.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    return torch.device("cuda" if available and name != "cpu" else "cpu")


def device_name(device: torch.device) -> str:
    """What `device` is, in words: the GPU's name, or the processor's family and its number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


def versions() -> dict[str, str | None]:
    """Versions of Python and of the packages that results depend on; None for one that is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found


@contextmanager
def progress(title: str, total: int, done: int = 0, shown: bool = True) -> Iterator[Callable[[str], None]]:
    """Show `total` steps, of which some are done, on stderr: a bar on a terminal, elsewhere one plain line a second.

    Example:
        with progress("search", epochs) as step:
            for epoch in range(epochs):
                ...
                step(f"loss {loss:.3f}")
    """
    if not shown:
        yield lambda note: None
    elif sys.stderr.isatty():
        with _bar(title, total, done) as step:
            yield step
    else:
        yield _plain_lines(title, total, done)


@contextmanager
def _bar(title: str, total: int, done: int) -> Iterator[Callable[[str], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=total, completed=done, note="")
        yield lambda note: bar.update(task, advance=1, note=note)


def _plain_lines(title: str, total: int, done: int) -> Callable[[str], None]:
    printed_at = -float("inf")

    def step(note: str) -> None:
        nonlocal done, printed_at
        done += 1
        now = time.monotonic()
        if done == total or now - printed_at >= _SECONDS_BETWEEN_LINES:
            print(f"{title} {done}/{total}  {note}".rstrip(), file=sys.stderr, flush=True)
            printed_at = now

    return step


def _differences(before: Mapping[str, object], now: Mapping[str, object]) -> Iterator[tuple[str, object, object]]:
    """Options that differ, within options of options too, and their two values; one that is missing is None."""
    for name in {**before, **now}:
        first, second = before.get(name), now.get(name)
        if isinstance(first, Mapping) and isinstance(second, Mapping):
            yield from ((f"{name}.{inner}", then, given) for inner, then, given in _differences(first, second))
        elif first != second:
            yield name, first, second


def _as_string(value: object) -> str:
    if isinstance(value, os.PathLike | torch.device):
        return str(value)
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")
