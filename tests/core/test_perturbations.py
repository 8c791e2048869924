"""What is done to trajectories, and what is found of it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from tests.core.evaluation_toys import record_world, seeing

from lewm_core.calibration import calibrate
from lewm_core.checkpoint import load_checkpoint, save_checkpoint
from lewm_core.config import SurpriseConfig
from lewm_core.data import SPLITS
from lewm_core.decoder import Decoder, DecoderConfig
from lewm_core.envs import make_world
from lewm_core.evaluation import decoder, detection, promise
from lewm_core.evaluation.drives import drive
from lewm_core.evaluation.kinds import confusion, judged
from lewm_core.evaluation.perturbations import (brightened, in_world, recorded, shifted, things)
from lewm_core.evaluation.subject import Subject
from lewm_core.evaluation.trials import Outcome, ordinary
from lewm_core.kinds import kind
from lewm_core.paths import load_robot
from lewm_core.residuals import Residuals, plain


@pytest.fixture(scope='module')
def subject(tmp_path_factory):
    """A model that sees where the disc is."""
    folder = tmp_path_factory.mktemp('drives')
    return seeing(record_world(folder / 'd.h5'), folder / 'out')


@pytest.fixture
def altered(robot):
    """What each recorded perturbation makes of numbered frames and commands."""
    pixels = np.arange(10, dtype=np.uint8)[None, :, None, None, None] * np.ones(
        (2, 10, 4, 4, 3), np.uint8)
    pixels[..., 2:, :] += 100
    actions = (np.arange(9)[None, :, None, None] * 0.01 + np.array([0, 0.2])) * np.ones(
        (2, 9, 3, 2))
    rng = np.random.default_rng(0)
    made = {p.name: p.alter(pixels, actions, 4, robot, rng) for p in recorded()}
    return pixels, actions, made


def test_nothing_is_altered_before_the_event_and_the_right_side_of_it_after(altered):
    pixels, actions, made = altered
    for name, (p, a) in made.items():
        np.testing.assert_array_equal(p[:, :4], pixels[:, :4])
        np.testing.assert_array_equal(a[:, :3], actions[:, :3])
        assert (p.shape != pixels.shape or (p != pixels).any()
                or (a[:, 3] != actions[:, 3]).any()), name


def test_a_dropped_block_loses_its_frame_and_the_command_after_it(altered):
    pixels, actions, made = altered
    p, a = made['dropped block']
    assert p[0, :, 0, 0, 0].tolist() == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    np.testing.assert_array_equal(a, np.delete(actions, 4, axis=1))


def test_a_frozen_camera_shows_the_frame_before_for_ever(altered):
    assert altered[2]['frozen camera'][0][0, :, 0, 0, 0].tolist() == [0, 1, 2, 3] + [3] * 6


def test_swapped_channels_are_told_from_the_block_that_ends_at_the_event(altered):
    _, actions, made = altered
    _, a = made['swapped action']
    np.testing.assert_array_equal(a[:, 3:], actions[:, 3:, :, ::-1])


def test_noise_stays_within_the_limits_and_grows_with_its_share(altered, robot):
    _, actions, made = altered
    far = [np.abs(made[f'action noise {share} %'][1] - actions).mean() for share in (50, 100)]
    assert 0 < far[0] < far[1]
    assert all((made[f'action noise {share} %'][1] <= np.float32(robot.high)).all()
               for share in (50, 100))


def test_a_shifted_and_a_darker_picture():
    picture = np.zeros((1, 8, 8, 3), np.uint8)
    picture[:, :, 2] = 100
    moved = shifted(picture, 0.25)
    assert np.flatnonzero(moved[0, 0, :, 0]).tolist() == [4]
    assert brightened(picture, 0.6).max() == 60 and brightened(picture, 3.0).max() == 255


@pytest.mark.parametrize('name', ['two_room', 'push'])
def test_a_teleport_moves_one_thing_by_its_distance_to_where_it_can_be(name):
    world, rng = make_world(name), np.random.default_rng(0)
    names = things(world.state())
    assert names == {'two_room': [''], 'push': ['', 'block']}[name]
    moved = 0
    for trial in range(15):
        world.reset(seed=trial)
        for change in (c for c in in_world(world) if c.name.startswith('teleport')):
            before = world.state()
            if not change.happen(world, rng):
                assert world.state() == before
                continue
            moved += 1
            thing, radii = change.name.split()[1], int(change.name.split()[2])
            start = '' if thing == 'robot' else f'{thing}_'
            after = world.state()
            away = np.hypot(*(after[start + c] - before[start + c] for c in 'xy'))
            assert away == pytest.approx(radii * world.radius) and world.possible()
            assert {k: v for k, v in after.items() if k not in (f'{start}x', f'{start}y')} == {
                k: v for k, v in before.items() if k not in (f'{start}x', f'{start}y')}
    assert moved > 40


def test_a_drive_is_the_same_until_something_happens():
    world, spec = make_world('two_room'), load_robot('two_room')

    def away(tick, world):
        if tick == 12:
            world.set_state({'x': 0.1, 'y': 0.1})
    plain, again, other = (drive(world, spec, 5, 5, (3,), change)
                           for change in (None, None, away))
    np.testing.assert_array_equal(plain[0], again[0])
    np.testing.assert_array_equal(plain[0][:3], other[0][:3])
    assert (plain[0][3] != other[0][3]).any()
    assert plain[0].shape == (6, 64, 64, 3) and plain[1].shape == (5, 5, 2)
    end = np.array([plain[2][-1][c] for c in 'xy'])
    assert np.linalg.norm(end - [plain[2][0][c] for c in 'xy']) > 0


def test_teleports_are_noticed_as_jumps_and_the_larger_the_better(subject):
    found = detection.measure(subject)
    found = found['monitor']
    rows = {row['name']: row for row in found['perturbations']}
    far, near = rows['teleport robot 6 radii'], rows['teleport robot 1 radii']
    assert far['auroc']['value'] > 0.95 and far['ratio'] > near['ratio']
    assert far['decay'][0] > 10 * far['decay'][4] and far['effect']['value'] > 1
    assert far['count'] == 16 and far['p'] <= far['p_holm'] <= 1
    assert rows['frozen camera']['decay'][4] > 3
    assert found['kinds']['table']['teleport robot 6 radii']['shift'] <= 2
    assert found['promise']['hours'] == pytest.approx(0.05, rel=0.01)
    # Eighteen calibration blocks are too few for a threshold, the drive's are enough.
    assert {row['calibration'] for row in found['promise']['rows']} == {'drive 1'}


def test_without_a_world_recorded_windows_of_test_episodes_are_altered(subject):
    split = subject.dataset.ep_split.copy()
    split[subject.dataset.episodes('train')[:3]] = SPLITS.index('calibration')
    plain = Subject(subject.checkpoint, dataclasses.replace(subject.dataset, ep_split=split),
                    subject.job)
    trials = ordinary(plain)
    assert not trials.fresh and set(trials.episode) == set(subject.dataset.episodes('test'))
    found = detection.measure(plain)
    assert found['episodes'] == 3 and 'plain' in found
    found = found['monitor']
    assert len(found['perturbations']) == len(recorded())
    # Sixteen windows of three episodes are three pairs: no test can be sure of them.
    assert all(row['pairs'] == 3 and row['p'] >= 0.125 for row in found['perturbations'])


def test_an_alarm_is_delayed_by_the_blocks_before_the_first_exceedance():
    over = np.array([[1, 0, 0], [0, 0, 1], [0, 0, 0]], bool)
    assert detection.delays(over)['median'] == 1
    assert detection.delays(over[2:]) == {'median': None, 'p95': None}


def test_holm_multiplies_the_smallest_by_all_and_never_falls():
    rows = [{'p': 0.01}, {'p': 0.04}, {'p': 0.03}, {'p': 0.9}]
    detection._holm(rows)
    assert [row['p_holm'] for row in rows] == pytest.approx([0.04, 0.09, 0.09, 0.9])


def test_the_share_that_stays_unusual_tells_a_shift_from_a_jump():
    assert kind(np.array([0.5, 0.01, 0.9, 0.2])) == 'jump'
    assert kind(np.array([0.01, 0.02, 0.9, 0.2])) == 'shift'
    ordinary_scores = np.random.default_rng(0).exponential(1, 2000)
    calibration = calibrate([ordinary_scores], 0.5, SurpriseConfig())
    off = np.ones((2, 12, 1))
    off[:, 0], off[1, 1:] = 50 ** 0.5, 8 ** 0.5
    off, given = Residuals(off, np.zeros((2, 12, 1))), np.zeros((1, 12, 1))
    made = [judged(Outcome(name, name, off[i:i + 1], Residuals(given + 1, given), np.zeros(1), 0),
                   plain, calibration, 3) for i, name in enumerate(('jump', 'shift'))]
    assert [m.said for m in made] == [['jump'], ['shift']]
    assert confusion(made)['right']['value'] == 1 and confusion(made)['auroc']['value'] == 1


def test_alarms_are_counted_as_promised(subject):
    """Scores drawn like the calibration's come at the promised rate, each cluster once."""
    rng = np.random.default_rng(0)
    calibration = calibrate([rng.exponential(1, 20_000)], 0.5, SurpriseConfig())
    watched = [rng.exponential(1, 20_000)] * 1
    hours = 20_000 * 0.5 / 3600
    rows = {r['promised_per_hour']: r for r in promise._rows('drive', calibration, watched, hours)}
    assert rows[60.0]['low'] <= 1.3 and 0.7 <= rows[60.0]['ratio'] <= 1.4
    assert rows[1.0]['threshold'] > rows[6.0]['threshold'] > rows[60.0]['threshold']
    assert rows[1.0]['alarms'] <= rows[6.0]['alarms'] <= rows[60.0]['alarms']


