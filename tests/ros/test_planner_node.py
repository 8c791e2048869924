"""The planner node over real topics, with a toy agent and with its checks of the checkpoint."""

from __future__ import annotations

import dataclasses
import threading

import cv2
import numpy as np
import pytest
from planner_rig import START, TICK, Rig, idle
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.qos import QoSProfile, ReliabilityPolicy
from ros_toys import LATCHED, ToyAgent, ToyRobot, image
from rosgraph_msgs.msg import Clock
from std_msgs.msg import Float64, Header
from trajectory_msgs.msg import JointTrajectory

from lewm_core.types import UserError
from lewm_ros.planner_node import PlannerNode
from lewm_ros.serving import serving_spec


@pytest.fixture
def agent(two_room):
    return ToyAgent(two_room)


def test_each_frame_is_answered_with_one_command_that_echoes_its_stamp(host, agent):
    rig = Rig(host, agent).goal()
    heard = [rig.frame() for _ in range(12)]
    assert heard == [[(START + k * TICK, (k // 5 + 1) / 100, k % 5 / 100)] for k in range(12)]
    assert agent.goals == [9]


def test_without_a_goal_the_safe_action_is_sent_once_and_then_nothing(host, agent):
    rig = Rig(host, agent)
    assert rig.robot.values == [(0.0, 0.0)]
    assert idle(rig, host) == []


def test_warming_up_is_done_in_the_thread_that_plans(host, agent):
    """What a search is recorded with, and what libraries set up, belongs to a thread."""
    threads = []
    warm_up, plan = agent.warm_up, agent.plan
    agent.warm_up = lambda: (threads.append(threading.get_ident()), warm_up())[1]
    agent.plan = lambda frame: (threads.append(threading.get_ident()), plan(frame))[1]
    Rig(host, agent).goal().frame()
    assert len(threads) == 2 and len(set(threads)) == 1 and threading.get_ident() not in threads


def test_when_warming_up_fails_the_node_stays_unconfigured_and_can_try_again(host, agent):
    warm_up = agent.warm_up

    def fail():
        raise UserError('the model is broken; train again')
    agent.warm_up = fail
    node = host.add(PlannerNode, agent=agent, parameters={'autostart': False})
    assert host.call(node.trigger_configure) is TransitionCallbackReturn.FAILURE
    assert not node.configured
    agent.warm_up = warm_up
    assert host.call(node.trigger_configure) is TransitionCallbackReturn.SUCCESS


def test_a_goal_is_accepted_by_echoing_its_header(host, agent):
    rig = Rig(host, agent).goal(stamp=START + 7)
    assert len(rig.robot.accepted) == 1
    assert rig.robot.accepted[0].stamp.nanosec == 7


@pytest.mark.parametrize('qos', [
    LATCHED, QoSProfile(depth=1),
    QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)])
def test_a_goal_is_heard_once_from_latched_volatile_and_best_effort_publishers(host, agent, qos):
    rig = Rig(host, agent, goal_qos=qos).goal(3).goal(4, stamp=START + 1)
    rig.frame()
    assert agent.goals == [3, 4] and len(rig.robot.accepted) == 2


def test_a_goal_that_is_heard_is_not_warned_about(host, agent, capfd):
    """It said "No messages will be received from it", for one of its three subscriptions, of each
    publisher of goals that was not latched: and took the goal."""
    rig = Rig(host, agent, goal_qos=QoSProfile(depth=1)).goal(3)
    rig.frame()
    assert agent.goals == [3] and 'No messages will be received' not in capfd.readouterr().err


def test_a_goal_latched_before_the_planner_came_is_taken(host, agent):
    robot = host.add(ToyRobot)
    host.call(lambda: robot.goal.publish(image(START, 8)))
    host.add(PlannerNode, agent=agent)
    assert host.wait_for(lambda: robot.accepted) and agent.goals == [8]


def test_a_goal_of_another_size_is_refused_and_the_former_one_stays(host, agent):
    rig = Rig(host, agent).goal()
    host.call(lambda: rig.robot.goal.publish(image(START + 1, 5, width=32, height=32)))
    assert host.wait_for(lambda: rig.node._driver.count['goals_refused'] == 1)
    assert rig.frame()[0][1] == 0.01 and agent.goals == [9]


def test_clearing_the_goal_sends_the_safe_action_once_and_then_nothing(host, agent):
    rig = Rig(host, agent).goal()
    rig.frame()
    assert rig.call('clear_goal').success
    assert host.wait_for(lambda: rig.robot.values[-1] == (0.0, 0.0))
    assert idle(rig, host) == [] and rig.robot.values.count((0.0, 0.0)) == 2
    assert 'there was no goal' in rig.call('clear_goal').message


def test_the_current_image_can_become_the_goal(host, agent):
    rig = Rig(host, agent)
    assert not rig.call('set_goal').success
    rig.frame(wait=False, value=77)
    assert host.wait_for(lambda: rig.node._newest is not None)
    assert rig.call('set_goal').success
    assert host.wait_for(lambda: agent.goals == [77])
    assert rig.frame()[0][1] == 0.01


def test_the_goal_may_be_an_image_file(host, agent, tmp_path):
    cv2.imwrite(str(tmp_path / 'goal.png'), np.full((64, 64, 3), 21, np.uint8))
    rig = Rig(host, agent, parameters={'goal': str(tmp_path / 'goal.png')})
    assert host.wait_for(lambda: rig.node._driver.has_goal) and agent.goals == [21]
    rig.frame()     # the safe action may still be under way, from before the goal was taken
    assert host.wait_for(lambda: rig.robot.values[-1][0] == 0.01)


def test_deactivating_sends_the_safe_action_and_then_nothing(host, agent):
    rig = Rig(host, agent).goal()
    rig.frame()
    host.call(rig.node.trigger_deactivate)
    assert host.wait_for(lambda: rig.robot.values[-1] == (0.0, 0.0))
    assert idle(rig, host) == []
    host.call(rig.node.trigger_activate)
    assert rig.frame()[-1][1] == 0.02


def test_a_node_cleaned_up_and_configured_again_drives_again(host, agent):
    rig = Rig(host, agent).goal()
    rig.frame()
    for step in ('deactivate', 'cleanup', 'configure', 'activate'):
        host.call(getattr(rig.node, f'trigger_{step}'))
    assert rig.matched()
    rig.goal(4, START + 1)
    assert rig.frame()[-1][1] == 0.02


def test_a_dry_run_publishes_to_the_preview_alone(host, agent):
    rig = Rig(host, agent, parameters={'dry_run': True},
              robot={'action_topic': 'planner_node/command_preview'}).goal()
    assert rig.frame()[0][1] == 0.01
    assert rig.robot.count_publishers('cmd_vel') == 0


def test_remaps_and_a_namespace_move_every_topic(host, agent):
    robot = {'namespace': 'left', 'remaps': {'cmd_vel': '/base/velocity',
                                             'camera/image_raw': '/eye'}}
    rig = Rig(host, agent, robot=robot, namespace='left',
              remaps={'cmd_vel': '/base/velocity', 'camera/image_raw': '/eye'}).goal()
    assert rig.frame()[0][1] == 0.01
    assert rig.node._commands.topic_name == '/base/velocity'


def test_an_episode_marker_resets_the_agent_before_its_frame(host, agent):
    rig = Rig(host, agent).goal()
    rig.frame(), rig.frame()
    header = Header(stamp=image(START + 2 * TICK).header.stamp)
    host.call(lambda: rig.robot.marker.publish(header))
    assert host.wait_for(lambda: rig.node._selector._markers)
    assert rig.frame()[0][1:] == (0.02, 0.0)
    assert agent.calls[-2:] == ['reset', ('plan', START + 2 * TICK, 0)]


def test_frames_faster_than_the_rate_are_thinned_to_it(host, agent):
    rig = Rig(host, agent).goal()
    for k in range(10):
        rig.frame(wait=k % 3 == 0, stamp=START + k * TICK // 3)
    assert [stamp for stamp, *_ in rig.robot.heard[1:]] == [START + k * TICK for k in range(4)]


def test_a_stale_camera_stops_the_robot_and_says_so(host, agent):
    rig = Rig(host, agent).goal()
    rig.frame()
    assert host.wait_for(lambda: rig.robot.values[-1] == (0.0, 0.0))
    assert rig.said('the camera is stale')
    assert rig.frame()[-1][1] == 0.02
    assert rig.said('driving to the goal')


def test_a_paused_clock_does_not_keep_a_stale_camera_from_being_noticed(host, agent):
    clock = []
    rig = Rig(host, agent, parameters={'use_sim_time': True})
    clock = host.call(lambda: rig.robot.create_publisher(Clock, '/clock', 10))
    assert host.wait_for(clock.get_subscription_count)
    host.call(lambda: clock.publish(Clock(clock=image(START).header.stamp)))
    rig.goal().frame()
    assert host.wait_for(lambda: rig.robot.values[-1] == (0.0, 0.0))
    assert rig.said('the camera is stale')
    assert rig.robot.heard[-1][0] == START  # stamped by the clock that stands still


def test_an_image_of_the_wrong_size_stops_the_robot_and_says_so(host, agent):
    rig = Rig(host, agent).goal()
    assert rig.frame(width=32, height=32)[0][1:] == (0.0, 0.0)
    assert rig.said('the image is refused') and rig.said('32x32')
    assert rig.frame()[0][1:] == (0.01, 0.0)


def test_a_plan_that_is_not_finite_stops_the_robot_and_says_so(host, two_room):
    rig = Rig(host, ToyAgent(two_room, spoil=lambda actions: actions * np.nan)).goal()
    assert [rig.frame()[0][1:] for _ in range(6)] == [(0.0, 0.0)] * 6
    assert rig.said('the plan is not finite: the safe action is sent')


def test_a_late_plan_is_replaced_by_the_previous_one_then_by_the_safe_action(host, agent):
    rig = Rig(host, agent, parameters={'plan_deadline_s': 0.05}).goal()
    for _ in range(5):
        rig.frame()
    agent.gate.clear()
    sent = [rig.frame()[-1][1:] for _ in range(7)]
    agent.gate.set()
    assert sent == [(0.01, k / 100) for k in range(5, 10)] + [(0.0, 0.0)] * 2
    assert rig.said('no plan in time: the previous plan goes on')
    assert rig.said('no plan in time: the safe action is sent')


def test_what_leaves_the_limits_is_never_published(host, two_room):
    rig = Rig(host, ToyAgent(two_room, spoil=lambda actions: actions * 0 + [3.0, -3.0])).goal()
    assert [rig.frame()[0][1:] for _ in range(3)] == [(0.4, -0.4)] * 3
    rig.host.call(rig.node.publish_diagnostics)
    assert host.wait_for(lambda: any(
        v.key == 'clamped' and v.value == '3' for s in rig.statuses for v in s.values))


def test_plan_and_cost_are_published_to_those_who_listen(host, agent):
    rig = Rig(host, agent).goal()
    plans, costs = [], []
    host.call(lambda: (
        rig.robot.create_subscription(JointTrajectory, 'planner_node/plan', plans.append, 10),
        rig.robot.create_subscription(Float64, 'planner_node/cost', costs.append, 10)))
    assert host.wait_for(lambda: rig.node._plans._plan.get_subscription_count()
                         and rig.node._plans._cost.get_subscription_count())
    rig.frame()
    assert host.wait_for(lambda: plans and costs)
    assert costs[0].data == 0.5 and plans[0].joint_names == ['twist.linear.x', 'twist.linear.y']
    assert len(plans[0].points) == 10 and plans[0].points[3].positions[1] == 0.03


def test_a_planner_without_a_checkpoint_says_what_is_missing(host):
    node = host.add(PlannerNode)
    assert node.exit_code == 1 and not node.configured


@pytest.mark.parametrize('change, key, values', [
    ({'rate_hz': 20.0}, 'rate_hz', '20.0 here, 10.0 there'),
    ({'max': 0.9}, 'action.fields[1].max', '0.9 here, 0.4 there')])
def test_a_checkpoint_for_another_robot_is_refused_with_the_key_that_differs(
        two_room, tmp_path, change, key, values):
    import yaml
    tree = two_room.to_dict()
    if 'max' in change:
        tree['action']['fields'][1].update(change)
    else:
        tree.update(change)
    (tmp_path / 'other.yaml').write_text(yaml.safe_dump(tree))
    with pytest.raises(UserError) as error:
        serving_spec(two_room, str(tmp_path / 'other.yaml'))
    said = str(error.value)
    assert key in said and values in said and two_room.fingerprint() in said


def test_the_robot_parameter_moves_the_topics_but_not_the_tensors(two_room, tmp_path):
    import yaml
    tree = two_room.to_dict()
    tree['cameras'][0].update(topic='eye', source_width=None)
    tree['action'].update(topic='base')
    (tmp_path / 'mine.yaml').write_text(yaml.safe_dump(tree))
    spec = serving_spec(two_room, str(tmp_path / 'mine.yaml'))
    assert (spec.camera.topic, spec.action.topic) == ('eye', 'base')
    assert spec.camera.source_width == 64
    assert dataclasses.replace(spec.camera, topic='camera/image_raw') == two_room.camera
