"""What each strategy adds to the plain search, and what a search says of memory and early stops."""

import math
from dataclasses import replace

import pytest
import torch

from robust_nas.metrics import BOUND_WEIGHT, METRICS, MetricSettings
from robust_nas.search import memory
from robust_nas.search.presets import PRESETS
from robust_nas.search.stopping import Stop, StoppingRule
from robust_nas.search.strategies import STRATEGIES
from robust_nas.search.strategies.base import Step
from robust_nas.search.strategies.p_darts import skip_dropout
from robust_nas.spaces.partial import PartialSupernet
from tests.robust_nas.search.helpers import TINY, planned, tiny_search

PAPER = PRESETS["paper"]["jacobian"]


def test_p_darts_has_the_stages_of_its_paper_at_paper_scale():
    stages = STRATEGIES["p-darts"]().stages(PAPER)
    assert [stage.cells for stage in stages] == [5, 11, 17]
    assert [(stage.epochs, stage.warm_up) for stage in stages] == [(25, 10)] * 3


def test_p_darts_prunes_between_its_stages():
    search = tiny_search(replace(TINY, channels=4, epochs=2), strategy=STRATEGIES["p-darts"]())
    counts = [(search.number, kind, len(names)) for kind in ("normal", "reduce") for names in search.model.operations[kind]]
    for _ in search.steps():
        counts += [
            (search.number, kind, len(names)) for kind, edges in search.model.operations.items() for names in edges
        ]
    assert {(stage, kept) for stage, _, kept in counts} == {(0, 8), (1, 5), (2, 3)}


def test_epsilon_settles_anew_in_every_stage_of_p_darts():
    """Deeper, the gap at the epsilon before is far from the target; Adam would remember the first gradients."""
    measure = METRICS["combined"](MetricSettings("l2", bound_images=2, jacobian_images=2))
    preset = replace(TINY, cells=4, epochs=2)
    search = tiny_search(preset, strategy=STRATEGIES["p-darts"](), metric=measure, gamma=1.0)
    gaps = {}
    for row in search.steps():
        gaps.setdefault(row["epoch"], row["gap"])
    assert len(gaps) == 3
    assert all(0.2 < gap < 5 for gap in gaps.values())


def test_next_operations_are_those_of_largest_alpha():
    search = tiny_search(replace(TINY, channels=4), strategy=STRATEGIES["p-darts"]())
    with torch.no_grad():
        for alpha in search.model.alphas.values():
            alpha.copy_(torch.arange(8.0).expand_as(alpha))
    kept = STRATEGIES["p-darts"]().next_operations(search.model, 0)
    assert all(edge == search.model.operations["normal"][0][3:] for edges in kept.values() for edge in edges)


def test_skip_dropout_falls_and_starts_again_with_alpha():
    preset = replace(PAPER, epochs=25, warm_up=10)
    rates = [skip_dropout(0.4, epoch, preset) for epoch in range(25)]
    assert rates[0] == pytest.approx(0.4 * 24 / 25)
    assert rates[10] == 0.4
    assert rates[15] == pytest.approx(0.4 * math.exp(-1))
    assert all(first > second for part in (rates[:10], rates[10:]) for first, second in zip(part, part[1:], strict=False))


def test_skip_dropout_is_in_the_weights_step_alone():
    strategy, preset = STRATEGIES["p-darts"](), replace(TINY, cells=5)  # three in the first stage, the first of them a normal one
    model = tiny_search(preset, strategy=strategy).model
    x = torch.rand(4, 1, 6, 6).double()
    step = Step(2, 0, 0.0, replace(preset, epochs=2), torch.Generator())
    with strategy.around_weight_step(model, step, lambda: None):
        assert not torch.equal(model(x), model(x))
    assert torch.equal(model(x), model(x))


def test_pc_darts_waits_as_long_as_its_paper():
    (stage,) = STRATEGIES["pc-darts"]().stages(PAPER)
    assert (stage.epochs, stage.warm_up) == (50, 15)
    model = tiny_search(replace(TINY, channels=4), strategy=STRATEGIES["pc-darts"]()).model
    assert isinstance(model, PartialSupernet)


class AtOnce(StoppingRule):
    """Stops at the first epoch it sees, with the result of the first of all."""

    def _judge(self, epoch, val_loss):
        return Stop("enough", 1)


@pytest.mark.parametrize(("method", "epochs"), [("darts", 1), pytest.param("p-darts", 3, marks=pytest.mark.slow)])
def test_a_rule_ends_the_last_stage_and_chooses_the_epoch(method, epochs):
    search = tiny_search(
        replace(TINY, channels=4, epochs=2), strategy=STRATEGIES[method](), stopping=AtOnce(), gamma=0.0
    )
    rows = list(search.steps())
    assert rows[-1]["epoch"] == epochs
    assert search.finished and search.stopped == Stop("enough", 1)
    assert search.genotype().to_dict() == search.state_dict()["genotypes"][0]


def test_the_eigenvalue_is_taken_every_second_epoch():
    rows = list(tiny_search(replace(TINY, epochs=4), hessian=True).steps())
    found = {(row["epoch"], row["step"]) for row in rows if row["eigenvalue"] is not None}
    assert found == {(2, 2), (4, 2)}


def test_memory_is_estimated_and_advice_given_where_it_is_short(monkeypatch):
    small, large = tiny_search(TINY), tiny_search(replace(TINY, batch_size=12))
    assert memory.estimate(large) == pytest.approx(2 * memory.estimate(small))
    monkeypatch.setattr(memory, "available", lambda device: 1e9)
    assert memory.advice(small).endswith("batch size 6")
    monkeypatch.setattr(memory, "available", lambda device: 0.0)
    assert "lower --batch-size" in memory.advice(small)


@pytest.mark.parametrize(
    "method",
    # slow: they step as darts does
    [
        pytest.param(name, marks=pytest.mark.slow) if name in ("r-darts", "darts-es", "darts+") else name
        for name, strategy in STRATEGIES.items()
        if strategy.metrics
    ],
)
def test_any_method_with_a_gradient_in_alpha_takes_any_metric(method):
    metric = planned(metric="combined").metric  # the weighted sum of the other two
    search = tiny_search(replace(TINY, channels=4), strategy=STRATEGIES[method](), metric=metric, gamma=0.5)
    row = next(iter(search.steps()))
    assert row["finite"] == 1 and row["robustness_gradient"] > 1e-4
    assert row["certified_bound"] < 0 and row["gap"] > 0 and row["jacobian"] < 0
    assert row["robustness"] == pytest.approx(BOUND_WEIGHT * row["certified_bound"] + row["jacobian"])
