"""The simulated robot over real topics: whose command moves time, and what it says of itself."""

from __future__ import annotations

import math
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.node import Node
from sensor_msgs.msg import CompressedImage, Image
from std_srvs.srv import Trigger

from lewm_ros.decode import decode
from lewm_ros.fields import stamp_ns
from lewm_ros.sim_robot import SimRobot

sys.path.insert(0, str(Path(__file__).parent))

from sim_toys import DEEP, LATCHED, TICK_NS, Ears, Line, positions, run, write_spec  # noqa: E402


def test_an_own_drive_follows_the_commands_that_it_publishes_with_their_frames_stamp(
        host, tmp_path):
    ears = host.add(Ears)
    robot = run(host, tmp_path, ears, frames=300, episode_frames=100)
    assert host.wait_for(lambda: len(ears.commands) == 300 and len(ears.odometry) == 300)
    assert [stamp_ns(c) for c in ears.commands] == [stamp_ns(f) for f in ears.frames]
    assert [stamp_ns(o) for o in ears.odometry] == [stamp_ns(f) for f in ears.frames]
    assert [c.twist.linear.x for c in ears.commands] == robot.world.applied
    x = [o.pose.pose.position.x for o in ears.odometry]
    for k in range(99):
        expected = np.clip(x[k] + 0.1 * ears.commands[k].twist.linear.x, 0, 1)
        assert x[k + 1] == pytest.approx(expected)
    assert positions(ears.frames) == [round(15 * v) for v in x]
    assert host.wait_for(lambda: ears.published.get('/camera/image_raw') == 300)
    assert ears.published == {'/camera/image_raw': 300, '/odom': 300, '/episode': 3,
                              '/cmd_vel': 300}


def test_each_episode_is_marked_and_the_clock_jumps_further_than_the_longest_gap(host, tmp_path):
    ears = host.add(Ears)
    run(host, tmp_path, ears, frames=50, episode_frames=20)
    stamps = [stamp_ns(f) for f in ears.frames]
    assert stamps[0] == 1000 * 10**9
    gaps = np.diff(stamps)
    assert [k + 1 for k in np.flatnonzero(gaps != TICK_NS)] == [20, 40]
    assert (gaps[gaps != TICK_NS] > 5 * TICK_NS).all()
    assert host.wait_for(lambda: len(ears.markers) == 3)
    assert [stamp_ns(m) for m in ears.markers] == [stamps[0], stamps[20], stamps[40]]


def test_lock_step_moves_on_only_with_the_command_that_echoes_the_frame(host, tmp_path):
    def answer(k: int, _: Any) -> list[tuple[float, int]]:
        # A command for another frame first: it must move neither time nor the robot.
        return [(-1.0, -TICK_NS), (0.001 * k, 0)]
    ears = host.add(Ears, answer=answer)
    robot = run(host, tmp_path, ears, policy='external', frames=200)
    assert robot.world.applied == pytest.approx([0.001 * k for k in range(200)])
    assert robot.drive.timeouts == robot.drive.violations == 0


def test_a_silent_driver_is_counted_and_its_last_command_holds_until_the_specs_timeout(
        host, tmp_path):
    ears = host.add(Ears, answer=lambda k, _: [(0.5, 0)] if k == 0 else [])
    robot = run(host, tmp_path, ears, policy='external', frames=9, lockstep_timeout_s=0.2)
    assert robot.drive.timeouts == 8
    assert robot.world.applied == [0.5] * 6 + [0.0] * 3


def test_commands_outside_the_limits_are_counted_clamped_and_never_followed_when_not_finite(
        host, tmp_path):
    given = [1.0, 1.5, -7.0, math.nan, math.inf, 0.25]
    ears = host.add(Ears, answer=lambda k, _: [(given[k], 0)])
    robot = run(host, tmp_path, ears, policy='external', frames=6)
    assert robot.world.applied == [1.0, 1.0, -1.0, 0.0, 0.0, 0.25]
    assert robot.drive.violations == 4


