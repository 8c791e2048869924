"""The surprise node over real topics, with a toy monitor that writes down what it is given."""

from __future__ import annotations

import json
import time
from types import SimpleNamespace

import numpy as np
import pytest
from ros_toys import image
from std_msgs.msg import Header
from surprise_rig import START, TICK, Rig, ToyMonitor

from lewm_core.types import UserError
from lewm_ros.fields import set_stamp, stamp_ns
from lewm_ros.surprise_node import SurpriseNode


@pytest.fixture
def monitor(two_room):
    return ToyMonitor(two_room)


def told(array):
    return {pair.key: pair.value for pair in array.status[0].values}


def test_each_frame_is_given_with_the_command_in_force_before_it(host, monitor):
    rig = Rig(host, monitor)
    rig.drive(4)
    expected = [(START + k * TICK, 0, None if k == 0 else (k - 1) / 100) for k in range(4)]
    assert rig.steps(5) == ['reset', *expected]


@pytest.mark.parametrize('first', ['frames', 'commands'])
def test_the_order_in_which_two_topics_come_does_not_matter(host, monitor, first):
    rig = Rig(host, monitor, grace_s=30.0)
    streams = [lambda: [rig.frame(k) for k in range(6)],
               lambda: [rig.command(k) for k in range(6)]]
    for stream in streams if first == 'frames' else streams[::-1]:
        stream()
    expected = [(START + k * TICK, 0, None if k == 0 else (k - 1) / 100) for k in range(6)]
    assert rig.steps(7) == ['reset', *expected]


def test_a_frame_whose_command_never_comes_is_scored_after_the_grace(host, monitor):
    rig = Rig(host, monitor, grace_s=0.1)
    rig.frame(0), rig.command(0), rig.frame(1)
    assert rig.steps(3)[2] == (START + TICK, 0, 0.0)


def test_scores_come_once_a_block_stamped_with_the_image(host, monitor):
    rig = Rig(host, monitor)
    rig.drive(21, grey=lambda k: k)
    assert host.wait_for(lambda: len(rig.bench.statuses) == 4 and len(rig.bench.scores) == 4)
    assert [stamp_ns(status) for status in rig.bench.statuses] == [
        START + 5 * k * TICK for k in range(1, 5)]
    assert [told(status)['score'] for status in rig.bench.statuses] == [
        repr(5 * k / 3) for k in range(1, 5)]
    assert [score.data for score in rig.bench.scores] == [5 * k / 3 for k in range(1, 5)]
    assert told(rig.bench.statuses[0])['alarm'] == 'false'


def test_an_alarm_is_one_alert_and_a_latched_flag_that_goes_down_again(host, monitor):
    rig = Rig(host, monitor)
    rig.drive(46, grey=lambda k: 200 if 10 <= k <= 15 else 0)
    assert host.wait_for(lambda: len(rig.bench.statuses) == 9)
    assert [told(s)['alarm'] for s in rig.bench.statuses].count('true') == 1
    assert [told(s)['exceeds'] for s in rig.bench.statuses].count('true') == 2
    assert host.wait_for(lambda: len(rig.bench.alerts) == 1)
    assert stamp_ns(rig.bench.alerts[0]) == START + 10 * TICK
    says = told(rig.bench.alerts[0])
    assert (says['kind'], says['cusum'], says['cusum_threshold']) == ('shift', repr(200 / 9),
                                                                      '12.0')
    assert 'for a while' in rig.bench.alerts[0].status[0].message
    assert host.wait_for(lambda: [f.data for f in rig.bench.flags] == [False, True, False])


def test_a_gap_and_an_episode_marker_reset_the_history(host, monitor):
    rig = Rig(host, monitor)
    rig.drive(3)
    header = Header()
    set_stamp(header.stamp, START + 3 * TICK)
    host.call(lambda: rig.bench.marker.publish(header))
    assert host.wait_for(lambda: rig.node._builder._selector._markers)
    rig.drive(3, first=3)
    rig.drive(3, first=20)
    given = rig.steps(12)
    assert [k for k, item in enumerate(given) if item == 'reset'] == [0, 4, 8]
    assert given[5] == (START + 3 * TICK, 0, None) and given[9] == (START + 20 * TICK, 0, None)


