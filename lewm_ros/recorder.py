"""The recorder: every message of the robot's topics into an mcap bag, none lost, none decoded."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.duration import Duration
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from std_srvs.srv import Trigger

from lewm_core.config_field import option
from lewm_core.paths import at_home, load_robot
from lewm_core.types import UserError
from lewm_ros.bag_writer import BagWriter, bag_qos
from lewm_ros.fields import message_class
from lewm_ros.names import check_topic, check_topics
from lewm_ros.node import BasicNode, run_node
from lewm_ros.params import declare, declare_one, read, warn_unknown

_BATCH = 500
_IDLE_S, _LIVELY_S, _LONGEST_S = 0.3, 1.0, 10.0
_LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


@dataclass(frozen=True)
class RecorderConfig:
    """The recorder's parameters, beside the list `topics`."""

    output: str = option('the bag to write, a directory that does not exist yet', '')
    robot: str = option('a robot spec, by name or path: its topics are recorded', '')
    overwrite: bool = option('replace an output that exists', False)
    compress: bool = option('pack the bag with zstd', False)
    depth: int = option('messages that may wait for each topic', 2000, 1000, 1_000_000)


@dataclass
class _Topic:
    """One topic to record. `type` is None until a publisher says it."""

    name: str
    type: str | None
    qos: tuple[bool, bool] | None = None
    subscription: Subscription | None = None

    @property
    def matched(self) -> bool:
        return self.subscription is not None and self.subscription.get_publisher_count() > 0


