"""The collapse monitor and the linear probes, against cases with known answers."""

from __future__ import annotations

import numpy as np
import pytest

from lewm_core.monitor import effective_rank, latent_statistics
from lewm_core.probes import LinearProbe, r_squared, ridge_probe


def test_isotropic_latents_have_full_rank_and_unit_std():
    latents = np.random.default_rng(0).standard_normal((40, 500, 8))
    stats = latent_statistics(latents)
    assert stats.std_mean == pytest.approx(1, abs=0.02) and stats.std_min > 0.95
    assert stats.effective_rank == pytest.approx(8, abs=0.05)
    assert stats.dimensions == 8 and stats.collapsed is None


def test_effective_rank_counts_equal_directions():
    assert effective_rank(np.diag([2.0, 2, 2, 0, 0])) == pytest.approx(3)
    assert effective_rank(np.diag([1.0, 0, 0])) == pytest.approx(1)
    assert effective_rank(np.zeros((4, 4))) == 1


def test_a_line_of_wide_latents_is_called_collapsed():
    rng = np.random.default_rng(0)
    line = rng.standard_normal((500, 1)) * np.ones(32) + 1e-3 * rng.standard_normal((500, 32))
    stats = latent_statistics(line)
    assert stats.std_min > 0.9
    assert 'effective rank 1.0 of 32' in stats.collapsed


def test_narrow_latents_of_full_rank_are_called_collapsed_and_the_cure_is_named():
    stats = latent_statistics(0.008 * np.random.default_rng(0).standard_normal((500, 32)))
    assert 'std 0.00' in stats.collapsed and 'raise model.sigreg_weight' in stats.collapsed


def test_a_single_dead_dimension_is_noticed():
    latents = np.random.default_rng(0).standard_normal((500, 32))
    latents[:, 7] *= 1e-3
    assert latent_statistics(latents).collapsed


def test_the_probe_finds_a_linear_map():
    rng = np.random.default_rng(0)
    latents = rng.standard_normal((400, 6)) * 3 + 1
    weights, bias = rng.standard_normal((6, 2)), np.array([5.0, -2])
    probe = LinearProbe.fit(latents, latents @ weights + bias, ridge=1e-9)
    np.testing.assert_allclose(probe.weights, weights, atol=1e-6)
    np.testing.assert_allclose(probe.bias, bias, atol=1e-6)


def test_a_probe_survives_a_constant_dimension():
    latents = np.random.default_rng(0).standard_normal((100, 3))
    latents[:, 1] = 4.0
    probe = LinearProbe.fit(latents, latents[:, :1])
    assert np.isfinite(probe.weights).all()
    assert r_squared(latents[:, 0], probe(latents)[:, 0]) > 0.999


def test_r_squared_is_one_for_truth_zero_for_the_mean_and_undefined_without_variance():
    true = np.array([1.0, 2, 3, 6])
    assert r_squared(true, true) == 1
    assert r_squared(true, np.full(4, 3.0)) == pytest.approx(0)
    assert np.isnan(r_squared(np.ones(4), np.ones(4)))


def test_only_what_is_in_the_latents_can_be_read_out_on_held_out_frames():
    rng = np.random.default_rng(0)
    fit, test = rng.standard_normal((600, 5)), rng.standard_normal((300, 5))
    scores = ridge_probe(
        fit, {'x': fit @ np.arange(5), 'noise': rng.standard_normal(600), 'still': np.ones(600)},
        test, {'x': test @ np.arange(5), 'noise': rng.standard_normal(300), 'still': np.ones(300)})
    assert scores['x'] > 0.9999 and abs(scores['noise']) < 0.1 and 'still' not in scores


def test_missing_states_are_left_out():
    rng = np.random.default_rng(0)
    fit, test = rng.standard_normal((600, 5)), rng.standard_normal((300, 5))
    x, held_out = fit[:, 0].copy(), test[:, 0].copy()
    x[:50], held_out[7] = np.nan, np.nan
    never = np.full(600, np.nan)
    scores = ridge_probe(fit, {'x': x, 'never': never},
                         test, {'x': held_out, 'never': never[:300]})
    assert list(scores) == ['x'] and scores['x'] > 0.999
