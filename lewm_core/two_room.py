"""Two rooms joined by a door: the simulated robot of `lewm demo`."""

from __future__ import annotations

import numpy as np

from lewm_core.arena import SIDE, Arena, Explorer, Steering, Task, paint_box, toward

_WALL_X, _WALL_HALF = 0.5, 0.03
_DOOR_Y, _DOOR_HALF = 0.5, 0.12
_WALL_COLOUR = (70, 70, 80)
_SUBSTEPS = 4


class TwoRoom(Arena):
    """A wall at x = 0.5 m with one door at y = 0.5 m; the disc slides along what it meets.

    Collisions are those of the disc's bounding square, which makes the wall's ends sharp: the
    free places of the centre are two rectangles and the passage between them.
    """

    def __init__(self, pixels: int = 64, render_mode: str | None = 'rgb_array') -> None:
        super().__init__(pixels, render_mode)
        self._reach = _WALL_HALF + self.radius          # of the wall, on either side
        self._passage = _DOOR_HALF - self.radius        # of the centre, in the door

    def sample_task(self, rng: np.random.Generator) -> Task:
        """A task from one room to the other, more than a quarter of the arena apart."""
        while True:
            start, goal = self._somewhere(rng), self._somewhere(rng)
            clear = min(abs(start[0] - _WALL_X), abs(goal[0] - _WALL_X)) >= self._reach
            crossing = (start[0] < _WALL_X) != (goal[0] < _WALL_X)
            if clear and crossing and np.linalg.norm(goal - start) > 0.25 * SIDE:
                return Task({'x': float(start[0]), 'y': float(start[1])}, goal)

    def guide_action(self, goal: np.ndarray) -> np.ndarray:
        """The command (2,) of someone who knows the map: to `goal`, through the door if need be.
        """
        return toward(self.position, self._via(self.position, np.asarray(goal)))

    def way(self, starts: np.ndarray, goals: np.ndarray) -> np.ndarray:
        """The lengths (N,), m, of the shortest ways between (N, 2) and (N, 2), through the door.

        A shortest way is straight but for the corners of the passage that it touches, at most one
        on each side of the wall.
        """
        a, b = (np.asarray(v, dtype=np.float64) for v in (starts, goals))
        swap = a[:, :1] > b[:, :1]
        a, b = np.where(swap, b, a), np.where(swap, a, b)
        doors = [np.array([_WALL_X + side * self._reach, _DOOR_Y]) for side in (-1, 1)]
        edge = np.array([0.0, self._passage])
        shortest = np.full(len(a), np.inf)
        for first in (None, doors[0] - edge, doors[0] + edge):
            for second in (None, doors[1] - edge, doors[1] + edge):
                points = [a, *(np.broadcast_to(p, a.shape) for p in (first, second)
                               if p is not None), b]
                pieces = list(zip(points, points[1:]))
                free = np.logical_and.reduce([self._open(p, q) for p, q in pieces])
                length = np.sum([np.linalg.norm(q - p, axis=1) for p, q in pieces], axis=0)
                shortest = np.minimum(shortest, np.where(free, length, np.inf))
        return shortest

    def _open(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Whether the straight line from (N, 2) to (N, 2), not to the left, meets no wall (N,)."""
        low, high = _WALL_X - self._reach, _WALL_X + self._reach
        begins, ends = (np.clip(v, a[:, 0], b[:, 0]) for v in (low, high))
        inside = (a[:, 0] < high) & (b[:, 0] > low) & (ends > begins)
        slope = (b[:, 1] - a[:, 1]) / np.maximum(b[:, 0] - a[:, 0], 1e-12)
        heights = [a[:, 1] + slope * (x - a[:, 0]) - _DOOR_Y for x in (begins, ends)]
        return ~inside | (np.abs(heights) <= self._passage + 1e-9).all(axis=0)

    def explorer(self, rng: np.random.Generator) -> Explorer:
        """A policy that covers both rooms and the door, with collisions; commands (2,), m/s."""
        waypoint = np.zeros(2)

        def choose() -> None:
            waypoint[:] = self._somewhere(rng)

        def aim(state: dict[str, float]) -> np.ndarray | None:
            here = np.array([state['x'], state['y']])
            if np.linalg.norm(waypoint - here) < 2 * self.radius:
                return None
            # Slower than at full speed by as much as chance says, so that all speeds are seen.
            return toward(here, self._via(here, waypoint)) * rng.uniform(0.6, 1.0)

        return Steering(rng, aim, choose, purpose=0.6)

    def _via(self, here: np.ndarray, goal: np.ndarray) -> np.ndarray:
        """The next corner of the shortest way from `here` to `goal`."""
        inside = abs(here[0] - _WALL_X) < self._reach
        side = np.sign(here[0] - _WALL_X) or 1.0
        if (goal[0] - _WALL_X) * side >= self._reach and not inside:
            return goal
        lane = np.clip(goal[1], _DOOR_Y - 0.8 * self._passage, _DOOR_Y + 0.8 * self._passage)
        if inside:
            if abs(goal[0] - _WALL_X) < self._reach:
                return goal
            return np.array([_WALL_X + np.sign(goal[0] - _WALL_X) * (self._reach + 0.01), here[1]])
        door_x = _WALL_X + side * self._reach
        if abs(here[1] - lane) < 0.2 * self._passage or (
                abs(here[1] - _DOOR_Y) < self._passage and abs(here[0] - door_x) < 0.04):
            return np.array([_WALL_X - side * (self._reach + 0.01), here[1]])
        return np.array([door_x + side * 0.005, lane])

    def _advance(self, move: np.ndarray) -> None:
        low, high = self.radius, SIDE - self.radius
        x, y = self.position
        for dx, dy in np.broadcast_to(move / _SUBSTEPS, (_SUBSTEPS, 2)):
            side = 1.0 if x >= _WALL_X else -1.0
            x = min(max(x + dx, low), high)
            if abs(y - _DOOR_Y) > self._passage and (x - _WALL_X) * side < self._reach:
                x = _WALL_X + side * self._reach
            y = min(max(y + dy, low), high)
            if abs(x - _WALL_X) < self._reach:
                y = min(max(y, _DOOR_Y - self._passage), _DOOR_Y + self._passage)
        self.position = np.array([x, y])

    def _free(self, place: np.ndarray) -> bool:
        slack = 1e-9  # touching is free
        inside = bool((np.abs(place - SIDE / 2) <= SIDE / 2 - self.radius + slack).all())
        return inside and bool(abs(place[0] - _WALL_X) >= self._reach - slack
                               or abs(place[1] - _DOOR_Y) <= self._passage + slack)

    def _draw_floor(self, canvas: np.ndarray) -> None:
        end = (_DOOR_Y - _DOOR_HALF) / 2
        for y in (end, SIDE - end):
            paint_box(canvas, np.array([_WALL_X, y]), (_WALL_HALF, end), _WALL_COLOUR)
