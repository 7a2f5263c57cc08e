"""Curvature of a loss in the architecture parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh
from torch import Tensor


def top_eigenvalue(loss: Float[Tensor, ""], parameters: Sequence[Tensor]) -> float:
    """The largest eigenvalue, in the algebraic sense, of the Hessian of a loss in some parameters.

    R-DARTS (Zela et al., ICLR 2020) watches it for the validation loss in alpha. By Lanczos iterations, each of them
    one Hessian-vector product by autograd, some tens in all; exact to about 1e-8 relative in float64, 3e-4 in
    float32. Changes nothing: no `.grad`, no global random numbers, and the loss's graph stays alive.

    Args:
        loss: with its graph.
        parameters: that the loss depends on, of any shapes.

    Returns:
        The eigenvalue; NaN when the loss or a product is not finite, or the iterations do not converge.
    """
    gradients = torch.autograd.grad(loss, parameters, create_graph=True, materialize_grads=True)
    gradient = torch.cat([part.reshape(-1) for part in gradients])
    if not (loss.isfinite() and gradient.isfinite().all()):
        return math.nan
    if not gradient.requires_grad:  # linear in the parameters
        return 0.0

    def product(vector: np.ndarray) -> np.ndarray:
        tangent = torch.from_numpy(vector.ravel()).to(gradient)
        parts = torch.autograd.grad(gradient, parameters, tangent, retain_graph=True, materialize_grads=True)
        # Detached: torch 2.6 marks the zeros of `materialize_grads` as requiring a gradient.
        result = torch.cat([part.detach().reshape(-1) for part in parts]).cpu().double().numpy()
        if not np.isfinite(result).all():
            raise FloatingPointError
        return result

    try:
        return _largest(product, gradient.numel(), torch.finfo(gradient.dtype).eps ** 0.5)
    except (FloatingPointError, ArpackNoConvergence):
        return math.nan


def _largest(product: Callable[[np.ndarray], np.ndarray], size: int, tolerance: float) -> float:
    """The largest eigenvalue of a symmetric matrix that is known by its products."""
    if size <= 2:  # ARPACK needs more
        return float(np.linalg.eigvalsh(np.stack([product(unit) for unit in np.eye(size)]))[-1])
    # Not the vector of ones: a softmax is constant along it, so that it is in the Hessian's null space.
    start = np.random.default_rng(0).standard_normal(size)
    if not product(start).any():  # the Hessian is 0, which ARPACK refuses
        return 0.0
    operator = LinearOperator((size, size), matvec=product, dtype=np.float64)
    values = eigsh(operator, k=1, which="LA", v0=start, tol=tolerance, return_eigenvectors=False)
    return float(values[0])