def test_a_burst_of_two_thousand_frames_loses_none(host, monitor):
    rig = Rig(host, monitor)

    def burst():
        for k in range(2000):
            rig.frame(k, k % 100)
            rig.command(k, value=0.0)

    host.call(burst)
    given = rig.steps(2001)
    assert [item[0] for item in given[1:]] == [START + k * TICK for k in range(2000)]
    assert host.wait_for(lambda: len(rig.bench.statuses) == 399)


def test_a_command_that_is_not_finite_begins_a_new_history_and_is_said(host, monitor):
    """It was left out, as if the robot had gone on with the command before; a recording with
    one was refused. Nobody knows what a robot does by it."""
    rig = Rig(host, monitor)
    rig.drive(2)
    rig.frame(2), rig.command(2, np.nan), rig.frame(3), rig.command(3), rig.frame(4)
    rig.command(4)
    assert rig.steps(7) == ['reset', *((START + k * TICK, 0, (k - 1) / 100 if k else None)
                                       for k in range(3)),
                            'reset', (START + 3 * TICK, 0, None), (START + 4 * TICK, 0, 0.03)]
    assert rig.node._count['commands_refused'] == 1


def test_an_image_of_the_wrong_size_resets_the_history_and_is_said(host, monitor):
    rig = Rig(host, monitor)
    rig.drive(2)
    rig.frame(2, width=32), rig.command(2)
    rig.drive(2, first=3)
    given = rig.steps(6)
    assert given[3] == 'reset' and given[4][0] == START + 3 * TICK
    assert rig.node._count['images_refused'] == 1


def test_recalibration_counts_all_that_was_published_before_the_call(host, monitor):
    rig = Rig(host, monitor)
    assert 'no calibration' in rig.node.diagnose()[1]
    rig.drive(101)
    assert rig.call('recalibrate').success
    assert monitor.calibration.blocks == 20
    assert host.wait_for(lambda: rig.node.diagnose()[2].get('threshold') == 100.0)


def test_a_recalibration_with_too_little_is_refused_with_the_reason(host, monitor):
    rig = Rig(host, monitor)
    answer = rig.call('recalibrate')
    assert not answer.success and 'at least 3 are needed' in answer.message


def test_clearing_the_scores_begins_a_new_count(host, monitor):
    rig = Rig(host, monitor)
    rig.drive(31)
    assert host.wait_for(lambda: len(rig.bench.statuses) == 6)
    assert rig.call('clear_scores').success
    assert not rig.call('recalibrate').success


def test_a_calibration_is_written_to_its_file_whole(host, monitor, tmp_path):
    rig = Rig(host, monitor, calibration_file=str(tmp_path / 'calibration.json'))
    rig.drive(31)
    answer = rig.call('recalibrate')
    assert answer.success and 'calibration.json' in answer.message
    assert json.loads((tmp_path / 'calibration.json').read_text()) == {'blocks': 6}


def test_a_camera_that_has_gone_is_said(host, monitor):
    rig = Rig(host, monitor)
    rig.drive(2)
    assert host.wait_for(lambda: 'no new image' in rig.node.diagnose()[1])


def test_an_inactive_node_scores_nothing_and_an_active_one_starts_afresh(host, monitor):
    rig = Rig(host, monitor)
    rig.drive(3)
    rig.steps(4)
    host.call(rig.node.trigger_deactivate)
    rig.drive(3, first=3)
    host.call(rig.node.trigger_activate)
    before = len(monitor.given)
    rig.drive(2, first=6)
    assert host.wait_for(lambda: len(monitor.given) >= before + 3)
    assert ('reset' in monitor.given[before - 1:]
            and (START + 6 * TICK, 0, None) in monitor.given[before:])
    for step in ('deactivate', 'cleanup', 'configure', 'activate'):
        host.call(getattr(rig.node, f'trigger_{step}'))
    assert rig.node.active


