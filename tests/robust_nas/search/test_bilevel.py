"""Steps of weights and alpha: the second order against the hypergradient by autograd, and what must stay as it was."""

import copy
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, jacrev, vmap

from robust_nas.data import Examples, search_split
from robust_nas.metrics import JacobianNorm, Measurement, RobustnessMetric
from robust_nas.search import bilevel
from robust_nas.search.bilevel import AlphaStep, Unrolled, weight_step
from robust_nas.search.engine import Search
from robust_nas.search.stage import Plan
from tests.levels import level
from tests.robust_nas.search.helpers import TINY, small_data, tiny_search
from verify.bounds import BoundedNetwork

GAMMA, DELTA = 0.7, 0.2


class Mixed(nn.Module):
    """Two layers, one of them a mixture; no batch norm, so that nothing but alpha and weights decides."""

    def __init__(self) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.tensor([0.3, -0.2, 0.1]))
        self.parts = nn.ModuleList(nn.Conv2d(1, 3, 3, padding=1) for _ in range(3))
        self.last = nn.Linear(3 * 16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mixing = torch.softmax(self.alpha, 0)
        x = torch.relu(mixing[0] * self.parts[0](x) + mixing[1] * self.parts[1](x) + mixing[2] * self.parts[2](x))
        return self.last(x.flatten(1))


def problem(momentum):
    torch.manual_seed(0)
    model = Mixed().double()
    train, held_out = (Examples(torch.rand(8, 1, 4, 4).double(), torch.arange(8) % 3) for _ in range(2))
    weights = [parameter for name, parameter in model.named_parameters() if name != "alpha"]
    sgd = torch.optim.SGD(weights, lr=0.3, momentum=0.9 if momentum else 0.0, weight_decay=0.05)
    if momentum:  # a step, so that there is a momentum
        F.cross_entropy(model(train.images), train.labels).backward()
        sgd.step()
        model.zero_grad()
    return model, train, held_out, sgd


def hypergradient(model, train, held_out, sgd):
    """d/d alpha of L_val(w', alpha) - gamma R(w', alpha), all by autograd through w'."""
    (group,) = sgd.param_groups
    names = [name for name, _ in model.named_parameters() if name != "alpha"]
    alpha = model.alpha.detach().clone().requires_grad_()
    w = {name: dict(model.named_parameters())[name].detach().clone().requires_grad_() for name in names}

    def logits(weights, x):
        return functional_call(model, {**weights, "alpha": alpha}, (x,))

    loss = F.cross_entropy(logits(w, train.images), train.labels)
    gradients = torch.autograd.grad(loss, list(w.values()), create_graph=True)
    unrolled = {}
    for name, gradient, parameter in zip(names, gradients, group["params"], strict=True):
        momentum = sgd.state[parameter].get("momentum_buffer")
        step = gradient + group["weight_decay"] * w[name]
        step = step if momentum is None else step + group["momentum"] * momentum
        unrolled[name] = w[name] - group["lr"] * step
    jacobian = vmap(jacrev(lambda x: logits(unrolled, x.unsqueeze(0))[0]))(held_out.images)
    robustness = -DELTA * jacobian.flatten(2).norm(dim=2).mean()
    objective = F.cross_entropy(logits(unrolled, held_out.images), held_out.labels) - GAMMA * robustness
    return torch.autograd.grad(objective, alpha)[0]


@pytest.mark.parametrize("momentum", [False, True])
@pytest.mark.parametrize(("exact", "tolerance"), [(True, 1e-9), (False, 1e-6)])
def test_second_order_is_the_hypergradient(momentum, exact, tolerance, monkeypatch):
    monkeypatch.setattr(bilevel, "PROBE", 1e-5)  # so short that no ReLU of the few there are switches on the way
    model, train, held_out, sgd = problem(momentum)
    expected = hypergradient(model, train, held_out, sgd)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    network = BoundedNetwork(model, train.images)
    metric = JacobianNorm("l2", delta=DELTA, images=8, estimate="exact")
    ascent = torch.optim.SGD([model.alpha], lr=1.0)
    figures = AlphaStep(network, ascent, metric, GAMMA, Unrolled(network, sgd, exact))(held_out, train)
    found = before["alpha"] - model.alpha.detach()
    assert torch.allclose(found, expected, rtol=tolerance, atol=0.1 * tolerance * expected.abs().max().item())
    direct = AlphaStep(network, torch.optim.SGD([model.alpha], lr=1.0), metric, GAMMA)
    assert figures["unrolled_gradient"] > 0.01 * figures["loss_gradient"]  # else the test shows nothing
    assert set(direct.columns) == set(figures) - {"unrolled_gradient"}
    assert all(torch.equal(model.state_dict()[n], v) for n, v in before.items() if n != "alpha")


def test_second_order_leaves_weights_buffers_and_momentum_alone():
    search = tiny_search(replace(TINY, warm_up=0), order="second")
    steps = search.steps()
    next(steps)
    state = {name: value.clone() for name, value in search.model.state_dict().items() if "alphas" not in name}
    momenta = copy.deepcopy(search.stage.state_dict()["weights"]["state"])
    half = search_split(small_data(), 0)[1].take(torch.arange(6))
    batch = Examples(half.images.double(), half.labels)
    search.stage.alpha_step(batch, batch)
    assert all(torch.equal(search.model.state_dict()[name], value) for name, value in state.items())
    now = search.stage.state_dict()["weights"]["state"]
    assert momenta and all(torch.equal(old["momentum_buffer"], now[w]["momentum_buffer"]) for w, old in momenta.items())
    assert all(parameter.grad is None for parameter in search.model.parameters())


class Broken(RobustnessMetric):
    """Not finite, gradient and all."""

    columns = ()

    def __call__(self, network, images, labels):
        return Measurement(network(images).sum() * math.inf, {})

    def share(self, processes):
        pass


def alpha_step(metric, order="first"):
    search = tiny_search(TINY, metric=metric, gamma=1.0, order=order)
    data = small_data()
    return search.model, search.stage.alpha_step, Examples(data.train.images.double(), data.train.labels)


class Kinked(RobustnessMetric):
    """Finite, with a gradient that is not."""

    columns = ()

    def __call__(self, network, images, labels):
        return Measurement((0 * network(images)).sum().abs().sqrt(), {})

    def share(self, processes):
        pass


@pytest.mark.parametrize(
    ("metric", "watched", "order"),
    level(
        [(Broken, True, "first"), (Kinked, True, "second")],
        [(Broken, True, "first"), (Broken, False, "second"), (Kinked, True, "second"), (Kinked, False, "first")],
    ),
)
def test_a_metric_that_is_not_finite_counts_for_nothing(metric, watched, order):
    (plain, step, batch), (model, broken, _) = alpha_step(None, order), alpha_step(metric(), order)
    before = [alpha.detach().clone() for alpha in plain.architecture_parameters()]
    step(batch, batch)
    assert broken(batch, batch, watched)["finite"] == 0
    triples = zip(plain.architecture_parameters(), model.architecture_parameters(), before, strict=True)
    assert all(torch.equal(mine, theirs) and not torch.equal(mine, old) for mine, theirs, old in triples)


@pytest.mark.parametrize("order", ["first", "second"])
def test_nan_weights_do_not_reach_alpha(order):
    model, step, batch = alpha_step(JacobianNorm("l2"), order)
    before = [alpha.detach().clone() for alpha in model.architecture_parameters()]
    with torch.no_grad():
        model.classifier.weight.fill_(math.nan)
    assert step(batch, batch)["finite"] == 0
    pairs = zip(before, model.architecture_parameters(), strict=True)
    assert all(torch.equal(old, new) for old, new in pairs)


def test_a_gradient_that_is_not_finite_moves_no_weight():
    model, _, batch = alpha_step(JacobianNorm("l2"))
    optimiser = torch.optim.SGD(model.weights(), 0.1, momentum=0.9, weight_decay=0.1)
    model.classifier.weight.register_hook(lambda gradient: gradient * math.inf)
    before = [weight.detach().clone() for weight in model.weights()]
    assert math.isnan(weight_step(model, lambda: F.cross_entropy(model(batch.images), batch.labels), optimiser, 5.0))
    assert all(torch.equal(old, new) for old, new in zip(before, model.weights(), strict=True))
    assert not optimiser.state


def test_cosine_is_that_of_the_two_gradients():
    model, step, batch = alpha_step(JacobianNorm("l2", estimate="exact"))
    alphas = model.architecture_parameters()
    loss = F.cross_entropy(step.network.freeze(batch.images), batch.labels)
    downhill = torch.cat([g.flatten() for g in torch.autograd.grad(loss, alphas, materialize_grads=True)])
    step.network.freeze(batch.images)
    value = JacobianNorm("l2", estimate="exact")(step.network, *batch).value
    pull = torch.cat([g.flatten() for g in torch.autograd.grad(-value, alphas, materialize_grads=True)])
    figures = step(batch, batch)
    assert figures["cosine"] == pytest.approx(F.cosine_similarity(downhill, pull, dim=0).item())
    assert figures["robustness_gradient"] == pytest.approx(pull.norm().item())


@pytest.mark.parametrize("order", ["first", "second"])
def test_gradients_are_the_same_together_as_one_by_one(order):
    model, step, batch = alpha_step(JacobianNorm("l2", estimate="exact", delta=1.0), order)
    alphas, moves, figures = model.architecture_parameters(), [], []
    step = replace(step, optimiser=torch.optim.SGD(alphas, lr=1.0))  # by the gradient itself
    for watched in (True, False):
        before = [alpha.detach().clone() for alpha in alphas]
        figures.append(step(batch, batch, watched))
        moves.append([alpha.detach() - old for alpha, old in zip(alphas, before, strict=True)])
        with torch.no_grad():
            for alpha, old in zip(alphas, before, strict=True):
                alpha.copy_(old)
    apart, together = figures
    assert apart["robustness_gradient"] > 0.01 * apart["loss_gradient"]  # else the test shows nothing
    assert all(torch.allclose(one, other, rtol=1e-9, atol=1e-12) for one, other in zip(*moves, strict=True))
    assert all(together[name] is None for name in ("loss_gradient", "robustness_gradient", "cosine"))
    assert {name: apart[name] for name in ("val_loss", "robustness", "finite")}.items() <= together.items()


def test_the_log_has_both_gradients_every_few_steps():
    plan = Plan(replace(TINY, batch_size=4), metric=JacobianNorm("l2"), gamma=1.0, watch_every=2)
    rows = list(Search(plan, small_data()).steps())
    assert [row["cosine"] is not None for row in rows] == [True, False, True]


def test_steps_leave_no_gradient_behind():
    model, step, batch = alpha_step(JacobianNorm("l2"))
    step(batch, batch)
    optimiser = torch.optim.SGD(model.weights(), lr=0.1)
    weight_step(model, lambda: F.cross_entropy(model(batch.images), batch.labels), optimiser, clip=5.0)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_amp_computes_in_bfloat16_and_steps_in_full_precision():
    losses = []
    for amp in (False, True):
        torch.manual_seed(0)
        search = Search(Plan(replace(TINY, dtype="float32"), amp=amp), small_data())
        losses.append(next(search.steps())["train_loss"])
        assert all(weight.dtype == torch.float32 for weight in search.model.weights())
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)
