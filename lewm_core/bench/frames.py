"""Files of made-up frames to measure with: 224x224, contents that compress about as a camera's."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lewm_core.config import DataConfig
from lewm_core.data import DatasetWriter
from lewm_core.robot import ActionField, ActionSpec, Camera, RobotSpec

SIZE = 224


def spec() -> RobotSpec:
    """A robot with the paper's camera and two action fields."""
    fields = tuple(ActionField(f'twist.linear.{axis}', -1.0, 1.0) for axis in 'xy')
    return RobotSpec('bench', 10.0, (Camera('front', 'camera', SIZE, SIZE),),
                     ActionSpec('cmd_vel', 'geometry_msgs/msg/TwistStamped', fields))


def synthetic(path: Path, episodes: int, frames: int, data: DataConfig | None = None) -> None:
    """Nothing; writes `episodes` of `frames` frames each to `path`: smooth shades and noise."""
    rng = np.random.default_rng(0)
    shade = np.add.outer(np.arange(SIZE), np.arange(SIZE))[None, :, :, None] // 4
    with DatasetWriter(path, spec(), data) as writer:
        for _ in range(episodes):
            moved = shade + rng.integers(0, 100, (frames, 1, 1, 3))
            noise = rng.integers(0, 8, (SIZE, SIZE, 3))
            writer.add_episode((moved + noise).astype(np.uint8),
                               rng.uniform(-1, 1, (frames, 2)), np.arange(frames) * 10**8)
