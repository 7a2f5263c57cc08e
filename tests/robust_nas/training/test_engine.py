"""The training loop: resumable at any step, and it stops before a step that would spoil the weights."""

import math
from dataclasses import replace

import pytest
import torch

from robust_nas import checkpoint
from robust_nas.data import Data, Examples
from robust_nas.training.engine import Plan, Training, build, optimiser
from robust_nas.training.presets import PRESETS, preset_for
from robust_nas.training.recipes import RECIPES
from tests.robust_nas.helpers import GENOTYPE
from tests.robust_nas.training.helpers import BOUNDED, SETTINGS, TINY, small_data, training
from verify.checks.errors import InputError


@pytest.mark.parametrize("recipe", list(RECIPES))
@pytest.mark.parametrize("place", [2, 4])
def test_a_state_taken_between_any_two_steps_continues_bit_for_bit(tmp_path, recipe, place):
    whole = training(recipe)
    rows = list(whole.steps())
    assert len(rows) == whole.length == whole.done == 12
    stopped = training(recipe)
    steps = stopped.steps()
    for _ in range(place):
        next(steps)
    checkpoint.save(tmp_path, stopped.state_dict())
    resumed = training(recipe)
    torch.rand(7)
    resumed.load_state_dict(checkpoint.load(tmp_path).state)
    assert resumed.done == place
    assert list(resumed.steps()) == rows[place:]
    for name, value in whole.learner.state_dict().items():
        assert torch.equal(value, resumed.learner.state_dict()[name]), name


@pytest.mark.parametrize("recipe", list(RECIPES))
def test_every_recipe_learns(recipe):
    """Two classes that differ in brightness, much more than epsilon."""
    images = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 0.2
    labels = torch.arange(40) % 2
    examples = Examples(images + 0.7 * labels.view(-1, 1, 1, 1), labels)
    data = Data("digits", examples, examples, classes=2, mean=(0.5,), std=(0.4,))
    torch.manual_seed(0)
    preset = replace(PRESETS["quick"][recipe], epochs=12, batch_size=10, channels=2)
    found = Training(Plan(GENOTYPE, preset, recipe, SETTINGS), data)
    rows = list(found.steps())
    assert rows[-1]["held_out_accuracy"] == 1
    assert rows[-1]["loss"] < 0.5 * rows[0]["loss"]
    if recipe in BOUNDED:
        assert rows[-1]["verified"] == 1
        assert rows[-1]["epsilon"] == SETTINGS.epsilon


def test_a_loss_that_is_not_finite_stops_before_the_step():
    found = training()
    steps = found.steps()
    next(steps)
    with torch.no_grad():
        found.network.stem[0].weight[0, 0, 0, 0] = math.nan
    before = {name: value.clone() for name, value in found.learner.state_dict().items() if "running" not in name}
    with pytest.raises(InputError, match=r"diverged in step 2 of epoch 1 \(loss nan, .* not finite is network.stem.0\)"):
        next(steps)
    for name, value in found.learner.state_dict().items():
        if name in before and "num_batches" not in name:
            assert torch.equal(value.nan_to_num(), before[name].nan_to_num()), name


def test_a_gradient_that_is_not_finite_stops_too(monkeypatch):
    found = training()
    weight = found.network.classifier.weight
    weight.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(InputError, match=r"gradient (inf|nan); the largest output, .*, is that of layer network"):
        next(found.steps())
    assert torch.isfinite(weight).all()


def test_too_few_images_for_a_step_are_refused():
    with pytest.raises(InputError, match="^digits has 1 images to train on, and a step needs 2$"):
        training(batch_size=5, held_out=0.99)


def test_the_learning_rate_rises_and_falls():
    found = training(epochs=6, warm_up=2)
    rates = [row["learning_rate"] for row in found.steps() if row["step"] == 1]
    peak = TINY.learning_rate
    expected = [peak / 3, 2 * peak / 3, *(peak * (1 + math.cos(math.pi * i / 4)) / 2 for i in range(4))]
    assert rates == pytest.approx(expected)


def test_drop_path_rises_and_ends_with_the_training():
    found, seen = training(drop_path=0.3), []
    for row in found.steps():
        if row["step"] == 1:
            seen.append(found.network.cells[0].drop_path)
    assert seen == pytest.approx([0.0, 0.1, 0.2])
    assert found.network.cells[0].drop_path == 0.0


def test_scales_and_shifts_need_not_decay():
    found = training()
    groups = optimiser(found.learner, replace(TINY, weight_decay=0.5, decay_norms=False)).param_groups
    decays = {id(weight): group["weight_decay"] for group in groups for weight in group["params"]}
    for name, weight in found.learner.named_parameters():
        assert decays[id(weight)] == (0.5 if weight.dim() > 1 else 0.0), name
    assert isinstance(optimiser(found.learner, replace(TINY, optimiser="adam")), torch.optim.Adam)


def test_large_images_have_imagenets_stem():
    examples = Examples(torch.rand(2, 3, 96, 96), torch.tensor([0, 1]))
    network = build(GENOTYPE, replace(small_data(), train=examples, mean=(0.5,) * 3, std=(0.2,) * 3), TINY)
    before = network.stem(network.input(examples.images))
    assert before.shape == (2, TINY.channels, 24, 24)
    assert network.second_stem(before).shape == (2, TINY.channels, 12, 12)
    assert network.settings["stem"] == "imagenet"
    assert network(examples.images).shape == (2, 3)
    paper = preset_for("paper", "standard", 224)
    assert (paper.cells, paper.channels, paper.epochs, paper.learning_rate) == (14, 48, 250, 0.5)
    assert (paper.weight_decay, paper.auxiliary) == (3e-5, 0.4)


def test_the_paper_presets():
    paper = preset_for("paper", "jacobian", 32)
    assert (paper.cells, paper.channels, paper.epochs, paper.batch_size) == (20, 36, 600, 128)
    assert (paper.learning_rate, paper.clip, paper.drop_path, paper.cutout, paper.auxiliary) == (0.025, 5, 0.3, 16, 0.4)
    robnet = preset_for("paper", "adversarial", 32)
    assert (robnet.batch_size, robnet.learning_rate, robnet.warm_up, robnet.epochs) == (1536, 1.2, 20, 170)
    assert not robnet.decay_norms
    for presets in PRESETS.values():
        assert list(presets) == list(RECIPES)
