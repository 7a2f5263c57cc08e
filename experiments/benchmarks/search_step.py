"""What a step of alpha costs with each robustness metric, beside one without.

    python experiments/benchmarks/search_step.py --out FILE.json

Time and peak memory of a first-order step on one supernet and one batch, a metric at a time, each in a process of its
own that does nothing else; and, where it runs, of stock auto_LiRPA's CROWN-IBP on a supernet without the operations
that it refuses. Time is the mean over the steps of a search, one in five of which takes its two gradients one by one.
Random images: the time depends on how many neurons are unstable only for `affine` and `crown`.
"""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import click
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from experiments.benchmarks.stock import for_stock, perturbation
from experiments.common import Script
from robust_nas.data import Data, Examples
from robust_nas.metrics import METRICS, MetricSettings
from robust_nas.runs import Run, device_name, versions
from robust_nas.search.bilevel import AlphaStep
from robust_nas.search.engine import Search
from robust_nas.search.presets import PRESETS, SearchPreset
from robust_nas.search.stage import Plan, build
from robust_nas.search.strategies import Strategy
from robust_nas.spaces.cells import KINDS
from robust_nas.spaces.operations import PRIMITIVES
from robust_nas.spaces.supernet import Operations, Supernet
from verify import BoundedNetwork, margins
from verify.graph.lirpa import BoundedModule, BoundedTensor
from verify.propagation.methods import METHODS

DEFAULT = "cb ibp"
VARIANTS = {
    "none": ("none", "ibp"),
    "jacobian": ("jacobian", "ibp"),
    DEFAULT: ("cb", "ibp"),
    "cb block": ("cb", "block"),
    "ibp-slope": ("ibp-slope", "ibp"),
    "combined": ("combined", "ibp"),
    "cb crown-ibp": ("cb", "crown-ibp"),
    "cb affine": ("cb", "affine"),
    "cb crown": ("cb", "crown"),
}
"""Metric and method of its bound."""
STOCK = "stock crown-ibp"
STOCK_EPSILON = 1e-3
Timed = Callable[[bool], tuple[float, float | None]]
"""A step, watched or not; gives its seconds and, where it has it, the norm of the robustness term's gradient."""


@dataclass(frozen=True)
class Size:
    """A supernet and a batch.

    Attributes:
        preset: its name.
        shape: of an image.
        batch: images a step, None for the preset's.
        repeats: steps of either kind timed, of which the fastest count.
        variants: those that run in reasonable time and memory.
    """

    preset: str
    shape: tuple[int, int, int]
    batch: int | None
    repeats: int
    variants: tuple[str, ...]


SIZES = {
    "quick": Size("quick", (1, 8, 8), None, 3, (*VARIANTS, STOCK)),
    "paper": Size("paper", (3, 32, 32), 64, 2, tuple(VARIANTS)[:6]),
    "paper, whole batch bounded": Size("paper", (3, 32, 32), 16, 2, ("none", "jacobian", DEFAULT, "combined")),
}
"""At paper size batches are as large as 16 GiB allow, and as the number of images that the default bounds."""
EPOCH_BATCH, EPOCH_STEPS = 8, 16
"""Of the epoch in which every gradient has to be finite: as long as a CPU allows."""


def measure(name: str, variant: str) -> dict[str, Any]:
    """Time, memory, and whether the gradient of the robustness term is finite and not 0, of one step."""
    torch.set_num_threads(1)
    size = SIZES[name]
    step = _stock(size) if variant == STOCK else _ours(size, variant)
    before = _peak()
    step(True)
    watched, others = ([step(kind) for _ in range(size.repeats)] for kind in (True, False))
    apart, together = (min(seconds for seconds, _ in figures) for figures in (watched, others))
    return {
        "seconds": together + (apart - together) / Plan.watch_every,
        "watched_seconds": apart,
        "memory_mb": _peak() - before,
        "finite": all(gradient is None or math.isfinite(gradient) and gradient > 0 for _, gradient in watched),
    }


