"""Certified radii at the paper's full size: networks of 8, 14 and 20 cells and 36 channels on CIFAR-10.

    python experiments/benchmarks/deep.py --data DIR --out DIR       # goes on where it was stopped

DARTS-V2's cells, 5 million ReLU inputs in 20 of them. Each depth is trained briefly in two ways: plainly, and by recipe
`certified` against a small l-infinity ball, which makes its intervals as narrow as that ball asks for. Radii are those
of the first test images that a network classifies correctly, in the unit domain, by method `ibp`; the attack radius is
their ceiling. So brief a training shows how far the bounds reach, not what such a network can learn: look at the
accuracy beside each radius. Writes results/deep.csv.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import click
import torch

from experiments.benchmarks.measure import Problem, ours
from experiments.benchmarks.report import over_attack
from experiments.common import Script, first_correct
from robust_nas import resumable
from robust_nas.data import Data, load
from robust_nas.runs import Run, device_name, seed_everything
from robust_nas.spaces.network import Network
from robust_nas.training.engine import Plan, Training, accuracy
from robust_nas.training.presets import preset_for
from robust_nas.training.recipes import RecipeSettings
from robust_nas.zoo import find

RESULTS = Path(__file__).parent.parent / "results"
ARCH = "DARTS-V2"
CELLS = (8, 14, 20)
RECIPES = ("standard", "certified")
NORM, EPSILON = "linf", 5e-4
SEED = 0
TRAINING_IMAGES, EPOCHS, BATCH_SIZE = 500, 2, 8
RATE = {"standard": 0.025, "certified": 5e-3}
RAMP = (0.0, 0.5)
TEST_IMAGES = 1000
TOLERANCE = 0.05


def training(cells: int, recipe: str, data: Data) -> Training:
    """The training of one network, from the start: the paper's size, but brief, and nothing random inside it."""
    sizes = replace(
        preset_for("paper", recipe, data.train.images.shape[-1]),
        cells=cells,
        epochs=EPOCHS,
        batch_size=BATCH_SIZE,
        learning_rate=RATE[recipe],
        drop_path=0.0,
        cutout=0,
        auxiliary=0.0,
        ramp=RAMP,
    )
    seed_everything(SEED)
    settings = RecipeSettings(NORM, EPSILON if recipe == "certified" else 0.0)
    return Training(Plan(find(ARCH), sizes, recipe, settings, SEED), data, "cpu")


def trained(cells: int, recipe: str, data: Data, out: Path) -> Network:
    """The network of a training that is begun, gone on with, or done."""
    work = training(cells, recipe, data)
    plan = work.plan
    options = {"arch": ARCH, "recipe": recipe, "sizes": asdict(plan.preset), "settings": asdict(plan.settings)}
    run = resumable.begin("train", work, out, options, (), resume=(out / "config.json").exists())
    resumable.follow("train", work, run, lambda row: f"loss {row['loss']:.3g}")
    return work.network.eval()


def row(cells: int, recipe: str, data: Data, images: int, out: Path) -> dict[str, Any]:
    """One network in figures."""
    network = trained(cells, recipe, data, out)
    tested = data.test.take(torch.arange(TEST_IMAGES))
    _, examples = first_correct(network, data.test, images, TEST_IMAGES)
    problem = Problem.make(network, *examples, NORM, TOLERANCE)
    outcome, attack, graph = ours(problem, "ibp", batch_size=1), problem.attack.tolist(), problem.network.graph
    return {
        "cells": cells,
        "recipe": recipe,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "relu_inputs": sum(graph[name].output_shape[1:].numel() for name in graph.relaxed),
        "accuracy": accuracy(network, tested),
        "images": len(attack),
        "median_radius": median(outcome.radius),
        "median_attack": median(attack),
        "radius_over_attack": over_attack(outcome, attack),
        "refuted": sum(outcome.attacked),
        "seconds_an_image": sum(outcome.seconds) / len(attack),
        "peak_memory_mb": outcome.peak_memory_mb,
        "device": device_name(torch.device("cpu")),
    }


@click.command(cls=Script, epilog="Example: deep.py --data data --cells 8 --recipe certified --out runs/deep")
@click.option("--data", type=click.Path(file_okay=False, path_type=Path), help="Folder that holds CIFAR-10.")
@click.option("--cells", type=click.Choice([str(cells) for cells in CELLS]), help="This depth alone.")
@click.option("--recipe", type=click.Choice(RECIPES), help="Networks of this training alone.")
@click.option("--images", type=click.IntRange(min=1), default=8, show_default=True, help="Correctly classified ones.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=Path("runs/deep"), show_default=True)
def main(data: Path | None, cells: str | None, recipe: str | None, images: int, out: Path) -> None:
    """Train, attack and certify what is missing, then write results/deep.csv from all there is."""
    torch.set_num_threads(1)
    cifar = load("cifar10", data)
    cifar = replace(cifar, train=cifar.train.take(torch.arange(TRAINING_IMAGES)))
    chosen = list(product([int(cells)] if cells else CELLS, [recipe] if recipe else RECIPES))
    for depth, kind in chosen:
        folder = Run(out / f"{kind}-{depth}")
        if not (folder.folder / "row.json").exists():
            folder.write_json("row.json", row(depth, kind, cifar, images, folder.folder))
    paths = [out / f"{kind}-{depth}" / "row.json" for depth, kind in product(CELLS, RECIPES)]
    rows = [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.exists()]
    print(Run(RESULTS).write_csv("deep.csv", rows).read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
