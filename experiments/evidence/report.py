"""From single runs to claims: medians, exact paired tests over seeds, effect sizes, and a picture."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiments.common import markdown_table
from experiments.evidence.found import trained
from experiments.tables.statistics import compare
from robust_nas.files import atomic_path
from robust_nas.runs import Run

MEDIANS = ("accuracy", "radius_linf", "radius_l2", "verified_05", "verified_10")
TESTED = {
    "certified": ("verified_05",),
    "standard": ("radius_linf", "radius_l2", "corrected_linf", "corrected_l2"),
    "jacobian": ("radius_linf", "radius_l2", "corrected_linf", "corrected_l2"),
}
"""Quantities that rows are compared by; corrected ones are at equal accuracy, by the trend of the random cells."""
MENDED = "raced"
"""The row that is held against all others."""
FIDELITY = Path(__file__).parents[1] / "results" / "fidelity.csv"
QUANTILES = [place / 10 for place in range(11)]


def write(out: Path, results: Path) -> str:
    """runs.csv, report.json, report.md and front.png in `results`, of all searches in `out`; the text for people."""
    runs = collect(out)
    random = pd.read_csv(FIDELITY)
    tests = comparisons(with_corrections(runs, random))
    report = {
        "rows": medians(runs),
        "random": {"standard": {"radius_linf_quantiles": random["radius"].quantile(QUANTILES).tolist()}},
        "tests": tests,
    }
    folder = Run(results)
    folder.write_text("runs.csv", runs.to_csv(index=False))
    folder.write_json("report.json", report)
    plot(runs, random, results / "front.png")
    return folder.write_text("report.md", markdown(runs, tests)).read_text(encoding="utf-8")


def collect(out: Path) -> pd.DataFrame:
    """A line for each row, recipe and seed: the means over its final trainings."""
    lines = []
    for row, recipe, seed, found, genotype, trainings in trained(out, tuple(TESTED)):
        cells = {kind: json.dumps(part) for kind, part in genotype.to_dict().items() if kind in ("normal", "reduce")}
        kept = {"search_seconds": found["search_seconds"], "torch": found["versions"].get("torch")}
        means = pd.DataFrame(trainings).mean().to_dict()
        lines.append(
            {"row": row, "recipe": recipe, "seed": seed, **kept, "trainings": len(trainings), **means, **cells}
        )
    return pd.DataFrame(lines)


def medians(runs: pd.DataFrame) -> dict[str, dict[str, dict[str, float]]]:
    """By row and recipe: the number of seeds, and medians over them of what was measured."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for (row, recipe), group in runs.groupby(["row", "recipe"], sort=False):
        figures = {f"{name}_median": float(group[name].median()) for name in MEDIANS if _measured(group, name)}
        found.setdefault(str(row), {})[str(recipe)] = {"n": len(group), **figures}
    return found


def with_corrections(runs: pd.DataFrame, random: pd.DataFrame) -> pd.DataFrame:
    """With `corrected_NORM`: the logarithm of a radius, less what the random cells' trend has at that accuracy.

    The trend is a line through log radius over accuracy of the fidelity study's cells, trained by the standard recipe;
    another norm or recipe moves it by a constant, which a difference of rows does not see.
    """
    slope, at = np.polyfit(random["accuracy"], np.log(random["radius"]), 1)
    runs = runs.copy()
    for norm in ("linf", "l2"):
        if f"radius_{norm}" in runs:
            radius = runs[f"radius_{norm}"].clip(lower=1e-9)
            runs[f"corrected_{norm}"] = np.log(radius) - (slope * runs["accuracy"] + at)
    return runs


