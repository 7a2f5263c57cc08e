"""Sizes and schedules for final networks, by name."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TrainingPreset:
    """The size of a final network and how it is trained: SGD with momentum, learning rate to 0 on a cosine.

    Attributes:
        cells, channels, stem_stride: of the network.
        epochs, batch_size: length of the training and images a step.
        learning_rate: at the start.
        momentum, weight_decay: of SGD.
        clip: largest l2 norm of the gradient.
        drop_path: drop-path probability at the end; it rises linearly from 0, as in DARTS.
        held_out: fraction of the training images kept aside to follow the accuracy on.
    """

    cells: int
    channels: int
    stem_stride: int
    epochs: int
    batch_size: int
    learning_rate: float
    momentum: float
    weight_decay: float
    clip: float
    drop_path: float
    held_out: float


PRESETS = {
    # digits in about ten seconds on one core, and small enough to certify an image in well under a second.
    "quick": TrainingPreset(
        cells=3,
        channels=4,
        stem_stride=1,
        epochs=15,
        batch_size=64,
        learning_rate=0.1,
        momentum=0.9,
        weight_decay=3e-4,
        clip=5.0,
        drop_path=0.0,
        held_out=0.1,
    ),
    # MNIST or CIFAR-10 in about ten minutes on two cores.
    "small": TrainingPreset(
        cells=5,
        channels=8,
        stem_stride=2,
        epochs=10,
        batch_size=128,
        learning_rate=0.1,
        momentum=0.9,
        weight_decay=3e-4,
        clip=5.0,
        drop_path=0.0,
        held_out=0.1,
    ),
    # DSRNA (CVPR 2021), section 4.2.2. For final networks it states no optimiser, momentum, weight decay or
    # learning-rate schedule: those are DARTS'. It mentions no cutout and no auxiliary head: there are none.
    "paper": TrainingPreset(
        cells=20,
        channels=36,
        stem_stride=1,
        epochs=600,
        batch_size=128,
        learning_rate=0.025,
        momentum=0.9,
        weight_decay=3e-4,
        clip=5.0,
        drop_path=0.3,
        held_out=0.0,
    ),
}
