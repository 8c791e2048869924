"""Recordings of a simulated robot whose latency is known; run it to see how well it is found:

    PYTHONPATH=.:tests/ros python tests/ros/latency_toys.py
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np
from bag_toys import LOG, START, S, T, bag_image, command, header, twist, write_bag

from lewm_core.two_room import TwoRoom

# camera, its rate, that of the commands, minutes
KINDS = (('above', 10, 10, 1), ('above', 10, 10, 3), ('above', 30, 10, 1), ('above', 10, 30, 3),
         ('aboard', 10, 10, 1))
FINE_S = 0.005  # the world moves in steps of this


def wander(latency_s, seconds=60, camera_hz=10.0, command_hz=10.0, jitter=0.1, seed=0,
           camera='above'):
    """The commands [(s, (2,))] and the pictures [(s, (64, 64, 3))] of a drive; with `camera`
    'aboard' of a camera on the robot.

    Each command moves the robot from `latency_s` after its stamp on, until the next does. The
    intervals of camera and commands vary by the share `jitter`.
    """
    rng, world = np.random.default_rng(seed), TwoRoom()
    world.reset(seed=seed)
    policy, waiting, velocity = world.explorer(rng), [], np.zeros(2)
    commands, pictures, positions, next_command, next_picture = [], [], [], 0.013, 0.0
    for step in range(round(seconds / FINE_S)):
        now = step * FINE_S
        if now >= next_command:
            commands.append((now, np.array(policy(world.state()))))
            waiting.append((now + latency_s, commands[-1][1]))
            next_command += rng.uniform(1 - jitter, 1 + jitter) / command_hz
        while waiting and waiting[0][0] <= now:
            velocity = waiting.pop(0)[1]
        if now >= next_picture:
            world._picture = None
            pictures.append((now, world.render()))
            positions.append(world.position)
            next_picture += rng.uniform(1 - jitter, 1 + jitter) / camera_hz
        world._advance(velocity * FINE_S)
    return commands, aboard(pictures, positions) if camera == 'aboard' else pictures


def aboard(pictures, positions):
    """The pictures of a camera on the robot that looks at the floor, in place of `pictures`."""
    floor = np.random.default_rng(7).integers(0, 256, (500, 500, 3), dtype=np.uint8)
    floor = cv2.GaussianBlur(floor, (0, 0), 3)
    return [(at, cv2.getRectSubPix(floor, (64, 64), (50 + 400 * x, 450 - 400 * y)))
            for (at, _), (x, y) in zip(pictures, positions)]


def record(path, commands, pictures, headers=True, jpeg=False, transport_s=0.0):
    """The path of a bag of them; without `headers` commands are Twists and pictures take
    `transport_s` to the recorder."""
    messages = []
    for at, picture in pictures:
        at = round(at * S)
        if jpeg:
            data = cv2.imencode('.jpg', picture[:, :, ::-1])[1]
            message = T['sensor_msgs/msg/CompressedImage'](header(START + at), 'jpeg',
                                                           data.ravel())
        else:
            message = bag_image(START + at, picture)
        messages.append(('/camera', LOG + at + round(transport_s * S), message))
    for at, values in commands:
        at = round(at * S)
        messages.append(('/cmd_vel', LOG + at + 1000,
                         command(START + at, *values) if headers else twist(*values)))
    return write_bag(path, sorted(messages, key=lambda m: m[1]))


def main():
    """The exit code 0; prints the estimates of recordings of known latency, of the cameras and
    rates whose numbers are given or of all."""
    from lewm_ros.inspect_bag import inspect_one
    rows = [('latency, s', 'camera', 'commands', 'minutes', 'estimate', '95 % interval', 'error')]
    wanted = [int(word) for word in sys.argv[1:]] or range(len(KINDS))
    for camera, camera_hz, command_hz, minutes in (KINDS[i] for i in wanted):
        for seed, latency_s in enumerate((0.0, 0.05, 0.12, 0.2, 0.37)):
            with tempfile.TemporaryDirectory() as folder:
                drive = wander(latency_s, 60 * minutes, camera_hz, command_hz, seed=seed,
                               camera=camera)
                bag = record(Path(folder) / 'bag', *drive, jpeg=bool(seed % 2))
                found = inspect_one(bag, latency=True).latency
            sure = '' if found.confident(0.1) else ', not confident'
            rows.append((f'{latency_s:.2f}', f'{camera}, {camera_hz} Hz', f'{command_hz} Hz',
                         f'{minutes}',
                         f'{found.seconds:.3f}', f'{found.low:.3f} to {found.high:.3f}{sure}',
                         f'{1e3 * (found.seconds - latency_s):+.0f} ms'))
    print('\n'.join('| ' + ' | '.join(row) + ' |' for row in rows))
    return 0


if __name__ == '__main__':
    sys.exit(main())
