"""How far bounds in float64 give way, so that they hold in real arithmetic.

In whatever order a sum of n terms is computed, its error is at most n u / (1 - n u) times the sum of their magnitudes,
with u = 2^-53 (Higham, Accuracy and Stability of Numerical Algorithms, 2002, section 4.2). An error made at one
operator of a forward sweep grows with every operator after it, as intervals do: a network may multiply it by 1e12.
So a step gives way by what its own sum needs and no more; what is added up once at the end of a pass is not
multiplied by anything, and gives way generously.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

UNIT = 2.0**-53
SAFETY = 2
STEPS = 64
"""Terms that are counted beside those of the longest sum: roundings of operators without a sum of their own."""
TOTAL = 1e-10
"""Enough for a sum of 900,000 elements or rows of errors."""


class Rounding(NamedTuple):
    """Relative to the sum of the magnitudes of the terms.

    Attributes:
        step: of one operator.
        total: of a sum over all elements of a tensor or all rows of a form.
    """

    step: float = 0.0
    total: float = 0.0

    def outward(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Ends that were added up of all rows of a form or of a backward pass, wide enough to hold."""
        if not self.total:
            return lower, upper
        slack = self.total * (1 + torch.maximum(lower.abs(), upper.abs()))
        return lower - slack, upper + slack


IGNORED = Rounding()
"""Of a search in float32, whose results are confirmed afterwards."""


def rounding_for(summands: int) -> Rounding:
    """What a network needs whose operators compute sums of at most so many terms."""
    return Rounding(SAFETY * (summands + STEPS) * UNIT, TOTAL)


def plain_sums(rounding: Rounding) -> AbstractContextManager[None]:
    """Where rounding counts, convolutions that are sums of products.

    cuDNN may take a Fourier transform instead, for some kernels in float64 too, whose error is relative to the norm of
    the whole image and not to the terms of each sum.
    """
    return torch.backends.cudnn.flags(enabled=False) if rounding.step else nullcontext()
