"""`log-radius`: the logarithm of the radius that the bounds in use come to, free of the scale of the logits."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from robust_nas.metrics.certified_bound import CertifiedBound
from verify.bounds import BoundedNetwork
from verify.specification import margins


class LogRadius(CertifiedBound):
    """R = mean over the images that the network gets right of min over k != y of log(epsilon m_k / w_k).

    m_k is the clean margin f_y - f_k, and w_k = m_k - (lower bound of f_y - f_k over the ball of radius epsilon) what
    the bound gives away. Were that proportional to epsilon, epsilon m / w would be the certified radius. Logits times a
    constant change neither the value nor its gradient: where `CertifiedBound` can grow by larger logits alone, this one
    grows by larger margins for the width, image by image.

    The gap that steers epsilon is the mean of w over that of |m|, so that an epsilon that is steered comes to where the
    bounds are about to prove nothing: near the certified radius. At an epsilon that stays, R is the log radius as seen
    from there. An image that the network gets wrong has no radius, and does not count; with none right R is NaN.

    Args:
        norm, domain, method, images, control: as for `CertifiedBound`.
    """

    column = "log_radius"

    def measure(
        self, network: BoundedNetwork, images: Float[Tensor, "b c h w"], labels: Int[Tensor, " b"]
    ) -> tuple[Float[Tensor, " n"], float, float]:
        rows, epsilon = margins(labels, network.classes), self.control.epsilon
        lower = network.bounds(images, epsilon, self.norm, rows, self.method, self.domain).lower
        clean = torch.einsum("bsk,bk->bs", rows.to(images), network(images))
        tiny = torch.finfo(lower.dtype).tiny
        widths = (clean - lower).clamp(min=tiny)
        right = (clean > 0).all(1)
        values = math.log(epsilon) + (clean[right].log() - widths[right].log()).amin(1)
        return values, widths.mean().item(), clean.abs().mean().clamp(min=tiny).item()