def test_remaps_and_a_namespace_move_every_topic(host, monitor):
    remaps = {'camera/image_raw': '/eye', 'cmd_vel': 'base'}
    rig = Rig(host, monitor, remaps=remaps, namespace='left')
    rig.drive(6)
    assert host.wait_for(lambda: rig.bench.statuses)
    assert rig.bench.statuses[0].status[0].name == 'left/surprise_node'


def test_commands_without_a_stamp_are_ordered_by_when_they_were_sent(host, monitor):
    rig = Rig(host, monitor, grace_s=0.1)
    rig.command(0, 0.1, stamp=0)
    deadline = time.time_ns()
    for k in range(3):
        host.call(lambda: rig.bench.camera.publish(image(START + k * TICK)))
    rig.steps(2)
    first = next(item for item in monitor.given if item != 'reset')
    assert abs(first[0] - deadline) < 60_000_000_000  # the source's clock, not the header's


def test_a_node_without_a_checkpoint_says_what_is_missing(host):
    assert host.add(SurpriseNode).exit_code == 1


def test_a_checkpoint_is_scored_calibrated_and_remembers_its_calibration(
        host, two_room, checkpoint, tmp_path):
    from lewm_core.checkpoint import load_checkpoint
    from lewm_core.surprise import SurpriseMonitor
    parameters = {'checkpoint': checkpoint, 'device': 'cpu', 'threads': 1,
                  'save_calibration': True,
                  'calibration_file': str(tmp_path / 'calibration.json')}
    rig = Rig(host, ToyMonitor(two_room), checkpoint=checkpoint)  # for its bench alone
    host.remove(rig.node)
    rig.node = node = host.add(SurpriseNode, parameters={**parameters, 'reliable_camera': True})
    assert node.active and node._monitor.calibration is None
    assert host.wait_for(lambda: rig.bench.camera.get_subscription_count() == 1
                         and rig.bench.command.get_subscription_count() == 1
                         and node._topics._status.get_subscription_count() == 1)
    rng = np.random.default_rng(0)
    greys = rng.integers(0, 255, 400)
    host.call(lambda: rig.drive(400, grey=lambda k: int(greys[k])))
    answer = rig.call('recalibrate')
    assert answer.success, answer.message
    assert host.wait_for(lambda: len(rig.bench.statuses) == 133)

    # The same numbers as the monitor alone, and the same threshold for whoever loads them.
    alone = SurpriseMonitor(load_checkpoint(checkpoint))
    scores = []
    for k in range(400):
        pixels = np.full((64, 64, 3), greys[k], np.uint8)
        found = alone.update(SimpleNamespace(stamp_ns=k, pixels=pixels),
                             None if k == 0 else np.array([(k - 1) / 100, 0.0]))
        scores += [] if found is None else [found.score]
    np.testing.assert_allclose([float(told(s)['score']) for s in rig.bench.statuses], scores,
                               rtol=1e-5)
    threshold = node._monitor.calibration.threshold
    assert alone.calibration.threshold == pytest.approx(threshold)
    again = host.add(SurpriseNode, name='again', parameters={
        **parameters, 'promised_per_hour': 30.0})
    assert again._monitor.calibration.threshold < threshold


def test_a_promise_is_a_parameter_with_a_range(host, monitor):
    node = host.add(SurpriseNode, monitor=monitor)
    described = node.describe_parameter('promised_per_hour')
    assert 'false alarms' in described.description and described.floating_point_range
    with pytest.raises(UserError, match='promised_per_hour is -1.0'):
        host.add(SurpriseNode, monitor=monitor, parameters={'promised_per_hour': -1.0})
