"""What the benchmark says: figures for the JSON file, a table for people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from statistics import mean, median
from typing import Any

from rich.box import SIMPLE
from rich.table import Table

from experiments.benchmarks.measure import CLOSED_FORM, CROWN, Outcome

Outcomes = Mapping[str, Outcome]
COLUMNS = ("images", "radius", "/ attack", "evals", "s", "speedup", "MB")


def over_attack(outcome: Outcome, attack: list[float]) -> float:
    """Median of certified over attack radius."""
    return median(radius / limit for radius, limit in zip(outcome.radius, attack, strict=False))


def speedup(outcome: Outcome, other: Outcome | None) -> float | None:
    """How many times faster than the other, on the images that both did; None if there are none."""
    return _ratio(other.seconds, outcome.seconds) if other else None


def radius_ratio(outcome: Outcome, other: Outcome | None) -> float | None:
    """Mean radius over that of the other, on the images that both did; None if there are none or it proved nothing."""
    return _ratio(outcome.radius, other.radius) if other else None


def _ratio(above: list[float], below: list[float]) -> float | None:
    both = min(len(above), len(below))
    total = sum(below[:both])
    return sum(above[:both]) / total if total > 0 else None


def violations(outcomes: Outcomes, attack: list[float], indices: list[int]) -> list[dict[str, Any]]:
    """Certificates that an attack refutes: above the attack radius, or broken by PGD within the radius."""
    return [
        {"method": name, "index": index, "radius": radius, "attack": limit, "attacked_within": broken}
        for name, outcome in outcomes.items()
        for index, radius, limit, broken in zip(indices, outcome.radius, attack, outcome.attacked, strict=False)
        if radius > limit or broken
    ]


def figures(outcomes: Outcomes, ours: str, attack: list[float], indices: list[int]) -> dict[str, Any]:
    """All of one network and norm, as JSON holds it; `ours` names the method that the figures are about."""
    methods = {name: {**asdict(o), "attack": attack[: len(o.radius)]} for name, o in outcomes.items()}
    found: dict[str, Any] = {"methods": methods, "violations": violations(outcomes, attack, indices)}
    if ours in outcomes:
        our, crown = outcomes[ours], outcomes.get(CROWN)
        found |= {
            "speedup_vs_crown": speedup(our, crown),
            "speedup_vs_crown_closed_form": speedup(our, outcomes.get(CLOSED_FORM)),
            "radius_vs_crown": radius_ratio(our, crown),
            "radius_over_attack": over_attack(our, attack),
            "seconds_per_image": mean(our.seconds),
            "peak_memory_mb": our.peak_memory_mb,
        }
    return found


def table(title: str, outcomes: Outcomes, attack: list[float]) -> Table:
    """One row a method: mean radius, median of certified over attack radius, evaluations and seconds an image, how
    many times faster than stock CROWN (on the images that both did), peak memory.
    """
    view = Table(title=title, title_justify="left", box=SIMPLE)
    view.add_column("method", no_wrap=True)
    for column in COLUMNS:
        view.add_column(column, justify="right", no_wrap=True)
    for name, outcome in outcomes.items():
        faster = speedup(outcome, outcomes.get(CROWN))
        view.add_row(
            name,
            str(len(outcome.radius)),
            f"{mean(outcome.radius):.5f}",
            f"{over_attack(outcome, attack):.3f}",
            f"{mean(outcome.evaluations):.1f}",
            f"{mean(outcome.seconds):.2f}",
            "-" if faster is None else f"{faster:.1f}",
            f"{outcome.peak_memory_mb:.0f}",
        )
    return view
