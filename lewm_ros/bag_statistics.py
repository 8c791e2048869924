"""What one pass over a bag tells of each topic: stamps, numbers, sizes; no picture is kept."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lewm_core.types import UserError
from lewm_ros.bag_part import printable
from lewm_ros.bag_reader import Bag, Raw, Topic
from lewm_ros.clocks import Stamps, queued
from lewm_ros.decode import decode
from lewm_ros.fields import get_field

IMAGES = ('sensor_msgs/msg/Image', 'sensor_msgs/msg/CompressedImage')
MARKER = 'std_msgs/msg/Header'
STATES = ('nav_msgs/msg/Odometry', 'sensor_msgs/msg/JointState', 'geometry_msgs/msg/PoseStamped',
          'geometry_msgs/msg/PoseWithCovarianceStamped', 'geometry_msgs/msg/PointStamped')
_COMMAND_TYPE = re.compile(r'/(Twist|TwistStamped|Ackermann\w*|\w*(Cmd|Command|Control|Drive|'
                           r'Setpoint)\w*)$')
_COMMAND_NAME = re.compile(r'(^|[/_])(cmd|commands?|control|controller|actions?|setpoints?|teleop|'
                           r'drive|joy)([/_]|$)')
# What carries numbers by the thousand, or none that a robot is told.
_NEVER = re.compile(r'^(tf2_msgs|visualization_msgs|rcl_interfaces|diagnostic_msgs|rosgraph_msgs|'
                    r'action_msgs)/|/(Image|CompressedImage|PointCloud2?|LaserScan|CameraInfo|'
                    r'OccupancyGrid|Path|Imu|NavSatFix|String|Header|Clock|Log)$')
_LONGEST_ARRAY = 16
_SAMPLES = 20


def command_score(topic: Topic) -> int:
    """How much a topic looks like a robot's commands, by type and name; 0: not at all."""
    if _NEVER.search(topic.type) or topic.type in STATES[:1]:
        return 0
    named = bool(_COMMAND_NAME.search(topic.name))
    if topic.type in STATES:
        return int(named)
    return 2 * bool(_COMMAND_TYPE.search(topic.type)) + 3 * named


@dataclass
class TopicStatistics:
    """One topic: its stamps in order of log time, and what else its kind gives.

    `paths` and `values` are the numbers of a command's or a state's messages (row by row),
    `texts` the paths of the texts that the first of them fills in; `kinds` counts, among 20
    pictures spread over the recording, those of each size and encoding; `trouble` is why the first
    message that couldn't be read could not, and `others` counts those on the topic that are of
    another type.
    """

    topic: Topic
    header: array = field(default_factory=lambda: array('q'))
    log: array = field(default_factory=lambda: array('q'))
    paths: tuple[str, ...] = ()
    values: array = field(default_factory=lambda: array('d'))
    texts: tuple[str, ...] = ()
    kinds: dict[str, int] = field(default_factory=dict)
    connections: int = 1
    trouble: str = ''
    others: int = 0

    def note(self, error: UserError) -> None:
        """Nothing; keeps the reason when it is the first."""
        self.trouble = self.trouble or str(error)

    def take_numbers(self, message: Any) -> None:
        """Nothing; appends a message's numbers, all of those that the first one has."""
        if message is None:
            return
        if not self.paths:
            self.paths = tuple(number_paths(message))
            self.texts = tuple(text_paths(message))
            self.values.extend([np.nan] * (len(self.paths) * (len(self.log) - 1)))
        self.values.extend([get_field(message, path) for path in self.paths])

    @property
    def stamps(self) -> Stamps:
        """Both stamps of each message."""
        return Stamps.of(self.header, self.log)

    @property
    def clock(self) -> str:
        """'header' where the topic can go by its header stamps, else 'log'."""
        return 'header' if len(self.log) and self.stamps.usable() else 'log'

    def times(self, clock: str = '') -> np.ndarray:
        """The stamps (n,) int64 by `clock` (its own when not given), unfilled ones left out."""
        stamps = self.stamps
        if (clock or self.clock) == 'log':
            return stamps.log
        return stamps.header[stamps.header != 0]

    def numbers(self) -> np.ndarray:
        """The values (n, F) float64 of `paths`."""
        return np.array(self.values).reshape(-1, max(len(self.paths), 1))

    def timing(self) -> Timing | None:
        """How regular the messages are; None when no two have different stamps."""
        gaps = np.diff(self.times())
        forward = gaps[gaps > 0]
        if not len(forward):
            return None
        median = float(np.median(forward))
        filled = self.stamps.filled()
        return Timing(
            1e9 / median, float(np.percentile(np.abs(forward - median), 95)) / 1e9,
            int((forward > 3 * median).sum()), int(forward.max()) / 1e9, int((gaps < 0).sum()),
            int(queued(self.stamps.log).sum()),
            float(np.median(filled.log - filled.header)) / 1e9 if len(filled.log) else None)


