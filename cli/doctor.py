"""The command `dsrna doctor`: what of an installation works, what is missing, and how to get it.

It runs where nothing else of ours can: every import of a package, our own among them, is a question with an answer.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import click

from robust_nas.options.values import FOLDER
from robust_nas.registry import DATASETS

OK, ABSENT, BROKEN = "ok", "absent", "broken"
MARKS = {OK: " ", ABSENT: "-", BROKEN: "!"}
OPTIONAL = {"onnx": "ONNX files need it", "tensorboard": "--tensorboard needs it"}
"""The extras whose packages a user may want, and for what; the others are for developers."""
ROOMS = {
    "verify": ("verify.bounds",),  # `verify` itself imports what is asked for
    **{name: (name,) for name in ("robust_nas.certification", "robust_nas.attacks", "robust_nas.search")},
    "experiments.tables.run": ("experiments.tables.run", "verify.bounds"),
}
"""Modules that import, between them, all that we need."""
SELF_TEST_METHODS = ("ibp", "affine", "alpha-crown")


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        group: which part of it.
        name, state: what was looked at, and `OK`; `ABSENT`, where one can do without; or `BROKEN`.
        value: what was found.
        how: what to do, where something can be done.
    """

    group: str
    name: str
    state: str
    value: str
    how: str = ""


def examine(data: Path) -> Iterator[Finding]:
    """Look at everything, in the order of the report; whatever breaks is a finding."""
    yield Finding("python", "python", OK, f"{platform.python_version()}, {platform.platform()}")
    yield from required_packages()
    yield from beside_pip()
    yield from rooms()
    yield from devices()
    yield from data_sets(data)
    yield from self_tests()


def required_packages() -> Iterator[Finding]:
    """The packages that our own metadata name, and those of the extras that users may want."""
    try:
        from packaging.requirements import Requirement

        wanted = [Requirement(text) for text in importlib.metadata.requires("dsrna") or ()]
    except ModuleNotFoundError as error:
        how = "pip install packaging" if error.name == "packaging" else "pip install -e ."
        yield Finding("packages", str(error.name), BROKEN, "not installed", how)
        return
    for one in wanted:
        needed = one.marker is None or one.marker.evaluate({"extra": ""})
        wanted_for = [use for extra, use in OPTIONAL.items() if one.marker and one.marker.evaluate({"extra": extra})]
        if not needed and not wanted_for:
            continue
        version = _version(one.name)
        if version is None:
            found = (BROKEN, "not installed") if needed else (ABSENT, f"not installed; {wanted_for[0]}")
        elif not one.specifier.contains(version, prereleases=True):
            found = BROKEN, f"{version}, and {one.specifier} is needed"
        else:
            found = OK, version
        how = "" if found[0] == OK else f'pip install "{one.name}{one.specifier}"'
        yield Finding("packages", one.name, *found, how)


def beside_pip() -> Iterator[Finding]:
    """The two packages that our metadata cannot name: setup.cfg says why."""
    lirpa = _version("auto-LiRPA")
    yield Finding("packages", "auto-LiRPA", OK if lirpa else BROKEN, lirpa or "not installed; see verify")
    version, torch_version = _version("torchvision"), _version("torch")
    how = f'pip install torchvision "torch=={torch_version}"'
    if version is None:
        value = "not installed; MNIST, CIFAR-10 and image folders need it"
        yield Finding("packages", "torchvision", ABSENT, value, how)
        return
    error = _error_of(lambda: _import("verify", "torchvision.datasets"))
    yield Finding("packages", "torchvision", BROKEN if error else OK, error or version, how if error else "")


def rooms() -> Iterator[Finding]:
    """Our own packages."""
    for name, modules in ROOMS.items():
        error = _error_of(lambda modules=modules: _import(*modules))  # type: ignore[misc]
        yield Finding("dsrna", name, BROKEN if error else OK, error or "can be imported")


def devices() -> Iterator[Finding]:
    """Processor, threads and GPUs, as torch sees them."""
    try:
        torch = importlib.import_module("torch")
    except Exception as error:  # any: a torch that does not fit the machine may raise anything
        yield Finding("devices", "torch", BROKEN, _first_line(error), "pip install torch")
        return
    count = os.environ.get("OMP_NUM_THREADS")
    said = f"OMP_NUM_THREADS={count}" if count else "OMP_NUM_THREADS not set"
    yield Finding("devices", "cpu", OK, f"{os.cpu_count()} cores, {torch.get_num_threads()} threads ({said})")
    if not torch.cuda.is_available():
        built = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
        yield Finding("devices", "cuda", ABSENT, f"no device; torch {torch.__version__} is built {built}")
        return
    for index in range(torch.cuda.device_count()):
        gib = torch.cuda.get_device_properties(index).total_memory / 2**30
        yield Finding("devices", f"cuda:{index}", OK, f"{torch.cuda.get_device_name(index)}, {gib:.0f} GiB")


