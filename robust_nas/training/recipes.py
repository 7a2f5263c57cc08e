"""Training losses, by name."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

Recipe = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""(network, images `b c h w` in [0, 1], labels `b`) -> the mean loss of a batch, which training minimises."""


def standard(
    network: nn.Module, images: Float[Tensor, "b c h w"], labels: Int[Tensor, " b"]
) -> Float[Tensor, ""]:
    """Cross-entropy on clean images."""
    return F.cross_entropy(network(images), labels)


RECIPES: dict[str, Recipe] = {"standard": standard}
