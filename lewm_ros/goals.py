"""Goals: images from a topic, latched or not, reliable or not, or a file; what became of them."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Bool, Header

from lewm_core.images import prepare
from lewm_core.paths import at_home
from lewm_core.robot import Camera
from lewm_core.types import Plan, UserError
from lewm_ros.decode import decode
from lewm_ros.serving import LATCHED


class GoalTopic:
    """Hears a goal image once, whatever its publisher's QoS.

    A latched goal needs a transient-local subscription, which no volatile publisher matches; a
    reliable one loses no part of a large image, but no best-effort publisher matches it. So there
    are three, and a publisher that meets several is heard once. That it doesn't meet them all is
    nothing to warn about.
    """

    def __init__(self, node: Node, topic: str, on_goal: Callable[[Image], None]) -> None:
        self._node, self._on_goal = node, on_goal
        self._heard: deque[tuple[Any, ...]] = deque(maxlen=8)
        reliable, volatile = ReliabilityPolicy.RELIABLE, DurabilityPolicy.VOLATILE
        silent = SubscriptionEventCallbacks(incompatible_qos=lambda event: None)
        self._subscriptions = [
            node.create_subscription(Image, topic, self._hear, QoSProfile(
                depth=1, reliability=reliability, durability=durability), event_callbacks=silent)
            for reliability, durability in (
                (reliable, DurabilityPolicy.TRANSIENT_LOCAL), (reliable, volatile),
                (ReliabilityPolicy.BEST_EFFORT, volatile))]

    def _hear(self, message: Image, info: Any) -> None:
        # What was published once has one source stamp, whoever hears it; the same picture may
        # well be a goal again. One subscription may lag behind another by some goals.
        stamp = message.header.stamp
        key = (info['source_timestamp'], stamp.sec, stamp.nanosec)
        if key not in self._heard:
            self._heard.append(key)
            self._on_goal(message)

    def close(self) -> None:
        """Nothing; hears no more goals."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions = []


class GoalNews:
    """What is said of the goal: `~/goal_accepted`, its header, and `~/goal_reached`; latched.

    With no `tolerance` no goal is ever reached, which is logged.
    """

    def __init__(self, node: Node, tolerance: float | None) -> None:
        self._node, self._tolerance = node, tolerance
        self.reached, self._distance = False, math.nan
        self._accepted = node.create_publisher(Header, '~/goal_accepted', LATCHED)
        self._reached = node.create_publisher(Bool, '~/goal_reached', LATCHED)
        if tolerance is None:
            node.get_logger().warning(
                'this checkpoint does not say how near to a goal is near enough: ~/goal_reached '
                'stays false; train again, or set goal_tolerance')

    def accept(self, header: Header) -> None:
        """Nothing; the goal picture with this header is driven to from now on."""
        self.clear()
        self._accepted.publish(header)

    def clear(self) -> None:
        """Nothing; no goal is reached."""
        self.reached, self._distance = False, math.nan
        self._reached.publish(Bool(data=False))

    def doubt(self) -> None:
        """Nothing; nobody knows where the robot is: not reached, until a plan says so again."""
        if self.reached:
            self.clear()

    def show(self, plan: Plan) -> bool:
        """Whether the goal has been reached, or left, since the plan before."""
        changed = plan.reached != self.reached
        self.reached, self._distance = plan.reached, plan.distance
        if changed:
            self._node.get_logger().info('the goal is ' + ('reached' if plan.reached else 'left'))
            self._reached.publish(Bool(data=plan.reached))
        return changed

    def figures(self) -> dict[str, Any]:
        """For /diagnostics: whether it is reached, how far it is, and what is near enough."""
        return {'goal_reached': self.reached, 'goal_distance': self._distance,
                'goal_tolerance': math.nan if self._tolerance is None else self._tolerance}

    def close(self) -> None:
        """Nothing; both topics end."""
        self._node.destroy_publisher(self._accepted)
        self._node.destroy_publisher(self._reached)


def read_goal(path: str, camera: Camera) -> np.ndarray:
    """What the model would see of the picture in an image file: (height, width, 3) uint8 RGB.

    Raises UserError when there is none, or of another size than the camera's.
    """
    file = at_home(path)
    if not file.is_file():
        raise UserError(f'goal={path!r} is not a file; give the path of a PNG or JPEG image')
    try:  # as the camera's own: what is cut off is refused, and no EXIF turns it
        rgb = decode(CompressedImage(format=path, data=file.read_bytes()))
    except UserError:
        raise UserError(f'goal={path!r} is not a whole image that OpenCV reads; give a PNG or '
                        'JPEG') from None
    height, width = rgb.shape[:2]
    expected = camera.source_width or width, camera.source_height or height
    if (width, height) != expected:
        raise UserError(f'goal={path!r} is {width}x{height}, but the camera publishes '
                        f'{expected[0]}x{expected[1]}; give a picture as the camera takes it')
    return prepare(rgb, camera)
