"""SDARTS: the perturbation is in its box, raises the loss, and leaves nothing behind."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from robust_nas.distributed import Processes
from robust_nas.search.stage import build
from robust_nas.search.strategies import STRATEGIES
from robust_nas.search.strategies.sdarts import projected, radius
from robust_nas.spaces.partial import PartialSupernet
from tests.robust_nas.search.helpers import TINY, small_data, step_at

ADVERSARIAL = ["sdarts-adv", "pc-darts-adv"]
PRESET = replace(TINY, channels=4, epochs=50)
LATE = step_at(epoch=40, preset=PRESET)


def problem(method):
    """A strategy, its supernet with batch norms and alphas that have moved, and a training loss."""
    strategy = STRATEGIES[method]()
    torch.manual_seed(0)
    model, train = build(small_data(), PRESET, strategy), small_data().train
    x, labels = train.images.double(), train.labels
    with torch.no_grad():
        for alpha in model.alphas.values():
            alpha.normal_()
        for _ in range(9):
            model(x)
    return strategy, model, lambda: F.cross_entropy(model(x), labels)


def weights(model):
    return {kind: model.mixture(kind)[0].detach().clone() for kind in model.alphas}


def in_evaluation(model, loss):
    model.eval()
    value = loss().item()
    model.train()
    return value


@pytest.mark.parametrize("method", ADVERSARIAL)
def test_the_ascent_raises_the_loss_above_that_of_its_start(method):
    strategy, model, loss = problem(method)
    losses = [in_evaluation(model, loss)]
    for each in (STRATEGIES["sdarts-rs"](), strategy):  # from the same generator: the ascent's start, and its end
        with each.around_weight_step(model, step_at(40, preset=PRESET), loss):
            losses.append(in_evaluation(model, loss))
    assert losses[2] - losses[0] > 3 * abs(losses[1] - losses[0])


def test_gradients_of_all_processes_count():
    """Another process with twice the gradient the other way turns the ascent into a descent."""

    class Opposed(Processes):
        def add_up(self, tensors):
            return tuple(-tensor for tensor in tensors)

    strategy, model, loss = problem("sdarts-adv")
    with strategy.around_weight_step(model, replace(LATE, processes=Opposed()), loss):
        lowered = in_evaluation(model, loss)
    assert lowered < in_evaluation(model, loss)


@pytest.mark.parametrize("method", ["sdarts-rs", *ADVERSARIAL])
@pytest.mark.parametrize("epoch", [0, 25, 49])
def test_rows_are_distributions_and_come_from_the_box(method, epoch):
    strategy, model, loss = problem(method)
    clean, step = weights(model), step_at(epoch, preset=PRESET)
    epsilon = 0.03 + 0.27 * epoch / 50
    with strategy.around_weight_step(model, step, loss):
        found = weights(model)
    for kind, rows in found.items():
        assert torch.allclose(rows.sum(1), torch.ones(2).double())
        assert (rows >= 0).all()
        assert not torch.allclose(rows, clean[kind], atol=0.1 * epsilon)
        # Before it was normalised the row was some multiple of this, within the box: all operations agree on one.
        low, high = ((clean[kind] + sign * epsilon).clamp(0, 1) for sign in (-1, 1))
        least, most = (low / rows).nan_to_num(0).amax(1), (high / rows).nan_to_num(torch.inf).amin(1)
        assert (least <= most + 1e-9).all()


def test_projection_by_hand():
    centre = torch.tensor([[0.7, 0.2, 0.1], [0.05, 0.05, 0.9], [0.1, 0.1, 0.1]]).double()
    moved = torch.tensor([[1.4, 0.1, 0.0], [0.05, -0.2, 0.9], [-1.0, -0.05, -1.0]]).double()
    expected = [[0.9 / 1.0, 0.1 / 1.0, 0.0], [0.05 / 0.95, 0.0, 0.9 / 0.95], [0.0, 1.0, 0.0]]
    assert torch.allclose(projected(moved, centre, 0.2), torch.tensor(expected).double())


@pytest.mark.parametrize("method", ["sdarts-rs", *ADVERSARIAL])
def test_all_is_as_before_after_the_step(method):
    strategy, model, loss = problem(method)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    clean = weights(model)
    with strategy.around_weight_step(model, LATE, loss):
        assert model.training
        assert all(torch.equal(alpha, before[f"alphas.{kind}"]) for kind, alpha in model.alphas.items())
    with strategy.around_alpha_step(model, LATE):
        assert all(torch.equal(rows, clean[kind]) for kind, rows in weights(model).items())
    with pytest.raises(KeyError), strategy.around_weight_step(model, LATE, {}["no loss"]):
        pass
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(value.requires_grad for value in model.buffers())


def test_an_ascent_that_fails_leaves_the_mode():
    strategy, model, _ = problem("sdarts-adv")

    def broken():
        raise KeyError

    with pytest.raises(KeyError), strategy.around_weight_step(model, LATE, broken):
        pass
    assert model.training
    assert not any(model.relaxation(kind).offset.any() for kind in model.alphas)


def test_noise_is_new_at_every_step_and_fills_the_box():
    strategy, model, loss = problem("sdarts-rs")
    with torch.no_grad():
        for alpha in model.alphas.values():
            alpha.zero_()  # weights of 1/8: no clamping at epoch 0
    drawn, step = [], step_at(0, preset=PRESET)
    for _ in range(40):
        with strategy.around_weight_step(model, step, loss):
            drawn.append(weights(model)["normal"])
    assert not torch.equal(drawn[0], drawn[1])
    # Between two operations of a row noise differs by 2 epsilon at most, a small part of the whole row.
    spread = torch.stack([rows.amax(1) - rows.amin(1) for rows in drawn])
    assert 0.9 * 0.06 < spread.max() < 0.06 / (1 - 8 * 0.03)


def test_the_radius_grows_from_start_to_end():
    assert radius(step_at(0, preset=PRESET)) == pytest.approx(0.03)
    assert radius(step_at(25, preset=PRESET)) == pytest.approx(0.165)
    assert radius(step_at(50, preset=PRESET)) == pytest.approx(0.3)


def test_pc_darts_adv_is_pc_darts_but_for_the_weights_step():
    strategy, model, _ = problem("pc-darts-adv")
    assert isinstance(model, PartialSupernet)
    assert strategy.stages(PRESET) == STRATEGIES["pc-darts"]().stages(PRESET)
    assert strategy.orders == ("first",)
