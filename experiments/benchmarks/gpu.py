"""What can be measured of a GPU in a minute each: a step of alpha at paper size, certificates in batches, repetition.

    python experiments/benchmarks/gpu.py WHAT --out FILE.json

`gpu.sh` runs all of it, with the tests that need a GPU and a search by NCCL.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import click
import torch
from torch import nn

from experiments.common import Script
from robust_nas.data import Data, Examples, load
from robust_nas.metrics import METRICS, MetricSettings
from robust_nas.runs import Run, choose_device, device_name, peak_memory, versions
from robust_nas.search.engine import Search
from robust_nas.search.presets import PRESETS, SearchPreset
from robust_nas.search.stage import Plan
from verify import BoundedNetwork, certified_radius

WARM_UP, TIMED = 2, 8
"""Steps that are not timed, and that are."""


def data(images: int, side: int = 32) -> Data:
    """Random images in three colours."""
    generator = torch.Generator().manual_seed(0)
    examples = Examples(torch.rand(images, 3, side, side, generator=generator), torch.arange(images) % 10)
    return Data("random", examples, examples, 10, (0.5,) * 3, (0.3,) * 3)


def search_steps(preset: SearchPreset, images: Data, device: torch.device, amp: bool, count: int) -> dict[str, Any]:
    """Median seconds of a step of weights and alpha with the certified bound, MiB at the most, and the last losses."""
    torch.manual_seed(0)
    metric = METRICS["cb"](MetricSettings("linf"))
    search = Search(Plan(preset, metric=metric, gamma=preset.gamma, amp=amp), images, device)
    seconds, begin, last = [], time.perf_counter(), None
    for row in islice(search.steps(), count):
        seconds.append(time.perf_counter() - begin)  # a row holds numbers: the device has finished
        begin, last = time.perf_counter(), row["train_loss"]
    return {
        "batch": preset.batch_size,
        "amp": amp,
        "seconds": statistics.median(seconds[WARM_UP:]),
        "memory_mb": peak_memory(device),
        "train_loss": last,
    }


def search_step(device: torch.device) -> dict[str, Any]:
    """Of the paper's search on CIFAR-10, with and without half precision in the weights' step."""
    preset = replace(PRESETS["paper"]["cb"], warm_up=0)
    images = data(2 * preset.batch_size * (WARM_UP + TIMED + 1))
    return {name: search_steps(preset, images, device, name == "amp", WARM_UP + TIMED) for name in ("float32", "amp")}


def classifier() -> nn.Module:
    """A small convolutional network for 8 x 8 digits, with random weights."""
    torch.manual_seed(0)
    layers = (nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU(), nn.Flatten())
    return nn.Sequential(*layers, nn.Linear(128, 10)).eval()


def batches(device: torch.device, counts: tuple[int, ...] = (1, 8, 64, 256)) -> dict[str, Any]:
    """Seconds an image of radii of so many images at once, and the largest difference from a CPU's, relative."""
    images = load("digits").test.images[: max(counts)]
    found: dict[str, Any] = {}
    radii = {}
    for place in dict.fromkeys((torch.device("cpu"), device)):
        model = classifier().to(place)
        x = images.to(place)
        network, labels = BoundedNetwork(model, x[:1]), model(x).argmax(1)
        for count in counts if place == device else counts[-1:]:
            begin = time.perf_counter()
            result = certified_radius(network, x[:count], labels[:count], "linf", method="crown", batch_size=count)
            radii[place] = result.radius.cpu()
            if place == device:
                found[str(count)] = (time.perf_counter() - begin) / count
    apart = (radii[device] - radii[torch.device("cpu")]).abs() / radii[torch.device("cpu")].clamp(min=1e-12)
    return {"seconds_an_image": found, "relative_difference": apart.max().item(), "memory_mb": peak_memory(device)}


def repeated(device: torch.device, preset: SearchPreset | None = None) -> dict[str, Any]:
    """Whether two searches by torch's deterministic algorithms end with the same loss bit for bit."""
    preset = replace(PRESETS["quick"]["cb"], warm_up=0) if preset is None else preset
    torch.use_deterministic_algorithms(True)
    try:
        images = data(2 * preset.batch_size * 3, 8)
        losses = [search_steps(preset, images, device, False, WARM_UP + 1)["train_loss"] for _ in range(2)]
    finally:
        torch.use_deterministic_algorithms(False)
    return {"losses": losses, "same": losses[0] == losses[1]}


WHAT: dict[str, Callable[[torch.device], dict[str, Any]]] = {
    "search-step": search_step,
    "batches": batches,
    "repeated": repeated,
}


@click.command(cls=Script)
@click.argument("what", type=click.Choice(list(WHAT)))
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="cuda", show_default=True)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="JSON file.")
def main(what: str, device: str, out: Path) -> None:
    """Measure and write."""
    place = choose_device(device)
    report = {"device": device_name(place), "versions": versions(), what: WHAT[what](place)}
    Run(out.parent).write_json(out.name, report)


if __name__ == "__main__":
    main()
