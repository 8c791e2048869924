"""A command that is no finite number: nobody knows what the robot did by it."""

from __future__ import annotations

import numpy as np
import pytest
import yaml
from bag_toys import START, TICK, drive, with_latency, write_bag

from lewm_core.dataset import Dataset
from lewm_core.robot import RobotSpec
from lewm_ros.bags import convert
from lewm_ros.inspect_bag import inspect_bag, suggest_spec
from lewm_ros.steps import StepBuilder


def unplugged(frames, at, value):
    """A drive whose commands `at` are `value`."""
    messages = drive(frames)
    told = [message for topic, _, message in messages if topic == '/cmd_vel']
    for k in at:
        told[k].twist.linear.x = value
    return messages


@pytest.mark.parametrize('value', [float('nan'), float('-inf'), 1e39, -1e300])
def test_it_ends_its_episode_and_is_counted(tmp_path, two_room, caplog, value):
    """One such number, of a joystick that was unplugged, refused a whole recording."""
    bag = write_bag(tmp_path / 'bag', unplugged(60, [30], value))
    report = convert([bag], two_room, tmp_path / 'data.h5')
    dataset = Dataset.open(report.output)
    # The step from frame 30 to frame 31 is in no episode.
    assert dataset.ep_len.tolist() == [31, 29]
    commands = np.arange(60, dtype=np.float32) / 1000
    commands[[30, 59]] = np.nan  # as at each episode's last frame
    np.testing.assert_array_equal(dataset.action[:, 0], commands)
    (told,) = dataset.provenance['bags']
    assert (report.not_finite, told['not_finite'], told['timeouts']) == (1, 1, 0)
    assert '1 commands were not finite' in report.summary()
    assert f'twist.linear.x = {value} at stamp 1003.000000000 s' in caplog.text


def test_the_frames_of_a_row_of_them_are_left_out_and_counted(tmp_path, two_room):
    """Where the next timeout comes: it is no pause, in which the robot held still."""
    bag = write_bag(tmp_path / 'bag', unplugged(60, range(20, 30), float('nan')))
    report = convert([bag], two_room, tmp_path / 'data.h5')
    assert Dataset.open(report.output).ep_len.tolist() == [21, 30]
    assert (report.not_finite, report.uncommanded, report.timeouts) == (10, 9, 0)


@pytest.mark.parametrize('reduce, cut', [('last', [1, 2]), ('mean', [1, 2]), ('sum', [1])])
@pytest.mark.parametrize('hold', [False, True])
def test_an_action_that_it_is_part_of_is_none(two_room, reduce, cut, hold):
    """Commands twice a tick; that in the middle of tick 0 is not finite, and tick 1 has none."""
    builder = StepBuilder(with_latency(two_room, latency_s=0.0, reduce=reduce), hold=hold)
    events = [(0.0, 'frame'), (0.2, 0.1), (0.7, np.inf), (1.0, 'frame'), (2.0, 'frame'),
              (2.2, 0.1), (2.7, 0.2), (3.0, 'frame'), (3.1, 0.1)]
    steps = []
    for tick, what in events:
        stamp = START + round(tick * TICK)
        steps += (builder.frame(stamp, round(tick)) if what == 'frame'
                  else builder.command(stamp, np.array([what, 0.0])))
    steps += builder.flush()
    # `sum`: what was added in tick 0 is not known, but nothing was added in tick 1.
    found = [step.payload for step in steps if step.new_episode and not step.commanded]
    assert found == cut
    assert all(np.isfinite(s.action).all() for s in steps if s.action is not None)


@pytest.mark.parametrize('value', [float('nan'), -1e300])
def test_inspect_warns_of_it_and_can_suggest_a_spec(tmp_path, value):
    bag = write_bag(tmp_path / 'bag', unplugged(40, [3, 4], value))
    assert 'warning: /cmd_vel: 2 of 40 commands are not finite' in inspect_bag(bag)
    (field,) = RobotSpec.from_dict(yaml.safe_load(suggest_spec(bag)[0])).action.fields
    assert field.path == 'twist.linear.x' and (field.min, round(field.max, 2)) == (0.0, 0.04)
