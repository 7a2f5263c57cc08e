"""One search on several processes (torchrun): each takes a share of every batch, and all take the same step.

What is averaged is what one process with the whole batch would compute: sums over images of losses, metrics and
gradients, and the moments of batch norm. So the result depends on the batch, not on how many processes share it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn

from robust_nas.data import Examples
from verify.checks.errors import InputError
from verify.operators.normalisation import moments

Made = TypeVar("Made")


@dataclass(frozen=True)
class Processes:
    """Which of how many processes this one is.

    Attributes:
        rank: 0 for the one that writes files and talks.
        size: how many there are.
        local: its number on its machine, which is that of its GPU.
    """

    rank: int = 0
    size: int = 1
    local: int = 0

    @property
    def leads(self) -> bool:
        """Whether this process writes files and talks."""
        return self.rank == 0

    def share(self, batch: Examples) -> Examples:
        """Every size-th example, so that the first n of all shares are the first n of the batch."""
        return batch if self.size == 1 else Examples(*(part[self.rank :: self.size] for part in batch))

    def count(self, images: int) -> int:
        """How many of the first `images` of a batch are in this process' share."""
        return len(range(self.rank, images, self.size))

    def weight(self, own: int) -> float:
        """The share of this process in a mean over all images, of which it holds `own`.

        Means over the own images, times this, add up to the mean over all.
        """
        return 1.0 if self.size == 1 else own / self.total([float(own)])[0]

    def total(self, figures: Sequence[float]) -> list[float]:
        """The sums of figures over all processes."""
        if self.size == 1:
            return list(figures)
        summed = torch.tensor(figures, dtype=torch.float64, device=self._device)
        dist.all_reduce(summed)
        return summed.tolist()

    def add_up(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The sums of tensors over all processes, in one exchange."""
        if self.size == 1:
            return tuple(tensors)
        flat = torch.cat([tensor.detach().flatten() for tensor in tensors])
        dist.all_reduce(flat)
        parts = flat.split([tensor.numel() for tensor in tensors])
        return tuple(part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True))

    def sum(self, values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """The sum of a tensor over all processes; gradients reach all of them."""
        return values if self.size == 1 else _total(values)

    def moments(self, x: Float[Tensor, "b c *size"]) -> tuple[Float[Tensor, " c"], Float[Tensor, " c"]]:
        """Mean and biased variance a channel, over the images of all processes; gradients reach all of them."""
        return moments(x) if self.size == 1 else self._moments(x)[:2]

    def _moments(self, x: Float[Tensor, "b c *size"]) -> tuple[Tensor, Tensor, Float[Tensor, ""]]:
        """Mean, biased variance, and the number of values of a channel."""
        dimensions = [0, *range(2, x.dim())]
        number = _total(x.new_tensor(x.numel() / x.shape[1]))
        shape = [1, -1] + [1] * (x.dim() - 2)
        mean = _total(x.sum(dimensions)) / number
        variance = _total((x - mean.view(shape)).square().sum(dimensions)) / number
        return mean, variance, number

    def leader_first(self, make: Callable[[], Made]) -> Made:
        """What `make` gives; the others call it after the one that leads, and find the files that it has written."""
        if self.size > 1 and not self.leads:
            dist.barrier()
        made = make()
        if self.size > 1 and self.leads:
            dist.barrier()
        return made

    @contextmanager
    def own_random_numbers(self, seed: int, step: int, device: torch.device) -> Iterator[None]:
        """Torch's global generators are this process' own within the block, and all processes' alike after it.

        What dropout and drop-path draw is then another for the images of each process, and a share of more images,
        which draws more, leaves no process ahead of the others. One process draws as ever.

        Args:
            seed, step: what the numbers depend on, beside the process.
            device: whose generator is meant, beside the CPU's.
        """
        if self.size == 1:
            yield
            return
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(int(np.random.SeedSequence((seed, step, self.rank)).generate_state(1)[0]))
            yield

    @contextmanager
    def synchronised(self, model: nn.Module) -> Iterator[None]:
        """Batch norms in training mode use the moments of all processes' images within the block."""
        norms = batch_norms(model) if self.size > 1 else []
        for norm in norms:
            norm.forward = partial(self._normalise, norm)  # type: ignore[method-assign]
        try:
            yield
        finally:
            for norm in norms:
                del norm.forward

    def _normalise(self, norm: nn.BatchNorm2d, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        if not norm.training:
            return type(norm).forward(norm, x)
        with torch.autocast(x.device.type, enabled=False):  # as torch's own: statistics are never of half precision
            return self._normalise_wide(norm, x.to(torch.promote_types(x.dtype, torch.float32))).to(x.dtype)

    def _normalise_wide(self, norm: nn.BatchNorm2d, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        mean, variance, number = self._moments(x)
        if norm.running_mean is not None and norm.running_var is not None and norm.momentum is not None:
            with torch.no_grad():
                norm.running_mean.lerp_(mean, norm.momentum)
                norm.running_var.lerp_(variance * number / (number - 1), norm.momentum)
                if norm.num_batches_tracked is not None:
                    norm.num_batches_tracked += 1
        return normalise(norm, x, mean, variance)

    @property
    def _device(self) -> torch.device:
        """Where a backend wants its tensors."""
        return torch.device("cuda", self.local) if dist.get_backend() == "nccl" else torch.device("cpu")


class _Total(torch.autograd.Function):
    """The sum over all processes; so is its gradient in each part. Differentiable any number of times."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        summed = values.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(summed)
        return summed

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _total(gradients[0])


def _total(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    total: Tensor = _Total.apply(values)
    return total


def batch_norms(model: nn.Module) -> list[nn.BatchNorm2d]:
    """The batch norms of a network."""
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]


def normalise(
    norm: nn.BatchNorm2d, x: Float[Tensor, "b c h w"], mean: Float[Tensor, " c"], variance: Float[Tensor, " c"]
) -> Float[Tensor, "b c h w"]:
    """What a batch norm computes with these statistics; differentiable in them."""
    scale = (variance + norm.eps).rsqrt()
    if norm.affine:
        scale = scale * norm.weight
    shift = -mean * scale + (norm.bias if norm.affine else 0)
    return x * scale.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1)


TORCHRUN = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""What it sets, beside WORLD_SIZE, and torch.distributed reads."""
ALONE = Processes()
"""One process, with the whole of every batch."""


@contextmanager
def processes(device: torch.device) -> Iterator[Processes]:
    """The processes that torchrun started, this one alone without it; gloo on a CPU, nccl on CUDA.

    Raises:
        InputError: more processes on this machine than it has GPUs; or something else than torchrun has set WORLD_SIZE.
    """
    size = int(os.environ.get("WORLD_SIZE", 1))
    if size == 1:
        yield ALONE
        return
    if missing := [name for name in TORCHRUN if name not in os.environ]:
        raise InputError(f"WORLD_SIZE is {size} without {', '.join(missing)}: start with torchrun, or unset WORLD_SIZE")
    local = int(os.environ["LOCAL_RANK"])
    if device.type == "cuda":
        if local >= torch.cuda.device_count():
            raise InputError(
                f"torchrun started process {local + 1} on a machine with {torch.cuda.device_count()} GPUs; "
                "lower --nproc-per-node, or take --device cpu"
            )
        torch.cuda.set_device(local)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Processes(int(os.environ["RANK"]), size, local)
    finally:
        dist.destroy_process_group()
