"""The auxiliary head: a second classifier that trains the lower two thirds of a network, and is then thrown away."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

WINDOW = 5


class AuxiliaryHead(nn.Module):
    """That of DARTS (Liu, Simonyan and Yang, ICLR 2019): pool to 2 x 2, two convolutions, a linear layer.

    DARTS pools windows of 5 pixels that reach from edge to edge: 8 pixels in steps of 3, 7 in steps of 2. Smaller
    images, which it does not have, are pooled to 2 x 2 by equal parts.

    Args:
        channels: of what it reads, the output of the second reduction cell.
        classes: number of classes.
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(channels, 128, 1, bias=False),
            nn.BatchNorm2d(128),
            nn.ReLU(),
            nn.Conv2d(128, 768, 2, bias=False),
            nn.BatchNorm2d(768),
            nn.ReLU(),
        )
        self.classifier = nn.Linear(768, classes)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b classes"]:
        x = F.relu(x)
        side = x.shape[-1]
        pooled = F.avg_pool2d(x, WINDOW, side - WINDOW) if side > WINDOW else F.adaptive_avg_pool2d(x, 2)
        logits: Tensor = self.classifier(self.features(pooled).mean(dim=(2, 3)))
        return logits
