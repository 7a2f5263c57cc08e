"""Trials of candidates: their scores, their choice, their place in a search that is stopped and resumed."""

import random
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from robust_nas import checkpoint
from robust_nas.data import Examples, search_split
from robust_nas.distributed import ALONE
from robust_nas.search import judges as module
from robust_nas.search.judges import Score, adversarial_accuracy, best, tight_radius, verified_accuracy
from robust_nas.search.presets import PRESETS as SEARCH_PRESETS
from robust_nas.search.strategies import STRATEGIES, r_darts
from robust_nas.search.trials import Trial, Trials, trial_at
from robust_nas.spaces.network import Network
from robust_nas.spaces.sampling import sample_genotype
from robust_nas.training.engine import Plan, Training
from robust_nas.training.presets import PRESETS
from robust_nas.training.recipes import RecipeSettings
from tests.levels import level
from tests.robust_nas.search.helpers import TINY, small_data, tiny_search
from verify import BoundedNetwork, attack_radius
from verify.specification import margins

SEED = 3
SIZES = replace(PRESETS["quick"]["standard"], cells=2, channels=2, epochs=2, batch_size=5, held_out=0.0)
SETTINGS = RecipeSettings("linf", 0.2, attack_steps=2)
SCORE = ("trial_accuracy", "trial_radius", "trial_verified")
CANDIDATES = [sample_genotype(1, random.Random(index)) for index in range(3)]
TRAIN, HELD_OUT = search_split(small_data(), SEED)
DATA = replace(small_data(), train=TRAIN)


def trials(recipe="standard", prepare=lambda architecture, network: None, judge="accuracy") -> Trials:
    trial = Trial(len(CANDIDATES), SIZES, recipe, SETTINGS, judge)
    return Trials(trial, CANDIDATES, prepare, DATA, HELD_OUT, SEED, torch.device("cpu"), ALONE)


def trained(candidate, recipe):
    """The network of a training of its own."""
    torch.manual_seed(SEED)
    training = Training(Plan(candidate, SIZES, recipe, replace(SETTINGS, seed=SEED), SEED), DATA)
    losses = [row["loss"] for row in training.steps()]
    return training.network.eval(), losses


def held_out_accuracy(network):
    return (network(HELD_OUT.images).argmax(1) == HELD_OUT.labels).double().mean().item()


def attacked_by_hand(network, images, labels, generator):
    """PGD in l-infinity: a uniform start, steps of a quarter of epsilon, within the ball and [0, 1]."""
    epsilon = SETTINGS.epsilon
    lower, upper = (images - epsilon).clamp(min=0), (images + epsilon).clamp(max=1)
    x = images + epsilon * (2 * torch.rand(images.shape, generator=generator) - 1)
    x = torch.minimum(torch.maximum(x, lower), upper)
    for _ in range(SETTINGS.attack_steps):
        x = x.detach().requires_grad_()
        F.cross_entropy(network(x), labels, reduction="sum").backward()
        x = torch.minimum(torch.maximum(x + epsilon / 4 * x.grad.sign(), lower), upper)
    return x.detach()


def test_scores_are_the_held_out_accuracies_of_trainings_of_their_own():
    mine = trials()
    rows = list(mine.steps())
    networks = [trained(candidate, "standard") for candidate in CANDIDATES]
    assert mine.scores == [Score(held_out_accuracy(network)) for network, _ in networks]
    assert [row["train_loss"] for row in rows] == [loss for _, losses in networks for loss in losses]
    assert [row["trial_accuracy"] for row in rows if row["trial_accuracy"] is not None] == [score.accuracy for score in mine.scores]


def test_after_adversarial_training_what_counts_is_accuracy_under_the_attack(monkeypatch):
    monkeypatch.setattr(module, "EVALUATION_BATCH", 5)  # of 12 images
    mine = trials("adversarial")
    list(mine.steps())
    for candidate, score in zip(CANDIDATES, mine.scores, strict=True):
        network, _ = trained(candidate, "adversarial")
        generator, found = torch.Generator().manual_seed(SEED), 0
        for images, labels in zip(HELD_OUT.images.split(5), HELD_OUT.labels.split(5), strict=True):
            attacked = attacked_by_hand(network, images, labels, generator)
            found += int(sum((network(images).argmax(1) == labels) & (network(attacked).argmax(1) == labels)))
        assert score == Score(found / 12)
        assert score.accuracy <= held_out_accuracy(network)