def epoch(name: str) -> dict[str, Any]:
    """Whether the certified bound and its gradient in alpha are finite and not 0 at every step of a short epoch."""
    torch.set_num_threads(1)
    preset = replace(PRESETS[SIZES[name].preset]["cb"], batch_size=EPOCH_BATCH, epochs=1, warm_up=0)
    torch.manual_seed(0)
    images = 2 * EPOCH_BATCH * EPOCH_STEPS
    metric = METRICS["cb"](MetricSettings("linf", bound_images=EPOCH_BATCH))
    search = Search(Plan(preset, metric=metric, gamma=preset.gamma, watch_every=1), _data(SIZES[name], images))
    rows = [(row["robustness"], row["robustness_gradient"], row["gap"], row["epsilon"]) for row in search.steps()]
    numbers = torch.tensor([[float(figure or 0) for figure in row] for row in rows], dtype=torch.float64)
    return {
        "steps": len(rows),
        "finite": bool(torch.isfinite(numbers).all() and (numbers[:, 1] > 0).all()),
        "gradient": _ends(numbers[:, 1].sort().values),
        "gap": _ends(numbers[:, 2].sort().values),
        "epsilon": _ends(numbers[:, 3]),
    }


def _ends(values: Tensor) -> list[float | None]:
    """The first and the last; None for one that is not finite, which JSON cannot hold."""
    return [value if math.isfinite(value) else None for value in (values[0].item(), values[-1].item())]


def _ours(size: Size, variant: str) -> Timed:
    """A step of alpha."""
    metric, bound = VARIANTS[variant]
    preset = PRESETS[size.preset][metric]
    if bound == "crown-ibp":  # which computes in float64 in a search
        preset = replace(preset, dtype="float64")
    settings = MetricSettings(
        "linf", bound_method=bound, jacobian_images=_jacobian_images(size, preset)
    )
    model, batch = _problem(size, preset)
    step = AlphaStep(
        BoundedNetwork(model, batch.images),
        torch.optim.Adam(model.architecture_parameters(), lr=preset.alpha_learning_rate),
        None if metric == "none" else METRICS[metric](settings),
        preset.gamma,
    )

    def timed(watched: bool) -> tuple[float, float | None]:
        begin = time.perf_counter()
        figures = step(batch, batch, watched)
        return time.perf_counter() - begin, figures["robustness_gradient"]

    return timed


def _jacobian_images(size: Size, preset: SearchPreset) -> int:
    """As large a share of the batch as in the preset."""
    return preset.jacobian_images * (size.batch or preset.batch_size) // preset.batch_size


def _stock(size: Size) -> Timed:
    """Stock's bounds of the margins and their gradient in alpha, on a supernet in evaluation mode without max pools."""
    preset = PRESETS[size.preset]["cb"]
    names = tuple(name for name in PRIMITIVES if name != "max_pool_3x3")
    edges = sum(range(2, 2 + preset.nodes))
    model, batch = _problem(size, preset, dict.fromkeys(KINDS, (names,) * edges))
    twin = for_stock(model.eval(), batch.images)
    images, labels = (part[: METHODS["ibp"].step_images] for part in batch)
    graph = BoundedModule(twin, torch.zeros_like(images), bound_opts={"conv_mode": "matrix"})
    alphas = [parameter for name, parameter in graph.named_parameters() if parameter.shape == (edges, len(names))]

    def timed(_: bool) -> tuple[float, float | None]:
        begin = time.perf_counter()
        lower, _ = graph.compute_bounds(
            x=(BoundedTensor(images, perturbation(images, STOCK_EPSILON, "linf")),),
            C=margins(labels, int(graph.final_shape[-1])),
            method="CROWN-IBP",
            bound_upper=False,
        )
        gradients = torch.autograd.grad(lower.amin(1).mean(), alphas)
        return time.perf_counter() - begin, torch.cat(gradients).norm().item()

    return timed


