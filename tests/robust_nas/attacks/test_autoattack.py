"""AutoAttack through us is the library's own."""

import logging

import pyautoattack
import pytest
import torch
from torch import nn

from robust_nas.attacks import Threat, evaluate
from robust_nas.attacks.autoattack import PARTS, AutoAttack, library_log
from robust_nas.attacks.run import check_classes
from tests.robust_nas.attacks.helpers import interior_images, target_of
from verify.checks.errors import InputError

CLASSES = 4
SIDE = 6  # in l2 Square needs five pixels
QUERIES = 30
IMAGES = 8
EPSILONS = {"linf": 0.016, "l2": 0.086}


@pytest.fixture
def network():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(SIDE**2, 12), nn.ReLU(), nn.Linear(12, CLASSES))
    return network.eval().requires_grad_(False)


def library(network, norm, seed):
    """The library as its users call it, for fewer classes and queries than it is set to."""
    attack = pyautoattack.AutoAttack(network, norm={"linf": "Linf", "l2": "L2"}[norm], eps=EPSILONS[norm], seed=seed)
    attack.apgd_targeted.n_target_classes = attack.fab.n_target_classes = CLASSES - 1
    attack.square.n_queries = QUERIES
    return attack


@pytest.mark.parametrize("norm", EPSILONS)
def test_each_part_gives_the_images_of_the_library(network, norm):
    images = interior_images(IMAGES, side=SIDE)
    labels = network(images).argmax(1)
    stages = AutoAttack(QUERIES).stages(network, Threat(norm, EPSILONS[norm]), CLASSES, seed=3)
    theirs = library(network, norm, seed=3).run_standard_evaluation_individual(images, labels)
    assert list(stages) == list(PARTS) == list(theirs)
    for part, perturb in stages.items():
        found = perturb(images, labels)
        fell = network(found).argmax(1) != labels
        images_there, answers_there = theirs[part]
        assert torch.equal(fell, answers_there != labels), part
        assert torch.equal(found[fell], images_there[fell]), part


@pytest.mark.parametrize("norm", EPSILONS)
def test_all_parts_together_break_what_the_library_breaks(network, norm):
    images = interior_images(IMAGES, side=SIDE)
    labels = network(images).argmax(1)
    target = target_of(network, images, batch_size=4)
    outcomes = evaluate(target, AutoAttack(QUERIES), Threat(norm, EPSILONS[norm]), seed=3)
    theirs, answers = library(network, norm, seed=3).run_standard_evaluation(images, labels, batch_size=4)
    size = (theirs - images).flatten(1).double()
    size = size.abs().amax(1) if norm == "linf" else size.norm(dim=1)
    assert [each.success for each in outcomes] == (answers != labels).tolist()
    assert 0 < sum(each.success for each in outcomes) < IMAGES
    for each, wanted in zip(outcomes, size.tolist(), strict=True):
        assert not each.success or each.distance == pytest.approx(wanted, rel=1e-6)
        assert (each.by in PARTS) == each.success


def test_the_library_speaks_to_its_file_only(network, tmp_path, caplog, capfd):
    images = interior_images(2, side=SIDE)
    logger = logging.getLogger("auto-attack")
    before = logger.level, logger.propagate, list(logger.handlers)
    path = tmp_path / "autoattack.log"
    with library_log(path):
        assert not path.exists()
        AutoAttack(1).stages(network, Threat("linf", 1e-4), CLASSES, 0)["square"](images, network(images).argmax(1))
    assert "standard version" in path.read_text()
    assert (logger.level, logger.propagate, list(logger.handlers)) == before
    assert not caplog.records and capfd.readouterr() == ("", "")


def test_autoattack_needs_four_classes():
    plan = [(AutoAttack(), Threat("linf", 0.1))]
    with pytest.raises(InputError, match="autoattack needs 4 classes; imagefolder has 3"):
        check_classes(plan, 3, "imagefolder")
    check_classes(plan, 4, "imagefolder")
