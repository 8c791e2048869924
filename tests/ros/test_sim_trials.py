"""The simulated robot's tasks, its events, and the settings that it refuses."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from rclpy.node import Node
from sensor_msgs.msg import Image

from lewm_core.robot import RobotSpec
from lewm_core.types import UserError
from lewm_ros.decode import decode
from lewm_ros.fields import stamp_ns
from lewm_ros.sim_config import SimConfig
from lewm_ros.sim_events import schedule
from lewm_ros.sim_robot import SimRobot
from lewm_ros.sim_trials import Referee

sys.path.insert(0, str(Path(__file__).parent))

from sim_toys import DEEP, Ears, Line, positions, run, write_spec  # noqa: E402


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
    reader = host.add(Node, name='reader', node_name='reader')
    host.call(lambda: reader.create_subscription(Image, 'camera/image_raw', print, DEEP))
    robot = host.add(SimRobot, world=Line(), parameters={
        'robot': str(write_spec(tmp_path)), 'mode': 'trials', 'policy': 'external',
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


@pytest.mark.parametrize('parameters, words', [
    ({'robot': ''}, 'give a robot spec'),
    ({'mode': 'fly'}, "mode='fly' is not known"),
    ({'mode': 'trials'}, "policy='explore' follows no goal"),
    ({'policy': 'line'}, 'needs goals'),
    ({'speed': -1.0}, 'speed'),
    ({'world': 'NoSuchWorld-v0'}, 'NoSuchWorld-v0'),
])
def test_bad_parameters_are_refused_in_one_sentence(host, tmp_path, parameters, words):
    given = {'robot': str(write_spec(tmp_path)), **parameters}
    world = None if 'world' in parameters else Line()
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
    path = write_spec(tmp_path)
    text = path.read_text().replace(old, new)
    if new == 'Twist':
        text = text.replace('twist.linear', 'linear')
    path.write_text(text)
    RobotSpec.load(path)
    with pytest.raises(UserError, match=words):
        host.add(SimRobot, world=Line(),
                 parameters={'robot': str(path), 'policy': 'external'})
