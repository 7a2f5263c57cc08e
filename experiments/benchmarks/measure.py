"""Runs one method on all images of a benchmark and measures what it takes."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from experiments.benchmarks.searches import Found, bisection, secant
from experiments.benchmarks.stock import Stock
from robust_nas.runs import progress
from verify import Ball, BoundedNetwork, attack_radius, certified_radius
from verify.certify.attack import pgd, worst_margin
from verify.regions import largest_epsilon

DOMAIN = "unit"
CROWN_IBP, CROWN, CLOSED_FORM = "stock CROWN-IBP", "stock CROWN", "stock CROWN + closed form"
CHECK_STARTS, CHECK_STEPS = 10, 50


@dataclass(frozen=True)
class Problem:
    """What every method gets: images that the network classifies correctly, and the ceiling of their radii.

    Attributes:
        network: our wrapping of the network; `network.model` is the module.
        attack: the smallest successful perturbation found by PGD, at most that of a ball that fills the domain.
        attack_seconds: an image.
    """

    network: BoundedNetwork
    images: Float[Tensor, "b c h w"]
    labels: Int[Tensor, " b"]
    norm: str
    tolerance: float
    attack: Float[Tensor, " b"]
    attack_seconds: float

    @classmethod
    def make(cls, model: nn.Module, images: Tensor, labels: Tensor, norm: str, tolerance: float) -> Problem:
        """Wrap the model and attack the images."""
        network, begin = BoundedNetwork(model, images[:1]), time.perf_counter()
        attack = attack_radius(network, images, labels, norm, DOMAIN).clamp(max=largest_epsilon(norm, images[0].shape))
        seconds = (time.perf_counter() - begin) / len(images)
        return cls(network, images, labels, norm, tolerance, attack, seconds)


@dataclass(frozen=True)
class Outcome:
    """Results of one method, a list entry an image; perhaps of the first images only.

    Attributes:
        radius: certified, in pixels of [0, 1].
        seconds: wall clock; what a batch takes is shared by its images.
        evaluations: of bounds.
        peak_memory_mb: of the whole process while the method ran.
        attacked: PGD from many starts found an adversarial image within the certified radius; has to be False.
    """

    radius: list[float]
    seconds: list[float]
    evaluations: list[int]
    peak_memory_mb: float
    attacked: list[bool]


Method = Callable[[Problem], Outcome]


def ours(problem: Problem, method: str, batch_size: int) -> Outcome:
    """Our certified radii; the wrapping in float64 and the confirmation count into the time."""
    reset_peak()
    batches = -(-len(problem.images) // batch_size)
    with progress(f"{problem.norm} {method}", batches) as step:
        found = certified_radius(
            problem.network,
            problem.images,
            problem.labels,
            problem.norm,
            DOMAIN,
            method,
            ceiling=problem.attack,
            tolerance=problem.tolerance,
            batch_size=batch_size,
            progress=lambda done: step(f"{done} images"),
        )
    memory, radius = peak_mb(), found.radius.tolist()
    return Outcome(radius, found.seconds.tolist(), found.evaluations.tolist(), memory, attacked(problem, radius))


def stock(problem: Problem, twin: nn.Module, name: str, count: int) -> Outcome:
    """Stock auto_LiRPA on the first `count` images, one at a time; its set-up does not count into the time.

    Args:
        twin: what `for_stock` makes of the network. name: CROWN_IBP, CROWN or CLOSED_FORM.
    """
    graph = Stock(twin, problem.images[:1], "CROWN-IBP" if name == CROWN_IBP else "CROWN")
    search = _secant if name == CLOSED_FORM else _bisection
    reset_peak()
    found, seconds = [], []
    with progress(f"{problem.norm} {name}", count) as step:
        for index in range(count):
            begin = time.perf_counter()
            found.append(search(graph, problem, index))
            seconds.append(time.perf_counter() - begin)
            step(f"radius {found[-1].radius:.2g} in {seconds[-1]:.1f} s")
    memory, radius = peak_mb(), [one.radius for one in found]
    return Outcome(radius, seconds, [one.evaluations for one in found], memory, attacked(problem, radius))


def _bisection(graph: Stock, problem: Problem, index: int) -> Found:
    image, label = problem.images[index : index + 1], problem.labels[index : index + 1]
    return bisection(
        lambda epsilon: graph.evaluate(image, label, epsilon, problem.norm),
        float(problem.attack[index]),
        problem.tolerance,
    )


def _secant(graph: Stock, problem: Problem, index: int) -> Found:
    image, label = problem.images[index : index + 1], problem.labels[index : index + 1]
    return secant(
        lambda epsilon: graph.evaluate(image, label, epsilon, problem.norm, closed_form=True),
        float(worst_margin(problem.network(image).detach(), label)),
        float(problem.attack[index]),
        problem.tolerance,
    )


def attacked(problem: Problem, radius: list[float]) -> list[bool]:
    """Whether PGD finds an adversarial image within the certified radius, from other starts than the ceiling's.

    Searches never look above the attack radius, so that to compare with it alone would say little.
    """
    count = len(radius)
    balls = Ball(problem.images[:count], torch.tensor(radius), problem.norm, DOMAIN).repeat(CHECK_STARTS)
    labels = problem.labels[:count].repeat(CHECK_STARTS)
    start = balls.sample(torch.Generator().manual_seed(1))
    x = pgd(problem.network, balls, labels, steps=CHECK_STEPS, start=start)
    broken = worst_margin(problem.network(x).detach(), labels) <= 0
    return broken.view(CHECK_STARTS, count).any(0).tolist()


def reset_peak() -> None:
    """Start to measure the peak of memory anew, where the system can (Linux); elsewhere it is that of the process."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # glibc keeps what earlier methods freed
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_mb() -> float:
    """The largest resident memory of the process since `reset_peak`, in MB of 10^6 bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
