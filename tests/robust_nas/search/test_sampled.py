"""Methods that try candidates: R-DARTS, random search and RobNet."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from robust_nas.data import Examples
from robust_nas.genotype import Architecture, RobNetGenotype
from robust_nas.options import SearchOptions
from robust_nas.search import run as search_run
from robust_nas.search import run_search
from robust_nas.search.judges import Score
from robust_nas.search.presets import PRESETS
from robust_nas.search.strategies import STRATEGIES
from robust_nas.search.strategies.base import Step
from robust_nas.search.trials import Trials
from robust_nas.training.engine import build
from robust_nas.training.presets import PRESETS as TRAINING_PRESETS
from tests.robust_nas.search.helpers import TINY, small_data, tiny_search
from verify.checks.errors import InputError

PAPER = PRESETS["paper"]["none"]
PRESET = replace(TINY, channels=4, candidates=2, trial_epochs=1)


def test_r_darts_gives_the_result_of_the_weight_decay_that_wins_with_its_alphas(monkeypatch):
    """Each weight decay has a stage of its own, on a fresh supernet."""
    assert STRATEGIES["r-darts"]().stages(PAPER)[0] == PAPER
    scores = map(Score, [0.2, 0.9, 0.3, 0.4])
    monkeypatch.setattr(Trials, "_score", lambda self, network: next(scores))
    search = tiny_search(replace(PRESET, alpha_learning_rate=0.5), strategy=STRATEGIES["r-darts"]())
    decays, models, alphas, genotypes, stage = [], [], [], [], search.stage
    for _ in search.steps():
        if search.stage is not stage or search.trials is not None and len(genotypes) == 3:  # a stage has just ended
            decays.append(stage.state_dict()["weights"]["param_groups"][0]["weight_decay"])
            models.append(stage.model)
            alphas.append({name: alpha.detach().clone() for name, alpha in stage.model.alphas.items()})
            genotypes.append(stage.model.genotype())
            stage = search.stage
    assert decays == [3e-4, 9e-4, 27e-4, 81e-4]
    assert len({id(model) for model in models}) == 4
    assert len(genotypes) == 4 and len({str(genotype) for genotype in genotypes}) == 4
    assert search.trials.candidates == genotypes
    assert search.genotype() == genotypes[1]
    assert all(torch.equal(alphas[1][name], value) for name, value in search.parameters().items())
    again = tiny_search(PRESET, strategy=STRATEGIES["r-darts"]())
    again.load_state_dict(search.state_dict())
    assert all(torch.equal(alphas[1][name], value) for name, value in again.parameters().items())


@pytest.mark.parametrize(
    ("space", "cells", "recipe"),
    [("darts", 8, "standard"), ("robnet", 8, "adversarial"), ("robnet-free", 20, "adversarial")],
)
def test_random_search_trains_candidates_of_its_space_from_scratch(space, cells, recipe):
    strategy = STRATEGIES["random"](space)
    assert not strategy.stages(PAPER)
    trial = strategy.trial(PAPER, "cifar10")
    assert (trial.preset.cells, trial.recipe, trial.preset.epochs, trial.count) == (cells, recipe, 100, 24)
    found = strategy.candidates([], lambda generator: None, PAPER, 5, torch.Generator())
    assert len({str(architecture) for architecture in found}) == 5
    assert all(architecture.space == space.removesuffix("-free") and architecture.nodes == 3 for architecture in found)
    assert found[0].depth == (20 if space == "robnet-free" else None)


def test_robnet_fine_tunes_for_three_hundredths_of_a_training():
    strategy = STRATEGIES["robnet"]("robnet-free")
    trial, (stage,) = strategy.trial(PAPER, "cifar10"), strategy.stages(PAPER)
    assert (trial.preset.epochs, trial.recipe, trial.settings.epsilon) == (3, "adversarial", 8 / 255)
    assert stage.cells == trial.preset.cells == 20
    assert strategy.trial(PRESET, "digits").preset.epochs == 1
    with pytest.raises(InputError, match="take imagefolder64"):
        strategy.trial(PAPER, "imagefolder")


def drawn_step(seed=0) -> Step:
    return Step(0, 0, 0.0, PRESET, torch.Generator().manual_seed(seed), dataset="digits")


def test_robnet_trains_a_random_architecture_on_images_attacked_against_it(monkeypatch):
    strategy = STRATEGIES["robnet"]()
    model = tiny_search(PRESET, strategy=strategy).model.train()
    batch = Examples(torch.rand(6, 1, 6, 6).double(), torch.arange(6) % 3)
    drawn, attacked = [], []
    for seed in (0, 0, 1):
        step = drawn_step(seed)
        with strategy.around_weight_step(model, step, lambda: None):
            drawn.append(model.genotype())
            attacked.append(strategy.training_examples(model, step, batch).images)
            assert model.training
            model.eval()
            losses = [F.cross_entropy(model(images), batch.labels) for images in (attacked[-1], batch.images)]
            model.train()
            assert losses[0] > losses[1]
    assert drawn[0] == drawn[1] != drawn[2]
    assert torch.equal(attacked[0], attacked[1]) and not torch.equal(attacked[0], attacked[2])
    away = (attacked[0] - batch.images).abs()
    assert away.max() == pytest.approx(0.1) and attacked[0].amin() >= 0 and attacked[0].amax() <= 1
    assert model.gates.min() == 1  # outside of the step


def test_robnets_attack_is_pgd_against_the_gates_in_evaluation_mode():
    """Recomputed by hand: the draws of the step's generator are the gates, then the seed of the attack."""
    strategy, step = STRATEGIES["robnet"](), drawn_step()
    model = tiny_search(PRESET, strategy=strategy).model.train()
    batch = Examples(torch.rand(6, 1, 6, 6).double(), torch.arange(6) % 3)
    generator = torch.Generator().manual_seed(0)
    torch.randint(2**62, (), generator=generator)
    noise = torch.Generator().manual_seed(int(torch.randint(2**62, (), generator=generator)))
    with strategy.around_weight_step(model, step, lambda: None):
        found = strategy.training_examples(model, step, batch).images
        model.eval()
        lower, upper = (batch.images - 0.1).clamp(min=0), (batch.images + 0.1).clamp(max=1)
        x = batch.images + 0.1 * (2 * torch.rand(batch.images.shape, generator=noise) - 1)
        x = torch.minimum(torch.maximum(x, lower), upper)
        for _ in range(7):
            x = x.detach().requires_grad_()
            F.cross_entropy(model(x), batch.labels).backward()
            x = torch.minimum(torch.maximum(x + 0.025 * x.grad.sign(), lower), upper)
    assert torch.allclose(found, x, atol=1e-6, rtol=0)


