"""The robot, described once: cameras, action fields, limits, rate. Travels inside every file."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from lewm_core.types import UserError

_PATH = re.compile(r'^[a-z][a-z0-9_]*(\[\d+\])?(\.[a-z][a-z0-9_]*(\[\d+\])?)*$')
_TYPE = re.compile(r'^[a-z][a-z0-9_]*/msg/[A-Z][A-Za-z0-9]*$')
_TOPIC = re.compile(r'^[~/A-Za-z_][A-Za-z0-9_/~]*$')
# A topic that the spec leaves open: in a recording, the one of its type.
ANY_TOPIC = '*'
_NAME = re.compile(r'^[a-z][a-z0-9_]*$')
REDUCTIONS = ('last', 'mean', 'sum')


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
    crop: tuple[int, int, int, int] | None = None
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
        _validate(self)

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
        return _build(cls, tree, where)

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
            tree = yaml.safe_load(path.read_text())
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            first = ' '.join(str(error).split())
            raise UserError(f'robot spec {str(path)!r} is not YAML ({first}); mend that line'
                            ) from None
        return cls.from_dict(tree, str(path))


_NESTED = {(RobotSpec, 'cameras'): Camera, (RobotSpec, 'state'): StateSpec,
           (ActionSpec, 'fields'): ActionField, (StateSpec, 'fields'): StateField}
_NUMBERS = {'float': (int, float), 'int': (int,), 'int | None': (int,), 'str': (str,),
            'str | None': (str,)}


def _build(cls: type, tree: Any, where: str) -> Any:
    """An instance of `cls` from a plain tree, strict about keys and types."""
    if not isinstance(tree, dict):
        raise UserError(f'{where} is {tree!r}, but a mapping of keys to values is expected')
    known = {f.name: f for f in dataclasses.fields(cls)}
    for key in tree:
        if key not in known:
            raise UserError(f'{where}: unknown key {key!r}; known keys are {sorted(known)}')
    values = {}
    for name, f in known.items():
        required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        if name in tree:
            values[name] = _value(cls, f, tree[name], f'{where}: {name}')
        elif required:
            raise UserError(f'{where}: key {name!r} is missing; add it')
    return cls(**values)


def _value(cls: type, f: dataclasses.Field, value: Any, where: str) -> Any:
    nested = _NESTED.get((cls, f.name))
    if nested is not None:
        if not isinstance(value, (list, tuple)):
            raise UserError(f'{where} is {value!r}, but a list is expected')
        return tuple(_build(nested, v, f'{where}[{i}]') for i, v in enumerate(value))
    if f.name == 'action':
        return _build(ActionSpec, value, where)
    if f.name == 'crop':
        if value is None:
            return None
        if (not isinstance(value, (list, tuple)) or len(value) != 4
                or any(isinstance(v, bool) or not isinstance(v, int) for v in value)):
            raise UserError(f'{where} is {value!r}, but [x, y, width, height] in whole source '
                            'pixels is expected')
        return tuple(value)
    if value is None and f.default is None:
        return None
    kinds = _NUMBERS[f.type]
    if isinstance(value, bool) or not isinstance(value, kinds):
        raise UserError(f'{where} is {value!r}, but {f.type.split(" ")[0]} is expected')
    return float(value) if f.type == 'float' else value


def _validate(spec: RobotSpec) -> None:
    _check(_NAME.match(spec.name), 'name', spec.name, 'lower-case letters, digits and _')
    _check(_positive(spec.rate_hz), 'rate_hz', spec.rate_hz, 'a positive number of ticks a second')
    _check(_positive(spec.max_age_s) and spec.max_age_s * spec.rate_hz >= 1, 'max_age_s',
           spec.max_age_s, f'at least one tick, {1 / spec.rate_hz if spec.rate_hz else 0:g} s')
    if len(spec.cameras) != 1:
        raise UserError(f'cameras: {len(spec.cameras)} are given, but this version plans through '
                        'exactly one; keep the one that sees the task')
    for camera in spec.cameras:
        _validate_camera(camera)
    _validate_action(spec.action)
    names = spec.state_names
    for state in spec.state:
        _check(_TOPIC.match(state.topic), 'state topic', state.topic, 'a ROS topic name')
        _check(_TYPE.match(state.type), 'state type', state.type, 'package/msg/Type')
        for f in state.fields:
            _check(_PATH.match(f.path), 'state field path', f.path, 'a dotted path')
    taken = {'pixels', 'action', 'stamp_ns', 'ep_len', 'ep_offset', 'ep_split', 'episode_idx',
             'step_idx'}
    for name in names:
        _check(_NAME.match(name) and name not in taken and names.count(name) == 1,
               'state field name', name, f'a unique lower-case name, none of {sorted(taken)}')
    if spec.episode_topic is not None:
        _check(_TOPIC.match(spec.episode_topic), 'episode_topic', spec.episode_topic,
               'a ROS topic name')


def _validate_camera(camera: Camera) -> None:
    _check(_NAME.match(camera.name), 'camera name', camera.name,
           'lower-case letters, digits and _')
    _check(camera.topic == ANY_TOPIC or _TOPIC.match(camera.topic), 'camera topic', camera.topic,
           "a ROS topic name, or '*' for the one of its type in a recording")
    _check(camera.type in ('sensor_msgs/msg/Image', 'sensor_msgs/msg/CompressedImage'),
           'camera type', camera.type,
           'sensor_msgs/msg/Image or sensor_msgs/msg/CompressedImage')
    for key in ('width', 'height'):
        _check(8 <= getattr(camera, key) <= 1024, f'camera {key}', getattr(camera, key),
               '8 to 1024 pixels')
    if camera.crop is not None:
        x, y, width, height = camera.crop
        _check(x >= 0 and y >= 0 and width > 0 and height > 0, 'camera crop', camera.crop,
               'x and y at least 0, width and height at least 1')
        if camera.source_width is not None and camera.source_height is not None:
            _check(x + width <= camera.source_width and y + height <= camera.source_height,
                   'camera crop', camera.crop, 'a rectangle inside the source image of '
                   f'{camera.source_width}x{camera.source_height}')


def _validate_action(action: ActionSpec) -> None:
    _check(action.topic == ANY_TOPIC or _TOPIC.match(action.topic), 'action topic', action.topic,
           "a ROS topic name, or '*' for the one of its type in a recording")
    _check(_TYPE.match(action.type), 'action type', action.type,
           'package/msg/Type, such as geometry_msgs/msg/Twist')
    if not action.fields:
        raise UserError('action fields: none are given; list at least one, such as '
                        '{path: twist.linear.x, min: -0.5, max: 0.5}')
    _check(math.isfinite(action.latency_s) and 0 <= action.latency_s <= 10, 'action latency_s',
           action.latency_s, '0 to 10 s')
    _check(_positive(action.timeout_s), 'action timeout_s', action.timeout_s,
           'a positive number of seconds')
    _check(action.on_timeout in ('safe', 'drop'), 'action on_timeout', action.on_timeout,
           "'safe' or 'drop'")
    _check(action.reduce in REDUCTIONS, 'action reduce', action.reduce, "'last', 'mean' or 'sum'")
    paths = [f.path for f in action.fields]
    for f in action.fields:
        _check(_PATH.match(f.path) and paths.count(f.path) == 1, 'action field path', f.path,
               'a unique dotted path, such as twist.linear.x')
        _check(math.isfinite(f.min) and math.isfinite(f.max) and f.min < f.max,
               f'limits of {f.path}', [f.min, f.max], 'two finite numbers, min below max')
        _check(f.min <= f.safe <= f.max, f'safe value of {f.path}', f.safe,
               f'a number within [{f.min:g}, {f.max:g}]')


def _positive(value: float) -> bool:
    return math.isfinite(value) and value > 0


def _check(good: Any, what: str, value: Any, expected: str) -> None:
    if not good:
        raise UserError(f'robot spec: {what} is {value!r}, but {expected} is expected')
