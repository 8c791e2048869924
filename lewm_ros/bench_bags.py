"""Bags for the bench: a camera that looks about in a textured scene, and its commands."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from lewm_core.robot import RobotSpec

WIDTH, HEIGHT = 640, 480
_STORE = get_typestore(Stores.ROS2_JAZZY)
_T = _STORE.types
_DISTINCT = 100  # pictures; a longer recording shows them again
_TICK = 100_000_000
_EPISODE = 200  # frames
_QUALITY = 90  # of a camera driver's JPEG


def bench_spec(kind: str, side: int) -> RobotSpec:
    """The robot of the bench; its model sees side × side pixels."""
    type = 'CompressedImage' if kind == 'jpeg' else 'Image'
    fields = [{'path': f'twist.{p}', 'min': -1.0, 'max': 1.0} for p in ('linear.x', 'angular.z')]
    return RobotSpec.from_dict({
        'name': 'bench', 'rate_hz': 10.0,
        'cameras': [{'name': 'front', 'topic': 'image', 'type': f'sensor_msgs/msg/{type}',
                     'width': side, 'height': side, 'source_width': WIDTH,
                     'source_height': HEIGHT}],
        'action': {'topic': 'cmd_vel', 'type': 'geometry_msgs/msg/TwistStamped',
                   'fields': fields}})


def scene() -> np.ndarray:
    """A large picture (h, w, 3) uint8: texture at every scale, edges, shadows."""
    rng = np.random.default_rng(0)
    height, width = HEIGHT + 200, WIDTH + 400
    made = np.zeros((height, width, 3), np.float32)
    for octave in range(8):
        grid = rng.normal(0, 60 / 1.7 ** octave, (3 * 2 ** octave, 4 * 2 ** octave, 3))
        made += cv2.resize(grid.astype(np.float32), (width, height),
                           interpolation=cv2.INTER_CUBIC)
    made += 120
    for _ in range(60):
        x, y = int(rng.integers(width)), int(rng.integers(height))
        w, h = (int(v) for v in rng.integers(20, 160, 2))
        made[y:y + h, x:x + w] = 0.5 * made[y:y + h, x:x + w] + rng.uniform(0, 130, 3)
    return np.clip(made, 0, 255).astype(np.uint8)


def scenes(kind: str, count: int) -> Iterator[Any]:
    """Yields the first `count` camera messages; their stamps are to be filled in."""
    wide, rng = scene(), np.random.default_rng(1)
    header = _T['std_msgs/msg/Header'](_T['builtin_interfaces/msg/Time'](0, 0), 'camera')
    for k in range(count):
        x, y = round(200 + 190 * np.sin(k / 16)), round(100 + 95 * np.cos(k / 11))
        view = wide[y:y + HEIGHT, x:x + WIDTH] + rng.normal(0, 3, (HEIGHT, WIDTH, 1))
        rgb = np.clip(view, 0, 255).astype(np.uint8)
        if kind == 'raw':
            yield _T['sensor_msgs/msg/Image'](header, HEIGHT, WIDTH, 'rgb8', 0, 3 * WIDTH,
                                              rgb.ravel())
        else:
            data = cv2.imencode('.jpg', rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1]
            yield _T['sensor_msgs/msg/CompressedImage'](header, 'jpeg', data.ravel())


def write_bench_bag(path: Path, kind: str, frames: int) -> Path:
    """The path of an mcap recording of `frames` images at 10 Hz and commands at 20 Hz."""
    images = [bytearray(_STORE.serialize_cdr(m, m.__msgtype__))
              for m in scenes(kind, min(frames, _DISTINCT))]
    twist, vector = _T['geometry_msgs/msg/TwistStamped'], _T['geometry_msgs/msg/Vector3']
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        camera = writer.add_connection('/image', bench_spec(kind, 64).camera.type,
                                       typestore=_STORE)
        commands = writer.add_connection('/cmd_vel', 'geometry_msgs/msg/TwistStamped',
                                         typestore=_STORE)
        for k in range(frames):
            # A pause of a second ends an episode.
            stamp = 1_700_000_000_000_000_000 + k * _TICK + k // _EPISODE * 10 * _TICK
            raw = images[k % len(images)]
            raw[4:12] = np.array(divmod(stamp, 10**9), '<u4').tobytes()  # behind the CDR head
            writer.write(camera, stamp, bytes(raw))
            for later in (_TICK // 4, 3 * _TICK // 4):
                at = _T['builtin_interfaces/msg/Time'](*divmod(stamp + later, 10**9))
                message = twist(_T['std_msgs/msg/Header'](at, ''), _T['geometry_msgs/msg/Twist'](
                    vector(np.sin(k / 9), 0.0, 0.0), vector(0.0, 0.0, np.cos(k / 7))))
                writer.write(commands, stamp + later,
                             bytes(_STORE.serialize_cdr(message, message.__msgtype__)))
    return path