class Recorder(BasicNode):
    """Records the topics of a robot spec and those in `topics`, until `~/stop` or a signal.

    Each message is written as it came, with the source stamp that its publisher gave it. A
    subscription takes over its publishers' reliability (best effort as soon as one of them is)
    and durability, and has room for `depth` messages, at least 1,000. `~/recorded`
    (DiagnosticArray, latched, 4 Hz) counts the messages by topic, so that a publisher can wait
    until all it sent is written: a status per topic, OK from the time its publisher is matched.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__('recorder', **kwargs)
        declare(self, RecorderConfig, fixed=True)
        declare_one(self, 'topics', [''], "topics to record beside or instead of the robot's")
        warn_unknown(self)
        config = read(self, RecorderConfig)
        self._depth = config.depth
        self._topics = self._wanted(config.robot)
        if not config.output:
            raise UserError('parameter output is empty; give the directory of the bag to write, '
                            'such as -p output:=bags/drive_1')
        self._bag = BagWriter(at_home(config.output), config.overwrite, config.compress)
        for path in self._bag.leftovers():
            size = sum(p.stat().st_size for p in path.rglob('*') if p.is_file())
            self.get_logger().warning(
                f'an interrupted recording left {str(path)!r} ({size / 1e6:.1f} MB); its .mcap '
                'file can be recovered with `mcap recover`, else delete it')
        self._done: tuple[bool, str] | None = None
        self._announced = False
        self._counts = self.create_publisher(DiagnosticArray, '~/recorded', _LATCHED)
        self.create_service(Trigger, '~/stop', self._on_stop)
        self.steady_timer(0.25, self._look)

    def _wanted(self, robot: str) -> list[_Topic]:
        named: dict[str, str | None] = {}
        if robot:
            spec = load_robot(robot)
            spec.require_topics()
            check_topics(spec, states=True)
            named = {spec.camera.topic: spec.camera.type, spec.action.topic: spec.action.type,
                     **{s.topic: s.type for s in spec.state}}
            if spec.episode_topic is not None:
                named[spec.episode_topic] = 'std_msgs/msg/Header'
        for topic in self.get_parameter('topics').value:
            if topic:
                check_topic('one of topics', topic)
                named.setdefault(topic, None)
        if not named:
            raise UserError('neither robot nor topics is given; give a robot spec, such as '
                            '-p robot:=two_room, or a list of topics')
        if self.get_parameter('use_sim_time').value:
            named.setdefault('/clock', 'rosgraph_msgs/msg/Clock')
        full: dict[str, str | None] = {}
        for name, type in named.items():  # cmd_vel and /cmd_vel may be one
            full.setdefault(self.resolve_topic_name(name), type)
        return [_Topic(name, type) for name, type in full.items()]

    @property
    def counts(self) -> dict[str, int]:
        """The number of messages written, by the full topic name."""
        return {t.name: self._bag.counts.get(t.name, 0) for t in self._topics}

    def start(self) -> None:
        """Nothing; looks for the publishers at once."""
        self._look()

    def _look(self) -> None:
        """Subscribes to publishers as they come, and publishes the counts."""
        if self._done is not None:
            return
        for topic in self._topics:
            offered = self.get_publishers_info_by_topic(topic.name)
            if offered and self._fits(topic, {info.topic_type for info in offered}):
                profiles = [info.qos_profile for info in offered]
                qos = (all(p.reliability == ReliabilityPolicy.RELIABLE for p in profiles),
                       all(p.durability == DurabilityPolicy.TRANSIENT_LOCAL for p in profiles))
                try:
                    self._subscribe(topic, qos)
                except UserError as error:  # a type that is not installed
                    self._give_up(str(error))
        if not self._announced and all(t.matched for t in self._topics):
            self._announced = True
            self.get_logger().info(f'recording {[t.name for t in self._topics]} to '
                                   f'{str(self._bag.output)!r}')
        self._publish()

    def _fits(self, topic: _Topic, types: set[str]) -> bool:
        topic.type = topic.type or sorted(types)[0]
        if topic.type in types:
            return True
        sentence = (f'topic {topic.name!r} is published as {sorted(types)}, but {topic.type} is '
                    'expected; correct the robot spec or the publisher')
        self._give_up(sentence)
        return False

    def _give_up(self, sentence: str) -> None:
        """Nothing; says why a topic is not recorded. Raises UserError where none is yet."""
        if not sum(self.counts.values()):
            raise UserError(sentence)
        # What is recorded already is worth more than a quick end.
        self.get_logger().error(sentence, once=True)

    def _subscribe(self, topic: _Topic, qos: tuple[bool, bool]) -> None:
        if topic.qos == qos:
            return
        if topic.subscription is not None:
            self.get_logger().warning(f'the publishers of {topic.name!r} changed their quality '
                                      'of service; it is subscribed to anew')
            self._drain(topic)
            self.destroy_subscription(topic.subscription)
        topic.qos = qos
        self._bag.add_topic(topic.name, topic.type, [bag_qos(*qos, self._depth)])
        profile = QoSProfile(
            depth=self._depth,
            reliability=ReliabilityPolicy.RELIABLE if qos[0] else ReliabilityPolicy.BEST_EFFORT,
            durability=(DurabilityPolicy.TRANSIENT_LOCAL if qos[1]
                        else DurabilityPolicy.VOLATILE))
        topic.subscription = self.create_subscription(
            message_class(topic.type), topic.name, partial(self._on_message, topic), profile,
            raw=True)

    def _on_message(self, topic: _Topic, raw: bytes, info: dict[str, int]) -> None:
        self._write(topic, raw, info)
        # The executor's round costs more than the writing, so what has come meanwhile is taken
        # in the same round.
        self._drain(topic)

    def _drain(self, topic: _Topic) -> int:
        """The number of waiting messages that were written, at most a batch."""
        subscription = topic.subscription
        with subscription.handle:
            for taken in range(_BATCH):
                found = subscription.handle.take_message(subscription.msg_type, True)
                if found is None:
                    return taken
                self._write(topic, *found)
        return _BATCH

    def _write(self, topic: _Topic, raw: bytes, info: dict[str, int]) -> None:
        if self._done is not None:
            return
        try:
            self._bag.write(topic.name, info['source_timestamp'] or info['received_timestamp'],
                            raw)
        except UserError as error:
            self._done = False, str(error)  # nothing can make this bag whole any more
            raise

    def _publish(self) -> None:
        status = []
        for topic in self._topics:
            level = DiagnosticStatus.OK if topic.matched or self._done else DiagnosticStatus.STALE
            text = ('finished' if self._done else 'recording' if topic.matched
                    else 'waiting for a publisher')
            status.append(DiagnosticStatus(
                name=topic.name, level=level, message=text, hardware_id=topic.type or '',
                values=[KeyValue(key='count', value=str(self.counts[topic.name]))]))
        message = DiagnosticArray(status=status)
        message.header.stamp = self.get_clock().now().to_msg()
        self._counts.publish(message)

    def complete(self) -> tuple[bool, str]:
        """Whether the bag stands under its name, and a sentence; writes what still waits first.

        The counts of `~/recorded` are final then.
        """
        if self._done is not None:
            return self._done
        self._write_what_waits()
        try:
            path = self._bag.close()
        except (UserError, OSError) as error:
            self._done = False, str(error)
            self.get_logger().error(self._done[1])
        else:
            total = sum(self.counts.values())
            self._done = True, f'{str(path)!r} holds {total} messages: {self.counts}'
            self.get_logger().info(self._done[1])
        self._publish()
        self._counts.wait_for_all_acked(Duration(seconds=2))
        return self._done

    def _write_what_waits(self) -> None:
        """Nothing; writes all that was sent until now, and what comes while that is done.

        It has all come when nothing does for a while. A robot's camera never falls silent: then
        it has when the queues are empty after a longer while.
        """
        begun = quiet = time.monotonic()
        subscribed = [t for t in self._topics if t.subscription is not None]
        while (now := time.monotonic()) < min(quiet + _IDLE_S, begun + _LONGEST_S):
            if sum(self._drain(topic) for topic in subscribed):
                quiet = now
            elif now > begun + _LIVELY_S:
                return
            else:
                time.sleep(0.01)

    def _on_stop(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.success, response.message = self.complete()
        # A little later, for the response goes out after this callback.
        self.steady_timer(0.5, lambda: self.finish(0 if self._done[0] else 1))
        return response

    def on_signal(self, number: int) -> None:
        """Nothing; finishes the bag and ends."""
        self.finish(0 if self.complete()[0] else 1)

    def stop(self) -> None:
        """Nothing; finishes the bag if nobody has."""
        self.complete()


def main(args: list[str] | None = None) -> int:
    """The exit code of the recorder: 0 when the bag is whole, 1 when there is none."""
    return run_node(Recorder, args)


if __name__ == '__main__':
    raise SystemExit(main())
