"""A search by a recipe: what the weights and alpha minimise, at which epsilon, and what it refuses."""

import copy
from dataclasses import replace
from itertools import islice

import pytest
import torch

from robust_nas import checkpoint
from robust_nas.data import Examples
from robust_nas.metrics import JacobianNorm, LogRadius
from robust_nas.options import SearchOptions
from robust_nas.search import judges, run_search
from robust_nas.search import run as search_run
from robust_nas.search.presets import PRESETS
from robust_nas.search.strategies import STRATEGIES
from robust_nas.search.trials import training_preset, trial_at
from robust_nas.training.learner import Learner
from robust_nas.training.recipes import RECIPES, RecipeSettings
from tests.levels import level
from tests.robust_nas.search.helpers import TINY, small_data, tiny_search
from verify.bounds import BoundedNetwork
from verify.checks.errors import InputError
from verify.specification import margins

SETTINGS = RecipeSettings("linf", 1e-3)
BY_RECIPE = ["jacobian", "adversarial", "certified"]


def batch(search):
    """The images that the first step of the weights takes, and those of alpha's."""
    pairs = search._pairs(TINY.batch_size)
    train, held_out = next(iter(pairs))
    search._begin_epoch()
    return [Examples(images.double(), labels) for images, labels in (train, held_out)]


def certified_loss(model, images, labels, epsilon):
    """log(1 + sum of exp(-lower bound of each margin)), by the bounds of the model as it is."""
    network = BoundedNetwork(model, images)
    network.freeze(images)
    lower = network.bounds(images, epsilon, "linf", margins(labels, 3), "ibp", "free").lower
    return (1 + (-lower).exp().sum(1)).log().mean()


@pytest.mark.parametrize("recipe", level(["certified"], BY_RECIPE))
def test_the_weights_minimise_the_loss_of_the_recipe(recipe):
    search = tiny_search(replace(TINY, warm_up=1), recipe=recipe, settings=SETTINGS)
    twin, (train, _) = copy.deepcopy(search.model), batch(tiny_search(replace(TINY, warm_up=1)))
    loss = RECIPES[recipe](SETTINGS, training_preset(TINY, recipe), torch.device("cpu"))
    learner = Learner(twin)
    state = twin.state_dict()
    before = {name: value.clone() for name, value in state.items()}
    loss.begin(learner.train(), train.images[:1])  # draws fresh weights
    twin.load_state_dict(before)
    expected = loss(learner, *train, 0.0).value
    row = next(search.steps())
    assert row["train_loss"] == pytest.approx(expected.item(), rel=1e-9)
    plain = next(tiny_search(replace(TINY, warm_up=1)).steps())["train_loss"]
    assert row["train_loss"] != pytest.approx(plain, rel=1e-6)


def test_alpha_goes_down_the_certified_validation_loss():
    search = tiny_search(TINY, recipe="certified", settings=SETTINGS)
    _, held_out = batch(search)
    stage, alphas = search.stage, search.model.architecture_parameters()
    stage._progress = 1.0  # epsilon is all there, and no regulariser
    expected = certified_loss(copy.deepcopy(search.model), *held_out, SETTINGS.epsilon)
    step = replace(stage.alpha_step, optimiser=torch.optim.SGD(alphas, lr=1.0))
    before = [alpha.detach().clone() for alpha in alphas]
    found = step(held_out, held_out)
    assert found["val_loss"] == pytest.approx(expected.item(), rel=1e-9)
    moved = [old - alpha.detach() for old, alpha in zip(before, alphas, strict=True)]
    with torch.no_grad():
        for alpha, old in zip(alphas, before, strict=True):
            alpha.copy_(old)
    for alpha, downhill in zip(alphas, moved, strict=True):  # a central difference along the step
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                alpha.add_(sign * 1e-5 * downhill)
            ends.append(certified_loss(copy.deepcopy(search.model), *held_out, SETTINGS.epsilon).item())
            with torch.no_grad():
                alpha.sub_(sign * 1e-5 * downhill)
        assert (ends[0] - ends[1]) / 2e-5 == pytest.approx(downhill.square().sum().item(), rel=1e-3)


@pytest.mark.parametrize("strategy", ["pc-darts", "sdarts-adv", "snas", "proxyless"])
def test_every_kind_of_supernet_takes_a_recipe(strategy):
    preset = replace(TINY, channels=4)
    search = tiny_search(preset, strategy=STRATEGIES[strategy](), recipe="certified", settings=SETTINGS)
    assert all(row["finite"] in (1, None) and row["train_loss"] > 0 for row in islice(search.steps(), level(1, None)))


