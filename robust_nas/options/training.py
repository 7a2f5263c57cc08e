"""The options of `dsrna train`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from robust_nas.options.option import Option, choice
from robust_nas.options.search import NORMS
from robust_nas.options.shared import (
    Arch,
    BatchSize,
    DataFolder,
    Dataset,
    Device,
    Download,
    Epochs,
    Out,
    Preset,
    Resume,
    Seed,
    Tensorboard,
)
from robust_nas.options.values import Positive, at_least
from robust_nas.registry import RECIPES, TRAINING_BOUNDS


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """What a training takes. An architecture that has a number of cells keeps it, whatever the preset."""

    arch: Arch
    dataset: Dataset = "digits"
    data: DataFolder = None
    download: Download = False
    preset: Preset = "quick"
    recipe: Annotated[
        str,
        Option(
            "Cross-entropy; with Jacobian regularisation; on PGD's images; on the worst logits that bounds allow, or "
            "that tangents do (l2).",
            choice(RECIPES),
        ),
    ] = "standard"
    norm: Annotated[
        str | None,
        Option("Norm of the perturbations that robust recipes train against. [linf; tangent: l2]", choice(NORMS)),
    ] = None
    epsilon: Annotated[
        float | None, Option("Their size, in [0,1] pixels, such as 8/255. [by data set and norm]", Positive())
    ] = None
    bound: Annotated[
        str | None, Option("Bound that certified begins with. [ibp]", choice(TRAINING_BOUNDS))
    ] = None
    epochs: Epochs = None
    batch_size: BatchSize = None
    channels: Annotated[
        int | None, Option("Channels of a node in the first cells. [the preset's]", at_least(1))
    ] = None
    resume: Resume = False
    tensorboard: Tensorboard = False
    seed: Seed = 0
    device: Device = "auto"
    out: Out = Path("runs/train")
