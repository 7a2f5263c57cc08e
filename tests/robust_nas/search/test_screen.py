"""Which architectures are tried, of many that are drawn: those of many weights, and of narrow intervals."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import zscore

from robust_nas.data import search_split
from robust_nas.genotype import Genotype
from robust_nas.search.screen import fresh_width, promising, weights
from robust_nas.search.strategies import STRATEGIES
from robust_nas.search.trials import trial_at
from robust_nas.spaces.operations import PRIMITIVES
from robust_nas.spaces.sampling import sample_genotype
from robust_nas.training.engine import Plan, Training, build
from tests.robust_nas.search.helpers import TINY, small_data, tiny_search
from verify.bounds import BoundedNetwork
from verify.specification import margins

PRESET = replace(TINY, channels=4, candidates=2, trial_epochs=1)
CPU = torch.device("cpu")


def cells(operation):
    edges = ((operation, 0), (operation, 1))
    return Genotype(edges, (2,), edges, (2,), 1)


@pytest.mark.parametrize(("recipe", "narrow"), [("certified", 0), ("standard", 1), ("jacobian", 1)])
def test_many_weights_come_first_and_narrow_intervals_where_bounds_are_not_trained(recipe, narrow):
    trial, data = trial_at(PRESET, recipe, "digits"), small_data()
    names = ("skip_connect", "sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5")
    given = [cells(name) for name in names]
    sizes = np.log([weights(each, trial, data) for each in given])
    widths = np.array([fresh_width(each, trial, data, 0, CPU) for each in given])
    expected = [given[place] for place in np.argsort(-(zscore(sizes) - narrow * zscore(widths)))]
    assert promising(given, 3, trial, data, 0, CPU) == expected[:3]
    assert promising(given[::-1], 5, trial, data, 0, CPU) == expected
    assert (expected[0] == cells("sep_conv_5x5")) == (not narrow)


def test_equals_stay_in_their_order():
    trial = trial_at(PRESET, "certified", "digits")
    same = [cells("dil_conv_5x5")] * 3
    assert promising(same, 2, trial, small_data(), 0, CPU) == same[:2]


def test_raced_cells_read_their_inputs_only():
    strategy = STRATEGIES["raced"]()
    drawn = strategy.candidates([], lambda generator: None, replace(PRESET, nodes=3), 20, torch.Generator())
    assert {source for each in drawn for _, source in (*each.normal, *each.reduce)} == {0, 1}
    assert {operation for each in drawn for operation, _ in each.normal} == set(PRIMITIVES) - {"none"}
    assert len(set(drawn)) == 20 and {each.nodes for each in drawn} == {3}


def test_the_weights_that_count_are_those_of_the_network_that_a_trial_trains():
    trial, data = trial_at(PRESET, "standard", "digits"), small_data()
    network = build(cells("sep_conv_3x3"), data, trial.preset)
    assert weights(cells("sep_conv_3x3"), trial, data) == sum(weight.numel() for weight in network.parameters())


@pytest.mark.parametrize("recipe", ["standard", "certified"])
def test_width_is_that_of_the_network_before_its_first_step(recipe):
    """Of the weights that the recipe begins with, by the slope of the bounds themselves."""
    genotype, data, trial = sample_genotype(1, random.Random(0)), small_data(), trial_at(PRESET, recipe, "digits")
    torch.manual_seed(3)
    plan = Plan(genotype, trial.preset, recipe, trial.settings, 3)
    network = BoundedNetwork(Training(plan, data).network.train(), data.train.images[:1])
    network.freeze(data.train.images)
    rows = margins(data.train.labels[:16], 3)
    bounds = network.bounds(data.train.images[:16], 1e-4, "linf", rows, "ibp", "free")
    expected = ((bounds.upper - bounds.lower) / 2 / 1e-4).log().mean().item()
    assert fresh_width(genotype, trial, data, 3, CPU) == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize(("method", "sure"), [("darts", 1), ("random", 0)])
def test_a_search_tries_its_own_result_and_the_promising_of_the_others(method, sure, monkeypatch):
    drawn = []
    strategy = STRATEGIES[method]()
    draw = strategy.candidates
    monkeypatch.setattr(strategy, "candidates", lambda *options: drawn.extend(draw(*options)) or list(drawn))
    trial = replace(trial_at(PRESET, "standard", "digits"), drawn=4)
    search = tiny_search(PRESET, strategy=strategy, trial=trial)
    list(search.steps())
    assert len(drawn) == 8 and len(search.trials.candidates) == 2
    data = replace(small_data(), train=search_split(small_data(), 0)[0])
    others = promising(drawn[sure:], 2 - sure, trial, data, 0, CPU)
    assert search.trials.candidates == [*drawn[:sure], *others]


def test_a_search_may_take_fewer_steps_than_there_are_batches():
    whole, short = tiny_search(replace(TINY, epochs=3)), tiny_search(replace(TINY, epochs=3, steps=1))
    rows = list(short.steps())
    assert [(row["epoch"], row["step"]) for row in rows] == [(1, 1), (2, 1), (3, 1)]
    assert short.length == len(rows) == 3 and whole.length == 6
    assert rows[0] == next(whole.steps())
