"""How much of a certified radius is the architecture's: cells of the fidelity study, trained and certified again.

    python experiments/evidence/repeats.py --data DIR      # half a minute a cell; goes on where it was stopped

By recipe standard, as in that study but from other weights: the largest radii there are partly luck.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click
import pandas as pd
import torch

from experiments.common import Script
from experiments.evidence.judging import judged
from experiments.fidelity.networks import TRAINING_IMAGES, sample
from experiments.fidelity.report import spearman
from robust_nas.data import load
from robust_nas.runs import Run, progress

RESULTS = Path(__file__).parents[1] / "results"
SEED = 1000
"""That study has the seeds 0 to 95."""
LARGEST, EVERY = 12, 8
"""Cells of the largest radii, and every how many-th of the others by radius."""


def chosen(first: pd.DataFrame) -> pd.DataFrame:
    """The cells to train again: the best, and others over the whole range."""
    order = first.sort_values("radius", ascending=False, ignore_index=True)
    return pd.concat([order[:LARGEST], order[LARGEST::EVERY]])


def summary(first: pd.DataFrame, again: pd.DataFrame) -> str:
    """What the second training says of the first one's figures."""
    both = first.merge(again, on="index", suffixes=("", "_again"))
    best = both.nlargest(LARGEST, "radius")
    lines = [
        "| of the same cells | first training | second |",
        "| --- | --- | --- |",
        f"| mean radius of the {len(best)} largest | {best['radius'].mean():.4f} | {best['radius_again'].mean():.4f} |",
        f"| mean radius of all {len(both)} | {both['radius'].mean():.4f} | {both['radius_again'].mean():.4f} |",
        "",
        "Spearman's rank correlation of two trainings: "
        f"radius {spearman(both['radius'], both['radius_again']):.2f}, "
        f"accuracy {spearman(both['accuracy'], both['accuracy_again']):.2f}.",
    ]
    return "\n".join(lines) + "\n"


@click.command(cls=Script)
@click.option("--data", required=True, help="Folder with MNIST.")
def main(data: str) -> None:
    """Write results/evidence/repeats.csv and .md."""
    torch.set_num_threads(1)
    images = load("mnist", data)
    few = replace(images, train=images.train.take(torch.arange(TRAINING_IMAGES)))
    first, folder = pd.read_csv(RESULTS / "fidelity.csv"), Run(RESULTS / "evidence")
    path = RESULTS / "evidence" / "repeats.csv"
    rows = pd.read_csv(path).to_dict("records") if path.exists() else []
    left = [index for index in chosen(first)["index"] if index not in {row["index"] for row in rows}]
    with progress("repeats", len(left)) as step:
        for index in left:
            found = judged(sample(index), "standard", few, SEED + index, ("linf",))
            rows.append({"index": index, "accuracy": found["accuracy"], "radius": found["radius_linf"]})
            folder.write_text("repeats.csv", pd.DataFrame(rows).to_csv(index=False))
            step(f"network {index}")
    print(folder.write_text("repeats.md", summary(first, pd.DataFrame(rows))).read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
