"""Two rooms joined by a door, and a disc that drives from one to the other."""

from __future__ import annotations

from typing import Any

import numpy as np

from lewm_core.envs import Box, Canvas, Explorer, State, Task, World, picture_space, towards

RADIUS, SPEED, TICK_S = 0.05, 0.4, 0.1
WALL_X, WALL_HALF = 0.5, 0.02
DOOR_Y, DOOR_HALF = 0.5, 0.15
_FLOOR, _WALL, _ROBOT, _PAINTED = (235, 235, 230), (50, 50, 60), (200, 50, 40), (40, 90, 200)


class TwoRoom(World):
    """A 1 m × 1 m arena, a wall at x = 0.5 with one door, velocity commands in m/s.

    The action (vx, vy) holds for one tick of 0.1 s. Against a wall the robot slides along it.
    """

    radius = RADIUS

    def __init__(self, size: int = 64) -> None:
        self.observation_space = picture_space(size)
        self.action_space = Box(-SPEED, SPEED, (2,), np.float64)
        self._canvas = Canvas(size)
        self._rooms = self._draw_rooms(size)
        self._colour = _ROBOT
        self._position = np.array([0.25, 0.5])

    def reset(self, *, seed: int | None = None,
              options: dict[str, Any] | None = None) -> tuple[np.ndarray, State]:
        """The first picture and the state; `options['position']` puts the robot at (x, y)."""
        super().reset(seed=seed)
        self._colour = _ROBOT
        position = (options or {}).get('position')
        self.place(_free_position(self.np_random) if position is None else position)
        return self.render(), self.state()

    def step(self, action: np.ndarray) -> tuple[np.ndarray | None, float, bool, bool, State]:
        """No picture (ask `render`), no reward, never an end, and the state, one tick later."""
        moved = np.clip(np.asarray(action, float), -SPEED, SPEED) * TICK_S
        for axis in (0, 1):  # one after the other, so that a wall stops only what runs into it
            target = self._position.copy()
            target[axis] = np.clip(target[axis] + moved[axis], RADIUS, 1 - RADIUS)
            if _is_free(target):
                self._position = target
            elif axis == 0:
                self._position[0] = WALL_X - np.sign(moved[0]) * (RADIUS + WALL_HALF)
            else:
                edge = np.sign(moved[1]) * (DOOR_HALF - RADIUS)
                self._position[1] = DOOR_Y + edge
        return None, 0.0, False, False, self.state()

    def render(self) -> np.ndarray:
        """The picture (size, size, 3) uint8 from above, x to the right and y upwards."""
        picture = self._rooms.copy()
        self._canvas.disc(picture, self._position, RADIUS, self._colour)
        return (picture + 0.5).astype(np.uint8)

    def state(self) -> State:
        """The robot's `x` and `y`, in metres."""
        return {'x': float(self._position[0]), 'y': float(self._position[1])}

    def place(self, position: np.ndarray) -> None:
        """Nothing; puts the robot at (x, y); raises ValueError where the walls are."""
        position = np.asarray(position, dtype=float)
        if not _is_free(position):
            raise ValueError(f'position {position.tolist()} is in a wall or outside the arena')
        self._position = position.copy()

    def sample_task(self, rng: np.random.Generator) -> Task:
        """A start in one room and a goal in the other, more than a quarter of the arena apart."""
        while True:
            start, goal = _free_position(rng), _free_position(rng)
            across = (start[0] > WALL_X) != (goal[0] > WALL_X)
            if across and np.linalg.norm(goal - start) > 0.25:
                return Task(start, goal)

    def reset_to(self, task: Task) -> None:
        """Nothing; the robot is at the task's start, in its own colour."""
        self._colour = _ROBOT
        self.place(task.start)

    def goal_image(self, task: Task) -> np.ndarray:
        """The picture of the robot at the goal."""
        before, self._position = self._position, np.asarray(task.goal, dtype=float)
        picture = self.render()
        self._position = before
        return picture

    def teleport(self, rng: np.random.Generator, radii: float = 6.0) -> None:
        """Nothing; the robot is at another free place, more than so many radii away."""
        while True:
            position = _free_position(rng)
            if np.linalg.norm(position - self._position) > radii * RADIUS:
                return self.place(position)

    def set_colour(self) -> None:
        """Nothing; the robot is blue from now on, not red."""
        self._colour = _PAINTED

    def clear_colour(self) -> None:
        """Nothing; the robot is red again."""
        self._colour = _ROBOT

    def explorer(self, rng: np.random.Generator) -> Explorer:
        """A driver that holds random velocities and at times heads for a random place.

        Places in the other room are reached through the door, which random velocities alone
        would hardly ever find.
        """
        return _Explorer(rng)

    def line_action(self, goal: np.ndarray) -> np.ndarray:
        """The velocity (2,) straight towards the goal."""
        return towards(self._position, np.asarray(goal)[:2], SPEED, TICK_S)

    def _draw_rooms(self, size: int) -> np.ndarray:
        """The empty rooms (size, size, 3) float32; edges cover their share of a pixel."""
        picture = np.empty((size, size, 3), np.float32)
        picture[:] = _FLOOR
        canvas = self._canvas
        wall = np.clip((WALL_HALF - np.abs(canvas.x - WALL_X)) * size + 0.5, 0, 1)
        door = np.clip((DOOR_HALF - np.abs(canvas.y - DOOR_Y)) * size + 0.5, 0, 1)
        canvas.blend(picture, (slice(None), slice(None)), wall * (1 - door), _WALL)
        return picture


