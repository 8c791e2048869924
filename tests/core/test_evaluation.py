"""The evaluation's measures, on toys whose every answer is known."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
from tests.core.evaluation_toys import record_world, seeing

from lewm_core.checkpoint import Checkpoint
from lewm_core.evaluation import gap, open_loop, probes, robustness, straightness
from lewm_core.evaluation.intervals import (Figure, mean_of, over_episodes, over_groups,
                                            share_of)
from lewm_core.evaluation.mlp import MlpProbe
from lewm_core.evaluation.run import evaluate, page
from lewm_core.evaluation.subject import find_world, fitting
from lewm_core.types import UserError


@pytest.fixture(scope='module')
def drives(tmp_path_factory):
    """Twelve recorded drives in two rooms."""
    return record_world(tmp_path_factory.mktemp('drives') / 'd.h5')


@pytest.fixture(scope='module')
def subject(drives, tmp_path_factory):
    """A model that sees where the disc is, on those drives."""
    return seeing(drives, tmp_path_factory.mktemp('out'))


def test_frames_of_one_episode_do_not_make_an_interval_narrow():
    """Ten episodes of a hundred equal frames are ten observations, not a thousand."""
    rng = np.random.default_rng(0)
    each = rng.standard_normal(10)
    copies = mean_of(np.repeat(each, 100), np.repeat(np.arange(10), 100), 2000, 0)
    alone = mean_of(each, np.arange(10), 2000, 0)
    assert copies.value == pytest.approx(each.mean())
    assert (copies.low, copies.high) == pytest.approx((alone.low, alone.high))
    assert alone.high - alone.low == pytest.approx(2 * 1.96 * each.std() / 10 ** 0.5, rel=0.15)


def test_none_of_some_drives_is_not_certainly_none():
    """The table of detections said 0 (0 to 0) of what 200 drives had not shown."""
    none, all_ = (share_of(np.full(200, hit), np.arange(200), 1000, 0) for hit in (False, True))
    assert none.value == none.low == 0 and 0.01 < none.high < 0.03
    assert all_.value == all_.high == 1 and 0.97 < all_.low < 0.99
    windows = share_of(np.arange(200) % 40 < 20, np.arange(200) // 20, 1000, 0)
    assert windows.episodes == 10 and windows.high - windows.low > 0.4


def test_a_single_episode_has_a_value_and_no_interval():
    figure = over_episodes(np.array([[3.0, 1.0]]), lambda s: s[:, 0] / s[:, 1], 100, 0)
    assert figure.value == 3 and math.isnan(figure.low)
    assert figure.to_dict() == {'value': 3, 'low': None, 'high': None, 'episodes': 1}


def test_the_median_of_groups_is_resampled_by_group():
    groups = np.repeat(np.arange(8), 5)
    figure = over_groups(groups, lambda at: float(np.median(groups[at])), 200, 0)
    assert figure.value == 3.5 and figure.low < 3 < 4 < figure.high


def test_a_place_that_the_model_sees_is_read_out_by_both_probes(subject):
    found = probes.measure(subject)
    assert set(found['columns']) == {'x', 'y'}
    for column in found['columns'].values():
        assert column['linear']['r']['value'] > 0.999
        assert column['mlp']['r']['value'] > 0.98
        assert column['linear']['r2']['value'] + column['linear']['nmse']['value'] == (
            pytest.approx(1))
        assert column['linear']['r']['low'] <= column['linear']['r']['value']
        assert column['linear']['r']['episodes'] == 3


def test_an_angle_is_read_as_its_sine_and_cosine(subject, drives):
    turned = (4 * np.pi * drives.states['x'] + np.pi) % (2 * np.pi) - np.pi
    other = dataclasses.replace(drives, states={'block_angle': turned})
    found = probes.measure(dataclasses.replace(subject, dataset=other, _kept={}))
    assert set(found['columns']) == {'sin block_angle', 'cos block_angle'}
    column = found['columns']['sin block_angle']
    assert column['mlp']['r']['value'] > 0.9 > column['linear']['r']['value'] + 0.2


def test_what_the_pictures_do_not_show_is_not_read_out(subject, drives):
    noise = np.random.default_rng(0).standard_normal(len(drives))
    other = dataclasses.replace(drives, states={'noise': noise, 'still': np.ones(len(drives))})
    found = probes.measure(dataclasses.replace(subject, dataset=other, _kept={}))
    assert set(found['columns']) == {'noise'}
    assert all(abs(kind['r']['value']) < 0.3 for kind in found['columns']['noise'].values())


def test_probes_are_fitted_on_train_and_measured_on_test_episodes(subject, drives):
    """Labels that are wrong in the test episodes alone leave the fit as it was: r turns to -1."""
    rows, x = drives.rows('test'), drives.states['x'].copy()
    x[rows] = -x[rows]
    other = dataclasses.replace(drives, states={'x': x})
    found = probes.measure(dataclasses.replace(subject, dataset=other, _kept={}))
    assert found['columns']['x']['linear']['r']['value'] < -0.99


def test_a_model_that_knows_the_motion_beats_standing_still_and_drifts_at_walls(subject):
    found = open_loop.measure(subject)
    assert found['horizon'] == 4 and len(found['model']) == len(found['linear']) == 4
    model, still = ([f['value'] for f in found[k]] for k in ('model', 'still'))
    assert all(m < s for m, s in zip(model, still)) and model[3] > model[0]
    assert found['skill'][0]['value'] == pytest.approx(1 - model[0] / still[0])


def test_a_recording_of_a_minute_is_measured_without_validation_episodes(subject, tmp_path):
    """Two episodes are one to train on and one to test on.

    There the linear model stopped the whole evaluation with a traceback, and the page said that
    what is chosen was chosen on validation.
    """
    two = record_world(tmp_path / 'd.h5', episodes=2)
    assert [len(two.episodes(s)) for s in ('train', 'validation', 'test')] == [1, 0, 1]
    job = dataclasses.replace(subject.job, sections=('open_loop',))
    short = dataclasses.replace(subject, dataset=two, job=job, _kept={})
    found = evaluate(short)
    assert len(found['sections']['open_loop']['linear']) == 4
    said = 'no validation episodes'
    assert said in ' '.join(found['protocol']['left_out'])
    whole = evaluate(dataclasses.replace(subject, job=job))
    assert said not in ' '.join(whole['protocol']['left_out'])


def test_episodes_too_short_leave_no_open_loop(subject, record, tmp_path):
    short = record_world(tmp_path / 'd.h5', episodes=8, blocks=1)
    found = open_loop.measure(dataclasses.replace(subject, dataset=short, _kept={}))
    assert found['horizon'] == 0 and found['model'] == []


def test_straightness_of_a_line_a_return_and_a_rest():
    steps = np.array([[[0, 0], [1, 0], [2, 0]], [[0, 0], [1, 0], [0, 0]],
                      [[0, 0], [1, 0], [1, 1]], [[0, 0], [0, 0], [1, 1]]], float)
    cosines = straightness.straightness(steps)
    np.testing.assert_allclose(cosines[:3], [1, -1, 0], atol=1e-9)
    assert np.isnan(cosines[3])


def test_rare_is_what_is_far_from_what_was_recorded():
    rng = np.random.default_rng(0)
    known = rng.standard_normal((500, 2)) * [1, 100]
    far = robustness.rarity(np.array([[0, 0], [0, 100], [6, 0], [0, 600]]), known)
    assert far[0] < far[1] < far[2] and far[2] == pytest.approx(far[3], rel=0.4)


def test_noise_and_delay_spoil_imagination_and_goals_are_reached_undisturbed(subject):
    found = robustness.measure(subject)
    rows = {row['name']: row for row in found['disturbances']}
    assert rows['none']['goals']['reached']['value'] > 0
    error = {name: row['open_loop']['one_block']['error']['value'] for name, row in rows.items()}
    assert error['none'] < error['action noise 50 %']
    assert error['none'] < error['delay 1 tick'] < error['delay 3 ticks']
    assert set(found['rare']) == {'probe_nmse', 'one_block_error', 'latent_norm',
                                  'goals_reached'}
    assert found['rare']['goals_reached']['others']['episodes'] == 3


def test_without_a_world_no_goals_are_driven_to(subject):
    found = robustness.measure(dataclasses.replace(subject, make_world=None))
    assert all('goals' not in row for row in found['disturbances'])
    assert 'goals_reached' not in found['rare']


def test_a_dataset_beside_itself_has_no_gap(subject, drives):
    job = dataclasses.replace(subject.job, compare=drives.path)
    found = gap.measure(dataclasses.replace(subject, job=job))
    assert len(found['rows']) > 8
    assert all(row['ratio'] == pytest.approx(1) for row in found['rows'])
    ahead = next(row for row in found['rows'] if row['name'] == 'latent error 1 blocks ahead')
    assert ahead['low'] < 1 < ahead['high']
    assert gap.measure(subject)['other'] is None


def test_another_robot_may_be_compared_but_not_evaluated(drives):
    real = dataclasses.replace(drives, spec=dataclasses.replace(drives.spec, name='real'))
    checkpoint = Checkpoint(None, drives.spec)
    assert fitting(checkpoint, real, same=False).spec.name == 'real'
    with pytest.raises(UserError, match="of 'real'"):
        fitting(checkpoint, real)
    faster = dataclasses.replace(real, spec=dataclasses.replace(real.spec, rate_hz=20.0))
    with pytest.raises(UserError, match="is for robot 'two_room'"):
        fitting(checkpoint, faster, same=False)


def test_a_world_is_found_by_the_robots_name_and_refused_where_it_does_not_fit(drives, recording):
    assert find_world('auto', drives)().pixels == 64
    assert find_world('none', drives) is None and find_world('auto', recording) is None
    pushing = dataclasses.replace(drives, spec=dataclasses.replace(drives.spec, name='other'))
    assert find_world('two_room', pushing) is not None
    spec = drives.spec
    thin = dataclasses.replace(spec, action=dataclasses.replace(
        spec.action, fields=spec.action.fields[:1]))
    with pytest.raises(UserError, match='world=push cannot stand for'):
        find_world('push', dataclasses.replace(drives, spec=thin))


def test_only_the_sections_that_are_asked_for_are_measured_and_shown(subject):
    job = dataclasses.replace(subject.job, sections=('open_loop', 'probes'))
    results = evaluate(dataclasses.replace(subject, job=job))
    assert list(results['sections']) == ['probes', 'open_loop']
    assert results['protocol']['splits']['test']['episodes'] == 3
    html = ''.join(page(results).parts)
    assert 'Open loop' in html and 'Straightness' not in html and 'data:image/png' in html
    with pytest.raises(UserError, match='is not a choice of'):
        evaluate(dataclasses.replace(subject, job=dataclasses.replace(job, sections=('all',))))


def test_a_figure_says_its_interval_or_that_it_is_unknown():
    assert str(Figure(0.5, 0.25, 0.75, 9)) == '0.500 (0.25 to 0.75)'
    assert str(Figure(float('nan'), 0, 0, 1)) == 'unknown'
    assert json.dumps(Figure(math.inf, 0, 0, 1).to_dict(), allow_nan=False)


def test_a_column_that_can_only_be_learned_by_heart_does_not_stop_the_others():
    """Beside an angle that no picture shows, the disc's place was read with R² 0.08, not 0.39."""
    rng = np.random.default_rng(0)
    latents = rng.normal(size=(600, 4)).astype(np.float32)
    columns = np.column_stack([np.sin(3 * latents[:, 0]), rng.normal(size=(600, 6))])
    probe = MlpProbe.fit(latents[:400], columns[:400], latents[400:], columns[400:], 800, 0)
    off = (probe(latents[400:]) - columns[400:]) ** 2
    assert off[:, 0].mean() < 0.3 * columns[:, 0].var()
    assert off[:, 1:].mean() < 1.3  # the weights of before they were learned by heart
