"""A search, from a data set to a genotype file."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from robust_nas import resumable
from robust_nas.data import load
from robust_nas.distributed import Processes, processes
from robust_nas.genotype import Architecture, Genotype
from robust_nas.metrics import METRICS, MetricSettings, RobustnessMetric
from robust_nas.registry import named
from robust_nas.runs import Row, Run, choose_device, notice, read_rows, seed_everything, versions
from robust_nas.search.engine import Search
from robust_nas.search.judges import JUDGES
from robust_nas.search.memory import advice
from robust_nas.search.plot import plot_alphas, plot_search
from robust_nas.search.presets import BOUND_IMAGES, PRESETS, SearchPreset, preset_for
from robust_nas.search.stage import Plan
from robust_nas.search.stopping import STOPPING_RULES
from robust_nas.search.strategies import STRATEGIES, Method
from robust_nas.search.trials import Trial, training_preset, trial_at
from robust_nas.search.watch import collapse
from robust_nas.spaces.cells import KINDS
from robust_nas.spaces.supernet import Supernet
from robust_nas.training.recipes import RECIPES, RecipeSettings, default_epsilon
from verify.checks.errors import InputError

NORMS = ("linf", "l2")
BOUNDED = ("cb", "log-radius", "combined")
"""Metrics with a certified bound."""
DRAWN = 8
"""Architectures drawn near the result for each that is tried, where a radius judges."""
RESULTS = ("genotype.json", "alphas.safetensors", "alphas.png", "search.png")
PAPER_SCALE = "dsrna search --metric cb --dataset cifar10 --preset paper"

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
    metric: str | None = None,
    dataset: str = "digits",
    data: str | Path | None = None,
    download: bool = False,
    preset: str = "quick",
    method: str = "darts",
    space: str | None = None,
    order: str | None = None,
    norm: str = "linf",
    gamma: float | None = None,
    balance: float | None = None,
    recipe: str | None = None,
    epsilon: float | None = None,
    trials: int | None = None,
    screen: int | None = None,
    refine: int | None = None,
    judge: str | None = None,
    bound: str | None = None,
    jacobian: str | None = None,
    nodes: int | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    stop: str | None = None,
    hessian: bool = False,
    amp: bool = False,
    resume: bool = False,
    seed: int = 0,
    device: str = "auto",
    out: str | Path = "runs/search",
) -> SearchResult:
    """Search an architecture.

    Writes genotype.json, alphas.safetensors (the architecture parameters before softmax), alphas.png, search.csv (a row
    a step), search.png, timing.csv, config.json, and after every epoch a checkpoint. A search that is stopped with
    Ctrl-C or SIGTERM saves its state first. On the CPU one seed gives one result, bit for bit, stopped and resumed
    as often as one likes.

    Under torchrun the processes share every batch, and the first one writes.

    Args:
        metric: none, or a key of `METRICS`; None for "cb" where the method takes one.
        dataset, data, download: as `robust_nas.data.load` takes them.
        preset: size and schedule, a key of `PRESETS`.
        method: a key of `STRATEGIES`.
        space: "darts", "robnet" (one cell for the whole network) or "robnet-free" (each cell has its own), of those
            that the method can search.
        order: "first", or "second": alpha's gradient through one step of the weights; of those that the method knows.
        norm: linf or l2, of the perturbation that the metric is about.
        gamma: weight of the metric in eq. 16 (DSRNA, CVPR 2021).
        balance: in place of gamma, how hard the metric pulls alpha relative to the loss (`Balance`).
        recipe: what the weights learn by, alpha on held-out images, and candidates that are tried: a key of
            `training.recipes.RECIPES`; None for cross-entropy, or the method's own.
        epsilon: of the recipe, in pixels of [0, 1]; certified bounds of the metric are taken there too. None for the
            recipe's own; then bounds are too only where the recipe is "certified", else epsilon follows their width.
        trials: architectures near the result that are trained a short way at the end, the result among them; the best
            is the result instead. For methods that try candidates anyway, how many.
        screen: architectures that are drawn for each that is tried, see `Trial.drawn`; None for `DRAWN`, but for 1 with
            judge "accuracy" and with methods that try candidates anyway.
        refine: how many of the trials, the last ones, are of the best architecture so far with an edge changed.
        judge: "accuracy" or "radius": what the best of them has (`judges.judged`); None for "radius", but "accuracy"
            for methods that try candidates anyway by a recipe that certifies nothing.
        bound: method of the certified bound, a key of `BOUND_IMAGES`.
        jacobian: estimate of the Jacobian metric.
        nodes, batch_size: intermediate nodes of a cell, images a step (of all processes).
        epochs: length of the search; a warm-up leaves at least one of them to alpha.
        stop: a key of `STOPPING_RULES`, None for the method's own.
        hessian: follow the top eigenvalue of the Hessian in alpha.
        amp: bfloat16 in the weights' step where that is safe.
        resume: go on with the run in `out`.
        seed: for weights, alpha, the split, the order of the images, and the rows that the Jacobian metric draws.
        device: auto, cpu or cuda.
        out: the run's folder.

    Where another argument is None, the preset's value counts, or the method's.

    Raises:
        InputError: an argument is wrong, the data are not there, there is nothing to resume, or the training loss is
            no longer finite.
    """
    strategy = named("method", method, STRATEGIES)(space)
    metric = metric or ("cb" if strategy.metrics else "none")
    order, stop = order or strategy.orders[0], stop or strategy.stopping
    named("metric", metric, named("preset", preset, PRESETS))
    sizes = preset_for(preset, metric, method)
    changes: dict[str, Any] = {
        "gamma": gamma, "bound_method": bound, "jacobian": jacobian, "nodes": nodes, "epochs": epochs,
        "batch_size": batch_size,
    }  # fmt: skip
    sizes = replace(sizes, **{name: value for name, value in changes.items() if value is not None})
    sizes = replace(sizes, warm_up=min(sizes.warm_up, sizes.epochs - 1))
    if metric in BOUNDED and sizes.bound_method == "crown-ibp":
        # It keeps lower and upper ends, which float32 cannot tell apart where it works.
        sizes = replace(sizes, dtype="float64")
    hessian = hessian or stop == "eigenvalue"
    _check(norm, sizes)
    _check_balance(balance, gamma, metric)
    _check_method(method, strategy, metric, order, stop, hessian)
    rule = None if stop is None else named("stopping rule", stop, STOPPING_RULES)()
    place = choose_device(device)
    training = _training(method, strategy, recipe, epsilon, norm, dataset, order, hessian, amp)
    trial = _trial(method, strategy, sizes, dataset, training, trials, screen, refine or 0, judge)
    choices = {
        "method": method,
        "space": strategy.space,
        "metric": metric,
        "order": order,
        "dataset": dataset,
        "preset": preset,
        "norm": norm,
        "gamma": sizes.gamma,
        "balance": balance,
        "recipe": training[0],
        "recipe_epsilon": training[1].epsilon,
        "trials": None if trial is None else trial.count,
        "screen": None if trial is None else trial.drawn,
        "refine": None if trial is None else trial.refined,
        "judge": None if trial is None else trial.judge,
        "seed": seed,
        "stop": stop,
    }
    with processes(place) as team:
        at = training[1].epsilon if training[0] == "certified" else epsilon
        measure = _metric(metric, sizes, norm, seed, at)
        _check_team(team, sizes, measure, hessian)
        images = team.leader_first(lambda: load(dataset, data, download))
        options = {
            **choices, "device": place.type, "data": data, "hessian": hessian, "amp": amp, "processes": team.size,
            "sizes": asdict(sizes),
        }
        seed_everything(seed)
        plan = Plan(
            sizes, strategy, measure, sizes.gamma, balance, *training, trial, seed, order, rule, hessian, amp
        )
        search = Search(plan, images, place, team)
        run = resumable.begin("search", search, out, options, RESULTS, resume)
        if team.leads and search.stage is not None:
            notice(advice(search))
        seconds = resumable.follow("search", search, run, _note)
        meta = {**choices, "bound_method": sizes.bound_method, "versions": versions()}
        result = _finish(search, run, meta, seconds) if team.leads else None
    return result or SearchResult(run.folder / "genotype.json", [])


def _finish(search: Search, run: Run, meta: Mapping[str, Any], seconds: float) -> SearchResult:
    """Write the results."""
    rows = read_rows(run.folder / "search.csv")
    if parameters := search.parameters():
        run.save_tensors("alphas.safetensors", parameters)
        model, alphas = search.model, {kind: parameters[kind] for kind in KINDS}
        assert isinstance(model, Supernet)
        plot_alphas(alphas, model.operations, model.nodes, run.folder / "alphas.png")
    plot_search(rows, run.folder / "search.png")
    stopped = None if search.stopped is None else search.stopped.reason
    genotype = search.genotype().with_meta({**meta, "epsilon": rows[-1].get("epsilon"), "stopped": stopped})
    path = run.folder / "genotype.json"
    genotype.save(path)
    return SearchResult(path, _summary(genotype, rows, search, seconds))


def _note(row: Row) -> str:
    return resumable.in_words(row, ("train_loss", "val_loss", "robustness", "epsilon"))


def _training(
    method: str,
    strategy: Method[Any],
    recipe: str | None,
    epsilon: float | None,
    norm: str,
    dataset: str,
    order: str,
    hessian: bool,
    amp: bool,
) -> tuple[str, RecipeSettings]:
    """The recipe of the supernet, and its settings."""
    name = recipe or "standard"
    kind = named("recipe", name, RECIPES)
    if name != "standard":
        if not strategy.recipes:
            raise InputError(f"{method} has a training of its own; leave out --recipe")
        if order == "second" or hessian or amp:
            raise InputError(f"--order second, --hessian and --amp know the recipe standard, not {name}")
        if norm not in kind.norms:
            raise InputError(f"unknown norm {norm!r} for recipe {name}; known: {', '.join(kind.norms)}")
    size = default_epsilon(name, dataset, norm) if epsilon is None else epsilon
    if not 0 <= size < math.inf:
        raise InputError(f"epsilon must be a finite number >= 0, not {size}")
    return name, RecipeSettings(norm, size)


def _trial(
    method: str,
    strategy: Method[Any],
    sizes: SearchPreset,
    dataset: str,
    training: tuple[str, RecipeSettings],
    trials: int | None,
    screen: int | None,
    refine: int,
    judge: str | None,
) -> Trial | None:
    """How candidates are tried at the end; None where none are."""
    recipe, settings = training
    if trials is not None:
        if trials < 1:
            raise InputError(f"trials must be at least 1, not {trials}")
        if not strategy.recipes:
            raise InputError(f"{method} chooses among candidates in its own way; leave out --trials")
        sizes = replace(sizes, candidates=trials)
    own = strategy.trial(sizes, dataset)
    if own is None and trials is None:
        if judge is not None or screen is not None or refine:
            raise InputError("--judge, --screen and --refine are about candidates tried at the end; give --trials too")
        return None
    if (screen is not None or refine) and (not strategy.recipes or strategy.space != "darts"):
        raise InputError("--screen and --refine are for cells of the space darts")
    if screen is not None and screen < 1:
        raise InputError(f"screen must be at least 1, not {screen}")
    drawn = screen or (1 if own is not None or judge == "accuracy" else DRAWN)
    trial = replace(own or trial_at(sizes, "standard", dataset), drawn=drawn, refined=refine)
    if recipe != "standard":
        preset = training_preset(replace(sizes, cells=trial.preset.cells), recipe)
        trial = replace(trial, preset=preset, recipe=recipe, settings=settings)
    if trials is not None:
        trial = replace(trial, count=trials)
    if not 0 <= refine < trial.count:
        raise InputError(f"of {trial.count} trials the first is not refined; --refine must be less, not {refine}")
    judge = judge or ("accuracy" if own is not None and recipe != "certified" else "radius")
    if judge not in JUDGES:
        raise InputError(f"unknown judge {judge!r}; known: {', '.join(JUDGES)}")
    return replace(trial, judge=judge)


def _metric(
    name: str, sizes: SearchPreset, norm: str, seed: int, epsilon: float | None = None
) -> RobustnessMetric | None:
    if name == "none":
        return None
    settings = MetricSettings(
        norm=norm,
        seed=seed,
        bound_method=sizes.bound_method,
        bound_images=BOUND_IMAGES["ibp" if name == "ibp-slope" else sizes.bound_method],
        epsilon=epsilon,
        jacobian=sizes.jacobian,
        jacobian_images=sizes.jacobian_images,
    )
    return METRICS[name](settings)


def _summary(genotype: Architecture, rows: Sequence[Row], search: Search, seconds: float) -> list[tuple[str, str]]:
    meta = genotype.meta
    counts = {
        name if "cell" in name else f"{name} cell": Counter(operation for operation, _ in plan.edges)
        for name, plan in genotype.plans().items()
    }
    metric = meta["metric"] + (f" by {meta['bound_method']}" if meta["metric"] in BOUNDED else "")
    summary = [
        (
            "search",
            f"{meta['method']}, {meta['order']} order, {metric} ({meta['norm']}, gamma {meta['gamma']:g}) "
            f"on {meta['dataset']}",
        ),
        *((name, ", ".join(f"{n} {op}" for op, n in count.most_common())) for name, count in counts.items()),
        ("training loss", _course(rows, "train_loss")),
        ("validation loss", _course(rows, "val_loss")),
        ("robustness", _course(rows, "robustness")),
        ("epsilon", _course(rows, "epsilon")),
        ("time", f"{len(rows)} steps in {seconds:.0f} s"),
        ("stopped early", meta["stopped"] or ""),
        ("candidates", _candidates(search)),
        ("warning", (isinstance(genotype, Genotype) and collapse(genotype)) or ""),
    ]
    if meta["preset"] == "quick":
        summary.append(("paper scale", PAPER_SCALE))
    return [(name, value) for name, value in summary if value]


def _candidates(search: Search) -> str:
    if search.trials is None:
        return ""
    trial = search.trials.trial
    text = f"{len(search.trials.scores)}"
    right = "adversarial accuracy" if trial.recipe == "adversarial" else "accuracy"
    names = (right, "certified radius", "verified accuracy")
    for name, values in zip(names, zip(*search.trials.scores, strict=True), strict=True):
        known = [value for value in values if value is not None]
        text += f", {name} {min(known):.3g} to {max(known):.3g}" if known else ""
    return text


def _course(rows: Sequence[Row], name: str) -> str:
    """A figure at its first and last step; empty where there is none."""
    values = [value for row in rows if (value := row.get(name)) is not None]
    return f"{values[0]:.3g} -> {values[-1]:.3g}" if values else ""


def _check_method(
    method: str, strategy: Method[Any], metric: str, order: str, stop: str | None, hessian: bool
) -> None:
    if order not in strategy.orders:
        raise InputError(f"{method} knows the order {' and '.join(strategy.orders)}, not {order}")
    if strategy.metrics:
        return
    if metric != "none":
        raise InputError(f"{method} takes no gradient in architecture parameters, so no metric; leave out --metric")
    if stop or hessian:
        raise InputError(f"{method} has no validation loss in architecture parameters; leave out --stop and --hessian")


def _check(norm: str, sizes: SearchPreset) -> None:
    if norm not in NORMS:
        raise InputError(f"unknown norm {norm!r} for a search; known: {', '.join(NORMS)}")
    named("bound", sizes.bound_method, BOUND_IMAGES)
    if not 0 <= sizes.gamma < math.inf:
        raise InputError(f"gamma must be a finite number >= 0, not {sizes.gamma}")
    if sizes.nodes < 1:
        raise InputError(f"nodes must be at least 1, not {sizes.nodes}")
    if sizes.epochs < 1:
        raise InputError(f"epochs must be at least 1, not {sizes.epochs}")
    if sizes.batch_size < 2:
        raise InputError(f"batch-size must be at least 2, of which batch norm takes a variance, not {sizes.batch_size}")


def _check_balance(balance: float | None, gamma: float | None, metric: str) -> None:
    if balance is None:
        return
    if not 0 < balance < math.inf:
        raise InputError(f"balance must be a finite number above 0, not {balance}")
    if gamma is not None:
        raise InputError("the metric has one weight: give either --gamma or --balance")
    if metric == "none":
        raise InputError("--balance is about a metric; leave it out, or choose one by --metric")


def _check_team(team: Processes, sizes: SearchPreset, metric: RobustnessMetric | None, hessian: bool) -> None:
    fewest = sizes.batch_size if metric is None else min(sizes.batch_size, metric.images)
    if team.size > fewest:
        raise InputError(f"{team.size} processes have only {fewest} images a step to share; lower --nproc-per-node")
    if hessian and team.size > 1:
        raise InputError("the Hessian's eigenvalue is computed by one process; leave out --hessian, or torchrun")
