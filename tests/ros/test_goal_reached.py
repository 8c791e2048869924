"""`~/goal_reached` over real topics, and the robot at rest there."""

from __future__ import annotations

import dataclasses

import pytest
from planner_rig import START, Rig
from ros_toys import LATCHED, ToyAgent, ToyRobot, image
from std_msgs.msg import Bool

from lewm_core.checkpoint import update_metadata
from lewm_ros.planner_node import PlannerNode

TICK = 100_000_000


class Arriving(ToyAgent):
    """Its plans say that the goal is reached while `there`."""

    there = False

    def _plan(self, stamp_ns):
        return dataclasses.replace(super()._plan(stamp_ns), reached=self.there, distance=0.25)


def hear(host, robot):
    """What `~/goal_reached` says from now on, the latched word included."""
    heard = []
    host.call(lambda: robot.create_subscription(
        Bool, 'planner_node/goal_reached', lambda m: heard.append(m.data), LATCHED))
    return heard


def test_a_goal_is_said_to_be_reached_and_left_once_each_and_another_begins_anew(host, two_room):
    agent = Arriving(two_room)
    rig = Rig(host, agent).goal()
    heard = hear(host, rig.robot)
    assert host.wait_for(lambda: heard == [False])
    for there in (True, True, False, True):
        agent.there = there
        for _ in range(5):
            rig.frame()
    assert host.wait_for(lambda: heard == [False, True, False, True])
    assert rig.said('the goal is reached: driving to stay there')
    late = hear(host, rig.robot)  # the word is latched
    assert host.wait_for(lambda: late == [True])
    rig.goal(4, START + 1)
    assert host.wait_for(lambda: heard == [False, True, False, True, False])
    rig.call('clear_goal')
    assert host.wait_for(lambda: heard == [False, True, False, True, False, False])


@pytest.fixture
def arrived(host, two_room):
    """A planner that has reached its goal, and what `~/goal_reached` says from then on."""
    agent = Arriving(two_room)
    agent.there = True
    rig = Rig(host, agent).goal()
    heard = hear(host, rig.robot)
    rig.frame()
    assert host.wait_for(lambda: True in heard)
    return rig, heard


def test_a_stale_camera_stops_a_robot_that_has_reached_its_goal_and_is_what_is_said(
        host, arrived):
    rig, heard = arrived
    assert host.wait_for(lambda: rig.robot.values[-1] == (0.0, 0.0))
    assert rig.said('the camera is stale')
    # Nobody sees it any more, and it may be carried away.
    assert host.wait_for(lambda: heard[-1] is False)


def test_an_inactive_planner_says_of_no_goal_that_it_is_reached(host, arrived):
    rig, heard = arrived
    host.call(rig.node.trigger_deactivate)
    assert host.wait_for(lambda: heard[-1] is False)


@pytest.fixture
def drive(host, checkpoint):
    """A planner with the checkpoint and the robot around it, and what it hears."""
    def start(**parameters):
        robot = host.add(ToyRobot)
        heard = hear(host, robot)
        node = host.add(PlannerNode, parameters={
            'checkpoint': checkpoint, 'device': 'cpu', 'threads': 1, 'reliable_camera': True,
            'plan_deadline_s': 30.0, 'plan_when': 'now', **parameters})
        host.call(lambda: robot.goal.publish(image(START, 200)))
        assert host.wait_for(lambda: robot.accepted and robot.camera.get_subscription_count()
                             and node._commands.get_subscription_count())
        robot.heard.clear()
        for k, grey in enumerate([200] * 9 + [20] * 3):
            host.call(lambda: robot.camera.publish(image(START + k * TICK, grey)))
            assert host.wait_for(lambda: len(robot.heard) == k + 1)
        return node, robot.values, heard
    return start


def test_a_robot_rests_where_it_sees_its_goal_until_it_is_carried_away(host, checkpoint, drive):
    update_metadata(checkpoint, metrics={'goal_tolerance': {'tolerance': 1e-6}})
    node, sent, heard = drive(at_goal='rest')
    assert sent[3:9] == [(0.0, 0.0)] * 6
    assert all(value != (0.0, 0.0) for value in (*sent[:3], *sent[9:]))
    assert host.wait_for(lambda: heard == [False, True, False])
    assert node.diagnose()[2]['goal_tolerance'] == 1e-6


def test_an_older_checkpoint_drives_as_before_and_says_that_it_will_not_tell(host, drive, capfd):
    node, sent, heard = drive(at_goal='rest')
    assert all(value != (0.0, 0.0) for value in sent)
    assert heard == [False] and node.diagnose()[2]['goal_distance'] > 0
    assert capfd.readouterr().err.count('~/goal_reached stays false; train again') == 1


def test_a_tolerance_may_be_given_where_the_checkpoint_has_none(host, drive):
    _, sent, heard = drive(at_goal='rest', goal_tolerance=1e-6)
    assert sent[3:9] == [(0.0, 0.0)] * 6
    assert host.wait_for(lambda: heard == [False, True, False])
