"""A planner node with a toy agent and the robot around it, for the tests of what it sends."""

from __future__ import annotations

from diagnostic_msgs.msg import DiagnosticArray
from ros_toys import LATCHED, ToyRobot, image
from std_msgs.msg import Float64
from std_srvs.srv import Trigger

from lewm_ros.planner_node import PlannerNode

TICK = 100_000_000
START = 1_000_000_000_000


class Rig:
    """A planner node with a toy agent, and the robot around it, in one host."""

    def __init__(self, host, agent, robot=None, goal_qos=LATCHED, **params):
        self.host, self.agent, self.k = host, agent, 0
        self.statuses = []
        self.robot = host.add(ToyRobot, goal_qos=goal_qos, **(robot or {}))
        host.call(lambda: self.robot.create_subscription(
            DiagnosticArray, '/diagnostics', lambda m: self.statuses.extend(m.status), 100))
        self.node = host.add(PlannerNode, agent=agent, **{
            'parameters': {'reliable_camera': True, 'queue_depth': 100, 'plan_deadline_s': 20.0,
                           'autostart': False, **params.pop('parameters', {})}, **params})
        host.call(self.node.trigger_configure)
        assert self.matched()
        host.call(self.node.trigger_activate)
        assert host.wait_for(lambda: self.robot.heard or self.node._driver.has_goal)

    def matched(self):
        robot, node = self.robot, self.node
        return self.host.wait_for(
            lambda: robot.camera.get_subscription_count() and robot.goal.get_subscription_count()
            and robot.marker.get_subscription_count()
            and robot.count_publishers('planner_node/goal_accepted')
            and node._commands.get_subscription_count() and node.count_publishers('goal_image'))

    def goal(self, value=9, stamp=START):
        count = len(self.robot.accepted)
        self.host.call(lambda: self.robot.goal.publish(image(stamp, value)))
        assert self.host.wait_for(lambda: len(self.robot.accepted) > count)
        return self

    def frame(self, wait=True, stamp=None, **picture):
        """The commands that one more frame brings; waits for one."""
        heard = len(self.robot.heard)
        stamp = START + self.k * TICK if stamp is None else stamp
        self.k += 1
        self.host.call(lambda: self.robot.camera.publish(image(stamp, **picture)))
        if wait:
            assert self.host.wait_for(lambda: len(self.robot.heard) > heard)
        return self.robot.heard[heard:]

    def call(self, service):
        client = self.robot.create_client(Trigger, f'planner_node/{service}')
        assert self.host.wait_for(client.service_is_ready)
        future = self.host.call(lambda: client.call_async(Trigger.Request()))
        assert self.host.wait_for(future.done)
        return future.result()

    def said(self, text):
        return self.host.wait_for(lambda: any(text in s.message for s in self.statuses))


def idle(rig, host):
    """The commands that come while nothing should: after a round trip of another topic."""
    before = len(rig.robot.heard)
    for _ in range(3):
        rig.frame(wait=False)
    answered = []
    probe = host.call(lambda: rig.robot.create_subscription(
        Float64, 'probe', answered.append, 10))
    echo = host.call(lambda: rig.node.create_publisher(Float64, 'probe', 10))
    assert host.wait_for(echo.get_subscription_count)
    host.call(lambda: echo.publish(Float64()))
    assert host.wait_for(lambda: answered)
    host.call(lambda: rig.robot.destroy_subscription(probe))
    host.call(lambda: rig.node.destroy_publisher(echo))
    return rig.robot.heard[before:]
