"""The table of a bag, and what it warns of."""

from __future__ import annotations

import numpy as np
import pytest
from bag_toys import (LOG, START, TICK, S, T, bag_image, command, drive, header, odometry,
                      picture, twist, write_bag)

from lewm_core.cli import main
from lewm_core.types import UserError
from lewm_ros.inspect_bag import inspect_bag


def rows(text):
    """The cells of each line of the table, by topic."""
    return {line.split()[0]: line.split() for line in text.splitlines()[2:]
            if line.startswith('/')}


def warnings(text):
    return [line for line in text.splitlines() if line.startswith('warning: ')]


def inspected(tmp_path, messages, **kwargs):
    messages = sorted(messages, key=lambda m: m[1])
    return inspect_bag(write_bag(tmp_path / 'bag', messages), **kwargs)


def test_topics_types_counts_rates_and_sizes_are_shown(tmp_path):
    text = inspected(tmp_path, drive(40, 2))
    assert text.splitlines()[0].startswith(f'{tmp_path / "bag"}: 242 messages')
    found = rows(text)
    assert found['/camera/image_raw'][1:10] == ['sensor_msgs/msg/Image', '80', '10.00', 'Hz',
                                                '0.0', 'ms', '1', '10.100', 's']
    assert found['/camera/image_raw'][10:] == ['header', '+57.0', 'years', '1', '64x64', 'rgb8']
    assert found['/episode'][2] == '2' and found['/odom'][3] == '10.00'


