"""From the options of a search to its plan: what they leave open, and what does not go together."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from robust_nas.distributed import Processes
from robust_nas.metrics import MetricSettings, RobustnessMetric
from robust_nas.options.search import NORMS, SearchOptions
from robust_nas.registry import ACTIVATIONS, BOUNDS, JUDGES, METRICS, RECIPES, STOPPING_RULES, STRATEGIES, named
from robust_nas.search.presets import PRESETS, SearchPreset, preset_for
from robust_nas.search.stage import Plan
from robust_nas.search.strategies.base import Method
from robust_nas.search.trials import Trial, training_preset, trial_at
from robust_nas.training.recipes import RecipeSettings, default_epsilon
from verify.checks.errors import InputError, known_names
from verify.propagation.methods import METHODS

DRAWN = 8
"""Architectures drawn near the result for each that is tried, where a radius judges."""


def settled(options: SearchOptions) -> SearchOptions:
    """The options with what they leave to the method filled in.

    Raises:
        InputError: there is no such method, or it searches another space.
    """
    strategy = named("method", options.method, STRATEGIES)(options.space)
    stop = options.stop or strategy.stopping
    return replace(
        options,
        space=strategy.space,
        metric=options.metric or ("cb" if strategy.metrics else "none"),
        order=options.order or strategy.orders[0],
        stop=stop,
        hessian=options.hessian or stop == "eigenvalue",
        recipe=options.recipe or "standard",
    )


def plan_of(options: SearchOptions) -> Plan:
    """The plan of a search whose options are settled.

    Raises:
        InputError: an option is wrong, or two do not go together.
    """
    strategy = STRATEGIES[options.method](options.space)
    sizes = _sizes(options)
    _check_metric(options)
    _check_method(options, strategy)
    settings = _recipe_settings(options, strategy)
    metric = _metric(options, sizes, settings)
    if metric is not None and metric.bounded and METHODS[sizes.bound_method].ends:
        sizes = replace(sizes, dtype="float64")
    return Plan(
        sizes,
        strategy,
        metric=metric,
        gamma=sizes.gamma,
        balance=options.balance,
        recipe=str(options.recipe),
        settings=settings,
        trial=_trial(options, strategy, sizes, settings),
        seed=options.seed,
        order=str(options.order),
        stopping=None if options.stop is None else named("stopping rule", options.stop, STOPPING_RULES)(),
        hessian=options.hessian,
        amp=options.amp,
    )


def described(options: SearchOptions, plan: Plan) -> dict[str, Any]:
    """The choices of a search by name, for its config.json and its genotype."""
    asked = ("method", "space", "metric", "order", "dataset", "preset", "norm", "balance", "recipe", "seed", "stop")
    trial = plan.trial
    return {
        **{name: getattr(options, name) for name in asked},
        "gamma": plan.gamma,
        "recipe_epsilon": plan.settings.epsilon,
        "trials": None if trial is None else trial.count,
        "screen": None if trial is None else trial.drawn,
        "repeat": None if trial is None else trial.repeated,
        "judge": None if trial is None else trial.judge,
    }


def check_team(team: Processes, plan: Plan) -> None:
    """Every process must have an image of each step.

    Raises:
        InputError: there are too few, or one process has to do it alone.
    """
    images = plan.preset.batch_size
    fewest = images if plan.metric is None else min(images, plan.metric.images)
    if team.size > fewest:
        raise InputError(f"{team.size} processes have only {fewest} images a step to share; lower --nproc-per-node")
    if plan.hessian and team.size > 1:
        raise InputError("the Hessian's eigenvalue is computed by one process; leave out --hessian, or torchrun")


def _sizes(options: SearchOptions) -> SearchPreset:
    """The preset's sizes, but for those that are given."""
    metric = str(options.metric)
    named("preset", options.preset, PRESETS)
    named("activation", options.activation, ACTIVATIONS)
    changes: dict[str, Any] = {
        "gamma": options.gamma,
        "bound_method": options.bound,
        "jacobian": options.jacobian,
        "nodes": options.nodes,
        "epochs": options.epochs,
        "batch_size": options.batch_size,
        "activation": options.activation,
    }
    sizes = preset_for(options.preset, metric, options.method)
    sizes = replace(sizes, **{name: value for name, value in changes.items() if value is not None})
    sizes = replace(sizes, warm_up=min(sizes.warm_up, sizes.epochs - 1))
    if options.norm not in NORMS:
        raise InputError(f"unknown norm {options.norm!r} for a search; {known_names(options.norm, NORMS)}")
    if sizes.bound_method not in BOUNDS:
        raise InputError(f"unknown bound {sizes.bound_method!r}; {known_names(sizes.bound_method, BOUNDS)}")
    if not 0 <= sizes.gamma < math.inf:
        raise InputError(f"gamma must be a finite number >= 0, not {sizes.gamma}")
    if sizes.nodes < 1:
        raise InputError(f"nodes must be at least 1, not {sizes.nodes}")
    if sizes.epochs < 1:
        raise InputError(f"epochs must be at least 1, not {sizes.epochs}")
    if sizes.batch_size < 2:
        raise InputError(f"batch-size must be at least 2, of which batch norm takes a variance, not {sizes.batch_size}")
    return sizes


