"""The robot, described once: cameras, action fields, limits, rate. Travels inside every file."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from lewm_core.plain import from_plain
from lewm_core.robot_checks import ANY_TOPIC, validate
from lewm_core.types import UserError


class _Loader(yaml.SafeLoader):
    """YAML as its standard has it: PyYAML takes the last of two equal keys without a word."""

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        """The mapping as it is written; raises a YAML error where a key comes twice."""
        node, seen = super().compose_mapping_node(anchor), set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f'key {key.value!r} comes twice',
                                           problem_mark=key.start_mark)
            seen.add(key.value)
        return node


@dataclass(frozen=True)
class Camera:
    """One camera: its topic and what the model sees of it.

    `width` × `height` is the size after `prepare`; `crop` is (x, y, width, height) in source
    pixels, or None for the whole picture; `source_width` × `source_height` is the size that the
    driver publishes (filled in at conversion when the YAML leaves it out), and an image of
    another size is refused.
    """

    name: str
    topic: str
    width: int
    height: int
    type: str = 'sensor_msgs/msg/Image'
    crop: tuple[int, int, int, int] | None = field(
        default=None, metadata={'expected': '[x, y, width, height] in whole source pixels'})
    source_width: int | None = None
    source_height: int | None = None


@dataclass(frozen=True)
class ActionField:
    """One number of a command: dotted `path` in the message, limits and safe value in `unit`."""

    path: str
    min: float
    max: float
    safe: float = 0.0
    unit: str = ''


@dataclass(frozen=True)
class ActionSpec:
    """The command topic. `latency_s`: from a command's stamp to its effect on the robot.

    A command older than `timeout_s` is no longer in force: the step then holds the safe action
    (`on_timeout: safe`) or is dropped (`on_timeout: drop`). `reduce` makes one action of the
    commands of a step: the 'last', for a controller that holds it; their 'mean', for commands
    faster than the rate; their 'sum', for increments. The limits are those of that action.
    """

    topic: str
    type: str
    fields: tuple[ActionField, ...]
    latency_s: float = 0.0
    timeout_s: float = 0.5
    on_timeout: str = 'safe'
    reduce: str = 'last'


@dataclass(frozen=True)
class StateField:
    """One number that is recorded for probes and never shown to the model."""

    path: str
    name: str
    unit: str = ''


@dataclass(frozen=True)
class StateSpec:
    """A state topic (odometry, joints): a column per field in the dataset, for probes only."""

    topic: str
    type: str
    fields: tuple[StateField, ...]


@dataclass(frozen=True)
class RobotSpec:
    """One robot. `rate_hz`: ticks a second; `max_age_s`: the longest gap inside an episode.

    `episode_topic` (std_msgs/msg/Header) marks the first frame of each episode by its stamp.
    """

    name: str
    rate_hz: float
    cameras: tuple[Camera, ...]
    action: ActionSpec
    state: tuple[StateSpec, ...] = ()
    max_age_s: float = 0.5
    episode_topic: str | None = None

    def __post_init__(self) -> None:
        validate(self)

    @property
    def camera(self) -> Camera:
        """The camera the model sees through (one, in this version)."""
        return self.cameras[0]

    @property
    def tick_s(self) -> float:
        """Seconds from one step to the next: 1 / rate_hz."""
        return 1.0 / self.rate_hz

    @property
    def action_dim(self) -> int:
        """The number of action fields, A."""
        return len(self.action.fields)

    @property
    def low(self) -> np.ndarray:
        """The lower limits (A,) float64 in robot units."""
        return np.array([f.min for f in self.action.fields], dtype=np.float64)

    @property
    def high(self) -> np.ndarray:
        """The upper limits (A,) float64 in robot units."""
        return np.array([f.max for f in self.action.fields], dtype=np.float64)

    @property
    def safe(self) -> np.ndarray:
        """The safe action (A,) float64 in robot units."""
        return np.array([f.safe for f in self.action.fields], dtype=np.float64)

    @property
    def state_names(self) -> tuple[str, ...]:
        """The names of all state columns, in the spec's order."""
        return tuple(f.name for s in self.state for f in s.fields)

    def clamp(self, values: np.ndarray) -> np.ndarray:
        """The nearest action (..., A) within the limits; raises ValueError on a non-finite one."""
        values = np.asarray(values, dtype=np.float64)
        if not np.isfinite(values).all():
            raise ValueError(f'action {values.tolist()} is not finite')
        return np.clip(values, self.low, self.high)

    def to_dict(self) -> dict[str, Any]:
        """A plain tree of str, numbers, lists and None that `from_dict` takes back."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    def to_json(self) -> str:
        """The spec as canonical JSON: sorted keys, no spaces."""
        return json.dumps(self.to_dict(), sort_keys=True, separators=(',', ':'))

    def fingerprint(self) -> str:
        """16 hex digits over all that changes a tensor; topic names may be remapped freely."""
        tree = self.to_dict()
        for camera in tree['cameras']:
            for key in ('topic', 'type', 'source_width', 'source_height'):
                camera.pop(key)
        tree['action'].pop('topic')
        tree['action'].pop('type')
        for key in ('state', 'episode_topic'):
            tree.pop(key)
        text = json.dumps(tree, sort_keys=True, separators=(',', ':'))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def with_source(self, width: int, height: int) -> RobotSpec:
        """This spec with the camera's source size filled in."""
        camera = dataclasses.replace(self.camera, source_width=width, source_height=height)
        return dataclasses.replace(self, cameras=(camera, *self.cameras[1:]))

    def with_topics(self, camera: str, action: str) -> RobotSpec:
        """This spec with these topics where it leaves its own open."""
        seen, act = self.camera, self.action
        if seen.topic == ANY_TOPIC:
            seen = dataclasses.replace(seen, topic=camera)
        if act.topic == ANY_TOPIC:
            act = dataclasses.replace(act, topic=action)
        return dataclasses.replace(self, cameras=(seen, *self.cameras[1:]), action=act)

    def require_topics(self) -> None:
        """Nothing; raises UserError where a topic is open, which only a recording can fill in."""
        for what, topic in (('camera', self.camera.topic), ('action', self.action.topic)):
            if topic == ANY_TOPIC:
                raise UserError(f'the {what} topic of robot {self.name!r} is {topic!r}, which '
                                'only a conversion from a recording can fill in; give its name')

    @classmethod
    def from_dict(cls, tree: Any, where: str = 'robot spec') -> RobotSpec:
        """The spec in `tree`; raises UserError naming the key at fault and what it should be."""
        return from_plain(cls, tree, where, partial=True)

    @classmethod
    def from_json(cls, text: str, where: str = 'robot spec') -> RobotSpec:
        """The spec in JSON `text`, as `to_json` writes it."""
        return cls.from_dict(json.loads(text), where)

    @classmethod
    def load(cls, path: str | Path) -> RobotSpec:
        """The spec in the YAML file at `path`; raises UserError when it is missing or wrong."""
        path = Path(path)
        if not path.is_file():
            raise UserError(f'robot spec {str(path)!r} is not a file; give the path of a robot '
                            'YAML, such as config/robot/two_room.yaml')
        try:
            tree = yaml.load(path.read_text(), Loader=_Loader)
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            first = ' '.join(str(error).split())
            raise UserError(f'robot spec {str(path)!r} is not YAML ({first}); mend that line'
                            ) from None
        return cls.from_dict(tree, str(path))
