"""ProxylessNAS: binary gates, BinaryConnect's gradient, and alphas that were not drawn."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from scipy import stats

from robust_nas.metrics import IntervalSlope
from robust_nas.search.stage import build
from robust_nas.search.strategies.proxyless import BinaryGates
from robust_nas.spaces.cells import MixedOperation
from robust_nas.spaces.operations import PRIMITIVES
from robust_nas.spaces.supernet import Supernet
from tests.robust_nas.search.helpers import TINY, small_data, step_at, tiny_search

PRESET = replace(TINY, channels=2, cells=3, nodes=2, alpha_learning_rate=0.1, epochs=3)


def supernet():
    torch.manual_seed(0)
    return with_alphas(build(small_data(), PRESET, BinaryGates()))


def with_alphas(model):
    """Drawn at random."""
    with torch.no_grad():
        for alpha in model.alphas.values():
            alpha.normal_()
    return model


def loss(model):
    train = small_data().train
    return F.cross_entropy(model(train.images.double()), train.labels)


def weights(model):
    return {kind: model.mixture(kind)[0].detach() for kind in model.alphas}


def as_child(model, choice):
    """The loss of the network in which every edge is just its operation, as the cells would compute it."""
    edges = [module for module in model.modules() if isinstance(module, MixedOperation)]
    for cell in model.cells:
        chosen = choice["reduce" if cell.reduction else "normal"]
        for edge, operation in zip(cell.edges, chosen.tolist(), strict=True):
            edge.forward = lambda x, weights, operation=edge.operations[operation]: operation(x)
    value = loss(model)
    for edge in edges:
        del edge.forward
    return value


@pytest.mark.parametrize("around", ["weights", "alpha"])
def test_the_supernet_is_the_child_that_was_drawn(around):
    strategy, model, step = BinaryGates(), supernet(), step_at(seed=1)
    context = (
        strategy.around_weight_step(model, step, lambda: loss(model))
        if around == "weights"
        else strategy.around_alpha_step(model, step)
    )
    with context:
        found = weights(model)
        value = loss(model).item()
    assert all(((rows == 0) | (rows == 1)).all() and (rows.sum(1) == 1).all() for rows in found.values())
    names = {PRIMITIVES[i] for rows in found.values() for i in rows.argmax(1).tolist()}
    assert "none" in names and len(names) > 3
    assert value == pytest.approx(as_child(model, {kind: rows.argmax(1) for kind, rows in found.items()}).item())
    assert value != pytest.approx(loss(model).item())


def test_gradient_of_alpha_is_that_of_the_gates_through_their_probabilities(monkeypatch):
    strategy, model = BinaryGates(), supernet()
    with strategy.around_alpha_step(model, step_at(seed=1)):
        found = torch.autograd.grad(loss(model), list(model.alphas.values()))
        pairs = {kind: model.relaxation(kind).kept for kind in model.alphas}
        gates = {kind: rows.requires_grad_() for kind, rows in weights(model).items()}
    monkeypatch.setattr(model, "mixture", lambda kind: (gates[kind],))
    in_gates = torch.autograd.grad(loss(model), list(gates.values()))
    for (kind, alpha), gradient, of_gates in zip(model.alphas.items(), found, in_gates, strict=True):
        for edge, pair in enumerate(pairs[kind]):
            drawn = pair.nonzero().flatten().tolist()
            assert len(drawn) == 2
            exponentials = {i: alpha[edge, i].exp().item() for i in drawn}
            p = {i: value / sum(exponentials.values()) for i, value in exponentials.items()}
            expected = [
                sum(of_gates[edge, j].item() * p[j] * ((i == j) - p[i]) for j in drawn) if i in drawn else 0.0
                for i in range(8)
            ]
            assert gradient[edge].tolist() == pytest.approx(expected, rel=1e-9, abs=1e-15)
    assert all(gradient.any() for gradient in found)


def test_paths_that_were_not_drawn_keep_their_probabilities():
    strategy = BinaryGates()
    stage = tiny_search(PRESET, strategy=strategy, metric=IntervalSlope("linf"), gamma=1.0).stage
    model = with_alphas(stage.model)
    batch = stage.on_device(small_data().train)
    for seed in range(2):
        before = {kind: alpha.detach().clone() for kind, alpha in model.alphas.items()}
        with strategy.around_alpha_step(model, step_at(seed=seed)):
            pairs = {kind: model.relaxation(kind).kept for kind in model.alphas}
            figures = stage.alpha_step(batch, batch)
        assert figures["finite"] == 1
        assert 0 < figures["robustness_gradient"] < math.inf
        for kind, alpha in model.alphas.items():
            old, new, pair = before[kind].softmax(1), alpha.detach().softmax(1), pairs[kind]
            assert torch.equal(alpha[~pair], before[kind][~pair])
            assert torch.allclose(old[~pair], new[~pair], rtol=0, atol=1e-12)
            assert (old - new)[pair].abs().max() > 1e-3


def test_adam_has_no_momentum_and_no_decay():
    (preset,) = BinaryGates().stages(PRESET)
    assert (preset.alpha_betas, preset.alpha_weight_decay) == ((0.0, 0.999), 0.0)
    assert preset.epochs == PRESET.epochs


def test_all_is_as_before_after_both_steps():
    strategy, model, step = BinaryGates(), supernet(), step_at()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with strategy.around_alpha_step(model, step):
        pass
    with strategy.around_weight_step(model, step, lambda: loss(model)):
        pass
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_paths_are_drawn_by_their_probabilities():
    """One by softmax(alpha); two without replacement; then one of the two."""
    torch.manual_seed(0)
    model = Supernet(1, 3, channels=1, cells=1, nodes=10, mean=[0.3], std=[0.4]).double()  # 65 edges a kind
    alpha = torch.linspace(-1.0, 1.0, 8).double()
    for each in model.alphas.values():
        each.data.copy_(alpha.expand_as(each))
    strategy, step, p = BinaryGates(), step_at(), torch.softmax(alpha, 0)
    paths, pairs, opened = [], [], []
    for _ in range(15):
        with strategy.around_weight_step(model, step, lambda: loss(model)):
            paths += weights(model).values()
        with strategy.around_alpha_step(model, step):
            pairs += [model.relaxation(kind).kept for kind in model.alphas]
            opened += weights(model).values()
    found, chosen, gates = torch.cat(paths).sum(0), torch.cat(pairs).nonzero()[:, 1].view(-1, 2), torch.cat(opened)
    count = len(chosen)
    assert stats.chisquare(found.numpy(), (count * p).numpy()).pvalue > 0.01
    i, j = torch.triu_indices(8, 8, 1)
    both = p[i] * p[j] * (1 / (1 - p[i]) + 1 / (1 - p[j]))
    drawn = torch.bincount(8 * chosen[:, 0] + chosen[:, 1], minlength=64).view(8, 8)[i, j]
    assert stats.chisquare(drawn.numpy(), (count * both).numpy()).pvalue > 0.01
    first, second = p[chosen].unbind(1)
    expected = first / (first + second)
    spread = (expected * (1 - expected)).sum().sqrt()
    assert abs(gates.gather(1, chosen[:, :1]).sum() - expected.sum()) < 3 * spread
