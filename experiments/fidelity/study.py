"""Does a metric know a robust architecture? 96 random ones are trained alike; 64 choose constants, 32 report.

    python experiments/fidelity/study.py --data DIR

Takes about three hours on two cores. Finished networks are skipped, so a stopped study goes on where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import click
import pandas as pd
import torch

from experiments.common import Script
from experiments.fidelity.networks import robustness, trained
from experiments.fidelity.report import correlations, markdown, plot, spearman
from experiments.fidelity.scores import score
from experiments.fidelity.shared import shared_scores, trained_supernet
from robust_nas.data import load
from robust_nas.runs import Run, progress
from verify import BoundedNetwork

NETWORKS = 96
CHOOSING = 64
"""The first ones; the others report."""
RESULTS = Path(__file__).parents[1] / "results"
BASELINES = ("parameters", "accuracy")


def truth(index: int, data: str, runs: Path) -> dict[str, Any]:
    """How robust a network is."""
    torch.set_num_threads(1)
    return robustness(index, load("mnist", data), runs / "weights")


def scored(index: int, data: str, runs: Path) -> dict[str, Any]:
    """What the metrics say of it."""
    torch.set_num_threads(1)
    images = load("mnist", data)
    network = BoundedNetwork(trained(index, images, runs / "weights"), images.test.images[:1])
    return {"index": index, **score(network, images)}


def collect(name: str, job: Callable[[int], dict[str, Any]], runs: Path, workers: int) -> pd.DataFrame:
    """A table with a row a network; rows that are on disk already are kept."""
    path = runs / f"{name}.csv"
    rows: list[Any] = pd.read_csv(path).to_dict("records") if path.exists() else []
    missing = [index for index in range(NETWORKS) if index not in {row["index"] for row in rows}]
    with progress(name, NETWORKS, len(rows)) as step, get_context("spawn").Pool(workers) as pool:
        for row in pool.imap(job, missing):
            rows.append(row)
            Run(runs).write_text(path.name, pd.DataFrame(rows).to_csv(index=False))
            step(f"network {row['index']}")
    return pd.DataFrame(rows).set_index("index").sort_index()


def supernet_scores(data: str, runs: Path) -> pd.DataFrame:
    """What the metrics say of every architecture in one supernet, in columns named `shared ...`."""
    path = runs / "shared.csv"
    if not path.exists():
        images = load("mnist", data)
        model = trained_supernet(images, runs)
        network = BoundedNetwork(model, images.test.images[:1])
        with progress("shared", NETWORKS) as step:
            rows = []
            for index in range(NETWORKS):
                rows.append({"index": index, **shared_scores(network, index, images)})
                step(f"network {index}")
        Run(runs).write_text(path.name, pd.DataFrame(rows).to_csv(index=False))
    return pd.read_csv(path).set_index("index").add_prefix("shared ")


@click.command(cls=Script)
@click.option("--data", required=True, help="Folder with MNIST.")
@click.option("--runs", type=click.Path(file_okay=False, path_type=Path), default=Path("runs/fidelity"))
@click.option("--workers", type=click.IntRange(min=1), default=2, show_default=True, help="Processes.")
def main(data: str, runs: Path, workers: int) -> None:
    """Run what is missing, then write results/fidelity.csv, .md and .png."""
    torch.set_num_threads(1)
    truths = collect("networks", partial(truth, data=data, runs=runs), runs, workers)
    scores = collect("scores", partial(scored, data=data, runs=runs), runs, workers)
    table = truths.join(scores).join(supernet_scores(data, runs))
    Run(RESULTS).write_text("fidelity.csv", table.to_csv())
    print(write(table, [*BASELINES, *(name for name in table if name not in truths)]))


def write(table: pd.DataFrame, columns: Sequence[str]) -> str:
    """results/fidelity.md, which it returns, and .png: how these columns of fidelity.csv rank the networks."""
    parts = (
        ("that report", table[table.index >= CHOOSING]),
        ("that choose", table[table.index < CHOOSING]),
        ("there are", table),
    )
    text = []
    for title, part in parts:
        text.append(f"Spearman's rank correlation on the {len(part)} networks {title}, 95 % bootstrap interval:\n\n")
        text.append(markdown(correlations(part, columns)) + "\n")
    shares = table["radius"] / table["attack_radius"]
    text.append(
        f"Certified radius / attack radius of the {len(table)}: {shares.min():.2f} to {shares.max():.2f}, "
        f"median {shares.median():.2f}; Spearman's rank correlation of certified radius and PGD accuracy "
        f"{spearman(table['radius'], table['pgd_accuracy']):.2f}.\n"
    )
    shown = ["cb ibp", "cb affine", "jacobian", "combined", "shared cb ibp", "shared combined"]
    plot(parts[0][1], shown, RESULTS / "fidelity.png")
    return Run(RESULTS).write_text("fidelity.md", "".join(text)).read_text(encoding="utf-8")


if __name__ == "__main__":
    main()
