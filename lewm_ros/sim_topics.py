"""What the simulated robot says: its topics, what was published on each, and who listens."""

from __future__ import annotations

import array
import time
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Bool, Header

from lewm_core.robot import RobotSpec
from lewm_core.types import UserError
from lewm_ros.fields import make_command, message_class, set_field, set_stamp
from lewm_ros.sim_config import SimConfig

_LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
_RECORDER_DEPTH = 1000  # what the recorder keeps waiting of each topic, at the least
Spin = Callable[[float], None]


class Topics:
    """The publishers of one simulated robot; all reliable, `counts` by topic name."""

    def __init__(self, node: Node, spec: RobotSpec, config: SimConfig) -> None:
        self._node, self._spec, self._config = node, spec, config
        depth = QoSProfile(depth=config.queue_depth)
        add = node.create_publisher
        self._camera = add(message_class(spec.camera.type), spec.camera.topic, depth)
        self._states = [(add(message_class(s.type), s.topic, depth), s) for s in spec.state]
        self._marker = (None if spec.episode_topic is None
                        else add(Header, spec.episode_topic, depth))
        self._action_class = message_class(spec.action.type)
        self._action = (None if config.external
                        else add(self._action_class, spec.action.topic, depth))
        self._clock = add(Clock, '/clock', depth) if config.publish_clock else None
        self._goal = add(Image, 'goal_image', _LATCHED)
        self._event = add(Header, '~/event', depth)
        latched = QoSProfile(depth=max(config.trials, 1),
                             durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._trial = add(DiagnosticArray, '~/trial', latched)
        self._success = add(Bool, '~/success', depth)
        self._published = add(DiagnosticArray, '~/published', _LATCHED)
        self._recorded: dict[str, int] = {}
        self._before: dict[str, int] = {}  # counted when this robot began
        self._heard = 0.0
        if config.wait_subscribers and config.recorded_topic:
            node.create_subscription(DiagnosticArray, config.recorded_topic, self._on_recorded,
                                     _LATCHED)
        self._image = Image(encoding='rgb8')
        self.counts = {p.topic_name: 0 for p in self._recordable()}

    def _recordable(self) -> list[Publisher]:
        """The publishers on the topics that the spec names."""
        given = [self._camera, *(p for p, _ in self._states), self._marker, self._action]
        return [p for p in given if p is not None]

    def _send(self, publisher: Publisher, message: Any) -> None:
        publisher.publish(message)
        self.counts[publisher.topic_name] += 1

    def frame(self, stamp_ns: int, pixels: np.ndarray, state: dict[str, float]) -> None:
        """Nothing; publishes the clock, the state topics and then the camera image."""
        if self._clock is not None:
            message = Clock()
            set_stamp(message.clock, stamp_ns)
            self._clock.publish(message)
        for publisher, topic in self._states:
            message = publisher.msg_type()
            if hasattr(message, 'header'):
                set_stamp(message.header.stamp, stamp_ns)
            for f in topic.fields:
                set_field(message, f.path, state[f.name])
            self._send(publisher, message)
        image = self._image
        if self._spec.camera.type.endswith('CompressedImage'):
            image = _compressed(pixels)
        else:
            _fill(image, pixels)
        set_stamp(image.header.stamp, stamp_ns)
        image.header.frame_id = self._spec.camera.name
        self._send(self._camera, image)

    def command(self, stamp_ns: int, values: np.ndarray) -> None:
        """Nothing; publishes the command that the robot follows, with its frame's stamp."""
        self._send(self._action, make_command(self._action_class, self._spec, values, stamp_ns))

    def marker(self, stamp_ns: int, name: str) -> None:
        """Nothing; announces the episode whose first frame will have this stamp."""
        if self._marker is not None:
            self._send(self._marker, _header(stamp_ns, name))

    def event(self, stamp_ns: int, kind: str) -> None:
        """Nothing; announces an event by the stamp of the first frame that shows it."""
        self._event.publish(_header(stamp_ns, kind))

    def goal(self, pixels: np.ndarray, name: str) -> Header:
        """The header of the goal image that was published; its stamp is unique.

        That is wall time, for simulation time repeats when another robot starts, and the echo of
        a goal given to the previous one must not be taken for this one's.
        """
        image = Image(encoding='rgb8', header=_header(time.time_ns(), name))
        _fill(image, pixels)
        self._goal.publish(image)
        return image.header

    def trial(self, stamp_ns: int, name: str, reached: bool, values: dict[str, Any]) -> None:
        """Nothing; publishes the outcome of one trial on `~/trial` and `~/success`."""
        status = DiagnosticStatus(
            name=name, level=DiagnosticStatus.OK if reached else DiagnosticStatus.WARN,
            message='reached' if reached else 'not reached',
            values=[KeyValue(key=k, value=_text(v)) for k, v in values.items()])
        self._trial.publish(DiagnosticArray(header=_header(stamp_ns, ''), status=[status]))
        self._success.publish(Bool(data=reached))

    def announce_counts(self) -> None:
        """Nothing; publishes how many messages went out on each of the spec's topics."""
        status = [DiagnosticStatus(name=topic, level=DiagnosticStatus.OK, values=[
            KeyValue(key='count', value=str(count))]) for topic, count in self.counts.items()]
        self._published.publish(DiagnosticArray(status=status))

    def wait_for_readers(self, spin: Spin) -> None:
        """Nothing, once the topics have their readers; raises UserError when it takes too long.

        An external driver in lock-step counts as a reader of the camera whom it makes no sense to
        start without. Half a second more is given to a recorder: a writer knows its reader before
        the reader knows the writer, and what goes out in between is lost to a volatile reader.
        """
        wanted = {p: self._config.wait_subscribers for p in self._awaited()}
        if self._config.external and self._config.lockstep:
            wanted[self._camera] = max(1, wanted.get(self._camera, 0))
        deadline = _after(self._config.wait_timeout_s)
        while lacking := [p for p, n in wanted.items() if p.get_subscription_count() < n]:
            if time.monotonic() > deadline:
                raise UserError(
                    f'topic {lacking[0].topic_name} has {lacking[0].get_subscription_count()} of '
                    f'{wanted[lacking[0]]} readers after {self._config.wait_timeout_s:g} s; start '
                    'whoever reads it first, or correct wait_subscribers and wait_topics')
            spin(0.05)
        settled = _after(0.5 if self._config.wait_subscribers else 0.0)
        while time.monotonic() < settled:
            spin(0.05)
        self._before = dict(self._recorded)

    def _awaited(self) -> list[Publisher]:
        """The publishers whose readers `wait_topics` names; all recordable ones when empty."""
        names = [name.strip() for name in self._config.wait_topics.split(',') if name.strip()]
        found = {p.topic_name: p for p in self._recordable()}
        chosen = [self._node.resolve_topic_name(name) for name in names] or list(found)
        for name in chosen:
            if name not in found:
                raise UserError(f'wait_topics names {name}, which this robot does not publish; '
                                f'choose among {sorted(found)}')
        return [found[name] for name in chosen]

    def _on_recorded(self, message: DiagnosticArray) -> None:
        for status in message.status:
            for pair in status.values:
                if pair.key == 'count':
                    self._recorded[status.name.strip('/')] = int(pair.value)
        self._heard = time.monotonic()

    def missing(self) -> dict[str, int]:
        """The topics of which fewer messages are recorded than published, with how many fewer."""
        short = {}
        for name, count in self.counts.items():
            key = name.strip('/')
            short[name] = count + self._before.get(key, 0) - self._recorded.get(key, 0)
        return {name: count for name, count in short.items() if count > 0}

    def keep_pace_with_recorder(self, spin: Spin) -> None:
        """Nothing, once the recorder is no further behind than nearly the depth of the queues.

        A reader that has stalled then loses nothing, however fast the world steps: neither this
        side's queue nor the recorder's, which is the smaller, overflows. A recorder that gives no
        counts is not waited for.
        """
        if not self._recorded:
            return
        allowed = max(1, int(0.8 * min(self._config.queue_depth, _RECORDER_DEPTH)))
        while (max(self.missing().values(), default=0) >= allowed
               and time.monotonic() < self._heard + self._config.record_timeout_s):
            spin(0.01)

    def wait_until_recorded(self, spin: Spin) -> bool:
        """Whether the recorder has counted all that was published; False after the timeout."""
        self.announce_counts()
        if not self._config.wait_subscribers or not self._config.recorded_topic:
            return True
        if not self._node.count_publishers(self._config.recorded_topic) and not self._recorded:
            self._node.get_logger().info(
                f'nobody counts on {self._config.recorded_topic}, so the end is not waited for')
            return True
        last, deadline = None, 0.0
        while self.missing():
            if self._recorded != last:  # the recorder is behind, but it moves
                last, deadline = dict(self._recorded), _after(self._config.record_timeout_s)
            if time.monotonic() > deadline:
                return False
            spin(0.05)
        return True

    def wait_until_acknowledged(self, timeout_s: float = 5.0) -> None:
        """Nothing, once every matched reader has acknowledged every message, or it's too late."""
        for publisher in (*self._recordable(), self._goal, self._event, self._trial,
                          self._success, self._published):
            publisher.wait_for_all_acked(Duration(seconds=timeout_s))


def _after(seconds: float) -> float:
    return time.monotonic() + seconds


def _header(stamp_ns: int, frame_id: str) -> Header:
    stamp = Time()
    set_stamp(stamp, stamp_ns)
    return Header(stamp=stamp, frame_id=frame_id)


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, (bool, np.bool_)) else str(value)


def _fill(image: Image, pixels: np.ndarray) -> None:
    """Writes RGB pixels into an Image; from an array.array, the only fast way in rclpy."""
    image.height, image.width = pixels.shape[:2]
    image.step = 3 * image.width
    image.data = array.array('B', pixels.tobytes())


def _compressed(pixels: np.ndarray) -> CompressedImage:
    """The pixels as PNG: a lossy picture would be another world than the one rendered."""
    _, png = cv2.imencode('.png', cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
    return CompressedImage(format='png', data=array.array('B', png.tobytes()))