def _check_metric(options: SearchOptions) -> None:
    balance = options.balance
    if balance is None:
        return
    if not 0 < balance < math.inf:
        raise InputError(f"balance must be a finite number above 0, not {balance}")
    if options.gamma is not None:
        raise InputError("the metric has one weight: give either --gamma or --balance")
    if options.metric == "none":
        raise InputError("--balance is about a metric; leave it out, or choose one by --metric")


def _check_method(options: SearchOptions, strategy: Method[Any]) -> None:
    method = options.method
    if options.order not in strategy.orders:
        raise InputError(f"{method} knows the order {' and '.join(strategy.orders)}, not {options.order}")
    if strategy.metrics:
        return
    if options.metric != "none":
        raise InputError(f"{method} takes no gradient in architecture parameters, so no metric; leave out --metric")
    if options.stop or options.hessian:
        raise InputError(f"{method} has no validation loss in architecture parameters; leave out --stop and --hessian")


def _recipe_settings(options: SearchOptions, strategy: Method[Any]) -> RecipeSettings:
    """Of the supernet's recipe."""
    name, norm = str(options.recipe), options.norm
    kind = named("recipe", name, RECIPES)
    if name != "standard":
        if not strategy.recipes:
            raise InputError(f"{options.method} has a training of its own; leave out --recipe")
        if options.order == "second" or options.hessian or options.amp:
            raise InputError(f"--order second, --hessian and --amp know the recipe standard, not {name}")
        if norm not in kind.norms:
            raise InputError(f"unknown norm {norm!r} for recipe {name}; {known_names(norm, kind.norms)}")
    size = default_epsilon(name, options.dataset, norm) if options.epsilon is None else options.epsilon
    if not 0 <= size < math.inf:
        raise InputError(f"epsilon must be a finite number >= 0, not {size}")
    return RecipeSettings(norm, size)


def _metric(options: SearchOptions, sizes: SearchPreset, recipe: RecipeSettings) -> RobustnessMetric | None:
    name = str(options.metric)
    if name == "none":
        return None
    settings = MetricSettings(
        norm=options.norm,
        seed=options.seed,
        bound_method=sizes.bound_method,
        epsilon=recipe.epsilon if options.recipe == "certified" else options.epsilon,
        jacobian=sizes.jacobian,
        jacobian_images=sizes.jacobian_images,
    )
    return named("metric", name, METRICS)(settings)


def _trial(
    options: SearchOptions, strategy: Method[Any], sizes: SearchPreset, settings: RecipeSettings
) -> Trial | None:
    """How candidates are tried at the end; None where none are."""
    recipe, trials, screen, repeat = str(options.recipe), options.trials, options.screen, options.repeat
    if trials is not None:
        if trials < 1:
            raise InputError(f"trials must be at least 1, not {trials}")
        if not strategy.recipes:
            raise InputError(f"{options.method} chooses among candidates in its own way; leave out --trials")
        sizes = replace(sizes, candidates=trials)
    own = strategy.trial(sizes, options.dataset)
    if own is None and trials is None:
        if (options.judge, screen, repeat) != (None, None, None):
            raise InputError("--judge, --screen and --repeat are about candidates tried at the end; give --trials too")
        return None
    if screen is not None and (not strategy.recipes or strategy.space != "darts"):
        raise InputError("--screen is for cells of the space darts")
    if screen is not None and screen < 1:
        raise InputError(f"screen must be at least 1, not {screen}")
    if own is None:
        trial = trial_at(sizes, "standard", options.dataset)
        trial = replace(trial, judge="radius", drawn=1 if options.judge == "accuracy" else DRAWN)
    else:
        trial = own if recipe != "certified" else replace(own, judge="radius")
    trial = replace(trial, drawn=screen or trial.drawn, repeated=trial.repeated if repeat is None else repeat)
    if recipe != "standard":
        preset = training_preset(replace(sizes, cells=trial.preset.cells), recipe)
        trial = replace(trial, preset=preset, recipe=recipe, settings=settings)
    if trials is not None:
        trial = replace(trial, count=trials)
    if not 0 <= trial.repeated < trial.count:
        raise InputError(
            f"of {trial.count} trials the first repeats none; --repeat must be less, not {trial.repeated}"
        )
    judge = options.judge or trial.judge
    if judge not in JUDGES:
        raise InputError(f"unknown judge {judge!r}; {known_names(judge, JUDGES)}")
    return replace(trial, judge=judge)