class Spike(Network):
    """Answers 1 where all pixels are 0, otherwise 0."""

    def __init__(self):
        torch.nn.Module.__init__(self)
        self.weight = torch.nn.Parameter(torch.ones(()))

    def forward(self, x):
        at_zero = self.weight * (x.flatten(1).amax(1) == 0)
        return torch.stack([1 - at_zero, at_zero], dim=1)


def test_an_attack_that_mends_an_image_does_not_make_it_right():
    model = Spike().train()
    assert model(torch.zeros(1, 1, 2, 2)).argmax() == 1 and model(torch.full((1, 1, 2, 2), 0.1)).argmax() == 0
    examples = Examples(torch.zeros(4, 1, 2, 2), torch.zeros(4, dtype=torch.long))
    assert adversarial_accuracy(model, examples, SETTINGS, SIZES) == 0
    assert model.training


def test_the_best_is_the_first_of_the_highest_score():
    mine = trials()
    mine.tries = [[Score(0.25)], [Score(0.75)], [Score(0.75)]]
    assert mine.finished and mine.best() == CANDIDATES[1]


def test_a_radius_counts_among_those_that_are_about_as_accurate():
    near, far = 0.9 - 0.9 * module.SLACK, 0.9 - 1.1 * module.SLACK
    assert best([Score(far, 5.0), Score(near, 1.0), Score(near, 2.0), Score(0.9, 1.5)]) == 2
    assert best([Score(far, 5.0), Score(near, 2.0), Score(0.9, 2.0)]) == 1
    assert best([Score(far, 0.0), Score(0.9, 0.0)]) == 1


def test_after_certified_training_what_counts_is_verified_accuracy(monkeypatch):
    monkeypatch.setattr(module, "verified_accuracy", lambda network, examples, settings: settings.epsilon)
    mine = trials("certified", judge="radius")
    list(mine.steps())
    networks = [trained(candidate, "certified")[0] for candidate in CANDIDATES]
    assert mine.scores == [Score(held_out_accuracy(each), None, SETTINGS.epsilon) for each in networks]
    assert best([Score(0.9, None, 0.1), Score(0.2, None, 0.3), Score(0.5, None, 0.3)]) == 1


def test_verified_accuracy_is_of_images_that_intervals_prove_in_the_whole_ball():
    network, _ = trained(CANDIDATES[0], "standard")
    bounded, rows, found = BoundedNetwork(network, HELD_OUT.images), margins(HELD_OUT.labels, 3), []
    for epsilon in (10 ** (-power / 3) for power in range(22, 1, -1)):
        lower = bounded.bounds(HELD_OUT.images, epsilon, "linf", rows, "ibp", "free").lower
        found.append(verified_accuracy(network, HELD_OUT, RecipeSettings("linf", epsilon)))
        assert found[-1] == (lower > 0).all(1).double().mean().item()
    assert found[0] == held_out_accuracy(network) > found[-1] == 0


def test_judges_by_radius_prove_what_the_network_gets_right_and_leave_it_as_it_was():
    network, _ = trained(CANDIDATES[0], "standard")
    right = (network(HELD_OUT.images).argmax(1) == HELD_OUT.labels).nonzero().squeeze(1)[: module.BOUNDED]
    images, labels = HELD_OUT.take(right)
    ceiling = attack_radius(BoundedNetwork(network, images), images, labels, "linf").mean()
    network.train()
    radius = tight_radius(network, HELD_OUT, SETTINGS)
    assert 0 < radius <= ceiling
    verified_accuracy(network, HELD_OUT, SETTINGS)
    assert network.training
    with torch.no_grad():
        network.classifier.weight.zero_()
        network.classifier.bias.copy_(torch.tensor([0.0, -1.0, -1.0]))
    others = HELD_OUT.take((HELD_OUT.labels > 0).nonzero().squeeze(1))
    assert tight_radius(network, others, SETTINGS) == verified_accuracy(network, others, SETTINGS) == 0


@pytest.mark.parametrize("method", ["darts", "pc-darts"])
def test_candidates_lie_around_the_result(method):
    preset = replace(TINY, channels=4, nodes=2, candidates=3, trial_epochs=1)
    mine = tiny_search(preset, strategy=STRATEGIES[method](), trial=trial_at(preset, "standard", "digits"))
    for row in mine.steps():
        last = row
    found, derived = mine.trials.candidates, mine.model.genotype()
    assert found[0] == derived and len({str(candidate.to_dict()) for candidate in found}) == 3
    assert last["candidate"] == 3 and mine.genotype() in found
    assert mine.parameters() if mine.genotype() == derived else not mine.parameters()
    with torch.no_grad():  # an alpha that is sure keeps the strong operations
        for alpha in mine.model.architecture_parameters():
            alpha.zero_().flatten()[1] = 100.0
    sure = mine.model.genotype().normal[0]
    nearby = mine._source().first([derived], mine.model, mine._some_held_out, torch.Generator().manual_seed(5))
    assert all(candidate.normal[0] == sure for candidate in nearby[1:])


