"""The times of real recordings: which clock, what came out of a queue, where an episode ends."""

from __future__ import annotations

import logging

import h5py
import numpy as np
import pytest
from bag_toys import (LOG, START, TICK, S, bag_image, command, drive, odometry, picture, twist,
                      with_latency, write_bag)

from lewm_core.robot import RobotSpec
from lewm_core.types import UserError
from lewm_ros.bags import convert
from lewm_ros.clocks import Stamps, choose_clock, disagreement_s, queued

DAY = 86400 * S


def stamps(header, log):
    return Stamps.of([int(h) for h in header], [int(t) for t in log])


def plain(spec, **action):
    """The spec without state and markers."""
    tree = with_latency(spec, **action).to_dict()
    tree.update(state=[], episode_topic=None)
    return RobotSpec.from_dict(tree)


def headless(spec, **action):
    """The spec of a robot whose commands are plain Twists."""
    fields = [{'path': f'linear.{axis}', 'min': -0.4, 'max': 0.4} for axis in 'xy']
    return plain(spec, type='geometry_msgs/msg/Twist', latency_s=0.0, fields=fields, **action)


def converted(tmp_path, messages, spec):
    report = convert([write_bag(tmp_path / 'bag', sorted(messages, key=lambda m: m[1]))], spec,
                     tmp_path / 'data.h5')
    with h5py.File(report.output) as file:
        return report, {key: file[key][:] for key in file}


def only(messages, *topics):
    return [m for m in messages if m[0] in topics]


FRAMES = np.arange(50) * TICK


