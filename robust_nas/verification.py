"""Properties of networks in files: one instance, or a benchmark's folder of them."""

from __future__ import annotations

import csv
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import torch
from matplotlib.figure import Figure

from robust_nas.files import atomic_path, digest
from robust_nas.options.verification import TIME_LIMIT, VerifyOptions
from robust_nas.runs import Run, progress
from robust_nas.workers import spread, workers_for
from verify import (
    BoundedNetwork,
    InputError,
    PropertyVerdict,
    competition_answer,
    from_onnx,
    prove_property,
    read_vnnlib,
)

RESULTS, PLOT = "results.csv", "cactus.png"
SOLVED = ("sat", "unsat")


@dataclass(frozen=True)
class Instance:
    """A network, a property of it, and the seconds there are."""

    onnx: Path
    vnnlib: Path
    time_limit: float


@dataclass(frozen=True)
class Result:
    """A row of results.csv: what was asked, the answer (`error` where a file is not understood), and why."""

    onnx: str
    property: str
    time_limit: float
    answer: str
    seconds: float
    lower: float | None
    boxes: int
    note: str


@dataclass(frozen=True)
class VerifyResult:
    """What a verification gave.

    Attributes:
        text: the competition's answer of a single instance; empty for a benchmark.
        paths: the files with results.
        summary: (name, value) pairs for people.
    """

    text: str
    paths: list[Path]
    summary: list[tuple[str, str]]


def run_verify(options: VerifyOptions) -> VerifyResult:
    """Decide a property of a network, or all instances of a benchmark.

    Writes config.json, and answer.txt or, for a benchmark, results.csv as it goes, a file for each counterexample and
    cactus.png. A benchmark goes on where a file of it is not understood; its row says `error`.

    Raises:
        InputError: a file is missing or not what it should be, or there is nothing to resume.
    """
    onnx, vnnlib, instances = options.onnx, options.vnnlib, options.instances
    if (instances is None) == (onnx is None or vnnlib is None) or instances and (onnx or vnnlib):
        raise InputError("give either --onnx and --property, or --instances")
    if instances is not None:
        return _benchmark(Path(instances), options)
    assert onnx is not None and vnnlib is not None
    if options.resume:
        raise InputError("--resume is for --instances; one instance starts anew")
    instance = Instance(Path(onnx), Path(vnnlib), options.time_limit or TIME_LIMIT)
    found = _decide(instance)
    run = Run.start(options.out, "verify", asdict(instance), torch.device("cpu"))
    path = run.write_text("answer.txt", competition_answer(found))
    bounds = [("proven margin", f"{found.lower:.4g}")] if found.lower > -torch.inf else []
    summary = [("seconds", f"{found.seconds:.2f}"), ("boxes", str(found.boxes)), *bounds]
    return VerifyResult(competition_answer(found), [path], summary)


def read_instances(path: Path, time_limit: float | None = None) -> list[Instance]:
    """The instances of a benchmark; files that are there only as .gz are meant so.

    Raises:
        InputError: the file, a line of it, or a file that it names is not what it should be.
    """
    try:
        rows = list(csv.reader(path.read_text(encoding="utf-8-sig").splitlines()))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: no CSV file: {error}") from error
    found = []
    for number, row in enumerate(rows, 1):
        if not row:
            continue
        if len(row) != 3:
            raise InputError(f"{path}: line {number} is not NETWORK,PROPERTY,SECONDS")
        onnx, vnnlib = (_there(path.parent / part.strip(), f"{path}: line {number}") for part in row[:2])
        found.append(Instance(onnx, vnnlib, time_limit or _seconds(row[2], f"{path}: line {number}")))
    if not found:
        raise InputError(f"{path}: holds no instances")
    return found


def _there(path: Path, where: str) -> Path:
    for candidate in (path, path.with_name(f"{path.name}.gz")):
        if candidate.is_file():
            return candidate
    raise InputError(f"{where}: {path}: no such file")


