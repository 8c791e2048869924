"""A world small enough to see through: a dot on a line of pixels, one command."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

SPEC = """
name: toy
rate_hz: 10.0
max_age_s: 0.5
cameras:
  - {name: top, topic: camera/image_raw, type: TYPE, width: 16, height: 16,
     source_width: 16, source_height: 16}
action:
  topic: cmd_vel
  type: geometry_msgs/msg/TwistStamped
  latency_s: 0.05
  timeout_s: 0.5
  fields:
    - {path: twist.linear.x, min: -1.0, max: 1.0}
state:
  - topic: odom
    type: nav_msgs/msg/Odometry
    fields:
      - {path: pose.pose.position.x, name: x}
episode_topic: episode
"""


def write_spec(folder: Path, camera_type: str = 'sensor_msgs/msg/Image', **replaced: str) -> Path:
    """The path of the toy's robot spec; `replaced` exchanges words of it."""
    text = SPEC.replace('TYPE', camera_type)
    for old, new in replaced.items():
        text = text.replace(old, new)
    path = folder / 'toy.yaml'
    path.write_text(text)
    return path


@dataclass(frozen=True)
class Task:
    """From one place to another."""

    start: float
    goal: float


class Line(gymnasium.Env):
    """A dot of radius 0.05 on [0, 1] that moves by a tenth of the command each step.

    `applied` lists what it was told, for a test to compare with what was said.
    """

    radius = 0.05
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self) -> None:
        self.x, self.colour, self.applied, self.teleports = 0.5, 255, [], 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
        """The picture at a place that the seed decides."""
        super().reset(seed=seed)
        self.x = float(self.np_random.uniform())
        return self.render(), {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict]:
        """Gymnasium's five; never ends by itself."""
        self.applied.append(float(action[0]))
        self.x = float(np.clip(self.x + 0.1 * action[0], 0.0, 1.0))
        return None, 0.0, False, False, {}

    def render(self) -> np.ndarray:
        """The dot, one column wide."""
        pixels = np.zeros((16, 16, 3), np.uint8)
        pixels[:, round(15 * self.x)] = self.colour
        return pixels

    def state(self) -> dict[str, float]:
        """Where it is."""
        return {'x': self.x}

    def sample_task(self, rng: np.random.Generator) -> Task:
        """From left to right; one in three is solved already, which a caller must notice."""
        if rng.uniform() < 1 / 3:
            return Task(0.5, 0.5)
        return Task(float(rng.uniform(0.0, 0.3)), float(rng.uniform(0.7, 1.0)))

    def reset_to(self, task: Task) -> None:
        """At the task's start."""
        self.x = task.start

    def goal_image(self, task: Task) -> np.ndarray:
        """The picture at the goal."""
        kept, self.x = self.x, task.goal
        pixels = self.render()
        self.x = kept
        return pixels

    def reached(self, goal: float, radii: float = 2.0) -> bool:
        """Whether it is within so many radii of the goal."""
        return abs(self.x - goal) <= radii * self.radius

    def teleport(self, rng: np.random.Generator, min_radii: float = 6.0) -> None:
        """To the other half."""
        self.teleports += 1
        self.x = (self.x + 0.5) % 1.0

    def set_colour(self, kind: Any = None) -> None:
        """Darker."""
        self.colour = 100

    def clear_colour(self) -> None:
        """As before."""
        self.colour = 255

    def explorer(self, rng: np.random.Generator) -> Callable[[Any], np.ndarray]:
        """Uniformly random commands."""
        return lambda _: rng.uniform(-1.0, 1.0, 1)

    def line_action(self, goal: float) -> np.ndarray:
        """Straight there."""
        return np.clip(np.array([10 * (goal - self.x)]), -1.0, 1.0)
