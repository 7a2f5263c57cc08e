"""Networks by name."""

import pytest
import torch

import robust_nas
from robust_nas.data import load
from robust_nas.training import save_weights
from tests.robust_nas.helpers import GENOTYPE
from verify.checks.errors import InputError


def test_a_fresh_network_of_a_published_architecture():
    model = robust_nas.create_model("pc-darts", dataset="digits")
    assert model(load("digits").test.images[:2]).shape == (2, 10) and not model.training


def test_trained_weights_with_and_without_their_data_set(tmp_path):
    torch.manual_seed(0)
    model = robust_nas.create_model(GENOTYPE, dataset="digits")
    path = tmp_path / "model.safetensors"
    save_weights(model, path, {"dataset": "digits"})
    images = load("digits").test.images[:2]
    for options in ({}, {"dataset": "digits"}):
        again = robust_nas.create_model(GENOTYPE, weights=path, **options)
        assert torch.equal(again(images), model(images)) and not again.training


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"arch": "pc-dart", "dataset": "digits"}, "did you mean PC-DARTS"),
        ({"arch": "pc-darts", "dataset": "digit"}, "unknown data set 'digit'"),
        ({"arch": "pc-darts", "dataset": "digits", "preset": "large"}, "unknown preset 'large'"),
        ({"arch": "pc-darts", "weights": "nowhere.safetensors"}, "nowhere.safetensors: no such file"),
    ],
)
def test_what_there_is_not_is_one_line(options, words):
    with pytest.raises(InputError, match=words):
        robust_nas.create_model(**options)


def test_other_names_are_no_attributes():
    with pytest.raises(AttributeError, match="create_models"):
        robust_nas.create_models  # noqa: B018
