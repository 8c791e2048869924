"""What every simulated world offers the robot in it: Gymnasium's API and a few questions more.

Lengths are in metres and times in ticks. A world knows no ROS; the simulated robot's node drives
it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np

State = dict[str, float]
Explorer = Callable[[State], np.ndarray]


@dataclass(frozen=True)
class Task:
    """Where the robot starts and where it should go; arrays whose first two numbers are x, y."""

    start: np.ndarray
    goal: np.ndarray


class World(gymnasium.Env):
    """A flat world seen from above with one robot in it, whose commands are velocities.

    `radius` is the robot's, in metres; `extent` (left, right, bottom, top) what the camera sees.
    """

    metadata = {'render_modes': ['rgb_array'], 'render_fps': 10}
    render_mode = 'rgb_array'
    radius: float
    extent: tuple[float, float, float, float] = (0.0, 1.0, 0.0, 1.0)

    def state(self) -> State:
        """The world's state by name, in metres and radians; `x` and `y` are the robot's."""
        raise NotImplementedError

    def place(self, position: np.ndarray) -> None:
        """Nothing; puts the robot at (x, y), the rest as it is."""
        raise NotImplementedError

    def sample_task(self, rng: np.random.Generator) -> Task:
        """A start and a goal more than a quarter of the arena apart."""
        raise NotImplementedError

    def reset_to(self, task: Task) -> None:
        """Nothing; the world as it is at the task's start."""
        raise NotImplementedError

    def goal_image(self, task: Task) -> np.ndarray:
        """The picture (H, W, 3) uint8 of the robot at the goal; the world is left as it was."""
        raise NotImplementedError

    def teleport(self, rng: np.random.Generator, radii: float = 6.0) -> None:
        """Nothing; the robot is elsewhere at once, more than so many of its radii away."""
        raise NotImplementedError

    def set_colour(self) -> None:
        """Nothing; the robot looks different from now on and moves as before."""
        raise NotImplementedError

    def clear_colour(self) -> None:
        """Nothing; the robot looks as it should again."""
        raise NotImplementedError

    def explorer(self, rng: np.random.Generator) -> Explorer:
        """A driver for recording: from the state to the next command, robot units."""
        raise NotImplementedError

    def line_action(self, goal: np.ndarray) -> np.ndarray:
        """The command straight towards the goal, blind to what is in between."""
        raise NotImplementedError

    def reached(self, goal: np.ndarray, radii: float = 2.0) -> bool:
        """Whether the robot is within so many of its radii of the goal's x, y."""
        state = self.state()
        distance = np.hypot(state['x'] - goal[0], state['y'] - goal[1])
        return bool(distance <= radii * self.radius)


def towards(position: np.ndarray, target: np.ndarray, speed: float, tick_s: float) -> np.ndarray:
    """The velocity (2,) that leads from `position` to `target`, m/s, each part at most `speed`.

    Within reach of one tick it is slower, so that it ends there.
    """
    velocity = (np.asarray(target) - position) / tick_s
    return velocity / max(1.0, np.abs(velocity).max() / speed)


class Canvas:
    """Pixel centres of a square picture of the unit square, and discs drawn with soft edges."""

    def __init__(self, size: int) -> None:
        self.size = size
        centre = ((np.arange(size) + 0.5) / size).astype(np.float32)
        self.x, self.y = centre[None, :], centre[::-1, None]

    def disc(self, picture: np.ndarray, position: np.ndarray, radius: float,
             colour: tuple[int, int, int]) -> None:
        """Nothing; draws onto `picture` (H, W, 3) float32. Edges cover their share of a pixel."""
        near = self._window(position, radius)
        distance = np.hypot(self.x[:, near[1]] - position[0], self.y[near[0]] - position[1])
        self.blend(picture, near, np.clip((radius - distance) * self.size + 0.5, 0, 1), colour)

    def blend(self, picture: np.ndarray, window: tuple[slice, slice], share: np.ndarray,
              colour: tuple[int, int, int]) -> None:
        """Nothing; covers a window of `picture` with `colour`, by `share` (h, w) in [0, 1]."""
        part = picture[window]
        part += share[..., None] * (np.asarray(colour, np.float32) - part)

    def _window(self, position: np.ndarray, radius: float) -> tuple[slice, slice]:
        """The rows and columns that a disc can touch."""
        reach = radius + 1.5 / self.size
        left, right = ((position[0] + side * reach) * self.size for side in (-1, 1))
        top, bottom = ((1 - position[1] + side * reach) * self.size for side in (-1, 1))
        return (slice(max(0, int(top)), max(0, int(np.ceil(bottom)))),
                slice(max(0, int(left)), max(0, int(np.ceil(right)))))


Box = gymnasium.spaces.Box


def picture_space(size: int) -> Any:
    """The observation space of pictures (size, size, 3) uint8."""
    return Box(0, 255, (size, size, 3), np.uint8)
