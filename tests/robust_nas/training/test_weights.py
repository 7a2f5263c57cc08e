"""Weights on disk: what is written comes back; what does not fit is refused in one line."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from robust_nas.spaces.network import Network
from robust_nas.training import load_network, load_trained, save_weights
from tests.robust_nas.helpers import GENOTYPE
from tests.robust_nas.training.helpers import small_data
from verify.checks.errors import InputError


@pytest.fixture
def network():
    torch.manual_seed(0)
    return Network(GENOTYPE, 1, 10, channels=2, cells=3, mean=[0.3], std=[0.4])


@pytest.fixture
def weights(network, tmp_path):
    path = tmp_path / "model.safetensors"
    save_weights(network, path, {"seed": 5})
    return path


def refused(weights, message, genotype=GENOTYPE):
    with pytest.raises(InputError, match=message) as caught:
        load_network(genotype, weights)
    assert "\n" not in str(caught.value)


def change_sidecar(weights, **changes):
    path = weights.with_suffix(".json")
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def change_tensors(weights, **changes):
    tensors = {**load_file(weights), **changes}
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, weights)


def test_round_trip(network, weights):
    loaded, sidecar = load_network(GENOTYPE, weights)
    x = torch.rand(2, 1, 8, 8)
    assert not loaded.training
    assert torch.equal(loaded(x), network.eval()(x))
    assert sidecar["seed"] == 5


@pytest.mark.parametrize(
    ("data", "line"),
    [
        ({"name": "mnist"}, "these weights were trained on digits; add --dataset digits"),
        ({"name": "digits", "classes": 3}, "these weights tell 10 classes apart; the digits given has 3"),
    ],
)
def test_other_data(network, tmp_path, data, line):
    """Two image folders are data sets of one name."""
    path = tmp_path / "model.safetensors"
    save_weights(network, path, {"dataset": "digits"})
    assert load_trained(GENOTYPE, path, replace(small_data(), name="digits", classes=10)) is not None
    with pytest.raises(InputError, match=f"{path}: {line}"):
        load_trained(GENOTYPE, path, replace(small_data(), **data))


def test_no_weights(tmp_path):
    refused(tmp_path / "none.safetensors", "none.safetensors: no such file; `dsrna train` writes weights")


def test_no_sidecar(weights):
    weights.with_suffix(".json").unlink()
    refused(weights, "model.json: no such file; weights need it beside them")


@pytest.mark.parametrize("text", ["", "[1", "\x00"])
def test_sidecar_that_is_not_json(weights, text):
    weights.with_suffix(".json").write_text(text)
    refused(weights, "model.json: not JSON: ")


@pytest.mark.parametrize("text", ["[]", "{}", '{"format": "dsrna-weights", "version": 2}'])
def test_sidecar_of_another_kind(weights, text):
    weights.with_suffix(".json").write_text(text)
    refused(weights, "model.json: not a 'dsrna-weights' file of version 1")


def test_sidecar_with_a_bad_genotype(weights):
    change_sidecar(weights, genotype={**GENOTYPE.to_dict(), "nodes": 2})
    refused(weights, "model.json: genotype: normal: 2 nodes need 4")


@pytest.mark.parametrize("settings", [None, {}, {"cells": "three"}])
def test_sidecar_with_bad_settings(weights, settings):
    change_sidecar(weights, network=settings)
    refused(weights, "model.json: network: builds no network: ")


def test_not_safetensors(weights):
    weights.write_bytes(b"PK\x03\x04 a pickle, perhaps")
    refused(weights, "model.safetensors: not a safetensors file: ")


def test_another_genotype(weights):
    other = replace(GENOTYPE, reduce=(("avg_pool_3x3", 0), ("skip_connect", 0)))
    refused(
        weights,
        r"model.safetensors: weights of another architecture: reduce is .*'skip_connect', 1.*there",
        other,
    )


def test_another_shape(weights):
    change_tensors(weights, **{"classifier.bias": torch.zeros(11)})
    refused(weights, r"classifier.bias is \(11,\), not \(10,\)$")


def test_missing_and_foreign_tensors(weights):
    change_tensors(weights, **{"classifier.bias": None})
    refused(weights, "classifier.bias is missing$")
    change_tensors(weights, **{"classifier.bias": torch.zeros(10), "extra": torch.zeros(1)})
    refused(weights, "extra is not part of the network$")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite(weights, value):
    change_tensors(weights, **{"classifier.bias": torch.full((10,), value)})
    refused(weights, "model.safetensors: classifier.bias holds NaN or infinity; train the network again$")
