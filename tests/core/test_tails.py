"""Intervals, ranks, declustering and the Pareto tail, against known values."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from lewm_core.tails import (SHAPE_HIGH, SHAPE_LOW, ParetoTail, auroc, clusters, peaks,
                             poisson_interval, wilson_interval)
from lewm_core.types import UserError


def test_the_poisson_interval_is_garwoods():
    # Table values of the exact 95 % interval.
    assert poisson_interval(0, 1.0) == (0.0, pytest.approx(3.6889, abs=1e-4))
    assert poisson_interval(1, 1.0) == pytest.approx((0.0253, 5.5716), abs=1e-4)
    assert poisson_interval(10, 2.0) == pytest.approx((4.7954 / 2, 18.3904 / 2), abs=1e-4)
    low, high = poisson_interval(5, 1.0, level=0.5)
    assert 3 < low < 5 < high < 8


def test_a_rate_over_no_time_is_refused():
    for hours in (0.0, -1.0, math.nan):
        with pytest.raises(UserError, match='longer than 0 hours'):
            poisson_interval(1, hours)


def test_the_wilson_interval_agrees_with_scipys_and_stays_within_0_and_1():
    for successes, trials in ((0, 10), (3, 10), (85, 100), (100, 100)):
        expected = stats.binomtest(successes, trials).proportion_ci(method='wilson')
        assert wilson_interval(successes, trials) == pytest.approx((expected.low, expected.high))
    assert wilson_interval(0, 0) == (0.0, 1.0)
    assert wilson_interval(0, 7)[0] == 0.0 and wilson_interval(7, 7)[1] == 1.0


def test_auroc_counts_ties_half_and_is_nan_without_either_side():
    assert auroc([3.0, 4.0], [1.0, 2.0]) == 1.0
    assert auroc([1.0, 2.0], [3.0, 4.0]) == 0.0
    assert auroc([1.0, 1.0], [1.0]) == 0.5
    rng = np.random.default_rng(0)
    positive, negative = rng.integers(0, 9, 40), rng.integers(0, 7, 60)
    pairs = positive[:, None] - negative
    assert auroc(positive, negative) == pytest.approx((pairs > 0).mean() + (pairs == 0).mean() / 2)
    assert math.isnan(auroc([], [1.0])) and math.isnan(auroc([1.0], []))


def test_clusters_join_what_is_at_most_that_far_apart():
    series = np.array([1, 0, 0, 1, 0, 0, 0, 1, 1, 0, 0, 0, 0], bool)
    assert [clusters(series, apart) for apart in (1, 2, 3, 4)] == [3, 3, 2, 1]
    assert clusters(np.zeros(5, bool), 3) == 0 and clusters(np.zeros(0, bool), 3) == 0


def test_peaks_are_the_highest_of_their_neighbourhood():
    assert peaks([1, 5, 4, 0, 2, 9, 8, 3], apart=1).tolist() == [9, 5, 3, 0]
    assert peaks([1, 5, 4, 0, 2, 9, 8, 3], apart=3).tolist() == [9, 5]
    assert peaks([], apart=3).tolist() == []


@pytest.mark.parametrize('apart', [1, 3, 10])
def test_at_no_threshold_are_there_fewer_peaks_than_alarms(apart):
    rng = np.random.default_rng(apart)
    series = np.exp(np.convolve(rng.standard_normal(3000), np.ones(4) / 2, 'valid'))
    found = peaks(series, apart)
    for threshold in np.quantile(series, (0.3, 0.8, 0.9, 0.97, 0.99, 0.999)):
        assert (found > threshold).sum() >= clusters(series > threshold, apart)
    rare = np.quantile(series, 0.999)
    assert (found > rare).sum() <= clusters(series > rare, apart) + 1


@pytest.mark.parametrize('shape', [-0.2, 0.0, 0.3])
def test_a_long_record_gives_the_tail_it_was_drawn_from(shape):
    excesses = stats.genpareto.rvs(shape, scale=0.7, size=2000, random_state=3)
    tail = ParetoTail.fit(excesses)
    assert tail.shape == pytest.approx(shape, abs=0.08)
    assert tail.scale == pytest.approx(0.7, rel=0.1)
    for probability in (0.5, 0.1, 0.01):
        level = stats.genpareto.isf(probability, shape, scale=0.7)
        assert tail.survival(level) == pytest.approx(probability, rel=0.3)
        assert tail.survival(tail.level(probability)) == pytest.approx(probability, rel=1e-6)


def test_the_surer_a_level_is_the_higher_and_it_is_kept_as_often_as_it_says():
    """By three quarters of the fits, to samples of the distribution whose rates they bound."""
    rng, kept = np.random.default_rng(0), []
    for _ in range(150):
        tail = ParetoTail.fit(stats.genpareto.rvs(0.2, size=60, random_state=rng))
        sure, surer = (tail.sure_level(0.01, confidence) for confidence in (0.75, 0.95))
        assert 0 < tail.sure_level(0.01, 0.25) < sure < surer
        kept.append(stats.genpareto.sf(sure, 0.2) <= 0.01)
    assert 0.65 < np.mean(kept) < 0.95


def test_the_unit_of_the_scores_does_not_matter():
    excesses = stats.genpareto.rvs(0.2, size=60, random_state=1)
    one, other = ParetoTail.fit(excesses), ParetoTail.fit(excesses * 1e-9)
    assert other.shape == pytest.approx(one.shape)
    assert other.level(1e-3) == pytest.approx(one.level(1e-3) * 1e-9)


def test_few_excesses_leave_the_tail_wide_and_finite():
    for excesses in ([1.0], [1.0, 1.0, 1.0], [1e-3, 1e3], list(range(1, 6))):
        tail = ParetoTail.fit(np.array(excesses, float))
        assert SHAPE_LOW < tail.shape < SHAPE_HIGH and tail.scale > 0
        levels = [tail.level(p) for p in (1.0, 0.5, 0.1, 1e-2, 1e-4)]
        assert np.isfinite(levels).all() and (np.diff(levels) > 0).all()
    # Knowing less, the same rare level lies higher.
    drawn = stats.genpareto.rvs(0.1, size=400, random_state=0)
    means = [np.mean([ParetoTail.fit(part).level(1e-3) for part in drawn.reshape(-1, size)])
             for size in (8, 400)]
    assert means[0] > means[1]


def test_the_next_excess_is_as_rare_as_the_tail_says():
    # The point of averaging over the posterior: over many short records, the level of 1 in 100
    # is passed about 1 time in 100, whereas the best fit's is passed more often.
    rng = np.random.default_rng(5)
    passed = []
    for _ in range(100):
        shape = np.clip(rng.normal(0.3, 0.2), -0.5, 0.9)
        level = ParetoTail.fit(stats.genpareto.rvs(shape, size=25, random_state=rng)).level(0.01)
        passed.append(stats.genpareto.sf(level, shape))
    assert 0.006 < np.mean(passed) < 0.015


def test_a_fit_to_nothing_or_to_what_is_no_excess_is_a_bug():
    for excesses in ([], [0.0, 1.0], [np.nan], [np.inf]):
        with pytest.raises(ValueError, match='positive excesses'):
            ParetoTail.fit(np.array(excesses))
