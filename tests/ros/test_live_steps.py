"""A recording gives the same steps message by message, as a live node gets it, and converted."""

from __future__ import annotations

import numpy as np
import pytest
from bag_toys import (LOG, START, STORE, S, bag_image, command, converted, header,
                      with_latency, without)
from rclpy.serialization import deserialize_message

from lewm_core.images import prepare
from lewm_ros.decode import decode
from lewm_ros.fields import get_action, message_class, stamp_ns
from lewm_ros.recorded_steps import commanded_part
from lewm_ros.steps import LiveClock, StepBuilder


def untidy_drive(rng):
    """A mosaic camera at 30 Hz with jitter, losses and gaps; commands at 23 Hz that cease.

    Some commands are not finite.
    """
    messages, log = [], LOG
    frames = START + np.cumsum(rng.choice([1, 1, 1, 1, 2, 25], 700) * S // 30
                               + rng.integers(0, S // 200, 700))
    commands = START + np.cumsum(rng.choice([1, 1, 1, 30], 1800, p=[0.4, 0.3, 0.29, 0.01])
                                 * S // 23)
    for k, stamp in enumerate(frames):
        mosaic = rng.integers(0, 256, (60, 80), np.uint8)
        messages.append((int(stamp), '/camera/image_raw', bag_image(int(stamp), mosaic,
                                                                    'bayer_grbg8')))
        if k % 250 == 100:
            messages.append((int(stamp) - 1, '/episode', header(int(stamp))))
    told = rng.uniform(-0.4, 0.4, (len(commands), 2))
    told[rng.random(told.shape) < 0.02] = np.nan
    told[rng.random(told.shape) < 0.005] = -np.inf
    messages += [(int(t), '/cmd_vel', command(int(t), *values))
                 for t, values in zip(commands, told)]
    return [(topic, log + stamp - START, m) for stamp, topic, m
            in sorted(messages, key=lambda m: m[0])]


@pytest.mark.parametrize('on_timeout', ['safe', 'drop'])
def test_a_recording_gives_the_same_frames_and_actions_live_and_converted(
        tmp_path, two_room, on_timeout):
    camera = {**two_room.to_dict()['cameras'][0], 'source_width': 80, 'source_height': 60,
              'crop': [10, 0, 60, 60]}
    spec = without(with_latency(two_room, on_timeout=on_timeout), 'state', cameras=[camera])
    messages = untidy_drive(np.random.default_rng(3))
    report, data = converted(tmp_path, messages, spec, window=2)
    watched = live_steps(spec, messages)
    live = commanded_part(watched)
    assert len(watched) - len(live) == report.uncommanded > 50
    rows = {int(stamp): row for row, stamp in enumerate(data['stamp_ns'])}
    starts = {int(data['stamp_ns'][offset]) for offset in data['ep_offset']}
    compared = 0
    for before, step in zip([None, *live], live):
        row = rows[step.stamp_ns]
        np.testing.assert_array_equal(data['pixels'][row], step.payload)
        assert step.new_episode == (step.stamp_ns in starts)
        if not step.new_episode:
            assert rows[before.stamp_ns] == row - 1 and np.isfinite(step.action).all()
            np.testing.assert_array_equal(data['action'][row - 1],
                                          step.action.astype(np.float32))
            compared += 1
    assert len(live) == report.frames and report.dropped_frames == 0
    assert report.not_finite > 50 and compared > 100 and len(starts) > 5


def live_steps(spec, messages):
    """The steps a live node makes of the messages as rclpy gives them, in order of publication."""
    clock, builder, steps = LiveClock(has_header=True), StepBuilder(spec), []
    for topic, log, bag_message in messages:
        kind = bag_message.__msgtype__
        message = deserialize_message(bytes(STORE.serialize_cdr(bag_message, kind)),
                                      message_class(kind))
        stamp = clock.stamp(topic, stamp_ns(message), log)
        if topic == '/episode':
            steps += builder.marker(stamp)
        elif topic == '/cmd_vel':
            steps += builder.command(stamp, get_action(message, spec))
        else:
            steps += builder.frame(stamp, prepare(decode(message), spec.camera))
    return steps + builder.flush()