class _Explorer:
    def __init__(self, rng: np.random.Generator) -> None:
        self._rng, self._left = rng, 0
        self._velocity = np.zeros(2)
        self._target: np.ndarray | None = None

    def __call__(self, state: State) -> np.ndarray:
        position = np.array([state['x'], state['y']])
        if self._left == 0:
            self._choose()
        self._left -= 1
        if self._target is None:
            return self._velocity
        waypoint = _next_waypoint(position, self._target)
        if np.linalg.norm(self._target - position) < RADIUS:
            self._left = 0
        heading = towards(position, waypoint, SPEED, TICK_S) + self._rng.normal(0, 0.08, 2)
        return np.clip(heading, -SPEED, SPEED)

    def _choose(self) -> None:
        """Nothing; decides what to do for the next ticks."""
        if self._rng.random() < 0.3:
            self._target = _free_position(self._rng)
            self._left = int(self._rng.integers(15, 40))
            return
        self._target = None
        self._left = int(self._rng.integers(3, 9))
        self._velocity = self._rng.uniform(-SPEED, SPEED, 2)


def _next_waypoint(position: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The target, or what lies on the way to it: this side of the door, then the other."""
    side = 1.0 if position[0] > WALL_X else -1.0
    if (target[0] - WALL_X) * side > 0:
        return target
    beside = WALL_HALF + 2 * RADIUS
    lined_up = abs(position[1] - DOOR_Y) < 0.6 * (DOOR_HALF - RADIUS)
    return np.array([WALL_X + (-side if lined_up else side) * beside, DOOR_Y])


def _is_free(position: np.ndarray) -> bool:
    """Whether the disc at (x, y) overlaps no wall."""
    inside = (RADIUS <= position).all() and (position <= 1 - RADIUS).all()
    in_wall = abs(position[0] - WALL_X) < RADIUS + WALL_HALF - 1e-9
    in_door = abs(position[1] - DOOR_Y) <= DOOR_HALF - RADIUS + 1e-9
    return bool(inside and (in_door or not in_wall))


def _free_position(rng: np.random.Generator) -> np.ndarray:
    """A free place (x, y) in one of the rooms, not in the doorway."""
    while True:
        position = rng.uniform(RADIUS, 1 - RADIUS, 2)
        if abs(position[0] - WALL_X) > RADIUS + WALL_HALF:
            return position