@pytest.fixture
def options(tmp_path, monkeypatch):
    monkeypatch.setitem(PRESETS, "quick", dict.fromkeys(PRESETS["quick"], TINY))
    monkeypatch.setattr(search_run, "load", lambda *_: small_data())
    return {"device": "cpu", "out": tmp_path / "run"}


def epsilons(path):
    rows = (path / "search.csv").read_text().splitlines()
    place = rows[0].split(",").index("epsilon")
    return {row.split(",")[place] for row in rows[1:]}


def test_the_metric_is_taken_at_the_epsilon_to_be_certified(options):
    run_search(SearchOptions(**options, metric="log-radius", recipe="certified", epsilon=0.004))
    assert epsilons(options["out"]) == {"0.004"}
    run_search(SearchOptions(**options, metric="cb", epsilon=0.004))
    assert epsilons(options["out"]) == {"0.004"}
    run_search(SearchOptions(**options, metric="cb"))
    assert "0.03" not in epsilons(options["out"]) and len(epsilons(options["out"])) > 1  # it follows the width


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "robnet", "recipe": "certified"}, "robnet has a training of its own; leave out --recipe"),
        ({"method": "enas", "trials": 2}, "enas chooses among candidates in its own way; leave out --trials"),
        ({"recipe": "certified", "order": "second"}, "know the recipe standard, not certified"),
        ({"recipe": "certified", "amp": True}, "know the recipe standard, not certified"),
        ({"recipe": "certified", "stop": "eigenvalue"}, "know the recipe standard, not certified"),
        ({"recipe": "tangent"}, "unknown norm 'linf' for recipe tangent; known: l2"),
        ({"recipe": "nothing"}, "unknown recipe 'nothing'"),
        ({"recipe": "certified", "epsilon": -1.0}, "epsilon must be a finite number >= 0"),
        ({"judge": "radius"}, "give --trials too"),
        ({"screen": 2}, "give --trials too"),
        ({"repeat": 2}, "give --trials too"),
        ({"trials": 2, "repeat": 2}, "of 2 trials the first repeats none"),
        ({"trials": 2, "screen": 0}, "screen must be at least 1"),
        ({"method": "random", "space": "robnet", "screen": 2}, "for cells of the space darts"),
        ({"trials": 0}, "trials must be at least 1"),
        ({"trials": 1, "judge": "size"}, "unknown judge 'size'"),
        ({"balance": 1.0, "gamma": 1.0}, "either --gamma or --balance"),
        ({"balance": 1.0, "metric": "none"}, "--balance is about a metric"),
        ({"balance": 0.0}, "balance must be a finite number above 0"),
    ],
)
def test_what_makes_no_sense_is_refused(options, changes, message):
    with pytest.raises(InputError, match=message):
        run_search(SearchOptions(**options, **changes))
    assert not options["out"].exists()


def test_stopped_at_any_step_it_goes_on_bit_for_bit(tmp_path, monkeypatch):
    trial = trial_at(replace(TINY, candidates=3, trial_epochs=1), "adversarial", "digits")
    trial = replace(trial, judge="radius", drawn=2, repeated=1)
    monkeypatch.setattr(judges, "BOUNDED", 1)

    def fresh():
        return tiny_search(
            TINY, recipe="adversarial", settings=SETTINGS, metric=JacobianNorm("l2"), balance=0.5, trial=trial
        )

    whole, rows = fresh(), []
    for place, row in enumerate(whole.steps(), 1):
        rows.append(row)
        (tmp_path / str(place)).mkdir()
        checkpoint.save(tmp_path / str(place), whole.state_dict())
    for place in level((len(rows) - 1,), range(1, len(rows))):
        resumed = fresh()
        torch.rand(7)
        resumed.load_state_dict(checkpoint.load(tmp_path / str(place)).state)
        assert list(resumed.steps()) == rows[place:], place
        assert resumed.genotype() == whole.genotype()


def test_a_metric_pulls_as_hard_as_its_balance_says():
    """Whatever the size of the metric, which a fixed gamma would multiply."""

    class Loud(LogRadius):
        def __call__(self, network, images, labels):
            found = super().__call__(network, images, labels)
            return found._replace(value=1e6 * found.value)

    moves = []
    for metric in (LogRadius(), Loud()):
        search = tiny_search(replace(TINY, epochs=3), metric=metric, balance=0.7)
        rows = [row for row in search.steps() if row["robustness_gradient"]]
        assert rows and rows[0]["robustness_gradient"] == pytest.approx(0.7 * rows[0]["loss_gradient"])
        assert all(row["weighted_robustness"] == row["gamma"] * row["robustness"] for row in rows)
        moves.append(search.parameters())
    assert all(torch.allclose(moves[0][name], moves[1][name], rtol=1e-6) for name in moves[0])