@dataclass(frozen=True)
class Timing:
    """The rate is 1 / the median interval; `jitter_s` is how far 95 % of the intervals are off at
    most; `gaps` are intervals of more than three medians; `delay_s` is log minus header time, the
    median, None without header.
    """

    rate_hz: float
    jitter_s: float
    gaps: int
    longest_s: float
    backwards: int
    queued: int
    delay_s: float | None


def read_statistics(bag: Bag) -> dict[str, TopicStatistics]:
    """The statistics of every topic of a bag by name, from one pass.

    Only messages with numbers in them are read whole, and a few of the pictures.
    """
    found = {name: TopicStatistics(topic, connections=_connections(bag, topic),
                                   others=sum(t.count for t in bag.topics if t.name == name)
                                   - topic.count) for name, topic in bag.main_topics().items()}
    headed = {name: bag.has_header(s.topic.type) for name, s in found.items()}
    numeric = {name for name, s in found.items()
               if s.topic.type in STATES or command_score(s.topic)}
    for name, log_ns, raw in bag.messages(list(found), [n for n in found if n not in numeric],
                                          damaged=True):
        topic, header_ns = found[name], 0
        topic.log.append(log_ns)
        try:
            if headed[name] or isinstance(raw, UserError):
                header_ns = bag.header_ns(raw)
            message = bag.message(raw, topic.topic.type) if name in numeric else None
            topic.take_numbers(message)
        except UserError as error:
            topic.note(error)
            topic.values.extend([np.nan] * len(topic.paths))
        topic.header.append(header_ns)
    for name, topic in found.items():
        if topic.topic.type in IMAGES and len(topic.log):
            few = np.unique(np.linspace(0, len(topic.log) - 1, _SAMPLES).astype(int))
            for raw in bag.pick(name, few):
                _note_kind(topic, bag, raw)
    return dict(sorted(found.items()))


def _connections(bag: Bag, topic: Topic) -> int:
    """Of one file: the parts of a split recording each name them anew."""
    return max(sum(c.topic == topic.name for c in part.channels.values()) for part in bag.parts)


def _note_kind(topic: TopicStatistics, bag: Bag, raw: Raw) -> None:
    """Nothing; notes the size and encoding of a picture, or why it can't be decoded."""
    try:
        message = bag.message(raw, topic.topic.type)
        height, width = decode(message).shape[:2]
    except UserError as error:
        topic.note(error)
        return
    text = printable(f'{width}x{height} {getattr(message, "encoding", None) or message.format}')
    topic.kinds[text] = topic.kinds.get(text, 0) + 1


def number_paths(message: Any, prefix: str = '', depth: int = 0) -> list[str]:
    """The dotted paths of the numbers in a rosbags message, arrays of at most 16 one by one."""
    paths: list[str] = []
    for path, value in _fields(message, prefix, depth):
        if isinstance(value, (bool, int, float, np.number)):
            paths.append(path)
        elif isinstance(value, np.ndarray):
            if len(value) <= _LONGEST_ARRAY:
                paths += [f'{path}[{i}]' for i in range(len(value))]
        elif isinstance(value, list):
            for i, item in enumerate(value[:_LONGEST_ARRAY]):
                paths += number_paths(item, f'{path}[{i}].', depth + 1)
        elif _type_of(value) not in ('Header', 'Time', ''):
            paths += number_paths(value, f'{path}.', depth + 1)
    return paths


def text_paths(message: Any, prefix: str = '', depth: int = 0) -> list[str]:
    """The dotted paths of the texts in a rosbags message that are not empty, arrays as one."""
    paths: list[str] = []
    for path, value in _fields(message, prefix, depth):
        first = value[0] if isinstance(value, list) and value else value
        if isinstance(first, str):
            paths += [path] if first else []
        elif _type_of(first) not in ('Header', ''):
            paths += text_paths(first, f'{path}[0].' if first is not value else f'{path}.',
                                depth + 1)
    return paths


def _fields(message: Any, prefix: str, depth: int) -> Iterator[tuple[str, Any]]:
    """The paths and values of a message's own fields; none of what lies too deep."""
    if depth <= 6:
        for name in getattr(message, '__dataclass_fields__', {}):
            if name != '__msgtype__':
                yield f'{prefix}{name}', getattr(message, name)


def _type_of(value: Any) -> str:
    return getattr(value, '__msgtype__', '').rpartition('/')[2]
