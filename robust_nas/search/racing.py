"""Successive halving: where one training says little, the better half of the candidates is trained again, and so on.

Jamieson and Talwalkar, "Non-stochastic best arm identification and hyperparameter optimization" (AISTATS 2016), with
trainings from fresh weights as the resource.
"""

from __future__ import annotations

from collections.abc import Sequence

from robust_nas.search.judges import Score, best, mean


def again(tries: Sequence[Sequence[Score]]) -> int:
    """The place of the candidate to try next, of candidates that were all tried at least once.

    Those of the better half, by the mean of their scores, are tried a second time, the better half of these a third
    time, down to one, which takes what is left.
    """
    alive, times = list(range(len(tries))), 1
    while True:
        alive = _better_half(alive, [mean(each[:times]) for each in tries])
        waiting = [place for place in alive if len(tries[place]) <= times]
        if waiting:
            return waiting[0]
        times += 1


def winner(tries: Sequence[Sequence[Score]]) -> int:
    """The best mean score among those that were tried most often."""
    most = max(len(each) for each in tries)
    last = [place for place, each in enumerate(tries) if len(each) == most]
    return last[best([mean(tries[place]) for place in last])]


def _better_half(places: Sequence[int], scores: Sequence[Score]) -> list[int]:
    left, kept = list(places), list[int]()
    while left and len(kept) < max(1, len(places) // 2):
        kept.append(left.pop(best([scores[place] for place in left])))
    return kept
