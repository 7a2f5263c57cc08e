"""What is trained: a network and, if it has one, the auxiliary head that only training knows; or a supernet."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from robust_nas.spaces.auxiliary import AuxiliaryHead
from robust_nas.spaces.backbone import Backbone
from robust_nas.spaces.network import Network


class Learner(nn.Module):
    """A network with an auxiliary head.

    Args:
        network: the network, or a supernet, which has no head.
        weight: of the head's loss; 0 for no head.
    """

    def __init__(self, network: Backbone, weight: float = 0.0) -> None:
        super().__init__()
        self.network, self.weight = network, weight
        self.head: AuxiliaryHead | None = None
        if weight:
            assert isinstance(network, Network)
            self.head = AuxiliaryHead(network.feature_channels, network.settings["classes"])

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b classes"]:
        logits: Tensor = self.network(images)
        return logits

    def losses(self, images: Float[Tensor, "b c h w"], labels: Int[Tensor, " b"]) -> Float[Tensor, " b"]:
        """The cross-entropy of every image, with that of the head."""
        if self.head is None:
            return cross_entropies(self.network(images), labels)
        assert isinstance(self.network, Network)
        logits, features = self.network.with_features(images)
        return cross_entropies(logits, labels) + self.weight * cross_entropies(self.head(features), labels)


def cross_entropies(logits: Float[Tensor, "b k"], labels: Int[Tensor, " b"]) -> Float[Tensor, " b"]:
    """The cross-entropy of every image."""
    return F.cross_entropy(logits, labels, reduction="none")
