"""The options of `dsrna certify` and `dsrna audit`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from robust_nas.options.option import Option, choice
from robust_nas.options.shared import (
    DataFolder,
    Dataset,
    Device,
    Domain,
    Download,
    Images,
    Memory,
    Model,
    NamedArch,
    Onnx,
    Out,
    Preset,
    Radii,
    Resume,
    Seed,
    Workers,
)
from robust_nas.options.values import FILE, Positive
from verify.checks.choices import NORMS
from verify.propagation.methods import AUTO, METHODS


@dataclass(frozen=True, kw_only=True)
class CertifyOptions:
    """What a certification takes.

    `norm`, `domain`, `method`, `tolerance` and `time_limit` are those of `verify.certified_radius`. `seed` is of the
    attacks, of the target classes, and of the training; `preset` is for that training alone.
    """

    arch: NamedArch = None
    weights: Annotated[
        str | Path | None,
        Option("Trained weights of --arch; without them the network is trained first, into --out.", FILE),
    ] = None
    onnx: Onnx = None
    model: Model = None
    dataset: Dataset = "digits"
    data: DataFolder = None
    download: Download = False
    preset: Preset = "quick"
    norm: Annotated[str, Option("Norm of the perturbation.", choice(NORMS))] = "linf"
    domain: Domain = "unit"
    images: Images = 32
    method: Annotated[
        str,
        Option(
            "Bounds, from cheap to tight; block is the paper's own; auto climbs from affine on as the time limit "
            "allows.",
            choice(METHODS, [AUTO]),
        ),
    ] = "auto"
    tolerance: Annotated[
        float, Option("How near the radius comes to what the bounds can prove.", Positive())
    ] = 0.05
    memory: Memory = 4096.0
    time_limit: Annotated[
        float | None,
        Option("Seconds an image; the best radius proven so far counts. [auto: 10]", Positive()),
    ] = None
    epsilons: Radii = ()
    targeted: Annotated[
        bool, Option("Against one random class an image, as CNN-Cert does, instead of all classes.")
    ] = False
    resume: Resume = False
    workers: Workers = None
    seed: Seed = 0
    device: Device = "auto"
    out: Out = Path("runs/certify")


@dataclass(frozen=True, kw_only=True)
class AuditOptions:
    """What an audit takes: the network that was certified, and its certificates with the config.json of their run."""

    arch: NamedArch = None
    weights: Annotated[str | Path | None, Option("The weights of --arch that were certified.", FILE)] = None
    onnx: Onnx = None
    model: Model = None
    certificates: Annotated[str | Path, Option("The certify.csv to try to break.", FILE)]
    dataset: Dataset = "digits"
    data: DataFolder = None
    download: Download = False
    memory: Annotated[
        float | None,
        Option("MiB for affine forms; with less, proofs may not repeat. [what the certificates had]", Positive()),
    ] = None
    workers: Workers = None
    seed: Seed = 0
    device: Device = "auto"
    out: Out = Path("runs/audit")