def data_sets(root: Path) -> Iterator[Finding]:
    """Whether each data set can be read from `root`. Image folders are not listed: that can take minutes."""
    try:
        load = importlib.import_module("robust_nas.data").load
    except Exception as error:  # any: what is missing is said above
        yield Finding("data", "all", BROKEN, f"dsrna cannot be imported ({_first_line(error)})")
        return
    for name, known in DATASETS.items():
        if known.own_folder:
            there = (root / "train").is_dir()
            value = f"{root.resolve()}/train" if there else f"no folders train/ and val/ in {root.resolve()}"
            how = "" if there else "give the folder that holds both with --data DIR"
            yield Finding("data", name, OK if there else ABSENT, value, how)
            continue
        error = _error_of(lambda name=name: load(name, root))  # type: ignore[misc]
        state = OK if error is None else BROKEN if name == "digits" else ABSENT
        yield Finding("data", name, state, error or "can be read")


def self_tests() -> Iterator[Finding]:
    """A few seconds of certificates and attacks on each device; none may break."""
    try:
        torch = importlib.import_module("torch")
        names = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    except Exception:  # any: said above
        return
    for name in names:
        started = time.monotonic()
        try:
            certificates, wrong = _certify_and_attack(name)
        except Exception as error:  # any: a broken installation may raise anything
            yield Finding("self-test", name, BROKEN, _first_line(error))
            continue
        value = f"{wrong} of {certificates} certificates broken by attacks, {time.monotonic() - started:.1f} s"
        yield Finding("self-test", name, BROKEN if wrong else OK, value)


def _certify_and_attack(device: str) -> tuple[int, int]:
    """How many certificates a small network has, and how many of them do not hold; none at all is an error."""
    import torch
    from torch import nn

    import verify

    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = (nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(3, 2, 1), nn.Flatten())
        model = nn.Sequential(*layers, nn.Linear(64, 10)).eval().to(device)
        images = torch.rand(2, 1, 8, 8).to(device)
    labels = model(images).argmax(1)
    network = verify.BoundedNetwork(model, images[:1])
    count = wrong = 0
    for norm in verify.NORMS:
        attacked = verify.attack_radius(network, images, labels, norm)
        for method in SELF_TEST_METHODS:
            radius = verify.certified_radius(network, images, labels, norm, method=method).radius
            failures = verify.audit(network, images, labels, radius, norm, method=method, starts=4, steps=20).failures
            wrong += int((failures | (radius >= attacked)).sum())
            count += int((radius > 0).sum())
    if not count:
        raise RuntimeError("nothing could be certified")
    return count, wrong


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _import(*names: str) -> None:
    for name in names:
        importlib.import_module(name)


def _error_of(attempt: Callable[[], Any]) -> str | None:
    """What goes wrong, in one line; None where nothing does."""
    try:
        attempt()
    except Exception as error:  # any: a broken installation may raise anything
        return _first_line(error)
    return None


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


@click.command()
@click.option("--data", type=FOLDER, default=Path("data"), show_default=True, help="Folder that holds the data sets.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for a report of a bug.")
def doctor(data: Path, as_json: bool) -> int:
    """Say what of this installation works: versions, devices, threads, data sets, and a self-test of a few seconds.

    The self-test certifies images of a small network by several methods and norms, and attacks the certificates.
    Exit code 1 when something that is needed is missing or does not work.

    \b
    Examples:
      dsrna doctor
      dsrna doctor --data DIR --json
    """
    findings = list(examine(data))
    broken = sum(finding.state == BROKEN for finding in findings)
    if as_json:
        click.echo(json.dumps({"ok": not broken, "findings": [asdict(finding) for finding in findings]}, indent=2))
        return int(broken > 0)
    for group, members in groupby(findings, key=lambda finding: finding.group):
        click.echo(group)
        for finding in members:
            click.echo(f" {MARKS[finding.state]} {finding.name:<26} {finding.value}")
            if finding.how:
                click.echo(f"   {'':<26} -> {finding.how}")
    well = "all that is needed works; - marks what is optional and not there"
    click.echo(f"\n{broken} broken (!)" if broken else f"\n{well}")
    return int(broken > 0)
