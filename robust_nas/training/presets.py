"""Sizes and schedules for final networks, by preset and recipe."""

from __future__ import annotations

from dataclasses import dataclass, replace

LARGE = 64
"""Images wider than this many pixels have ImageNet's stem, and at paper scale its schedule."""


@dataclass(frozen=True)
class TrainingPreset:
    """The size of a final network and how it is trained.

    The learning rate rises linearly over the first epochs (`warm_up`), then falls to 0 on a cosine.

    Attributes:
        cells, channels, stem_stride: of the network; images wider than `LARGE` have ImageNet's stem instead.
        epochs, batch_size: length of the training and images a step, of all processes.
        optimiser: "sgd", with momentum, or "adam".
        learning_rate: its largest value.
        warm_up: epochs that it takes to get there.
        momentum, weight_decay: of the optimiser (Adam has its usual betas).
        decay_norms: whether scales and shifts (batch norm, biases) decay too.
        clip: largest l2 norm of the gradient.
        drop_path: drop-path probability at the end; it rises linearly from 0, as in DARTS.
        cutout: side in pixels of the square that is blanked in each training image; 0 for none.
        auxiliary: weight of the auxiliary head's loss; 0 for no head.
        held_out: fraction of the training images kept aside to follow the accuracy on.
        ramp: recipes with bounds: the epochs, as fractions of the training, in which epsilon grows from 0 to its value.
    """

    cells: int
    channels: int
    stem_stride: int
    epochs: int
    batch_size: int
    learning_rate: float
    optimiser: str = "sgd"
    warm_up: int = 0
    momentum: float = 0.9
    weight_decay: float = 3e-4
    decay_norms: bool = True
    clip: float = 5.0
    drop_path: float = 0.0
    cutout: int = 0
    auxiliary: float = 0.0
    held_out: float = 0.1
    ramp: tuple[float, float] = (0.05, 0.5)


# digits in about ten seconds on one core, and small enough to certify an image in well under a second.
_QUICK = TrainingPreset(cells=3, channels=4, stem_stride=1, epochs=15, batch_size=64, learning_rate=0.1)

# MNIST or CIFAR-10 on two cores: minutes with the standard recipe, an hour or so with the others.
_SMALL = TrainingPreset(cells=3, channels=8, stem_stride=2, epochs=5, batch_size=128, learning_rate=0.1)

# DSRNA (CVPR 2021), section 4.2.2. What it leaves open for final networks is DARTS': the optimiser, momentum, weight
# decay, cosine, cutout of 16 pixels and an auxiliary head of weight .4. Held out is nothing, as there.
_PAPER = TrainingPreset(
    cells=20,
    channels=36,
    stem_stride=1,
    epochs=600,
    batch_size=128,
    learning_rate=0.025,
    drop_path=0.3,
    cutout=16,
    auxiliary=0.4,
    held_out=0.0,
)

# The same section, for ImageNet. The batch is that of PC-DARTS, whose learning rate the paper takes; drop-path and
# cutout are left out, as DARTS and PC-DARTS do there.
_PAPER_LARGE = replace(
    _PAPER,
    cells=14,
    channels=48,
    epochs=250,
    batch_size=1024,
    learning_rate=0.5,
    warm_up=5,
    weight_decay=3e-5,
    drop_path=0.0,
    cutout=0,
)


def _certified(preset: TrainingPreset) -> TrainingPreset:
    """Adam with the settings of Shi et al. (NeurIPS 2021), and nothing random inside a bound."""
    return replace(
        preset,
        optimiser="adam",
        learning_rate=5e-4,
        weight_decay=0.0,
        clip=10.0,
        drop_path=0.0,
        cutout=0,
        auxiliary=0.0,
    )


def _tangent(preset: TrainingPreset) -> TrainingPreset:
    """Nothing random inside a bound, and an epsilon that takes its time."""
    return replace(preset, drop_path=0.0, cutout=0, auxiliary=0.0, ramp=(0.05, 0.75))


def _robnet(preset: TrainingPreset) -> TrainingPreset:
    """How RobNet (Guo et al., CVPR 2020) trains its networks against PGD-7."""
    return replace(
        preset,
        epochs=170,
        warm_up=20,
        batch_size=1536,
        learning_rate=1.2,
        weight_decay=1e-4,
        decay_norms=False,
        drop_path=0.0,
        cutout=0,
        auxiliary=0.0,
    )


PRESETS: dict[str, dict[str, TrainingPreset]] = {
    "quick": {
        "standard": _QUICK,
        "jacobian": _QUICK,
        "adversarial": _QUICK,
        "certified": replace(_certified(_QUICK), epochs=40, learning_rate=0.03),
        "tangent": _tangent(_QUICK),
    },
    "small": {
        "standard": _SMALL,
        "jacobian": _SMALL,
        "adversarial": _SMALL,
        "certified": replace(_certified(_SMALL), learning_rate=0.03),
        "tangent": replace(_tangent(_SMALL), epochs=10, learning_rate=0.05),
    },
    "paper": {
        "standard": _PAPER,
        "jacobian": _PAPER,
        "adversarial": _robnet(_PAPER),
        "certified": _certified(_PAPER),
        "tangent": _tangent(_PAPER),
    },
}
"""By the preset's name, then by the recipe's."""


def preset_for(preset: str, recipe: str, width: int) -> TrainingPreset:
    """The preset for a recipe and images of a width in pixels; both names are known."""
    found = PRESETS[preset][recipe]
    if preset != "paper" or width <= LARGE:
        return found
    return {
        "standard": _PAPER_LARGE,
        "jacobian": _PAPER_LARGE,
        "adversarial": replace(_robnet(_PAPER), cells=14, channels=48),
        "certified": replace(_certified(_PAPER_LARGE), batch_size=128),
        "tangent": replace(_tangent(_PAPER_LARGE), batch_size=128, learning_rate=0.0625),
    }[recipe]
