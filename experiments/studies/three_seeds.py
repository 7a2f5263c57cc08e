"""What the certified bound changes in a search on digits, against what a seed changes.

For three seeds, with metric none and cb: search, train the result the same way, certify the same digits. Finished
steps are skipped, so a stopped run goes on where it was. Run it with `python experiments/studies/three_seeds.py`.
"""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from statistics import mean
from typing import Any

import pandas as pd
import torch
from safetensors.torch import load_file
from torch import Tensor

from experiments.common import markdown_table
from robust_nas.certification import run_certify
from robust_nas.genotype import Genotype
from robust_nas.options import CertifyOptions, SearchOptions, TrainOptions
from robust_nas.runs import Run
from robust_nas.search import run_search
from robust_nas.training import run_training

METRICS = ("none", "cb")
SEEDS = (0, 1, 2)
RUNS = Path("runs/three-seeds")
RESULTS = Path(__file__).parents[1] / "results"
DIGITS = 16
FIGURES = {"accuracy": 3, "mean_linf_radius": 4, "mean_l2_radius": 4}
"""Of a row, with the digits printed."""
COMMON: dict[str, Any] = {"dataset": "digits", "preset": "quick", "device": "cpu"}


def folder(metric: str, seed: int) -> Path:
    """Where the runs of one search are."""
    return RUNS / f"{metric}-{seed}"


def search_train_certify(metric: str, seed: int) -> None:
    """All three, but for what is there already; training and certification have seed 0 for every architecture."""
    out = folder(metric, seed)
    arch, weights = out / "search" / "genotype.json", out / "train" / "model.safetensors"
    if not arch.exists():
        run_search(SearchOptions(metric=metric, seed=seed, out=arch.parent, **COMMON))
    if not weights.with_suffix(".json").exists():
        run_training(TrainOptions(arch=arch, out=weights.parent, **COMMON))
    for norm in ("linf", "l2"):
        target = out / f"certify-{norm}"
        if not (target / "done").exists():
            run_certify(CertifyOptions(
                arch=arch, weights=weights, norm=norm, images=DIGITS, method="affine", out=target, **COMMON
            ))
            Run(target).write_text("done", "")


def architecture(metric: str, seed: int) -> Tensor:
    """softmax of both alphas, as one vector."""
    alphas = load_file(folder(metric, seed) / "search" / "alphas.safetensors")
    return torch.cat([torch.softmax(alphas[cell].double(), dim=1).flatten() for cell in ("normal", "reduce")])


def row(metric: str, seed: int) -> dict[str, object]:
    """One search, in figures; a misclassified digit has radius 0 and counts in the mean."""
    out = folder(metric, seed)
    radii = {norm: pd.read_csv(out / f"certify-{norm}" / "certify.csv") for norm in ("linf", "l2")}
    genotype = Genotype.load(out / "search" / "genotype.json")
    return {
        "metric": metric,
        "seed": seed,
        "accuracy": float(radii["linf"]["correct"].astype(bool).mean()),
        "mean_linf_radius": float(radii["linf"]["radius"].mean()),
        "mean_l2_radius": float(radii["l2"]["radius"].mean()),
        "normal": " ".join(operation for operation, _ in genotype.normal),
        "reduce": " ".join(operation for operation, _ in genotype.reduce),
    }


def distances() -> dict[str, float]:
    """Mean l2 distances of softmax(alpha): from the metric at one seed, and from the seed at one metric."""

    def distance(first: tuple[str, int], second: tuple[str, int]) -> float:
        return torch.dist(architecture(*first), architecture(*second)).item()

    found = {"none to cb, same seed": mean(distance(("none", seed), ("cb", seed)) for seed in SEEDS)}
    for metric in METRICS:
        pairs = combinations(SEEDS, 2)
        found[f"seed to seed, {metric}"] = mean(distance((metric, a), (metric, b)) for a, b in pairs)
    return found


def main() -> None:
    """Run what is missing, then write results/three_seeds.csv and results/three_seeds.md."""
    torch.set_num_threads(1)  # another number rounds otherwise, and small tensors are the fastest on one
    for seed in SEEDS:
        for metric in METRICS:
            search_train_certify(metric, seed)
    rows = [row(metric, seed) for metric in METRICS for seed in SEEDS]
    results = Run(RESULTS)
    results.write_csv("three_seeds.csv", rows)
    headers = ["metric", "seed", f"accuracy, {DIGITS} digits", "mean linf radius", "mean l2 radius"]
    cells = [
        [str(r["metric"]), str(r["seed"]), *(f"{r[name]:.{digits}f}" for name, digits in FIGURES.items())] for r in rows
    ]
    moved = [[name, f"{value:.3f}"] for name, value in distances().items()]
    lines = [
        *markdown_table(headers, cells),
        "",
        *markdown_table(["distance of softmax(alpha), l2, mean", ""], moved),
    ]
    print(results.write_text("three_seeds.md", "\n".join(lines) + "\n").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
