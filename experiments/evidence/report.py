"""From single runs to claims: medians, exact paired tests over seeds, effect sizes, and a picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiments.common import markdown_table
from experiments.tables.statistics import compare
from robust_nas.files import atomic_path
from robust_nas.runs import Run

MEDIANS = ("accuracy", "radius_linf", "radius_l2", "verified_05", "verified_10")
TESTED = {
    "certified": ("verified_05", "radius_linf"),
    "standard": ("radius_linf", "radius_l2", "corrected_linf", "corrected_l2"),
    "jacobian": ("radius_linf", "radius_l2", "corrected_linf", "corrected_l2"),
}
"""Quantities that rows are compared by; corrected ones are at equal accuracy, by the trend of the random cells."""
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
    """A row a search: the means over its final trainings."""
    rows = []
    for path in sorted(out.glob("*.*.*.json")):
        found = json.loads(path.read_text(encoding="utf-8"))
        trainings = pd.DataFrame(found["trainings"])
        if trainings.empty:
            continue
        kept = {name: found[name] for name in ("row", "recipe", "seed", "search_seconds")}
        kept["torch"] = found["versions"].get("torch")
        genotype = {kind: json.dumps(found["genotype"][kind]) for kind in ("normal", "reduce")}
        rows.append({**kept, "trainings": len(trainings), **trainings.mean().to_dict(), **genotype})
    return pd.DataFrame(rows)


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
    """All pairs of rows of a recipe at the seeds that both have: sign-flip tests, corrected by Holm over all of them.

    Effects are mean differences, better minus worse, with a 95 % bootstrap interval. The direction found is listed.
    """
    tests: list[dict[str, Any]] = []
    for recipe, group in runs.groupby("recipe"):
        for quantity in TESTED[str(recipe)]:
            if not _measured(group, quantity):
                continue
            by_row = {row: dict(zip(part["seed"], part[quantity], strict=True)) for row, part in group.groupby("row")}
            for better, worse in permutations(by_row, 2):
                found = compare(by_row[better], by_row[worse])
                if found is None or found.p_value is None or found.difference <= 0:
                    continue
                tests.append(
                    {
                        "better": better,
                        "worse": worse,
                        "recipe": recipe,
                        "quantity": quantity,
                        "n": found.seeds,
                        "difference": found.difference,
                        "interval": found.interval,
                        "p": found.p_value,
                    }
                )
    for test, corrected in zip(tests, holm([test["p"] for test in tests]), strict=True):
        test["p_holm"] = corrected
    return tests


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
