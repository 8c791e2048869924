"""Toy agents and robots around the nodes: small enough to know every right answer."""

from __future__ import annotations

import threading

import numpy as np
from geometry_msgs.msg import TwistStamped
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from lewm_core.arrival import Arrival
from lewm_core.types import Frame, Plan
from lewm_ros.fields import set_stamp, stamp_ns

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


def image(stamp: int, value: int = 0, width: int = 64, height: int = 64) -> Image:
    """A picture of one grey value."""
    message = Image(width=width, height=height, step=3 * width, encoding='rgb8')
    message.data = bytes([value]) * (3 * width * height)
    set_stamp(message.header.stamp, stamp)
    return message


class ToyAgent:
    """Plans (n, t) for tick t of its n-th plan, in hundredths, and writes down all calls.

    `gate` holds plans up while it is cleared; `spoil(plan_actions)` may change a plan.
    """

    def __init__(self, spec, frameskip=5, horizon=2, spoil=lambda actions: actions):
        self.spec, self.frameskip, self.horizon = spec, frameskip, horizon
        self.spoil = spoil
        self.gate = threading.Event()
        self.gate.set()
        self.calls, self.goals, self.plans = [], [], 0
        self.arrival = Arrival(1.0)

    def warm_up(self):
        return 0.001

    def set_goal(self, pixels):
        self.goals.append(int(pixels[0, 0, 0]))
        self.calls.append('set_goal')

    def clear_goal(self):
        self.calls.append('clear_goal')

    def reset(self):
        self.calls.append('reset')

    def commit(self, action):
        self.calls.append(('commit', action.stamp_ns, tuple(np.round(action.values, 4))))

    def lose_history(self):
        self.calls.append('lose_history')

    def plan_next(self, frame: Frame | None, committed) -> Plan:
        if frame is not None:
            self.calls.append(('see', frame.stamp_ns))
        self.calls.append(('next', *np.round(committed[[0, -1], 1], 4)))
        return self._plan(0)

    def plan(self, frame: Frame) -> Plan:
        self.calls.append(('plan', frame.stamp_ns, int(frame.pixels[0, 0, 0])))
        return self._plan(frame.stamp_ns)

    def _plan(self, stamp_ns) -> Plan:
        self.gate.wait(20)
        self.plans += 1
        ticks = self.frameskip * self.horizon
        actions = np.stack([np.full(ticks, self.plans / 100), np.arange(ticks) / 100], 1)
        return Plan(stamp_ns, self.spoil(actions), 0.5, 1, 0.001)


class ToyRobot(Node):
    """A camera, a goal publisher and an ear for commands, driven from the test's thread."""

    def __init__(self, action_topic='cmd_vel', goal_qos=LATCHED, **kwargs):
        super().__init__('toy_robot', **kwargs)
        self.camera = self.create_publisher(Image, 'camera/image_raw', 10)
        self.goal = self.create_publisher(Image, 'goal_image', goal_qos)
        self.marker = self.create_publisher(Header, 'episode', 10)
        self.heard, self.accepted = [], []
        self.create_subscription(TwistStamped, action_topic, self._hear, 100)
        self.create_subscription(Header, 'planner_node/goal_accepted', self.accepted.append,
                                 LATCHED)

    def _hear(self, message):
        twist = message.twist.linear
        self.heard.append((stamp_ns(message), round(twist.x, 4), round(twist.y, 4)))

    @property
    def values(self):
        """The commands heard, without their stamps."""
        return [(x, y) for _, x, y in self.heard]
