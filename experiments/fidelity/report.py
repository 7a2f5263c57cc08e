"""Rank correlations of metrics with robustness, on the networks that no choice was made on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.stats import spearmanr

from experiments.common import markdown_table
from robust_nas.files import atomic_path

TRUTHS = ("radius", "pgd_accuracy")
RESAMPLES = 2000


def correlations(table: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Spearman's rank correlation of each column with the truths, and its 95 % bootstrap interval."""
    rows = []
    for column in columns:
        row: dict[str, object] = {"metric": column}
        for truth in TRUTHS:
            row[truth] = spearman(table[column], table[truth])
            row[f"{truth} low"], row[f"{truth} high"] = _interval(table[column], table[truth])
        row["jacobian"] = spearman(table[column], table["jacobian"])
        rows.append(row)
    return pd.DataFrame(rows)


def markdown(found: pd.DataFrame) -> str:
    """The correlations as a table for people."""
    rows = [
        [
            row["metric"],
            *(f"{row[t]:.2f} ({row[f'{t} low']:.2f} to {row[f'{t} high']:.2f})" for t in TRUTHS),
            f"{row['jacobian']:.2f}",
        ]
        for _, row in found.iterrows()
    ]
    return "\n".join(markdown_table(["", "certified radius", "PGD accuracy", "Jacobian metric"], rows)) + "\n"


def plot(table: pd.DataFrame, columns: Sequence[str], path: Path) -> None:
    """The radius against each metric, both as ranks: what the correlation is of."""
    figure = Figure(figsize=(3 * len(columns), 3.2), layout="constrained")
    for axes, column in zip(np.atleast_1d(figure.subplots(1, len(columns), sharey=True)), columns, strict=True):
        axes.scatter(table[column].rank(), table["radius"].rank(), s=14)
        axes.set(xlabel=f"rank of {column}", title=f"{spearman(table[column], table['radius']):.2f}")
    figure.axes[0].set_ylabel("rank of the certified radius")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)


def spearman(first: pd.Series, second: pd.Series) -> float:
    """Spearman's rank correlation."""
    return float(spearmanr(first, second).statistic)


def _interval(first: pd.Series, second: pd.Series) -> tuple[float, float]:
    """Of the correlation, by drawing networks with replacement."""
    generator, pairs = np.random.default_rng(0), np.column_stack([first, second])
    draws = generator.integers(len(pairs), size=(RESAMPLES, len(pairs)))
    found = [spearmanr(pairs[draw, 0], pairs[draw, 1]).statistic for draw in draws]
    low, high = np.nanpercentile(found, [2.5, 97.5])
    return float(low), float(high)
