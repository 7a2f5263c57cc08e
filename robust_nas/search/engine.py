"""The search loop: weights on one half of the training images, alpha on the other."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

import torch
from torch import Tensor

from robust_nas.data import Data, Examples, batches, search_split
from robust_nas.metrics import RobustnessMetric
from robust_nas.search.bilevel import AlphaStep, weight_step
from robust_nas.search.presets import SearchPreset
from robust_nas.spaces.supernet import Supernet
from verify.bounds import BoundedNetwork
from verify.errors import InputError

Row = dict[str, int | float | None]


def build(data: Data, preset: SearchPreset) -> Supernet:
    """The supernet of the preset for the images of a data set, in training mode."""
    model = Supernet(
        data.train.images.shape[1],
        data.classes,
        channels=preset.channels,
        cells=preset.cells,
        nodes=preset.nodes,
        mean=data.mean,
        std=data.std,
        pad=data.pad,
        stem_stride=preset.stem_stride,
    )
    return model.to(getattr(torch, preset.dtype)).train()


def count_steps(data: Data, preset: SearchPreset) -> int:
    """How many rows `optimise` yields."""
    images = len(data.train.labels) // 2
    full, rest = divmod(images, preset.batch_size)
    return preset.epochs * (full + (rest > 1))


def optimise(
    model: Supernet, data: Data, preset: SearchPreset, metric: RobustnessMetric | None, gamma: float, seed: int
) -> Iterator[Row]:
    """Optimise weights and alpha in place, on the device that holds them; yields a row a step.

    Only the seed, not the state of a global generator, decides the split and the order of the images.

    Raises:
        InputError: the training loss is no longer finite.
    """
    first, second = search_split(data, seed)
    orders = [torch.Generator().manual_seed(2 * seed + half) for half in range(2)]
    weights = torch.optim.SGD(
        model.weights(),
        lr=preset.learning_rate,
        momentum=preset.momentum,
        weight_decay=preset.weight_decay,
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(weights, preset.epochs, preset.last_learning_rate)
    alpha = torch.optim.Adam(
        model.architecture_parameters(),
        lr=preset.alpha_learning_rate,
        betas=preset.alpha_betas,
        weight_decay=preset.alpha_weight_decay,
    )
    parameter = model.architecture_parameters()[0]
    network = BoundedNetwork(model, data.train.images[:1].to(parameter))
    alpha_step = AlphaStep(network, alpha, metric, gamma)
    for epoch in range(preset.epochs):
        passes = zip(
            batches(first, preset.batch_size, orders[0], augment=data.augment),
            batches(second, preset.batch_size, orders[1]),
            strict=False,  # the halves differ by an image where their sum is odd, and so may their batches
        )
        for step, (train, held_out) in enumerate(passes):
            started = time.monotonic()
            train_loss = weight_step(model, _like(parameter, train), weights, preset.clip)
            if not math.isfinite(train_loss):
                raise InputError(
                    f"the search diverged in epoch {epoch + 1} (training loss {train_loss}); try another --seed"
                )
            figures: Row = dict.fromkeys(alpha_step.columns)
            if epoch >= preset.warm_up:
                figures = alpha_step(_like(parameter, held_out))
            yield {
                "epoch": epoch + 1,
                "step": step + 1,
                "train_loss": train_loss,
                **figures,
                "alpha_entropy": entropy(model),
                "seconds": time.monotonic() - started,
            }
        schedule.step()


@torch.no_grad()
def entropy(model: Supernet) -> float:
    """Mean entropy of the operations of an edge in nats: log 8 when all are equal, 0 when one is left."""
    rows = torch.cat([*model.architecture_parameters()])
    return torch.distributions.Categorical(logits=rows).entropy().mean().item()


def _like(parameter: Tensor, batch: Examples) -> Examples:
    """The batch on the parameter's device, its images in the parameter's precision."""
    return Examples(batch.images.to(parameter), batch.labels.to(parameter.device))
