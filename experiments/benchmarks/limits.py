"""What is left if the neurons' intervals were ideal: the last pass of CROWN with intervals of the linearised network.

    python experiments/benchmarks/limits.py --data DIR

The linearised network's intervals leave out everything nonlinear, so they are narrower than sound ones can be; the
bounds found here prove nothing. Where they are negative, no better interval helps: two lines a ReLU are too few.
Writes results/limits.csv.
"""

from __future__ import annotations

from pathlib import Path

import click
import torch
from torch import Tensor

from experiments.benchmarks.networks import load_reference
from experiments.common import Script, first_correct
from robust_nas.data import load
from robust_nas.runs import Run
from verify import BoundedNetwork, attack_radius, margins

RESULTS = Path(__file__).parent.parent / "results"
FRACTIONS = (0.1, 0.2, 0.3, 0.4, 0.5)
TINY = 1e-6
"""A radius at which bounds are those of the linearised network, in float64."""


@torch.no_grad()
def margin(network: BoundedNetwork, image: Tensor, label: Tensor, radius: float) -> float:
    """The smallest lower bound of a margin, l-infinity, free domain."""
    rows = margins(label, network.classes)
    tiny = network.bounds(image, TINY, specification=rows, method="affine", domain="free").intervals
    within = {
        name: ((low + high) / 2 - (high - low) / 2 * radius / TINY, (low + high) / 2 + (high - low) / 2 * radius / TINY)
        for name, (low, high) in tiny.items()
    }
    bounds = network.bounds(image, radius, specification=rows, method="affine", domain="free", within=within)
    return bounds.lower.min().item()


@click.command(cls=Script)
@click.option("--data", type=click.Path(file_okay=False, path_type=Path), help="Folder that holds MNIST.")
@click.option("--images", type=click.IntRange(min=1), default=4, show_default=True)
def main(data: Path | None, images: int) -> None:
    """The bound of the margin, in logits, at fractions of each image's attack radius."""
    torch.set_num_threads(1)
    mnist = load("mnist", data)
    model = load_reference("darts", mnist).model
    _, (x, labels) = first_correct(model, mnist.test, images, 2 * images)
    network = BoundedNetwork(model.double(), x[:1].double())
    attack = attack_radius(network, x.double(), labels, domain="free").tolist()
    rows = []
    for number, radius in enumerate(attack):
        image, label = x[number : number + 1].double(), labels[number : number + 1]
        found = {str(fraction): margin(network, image, label, fraction * radius) for fraction in FRACTIONS}
        rows.append({"image": number, "attack_radius": radius, **found})
    print(Run(RESULTS).write_csv("limits.csv", rows).read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
