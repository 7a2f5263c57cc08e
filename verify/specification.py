"""What is asked of a network's outputs."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class Binary(nn.Module):
    """A classifier of one output f as one of two classes: logits 0 and f(x), so class 1 is where f(x) > 0.

    The margin of class 1 is f(x), that of class 0 is -f(x): radii are those of the sign of f. Subtract a threshold
    other than 0 inside the model.

    Args:
        model: output "b 1" or "b".

    Example:
        >>> network = BoundedNetwork(Binary(model.eval()), images[:1])
        >>> certified_radius(network, images, labels)  # labels 0 and 1
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Float[Tensor, "b *shape"]) -> Float[Tensor, "b 2"]:
        """The logits."""
        return F.pad(self.model(x).reshape(len(x), 1), (1, 0))