def test_prepare_gives_every_candidate_its_weights():
    def zero(architecture, network):
        assert architecture == network.genotype
        for weight in network.parameters():
            torch.nn.init.zeros_(weight)

    losses = [row["train_loss"] for row in trials(prepare=zero).steps() if row["epoch"] % 2 == 1 and row["step"] == 1]
    assert losses == pytest.approx([torch.tensor(3.0).log().item()] * 3)  # of three classes


def test_a_trial_has_the_size_of_the_search():
    preset = SEARCH_PRESETS["paper"]["none"]
    trial = trial_at(preset, "adversarial", "cifar10")
    sizes = trial.preset
    assert (sizes.cells, sizes.channels, sizes.batch_size, sizes.epochs, sizes.held_out) == (8, 16, 128, 100, 0)
    assert (trial.count, trial.settings.norm, trial.settings.epsilon) == (24, "linf", 8 / 255)
    assert (sizes.optimiser, sizes.learning_rate) == ("sgd", 0.1)


PRESET = replace(TINY, channels=4, candidates=2, trial_epochs=2)


@pytest.fixture(autouse=True)
def two_stages(monkeypatch):
    """Of R-DARTS, for speed."""
    monkeypatch.setattr(r_darts, "WEIGHT_DECAYS", (3e-4, 9e-4))


def search(method):
    return tiny_search(PRESET, strategy=STRATEGIES[method]())


@pytest.mark.parametrize(
    ("method", "steps", "trial_steps"),
    [("random", 0, 2 * 4), ("robnet", 2, 2 * 2), pytest.param("r-darts", 2 * 2, 2 * 4, marks=pytest.mark.slow)],
)
def test_a_search_counts_the_steps_of_its_trials(method, steps, trial_steps):
    mine = search(method)
    assert (mine.length, mine.done, mine.step, mine.finished) == (steps + trial_steps, 0, 0, False)
    rows = []
    for row in mine.steps():
        rows.append(row)
        assert (mine.done, mine.step) == (len(rows), len(rows) % 2)  # epochs of two steps
        assert tuple(row) == mine.columns
    assert len(rows) == mine.length and mine.finished
    tried = rows[steps:]
    each = trial_steps // mine.trial.count
    assert [row["candidate"] for row in rows] == [None] * steps + [1 + i // each for i in range(trial_steps)]
    assert [row["trial_accuracy"] is not None for row in tried] == [(i + 1) % each == 0 for i in range(trial_steps)]
    assert [row["epoch"] for row in tried] == [1 + i // 2 for i in range(trial_steps)]
    if method != "r-darts":
        assert mine.columns == ("epoch", "step", "train_loss", "candidate", *SCORE)
    assert mine.genotype() == mine.trials.candidates[best(mine.trials.scores)]


@pytest.mark.parametrize(
    ("method", "places"),
    [("random", level((0, 3, 5), range(9))), ("robnet", level((2,), (1, 2, 3))), pytest.param("r-darts", (4, 7), marks=pytest.mark.slow)],
)
def test_stopped_at_any_step_it_goes_on_bit_for_bit(tmp_path, method, places):
    whole, rows = search(method), []
    (tmp_path / "0").mkdir()
    checkpoint.save(tmp_path / "0", whole.state_dict())
    for place, row in enumerate(whole.steps(), 1):
        rows.append(row)
        if place in places:
            (tmp_path / str(place)).mkdir()
            checkpoint.save(tmp_path / str(place), whole.state_dict())
    for place in places:
        resumed = search(method)
        torch.rand(7)
        resumed.load_state_dict(checkpoint.load(tmp_path / str(place)).state)
        assert resumed.done == place
        assert list(resumed.steps()) == rows[place:], place
        assert resumed.trials.scores == whole.trials.scores
        assert resumed.genotype() == whole.genotype()
        theirs = resumed.trials._training.network.state_dict()
        for name, value in whole.trials._training.network.state_dict().items():
            assert place == len(rows) or torch.equal(value, theirs[name]), (place, name)