def _seconds(text: str, where: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise InputError(f"{where}: {text.strip()!r} is no number of seconds")
    return seconds


def _decide(instance: Instance, network: BoundedNetwork | None = None) -> PropertyVerdict:
    """Within the time limit, reading included."""
    begin = time.perf_counter()
    network = _network(instance.onnx) if network is None else network
    wanted = read_vnnlib(instance.vnnlib)
    left = max(0.0, instance.time_limit - (time.perf_counter() - begin))
    found = prove_property(network, wanted, time_limit=left)
    return replace(found, seconds=time.perf_counter() - begin)


def _network(path: Path) -> BoundedNetwork:
    model = from_onnx(path)
    return BoundedNetwork(model, model.example)


def _benchmark(path: Path, options: VerifyOptions) -> VerifyResult:
    wanted, resume = read_instances(path, options.time_limit), options.resume
    record = {"instances": path, "instances_sha256": digest(path), "time_limit": options.time_limit}
    cpu = torch.device("cpu")
    run = Run.resume(options.out, record) if resume else Run.start(options.out, "verify", record, cpu, (RESULTS, PLOT))
    results = _read_results(run.folder / RESULTS) if resume else []
    log = run.csv(RESULTS, len(results))
    left = wanted[len(results) :]
    found = spread(partial(_row, networks={}), left, workers_for(cpu, options.workers, len(left)))
    with progress("verify", len(wanted), len(results)) as step:
        for number, (result, text) in enumerate(found, len(results)):
            if result.answer == "sat":
                run.write_text(f"counterexample_{number}.txt", text)
            log.append(asdict(result))
            results.append(result)
            step(f"{result.answer}, {result.seconds:.1f} s")
    _plot(results, run.folder / PLOT)
    return VerifyResult("", [log.path, run.folder / PLOT], _summary(results))


def _row(instance: Instance, networks: dict[Path, BoundedNetwork]) -> tuple[Result, str]:
    """The result of an instance and its answer; `networks` keeps the last network that this process has read."""
    begin = time.perf_counter()
    asked = str(instance.onnx), str(instance.vnnlib), instance.time_limit
    try:
        if instance.onnx not in networks:
            networks.clear()
            networks[instance.onnx] = _network(instance.onnx)
        found = _decide(instance, networks[instance.onnx])
    except InputError as error:
        line = " ".join(str(error).split())
        return Result(*asked, "error", time.perf_counter() - begin, None, 0, line), ""
    text = competition_answer(found)
    lower = None if found.lower == -torch.inf else found.lower
    answer, seconds = text.splitlines()[0], time.perf_counter() - begin
    return Result(*asked, answer, seconds, lower, found.boxes, ""), text


def _read_results(path: Path) -> list[Result]:
    if not path.exists():
        return []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [
                Result(
                    row["onnx"], row["property"], float(row["time_limit"]), row["answer"], float(row["seconds"]),
                    float(row["lower"]) if row["lower"] else None, int(row["boxes"]), row["note"],
                )
                for row in csv.DictReader(file)
            ]  # fmt: skip
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise InputError(f"{path}: not what a run wrote ({error}); start again without --resume") from error


def _summary(results: Sequence[Result]) -> list[tuple[str, str]]:
    counts = Counter(result.answer for result in results)
    solved = [result.seconds for result in results if result.answer in SOLVED]
    median = [("median seconds of the solved", f"{statistics.median(solved):.2f}")] if solved else []
    return [("instances", str(len(results))), *((name, str(count)) for name, count in sorted(counts.items())), *median]


def _plot(results: Sequence[Result], path: Path) -> None:
    """How many instances are solved within how many seconds each."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    for answer in SOLVED:
        seconds = sorted(result.seconds for result in results if result.answer == answer)
        axes.step(range(1, len(seconds) + 1), seconds, where="post", marker=".", label=f"{answer} ({len(seconds)})")
    axes.set(xlabel="instances solved", ylabel="seconds an instance", yscale="log")
    axes.legend()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=130)
