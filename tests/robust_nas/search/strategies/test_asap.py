"""ASAP: what is pruned, that it stays so, and the temperature."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from robust_nas.search.strategies.asap import AnnealAndPrune, left, temperature
from robust_nas.spaces.operations import PRIMITIVES
from robust_nas.spaces.supernet import Supernet
from tests.robust_nas.search.helpers import TINY, small_data, step_at, tiny_search


def supernet():
    torch.manual_seed(0)
    return Supernet(1, 3, channels=4, cells=3, nodes=1, mean=[0.3], std=[0.4]).double()


@given(st.lists(st.floats(-6, 6), min_size=8, max_size=8), st.sets(st.integers(1, 7), min_size=1), st.booleans())
def test_prunes_exactly_what_is_below_the_threshold(alpha, real, none):
    kept = torch.tensor([[i in real or (i == 0 and none) for i in range(8)]])
    weights = torch.tensor([alpha]).masked_fill(~kept, -torch.inf).softmax(1)
    found = left(weights, kept, [PRIMITIVES])[0].tolist()
    strongest = max(sorted(real), key=lambda i: weights[0, i].item())
    assert found == [
        bool(kept[0, i]) and (weights[0, i].item() >= torch.tensor(0.05).item() or i == strongest) for i in range(8)
    ]


def test_never_prunes_the_last_operation_beside_none():
    weights = torch.tensor([[1.0, *[0.0] * 7]])
    kept = torch.tensor([[True, False, False, True, True, False, False, False]])
    assert left(weights, kept, [PRIMITIVES])[0].nonzero().flatten().tolist() == [0, 3]


def test_the_temperature_is_exponential():
    assert temperature(0.0) == 1.3
    assert temperature(10 / 50) == pytest.approx(1.3 * 0.95**10)
    assert temperature(1.0) == pytest.approx(1.3 * 0.95**50)
    model = supernet()
    with AnnealAndPrune().around_step(model, step_at(done=0.4)):
        expected = torch.softmax(model.alphas["normal"] / (1.3 * 0.95**20), 1)
        assert torch.allclose(model.mixture("normal")[0], expected)


def test_prunes_by_the_annealed_weights_and_not_in_the_warm_up():
    """At temperature 1.3 the weaker operations have .06 each, at the end of the schedule nothing."""
    model, strategy = supernet(), AnnealAndPrune()
    with torch.no_grad():
        for alpha in model.alphas.values():
            alpha.zero_()
            alpha[:, 5] = 1.3 * torch.tensor(0.58 / 0.06).log()
    preset = replace(TINY, epochs=4, warm_up=2)
    counts = []
    for epoch, done in ((1, 1.0), (2, 0.0), (3, 1.0)):
        with strategy.around_step(model, step_at(epoch, done, preset)):
            pass
        counts.append(model.relaxation("normal").kept.sum(1).tolist())
    assert counts == [[8, 8], [8, 8], [1, 1]]


def test_pruned_operations_weigh_nothing_move_nothing_and_stay_pruned():
    model, strategy, kept = supernet(), AnnealAndPrune(), []
    torch.manual_seed(1)
    for done in (0.0, 0.3, 0.6, 0.9):
        with strategy.around_step(model, step_at(done=done)), torch.no_grad():
            for alpha in model.alphas.values():
                alpha += torch.randn_like(alpha)  # a step, of pruned operations too
        resumed = Supernet(1, 3, channels=4, cells=3, nodes=1, mean=[0.3], std=[0.4]).double()
        resumed.load_state_dict(model.state_dict())
        model = resumed
        kept.append(torch.cat([model.relaxation(kind).kept for kind in model.alphas]))
    assert not any((later & ~earlier).any() for earlier, later in zip(kept, kept[1:], strict=False))
    assert kept[0].sum() > kept[1].sum() > kept[3].sum()
    assert kept[3][:, 1:].any(1).all()

    train = small_data().train
    loss = F.cross_entropy(model(train.images.double()), train.labels)
    for kind, gradient in zip(model.alphas, torch.autograd.grad(loss, list(model.alphas.values())), strict=True):
        pruned = ~model.relaxation(kind).kept
        assert not model.mixture(kind)[0][pruned].any()
        assert not gradient[pruned].any()


def test_the_alpha_of_a_pruned_operation_stays():
    """Edges are compared by the softmax of all, pruned ones included; Adam would move what has no gradient."""
    search = tiny_search(replace(TINY, epochs=3, alpha_learning_rate=0.7), strategy=AnnealAndPrune())
    pruned = {}
    for _ in search.steps():
        for kind, alpha in search.model.alphas.items():
            kept = search.model.relaxation(kind).kept
            if kind in pruned:
                where, values = pruned[kind]
                assert torch.equal(alpha[where], values)
            pruned[kind] = ~kept, alpha.detach()[~kept].clone()
    assert all(where.any() for where, _ in pruned.values())


def test_a_search_prunes_and_its_bounds_follow():
    """Bounded and plain, the supernet computes the same with operations pruned."""
    search = tiny_search(replace(TINY, epochs=2, alpha_learning_rate=0.7), strategy=AnnealAndPrune())
    list(search.steps())
    model, x = search.model, small_data().train.images.double()
    kept = model.relaxation("reduce").kept
    assert 0 < kept.sum() < kept.numel()
    assert torch.allclose(search.stage.network.freeze(x), model(x))
    kept.fill_(True)
    assert not torch.allclose(search.stage.network(x), search.stage.network.freeze(x))


def test_the_genotype_and_the_log_pass_over_what_is_pruned():
    model = supernet()
    with torch.no_grad():
        for kind, alpha in model.alphas.items():
            alpha[:, PRIMITIVES.index("sep_conv_5x5")] = 9.0
            model.relaxation(kind).kept[:, PRIMITIVES.index("sep_conv_5x5")] = False
            alpha[:, PRIMITIVES.index("skip_connect")] = 1.0
    genotype = model.genotype()
    assert {name for name, _ in genotype.normal + genotype.reduce} == {"skip_connect"}
    figures = AnnealAndPrune().composition(model)
    assert figures["skips"] == 4
    assert figures["skip_share"] == pytest.approx(2.718 / (2.718 + 5), rel=0.01)  # of seven, without `none`


def test_entropy_is_of_the_operations_that_are_left():
    model = supernet()
    with torch.no_grad():
        for kind, alpha in model.alphas.items():
            alpha.zero_()
            model.relaxation(kind).kept[:, 2:] = False
    assert AnnealAndPrune().composition(model)["alpha_entropy"] == pytest.approx(0.6931, abs=1e-4)
