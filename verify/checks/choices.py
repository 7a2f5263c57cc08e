"""What users choose among by name, beside the methods (`verify.propagation.methods`)."""

from __future__ import annotations

NORMS = ("linf", "l2", "l1")
"""Of a perturbation."""
DOMAINS = ("unit", "free")
"""unit: perturbed pixels stay in [0, 1]; free: they may leave it."""