def comparisons(runs: pd.DataFrame) -> list[dict[str, Any]]:
    """The mended row against every other at the seeds that both have: sign-flip tests of the paired differences.

    Each quantity of a recipe is a claim of its own: p-values are corrected by Holm over the rows that it is made
    against. Effects are mean differences, better minus worse, with a 95 % bootstrap interval.
    """
    tests: list[dict[str, Any]] = []
    for recipe, group in runs.groupby("recipe"):
        for quantity in TESTED[str(recipe)]:
            if _measured(group, quantity):
                by_row = {
                    row: dict(zip(part["seed"], part[quantity], strict=True)) for row, part in group.groupby("row")
                }
                tests += _claim(by_row, {"recipe": recipe, "quantity": quantity})
    return tests


def _claim(by_row: Mapping[Any, dict[int, float]], names: dict[str, Any]) -> list[dict[str, Any]]:
    """The tests of one quantity: whichever of the two rows is the better is listed as such."""
    mended, tests = by_row.get(MENDED, {}), []
    for rival in by_row:
        found = compare(mended, by_row[rival])
        if rival == MENDED or found is None or found.p_value is None or found.interval is None:
            continue
        sign = 1 if found.difference >= 0 else -1
        better, worse = (MENDED, rival)[::sign]
        effect = {"difference": sign * found.difference, "interval": sorted(sign * end for end in found.interval)}
        tests.append({"better": better, "worse": worse, **names, "n": found.seeds, **effect, "p": found.p_value})
    corrected = holm([test["p"] for test in tests])
    return [{**test, "p_holm": p} for test, p in zip(tests, corrected, strict=True)]


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction: each p-value as large as the level at which the whole family lets it pass."""
    order = np.argsort(p_values, kind="stable")
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = largest
    return corrected


def markdown(runs: pd.DataFrame, tests: Sequence[dict[str, Any]]) -> str:
    """Medians and comparisons as tables for people."""
    lines = []
    for recipe, group in runs.groupby("recipe", sort=False):
        names = [name for name in (*MEDIANS, "search_seconds") if _measured(group, name)]
        rows = []
        for row, part in group.groupby("row", sort=False):
            cells = [f"{part[name].median():.3g} ({part[name].min():.3g} to {part[name].max():.3g})" for name in names]
            rows.append([str(row), str(len(part)), f"{part['trainings'].min()}", *cells])
        lines += [f"Recipe `{recipe}`, median (range) over seeds:", ""]
        lines += [*markdown_table(["row", "seeds", "trainings", *names], rows), ""]
    rows = [
        [
            f"{test['better']} over {test['worse']}",
            test["recipe"],
            test["quantity"],
            str(test["n"]),
            f"{test['difference']:+.3g} ({test['interval'][0]:+.3g} to {test['interval'][1]:+.3g})",
            f"{test['p']:.3g}",
            f"{test['p_holm']:.3g}",
        ]
        for test in tests
    ]
    headers = ["comparison", "recipe", "quantity", "seeds", "mean difference (95 %)", "p", "p, Holm"]
    return "\n".join([*lines, *markdown_table(headers, rows), ""])


def plot(runs: pd.DataFrame, random: pd.DataFrame, path: Path) -> None:
    """Accuracy against what is certified, a panel a recipe; random cells as dots where the fidelity study has them."""
    recipes = list(dict.fromkeys(runs["recipe"]))
    figure = Figure(figsize=(4.6 * len(recipes), 3.8), layout="constrained")
    for axes, recipe in zip(np.atleast_1d(figure.subplots(1, len(recipes))), recipes, strict=True):
        quantity = TESTED[recipe][0]
        if recipe == "standard":
            axes.scatter(random["accuracy"], random["radius"], s=8, color="0.7", label="96 random cells")
        for row, part in runs[runs["recipe"] == recipe].groupby("row", sort=False):
            axes.scatter(part["accuracy"], part[quantity], s=24, label=row)
        axes.set(xlabel="accuracy", ylabel=quantity, title=f"recipe {recipe}")
        axes.legend(fontsize="small")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)


def _measured(runs: pd.DataFrame, name: str) -> bool:
    return name in runs and bool(runs[name].notna().all())
