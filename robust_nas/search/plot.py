"""A picture of the architecture parameters."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from robust_nas.files import atomic_path
from robust_nas.spaces.operations import PRIMITIVES


def plot_alphas(alphas: Mapping[str, Float[Tensor, "edges ops"]], nodes: int, path: Path) -> None:
    """Write heat maps of softmax(alpha), one a kind of cell, edges by operations."""
    edges = [f"{source} → {target}" for target in range(2, 2 + nodes) for source in range(target)]
    figure = Figure(figsize=(5.2 * len(alphas), 1.8 + 0.34 * len(edges)), layout="constrained")
    panels = figure.subplots(1, len(alphas), squeeze=False)[0]
    for axes, (cell, alpha) in zip(panels, alphas.items(), strict=True):
        weights = torch.softmax(alpha.detach().cpu().double(), dim=1)
        image = axes.imshow(weights.numpy(), cmap="viridis", vmin=0, aspect="auto")
        axes.set_xticks(range(len(PRIMITIVES)), PRIMITIVES, rotation=40, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(edges)), edges)
        axes.set(title=f"{cell} cell", ylabel="input → node")
        figure.colorbar(image, ax=axes, label="softmax(alpha)")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=130)
