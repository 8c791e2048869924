"""Planner, recorder and converter in one chain: action k is what was planned for frame k."""

from __future__ import annotations

from itertools import count

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from nav_msgs.msg import Odometry
from ros_toys import LATCHED, ToyRobot, image

from lewm_core.arrival import Arrival
from lewm_core.data import Dataset
from lewm_core.types import Frame, Plan
from lewm_ros.bags import convert
from lewm_ros.fields import set_stamp
from lewm_ros.planner_node import PlannerNode
from lewm_ros.recorder import Recorder

START, TICK = 1_000_000_000_000, 100_000_000
FRAMES = (33, 20)  # of each episode: the first ends within a block
FRAMESKIP = 5


class Scribe:
    """An agent that plans at random and writes down what it planned for which picture."""

    def __init__(self, spec):
        self.spec, self.frameskip = spec, FRAMESKIP
        self.planned, self.told, self.arrival = {}, [], Arrival(None)
        self._rng = np.random.default_rng(0)

    def warm_up(self):
        return 0.001

    def set_goal(self, pixels):
        pass

    def clear_goal(self):
        pass

    def reset(self):
        pass

    def commit(self, action):
        self.told.append((action.stamp_ns, action.values))

    def plan(self, frame: Frame) -> Plan:
        actions = self._rng.uniform(-0.4, 0.4, (2 * FRAMESKIP, 2))
        self.planned[int(frame.pixels[0, 0, 0])] = actions
        return Plan(frame.stamp_ns, actions, 0.5, 1, 0.001)


class Robot(ToyRobot):
    """The toy with odometry, and the counts of the one who records it."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.odometry = self.create_publisher(Odometry, 'odom', 10)
        self.statuses = []
        self.create_subscription(DiagnosticArray, 'recorder/recorded', self._on_recorded, LATCHED)

    def _on_recorded(self, message):
        self.statuses = message.status

    def matched(self):
        """Whether the planner and the recorder hear all of it, and are heard."""
        return (self.camera.get_subscription_count() == 2
                and self.marker.get_subscription_count() == 2
                and self.odometry.get_subscription_count() == 1
                and self.goal.get_subscription_count() and self.statuses
                and all(s.level == DiagnosticStatus.OK for s in self.statuses))

    def show(self, stamp, value):
        """Publishes one picture, and odometry that says the same."""
        odometry = Odometry()
        set_stamp(odometry.header.stamp, stamp)
        odometry.pose.pose.position.x = float(value)
        self.odometry.publish(odometry)
        self.camera.publish(image(stamp, value))

    def mark(self, stamp):
        """Publishes the start of an episode."""
        marker = image(stamp).header
        self.marker.publish(marker)


def drive(host, robot, per_tick):
    """The stamps and values of the pictures that are answered, all episodes in a row."""
    values, answered, stamp = count(), [], START
    for frames in FRAMES:
        host.call(lambda at=stamp: robot.mark(at))
        for k in range(frames * per_tick):
            value, at = next(values), stamp + k * TICK // per_tick
            host.call(lambda: robot.show(at, value))
            if k % per_tick == 0:
                answered.append((at, value))
                assert host.wait_for(lambda: len(robot.heard) == len(answered))
        stamp += (frames + 100) * TICK
    return answered


@pytest.mark.parametrize('per_tick', [1, 3])
def test_action_k_of_the_dataset_is_what_was_planned_for_frame_k(
        host, tmp_path, two_room, per_tick):
    agent, robot = Scribe(two_room), host.add(Robot)
    recorder = host.add(Recorder, parameters={'output': str(tmp_path / 'bag'),
                                              'robot': 'two_room'})
    planner = host.add(PlannerNode, agent=agent, parameters={
        'reliable_camera': True, 'queue_depth': 100, 'plan_deadline_s': 20.0})
    assert host.wait_for(lambda: planner.active)
    assert host.wait_for(lambda: robot.matched()
                         and planner._commands.get_subscription_count() == 2)
    host.call(lambda: robot.goal.publish(image(START, 0)))
    assert host.wait_for(lambda: robot.accepted)
    robot.heard.clear()  # the safe action before there was a goal

    answered = drive(host, robot, per_tick)
    images = sum(FRAMES) * per_tick
    assert host.wait_for(lambda: recorder.counts['/camera/image_raw'] == images
                         and recorder.counts['/cmd_vel'] >= len(answered))
    assert host.call(recorder.complete)[0]
    report = convert([tmp_path / 'bag'], two_room, tmp_path / 'data.h5')
    assert (report.frames, report.episodes, report.timeouts) == (sum(FRAMES), len(FRAMES), 0)

    dataset = Dataset.open(report.output)
    assert dataset.ep_len.tolist() == list(FRAMES)
    assert dataset.stamp_ns.tolist() == [at for at, _ in answered]
    shown = np.asarray(dataset.pixels)[:, 0, 0, 0].astype(int)
    assert shown.tolist() == dataset.states['x'].tolist() == [value for _, value in answered]
    expected = []
    for offset, frames in zip(dataset.ep_offset, dataset.ep_len):
        for k in range(frames):
            block = offset + k - k % FRAMESKIP  # the frame that this one's plan was made for
            expected.append(agent.planned[shown[block]][k % FRAMESKIP])
        expected[-1] = np.full(2, np.nan)  # no frame follows it
    np.testing.assert_array_equal(dataset.action, np.array(expected, np.float32))

    # What the agent takes for its past is what a model is trained on.
    rows = {at: row for at, row in zip(dataset.stamp_ns.tolist(), dataset.action)}
    told = [(values, rows[at]) for at, values in agent.told if np.isfinite(rows[at]).all()]
    assert len(told) > len(answered) - 3 * FRAMESKIP
    np.testing.assert_allclose(*(np.array(side) for side in zip(*told)), rtol=1e-6)
