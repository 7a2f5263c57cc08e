"""ENAS: what an architecture computes in the shared supernet, what a step of the controller moves, what is chosen."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from robust_nas.data import Examples
from robust_nas.genotype import Genotype
from robust_nas.options import SearchOptions
from robust_nas.search import run_search
from robust_nas.search.bilevel import AlphaStep, weight_step
from robust_nas.search.stage import build
from robust_nas.search.strategies import STRATEGIES
from robust_nas.search.strategies.base import Step
from tests.robust_nas.search.helpers import TINY, small_data, tiny_search
from verify.checks.errors import InputError

PRESET = replace(TINY, nodes=2, channels=2)
THREE, FIVE, AVERAGE, MAX, SKIP = range(5)
# By node: inputs, then operations. One edge with two operations, one twice with the same, one without any.
NORMAL = [[[1, 1], [THREE, MAX]], [[2, 0], [SKIP, FIVE]]]
REDUCTION = [[[0, 1], [AVERAGE, THREE]], [[2, 2], [FIVE, FIVE]]]
ARCHITECTURE = torch.tensor([[NORMAL, REDUCTION]])


@pytest.fixture
def model():
    """A normal cell, then two reductions."""
    torch.manual_seed(0)
    return build(small_data(), replace(PRESET, cells=3), STRATEGIES["enas"]())


@pytest.fixture(scope="module")
def stage():
    return tiny_search(PRESET, strategy=STRATEGIES["enas"]()).stage


@pytest.fixture
def step(stage):
    """A step of the controller, with a fresh optimiser; the supernet is as it was afterwards."""
    model = stage.model
    before = state(model)
    optimiser = torch.optim.Adam(model.architecture_parameters(), 0.0035, (0.0, 0.999))
    yield STRATEGIES["enas"]().alpha_step(AlphaStep(stage.network, optimiser, None, 0.0))
    model.load_state_dict(before)


def batch(count=8):
    examples = small_data().train.take(torch.arange(count))
    return Examples(examples.images.double(), examples.labels)


def by_hand(model, x):
    """The logits of ARCHITECTURE: the sum of the operations that it names, cell by cell."""

    def apply(cell, before, last):
        states = cell.inputs(before, last)
        edges = {2: 0, 3: 2}  # the first edge of each node
        for node, (sources, operations) in enumerate(REDUCTION if cell.reduction else NORMAL, 2):
            terms = [
                cell.edges[edges[node] + source].operations[operation](states[source])
                for source, operation in zip(sources, operations, strict=True)
            ]
            states.append(terms[0] + terms[1])
        return torch.cat(states[2:], dim=1)

    return model.run(x, apply)


def test_a_child_is_the_sum_of_its_operations(model):
    x = batch().images
    free = model(x)
    with model.child(ARCHITECTURE):
        held = model(x)
    assert torch.allclose(held, by_hand(model, x), rtol=1e-12, atol=1e-12)
    assert not torch.allclose(held, free)
    assert torch.equal(model(x), free)
    assert model.architecture is None


def test_what_a_child_does_not_take_is_exactly_nothing(model):
    x = batch().images
    with model.child(ARCHITECTURE):
        before = model(x)
        normal = next(cell for cell in model.cells if not cell.reduction)
        with torch.no_grad():
            for parameter in normal.edges[0].parameters():  # from input 0 to node 2
                parameter.add_(1.0)
        assert torch.equal(model(x), before)


def test_uses_count_pairs_of_edge_and_operation(model):
    uses = {kind: counts[0].nonzero().tolist() for kind, counts in model.uses(ARCHITECTURE).items()}
    assert uses == {"normal": [[1, THREE], [1, MAX], [2, FIVE], [4, SKIP]], "reduce": [[0, AVERAGE], [1, THREE], [4, FIVE]]}
    assert model.uses(ARCHITECTURE)["reduce"][0, 4, FIVE] == 2


def test_a_child_as_a_genotype(model):
    assert model.described(ARCHITECTURE[0]) == Genotype(
        normal=(("sep_conv_3x3", 1), ("max_pool_3x3", 1), ("sep_conv_5x5", 0), ("skip_connect", 2)),
        normal_concat=(2, 3),
        reduce=(("avg_pool_3x3", 0), ("sep_conv_3x3", 1), ("sep_conv_5x5", 2), ("sep_conv_5x5", 2)),
        reduce_concat=(2, 3),
        nodes=2,
    )


def test_alphas_are_the_logarithms_of_frequencies(model):
    with torch.no_grad():
        model.controller.operation.bias[SKIP] = 50.0
        model.controller.operation.weight.zero_()
    model.observe()
    drawn = model.controller.sample(2000, torch.Generator().manual_seed(5))
    for kind, rates in model.probabilities().items():
        expected = model.uses(drawn)[kind].mean(0)
        assert torch.allclose(rates, expected, atol=0.2)
        assert (rates.sum() - 4).abs() < 0.5  # pairs of two nodes, and one for each of 25 places in 100
        assert rates.sum(0).argmax() == SKIP


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def changed(before, model):
    return {name.partition(".")[0] for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


def test_a_step_rewards_the_childs_accuracy(step):
    model = step.network.model
    before, data = state(model), batch()
    with torch.no_grad():
        logits = by_hand(model, data.images)
    model.load_state_dict(before)  # running statistics
    score = model.controller.score(ARCHITECTURE)
    with model.child(ARCHITECTURE):
        first, second = step(data, data), step(data, data)
    accuracy = (logits.argmax(1) == data.labels).double().mean().item()
    assert (first["val_accuracy"], first["finite"]) == (accuracy, 1)
    assert first["val_loss"] == pytest.approx(F.cross_entropy(logits, data.labels).item())
    assert first["reward"] == pytest.approx(accuracy + 1e-4 * score.entropy.item())
    assert (first["baseline"], second["baseline"]) == (0, pytest.approx(0.01 * first["reward"]))
    assert changed(before, model) == {"controller", "baseline"}
    assert model.controller.score(ARCHITECTURE).log_probability > score.log_probability


def test_a_broken_loss_moves_nothing(step):
    model = step.network.model
    with torch.no_grad():
        model.classifier.weight.fill_(math.nan)
    before = {name: value for name, value in state(model).items() if name != "classifier.weight"}
    with model.child(ARCHITECTURE):
        assert step(batch(), batch())["finite"] == 0
    now = model.state_dict()
    assert all(torch.equal(now[name], value) for name, value in before.items())


def test_the_weights_step_trains_one_child(model):
    strategy, place = STRATEGIES["enas"](), Step(0, 0, 0.0, PRESET, torch.Generator().manual_seed(0))
    before = state(model)
    with strategy.around_weight_step(model, place, lambda: None):
        uses = model.uses(model.architecture)["normal"][0]
        images, labels = batch()
        loss = lambda: F.cross_entropy(model(images), labels)  # noqa: E731
        weight_step(model, loss, torch.optim.SGD(model.weights(), 0.1), 5.0)
    moved = changed(before, model)
    assert {"cells", "classifier"} <= moved and not moved & {"controller", "baseline", "alphas", "relaxations"}
    now = model.state_dict()
    for name, _ in model.cells[0].named_parameters(prefix="cells.0"):
        if ".edges." in name:
            edge, operation = (int(name.split(".")[place]) for place in (3, 5))
            assert torch.equal(now[name], before[name]) == (uses[edge, operation] == 0), name


def test_every_step_draws_anew(model):
    strategy = STRATEGIES["enas"]()
    place = Step(0, 0, 0.0, PRESET, torch.Generator().manual_seed(0))
    drawn = []
    for _ in range(3):
        with strategy.around_alpha_step(model, place):
            drawn.append(model.architecture)
        with strategy.around_weight_step(model, place, lambda: None):
            drawn.append(model.architecture)
    assert len({tuple(one.flatten().tolist()) for one in drawn}) == 6


def test_the_result_is_the_best_of_ten_and_changes_nothing(model):
    before, data = state(model), batch(24)
    found = STRATEGIES["enas"]().genotype(model, lambda: data)
    assert not changed(before, model)
    drawn = model.controller.sample(10, torch.Generator().manual_seed(0))
    accuracies = []
    for one in drawn:
        with model.child(one[None]), torch.no_grad():
            accuracies.append((model(data.images).argmax(1) == data.labels).double().mean().item())
    best = accuracies.index(max(accuracies))
    assert len(set(accuracies)) > 1
    assert found == model.described(drawn[best])


def test_the_controller_has_the_authors_rate(stage):
    (group,) = stage.state_dict()["alpha"]["param_groups"]
    assert (group["lr"], group["betas"], group["weight_decay"]) == (0.0035, (0.0, 0.999), 0.0)
    assert len(group["params"]) == len(list(stage.model.controller.parameters()))


@pytest.mark.parametrize(
    ("option", "words"), [({"metric": "cb"}, "no metric"), ({"stop": "plateau"}, "--stop"), ({"order": "second"}, "the order first")]
)
def test_what_needs_gradients_in_alpha_is_refused(tmp_path, option, words):
    with pytest.raises(InputError, match=f"^enas .*{words}"):
        run_search(SearchOptions(method="enas", out=tmp_path, **option))