def test_without_lock_step_the_newest_command_is_followed_whatever_its_stamp(host, tmp_path):
    ears = host.add(Ears, answer=lambda k, _: [(-1.0, 5), (0.001 * k, 7)])
    robot = run(host, tmp_path, ears, policy='external', frames=40, lockstep=False, speed=2.0)
    assert set(robot.world.applied) <= {0.0, -1.0, *(0.001 * k for k in range(40))}
    assert robot.drive.timeouts == 0
    assert 0.0 in np.diff([0.0, *robot.world.applied]) or max(robot.world.applied) > 0
    assert robot.realtime_factor() < 2.2


def test_the_clock_topic_carries_each_frames_stamp(host, tmp_path):
    ears = host.add(Ears)
    robot = run(host, tmp_path, ears, frames=30, speed=20.0, publish_clock=True)
    assert host.wait_for(lambda: len(ears.clock) == 30)
    clock = [m.clock.sec * 10**9 + m.clock.nanosec for m in ears.clock]
    assert clock == [stamp_ns(f) for f in ears.frames]
    assert robot.realtime_factor() < 22


def test_the_robot_stays_until_the_recorder_has_counted_everything(host, tmp_path):
    ears = host.add(Ears)
    robot = host.add(SimRobot, world=Line(), parameters={
        'robot': str(write_spec(tmp_path)), 'wait_subscribers': 1, 'frames': 20,
        'recorded_topic': 'counts'})
    counts = host.call(lambda: ears.create_publisher(DiagnosticArray, 'counts', LATCHED))

    def count(n: int) -> None:
        status = [DiagnosticStatus(name=name, values=[KeyValue(key='count', value=str(n))])
                  for name in ('/camera/image_raw', '/odom', '/cmd_vel', 'episode')]
        host.call(lambda: counts.publish(DiagnosticArray(status=status)))

    assert host.wait_for(lambda: len(ears.frames) == 20)
    count(19)
    assert host.wait_for(lambda: robot.topics.missing() == {
        '/camera/image_raw': 1, '/odom': 1, '/cmd_vel': 1})
    assert robot.exit_code is None
    count(20)
    assert host.wait_for(lambda: robot.exit_code == 0)


def test_a_recorder_that_lacks_messages_is_reported(host, tmp_path):
    ears = host.add(Ears)
    counts = host.call(lambda: ears.create_publisher(DiagnosticArray, 'counts', LATCHED))
    robot = host.add(SimRobot, world=Line(), parameters={
        'robot': str(write_spec(tmp_path)), 'wait_subscribers': 1, 'frames': 20,
        'recorded_topic': 'counts', 'record_timeout_s': 0.5})
    host.call(lambda: counts.publish(DiagnosticArray()))
    assert host.wait_for(lambda: robot.exit_code == 1)


def test_too_few_readers_end_the_drive_before_its_first_frame(host, tmp_path):
    robot = host.add(SimRobot, world=Line(), parameters={
        'robot': str(write_spec(tmp_path)), 'wait_subscribers': 1,
        'wait_timeout_s': 0.2})
    assert host.wait_for(lambda: robot.exit_code == 1)
    assert robot.drive.ticks == 0


def test_only_the_topics_named_wait_for_readers(host, tmp_path):
    reader = host.add(Node, name='reader', node_name='reader')
    frames: list[Image] = []
    host.call(lambda: reader.create_subscription(Image, 'camera/image_raw', frames.append, DEEP))
    run(host, tmp_path, None, frames=5, wait_topics='camera/image_raw')
    assert host.wait_for(lambda: len(frames) == 5)


def test_reset_begins_an_episode_and_start_lets_a_waiting_robot_go(host, tmp_path):
    ears = host.add(Ears)
    robot = host.add(SimRobot, world=Line(), parameters={
        'robot': str(write_spec(tmp_path)), 'frames': 0, 'speed': 20.0,
        'wait_for_start': True})

    def call(service: str) -> Any:
        client = host.call(lambda: ears.create_client(Trigger, f'sim_robot/{service}'))
        assert host.wait_for(client.service_is_ready)
        future = host.call(lambda: client.call_async(Trigger.Request()))
        assert host.wait_for(future.done)
        return future.result()

    assert call('start').success
    assert host.wait_for(lambda: len(ears.frames) > 5)
    assert not call('start').success
    assert call('reset').success
    assert host.wait_for(lambda: len(ears.markers) == 2)
    host.remove(robot)


