"""The options of `dsrna attack`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from robust_nas.options.option import Option, choice
from robust_nas.options.search import NORMS
from robust_nas.options.shared import (
    DataFolder,
    Dataset,
    Device,
    Download,
    Images,
    Model,
    NamedArch,
    NamedWeights,
    Onnx,
    Out,
    Seed,
)
from robust_nas.options.values import FILE, Names, Positive, at_least
from robust_nas.registry import ATTACKS


@dataclass(frozen=True, kw_only=True)
class AttackOptions:
    """What an attack takes. Each of the attacks starts with the seed."""

    arch: NamedArch = None
    weights: NamedWeights = None
    onnx: Onnx = None
    model: Model = None
    dataset: Dataset = "digits"
    data: DataFolder = None
    download: Download = False
    attacks: Annotated[
        Sequence[str] | None,
        Option(
            f"Of {', '.join(ATTACKS)}; pgd is pgd-100. [all that know --norm]",
            Names(),
            flag="--attack",
            metavar="A,A,...",
        ),
    ] = None
    norm: Annotated[
        str | None,
        Option(
            "Norm of the perturbation; cw is an l2 attack. [as in the paper: linf, cw l2, autoattack both]",
            choice(NORMS),
        ),
    ] = None
    epsilon: Annotated[
        float | None,
        Option("Largest perturbation, in [0,1] pixels, such as 8/255. [the paper's for the data set]", Positive()),
    ] = None
    images: Images = 100
    batch_size: Annotated[int, Option("Images attacked at once.", at_least(1))] = 128
    cw_search: Annotated[
        int, Option("Values of c that cw tries, each with 60 iterations; 1 keeps to c = 1.", at_least(1))
    ] = 1
    radius: Annotated[bool, Option("Also find the smallest perturbation of each image, into radii.csv.")] = False
    certificates: Annotated[
        Sequence[str | Path],
        Option(
            "A certify.csv to hold against the attacks, with the config.json of its run beside it; may be repeated.",
            FILE,
            repeated=True,
        ),
    ] = ()
    guards: Annotated[bool, Option("Look for signs of masked gradients.", flag="--guards/--no-guards")] = True
    resume: Annotated[bool, Option("Go on with the run in --out; attacks that are done are not run again.")] = False
    seed: Seed = 0
    device: Device = "auto"
    out: Out = Path("runs/attack")
