"""On a GPU everything answers as on a CPU. `experiments/benchmarks/gpu.sh` runs these where there is one."""

import pytest
import torch
from torch import nn

from robust_nas.metrics import METRICS, MetricSettings
from robust_nas.search.engine import Search
from robust_nas.search.stage import Plan
from robust_nas.training.engine import Plan as TrainingPlan
from robust_nas.training.engine import Training
from robust_nas.training.recipes import RECIPES, RecipeSettings
from tests.cli_helpers import GOOD, run
from tests.robust_nas.helpers import GENOTYPE
from tests.robust_nas.search import helpers as searches
from tests.robust_nas.training import helpers as trainings
from tests.verify.helpers import random_images, randomise
from verify import METHODS, NORMS, BoundedNetwork, audit, certified_radius

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU here"),
]
GPU = torch.device("cuda")


def convnet() -> nn.Module:
    layers = (nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(3, 4, 2), nn.ReLU())
    return randomise(nn.Sequential(*layers, nn.Flatten(), nn.Linear(4, 3)))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("method", METHODS)
def test_bounds(norm, method):
    images = random_images((1, 6, 6))
    here, there = (
        BoundedNetwork(convnet().to(place), images[:1].to(place)).bounds(images.to(place), 0.05, norm, method=method)
        for place in ("cpu", GPU)
    )
    tolerance = 1e-4 if method == "alpha-crown" else 1e-9
    torch.testing.assert_close(there.lower.cpu(), here.lower, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(there.upper.cpu(), here.upper, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_certificates_and_their_audit(dtype):
    images = random_images((1, 6, 6), 8).to(GPU, dtype)
    model = convnet().to(GPU, dtype)
    labels, network = model(images).argmax(1), BoundedNetwork(model, images[:1])
    radius = certified_radius(network, images, labels, method="crown").radius
    assert (radius > 0).all() and audit(network, images, labels, radius, method="crown").broken == 0


@pytest.mark.parametrize("amp", [False, True])
def test_a_search(amp):
    torch.manual_seed(0)
    metric = METRICS["combined"](MetricSettings("linf"))
    plan = Plan(searches.TINY, metric=metric, gamma=0.5, amp=amp)
    assert all(row["finite"] in (1, None) for row in Search(plan, searches.small_data(), GPU).steps())


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_training(recipe):
    torch.manual_seed(0)
    settings = RecipeSettings("l2", 0.02, attack_steps=2)
    plan = TrainingPlan(GENOTYPE, trainings.preset(recipe), recipe, settings)
    rows = list(Training(plan, trainings.small_data(), GPU).steps())
    assert rows and all(row["loss"] == row["loss"] for row in rows)


@pytest.mark.parametrize(
    "line",
    [
        ["certify", "--arch", GOOD["--arch"], "--weights", GOOD["--weights"], "--images", "4"],
        ["attack", "--arch", GOOD["--arch"], "--weights", GOOD["--weights"], "--images", "4", "--attack", "pgd"],
        ["audit", *(word for pair in GOOD.items() for word in pair)],
    ],
)
def test_commands(line, here):
    assert run(*line, "--device", "cuda") == 0
