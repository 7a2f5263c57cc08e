"""What to tell someone whose training diverged."""

from __future__ import annotations

import copy
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn


@torch.no_grad()
def largest_layer(model: nn.Module, images: Float[Tensor, "b c h w"]) -> str:
    """The first layer whose output is not finite on these images, else the one with the largest output, in words."""
    sizes: dict[str, float] = {}
    twin = copy.deepcopy(model)  # a pass moves running statistics
    for name, module in twin.named_modules():
        if not list(module.children()):
            module.register_forward_hook(partial(_note, sizes, name))
    twin(images)
    broken = [name for name, size in sizes.items() if not size < torch.inf]
    if broken:
        return f"the first layer with an output that is not finite is {broken[0]}"
    name = max(sizes, key=lambda layer: sizes[layer])
    return f"the largest output, {sizes[name]:.3g}, is that of layer {name}"


def _note(sizes: dict[str, float], name: str, module: nn.Module, inputs: object, output: Tensor) -> None:
    sizes[name] = float(output.abs().max())