class Restless(Line):
    """A world that ends an episode after every seven ticks."""

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict]:
        """Gymnasium's five."""
        return *super().step(action)[:3], len(self.applied) % 7 == 0, {}

    def reset(self, **kwargs: Any) -> Any:
        """A new episode, in the usual colours."""
        self.colour = 255
        return super().reset(**kwargs)

    def set_colour(self, kind: Any = None) -> str:
        """Darker."""
        self.colour = 100
        return 'all'


def test_a_colour_stays_when_the_world_ends_the_episode_meanwhile(host, tmp_path):
    ears = host.add(Ears)
    run(host, tmp_path, ears, world=Restless(), frames=60, colours=1, event_gap_ticks=20)
    assert host.wait_for(lambda: len(ears.markers) == 9 and len(ears.events) == 2)
    begin, end = (stamp_ns(event) for event in ears.events)
    dark = [decode(frame).max() == 100 for frame in ears.frames]
    assert dark == [begin <= stamp_ns(frame) < end for frame in ears.frames]
    assert sum(dark) >= 14


def test_a_compressed_camera_loses_nothing(host, tmp_path):
    ears = host.add(Ears, camera=CompressedImage)
    robot = run(host, tmp_path, ears, camera='sensor_msgs/msg/CompressedImage', frames=5,
                policy='hold')
    assert (decode(ears.frames[-1]) == robot.world.render()).all()


def test_the_robot_runs_ahead_of_its_recorder_by_less_than_the_depth_of_its_queues(
        host, tmp_path):
    ears = host.add(Ears)
    counts = host.call(lambda: ears.create_publisher(DiagnosticArray, 'counts', LATCHED))

    def count(n: int) -> None:
        status = [DiagnosticStatus(name=name, values=[KeyValue(key='count', value=str(n))])
                  for name in ('/camera/image_raw', '/odom', '/cmd_vel', '/episode')]
        host.call(lambda: counts.publish(DiagnosticArray(status=status)))

    count(0)
    robot = host.add(SimRobot, world=Line(), parameters={
        'robot': str(write_spec(tmp_path)), 'wait_subscribers': 1, 'frames': 1000,
        'recorded_topic': 'counts', 'queue_depth': 200})
    assert host.wait_for(lambda: len(ears.frames) >= 200)
    assert robot.drive.ticks == 200
    count(200)
    assert host.wait_for(lambda: len(ears.frames) >= 400)
    assert robot.drive.ticks == 400
    count(1000)
    assert host.wait_for(lambda: robot.exit_code == 0)


def test_an_external_driver_of_a_drive_is_given_goals_on_the_way(host, tmp_path):
    ears = host.add(Ears, answer=lambda k, _: [(0.1, 0)])
    robot = run(host, tmp_path, ears, policy='external', frames=50, goal_ticks=20)
    assert len(ears.goals) == 3 and robot.drive.timeouts == 0
    assert {decode(goal).shape for goal in ears.goals} == {(16, 16, 3)}


def test_a_process_ends_cleanly_on_a_signal_and_says_what_was_wrong_with_a_parameter(
        host, child_environment, tmp_path):
    def start(*given: str) -> subprocess.Popen:
        return subprocess.Popen([sys.executable, '-m', 'lewm_ros.sim_robot', '--ros-args', *given],
                                env=child_environment, stderr=subprocess.PIPE, text=True)
    ears = host.add(Ears)
    child = start('-p', 'robot:=two_room', '-p', 'frames:=0', '-p', 'speed:=5.0')
    assert host.wait_for(lambda: len(ears.frames) > 3, 30)
    child.send_signal(signal.SIGINT)
    assert 'Traceback' not in child.communicate(timeout=30)[1]
    assert child.returncode == 0
    child = start('-p', 'robot:=three_room')
    error = child.communicate(timeout=30)[1]
    assert child.returncode == 1 and 'three_room' in error and 'Traceback' not in error
