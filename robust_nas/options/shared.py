"""Options that several commands have."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import click

from robust_nas.options.option import Option, choice
from robust_nas.options.values import FILE, FOLDER, SEED, NonNegatives, Positive, at_least
from robust_nas.registry import DATASETS, DEVICES, PRESETS
from verify.checks.choices import DOMAINS

if TYPE_CHECKING:
    from robust_nas.genotype import Architecture

    Architectures: TypeAlias = str | Path | Architecture
else:
    Architectures = Any  # the third needs torch

_ARCH = Option(
    "Genotype file in any notation, one of several in it, or a published architecture (`dsrna zoo`).",
    click.STRING,
    metavar="FILE|FILE:NAME|NAME",
)
Arch: TypeAlias = Annotated[Architectures, _ARCH]
Weights: TypeAlias = Annotated[str | Path, Option("Trained weights.", FILE)]
NamedArch: TypeAlias = Annotated[Architectures | None, _ARCH]
NamedWeights: TypeAlias = Annotated[str | Path | None, Option("Trained weights of --arch.", FILE)]
Onnx: TypeAlias = Annotated[
    str | Path | None, Option("In place of --arch and --weights: an ONNX file, of pixels in [0,1].", FILE)
]
Model: TypeAlias = Annotated[
    str | None,
    Option(
        "In place of both, too: a function that returns a torch module, of images in [0,1].",
        click.STRING,
        metavar="MODULE:FUNCTION",
    ),
]
Dataset: TypeAlias = Annotated[
    str,
    Option(
        "Images. digits needs no files; imagefolder is 224 x 224 pixels, imagefolder64 64 x 64.",
        choice(DATASETS),
    ),
]
DataFolder: TypeAlias = Annotated[
    str | Path | None,
    Option(
        "Folder with the data sets; for imagefolder the one that holds train and val. [data]",
        FOLDER,
    ),
]
Download: TypeAlias = Annotated[bool, Option("Fetch the data set into --data if it is missing.")]
Preset: TypeAlias = Annotated[str, Option("Size of networks and schedules.", choice(PRESETS))]
Images: TypeAlias = Annotated[int, Option("How many test images.", at_least(1))]
Domain: TypeAlias = Annotated[
    str, Option("unit: perturbed pixels stay in [0,1]; free: they may leave it.", choice(DOMAINS))
]
Radii: TypeAlias = Annotated[
    Sequence[float],
    Option(
        "Also give the verified accuracy at these radii, in [0,1] pixels, such as 2/255,8/255.",
        NonNegatives(),
        flag="--epsilon",
        metavar="E,E,...",
    ),
]
BatchSize: TypeAlias = Annotated[int | None, Option("Images a step, of all processes. [the preset's]", at_least(2))]
Epochs: TypeAlias = Annotated[int | None, Option("Length of the training. [the preset's]", at_least(1))]
Memory: TypeAlias = Annotated[float, Option("MiB for affine forms; less is looser, never unsound.", Positive())]
Resume: TypeAlias = Annotated[bool, Option("Go on with the run in --out, bit for bit.")]
Tensorboard: TypeAlias = Annotated[
    bool, Option("Write the figures for TensorBoard, too, in OUT/tensorboard.", rare=True)
]
Seed: TypeAlias = Annotated[int, Option("Random seed.", SEED)]
Workers: TypeAlias = Annotated[
    int | None,
    Option(
        "Processes at a time, of one thread each; the results are the same for any number. [one a core, on a GPU 1]",
        at_least(1),
    ),
]
Device: TypeAlias = Annotated[str, Option("Where to compute.", choice(DEVICES))]
Out: TypeAlias = Annotated[str | Path, Option("Folder for the results.", FOLDER)]
