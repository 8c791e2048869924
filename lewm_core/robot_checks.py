"""What the values of a robot spec may be."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

from lewm_core.types import UserError

if TYPE_CHECKING:
    from lewm_core.robot import ActionSpec, Camera, RobotSpec

# A topic that the spec leaves open: in a recording, the one of its type.
ANY_TOPIC = '*'
REDUCTIONS = ('last', 'mean', 'sum')
# ROS 1 messages may have capitals in their names.
_PATH = re.compile(r'^[A-Za-z]\w*(\[\d+\])?(\.[A-Za-z]\w*(\[\d+\])?)*$', re.ASCII)
_TYPE = re.compile(r'^[a-z][a-z0-9_]*/msg/[A-Z][A-Za-z0-9]*$')
_TOPIC = re.compile(r'^[~/A-Za-z_][A-Za-z0-9_/~]*$')
_NAME = re.compile(r'^[a-z][a-z0-9_]*$')


def validate(spec: RobotSpec) -> None:
    """Nothing; raises UserError on the first value that no robot can have, and says which can."""
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
