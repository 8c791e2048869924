"""The sum of small surprises: little in ordinary driving, and sure of what lasts."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lewm_core.cusum import APART, CAP, DRIFT, advance, cusum


def test_each_block_adds_its_surprise_less_what_two_ordinary_ones_do():
    total = advance(1.0, math.exp(-3))
    assert total == pytest.approx(1.0 + 3 - DRIFT)
    assert advance(1.0, 1.0) == 0.0
    assert advance(0.0, 1e-300) == CAP - DRIFT, 'one block, however odd, is for its score to say'


def test_the_sum_of_ordinary_p_values_stays_small_and_that_of_small_ones_grows():
    rng = np.random.default_rng(0)
    ordinary = cusum(rng.uniform(size=100_000))
    assert np.median(ordinary) == 0 and np.quantile(ordinary, 0.999) < 9
    odd = cusum(rng.uniform(0, 0.1, size=1000))
    assert odd[-1] == pytest.approx(1000 * (1 + math.log(10) - DRIFT), rel=0.1)


def test_a_ceiling_lets_the_sum_come_down_soon_after_hours_of_what_lasts():
    p_values = np.r_[np.full(10_000, 1e-3), np.full(20, 0.5)]
    assert cusum(p_values)[-1] > 10_000
    held = cusum(p_values, ceiling=12.0)
    assert held.max() == 12 and held[-1] == 0 and (held[10_000:10_004] > 6).all()


def test_no_p_values_have_no_sums():
    assert cusum([]).shape == (0,) and APART > 0
