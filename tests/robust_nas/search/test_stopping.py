"""Each stopping rule's defining behaviour, and that a resumed rule decides as one that was never stopped."""

import json
import math

import pytest

from robust_nas.genotype import Genotype
from robust_nas.registry import STOPPING_RULES
from robust_nas.search.stopping import (
    EigenvalueRatio,
    Epoch,
    FirstOf,
    LossPlateau,
    SkipLimit,
    StableRanking,
)

RANKING = (("none", "sep_conv_3x3", "skip_connect", "dil_conv_3x3"), ("sep_conv_3x3", "max_pool_3x3", "dil_conv_3x3", "none"))


def genotype(skips=0):
    normal = tuple(("skip_connect" if i < skips else "sep_conv_3x3", i % 2) for i in range(4))
    reduce = (("skip_connect", 0), ("skip_connect", 1)) * 2
    return Genotype(normal=normal, normal_concat=(2, 3), reduce=reduce, reduce_concat=(2, 3), nodes=2)


def epoch(number, val_loss=1.0, skips=0, ranking=RANKING, eigenvalue=None):
    return Epoch(number, val_loss, genotype(skips), ranking, eigenvalue)


def first_stop(rule, epochs):
    """(epoch of the decision, epoch of the result), or None."""
    for one in epochs:
        stop = rule(one)
        if stop is not None:
            assert "\n" not in stop.reason
            return one.number, stop.epoch
    return None


def losses(*values):
    return [epoch(number + 1, value) for number, value in enumerate(values)]


def test_plateau_goes_back_to_the_last_improvement():
    rule = LossPlateau(patience=3, min_delta=0.1)
    assert first_stop(rule, losses(None, 2.0, 1.0, 0.95, 0.91, 0.95, 0.5)) == (6, 3)


def test_plateau_does_not_count_a_warm_up_between_stages():
    assert first_stop(LossPlateau(patience=3), losses(1.0, 1.0, None, None, None, 1.0, 1.0)) == (7, 1)


def test_plateau_adds_up_small_improvements():
    assert first_stop(LossPlateau(patience=3, min_delta=0.1), losses(1.0, 0.95, 0.89, 0.85, 0.80, 0.76, 0.72)) is None


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_plateau_takes_no_broken_loss_for_the_best(broken):
    assert first_stop(LossPlateau(patience=3), losses(broken, 2.0, 1.0, broken, broken, broken)) == (6, 3)
    assert first_stop(LossPlateau(patience=3), losses(broken, broken, broken, broken)) == (4, 1)


def test_skips_are_those_of_the_normal_cell():
    assert first_stop(SkipLimit(), [epoch(1, skips=0), epoch(2, skips=1), epoch(3, skips=2)]) == (3, 3)
    assert first_stop(SkipLimit(), [epoch(1, skips=4)]) == (1, 1)


def test_ranking_is_that_of_the_convolutions_on_every_edge():
    swapped = (("dil_conv_3x3", "sep_conv_3x3", "none", "skip_connect"), RANKING[1])
    others_moved = tuple(tuple(sorted(row, key=lambda name: "conv" not in name)) for row in RANKING)
    assert first_stop(StableRanking(), [epoch(n) for n in range(1, 20)]) == (11, 11)
    moves = {4: others_moved, 8: swapped}
    assert first_stop(StableRanking(), [epoch(n, ranking=moves.get(n, RANKING)) for n in range(1, 30)]) == (19, 19)


STABLE = [epoch(n) for n in range(1, 20)]
CHANGING = [epoch(n, ranking=RANKING if n % 2 else RANKING[::-1]) for n in range(1, 20)]


def with_skips(epochs, since):
    return [epoch(one.number, skips=2 if one.number >= since else 1, ranking=one.ranking) for one in epochs]


@pytest.mark.parametrize(
    "epochs", [STABLE, CHANGING, with_skips(STABLE, 7), with_skips(STABLE, 15), with_skips(CHANGING, 15)]
)
def test_darts_plus_ends_with_the_earlier_of_its_two_rules(epochs):
    ends = [end for rule in (SkipLimit(), StableRanking()) if (end := first_stop(rule, epochs))]
    assert first_stop(STOPPING_RULES["darts+"](), epochs) == min(ends, default=None)


def test_of_rules_that_stop_at_once_the_first_counts():
    epochs = with_skips(losses(1.0, 1.0, 1.0), 3)
    assert first_stop(FirstOf(SkipLimit(), LossPlateau(patience=2)), epochs) == (3, 3)
    assert first_stop(FirstOf(LossPlateau(patience=2), SkipLimit()), epochs) == (3, 1)


def eigenvalues(values, every=2):
    """One each second epoch from the second."""
    known = {every * (i + 1): value for i, value in enumerate(values)}
    return [epoch(number, eigenvalue=known.get(number)) for number in range(1, every * len(values) + 1)]


def test_eigenvalue_ratio_of_windows_four_eigenvalues_apart():
    # Means over the epochs 6-14 and 14-22: 1 and (4 + x) / 5; the earlier window's middle is epoch 10, the first allowed.
    assert first_stop(EigenvalueRatio(), eigenvalues([1.0] * 10 + [2.51])) == (22, 10)
    assert first_stop(EigenvalueRatio(), eigenvalues([1.0] * 10 + [2.49])) is None
    assert first_stop(EigenvalueRatio(), eigenvalues([1.0] * 15 + [9.0])) == (32, 20)


def test_eigenvalue_ratio_waits_for_epoch_10():
    growing = eigenvalues([1.4**n for n in range(20)])
    assert first_stop(EigenvalueRatio(), growing) == (22, 10)
    assert first_stop(EigenvalueRatio(first_epoch=0), growing) == (18, 6)


def test_eigenvalue_ratio_of_what_has_no_ratio():
    assert first_stop(EigenvalueRatio(), eigenvalues([-1.0] * 30)) is None
    assert first_stop(EigenvalueRatio(), eigenvalues([math.nan] * 30)) is None
    assert first_stop(EigenvalueRatio(), [epoch(n) for n in range(1, 60)]) is None


@pytest.mark.parametrize("name", STOPPING_RULES)
def test_warm_up_does_not_count(name):
    telling = [epoch(n, None, skips=4, eigenvalue=1.5**n) for n in range(1, 60)]
    assert first_stop(STOPPING_RULES[name](), telling) is None


@pytest.mark.parametrize("name", STOPPING_RULES)
def test_goes_on_from_json(name):
    epochs = [epoch(n, max(1.0, 5.0 - n), skips=2 if n > 25 else 0, eigenvalue=1.0 + max(0, n - 14) ** 2) for n in range(1, 40)]
    expected = first_stop(STOPPING_RULES[name](), epochs)
    assert expected is not None
    for place in range(expected[0]):
        rule, resumed = STOPPING_RULES[name](), STOPPING_RULES[name]()
        assert first_stop(rule, epochs[:place]) is None
        state = rule.state_dict()
        saved = json.dumps(state)
        first_stop(rule, epochs[place:])
        assert json.dumps(state) == saved  # a state is a copy
        resumed.load_state_dict(json.loads(saved))
        assert first_stop(resumed, epochs[place:]) == expected
