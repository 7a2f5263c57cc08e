"""Products of coefficients "s b *shape" with values "b *shape", fast in either layout; a quotient by tiny scales."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from verify.operators.layout import flat, in_layout_of, lies_innermost


def inner(A: Float[Tensor, "s b *shape"], x: Float[Tensor, "b *shape"]) -> Float[Tensor, "s b"]:
    """<A[s, b], x[b]>."""
    if lies_innermost(A):
        return torch.einsum("sbn,bn->sb", flat(A, 2), flat(x))
    product = A * in_layout_of(A, x)
    return product.sum(tuple(range(2, A.dim()))) if A.dim() > 2 else product  # no dimensions would mean all


def absolute_inner(A: Float[Tensor, "s b *shape"], x: Float[Tensor, "b *shape"]) -> Float[Tensor, "s b"]:
    """<|A[s, b]|, x[b]> for x >= 0."""
    if lies_innermost(A):
        return inner(A.abs(), x)
    if A.dim() == 2:
        return A.abs() * x
    # Half the time of `inner` of |A|.
    return torch.linalg.vector_norm(A * in_layout_of(A, x), 1, dim=tuple(range(2, A.dim())))


def weighed(
    A: Float[Tensor, "s b *shape"], centre: Float[Tensor, "b *shape"], radius: Float[Tensor, "b *shape"]
) -> tuple[Float[Tensor, "b s"], Float[Tensor, "b s"]]:
    """Centre and radius of <A[s, b], x[b]>, x within centre -+ radius."""
    return inner(A, centre).T, inner(A.abs(), radius).T


KINK = 1e-6
"""A scale below which no gradient passes a quotient by it, see `over`."""


def over(x: Tensor, scale: Tensor) -> Tensor:
    """x / scale. Where the scale has underflowed, as good as infinite.

    In a ball so small that intervals are narrower than `KINK`, it is a coincidence that two values are nearer to each
    other than that: the function is at a kink. Its derivative there, 1 / scale, may be 1e38, and would drown that of
    everything else; it counts as 0.
    """
    tiny = scale < KINK
    if tiny.any():
        x = torch.where(tiny, x.detach(), x)
    return x / scale.clamp(min=torch.finfo(scale.dtype).tiny)
