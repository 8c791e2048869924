"""A disc that pushes a block about on a table, seen from above."""

from __future__ import annotations

from typing import Any

import numpy as np

from lewm_core.arena import SIDE, Arena, Explorer, Steering, Task, paint_box, toward

_HALF = 0.07                        # of the block's side
_RIM = 0.11                         # what the block keeps from the walls: the disc fits behind it
_BLOCK_COLOUR, _RIM_COLOUR = (110, 130, 165), (212, 206, 194)
# Where the friction under a square turns it as hard as it resists: the mean distance of the
# square's points from its centre, by which turning and moving are traded.
_ARM = 0.3826 * 2 * _HALF
_TOUCH = 1.4143 * _HALF + Arena.radius  # nearer centres may touch
_SUBSTEPS = 8
# A task's length: nearer ones are reached by chance too often to say anything.
_FAR = 0.4 * SIDE


class Push(Arena):
    """A square block of 0.14 m that moves only while the disc pushes it, and turns with it.

    Quasi-static pushing without friction between disc and block, on an ellipsoid limit surface
    (Lynch, Manipulation and Active Sensing by Pushing Using Tactile Feedback, IROS 1992). A rim
    keeps the block from the walls, so that the disc can always get behind it. Goals are places
    for the disc; their pictures show the block where it was at the start.
    """

    def __init__(self, pixels: int = 64, render_mode: str | None = 'rgb_array') -> None:
        super().__init__(pixels, render_mode)
        self.block = np.array([0.6, 0.5])
        self.angle = 0.0

    def state(self) -> dict[str, float]:
        """Where the disc and the block are, m, and how far the block is turned, rad in [-π, π).
        """
        return {**super().state(), 'block_x': float(self.block[0]),
                'block_y': float(self.block[1]), 'block_angle': _wrapped(self.angle)}

    def set_state(self, state: dict[str, float]) -> None:
        """Nothing; everything is where `state`, as `state()` gives it, says."""
        super().set_state(state)
        self.block = np.array([state['block_x'], state['block_y']])
        self.angle = float(state['block_angle'])

    def possible(self) -> bool:
        """Whether the block is within its rim, and the disc on the table and not in the block."""
        block = self.block
        self._keep_inside()
        inside, self.block = bool(np.allclose(block, self.block, atol=1e-9)), block
        return inside and super().possible()

    def sample_task(self, rng: np.random.Generator) -> Task:
        """A task for the disc, 0.4 m long at least; the block lies anywhere."""
        kept = self.state()
        while True:
            self._lay_block(rng)
            start, goal = self._somewhere(rng), self._somewhere(rng)
            if np.linalg.norm(goal - start) > _FAR:
                self.position = start
                task = Task(self.state(), goal)
                self.set_state(kept)
                return task

    def guide_action(self, goal: np.ndarray) -> np.ndarray:
        """The command (2,) of someone who knows the map: to `goal`, past the block."""
        return toward(self.position, _past(self.position, np.asarray(goal), self.block))

    def explorer(self, rng: np.random.Generator, contact: float = 0.6) -> Explorer:
        """A policy that goes everywhere and pushes the block about; commands (2,), m/s.

        `contact` in [0, 1] is the share of its errands that lead through the block.
        """
        return Steering(rng, _Errand(rng, contact), lambda: None, purpose=0.75, patience=12)

    def _advance(self, move: np.ndarray) -> None:
        low, high = self.radius, SIDE - self.radius
        if np.linalg.norm(self.block - self.position) > _TOUCH + np.linalg.norm(move):
            self.position = np.clip(self.position + move, low, high)
            return
        for step in np.broadcast_to(move / _SUBSTEPS, (_SUBSTEPS, 2)):
            self.position = np.clip(self.position + step, low, high)
            depth, normal, contact = self._contact()
            if depth <= 0:
                continue
            lever = contact[0] * normal[1] - contact[1] * normal[0]
            slide = depth / (1 + (lever / _ARM) ** 2)
            self.block = self.block + slide * normal
            self.angle += slide * lever / _ARM ** 2
            self._keep_inside()
            depth, normal, _ = self._contact()
            if depth > 0:  # the rim holds the block, and the block the disc
                self.position = np.clip(self.position - depth * normal, low, high)

    def _contact(self) -> tuple[float, np.ndarray, np.ndarray]:
        """How deep the disc is in the block, m; the way out for the block; where, from its centre.

        Both (2,) in the arena's directions; the depth is negative where they do not touch.
        """
        turn = _turn(self.angle)
        local = (self.position - self.block) @ turn
        nearest = np.clip(local, -_HALF, _HALF)
        away = nearest - local
        distance = float(np.linalg.norm(away))
        if distance < 1e-9:  # the disc's centre is at an edge or inside: out by the nearest edge
            axis = int(np.argmax(np.abs(local)))
            away = np.zeros(2)
            away[axis] = -np.sign(local[axis]) or 1.0
            return self.radius + _HALF - abs(local[axis]), turn @ away, turn @ nearest
        return self.radius - distance, turn @ (away / distance), turn @ nearest

    def _keep_inside(self) -> None:
        """Nothing; the rim pushes the block back as far as its corners are across."""
        reach = _HALF * (abs(np.cos(self.angle)) + abs(np.sin(self.angle)))
        self.block = np.clip(self.block, _RIM + reach, SIDE - _RIM - reach)

    def _free(self, place: np.ndarray) -> bool:
        slack = 1e-9  # touching is free
        inside = bool((np.abs(place - SIDE / 2) <= SIDE / 2 - self.radius + slack).all())
        local = (place - self.block) @ _turn(self.angle)
        gap = float(np.linalg.norm(local - np.clip(local, -_HALF, _HALF)))
        return inside and gap >= self.radius - slack

    def _place(self, rng: np.random.Generator, position: np.ndarray | None) -> None:
        for _ in range(1000):
            self._lay_block(rng)
            if position is None or self._free(position):
                break
        super()._place(rng, position)

    def _lay_block(self, rng: np.random.Generator) -> None:
        self.angle = float(rng.uniform(-np.pi, np.pi))
        self.block = rng.uniform(0.0, SIDE, 2)
        self._keep_inside()

    def _draw_floor(self, canvas: np.ndarray) -> None:
        middle, inside = np.full(2, SIDE / 2), (SIDE / 2 - _RIM,) * 2
        paint_box(canvas, middle, (SIDE, SIDE), _RIM_COLOUR, share=0.5)
        paint_box(canvas, middle, inside, self._colours['floor'])

    def _paint(self, canvas: np.ndarray) -> None:
        paint_box(canvas, self.block, (_HALF, _HALF), _BLOCK_COLOUR, self.angle)