def _problem(size: Size, preset: SearchPreset, operations: Operations | None = None) -> tuple[Supernet, Examples]:
    torch.manual_seed(0)
    data = _data(size, size.batch or preset.batch_size)
    model = build(data, preset, Strategy(), operations)
    images, labels = data.train.take(torch.arange(len(data.train.labels)))
    return model, Examples(images.to(model.architecture_parameters()[0]), labels)


def _data(size: Size, images: int) -> Data:
    examples = Examples(torch.rand(images, *size.shape), torch.randint(10, (images,)))
    return Data("random", examples, examples, 10, (0.5,) * size.shape[0], (0.3,) * size.shape[0])


def _peak() -> float:
    """MiB that this process has had at the most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def summarise(measured: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The ratios to a step without a metric."""
    plain = measured["none"]

    def ratio(variant: str, what: str) -> float:
        return measured[variant][what] / plain[what]

    return {
        "ratio_cb": ratio(DEFAULT, "seconds"),
        "ratio_jacobian": ratio("jacobian", "seconds"),
        "ratio_combined": ratio("combined", "seconds"),
        "memory_ratio_cb": ratio(DEFAULT, "memory_mb"),
        "finite": measured[DEFAULT]["finite"],
        "ratios": {variant: ratio(variant, "seconds") for variant in measured},
        "memory_ratios": {variant: ratio(variant, "memory_mb") for variant in measured},
    }


def show(results: dict[str, Any]) -> Table:
    """A table of one size."""
    table = Table("step of alpha", "images", "seconds", "/ none", "MiB", "/ none", "gradient")
    for variant, row in results["measured"].items():
        ratios = (results["ratios"][variant], results["memory_ratios"][variant])
        table.add_row(
            variant,
            str(row["images"] or ""),
            f"{row['seconds']:.2f}",
            f"{ratios[0]:.2f}",
            f"{row['memory_mb']:.0f}",
            f"{ratios[1]:.2f}",
            "finite, not 0" if row["finite"] else "NOT FINITE OR 0",
        )
    return table


def images_measured(size: Size, variant: str) -> int | None:
    """How many images of the batch the metric looks at; of `combined`, its bound."""
    if variant in ("none", STOCK):
        return None if variant == "none" else METHODS["ibp"].step_images
    metric, bound = VARIANTS[variant]
    return _jacobian_images(size, PRESETS[size.preset][metric]) if metric == "jacobian" else METHODS[bound].step_images


@click.command(cls=Script)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="JSON file.")
@click.option("--size", "sizes", type=click.Choice(list(SIZES)), multiple=True, default=list(SIZES), show_default=True)
def main(out: Path, sizes: tuple[str, ...]) -> None:
    """Measure, print, write."""
    report: dict[str, Any] = {"device": device_name(torch.device("cpu")), "versions": versions()}
    epochs: dict[str, dict[str, Any]] = {}  # one a preset, whatever the batch that is timed
    for name in sizes:
        size, measured = SIZES[name], {}
        for variant in size.variants:
            with get_context("spawn").Pool(1) as pool:
                measured[variant] = pool.apply(measure, (name, variant))
            measured[variant]["images"] = images_measured(size, variant)
            Console(stderr=True).print(name, variant, measured[variant])
        if size.preset not in epochs:
            with get_context("spawn").Pool(1) as pool:
                epochs[size.preset] = pool.apply(epoch, (name,))
            Console(stderr=True).print(name, "epoch", epochs[size.preset])
        batch = size.batch or PRESETS[size.preset]["cb"].batch_size
        figures = {**summarise(measured), "epoch": epochs[size.preset], "measured": measured}
        report[name] = {"batch": batch, "shape": size.shape, **figures}
        Run(out.parent).write_json(out.name, report)
        Console(width=110).print(f"{name}: batch of {batch}, {size.shape}", show(report[name]))


if __name__ == "__main__":
    main()
