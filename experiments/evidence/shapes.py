"""Cells written by hand or drawn, whose nodes read the inputs of the cell alone: what makes one verify more?

    python experiments/evidence/shapes.py --data DIR      # a minute and a half a training

Goes on where it was stopped: a line of shapes.csv a training. Seeds 1 and 2 are none of the study's.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pandas as pd
import torch

from experiments.common import Script, markdown_table
from experiments.evidence.judging import judged
from experiments.evidence.rows import trial
from experiments.fidelity.networks import TRAINING_IMAGES
from experiments.fidelity.report import spearman
from robust_nas.data import Data, load
from robust_nas.genotype import Edge, Genotype
from robust_nas.runs import Run
from robust_nas.search.screen import fresh_width, weights

RESULTS = Path(__file__).parents[1] / "results" / "evidence"
LETTERS = {
    "s3": "sep_conv_3x3",
    "s5": "sep_conv_5x5",
    "d3": "dil_conv_3x3",
    "d5": "dil_conv_5x5",
    "m": "max_pool_3x3",
    "a": "avg_pool_3x3",
    "k": "skip_connect",
}
SHAPES = (
    ("s3 k s3 k s3 k", "s3 s3 s3 s3 s3 s3"),
    ("d3 d3 d3 d3 d3 d3", "d3 d3 d3 d3 d3 d3"),
    ("d3 m d3 m m d3", "d3 d3 d3 d3 d3 d3"),
    ("k d5 k d5 k d5", "d5 d5 d5 d5 d5 d5"),
    ("m k m k m k", "d5 d5 d5 d5 d5 d5"),
    ("d5 d5 d5 d5 d5 d5", "d5 d5 d5 d5 d5 d5"),
    ("k k k k m m", "s5 s5 s5 s5 s5 s5"),
    ("d5 k d5 k d5 k", "s5 s5 s5 s5 s5 s5"),
    ("d5 k d5 k d5 d5", "s5 d5 s5 d5 s5 d5"),
    ("m a s3 k k a", "d5 s3 s5 s5 s5 s3"),
    ("s3 s5 d3 a d5 m", "s5 k d5 d5 s5 s5"),
)
"""Normal and reduction cells: two operations a node, on the first and on the second input of the cell.

Eight by hand; one that a screen by weights and widths prefers to all it met, by changes of one edge; two of the most
weights of 300 drawn.
"""
SEEDS = (1, 2)
FIGURES = ("accuracy", "verified_05", "verified_10", "radius_linf")


def genotype(normal: str, reduce: str) -> Genotype:
    """The architecture of two cells in letters."""
    concat = tuple(range(2, 5))
    return Genotype(_cell(normal), concat, _cell(reduce), concat, 3)


def _cell(text: str) -> tuple[Edge, ...]:
    return tuple((LETTERS[letters], place % 2) for place, letters in enumerate(text.split()))


def measured(normal: str, reduce: str, seed: int, data: Data) -> dict[str, Any]:
    """A line of shapes.csv."""
    cells, tried = genotype(normal, reduce), trial("certified", 1, "radius")
    width = fresh_width(cells, tried, data, 0, torch.device("cpu"))
    figures = judged(cells, "certified", data, seed, ("linf",))
    size = {"weights": weights(cells, tried, data), "width": round(width, 2)}
    return {"normal": normal, "reduce": reduce, "seed": seed, **size} | {
        name: round(figures[name], 3) for name in FIGURES
    }


def markdown(table: pd.DataFrame) -> str:
    """The cells by what they verify, and Spearman's rank correlations with their size and width."""
    trained = table.groupby(["normal", "reduce", "weights", "width"], as_index=False)["verified_05"]
    cells = trained.agg(["mean", "count"]).sort_values("mean", ascending=False)
    rows = [
        [normal, reduce, str(size), f"{width:.1f}", f"{verified:.3f}", str(trainings)]
        for normal, reduce, size, width, verified, trainings in cells.itertuples(index=False)
    ]
    lines = markdown_table(["normal", "reduction", "weights", "log width", "verified at .05", "trainings"], rows)
    told = ", ".join(f"{name} {spearman(cells[name], cells['mean']):.2f}" for name in ("weights", "width"))
    return "\n".join([*lines, "", f"Spearman's rank correlation with what is verified: {told}."]) + "\n"


@click.command(cls=Script)
@click.option("--data", required=True, help="Folder with MNIST.")
def main(data: str) -> None:
    """Write results/evidence/shapes.csv and .md."""
    torch.set_num_threads(1)
    images = load("mnist", data)
    few = replace(images, train=images.train.take(torch.arange(TRAINING_IMAGES)))
    folder, file = Run(RESULTS), RESULTS / "shapes.csv"
    rows: list[Any] = pd.read_csv(file).to_dict("records") if file.exists() else []
    done = {(row["normal"], row["reduce"], row["seed"]) for row in rows}
    for seed in SEEDS:
        for shape in SHAPES:
            if (*shape, seed) not in done:
                rows.append(measured(*shape, seed, few))
                folder.write_text("shapes.csv", pd.DataFrame(rows).to_csv(index=False))
                click.echo(rows[-1])
    click.echo(folder.write_text("shapes.md", markdown(pd.DataFrame(rows))).read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