class _Errand:
    """Where an explorer heads: some place, or behind the block and then through it."""

    def __init__(self, rng: np.random.Generator, contact: float) -> None:
        self._rng, self._contact = rng, contact
        self._goal: np.ndarray | None = None
        self._side: np.ndarray | None = None

    def __call__(self, state: dict[str, float]) -> np.ndarray | None:
        """The command (2,) from here on; None once, when the errand is done."""
        here, block = (np.array([state[p + 'x'], state[p + 'y']]) for p in ('', 'block_'))
        speed = self._rng.uniform(0.5, 1.0)
        if self._goal is None and self._side is None:
            self._begin()
        if self._side is not None:
            behind = np.clip(block + self._side * (1.5 * _HALF + 0.06), 0.05, SIDE - 0.05)
            if np.linalg.norm(behind - here) < 0.05:
                # From here on straight through the block and out of its far side.
                self._goal, self._side = block - self._side * self._rng.uniform(0.05, 0.3), None
            else:
                return toward(here, _past(here, behind, block)) * speed
        if np.linalg.norm(self._goal - here) < 0.05 or self._rng.uniform() < 0.05:
            self._goal = None
            return None
        return toward(here, self._goal) * speed

    def _begin(self) -> None:
        if self._rng.uniform() < 1 - self._contact:
            self._goal = self._rng.uniform(0.05, SIDE - 0.05, 2)
        else:
            angle = self._rng.uniform(-np.pi, np.pi)
            self._side = np.array([np.cos(angle), np.sin(angle)])


def _past(here: np.ndarray, goal: np.ndarray, block: np.ndarray) -> np.ndarray:
    """The goal, or a point beside the block where the straight way would run into it."""
    way = goal - here
    length = float(np.linalg.norm(way))
    if length < 1e-6:
        return goal
    ahead = way / length
    along = float((block - here) @ ahead)
    across = np.array([-ahead[1], ahead[0]])
    offset = float((block - here) @ across)
    clear = 1.4143 * _HALF + 0.06
    if abs(offset) >= clear or along <= 0 or along >= length:
        return goal
    for side in (-np.sign(offset) or 1.0, np.sign(offset) or -1.0):
        beside = block + side * across * (clear + 0.02)
        if (beside >= 0.05).all() and (beside <= SIDE - 0.05).all():
            return beside
    return goal


def _turn(angle: float) -> np.ndarray:
    """The rotation (2, 2) from the block's directions to the arena's."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s], [s, c]])


def _wrapped(angle: Any) -> float:
    return float((angle + np.pi) % (2 * np.pi) - np.pi)
