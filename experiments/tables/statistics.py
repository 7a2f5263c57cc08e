"""Is one method better than another? Differences paired over seeds: a bootstrap interval and an exact test."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.stats import permutation_test

RESAMPLES = 10_000
_BATCH = 2**14  # sign patterns at a time, for the sake of memory


@dataclass(frozen=True)
class Comparison:
    """One method minus another, at the seeds that both have.

    Attributes:
        seeds: their number.
        difference: the mean difference.
        interval: 95 % bootstrap interval of it; None at one seed.
        p_value: two-sided, of the sign-flip permutation test; None at one seed. It is 2^(1 - seeds) or more.
    """

    seeds: int
    difference: float
    interval: tuple[float, float] | None
    p_value: float | None

    def __str__(self) -> str:
        if self.interval is None or self.p_value is None:
            return f"{self.difference:+.3g}, one seed: no interval"
        low, high = self.interval
        return f"{self.difference:+.3g} [{low:+.3g}, {high:+.3g}], p = {self.p_value:.3g}"


def compare(first: Mapping[int, float], second: Mapping[int, float]) -> Comparison | None:
    """The first minus the second, both by seed; None where they have no seed in common."""
    seeds = sorted(set(first) & set(second))
    if not seeds:
        return None
    # What is equal in decimals may differ by 1e-14 in binary, and would have a sign.
    differences = np.array([first[seed] - second[seed] for seed in seeds]).round(12)
    mean = float(differences.mean())
    if len(seeds) == 1:
        return Comparison(1, mean, None, None)
    return Comparison(len(seeds), mean, bootstrap_interval(differences), sign_flip_test(differences))


def bootstrap_interval(differences: Float[np.ndarray, " n"]) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the mean; too narrow with few seeds (Efron and Tibshirani 1993, ch. 13)."""
    generator = np.random.default_rng(0)
    draws = generator.integers(len(differences), size=(RESAMPLES, len(differences)))
    low, high = np.percentile(differences[draws].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)


def sign_flip_test(differences: Float[np.ndarray, " n"]) -> float:
    """Two-sided p-value of "as often above as below 0", over all 2^n signs of the differences: exact at every n."""
    found = permutation_test(
        (differences,), np.mean, permutation_type="samples", vectorized=True, n_resamples=np.inf, batch=_BATCH
    )
    return float(found.pvalue)
