"""Paired comparisons against enumeration and closed forms."""

from itertools import product

import numpy as np
import pytest

from experiments.tables.statistics import bootstrap_interval, compare, sign_flip_test


def by_brute_force(differences):
    """How many of all sign patterns have a mean at least as far from 0."""
    means = [abs(np.mean(np.multiply(signs, differences))) for signs in product((1, -1), repeat=len(differences))]
    return np.mean(np.array(means) >= abs(np.mean(differences)) - 1e-12)


@pytest.mark.parametrize("count", range(2, 9))
def test_the_test_is_exact(count):
    differences = np.random.default_rng(count).normal(0.5, 1, count)
    assert sign_flip_test(differences) == pytest.approx(by_brute_force(differences), abs=1e-12)


def test_ties_and_zeros_count_as_they_do_in_the_enumeration():
    for differences in ([1.0, 1.0, -1.0], [0.0, 2.0, 0.1], [0.1, 0.2, 0.3, -0.1]):
        assert sign_flip_test(np.array(differences)) == pytest.approx(by_brute_force(differences), abs=1e-12)


@pytest.mark.parametrize("count", range(2, 7))
def test_the_smallest_p_value_is_that_of_one_sign(count):
    assert sign_flip_test(np.arange(1.0, count + 1)) == pytest.approx(2.0 ** (1 - count))


def test_the_p_value_of_no_difference_is_1():
    assert sign_flip_test(np.zeros(4)) == 1.0


def test_the_interval_of_few_seeds_is_that_of_all_samples():
    """With three values 1/27 of the bootstrap's means are the smallest value: more than 2.5 %, so both ends are met."""
    differences = np.array([0.3, -1.0, 2.0])
    means = np.sort([np.mean(sample) for sample in product(differences, repeat=3)])
    assert (means[0], means[-1]) == (-1.0, 2.0)
    assert bootstrap_interval(differences) == (-1.0, 2.0)
    # five values: 1/3125 of the means are an end, so the ends are inside; from the enumeration
    differences = np.array([0.0, 1.0, 2.0, 4.0, 8.0])
    means = np.array([np.mean(sample) for sample in product(differences, repeat=5)])
    assert bootstrap_interval(differences) == pytest.approx(tuple(np.percentile(means, [2.5, 97.5])), abs=0.21)


def test_the_interval_of_many_values_is_the_normal_one():
    differences = np.random.default_rng(0).normal(1, 2, 400)
    low, high = bootstrap_interval(differences)
    half = 1.96 * differences.std() / 20
    assert (low, high) == pytest.approx((differences.mean() - half, differences.mean() + half), abs=0.02)


def test_coverage_on_normal_samples():
    """Binomial: 120 samples at .93-.95 leave .89 to .99 with probability under .01 or so; the seed is fixed."""
    samples = np.random.default_rng(3).normal(1, 2, (120, 30))
    intervals = [bootstrap_interval(sample) for sample in samples]
    assert 0.89 <= np.mean([low <= 1 <= high for low, high in intervals]) <= 0.99


def test_comparisons_are_paired_over_common_seeds():
    found = compare({0: 3.0, 1: 5.0, 7: 99.0}, {1: 4.0, 0: 1.0, 2: -50.0})
    assert found is not None
    assert (found.seeds, found.difference) == (2, 1.5)
    assert found.interval == (1.0, 2.0) and found.p_value == 0.5
    assert str(found) == "+1.5 [+1, +2], p = 0.5"


def test_one_seed_has_no_interval():
    found = compare({0: 3.0}, {0: 4.0, 1: 0.0})
    assert found is not None and (found.interval, found.p_value) == (None, None)
    assert str(found) == "-1, one seed: no interval"
    assert compare({0: 3.0}, {1: 4.0}) is None


def test_the_same_values_give_the_same_interval():
    differences = np.random.default_rng(0).normal(size=5)
    assert bootstrap_interval(differences) == bootstrap_interval(differences)