def test_a_decoder_learns_is_kept_in_the_checkpoint_and_draws_the_same(small_model, tmp_path,
                                                                       recording):
    subject = seeing(recording, tmp_path)
    checkpoint = dataclasses.replace(subject.checkpoint, model=small_model.eval())
    job = dataclasses.replace(subject.job, decoder_steps=100, windows=20)
    found = decoder.measure(Subject(checkpoint, recording, job))
    assert 0.05 < found['explained']['value'] < 1 and found['grid'].startswith(b'\x89PNG')
    again = load_checkpoint(tmp_path / decoder.FILE)
    save_checkpoint(tmp_path / 'again.safetensors', again)
    latents = torch.randn(5, 8)
    pictures = again.heads['decoder'].pictures(latents)
    assert pictures.shape == (5, 16, 16, 3) and pictures.dtype == torch.uint8
    other = load_checkpoint(tmp_path / 'again.safetensors').heads['decoder']
    assert torch.equal(other.pictures(latents), pictures)


@pytest.mark.parametrize('size', [8, 16, 30, 64, 224])
def test_a_decoder_draws_pictures_of_the_models_size(small_model, size):
    small_model.config = dataclasses.replace(small_model.config, image_size=size)
    made = Decoder(DecoderConfig(channels=16), small_model).pictures(torch.randn(2, 3, 8))
    assert made.shape == (2, 3, size, size, 3)
