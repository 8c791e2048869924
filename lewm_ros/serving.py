"""What both serving nodes do first: load the checkpoint and make sure it is for this robot."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message, serialize_message

from lewm_core.paths import at_home, load_robot
from lewm_core.robot import Camera, RobotSpec
from lewm_core.types import UserError
from lewm_ros import decode
from lewm_ros.fields import check_fields, get_field, message_class, set_field, type_name
from lewm_ros.names import check_topics

# What `RobotSpec.fingerprint` leaves out: none of it changes a tensor.
_FREE = {'topic', 'type', 'source_width', 'source_height', 'state', 'episode_topic'}

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
RELIABLE = QoSProfile(depth=10)


def load(path: str, device: str, threads: int = 0) -> tuple[Any, Any]:
    """The Checkpoint at `path` and its torch device ('auto': CUDA where there is one).

    Raises UserError when no path is given, and what `load_checkpoint` raises.
    """
    if not path:
        raise UserError("parameter checkpoint is '', but the path of a .safetensors file is "
                        'expected; give one with -p checkpoint:=PATH')
    # Here, not above: PyTorch takes a second to import, and a node with a toy needs none.
    from lewm_core.checkpoint import load_checkpoint
    from lewm_core.memory import keep_freed_memory
    from lewm_core.threads import set_threads
    from lewm_core.trainer import resolve_device
    set_threads(threads)
    found = resolve_device(device)
    if found.type == 'cpu':
        keep_freed_memory()
    return load_checkpoint(at_home(path), found), found


def warmed(model: Any, threads: int) -> float:
    """What `model.warm_up` measures, s; with `threads` 0 on the CPU, with the fastest number.

    Called in the thread in which the model will compute.
    """
    if threads or getattr(model, 'device', None) is None or model.device.type != 'cpu':
        return model.warm_up()
    from lewm_core.threads import use_fastest
    return use_fastest(model.warm_up)


def serving_spec(trained: RobotSpec, robot: str) -> RobotSpec:
    """The spec to serve: the checkpoint's, with the topics of `robot` (a YAML or name) if given.

    Raises UserError naming both fingerprints and the first differing key when `robot` is another
    robot than the one the checkpoint was trained on.
    """
    if not robot:
        return trained
    local = load_robot(robot)
    if local.fingerprint() != trained.fingerprint():
        key, here, there = first_difference(local, trained)
        raise UserError(f'the checkpoint is for another robot: {robot!r} has fingerprint '
                        f'{local.fingerprint()} and the checkpoint {trained.fingerprint()}, first '
                        f'differing in {key} ({here!r} here, {there!r} there); give the robot it '
                        'was trained on, or train on this one')
    local = local.with_topics(trained.camera.topic, trained.action.topic)
    camera = dataclasses.replace(trained.camera, topic=local.camera.topic, type=local.camera.type)
    action = dataclasses.replace(trained.action, topic=local.action.topic, type=local.action.type)
    return dataclasses.replace(trained, cameras=(camera,), action=action, state=local.state,
                               episode_topic=local.episode_topic)


def first_difference(one: RobotSpec, other: RobotSpec) -> tuple[str, Any, Any]:
    """The dotted name of the first key in which two specs differ for the model, and its values."""
    return _difference(one.to_dict(), other.to_dict(), '') or ('nothing', None, None)


def _difference(one: Any, other: Any, name: str) -> tuple[str, Any, Any] | None:
    if isinstance(one, dict) and isinstance(other, dict):
        pairs = [(f'{name}.{key}' if name else key, one.get(key), other.get(key))
                 for key in one if key not in _FREE]
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        pairs = [(f'{name}[{i}]', a, b) for i, (a, b) in enumerate(zip(one, other))]
    else:
        return None if one == other else (name, one, other)
    for each, a, b in pairs:
        if (found := _difference(a, b, each)) is not None:
            return found
    return None


def check_types(spec: RobotSpec, sends: bool = False) -> tuple[type, type]:
    """The message classes of the camera and of the action topic; UserError if one can't serve.

    `sends`: commands within the limits will be sent, and must arrive as such.
    """
    check_topics(spec)
    camera, action = message_class(spec.camera.type), message_class(spec.action.type)
    check_fields(action, spec)
    if sends:
        _check_limits(action, spec)
    return camera, action


def _check_limits(action: type, spec: RobotSpec) -> None:
    """Nothing; raises UserError where a limit would not arrive as such in an `action` message.

    A small integer wraps round, so that a robot told to drive fast ahead would drive back, and
    what is rounded may lie beyond a limit. Whatever lies between two limits that arrive does so.
    """
    for f in spec.action.fields:
        for value in (f.min, f.max):
            try:
                message = action()
                set_field(message, f.path, value)
                told = get_field(deserialize_message(serialize_message(message), action), f.path)
            # What rclpy refuses, an array, and where it is told to check all fields.
            except (OverflowError, SystemError, AssertionError):
                told = None
            # To single precision.
            if told is None or not abs(told - value) <= 1e-6 * abs(value):
                became = 'cannot be sent' if told is None else f'arrives as {told:g}'
                raise UserError(f'action field {f.path!r}: its limit {value:g} {became} in a '
                                f'{type_name(action)}; give limits that this type can hold, or '
                                'another type')


def picture(message: Any, camera: Camera) -> np.ndarray:
    """What the model sees of a camera message: (height, width, 3) uint8 RGB, writable memory.

    Raises UserError when it can't be decoded or has another size than the spec says.
    """
    pixels = decode.picture(message, camera)
    # The message's own memory is read-only, which PyTorch warns about.
    return pixels if pixels.flags.writeable else pixels.copy()


def camera_qos(reliable: bool, depth: int) -> QoSProfile:
    """Sensor data: best effort, which meets every publisher; reliable when nothing may be lost."""
    return QoSProfile(depth=depth, reliability=ReliabilityPolicy.RELIABLE if reliable
                      else ReliabilityPolicy.BEST_EFFORT)