def test_a_topic_without_header_goes_by_log_time_and_a_single_message_has_no_rate(tmp_path):
    messages = [('/go', START + k * TICK // 2, twist(0)) for k in range(5)]
    messages.append(('/see', START, bag_image(START, picture(0), 'rgb8')))
    found = rows(inspected(tmp_path, messages))
    assert found['/go'][2:] == ['5', '20.00', 'Hz', '0.0', 'ms', '0', '0.050', 's', 'log', '-',
                                '1']
    assert found['/see'][3:5] == ['-', '-']


def test_how_late_messages_are_received_and_how_unsteady_they_are_is_shown(tmp_path):
    messages = []
    for k in range(100):
        stamp = LOG + k * TICK + (20_000_000 if k % 5 == 0 else 0)
        messages.append(('/odom', stamp + 7_500_000, odometry(stamp, float(k))))
    cells = rows(inspected(tmp_path, messages))['/odom']
    assert cells[5:7] == ['20.0', 'ms'] and cells[11:13] == ['+7.5', 'ms']


def test_which_clock_frames_and_commands_go_by_is_said_with_the_rule(tmp_path):
    assert 'clock: header: frames and commands have header stamps of one clock (rule: ' in (
        inspected(tmp_path, drive(40)))
    late = [(t, log, command(START + 5 * S + log - LOG, 0.1 * (k % 7))
             if t == '/cmd_vel' else m) for k, (t, log, m) in enumerate(drive(40))]
    text = inspect_bag(write_bag(tmp_path / 'other', late))
    assert 'clock: log: the header stamps of frames and commands are 5 s apart' in text
    assert any('synchronise them' in w for w in warnings(text))


def test_a_clock_that_goes_back_is_shown(tmp_path):
    again = [(t, log + 10**12, m) for t, log, m in drive(5)]
    text = inspected(tmp_path, drive(5) + again)
    assert 'warning: /camera/image_raw: the clock goes back 1 times' in text


def test_a_replayed_recording_and_one_not_at_real_time_are_warned_of(tmp_path):
    fast = [(t, LOG + (log - LOG) // 50, m) for t, log, m in drive(90)]
    found = warnings(inspected(tmp_path, fast))
    assert any('57.0 years from the time of receipt' in w for w in found)
    assert any('run about 50 times as fast as log time' in w for w in found)


def test_a_camera_that_never_changes_is_warned_of_and_one_that_moves_is_not(tmp_path):
    """A real recording had a robot drive about before a still picture."""
    rng = np.random.default_rng(0)
    noise = [(t, log, bag_image(START + log - LOG, picture(7) + rng.integers(0, 3, (64, 64, 3),
                                                                             dtype=np.uint8))
              if 'camera' in t else m) for t, log, m in drive(40)]
    still = [w for w in warnings(inspected(tmp_path, noise)) if 'the camera never changes' in w]
    assert len(still) == 1 and '/camera/image_raw' in still[0]
    assert 'never changes' not in inspect_bag(write_bag(tmp_path / 'moving', drive(40)))


def test_frames_outside_the_commands_and_messages_out_of_a_queue_are_warned_of(tmp_path):
    messages = [('/camera', LOG + k * TICK, bag_image(0, picture(k))) for k in range(60)]
    messages += [('/cmd_vel', LOG + 20 * TICK + max(k, 4) * TICK + min(k, 4) * 11_000,
                  twist(k / 100)) for k in range(20)]
    found = warnings(inspected(tmp_path, messages))
    assert any('24 frames come before the first command' in w or
               '25 frames come before the first command' in w for w in found)
    assert any('frames come after the last command' in w for w in found)
    assert any(w.startswith('warning: /cmd_vel: 4 messages came out of a queue') for w in found)


def test_several_connections_missing_stamps_and_sizes_that_change_are_warned_of(tmp_path):
    messages = drive(30)
    messages.append(('/cmd_vel', LOG + TICK // 2, command(0, 0.1)))
    messages.append(('/camera/image_raw', LOG + TICK // 2, bag_image(START + 1, picture(0, 32))))
    found = warnings(inspected(tmp_path, messages))
    assert any('/cmd_vel: 1 of 31 messages have no header stamp' in w for w in found)
    assert any('the size of the pictures changes: 64x64 rgb8, 32x32 rgb8' in w for w in found)


def trajectory(position):
    point = T['trajectory_msgs/msg/JointTrajectoryPoint'](
        np.array([position]), *(np.zeros(0) for _ in range(3)),
        T['builtin_interfaces/msg/Duration'](0, 20_000_000))
    return T['trajectory_msgs/msg/JointTrajectory'](header(0), ['elbow'], [point])


def test_what_commands_hold_and_the_planner_would_not_send_is_warned_of(tmp_path, capsys):
    """A planner fills in the spec's fields alone: an arm that was recorded with joint names and a
    time to reach them got neither, refused every command, and nothing had said so."""
    arm = [(topic, at, trajectory(m.twist.linear.x) if topic == '/cmd_vel' else m)
           for topic, at, m in drive(30)]
    write_bag(tmp_path / 'arm', arm)
    assert main(['inspect', str(tmp_path / 'arm'), '--spec']) == 0
    found = [w for w in warnings(capsys.readouterr().err) if 'the planner sends 0' in w]
    assert len(found) == 1 and found[0].startswith(
        'warning: /cmd_vel: points[0].time_from_start.nanosec is always 2e+07, joint_names has a '
        'text in the recording')
    assert 'the planner sends 0' not in inspected(tmp_path, drive(30))


def test_an_image_that_cannot_be_decoded_is_shown_with_the_reason(tmp_path):
    message = bag_image(START, picture(0), 'rgb8')
    message.encoding = '32FC1'
    text = inspected(tmp_path, [('/depth', START, message)])
    assert "'32FC1' is not known" in text


def test_a_folder_shows_each_of_its_bags(tmp_path):
    for name in 'ab':
        write_bag(tmp_path / name, drive(3))
    assert inspect_bag(tmp_path).count('messages,') == 2


def test_a_pattern_that_ends_in_a_slash_shows_folders_alone(tmp_path, capsys):
    """The command made a Path of it, which forgets the slash: a note beside the bags failed it."""
    for name in 'ab':
        write_bag(tmp_path / name, drive(3))
    (tmp_path / 'notes.txt').write_text('rainy')
    assert main(['inspect', f'{tmp_path}/*/']) == 0
    assert capsys.readouterr().out.count('messages,') == 2


def test_what_is_no_bag_is_refused(tmp_path):
    with pytest.raises(UserError, match='does not exist'):
        inspect_bag(tmp_path / 'nowhere')
