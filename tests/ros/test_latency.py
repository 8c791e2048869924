"""The latency between commands and the picture, on recordings where it is known."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import yaml
from latency_toys import aboard, record, wander

from lewm_core.cli import main
from lewm_core.robot import RobotSpec
from lewm_ros.inspect_bag import inspect_bag, inspect_one, suggest_spec
from lewm_ros.latency import estimate_latency
from lewm_ros.picture_motion import motion, reduced

TEXTURE = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (100, 100), np.uint8),
                           (0, 0), 2)


def shown(dx=0, dy=0, zoom=1.0, turn=0.0):
    """The middle of a texture after it moved, as `motion` takes it."""
    moved = cv2.getRotationMatrix2D((49.5, 49.5), -turn, zoom)
    moved[:, 2] += (dx, dy)
    whole = cv2.warpAffine(TEXTURE, moved, (100, 100), flags=cv2.INTER_CUBIC)
    return reduced(np.repeat(whole[18:82, 18:82, None], 3, axis=2))


@pytest.mark.parametrize('moved, feature, expected', [
    ({'dx': 1}, 0, 1.0), ({'dx': -1}, 0, -1.0), ({'dy': 1}, 1, 1.0),
    ({'zoom': 1.02}, 2, 0.64), ({'turn': 1.0}, 3, 0.56),  # pixels at the picture's edge
    ({'dx': 7}, 4, 7.0), ({'dy': -7}, 5, -7.0)])
def test_the_motion_of_a_picture_has_the_sign_and_size_that_it_moved_by(moved, feature, expected):
    found = motion(shown(), shown(**moved))
    assert found[feature] == pytest.approx(expected, rel=0.25)
    others = [i for i in range(4) if i != feature]
    if feature < 4:
        assert np.abs(found[others]).max() < 0.25 * abs(expected) and found[6] > 1


def test_a_still_picture_has_no_motion():
    assert np.abs(motion(shown(), shown())).max() < 1e-3


@pytest.mark.parametrize('seed, latency_s, camera', [
    (0, 0.0, 'above'), (1, 0.05, 'above'), (2, 0.17, 'above'), (3, 0.4, 'above'),
    (4, 0.05, 'aboard'), (5, 0.3, 'aboard')])
def test_a_known_latency_is_found_to_a_small_part_of_a_tick(tmp_path, seed, latency_s, camera):
    """From above a small disc goes about in a still picture; aboard, all of it moves."""
    bag = record(tmp_path / 'bag', *wander(latency_s, 80, 15, 20, seed=seed, camera=camera),
                 jpeg=seed == 2)
    found = inspect_one(bag, latency=True).latency
    assert found.by == 'level'
    assert abs(found.seconds - latency_s) < 0.02
    assert found.confident(1 / 10) and found.high - found.low < 0.06
    assert found.strength > 1.5 * found.chance


def test_the_latency_of_commanded_positions_is_found_by_their_changes():
    rng = np.random.default_rng(1)
    told = np.cumsum(rng.uniform(0.09, 0.11, 800))
    places = 0.5 + 0.3 * np.tanh(np.cumsum(rng.normal(0, 0.02, (800, 2)), axis=0))
    seen = np.cumsum(rng.uniform(0.06, 0.07, 1200))
    at = places[np.maximum(np.searchsorted(told, seen - 0.15, side='right') - 1, 0)]
    greys = [reduced(p) for _, p in aboard([(t, None) for t in seen], at)]
    features = np.array([motion(a, b) for a, b in zip(greys, greys[1:])])
    stamps = (seen * 1e9).astype(np.int64)
    found = estimate_latency(stamps[:-1], stamps[1:], features, (told * 1e9).astype(np.int64),
                             places)
    assert found.by == 'change' and abs(found.seconds - 0.15) < 0.02 and found.confident(0.1)


def test_pauses_between_episodes_say_nothing(tmp_path):
    """Each episode starts elsewhere: a jump of the picture that no command made."""
    commands, pictures = [], []
    for episode in range(8):
        told, seen = wander(0.17, 12, 15, 20, seed=episode)
        commands += [(60 * episode + t, v) for t, v in told]
        pictures += [(60 * episode + t, p) for t, p in seen]
    found = inspect_one(record(tmp_path / 'bag', commands, pictures), latency=True).latency
    assert abs(found.seconds - 0.17) < 0.02 and found.confident(0.1)


def test_what_a_picture_takes_to_the_recorder_is_part_of_it_where_log_time_is_gone_by(tmp_path):
    bag = record(tmp_path / 'bag', *wander(0.1, 80, 15, 20), headers=False, transport_s=0.15)
    found = inspect_one(bag, latency=True)
    assert found.clock == 'log' and abs(found.latency.seconds - 0.25) < 0.02


def test_an_estimate_that_can_be_relied_on_is_filled_into_the_spec(tmp_path, capsys):
    bag = record(tmp_path / 'bag', *wander(0.17, 80, 15, 20, seed=2))
    assert main(['inspect', str(bag), '--spec', '--latency']) == 0
    text = capsys.readouterr().out
    spec = RobotSpec.from_dict(yaml.safe_load(text))
    assert abs(spec.action.latency_s - 0.17) < 0.02 and 'latency_s: 0.1' in text
    assert suggest_spec(bag)[0].count('latency_s: 0.0  # not estimated') == 1


def test_commands_of_another_drive_do_not_move_the_picture_and_give_no_latency(tmp_path):
    _, pictures = wander(0.1, 60, 15, 20, seed=1)
    commands, _ = wander(0.1, 60, 15, 20, seed=5)
    bag = record(tmp_path / 'bag', commands, pictures)
    text = inspect_bag(bag, latency=True)
    assert 'not confident: the picture follows the commands no more than by chance' in text
    assert ('warning: /cmd_vel: the picture of /camera follows the commands no more than by chance'
            ) in text
    assert 'latency_s: 0.0  # the estimate is too uncertain to use' in suggest_spec(bag, True)[0]


def test_commands_that_move_the_picture_are_not_complained_of(tmp_path):
    bag = record(tmp_path / 'bag', *wander(0.1, 60, 15, 20, seed=1))
    assert 'by chance' not in inspect_bag(bag)


def test_a_short_recording_says_that_it_is_too_short(tmp_path):
    bag = record(tmp_path / 'bag', *wander(0.1, 8))
    text = inspect_bag(bag, latency=True)
    assert 'latency: not estimated: fewer than 100 pairs of frames' in text


def test_commands_that_never_change_give_no_latency():
    times = np.arange(500) * 100_000_000
    features = np.random.default_rng(0).normal(size=(499, 7))
    assert estimate_latency(times[:-1], times[1:], features, times, np.ones((500, 2))) is None
    assert estimate_latency(times[:-1], times[1:], features, times[:0], np.ones((0, 2))) is None


def test_the_same_recording_gives_the_same_estimate(tmp_path):
    bag = record(tmp_path / 'bag', *wander(0.1, 30, 15, 20))
    one, other = (inspect_one(bag, latency=True).latency for _ in range(2))
    assert one == other
