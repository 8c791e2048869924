"""Figures that once said something else than they seemed to, each on a toy whose answer is known.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from tests.core.evaluation_toys import record_world, seeing

from lewm_core.bench import objectives
from lewm_core.evaluation import goals, probes, robustness, straightness
from lewm_core.evaluation.intervals import Figure, mean_of, ratio_of, share_of
from lewm_core.evaluation.kinds import Judged, confusion
from lewm_core.evaluation.perturbations import InWorld
from lewm_core.tails import wilson_interval


@pytest.fixture(scope='module')
def drives(tmp_path_factory):
    """Twelve recorded drives in two rooms."""
    return record_world(tmp_path_factory.mktemp('drives') / 'd.h5')


@pytest.fixture(scope='module')
def subject(drives, tmp_path_factory):
    """A model that sees where the disc is, on those drives, without a world."""
    return seeing(drives, tmp_path_factory.mktemp('out'), world='none')


def with_states(subject, states):
    dataset = dataclasses.replace(subject.dataset, states=states)
    return dataclasses.replace(subject, dataset=dataset, _kept={})


def test_a_delayed_robot_does_later_what_the_model_is_told_now(subject, monkeypatch):
    """The row "delay 3 ticks" told the model what the robot had done three ticks before.

    So the robot seemed to act before it was commanded, the other way round than where goals are
    driven to. Here a robot that does commands late has recorded what it did.
    """
    commands = np.random.default_rng(0).normal(size=(len(subject.dataset), 2)).astype(np.float32)
    done, heard = np.full_like(commands, np.nan), []
    for first, length in zip(subject.dataset.ep_offset, subject.dataset.ep_len):
        done[first + 3:first + length - 1] = commands[first:first + length - 4]
    dataset = dataclasses.replace(subject.dataset, action=done)
    monkeypatch.setattr(robustness, 'imagination_errors', lambda model, latents, told, context: (
        heard.append(told), np.ones((len(told), told.shape[1] - context + 1)))[1])
    late = dataclasses.replace(subject, dataset=dataset, _kept={})
    starts, blocks, episode = robustness._windows(late)
    robustness._imagined(late, robustness.Disturbance('late', delay=3), starts, blocks, episode, 0)
    rows = starts[:, None] + np.arange(blocks.shape[1] * 5)
    np.testing.assert_array_equal(heard[0].reshape(*rows.shape, 2), commands[rows])


def test_a_number_that_never_changes_or_is_never_known_makes_no_place_rare(subject):
    """An odometry's z, always 0, made the probe's error in rare states null.

    A topic that was never heard left out the whole table.
    """
    states = subject.dataset.states
    plain = robustness.measure(subject)['rare']
    found = robustness.measure(with_states(subject, {
        **states, 'z': np.zeros(len(subject.dataset)),
        'load': np.full(len(subject.dataset), np.nan)}))['rare']
    assert found == plain and plain['probe_nmse']['ratio']['value'] > 0
    assert robustness.measure(with_states(subject, {'z': 0 * states['x']}))['rare'] is None


def test_a_column_is_read_where_it_is_known_whatever_else_is_missing(subject):
    """Of x known in every second frame and y in the others the linear probes were null."""
    states, odd = subject.dataset.states, np.arange(len(subject.dataset)) % 2 == 0
    found = probes.measure(with_states(subject, {
        'x': np.where(odd, states['x'], np.nan), 'y': np.where(odd, np.nan, states['y'])}))
    assert all(found['columns'][name]['linear']['r']['value'] > 0.999 for name in 'xy')


def test_one_penalty_is_chosen_for_all_columns_by_what_is_known_of_each():
    """As by one regression on all rows where nothing is missing."""
    rng = np.random.default_rng(0)
    latents, held = rng.standard_normal((60, 20)), rng.standard_normal((200, 20))
    columns, true = (z[:, :2] + 3 * rng.standard_normal((len(z), 2))
                     for z in (latents, held))
    fit, ridge = probes.fit_linear(latents, columns, held, true)
    errors = [((probes.LinearProbe.fit(latents, columns, r)(held) - true) ** 2
               / columns.var(axis=0)).mean() for r in probes._RIDGES]
    assert ridge == probes._RIDGES[int(np.argmin(errors))] == 0.1
    np.testing.assert_allclose(fit.weights, probes.LinearProbe.fit(latents, columns, 0.1).weights)
    true[:, 1] = np.nan
    assert probes.fit_linear(latents, columns, held, true)[1] == 0.1
    assert probes.fit_linear(latents, columns, held, np.full_like(true, np.nan))[1] == 1e-3


def test_degrees_are_not_taken_for_radians(subject):
    """A column called angle was read as the sine of its degrees, which is noise."""
    spec = subject.dataset.spec
    named = (('heading', 'rad'), ('angle_deg', 'deg'), ('angle_rate', 'rad/s'), ('angle', ''))
    fields = [dataclasses.replace(spec.state[0].fields[0], name=name, unit=unit)
              for name, unit in named]
    state = [dataclasses.replace(spec.state[0], fields=tuple(fields))]
    dataset = dataclasses.replace(
        subject.dataset, spec=dataclasses.replace(spec, state=tuple(state)),
        states={name: np.zeros(1) for name in ('heading', 'angle_deg', 'angle_rate', 'angle',
                                               'block_angle')})
    assert dataclasses.replace(subject, dataset=dataset).angles == {'heading', 'angle',
                                                                    'block_angle'}


def test_none_of_a_few_episodes_windows_is_not_certainly_none():
    """Of recordings, whose windows share episodes, the table said 0 (0 to 0) all the same."""
    for hit in (False, True):
        found = share_of(np.full(200, hit), np.arange(200) // 20, 1000, 0)
        assert (found.low, found.high) == wilson_interval(10 * hit, 10) and found.episodes == 10
    assert math.isnan(share_of(np.zeros(0, bool), np.zeros(0), 1000, 0).value)


def test_nothing_that_moves_has_a_straightness_that_is_not_known(subject):
    """A model that sees no difference between pictures stopped the evaluation with a traceback."""
    still = straightness.straightness(np.ones((5, 3, 4)))
    assert math.isnan(mean_of(still, np.arange(5), 100, 0).value)


def test_what_was_told_rightly_is_counted_by_drives():
    """Ten perturbations of the same four drives are four drives, not forty.

    Wilson's interval over all forty said 0.35 to 0.65 where half of the drives are told wrongly.
    """
    said = ['shift', 'shift', 'jump', 'jump']
    rows = [Judged(f'{n}', 'shift', said, np.zeros(4), np.arange(4), 6) for n in range(10)]
    right = confusion(rows)['right_by_kind']['shift']
    assert right['value'] == 0.5 and right['episodes'] == 4
    assert right['low'] < 0.1 and right['high'] > 0.9


def test_how_well_what_stays_tells_shifts_from_jumps_has_an_interval_over_drives():
    """The AUROC of the persistence stood alone, beside figures that all had theirs."""
    lasting = np.array([0.0, 0.25, 0.5, 0.25, 0.0, 0.5])
    rows = [Judged(name, name, [''] * 6, lasting + (name == 'shift') * 0.25, np.arange(6), 6)
            for name in ('jump', 'shift')]
    found = confusion(rows)['auroc']
    assert found['episodes'] == 6 and 0.5 < found['low'] < found['value'] < found['high'] < 1
    assert confusion([])['auroc']['value'] is None


def test_the_interval_of_a_ratio_holds_it_as_often_as_it_says():
    rng, known = np.random.default_rng(0), Figure(2.0, 2.0, 2.0, 9)
    found = ratio_of(Figure(3.0, 1.0, 4.0, 5), known)
    assert (found.value, found.low, found.high, found.episodes) == (1.5, 0.5, 2.0, 5)
    held = []
    for above, below in rng.binomial(50, (0.7, 0.9), (1000, 2)).tolist():
        found = ratio_of(*(Figure(n / 50, *wilson_interval(n, 50), 50) for n in (above, below)))
        held.append(found.low <= 0.7 / 0.9 <= found.high)
    assert 0.93 < np.mean(held) < 0.98
    for below in (Figure(0.0, 0.0, 0.1, 9), Figure(math.nan, math.nan, math.nan, 0)):
        assert math.isnan(ratio_of(known, below).value)
    for below in (Figure(1.0, 0.5, 2.1, 9), Figure(1.0, math.nan, math.nan, 1)):
        assert math.isnan(ratio_of(known, below).low) and math.isnan(ratio_of(known, below).high)
        assert str(ratio_of(known, below)) == '2.000'


def test_goals_are_driven_to_from_the_rarest_starts_and_from_others(drives, tmp_path, monkeypatch):
    driven, world = [], seeing(drives, tmp_path, goals=3)
    monkeypatch.setattr(goals, '_reaches', lambda subject, world, agent, task, *_: (
        driven.append(world.state()['x']), len(driven) < 4)[1])
    found = goals.drive_from_rare(world, 0.1, lambda states: states['x'])
    assert len(driven) == 6 and min(driven[:3]) > max(driven[3:])
    assert found['rare']['value'] == 1 and found['others']['value'] == 0
    assert found['ratio']['value'] is None


def test_fresh_weights_have_the_moments_of_pictures(subject):
    """After eight batches four tenths of BatchNorm's first guess, 0 and 1, were left."""
    fresh, seen = straightness._fresh(subject), []
    norm = next(m for m in fresh.modules() if hasattr(m, 'running_var'))
    mean, var = norm.running_mean.clone(), norm.running_var.clone()
    norm.register_forward_hook(lambda norm, given, out: seen.append(given[0]))
    fresh.encode(torch.from_numpy(subject.dataset.frames(subject.encoded('train').rows)))
    flat = seen[0].detach().transpose(0, 1).flatten(1)
    np.testing.assert_allclose(mean, flat.mean(1), atol=0.02)
    np.testing.assert_allclose(var, flat.var(1), rtol=0.1)


def test_seeds_are_a_sample_of_seeds():
    """Three seeds' deviation was over three, a fifth less than seeds differ by."""
    assert objectives.deviation([1.0, 2.0, 3.0]) == 1.0
    assert math.isnan(objectives.deviation([1.0]))


def test_a_teleport_without_room_is_none(subject, monkeypatch):
    """A drive in which nothing happened counted as one whose teleport was missed."""
    monkeypatch.setattr(objectives, 'in_world', lambda world: [
        InWorld(objectives._TELEPORT, 'jump', lambda world, rng: False)])
    assert objectives.teleport_auroc(subject.checkpoint, 2) is None
