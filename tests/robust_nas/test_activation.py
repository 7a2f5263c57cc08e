"""Spaces with another activation than ReLU: searched, trained, certified, and remembered by files."""

import csv
from dataclasses import replace
from functools import partial

import pytest
from torch import nn

from robust_nas.certification import blocks, run_certify
from robust_nas.converters import to_darts, to_enas, to_robnet
from robust_nas.genotype import Architecture, Genotype, RobNetGenotype
from robust_nas.options import CertifyOptions, SearchOptions, TrainOptions
from robust_nas.registry import ACTIVATIONS, STRATEGIES
from robust_nas.search import presets as search_presets
from robust_nas.search import run as search_run
from robust_nas.search import run_search
from robust_nas.spaces.network import Network
from robust_nas.spaces.operations import OPERATIONS, Style
from robust_nas.training import presets as training_presets
from robust_nas.training import run_training
from robust_nas.training.weights import load_network
from tests.robust_nas.helpers import GENOTYPE
from tests.robust_nas.search.helpers import TINY, small_data
from tests.verify.helpers import assert_sound, randomise
from verify.checks.errors import InputError

OTHERS = sorted(set(ACTIVATIONS) - {"relu"})
QUICK = ("darts", "pc-darts", "enas", "robnet", "random")
"""Methods with genotypes of their own making."""
SETTINGS = {"in_channels": 1, "classes": 3, "channels": 1, "cells": 3, "mean": [0.3], "std": [0.4]}


def kinds(model: nn.Module) -> set[type[nn.Module]]:
    """The activations of a model."""
    known = tuple(type(activation()) for activation in ACTIVATIONS.values())
    return {type(module) for module in model.modules() if isinstance(module, known)}


@pytest.mark.parametrize("name", OTHERS)
def test_every_operation_has_the_activation_and_no_other(name):
    for build in OPERATIONS.values():
        plain, other = (kinds(build(2, 2, Style(activation=activation))) for activation in ("relu", name))
        assert other == ({type(ACTIVATIONS[name]())} if plain else set())


@pytest.mark.parametrize("name", OTHERS)
def test_networks_are_sound(name):
    genotype = replace(GENOTYPE, activation=name)
    for stem in ("cifar", "imagenet"):
        model = Network(genotype, **SETTINGS | {"channels": 2}, stem=stem)
        assert kinds(model) == {type(ACTIVATIONS[name]())}
    model = randomise(Network(genotype, **SETTINGS), 1)
    assert_sound(model, (1, 6, 6), balls=[("linf", "unit")], methods=("ibp", "affine", "crown"), scale=0.2)


def test_files_remember_it(tmp_path):
    robnet = RobNetGenotype((("01", "10"),), 1, activation="silu")
    for genotype in (replace(GENOTYPE, activation="gelu"), robnet):
        genotype.save(tmp_path / "genotype.json")
        assert Architecture.load(tmp_path / "genotype.json") == genotype != replace(genotype, activation="relu")
    assert "activation" not in GENOTYPE.to_dict()  # so that files of ReLU are what they were


def test_an_unknown_one_is_refused():
    with pytest.raises(InputError, match="activation: unknown activation 'swish'; known: relu, leaky-relu"):
        Genotype.from_dict({**GENOTYPE.to_dict(), "activation": "swish"})
    with pytest.raises(InputError, match="activation: must be text"):
        Genotype.from_dict({**GENOTYPE.to_dict(), "activation": None})
    with pytest.raises(InputError, match="unknown activation"):
        run_search(SearchOptions(activation="swish"))


def test_notations_of_others_cannot_say_it():
    robnet = RobNetGenotype((("01", "10"),), 1, activation="silu")
    for write, genotype in ((to_darts, GENOTYPE), (to_enas, GENOTYPE), (to_robnet, robnet)):
        with pytest.raises(InputError, match="cannot say the activation silu; --to json can"):
            write(replace(genotype, activation="silu"))


@pytest.fixture
def tiny(monkeypatch):
    """Presets that take a second."""
    preset = replace(TINY, channels=4)
    monkeypatch.setitem(search_presets.PRESETS, "quick", dict.fromkeys(search_presets.PRESETS["quick"], preset))
    monkeypatch.setattr(search_run, "load", lambda *_: small_data())
    network = replace(training_presets.PRESETS["quick"]["standard"], epochs=2, cells=2, channels=3)
    monkeypatch.setitem(training_presets.PRESETS, "quick", {"standard": network, "adversarial": network})
    monkeypatch.setattr(blocks, "attack_radius", partial(blocks.attack_radius, steps=5))


@pytest.mark.parametrize(
    ("method", "space"),
    [
        *((method, None) for method in QUICK),
        ("random", "robnet-free"),
        # slow: their genotypes come about as those of darts do
        *(pytest.param(method, None, marks=pytest.mark.slow) for method in STRATEGIES if method not in QUICK),
    ],
)
def test_every_method_searches_it(method, space, tiny, tmp_path):
    result = run_search(
        SearchOptions(method=method, space=space, activation="gelu", metric="none", device="cpu", out=tmp_path)
    )
    assert Architecture.load(result.genotype_path).activation == "gelu"


@pytest.mark.parametrize("metric", ["cb", "log-radius", "ibp-slope", "jacobian"])
def test_every_metric_moves_alpha_in_it(metric, tiny, tmp_path):
    result = run_search(
        SearchOptions(metric=metric, activation="gelu", gamma=10.0, device="cpu", out=tmp_path)
    )
    assert Architecture.load(result.genotype_path).activation == "gelu"
    rows = list(csv.DictReader((tmp_path / "search.csv").open()))
    assert all(float(row["finite"]) for row in rows if row["finite"])


def test_from_a_search_to_certificates(tiny, tmp_path):
    options = {"dataset": "digits", "device": "cpu"}
    found = run_search(
        SearchOptions(metric="cb", activation="gelu", **options, out=tmp_path / "search")
    ).genotype_path
    weights = run_training(TrainOptions(arch=found, **options, out=tmp_path / "train")).weights_path
    network, _ = load_network(Architecture.load(found), weights)
    assert kinds(network) == {nn.GELU}
    result = run_certify(
        CertifyOptions(arch=found, weights=weights, images=2, method="affine", **options, out=tmp_path / "certify")
    )
    rows = list(csv.DictReader(result.paths[0].open()))
    assert any(float(row["radius"]) > 0 for row in rows)
    other = tmp_path / "relu.json"
    replace(Architecture.load(found), activation="relu").save(other)
    with pytest.raises(InputError, match="activation is gelu there, relu in the genotype given"):
        run_certify(CertifyOptions(arch=other, weights=weights, images=2, **options, out=tmp_path / "other"))
