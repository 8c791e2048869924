"""Bags made by hand: every stamp, pixel and command known."""

from __future__ import annotations

import array
from pathlib import Path

import h5py
import numpy as np
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from lewm_core.robot import RobotSpec
from lewm_ros.bags import convert

STORE = get_typestore(Stores.ROS2_JAZZY)
T = STORE.types
S = 1_000_000_000
TICK = S // 10
START = 1000 * S
LOG = 1_800_000_000 * S  # what a recorder's wall clock would say


def header(stamp_ns):
    return T['std_msgs/msg/Header'](T['builtin_interfaces/msg/Time'](*divmod(stamp_ns, S)), '')


def bag_image(stamp_ns, pixels, encoding='rgb8', step=None, big=0, width=None):
    """A rosbags Image of `pixels` (h, w) or (h, w, c), or of raw rows (h, bytes)."""
    pixels = np.asarray(pixels, dtype=np.uint8)
    height, wide = pixels.shape[:2]
    data = pixels.reshape(height, -1)
    return T['sensor_msgs/msg/Image'](header(stamp_ns), height, width or wide, encoding, big,
                                      data.shape[1] if step is None else step, data.ravel())


def live_image(message):
    """The rclpy twin of a rosbags Image or CompressedImage."""
    from sensor_msgs.msg import CompressedImage, Image
    made = Image() if hasattr(message, 'encoding') else CompressedImage()
    for name in made.get_fields_and_field_types():
        if name not in ('header', 'data'):
            setattr(made, name, getattr(message, name))
    made.data = array.array('B', bytes(message.data))
    made.header.stamp.sec = message.header.stamp.sec
    made.header.stamp.nanosec = message.header.stamp.nanosec
    return made


def twist(x, y=0.0):
    vector = T['geometry_msgs/msg/Vector3']
    return T['geometry_msgs/msg/Twist'](vector(float(x), float(y), 0.0), vector(0.0, 0.0, 0.0))


def command(stamp_ns, x, y=0.0):
    return T['geometry_msgs/msg/TwistStamped'](header(stamp_ns), twist(x, y))


def odometry(stamp_ns, x, y=0.0):
    quaternion = T['geometry_msgs/msg/Quaternion'](0.0, 0.0, 0.0, 1.0)
    pose = T['geometry_msgs/msg/Pose'](T['geometry_msgs/msg/Point'](x, y, 0.0), quaternion)
    return T['nav_msgs/msg/Odometry'](
        header(stamp_ns), '', T['geometry_msgs/msg/PoseWithCovariance'](pose, np.zeros(36)),
        T['geometry_msgs/msg/TwistWithCovariance'](twist(0), np.zeros(36)))


def picture(index, size=64):
    """A picture that says its index in every pixel, and is not flat."""
    made = np.full((size, size, 3), index % 251, np.uint8)
    made[:size // 2, :, 1] = index // 251
    made[0, :, 2] = np.arange(size)
    return made


def write_bag(path, messages, empty=(), storage=StoragePlugin.MCAP):
    """The path of a bag with `messages`, (topic, log time, rosbags message) each.

    `empty` holds (topic, type) of topics without a message.
    """
    writer = Writer(path, version=9, storage_plugin=storage)
    with writer:
        known = {}
        for topic, kind in empty:
            known[topic] = writer.add_connection(topic, kind, typestore=STORE)
        for topic, log_ns, message in messages:
            kind = message.__msgtype__
            if (topic, kind) not in known:
                known[topic, kind] = writer.add_connection(topic, kind, typestore=STORE)
            writer.write(known[topic, kind], log_ns, bytes(STORE.serialize_cdr(message, kind)))
    return Path(path)


def drive(frames=40, episodes=1, command_delay_ns=0, start=START, log=LOG):
    """The messages of a drive at 10 Hz: frame k shows k, command k says k / 1000, odom x says k.

    Command k is stamped `command_delay_ns` after frame k. Episodes are 10 s apart, each with its
    marker.
    """
    messages, k, stamp = [], 0, start
    for _ in range(episodes):
        messages.append(('/episode', log + stamp - start - 1000, header(stamp)))
        for _ in range(frames):
            at = log + stamp - start
            messages.append(('/odom', at + 1000, odometry(stamp, float(k))))
            messages.append(('/camera/image_raw', at + 2000, bag_image(stamp, picture(k))))
            messages.append(('/cmd_vel', at + 3000 + command_delay_ns,
                             command(stamp + command_delay_ns, k / 1000)))
            k, stamp = k + 1, stamp + TICK
        stamp += 10 * S
    return sorted(messages, key=lambda m: m[1])


def with_latency(spec: RobotSpec, **changes) -> RobotSpec:
    """The spec with other values in its action (latency_s, timeout_s, on_timeout, type…)."""
    tree = spec.to_dict()
    tree['action'].update(changes)
    return RobotSpec.from_dict(tree)


def without(spec, *keys, **changes):
    """The spec without some of its optional parts, and with other values."""
    tree = {**spec.to_dict(), **changes}
    for key in keys:
        tree.pop(key)
    return RobotSpec.from_dict(tree)


def converted(tmp_path, messages, spec, **kwargs):
    """The report and the columns of the dataset made of one bag."""
    bag = write_bag(tmp_path / 'bag', messages)
    report = convert([bag], spec, tmp_path / 'data.h5', **kwargs)
    with h5py.File(report.output) as file:
        return report, {key: file[key][:] for key in file}
