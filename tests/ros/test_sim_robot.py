"""The simulated robot over real topics: whose command moves time, and what it says of itself."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from geometry_msgs.msg import TwistStamped
from nav_msgs.msg import Odometry
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header
from std_srvs.srv import Trigger

from lewm_core.robot import RobotSpec
from lewm_core.types import UserError
from lewm_ros.decode import decode
from lewm_ros.fields import stamp_ns
from lewm_ros.sim_config import SimConfig
from lewm_ros.sim_events import schedule
from lewm_ros.sim_robot import SimRobot
from lewm_ros.sim_trials import Referee

_FILE = Path(__file__).with_name('sim_toys.py')
_SPEC = importlib.util.spec_from_file_location('sim_toys', _FILE)
sim_toys = importlib.util.module_from_spec(_SPEC)
sys.modules['sim_toys'] = sim_toys
_SPEC.loader.exec_module(sim_toys)

DEEP = QoSProfile(depth=5000)
LATCHED = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
TICK_NS = 100_000_000


class Ears(Node):
    """Hears all that the robot says; answers frames by `answer`, goals by their header."""

    def __init__(self, camera: type = Image, answer: Any = None, **kwargs: Any) -> None:
        super().__init__('ears', **kwargs)
        self.frames, self.odometry, self.commands, self.markers = [], [], [], []
        self.events, self.goals, self.clock, self.trials = [], [], [], []
        self.published: dict[str, int] = {}
        self.answer = answer
        add = self.create_subscription
        add(camera, 'camera/image_raw', self._on_frame, DEEP)
        add(Odometry, 'odom', self.odometry.append, DEEP)
        add(Header, 'episode', self.markers.append, DEEP)
        add(Header, 'sim_robot/event', self.events.append, DEEP)
        add(Clock, '/clock', self.clock.append, DEEP)
        add(Image, 'goal_image', self._on_goal, LATCHED)
        add(DiagnosticArray, 'sim_robot/trial', self._on_trial, LATCHED)
        add(DiagnosticArray, 'sim_robot/published', self._on_published, LATCHED)
        if answer is None:
            add(TwistStamped, 'cmd_vel', self.commands.append, DEEP)
        self._command = self.create_publisher(TwistStamped, 'cmd_vel', DEEP) if answer else None
        self._accepted = self.create_publisher(Header, 'planner_node/goal_accepted', LATCHED)

    def _on_frame(self, message: Any) -> None:
        self.frames.append(message)
        if self._command is None:
            return
        for value, late_ns in self.answer(len(self.frames) - 1, message):
            command = TwistStamped()
            stamp = stamp_ns(message) + late_ns
            command.header.stamp.sec, command.header.stamp.nanosec = divmod(stamp, 10**9)
            command.twist.linear.x = value
            self.commands.append(command)
            self._command.publish(command)

    def _on_goal(self, message: Image) -> None:
        self.goals.append(message)
        self._accepted.publish(message.header)

    def _on_trial(self, message: DiagnosticArray) -> None:
        self.trials += [{v.key: v.value for v in s.values} for s in message.status]

    def _on_published(self, message: DiagnosticArray) -> None:
        self.published = {s.name: int(s.values[0].value) for s in message.status}


def run(host: Any, tmp_path: Path, ears: Ears | None, *, camera: str = 'sensor_msgs/msg/Image',
        **parameters: Any) -> SimRobot:
    """The robot after it has come to its end, with all that it said received."""
    robot = host.add(SimRobot, world=sim_toys.Line(), parameters={
        'robot': str(sim_toys.write_spec(tmp_path, camera)), 'wait_subscribers': 1,
        'recorded_topic': '', **parameters})
    assert host.wait_for(lambda: robot.exit_code is not None, 60)
    assert robot.exit_code == 0
    if ears is not None:
        assert host.wait_for(lambda: len(ears.frames) == robot.drive.ticks)
    return robot


def positions(frames: list[Image]) -> list[int]:
    return [int(decode(f)[0].any(axis=-1).argmax()) for f in frames]


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


def test_every_driver_gets_the_same_tasks_and_none_is_solved_at_its_start(host, tmp_path):
    told = {}
    for policy in ('line', 'hold', 'random'):
        ears = host.add(Ears)
        robot = run(host, tmp_path, None, mode='trials', policy=policy, trials=6, trial_ticks=15)
        assert host.wait_for(lambda: len(ears.trials) == 6)
        told[policy] = ears.trials
        host.remove(robot)
        host.remove(ears)
    tasks = {p: [(t['start'], t['goal']) for t in trials] for p, trials in told.items()}
    assert tasks['line'] == tasks['hold'] == tasks['random']
    assert len(set(tasks['line'])) == 6
    assert all(t['reached'] == t['strict'] == 'true' for t in told['line'])
    assert all(t['reached'] == t['strict'] == 'false' for t in told['hold'])
    for trial in told['line']:
        path = json.loads(trial['path'])
        assert path[0] == pytest.approx(json.loads(trial['start']), abs=1e-4)
        x, goal = path[int(trial['ticks'])][0], json.loads(trial['goal'])
        assert abs(x - goal) <= 0.1 + 1e-4 < abs(path[int(trial['ticks']) - 1][0] - goal)
        assert trial['timeouts'] == trial['violations'] == '0'


def test_an_external_driver_takes_each_goal_and_then_drives_its_trial(host, tmp_path):
    def answer(_: int, message: Image) -> list[tuple[float, int]]:
        goal = positions([ears.goals[-1]])[0]
        return [(float(np.clip(goal - positions([message])[0], -1, 1)), 0)]
    ears = host.add(Ears, answer=answer)
    robot = run(host, tmp_path, ears, mode='trials', policy='external', trials=4, trial_ticks=15)
    assert host.wait_for(lambda: len(ears.trials) == 4)
    assert all(t['reached'] == 'true' for t in ears.trials)
    assert len(ears.goals) == 4 and len({stamp_ns(g) for g in ears.goals}) == 4
    assert len(ears.markers) == 4 and robot.drive.timeouts == 0


def test_a_goal_that_nobody_takes_ends_the_trials_with_an_error(host, tmp_path):
    robot = host.add(SimRobot, world=sim_toys.Line(), parameters={
        'robot': str(sim_toys.write_spec(tmp_path)), 'mode': 'trials', 'policy': 'external',
        'goal_timeout_s': 0.3})
    assert host.wait_for(lambda: robot.exit_code is not None)
    assert robot.exit_code == 1


def test_events_are_announced_with_the_first_frame_that_shows_them(host, tmp_path):
    ears = host.add(Ears)
    robot = run(host, tmp_path, ears, frames=400, policy='hold', normal_ticks=60, teleports=3,
                colours=2, event_gap_ticks=40)
    assert host.wait_for(lambda: len(ears.events) == 7)
    at = {stamp_ns(f): k for k, f in enumerate(ears.frames)}
    seen, brightness = positions(ears.frames), [int(decode(f).max()) for f in ears.frames]
    for event in ears.events:
        k = at[stamp_ns(event)]
        assert k >= 60
        if event.frame_id == 'teleport':
            assert seen[k] != seen[k - 1]
        else:
            dark = event.frame_id == 'colour'
            assert brightness[k - 1:k + 1] == ([255, 100] if dark else [100, 255])
    changes = np.flatnonzero(np.diff(seen) != 0) + 1
    assert sorted(changes) == sorted(at[stamp_ns(e)] for e in ears.events
                                     if e.frame_id == 'teleport')
    assert robot.world.teleports == 3


def test_a_schedule_keeps_its_distances_and_stays_inside_episodes():
    config = SimConfig(normal_ticks=200, teleports=10, colours=10, event_gap_ticks=40,
                       episode_frames=150, frames=100_000)
    events = schedule(config, np.random.default_rng(0))
    ticks = np.array([e.tick for e in events])
    assert len(events) == 30 and ticks[0] >= 200
    assert (np.diff(ticks) >= 32).all()
    assert (ticks % 150 >= 20).all()
    kinds = [e.kind for e in events]
    assert all(kinds[i + 1] == 'colour_end' and ticks[i] // 150 == ticks[i + 1] // 150
               for i, kind in enumerate(kinds) if kind == 'colour')
    assert len(set(ticks % 5)) == 5


@pytest.mark.parametrize('changed, words', [
    ({'frames': 300}, 'frames=300 is too short'),
    ({'frames': 0, 'episode_frames': 50}, 'episode_frames=50 is too short'),
    ({'mode': 'trials', 'policy': 'hold'}, 'set teleports:=0 and colours:=0'),
])
def test_an_impossible_schedule_is_refused(changed, words):
    config = SimConfig(**{'teleports': 5, 'colours': 5, 'event_gap_ticks': 40, **changed})
    with pytest.raises(UserError, match=words.replace('(', r'\(')):
        schedule(config, np.random.default_rng(0))


def test_a_visit_within_the_limit_is_judged_strictly_after_the_settling_and_no_later_one():
    stays = Referee(trial_ticks=5, settle_ticks=3)
    over = [stays.judge(True, tick >= 5) for tick in range(1, 9)]
    assert over == [False] * 7 + [True] and stays.strict and stays.reached_at == 1
    leaves = Referee(trial_ticks=5, settle_ticks=3)
    over = [leaves.judge(tick == 5, tick == 5) for tick in range(1, 9)]
    assert over == [False] * 7 + [True] and not leaves.strict and leaves.reached_at == 5
    late = Referee(trial_ticks=5, settle_ticks=3)
    over = [late.judge(tick > 5, tick > 5) for tick in range(1, 6)]
    assert over[-1] and late.reached_at is None and not late.strict


def test_the_robot_stays_until_the_recorder_has_counted_everything(host, tmp_path):
    ears = host.add(Ears)
    robot = host.add(SimRobot, world=sim_toys.Line(), parameters={
        'robot': str(sim_toys.write_spec(tmp_path)), 'wait_subscribers': 1, 'frames': 20,
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
    robot = host.add(SimRobot, world=sim_toys.Line(), parameters={
        'robot': str(sim_toys.write_spec(tmp_path)), 'wait_subscribers': 1, 'frames': 20,
        'recorded_topic': 'counts', 'record_timeout_s': 0.5})
    host.call(lambda: counts.publish(DiagnosticArray()))
    assert host.wait_for(lambda: robot.exit_code == 1)


def test_too_few_readers_end_the_drive_before_its_first_frame(host, tmp_path):
    robot = host.add(SimRobot, world=sim_toys.Line(), parameters={
        'robot': str(sim_toys.write_spec(tmp_path)), 'wait_subscribers': 1,
        'wait_timeout_s': 0.2})
    assert host.wait_for(lambda: robot.exit_code == 1)
    assert robot.drive.ticks == 0


def test_reset_begins_an_episode_and_start_lets_a_waiting_robot_go(host, tmp_path):
    ears = host.add(Ears)
    robot = host.add(SimRobot, world=sim_toys.Line(), parameters={
        'robot': str(sim_toys.write_spec(tmp_path)), 'frames': 0, 'speed': 20.0,
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


def test_a_compressed_camera_loses_nothing(host, tmp_path):
    ears = host.add(Ears, camera=CompressedImage)
    robot = run(host, tmp_path, ears, camera='sensor_msgs/msg/CompressedImage', frames=5,
                policy='hold')
    assert (decode(ears.frames[-1]) == robot.world.render()).all()


@pytest.mark.parametrize('parameters, words', [
    ({'robot': ''}, 'give a robot spec'),
    ({'mode': 'fly'}, "mode='fly' is not known"),
    ({'mode': 'trials'}, "policy='explore' follows no goal"),
    ({'policy': 'line'}, 'needs goals'),
    ({'speed': -1.0}, 'speed'),
    ({'world': 'NoSuchWorld-v0'}, 'NoSuchWorld-v0'),
])
def test_bad_parameters_are_refused_in_one_sentence(host, tmp_path, parameters, words):
    given = {'robot': str(sim_toys.write_spec(tmp_path)), **parameters}
    world = None if 'world' in parameters else sim_toys.Line()
    with pytest.raises(UserError, match=words) as error:
        host.add(SimRobot, world=world, parameters=given)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('old, new, words', [
    ('source_width: 16', 'source_width: 32', 'renders 16x16'),
    ('name: x', 'name: y', "choose among \\['x'\\]"),
    ('TwistStamped', 'Twist', 'no header'),
    ('min: -1.0, max: 1.0}', 'min: -1.0, max: 1.0}\n    - {path: twist.linear.y, min: 0, max: 1}',
     'takes actions of shape \\(1,\\)'),
])
def test_a_spec_that_is_not_the_worlds_is_refused(host, tmp_path, old, new, words):
    path = sim_toys.write_spec(tmp_path)
    text = path.read_text().replace(old, new)
    if new == 'Twist':
        text = text.replace('twist.linear', 'linear')
    path.write_text(text)
    RobotSpec.load(path)
    with pytest.raises(UserError, match=words):
        host.add(SimRobot, world=sim_toys.Line(), parameters={'robot': str(path),
                                                              'policy': 'external'})
