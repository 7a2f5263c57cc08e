"""The options of `dsrna search`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from robust_nas.options.option import Option, choice
from robust_nas.options.shared import (
    BatchSize,
    DataFolder,
    Dataset,
    Device,
    Download,
    Out,
    Preset,
    Resume,
    Seed,
    Tensorboard,
)
from robust_nas.options.values import NonNegative, Positive, at_least
from robust_nas.registry import (
    ACTIVATIONS,
    BOUNDS,
    JACOBIANS,
    JUDGES,
    METRICS,
    ORDERS,
    RECIPES,
    SPACES,
    STOPPING_RULES,
    STRATEGIES,
)

MOST_NODES = 100
"""Of a cell in a search: more fit into no memory."""
NORMS = ("linf", "l2")
"""Of searches and trainings."""


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """What a search takes. Where a field is None, the preset's value counts, or the method's.

    `gamma` is the weight of eq. 16 (DSRNA, CVPR 2021), and `balance`, in its place, is about gradients: see
    `robust_nas.search.balance`. `epsilon` is the recipe's, and the metric's certified bounds are taken there too; None
    takes the recipe's own, and then bounds are at it only where the recipe is "certified": else their epsilon follows
    their width. For methods that try candidates anyway `trials` says how many; `screen` and `repeat` are those of
    `robust_nas.search.trials.Trial`. `seed` is for weights, alpha, the split, the order of the images, and the rows
    that the Jacobian metric draws.
    """

    metric: Annotated[
        str | None,
        Option(
            "Robustness metric: certified bound, log of the certified radius, slope of interval widths, Jacobian norm, "
            "cb and jacobian. [cb, where the method takes one]",
            choice(["none"], METRICS),
        ),
    ] = None
    method: Annotated[
        str,
        Option("Search strategy; those with gradients in alpha take any metric.", choice(STRATEGIES)),
    ] = "darts"
    space: Annotated[
        str | None,
        Option(
            "Search space: DARTS' cells, one RobNet cell for the whole network, or a RobNet cell for every place. "
            "[the method's first]",
            choice(SPACES),
            rare=True,
        ),
    ] = None
    activation: Annotated[
        str, Option("Of all cells, in place of ReLU; the genotype remembers it.", choice(ACTIVATIONS), rare=True)
    ] = "relu"
    order: Annotated[str | None, Option("Of the bilevel step. [the method's first]", choice(ORDERS), rare=True)] = None
    dataset: Dataset = "digits"
    data: DataFolder = None
    download: Download = False
    preset: Preset = "quick"
    norm: Annotated[str, Option("Norm of perturbations.", choice(NORMS))] = "linf"
    gamma: Annotated[float | None, Option("Weight of the metric. [the preset's: 0.01]", NonNegative(), rare=True)] = (
        None
    )
    balance: Annotated[
        float | None,
        Option(
            "In place of --gamma: how hard the metric pulls alpha, relative to the loss. 1: as hard.",
            Positive(),
            rare=True,
        ),
    ] = None
    recipe: Annotated[
        str | None,
        Option(
            "Loss of the weights, and of alpha on held-out images. [standard]",
            choice(RECIPES),
        ),
    ] = None
    epsilon: Annotated[
        float | None,
        Option(
            "Size of perturbations in recipe and metric, in [0,1] pixels, such as 8/255. [the recipe's]",
            Positive(),
        ),
    ] = None
    trials: Annotated[
        int | None,
        Option(
            "Architectures tried by short trainings at the end; the best is the result.",
            at_least(1),
        ),
    ] = None
    screen: Annotated[
        int | None,
        Option(
            "Architectures drawn for each trial; those that promise most are tried. "
            "[8; raced: 32; other methods with trials of their own, and --judge accuracy: 1]",
            at_least(1),
            rare=True,
        ),
    ] = None
    repeat: Annotated[
        int | None,
        Option(
            "How many of the trials, the last ones, train again what did well, from other fresh weights. "
            "[none; raced: 3 of 7]",
            at_least(1),
            rare=True,
        ),
    ] = None
    judge: Annotated[
        str | None,
        Option(
            "What the best trial has: accuracy, or certified radius at an accuracy within 1 % of the best; certified: "
            "verified accuracy. [radius; methods with trials of their own, but for certified: accuracy]",
            choice(JUDGES),
            rare=True,
        ),
    ] = None
    bound: Annotated[
        str | None, Option("Method of the certified bound, from cheap to tight. [ibp]", choice(BOUNDS), rare=True)
    ] = None
    jacobian: Annotated[
        str | None,
        Option("Estimate of the Jacobian norm; projection for l2 only. [sampled]", choice(JACOBIANS), rare=True),
    ] = None
    nodes: Annotated[int | None, Option("Intermediate nodes of a cell. [3]", at_least(1, MOST_NODES), rare=True)] = None
    epochs: Annotated[
        int | None,
        Option("Length of the search. [the preset's]", at_least(1)),
    ] = None
    batch_size: BatchSize = None
    stop: Annotated[
        str | None,
        Option(
            "Stop early: validation loss, one rule of DARTS+ or the other, DARTS-ES', or DARTS+'s two. [the method's]",
            choice(STOPPING_RULES),
            rare=True,
        ),
    ] = None
    hessian: Annotated[
        bool, Option("Follow the top eigenvalue of the Hessian of the validation loss in alpha.", rare=True)
    ] = False
    amp: Annotated[bool, Option("bfloat16 in the weights' step where that is safe.", rare=True)] = False
    resume: Resume = False
    tensorboard: Tensorboard = False
    seed: Seed = 0
    device: Device = "auto"
    out: Out = Path("runs/search")
