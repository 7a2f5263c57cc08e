"""The searches that are compared: each row a way to an architecture, at the size of the fidelity study."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from experiments.fidelity.networks import EPOCHS, LEARNING_RATE, NODES, SHAPE
from robust_nas.metrics import METRICS, MetricSettings
from robust_nas.search.judges import Score, best
from robust_nas.search.presets import PRESETS
from robust_nas.search.stage import Plan
from robust_nas.search.strategies import STRATEGIES
from robust_nas.search.trials import Trial, training_preset
from robust_nas.training.recipes import RecipeSettings

EPSILON = 0.05
"""Of the certified recipe, and at which it is verified."""
SIZES = replace(PRESETS["small"]["none"], **SHAPE, nodes=NODES, batch_size=64, epochs=4, warm_up=1)
"""A search as the fidelity study's supernet: 10,000 images, 4 epochs, the first a warm-up."""
GAMMA = 0.01
"""The paper's."""

# A short supernet: a step of the certified recipe costs what five plain ones cost.
SHORT = replace(SIZES, epochs=2, warm_up=1, steps=40, batch_size=32, alpha_learning_rate=0.05)
CERTIFIED_RATE = 0.02
"""Learning rate of the supernet's weights under the certified recipe."""
TRIALS, DRAWN, REPEATED = 8, 32, 6
"""Candidates that are tried, of how many drawn each, and trainings that try the better ones again."""
RANDOM_TRIALS = 16
"""Of random search, which does not draw and screen: the time of that is about two more trials'."""


def settings(recipe: str) -> RecipeSettings:
    """Of a recipe, in l-infinity."""
    return RecipeSettings("linf", EPSILON if recipe == "certified" else 0.0)


def trial(recipe: str, count: int, judge: str, drawn: int = 1) -> Trial:
    """Candidates trained on half of the images.

    Certified: as many steps as tell them apart. The others: as many as a final training has, because radii change until
    the end.
    """
    if recipe == "certified":
        sizes = training_preset(replace(SIZES, batch_size=32, trial_epochs=1), recipe)
    else:
        sizes = training_preset(replace(SIZES, trial_epochs=2 * EPOCHS), recipe)
        sizes = replace(sizes, optimiser="adam", learning_rate=LEARNING_RATE, weight_decay=0.0)
    return Trial(count, sizes, recipe, settings(recipe), judge, drawn)


def baseline(recipe: str, seed: int, method: str, metric: str = "none") -> Plan:
    """A search as its authors have it, whatever its networks are trained by."""
    measure = None
    if metric != "none":
        options = MetricSettings("linf", seed, jacobian_images=SIZES.jacobian_images)
        measure = METRICS[metric](options)
    return Plan(SIZES, STRATEGIES[method](), measure, GAMMA, seed=seed)


def random_search(recipe: str, seed: int) -> Plan:
    """Random architectures, trained a short way by the recipe and judged."""
    return Plan(SIZES, STRATEGIES["random"](), trial=trial(recipe, RANDOM_TRIALS, "radius"), seed=seed)


def raced(recipe: str, seed: int) -> Plan:
    """Random shallow architectures, those that promise most tried, the better ones again; judged by radius."""
    tried = replace(trial(recipe, TRIALS + REPEATED, "radius", DRAWN), repeated=REPEATED)
    return Plan(SIZES, STRATEGIES["raced"](), trial=tried, seed=seed)


def mended(recipe: str, seed: int) -> Plan:
    """A supernet under the recipe; candidates near its alpha are screened, trained a short way, and judged by radius.

    Under certified training the validation loss is that of the bounds already; under the others log-radius pulls alpha
    as hard as the loss.
    """
    certified = recipe == "certified"
    options = MetricSettings("linf", seed)
    return Plan(
        replace(SHORT, learning_rate=CERTIFIED_RATE) if certified else SHORT,
        metric=None if certified else METRICS["log-radius"](options),
        balance=None if certified else 1.0,
        recipe=recipe,
        settings=settings(recipe),
        trial=replace(trial(recipe, TRIALS + REPEATED, "radius", DRAWN), repeated=REPEATED),
        seed=seed,
    )


Tries = Sequence[Sequence[Score]]
"""Of each candidate, its scores."""


def first_trial(tries: Tries) -> int:
    """The best by one training each."""
    return best([scores[0] for scores in tries])


def most_accurate(tries: Tries) -> int:
    """The first of the highest accuracy."""
    return max(range(len(tries)), key=lambda place: tries[place][0].accuracy)


@dataclass(frozen=True)
class Row:
    """A way to an architecture.

    Attributes:
        search: the name of its search. Rows that choose from the same trials share it.
        plan: of the search, for networks that a recipe will train, and a seed.
        blind: whether the search is the same for all recipes.
        choose: the place of the trial that the row takes; None takes what the search found.
    """

    search: str
    plan: Callable[[str, int], Plan]
    blind: bool = False
    choose: Callable[[Tries], int] | None = None


def _baseline(name: str, method: str, metric: str = "none") -> Row:
    return Row(name, partial(baseline, method=method, metric=metric), blind=True)


ROWS = {
    "raced": Row("raced", raced),
    "screened": Row("raced", raced, choose=first_trial),
    "mended": Row("mended", mended),
    "random-radius": Row("random", random_search),
    "random-accuracy": Row("random", random_search, choose=most_accurate),
    **{name: _baseline(name, name) for name in ("darts", "pc-darts", "sdarts-adv", "pc-darts-adv")},
    **{name: _baseline(name, "darts", name) for name in ("cb", "jacobian", "combined")},
}
