"""The options of `dsrna verify` and `dsrna export`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from robust_nas.options.option import Option, choice
from robust_nas.options.shared import Arch, DataFolder, Dataset, Download, Out, Weights, Workers
from robust_nas.options.values import FILE, NonNegatives, Positive, at_least
from verify.checks.choices import DOMAINS

TIME_LIMIT = 60.0
"""Seconds an instance, where nobody says another number."""
IMAGES = 8
"""In an export, likewise."""


@dataclass(frozen=True, kw_only=True)
class VerifyOptions:
    """What a verification takes: a network and a property of it, or a benchmark."""

    onnx: Annotated[str | Path | None, Option("The network.", FILE)] = None
    vnnlib: Annotated[
        str | Path | None,
        Option("What must never happen: VNN-LIB 1.0 or 2, plain or gzip.", FILE, flag="--property"),
    ] = None
    instances: Annotated[
        str | Path | None,
        Option("A benchmark's CSV file: lines NETWORK,PROPERTY,SECONDS; paths are relative to it.", FILE),
    ] = None
    time_limit: Annotated[
        float | None, Option(f"Seconds an instance. [the benchmark's; {TIME_LIMIT:g}]", Positive())
    ] = None
    workers: Workers = None
    resume: Annotated[
        bool, Option("Go on with the benchmark in --out; what is decided is not run again.")
    ] = False
    out: Out = Path("runs/verify")


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What an export takes."""

    arch: Arch
    weights: Weights
    dataset: Dataset = "digits"
    data: DataFolder = None
    download: Download = False
    images: Annotated[int | None, Option(f"How many test images. [{IMAGES}]", at_least(1))] = None
    epsilons: Annotated[
        Sequence[float],
        Option(
            "l-infinity radii of the properties, in [0,1] pixels, such as 2/255,8/255.",
            NonNegatives(),
            flag="--epsilon",
            metavar="E,E,...",
        ),
    ] = ()
    domain: Annotated[
        str | None,
        Option("unit: perturbed pixels stay in [0,1]; free: they may leave it. [unit]", choice(DOMAINS)),
    ] = None
    certificates: Annotated[
        str | Path | None,
        Option(
            "A certify.csv, with the config.json of its run beside it: its images, radii and domain instead of these.",
            FILE,
        ),
    ] = None
    vnnlib: Annotated[str, Option("Version of VNN-LIB.", choice(("1", "2")))] = "1"
    time_limit: Annotated[float, Option("Seconds an instance, for instances.csv.", Positive())] = TIME_LIMIT
    out: Out = Path("runs/export")