def test_robnets_candidates_start_from_the_supernet():
    search = tiny_search(PRESET, strategy=STRATEGIES["robnet"]("robnet-free"))
    for _ in search.steps():
        if search.trials is not None:
            break
    network, x = search.trials._training.network.double().eval(), torch.rand(4, 1, 6, 6).double()
    with search.model.eval().at(search.trials.candidates[0]):
        # batch norms' statistics and weights go through the candidate's float32
        assert torch.allclose(network(x), search.model(x), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("method", "space"), [("robnet", "robnet"), ("robnet", "robnet-free"), ("random", None), ("random", "robnet-free")]
)
def test_a_run_ends_with_a_genotype_that_can_be_trained(tmp_path, monkeypatch, method, space):
    monkeypatch.setitem(PRESETS, "quick", dict.fromkeys(PRESETS["quick"], PRESET))
    monkeypatch.setattr(search_run, "load", lambda *_: small_data())
    result = run_search(SearchOptions(method=method, space=space, device="cpu", out=tmp_path))
    architecture = Architecture.load(result.genotype_path)
    assert architecture.meta["space"] == (space or "darts")
    assert isinstance(architecture, RobNetGenotype) == (space is not None)
    assert architecture.depth == (5 if space == "robnet-free" else None)
    sizes = TRAINING_PRESETS["quick"]["standard"]
    network = build(architecture, small_data(), replace(sizes, cells=architecture.depth or sizes.cells))
    assert network(small_data().train.images).shape == (24, 3)
    assert not (tmp_path / "alphas.safetensors").exists()
    (candidates,) = (text for name, text in result.summary if name == "candidates")
    assert candidates.startswith("2, adversarial accuracy" if space else "2, accuracy")


def test_a_method_refuses_what_it_does_not_know(tmp_path):
    with pytest.raises(InputError, match="searches the space robnet or robnet-free, not darts"):
        run_search(SearchOptions(method="robnet", space="darts", out=tmp_path))
    with pytest.raises(InputError, match="takes no gradient in architecture parameters, so no metric"):
        run_search(SearchOptions(method="random", metric="cb", out=tmp_path))