@pytest.mark.parametrize('header, others, clock', [
    (FRAMES + START, FRAMES + START, 'header'),
    (FRAMES + START, FRAMES * 0, 'log'),                         # commands without header
    (FRAMES * 0 + START, FRAMES + START, 'log'),                 # a camera that never stamps anew
    (FRAMES + START - 9 * 365 * DAY, FRAMES + START, 'log'),     # only the camera was replayed
    (FRAMES + START, FRAMES + START - 3 * S, 'log'),             # two hosts, 3 s apart
    (FRAMES + START, FRAMES + START - S // 2, 'header'),         # a slow link is no other clock
    (FRAMES + START - 9 * 365 * DAY, FRAMES + START - 9 * 365 * DAY, 'header')])  # all replayed
def test_header_stamps_are_gone_by_where_both_fill_them_from_one_clock(header, others, clock):
    chosen, reason = choose_clock(stamps(header, FRAMES + LOG), stamps(others, FRAMES + LOG + 5),
                                  'commands')
    assert chosen == clock and reason


@pytest.mark.parametrize('factor', [0.003, 0.5, 30])
def test_a_simulation_faster_or_slower_than_real_time_has_one_clock(factor):
    """A recording in lock-step is written 300 times as fast as its stamps say, or far slower."""
    log = LOG + (FRAMES * factor).astype(np.int64)
    late = slice(30, None)  # the commands begin three seconds in
    assert disagreement_s(stamps(FRAMES + START, log),
                          stamps(FRAMES[late] + START, log[late] + 5)) is None


def test_a_clock_that_jumps_for_both_is_one_clock():
    header = FRAMES + START
    header[20:] += DAY
    header[40:] -= 2 * DAY
    assert disagreement_s(stamps(header, FRAMES + LOG), stamps(header, FRAMES + LOG + 5)) is None


def test_what_was_queued_is_found_by_the_row_it_came_in():
    """A recorder that starts late gets what had waited: commands 11 microseconds apart."""
    log = np.concatenate([np.arange(6) * 11_000, S // 20 * np.arange(1, 40)])
    assert queued(log).tolist() == [True] * 5 + [False] * 40
    pairs = np.sort(np.concatenate([FRAMES, FRAMES + 20_000]))  # two publishers say the same
    assert not queued(pairs).any() and not queued(FRAMES).any() and not queued([1, 2]).any()


def test_a_queue_at_the_start_is_left_out_where_only_log_time_is_known(tmp_path, two_room):
    """The first five pictures arrive at once, half a second late, and so do eight commands."""
    messages = []
    for k in range(40):
        at = LOG + max(k * TICK, 5 * TICK + min(k, 5) * 20_000)
        messages.append(('/camera/image_raw', at, bag_image(0, picture(k))))
        messages.append(('/cmd_vel', at + 1_000_000, twist(k / 1000)))
    report, data = converted(tmp_path, messages, headless(two_room))
    assert report.clocks == ('log',) and report.queued == 10
    assert data['pixels'][0, -1, -1, 0] == 5 and len(data['pixels']) == 35
    np.testing.assert_array_equal(data['action'][:-1, 0],
                                  np.arange(5, 39, dtype=np.float32) / 1000)


def test_a_queue_at_the_start_does_no_harm_where_header_stamps_are_known(tmp_path, two_room):
    messages = [(topic, max(log, LOG + 5 * TICK + k * 10_000), m)
                for k, (topic, log, m) in enumerate(drive(40))]
    report, data = converted(tmp_path, messages, two_room)
    assert (report.frames, report.queued, report.clocks) == (40, 0, ('header',))
    np.testing.assert_array_equal(data['action'][:-1, 0], np.arange(39, dtype=np.float32) / 1000)


def test_increments_out_of_a_queue_are_summed_all_the_same(tmp_path, two_room):
    messages = []
    for k in range(30):
        messages.append(('/camera/image_raw', LOG + k * TICK, bag_image(0, picture(k))))
        for j in range(4):  # four in a row, after half a tick
            messages.append(('/cmd_vel', LOG + k * TICK + TICK // 2 + j * 10_000, twist(0.01)))
    report, data = converted(tmp_path, messages, headless(two_room, reduce='sum'))
    assert report.queued == 0
    np.testing.assert_allclose(data['action'][:-1, 0], 0.04, rtol=1e-6)


def test_two_clocks_go_by_log_time_and_it_is_said_why(tmp_path, two_room, caplog):
    caplog.set_level(logging.INFO)
    messages = [(t, log, command(START + 7 * S + (log - LOG), m.twist.linear.x)
                 if t == '/cmd_vel' else m) for t, log, m in drive(40)]
    report, data = converted(tmp_path, messages, two_room)
    assert report.clocks == ('log',) and report.frames == 40
    assert 'are 7 s apart where they were received together' in caplog.text
    np.testing.assert_array_equal(data['action'][:-1, 0], np.arange(39, dtype=np.float32) / 1000)


def test_states_of_another_clock_are_matched_by_log_time(tmp_path, two_room):
    messages = [(t, log, odometry(m.header.stamp.sec * S + 9 * DAY, m.pose.pose.position.x)
                 if t == '/odom' else m) for t, log, m in drive(40)]
    report, data = converted(tmp_path, messages, two_room)
    assert report.clocks == ('header',)
    np.testing.assert_array_equal(data['x'], np.arange(40.0))


@pytest.mark.parametrize('jump', [DAY, -DAY, 7 * TICK, -3 * TICK])
def test_a_clock_that_jumps_cuts_the_episode_and_keeps_the_pairing(tmp_path, two_room, jump):
    tail = drive(25, start=START + 25 * TICK + jump, log=LOG + 25 * TICK)
    messages = only(drive(25) + tail, '/camera/image_raw', '/cmd_vel')
    report, data = converted(tmp_path, messages, plain(two_room))
    assert data['ep_len'].tolist() == [25, 25] and report.timeouts == 0
    expected = np.tile(np.arange(25, dtype=np.float32) / 1000, 2)
    expected[[24, 49]] = np.nan
    np.testing.assert_array_equal(data['action'][:, 0], expected)


def test_a_forward_jump_within_the_longest_gap_is_a_late_frame(tmp_path, two_room):
    messages = only(drive(20) + drive(20, start=START + 22 * TICK, log=LOG + 20 * TICK),
                    '/camera/image_raw', '/cmd_vel')
    assert converted(tmp_path, messages, plain(two_room))[0].episodes == 1


def test_one_stamp_from_the_future_costs_one_frame(tmp_path, two_room):
    messages = only(drive(50), '/camera/image_raw', '/cmd_vel')
    (at,) = [i for i, m in enumerate(messages) if m[2] is messages[50][2]]
    messages[at] = ('/camera/image_raw', messages[at][1], bag_image(START + 99 * DAY, picture(99)))
    report, data = converted(tmp_path, messages, plain(two_room))
    assert data['ep_len'].tolist() == [25, 24] and report.frames == 49
    assert not (data['pixels'] == picture(99)).all(axis=(1, 2, 3)).any()


@pytest.mark.parametrize('on_timeout', ['safe', 'drop'])
def test_frames_before_the_first_and_after_the_last_command_are_left_out(
        tmp_path, two_room, on_timeout):
    """Nobody knows what the robot was told then: it is no example of standing still."""
    messages = [m for k, m in enumerate(only(drive(90), '/camera/image_raw', '/cmd_vel'))
                if m[0] != '/cmd_vel' or 30 <= k // 2 < 60]
    spec = plain(two_room, on_timeout=on_timeout)
    report, data = converted(tmp_path, messages, spec)
    # From the frame that the first command answers to the last one while a command is in force.
    assert [int(p[-1, -1, 0]) for p in data['pixels']] == list(range(30, 65))
    assert report.uncommanded == 55 and report.timeouts == 0
    assert '55 frames came before the first or after the last command' in report.summary()


def test_a_pause_between_commands_is_kept_as_the_safe_action(tmp_path, two_room):
    messages = [m for k, m in enumerate(only(drive(60), '/camera/image_raw', '/cmd_vel'))
                if m[0] != '/cmd_vel' or not 20 <= k // 2 < 40]
    report, data = converted(tmp_path, messages, plain(two_room))
    assert (report.frames, report.episodes, report.uncommanded) == (60, 1, 0)
    assert report.timeouts == 16 and not data['action'][24:40].any()


def test_images_that_no_command_goes_with_are_said_to_have_none(tmp_path, two_room):
    messages = only(drive(40), '/camera/image_raw')
    messages += [(t, log + 100 * S, command(START + 100 * S + log - LOG, 0.1))
                 for t, log, _ in only(drive(3), '/cmd_vel')]
    with pytest.raises(UserError, match=r'\(40 frames have no command in force\)'):
        converted(tmp_path, messages, plain(two_room))
