"""Sizes and schedules of searches, by name and metric."""

from __future__ import annotations

from dataclasses import dataclass, replace

from robust_nas.registry import METRICS


@dataclass(frozen=True)
class SearchPreset:
    """The size of a supernet and how it is searched.

    Attributes:
        cells, channels, nodes, stem_stride: of the supernet.
        dtype: "float32" or "float64".
        epochs: passes over the weights' half of the images, warm-up included.
        warm_up: epochs at the start that train the weights alone.
        batch_size: images a step, of either half.
        learning_rate, last_learning_rate: of SGD for the weights, at start and end; a cosine in between.
        momentum, weight_decay: of SGD.
        clip: largest l2 norm of the weights' gradient.
        alpha_learning_rate, alpha_betas, alpha_weight_decay: of Adam for alpha; the rate is fixed.
        gamma: weight of the metric in eq. 16.
        bound_method: of the certified bound, one of `registry.BOUNDS`.
        jacobian, jacobian_images: estimate and number of images of the Jacobian metric.
        steps: most steps an epoch of the supernet, for recipes whose steps are dear; None for a pass over the images.
        activation: of all cells, a key of `ACTIVATIONS`.
        candidates, trial_epochs: architectures that methods with trials draw, and epochs that each is trained.
    """

    cells: int
    channels: int
    nodes: int
    stem_stride: int
    dtype: str
    epochs: int
    warm_up: int
    batch_size: int
    learning_rate: float
    last_learning_rate: float
    momentum: float
    weight_decay: float
    clip: float
    alpha_learning_rate: float
    alpha_betas: tuple[float, float]
    alpha_weight_decay: float
    gamma: float
    bound_method: str
    jacobian: str
    jacobian_images: int
    candidates: int
    trial_epochs: int
    steps: int | None = None
    activation: str = "relu"


# digits in about two minutes on two cores. The supernet is as deep as the networks that the quick training preset
# builds. Alpha takes some twenty steps instead of the paper's thousands, so its rate is a hundred times the paper's,
# and it waits until the weights have learnt something.
_QUICK = SearchPreset(
    cells=3,
    channels=4,
    nodes=3,
    stem_stride=1,
    dtype="float32",
    epochs=5,
    warm_up=3,
    batch_size=64,
    learning_rate=0.1,
    last_learning_rate=0.001,
    momentum=0.9,
    weight_decay=3e-4,
    clip=5.0,
    alpha_learning_rate=0.05,
    alpha_betas=(0.5, 0.999),
    alpha_weight_decay=3e-4,
    gamma=0.01,
    bound_method="ibp",
    jacobian="sampled",
    jacobian_images=32,
    candidates=4,
    trial_epochs=3,
)

# MNIST or CIFAR-10 in an hour on a core; hundreds of steps for alpha. As in the paper, the final network is wider.
_SMALL = replace(
    _QUICK,
    stem_stride=2,
    epochs=4,
    warm_up=1,
    batch_size=128,
    alpha_learning_rate=6e-3,
    candidates=8,
    trial_epochs=1,
)

# DSRNA (CVPR 2021), section 4.2.2. What it leaves open we take from DARTS: the cosine to .001 and the gradient
# clip of 5 in the search. It names no warm-up: there is none. It does not say how many images a step are measured.
# Random search tries 24 architectures for 100 epochs each, as in DARTS.
_PAPER_CB = SearchPreset(
    cells=8,
    channels=16,
    nodes=3,
    stem_stride=1,
    dtype="float32",
    epochs=50,
    warm_up=0,
    batch_size=256,
    learning_rate=0.1,
    last_learning_rate=0.001,
    momentum=0.9,
    weight_decay=3e-4,
    clip=5.0,
    alpha_learning_rate=6e-4,
    alpha_betas=(0.5, 0.999),
    alpha_weight_decay=3e-4,
    gamma=0.01,
    bound_method="ibp",
    jacobian="sampled",
    jacobian_images=64,
    candidates=24,
    trial_epochs=100,
)
_PAPER_JACOBIAN = replace(
    _PAPER_CB,
    batch_size=128,
    learning_rate=0.025,
    alpha_learning_rate=3e-4,
    alpha_weight_decay=1e-3,
)

_METRICS = ("none", *METRICS)
PRESETS: dict[str, dict[str, SearchPreset]] = {
    "quick": dict.fromkeys(_METRICS, _QUICK),
    "small": dict.fromkeys(_METRICS, _SMALL),
    # For the combined metric, and for none, the paper gives no settings: they get those of the Jacobian metric.
    "paper": {
        **dict.fromkeys(_METRICS, _PAPER_JACOBIAN),
        **dict.fromkeys(("cb", "log-radius", "ibp-slope"), _PAPER_CB),
    },
}
"""By the preset's name, then by the metric's."""

_DARTS = replace(_PAPER_JACOBIAN, batch_size=64)
_PC_DARTS = replace(_PAPER_CB, last_learning_rate=0.0, alpha_weight_decay=1e-3)
OWN: dict[str, SearchPreset] = {
    "pc-darts": _PC_DARTS,
    "pc-darts-adv": _PC_DARTS,
    "p-darts": replace(_DARTS, batch_size=96, last_learning_rate=0.0, alpha_learning_rate=6e-4),
    "snas": replace(_DARTS, epochs=150),
    "enas": replace(
        _DARTS, epochs=150, batch_size=160, learning_rate=0.05, last_learning_rate=5e-4, weight_decay=1e-4
    ),
}
"""By method, the settings of its own authors where they are not DARTS'."""


def preset_for(preset: str, metric: str, method: str) -> SearchPreset:
    """The preset for a metric and a method. A metric that `PRESETS` does not name has the sizes of none.

    At paper scale a baseline, without a metric, has the settings of its own authors; with one it has DSRNA's.
    """
    if preset == "paper" and metric == "none":
        return OWN.get(method, _DARTS)
    sizes = PRESETS[preset]
    return sizes.get(metric, sizes["none"])
