"""DARTS with an early end: DARTS-ES (Zela et al., ICLR 2020) and DARTS+ (Liang et al., arXiv:1909.06035)."""

from __future__ import annotations

from robust_nas.search.strategies.base import Strategy


class CurvatureStop(Strategy):
    """DARTS-ES: ends where the Hessian's top eigenvalue in alpha grows, and goes back to before it did.

    For the rule see `EigenvalueRatio`. It decides from epoch 22 at the earliest, so never in a shorter search.
    """

    stopping = "eigenvalue"


class SkipStop(Strategy):
    """DARTS+: ends at two skip connections in the normal cell, or once the convolutions' ranking stays the same.

    For the two criteria, of which the first to be met counts, see `SkipLimit` and `StableRanking`. No warm-up is added
    to the preset's. Where alpha takes few steps an epoch, as in small presets, the first criterion can be met by chance
    after the first of them; at paper scale an epoch has hundreds.
    """

    stopping = "darts+"
