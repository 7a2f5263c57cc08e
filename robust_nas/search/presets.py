"""Sizes and schedules of a search: by the preset's name, then by the metric's."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class SearchPreset:
    """The size of the supernet and how its weights and alpha are trained.

    Attributes:
        cells, channels, nodes, stem_stride: of the supernet.
        dtype: precision of the supernet and of its bounds, a name of torch.
        epochs, batch_size: length of the search; a batch of each half a step.
        warm_up: epochs in which alpha stays as it is.
        learning_rate, last_learning_rate: of SGD on the weights, from one to the other on a cosine.
        momentum, weight_decay: of SGD.
        clip: largest l2 norm of the weights' gradient.
        alpha_learning_rate, alpha_betas, alpha_weight_decay: of Adam on alpha.
        gamma: weight of the robustness metric, eq. 16.
        bound_method: how the certified bound bounds, see `BoundedNetwork.bounds`.
        bound_images: images of a batch that the certified bound bounds.
        jacobian_images: images of a batch whose Jacobian is taken.
        jacobian_exact: all rows of the Jacobian, or one drawn at random an image.
    """

    cells: int
    channels: int
    nodes: int
    stem_stride: int
    dtype: str
    epochs: int
    batch_size: int
    warm_up: int
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
    bound_images: int
    jacobian_images: int
    jacobian_exact: bool


# DSRNA (CVPR 2021), section 4.2.2, for DSRNA-CB. It does not say how the learning rate falls, whether gradients are
# clipped (both as in DARTS), whether alpha waits (it does not), or how many images of a batch are bounded. Intervals
# of a supernet of 8 cells overflow float32.
_PAPER_CB = SearchPreset(
    cells=8,
    channels=16,
    nodes=3,
    stem_stride=1,
    dtype="float64",
    epochs=50,
    batch_size=256,
    warm_up=0,
    learning_rate=0.1,
    last_learning_rate=0.001,
    momentum=0.9,
    weight_decay=3e-4,
    clip=5.0,
    alpha_learning_rate=6e-4,
    alpha_betas=(0.5, 0.999),
    alpha_weight_decay=3e-4,
    gamma=0.01,
    bound_method="crown-ibp",
    bound_images=8,
    jacobian_images=256,
    jacobian_exact=False,
)
# Section 4.2.2 for DSRNA-Jacobian. It is silent about a search without a metric and about DSRNA-Combined: both take
# these settings, which are DARTS' but for the batch size; Combined in the precision of the bound.
_PAPER_JACOBIAN = replace(
    _PAPER_CB,
    dtype="float32",
    batch_size=128,
    learning_rate=0.025,
    alpha_learning_rate=3e-4,
    alpha_weight_decay=1e-3,
    jacobian_images=128,
)
# digits in about two minutes on two cores. Few steps, so alpha moves in larger ones than the paper's. Affine forms
# keep the bound meaningful at an epsilon of about a thousandth of the pixel range, which intervals cannot.
_QUICK = replace(
    _PAPER_CB,
    cells=3,
    channels=4,
    dtype="float32",
    epochs=5,
    batch_size=64,
    warm_up=3,
    alpha_learning_rate=0.05,
    bound_method="affine",
    bound_images=2,
    jacobian_images=64,
)
# MNIST or CIFAR-10 at a size for two cores over night, or for a GPU.
_SMALL = replace(
    _QUICK, cells=5, channels=8, stem_stride=2, epochs=5, warm_up=2, alpha_learning_rate=6e-4, batch_size=128
)

METRIC_NAMES = ("none", "cb", "jacobian", "combined")
PRESETS: dict[str, dict[str, SearchPreset]] = {
    "quick": dict.fromkeys(METRIC_NAMES, _QUICK),
    "small": dict.fromkeys(METRIC_NAMES, _SMALL),
    "paper": {
        "none": _PAPER_JACOBIAN,
        "cb": _PAPER_CB,
        "jacobian": _PAPER_JACOBIAN,
        "combined": replace(_PAPER_JACOBIAN, dtype="float64"),
    },
}
