"""auto_LiRPA's own way in, `BoundedModule.compute_bounds`, answered by our walks."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from verify.checks.errors import InputError
from verify.graph.graph import Graph
from verify.graph.lirpa import PerturbationLpNorm
from verify.graph.tracing import trace
from verify.propagation.affine import MEMORY
from verify.propagation.bounds import bound
from verify.propagation.methods import METHODS
from verify.regions import Ball, Box, Region

NAMES = {
    "ibp": "ibp",
    "crown-ibp": "crown-ibp",
    "backward": "crown",
    "crown": "crown",
    "crown-optimized": "alpha-crown",
    "alpha-crown": "alpha-crown",
}
"""auto_LiRPA's names of methods, in small letters, and ours."""
NORMS = {torch.inf: "linf", 2: "l2", 1: "l1"}


class BoundedGraph(Graph):
    """A graph that users of auto_LiRPA bound as they are used to.

    Args:
        model, example: see `BoundedNetwork`, which has more to ask and checks more.

    Example:
        >>> graph = BoundedGraph(model.eval(), images)
        >>> x = BoundedTensor(images, PerturbationLpNorm(norm=float("inf"), eps=0.01))
        >>> lower, upper = graph.compute_bounds(x=(x,), C=margins(labels, 10), method="CROWN")
    """

    def __init__(self, model: nn.Module, example: Float[Tensor, "b *shape"]) -> None:
        super().__init__(trace(model, example), example)

    def compute_bounds(
        self,
        x: tuple[Tensor],
        C: Float[Tensor, "b s k"] | None = None,
        method: str = "CROWN",
        bound_lower: bool = True,
        bound_upper: bool = True,
        **options: Any,
    ) -> tuple[Float[Tensor, "b s"] | None, Float[Tensor, "b s"] | None]:
        """Lower and upper bounds of C times the outputs, or of the outputs.

        Args:
            x: one BoundedTensor, whose perturbation is auto_LiRPA's `PerturbationLpNorm` (in the free domain) or a
                region of ours.
            C: rows of a specification.
            method: "IBP", "CROWN-IBP", "CROWN" or "alpha-CROWN".
            bound_lower, bound_upper: which sides to give.

        Raises:
            InputError: an unknown method, perturbation or option.
        """
        if options:
            raise InputError(f"compute_bounds does not take {', '.join(options)}; see BoundedNetwork.bounds for ours")
        if method.lower() not in NAMES:
            raise InputError(f"method {method!r} is not one of IBP, CROWN-IBP, CROWN and alpha-CROWN")
        region = _region(*x)
        classes = self.final_shape[-1]
        rows = torch.eye(classes) if C is None else C
        rows = rows.to(region.centre).expand(len(region.centre), *rows.shape[-2:])
        found = bound(self, region, rows, METHODS[NAMES[method.lower()]], memory=MEMORY)
        return found.lower if bound_lower else None, found.upper if bound_upper else None


def _region(x: Tensor) -> Region:
    """What a BoundedTensor stands for."""
    perturbation = getattr(x, "ptb", None)
    if isinstance(perturbation, Region):
        return perturbation
    if not isinstance(perturbation, PerturbationLpNorm) or perturbation.norm not in NORMS:
        raise InputError("x must be a BoundedTensor with a PerturbationLpNorm of norm inf, 2 or 1, or a region of ours")
    images = x.as_subclass(Tensor)
    if perturbation.x_L is not None or perturbation.x_U is not None:
        lower, upper = (
            images + sign * perturbation.eps if side is None else side
            for side, sign in ((perturbation.x_L, -1), (perturbation.x_U, 1))
        )
        return Box(lower, upper)
    return Ball(images, perturbation.eps, NORMS[perturbation.norm], "free")
