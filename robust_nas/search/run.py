"""A search, from a data set to a genotype file."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

from robust_nas.data import load
from robust_nas.genotype import Genotype
from robust_nas.metrics import METRICS, MetricSettings, RobustnessMetric
from robust_nas.runs import Run, choose_device, progress, seed_everything, versions
from robust_nas.search.engine import Row, build, count_steps, optimise
from robust_nas.search.plot import plot_alphas
from robust_nas.search.presets import PRESETS, SearchPreset
from verify.errors import InputError

NORMS = ("linf", "l2")
RESULTS = ("genotype.json", "alphas.safetensors", "alphas.png")
PAPER_SCALE = "dsrna search --metric cb --dataset cifar10 --preset paper"

Entry = TypeVar("Entry")


@dataclass(frozen=True)
class SearchResult:
    """What a search gave.

    Attributes:
        genotype_path: the genotype file.
        summary: (name, value) pairs for people.
    """

    genotype_path: Path
    summary: list[tuple[str, str]]


def run_search(
    *,
    metric: str,
    dataset: str,
    data: str | Path | None,
    download: bool,
    preset: str,
    norm: str,
    gamma: float | None,
    seed: int,
    device: str,
    out: str | Path,
) -> SearchResult:
    """Search an architecture.

    Writes genotype.json, alphas.safetensors (both alphas before softmax), alphas.png, search.csv (a row a step)
    and config.json. A search that is stopped leaves the last two, whole. On the CPU one seed gives one result,
    bit for bit.

    Args:
        metric: none, or a key of `METRICS`.
        dataset, data, download: as `robust_nas.data.load` takes them.
        preset: size and schedule, a key of `PRESETS`.
        norm: linf or l2, of the perturbation that the metric is about.
        gamma: weight of the metric in eq. 16 (DSRNA, CVPR 2021); None takes the preset's.
        seed: for weights, alpha, the split, the order of the images, and the rows that the Jacobian metric draws.
        device: auto, cpu or cuda.
        out: the run's folder.

    Raises:
        InputError: an argument is wrong, the data are not there, or the training loss is no longer finite.
    """
    sizes = _named("metric", metric, _named("preset", preset, PRESETS))
    _check(norm, gamma)
    gamma = sizes.gamma if gamma is None else gamma
    place = choose_device(device)
    images = load(dataset, data, download)
    choices = {"metric": metric, "dataset": dataset, "preset": preset, "norm": norm, "gamma": gamma, "seed": seed}
    run = Run.start(out, "search", {**choices, "data": data, "sizes": asdict(sizes)}, place)
    for name in RESULTS:  # of an earlier run; they must not stand beside this one's configuration
        (run.folder / name).unlink(missing_ok=True)

    seed_everything(seed)
    model = build(images, sizes).to(place)
    log = run.csv("search.csv")
    rows: list[Row] = []
    started = time.monotonic()
    with progress("search", count_steps(images, sizes)) as step:
        for row in optimise(model, images, sizes, _metric(metric, sizes, norm, seed), gamma, seed):
            log.append(row)
            rows.append(row)
            step(_note(row))
    seconds = time.monotonic() - started

    run.save_tensors("alphas.safetensors", dict(model.alphas))
    plot_alphas(dict(model.alphas), model.nodes, run.folder / "alphas.png")
    genotype = model.genotype(
        {
            "method": "darts",
            **choices,
            "bound_method": sizes.bound_method,
            "epsilon": rows[-1].get("epsilon"),
            "versions": versions(),
        }
    )
    path = run.folder / "genotype.json"
    genotype.save(path)
    return SearchResult(path, _summary(genotype, rows, choices, seconds))


def _metric(name: str, sizes: SearchPreset, norm: str, seed: int) -> RobustnessMetric | None:
    if name == "none":
        return None
    settings = MetricSettings(
        norm=norm,
        seed=seed,
        bound_method=sizes.bound_method,
        bound_images=sizes.bound_images,
        jacobian_images=sizes.jacobian_images,
        jacobian_exact=sizes.jacobian_exact,
    )
    return METRICS[name](settings)


def _note(row: Row) -> str:
    """A row in a few words, for the progress display."""
    names = ("train_loss", "val_loss", "robustness", "epsilon")
    shown = ((name, row.get(name)) for name in names)
    return "  ".join(f"{name} {value:.3g}" for name, value in shown if value is not None)


def _summary(
    genotype: Genotype, rows: Sequence[Row], choices: Mapping[str, object], seconds: float
) -> list[tuple[str, str]]:
    counts = {
        name: Counter(operation for operation, _ in edges)
        for name, edges in (("normal cell", genotype.normal), ("reduction cell", genotype.reduce))
    }
    summary = [
        ("search", f"{choices['metric']} ({choices['norm']}, gamma {choices['gamma']:g}) on {choices['dataset']}"),
        *((name, ", ".join(f"{n} {op}" for op, n in count.most_common())) for name, count in counts.items()),
        ("training loss", _course(rows, "train_loss")),
        ("validation loss", _course(rows, "val_loss")),
        ("robustness", _course(rows, "robustness")),
        ("epsilon", _course(rows, "epsilon")),
        ("time", f"{len(rows)} steps in {seconds:.0f} s"),
    ]
    if choices["preset"] == "quick":
        summary.append(("paper scale", PAPER_SCALE))
    return [(name, value) for name, value in summary if value]


def _course(rows: Sequence[Row], name: str) -> str:
    """A figure at its first and last step; empty where there is none."""
    values = [value for row in rows if (value := row.get(name)) is not None]
    return f"{values[0]:.3g} -> {values[-1]:.3g}" if values else ""


def _check(norm: str, gamma: float | None) -> None:
    if norm not in NORMS:
        raise InputError(f"unknown norm {norm!r} for a search; known: {', '.join(NORMS)}")
    if gamma is not None and not 0 <= gamma < math.inf:
        raise InputError(f"gamma must be a finite number >= 0, not {gamma}")


def _named(kind: str, name: str, registry: Mapping[str, Entry]) -> Entry:
    if name not in registry:
        raise InputError(f"unknown {kind} {name!r}; known: {', '.join(registry)}")
    return registry[name]
