"""Does the width of intervals at fresh weights know, before any training, what a trained network certifies?

    python experiments/evidence/widths.py --data DIR      # two minutes; on the 96 networks of the fidelity study
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click
import pandas as pd
import torch

from experiments.common import Script, markdown_table
from experiments.evidence.rows import trial
from experiments.fidelity.networks import TRAINING_IMAGES, sample
from experiments.fidelity.report import spearman
from experiments.fidelity.study import NETWORKS
from robust_nas.data import load
from robust_nas.runs import Run, progress
from robust_nas.search.screen import fresh_width

RESULTS = Path(__file__).parents[1] / "results"
ACCURATE = 0.955
TRUTHS = ("radius", "accuracy", "attack_radius")
"""Columns of fidelity.csv, of the networks that were trained by the standard recipe."""


def widths(data: str) -> pd.DataFrame:
    """The logarithm of the width, by the recipe that gives the fresh weights, of every architecture."""
    images = load("mnist", data)
    few = replace(images, train=images.train.take(torch.arange(TRAINING_IMAGES)))
    trials = {recipe: trial(recipe, 1, "radius") for recipe in ("standard", "certified")}
    rows = []
    with progress("widths", NETWORKS) as step:
        for index in range(NETWORKS):
            found = {
                recipe: fresh_width(sample(index), each, few, 0, torch.device("cpu")) for recipe, each in trials.items()
            }
            rows.append({"index": index, **found})
            step(f"network {index}")
    return pd.DataFrame(rows)


def markdown(table: pd.DataFrame) -> str:
    """Spearman's rank correlations with what the trained networks have."""
    parts = {f"all {len(table)}": table}
    accurate = table[table["accuracy"] > ACCURATE]
    parts[f"the {len(accurate)} of accuracy > {ACCURATE}"] = accurate
    rows = [
        [f"{name}, fresh by recipe {recipe}", *(f"{spearman(part[recipe], part[truth]):.2f}" for truth in TRUTHS)]
        for name, part in parts.items()
        for recipe in ("standard", "certified")
    ]
    return "\n".join(markdown_table(["networks", "certified radius", "accuracy", "attack radius"], rows)) + "\n"


@click.command(cls=Script)
@click.option("--data", required=True, help="Folder with MNIST.")
def main(data: str) -> None:
    """Write results/evidence/widths.csv and .md."""
    torch.set_num_threads(1)
    found = widths(data)
    folder = Run(RESULTS / "evidence")
    folder.write_text("widths.csv", found.to_csv(index=False))
    table = found.merge(pd.read_csv(RESULTS / "fidelity.csv"), on="index")
    print(folder.write_text("widths.md", markdown(table)).read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
