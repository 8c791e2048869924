"""The planner node with a real checkpoint: an untrained model, for it must only be consistent."""

from __future__ import annotations

import dataclasses
import threading

import numpy as np
import pytest
from ros_toys import ToyRobot, image

import lewm_core.threads
from lewm_core.config import PlannerConfig
from lewm_ros.planner_node import PlannerNode
from lewm_ros.surprise_node import SurpriseNode

TICK = 100_000_000
START = 1_000_000_000_000


def _planner(host, checkpoint, **parameters):
    return host.add(PlannerNode, parameters={
        'checkpoint': checkpoint, 'device': 'cpu', 'threads': 1, 'reliable_camera': True,
        'plan_deadline_s': 30.0, **parameters})


def test_the_checkpoints_agent_drives_within_the_limits(host, two_room, checkpoint):
    robot = host.add(ToyRobot)
    node = _planner(host, checkpoint)
    assert node.active and node.diagnose()[2]['warm_up_ms'] > 0
    host.call(lambda: robot.goal.publish(image(START, 200)))
    assert host.wait_for(lambda: robot.accepted and robot.camera.get_subscription_count()
                         and node._commands.get_subscription_count())
    robot.heard.clear()
    for k in range(9):
        host.call(lambda: robot.camera.publish(image(START + k * TICK, 20 * k)))
        assert host.wait_for(lambda: len(robot.heard) == k + 1)
    assert [stamp for stamp, *_ in robot.heard] == [START + k * TICK for k in range(9)]
    values = np.array(robot.values)
    assert (values >= two_room.low - 1e-6).all() and (values <= two_room.high + 1e-6).all()
    assert np.ptp(values, axis=0).max() > 0
    assert node._driver.count['plans'] == 3 and node._driver.fault is None


def test_the_checkpoints_search_is_used_but_for_what_a_user_sets(host, checkpoint):
    node = _planner(host, checkpoint, **{'planner.iterations': 3})
    assert node._agent.planner == PlannerConfig(samples=16, elites=4, iterations=3, horizon=2)
    assert node.get_parameter('planner.samples').value == 16


def test_a_checkpoint_for_another_robot_is_refused(host, two_room, checkpoint, tmp_path, capfd):
    import yaml
    other = dataclasses.replace(two_room, name='kart')
    (tmp_path / 'kart.yaml').write_text(yaml.safe_dump(other.to_dict()))
    node = _planner(host, checkpoint, robot=str(tmp_path / 'kart.yaml'))
    assert node.exit_code == 1 and not node.active
    said = capfd.readouterr().err
    assert "first differing in name ('kart' here, 'two_room' there)" in said
    assert other.fingerprint() in said and two_room.fingerprint() in said


@pytest.mark.parametrize('parameters, said', [
    ({'device': 'tpu:9'}, 'tpu:9'),
    ({'planner.context': 9}, 'planner.context=9'),
    ({'goal': 'nowhere.png'}, "goal='nowhere.png' is not a file"),
    ({'robot': 'no_such_robot'}, 'no_such_robot')])
def test_what_does_not_fit_the_checkpoint_is_one_sentence(host, checkpoint, capfd, parameters,
                                                          said):
    node = _planner(host, checkpoint, **parameters)
    assert node.exit_code == 1
    heard = capfd.readouterr().err
    assert said in heard and 'Traceback' not in heard


@pytest.mark.parametrize('threads, measured', [(0, 1), (1, 0)])
def test_the_number_of_threads_is_measured_unless_it_is_given(
        host, checkpoint, monkeypatch, threads, measured):
    seen = []
    monkeypatch.setattr(lewm_core.threads, 'use_fastest',
                        lambda seconds: seen.append(threading.current_thread()) or seconds())
    node = _planner(host, checkpoint, threads=threads)
    assert node.active and len(seen) == measured
    assert node._worker._thread in seen or not measured  # where plans are made


@pytest.mark.parametrize('threads, measured', [(0, 1), (1, 0)])
def test_so_is_that_of_the_surprise_node(host, checkpoint, monkeypatch, threads, measured):
    seen = []
    monkeypatch.setattr(lewm_core.threads, 'use_fastest',
                        lambda seconds: seen.append(1) or seconds())
    node = host.add(SurpriseNode, parameters={'checkpoint': checkpoint, 'device': 'cpu',
                                              'threads': threads})
    assert node.active and len(seen) == measured
