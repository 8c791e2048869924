"""What the simulated worlds share: a disc in a square arena, seen from above by one camera."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np

from lewm_core.types import UserError

SIDE = 1.0
TICK_S, MAX_SPEED = 0.1, 0.4
COLOURS = ('floor', 'robot', 'all')

_PLAIN = {'floor': (236, 232, 222), 'robot': (200, 40, 45)}
_STRANGE = {'floor': (150, 190, 235), 'robot': (40, 160, 70)}

Explorer = Callable[[dict[str, float]], np.ndarray]


@dataclass(frozen=True)
class Task:
    """From `start`, a whole state, to `goal` (2,): where the disc's centre is to be, m."""

    start: dict[str, float]
    goal: np.ndarray


class Arena(gymnasium.Env):
    """A square of 1 m with a disc that follows velocity commands (2,), m/s, at 10 Hz.

    The base of the worlds. x points right and y up in the picture; the centre of the disc is at
    `position`. Nothing ever terminates, and the reward is minus the distance to the goal, 0
    without one. Pictures are P = `pixels` square. A subclass says how the disc moves
    (`_advance`), where it may stand (`_free`), and what else is drawn (`_draw_floor`, `_paint`).
    """

    metadata = {'render_modes': ['rgb_array'], 'render_fps': round(1 / TICK_S)}
    radius = 0.05
    ended = False
    # What `set_colour` does, by its kind.
    looks = {kind: f'colour of {kind}' for kind in COLOURS}

    def __init__(self, pixels: int = 64, render_mode: str | None = 'rgb_array') -> None:
        self.pixels, self.render_mode = pixels, render_mode
        self.action_space = gymnasium.spaces.Box(-MAX_SPEED, MAX_SPEED, (2,), np.float32)
        self.observation_space = gymnasium.spaces.Box(0, 255, (pixels, pixels, 3), np.uint8)
        self.position = np.array([0.25, 0.5])
        self.goal: np.ndarray | None = None
        self._colours = dict(_PLAIN)
        self._changes = 0
        self._picture: np.ndarray | None = None
        self._floors: dict[tuple[int, int, int], np.ndarray] = {}

    # Gymnasium
    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None
              ) -> tuple[np.ndarray, dict[str, float]]:
        """The first picture and the state; somewhere free, unless `options` says where.

        Options: 'position' (2,) and 'goal' (2,), m. Raises UserError on a position in a wall, or
        an option that is not known.
        """
        super().reset(seed=seed)
        options = dict(options or {})
        position, self.goal = options.pop('position', None), options.pop('goal', None)
        if options:
            raise UserError(f'reset option {sorted(options)[0]!r} is not known; choose among '
                            "['goal', 'position']")
        if self.goal is not None:
            self.goal = np.asarray(self.goal, dtype=np.float64)
        self.clear_colour()
        self._place(self.np_random, None if position is None else np.array(position, float))
        return self.render(), self.state()

    def step(self, action: np.ndarray
             ) -> tuple[np.ndarray, float, bool, bool, dict[str, float]]:
        """Picture, reward, False, False and the state after one tick of velocity `action` (2,).

        Velocities beyond the limits are clipped, as a motor driver would.
        """
        self.advance(action)
        reward = 0.0 if self.goal is None else -float(np.linalg.norm(self.goal - self.position))
        return self.render(), reward, False, False, self.state()

    def advance(self, action: np.ndarray) -> None:
        """Nothing; one tick as in `step`, without a picture: for those who look rarely."""
        self._advance(np.clip(np.asarray(action, np.float64), -MAX_SPEED, MAX_SPEED) * TICK_S)
        self._picture = None

    def render(self) -> np.ndarray:
        """The picture (P, P, 3) uint8 RGB from above, anti-aliased: it shows sub-pixel moves."""
        if self._picture is None:
            canvas = self._background().copy()
            self._paint(canvas)
            paint_disc(canvas, self.position, self.radius, self._colours['robot'])
            self._picture = np.round(canvas).astype(np.uint8)
        return self._picture.copy()

    # What a simulated robot needs
    def state(self) -> dict[str, float]:
        """Where everything is, by name, in metres."""
        return {'x': float(self.position[0]), 'y': float(self.position[1])}

    def set_state(self, state: dict[str, float]) -> None:
        """Nothing; everything is where `state`, as `state()` gives it, says."""
        self.position = np.array([state['x'], state['y']])
        self._picture = None

    def possible(self) -> bool:
        """Whether everything is where it can be: not in a wall, nor in something else."""
        return self._free(self.position)

    def sample_task(self, rng: np.random.Generator) -> Task:
        """A task whose goal is more than a quarter of the arena from its start."""
        raise NotImplementedError

    def reset_to(self, task: Task) -> None:
        """Nothing; everything is at the task's start, in the usual colours."""
        self.clear_colour()
        self.set_state(task.start)
        self.goal = task.goal

    def goal_image(self, task: Task) -> np.ndarray:
        """The picture (P, P, 3) of the disc at the goal and all else as at the start."""
        kept, colours = self.state(), dict(self._colours)
        self._colours = dict(_PLAIN)
        self.set_state({**task.start, 'x': float(task.goal[0]), 'y': float(task.goal[1])})
        picture = self.render()
        self._colours = colours
        self.set_state(kept)
        return picture

    def reached(self, goal: np.ndarray, radii: float = 2.0) -> bool:
        """Whether the disc's centre is within `radii` of its radii of `goal` (2,)."""
        return float(np.linalg.norm(np.asarray(goal) - self.position)) <= radii * self.radius

    def teleport(self, rng: np.random.Generator, min_radii: float = 6.0) -> float:
        """How far, m, the disc was moved: to a free place at least `min_radii` radii away."""
        before = self.position
        while True:
            place = self._anywhere(rng)
            distance = float(np.linalg.norm(place - before))
            if distance >= min_radii * self.radius and self._free(place):
                self.position, self._picture = place, None
                return distance

    def set_colour(self, kind: str | None = None) -> str:
        """The `kind` of thing whose colour is another from now on; the motion is as before.

        One of 'floor', 'robot', 'all'; None takes them in turn. Raises UserError on another.
        """
        if kind is None:
            kind, self._changes = COLOURS[self._changes % len(COLOURS)], self._changes + 1
        if kind not in COLOURS:
            raise UserError(f'colour change {kind!r} is not known; choose one of {list(COLOURS)}')
        changed = ('floor', 'robot') if kind == 'all' else (kind,)
        self._colours = {**_PLAIN, **{name: _STRANGE[name] for name in changed}}
        self._picture = None
        return kind

    def clear_colour(self) -> None:
        """Nothing; the colours are the usual ones."""
        self._colours = dict(_PLAIN)
        self._picture = None

    def explorer(self, rng: np.random.Generator) -> Explorer:
        """A policy that tries everything: `explore(state)` gives the next command (2,), m/s."""
        raise NotImplementedError

    def way(self, starts: np.ndarray, goals: np.ndarray) -> np.ndarray:
        """The lengths (N,), m, of the disc's shortest ways between (N, 2) and (N, 2).

        Straight, unless something fixed is in the way; what can be moved does not count.
        """
        return np.linalg.norm(np.asarray(goals) - np.asarray(starts), axis=-1)

    def line_action(self, goal: np.ndarray) -> np.ndarray:
        """The command (2,) straight towards `goal`, through whatever is in between."""
        return toward(self.position, goal)

    # For subclasses
    def _advance(self, move: np.ndarray) -> None:
        raise NotImplementedError

    def _free(self, place: np.ndarray) -> bool:
        raise NotImplementedError

    def _background(self) -> np.ndarray:
        """The floor (P, P, 3) float32 and what is fixed to it, drawn once for each colour."""
        colour = self._colours['floor']
        if colour not in self._floors:
            canvas = np.empty((self.pixels, self.pixels, 3), np.float32)
            canvas[:] = colour
            self._draw_floor(canvas)
            self._floors[colour] = canvas
        return self._floors[colour]

    def _draw_floor(self, canvas: np.ndarray) -> None:
        """Draws on `canvas` (P, P, 3) float32 what never moves."""

    def _paint(self, canvas: np.ndarray) -> None:
        """Draws on `canvas` (P, P, 3) float32 what moves, beneath the disc."""

    def _place(self, rng: np.random.Generator, position: np.ndarray | None) -> None:
        """Puts everything somewhere at the start of an episode."""
        if position is None:
            position = self._somewhere(rng)
        elif not self._free(position):
            raise UserError(f'position {position.tolist()} is in a wall or beside the arena; give '
                            f'a place at least {self.radius:g} m from every wall')
        self.position, self._picture = position, None

    def _anywhere(self, rng: np.random.Generator) -> np.ndarray:
        return rng.uniform(self.radius, SIDE - self.radius, 2)

    def _somewhere(self, rng: np.random.Generator) -> np.ndarray:
        while not self._free(place := self._anywhere(rng)):
            pass
        return place


class Steering:
    """An explorer's hand: each command is held 3 to 8 ticks; some are random, some head somewhere.

    `aim(state)` gives the command towards the present waypoint and None once it is reached;
    `choose()` picks another. A waypoint is pursued with probability `purpose` and given up after
    `patience` commands; otherwise the robot wanders for as many commands as it takes to forget.
    """

    def __init__(self, rng: np.random.Generator, aim: Callable[[dict], np.ndarray | None],
                 choose: Callable[[], None], purpose: float = 0.5, patience: int = 15,
                 limit: float = MAX_SPEED) -> None:
        self._rng, self._aim, self._choose = rng, aim, choose
        self._purpose, self._patience, self._limit = purpose, patience, limit
        self._left = self._commands = 0
        self._purposeful = False
        self._held = np.zeros(2)

    def __call__(self, state: dict[str, float]) -> np.ndarray:
        """The command (2,) m/s of the next tick."""
        if self._left == 0:
            self._held = self._next(state)
            self._left = int(self._rng.integers(3, 9))
        self._left -= 1
        return self._held

    def _next(self, state: dict[str, float]) -> np.ndarray:
        if self._commands == 0:
            self._purposeful = self._rng.uniform() < self._purpose
            self._commands = self._patience if self._purposeful else int(self._rng.integers(2, 8))
            self._choose()
        self._commands -= 1
        if self._purposeful:
            aimed = self._aim(state)
            if aimed is not None:
                shaken = aimed + self._rng.normal(0.0, 0.2 * self._limit, 2)
                return np.clip(shaken, -self._limit, self._limit)
            self._commands = 0
        return self._rng.uniform(-self._limit, self._limit, 2)


def toward(position: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """The command (2,) that leads straight from `position` to `goal`, there in a tick if near."""
    wanted = (np.asarray(goal) - position) / TICK_S
    return wanted * min(1.0, MAX_SPEED / max(float(np.abs(wanted).max()), 1e-9))


def paint_disc(canvas: np.ndarray, centre: np.ndarray, radius: float,
               colour: tuple[int, int, int]) -> None:
    """Nothing; a disc (metres) covers `canvas` (P, P, 3) float32, its rim in part."""
    pixels = len(canvas)
    x, y, reach = centre[0] * pixels, (SIDE - centre[1]) * pixels, radius * pixels + 1.0
    columns, rows = (slice(max(0, int(v - reach)), int(v + reach) + 1) for v in (x, y))
    places = np.arange(pixels) + 0.5
    far = np.hypot(places[None, columns] - x, places[rows, None] - y)
    paint(canvas[rows, columns], np.clip(reach - 0.5 - far, 0.0, 1.0), colour)


def paint_box(canvas: np.ndarray, centre: np.ndarray, half: tuple[float, float],
              colour: tuple[int, int, int], angle: float = 0.0, share: float = 1.0) -> None:
    """Nothing; a box of half sides `half` (metres), turned by `angle`, covers `canvas`.

    `canvas` is (P, P, 3) float32; `share` below 1 lets it shine through.
    """
    pixels = len(canvas)
    reach = float(np.hypot(*half)) * pixels + 1.0
    columns, rows = (slice(max(0, int(v - reach)), max(0, int(v + reach) + 1))
                     for v in (centre[0] * pixels, (SIDE - centre[1]) * pixels))
    places = (np.arange(pixels) + 0.5) / pixels
    x, y = places[None, columns] - centre[0], SIDE - places[rows, None] - centre[1]
    along, across = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
    ink = [np.clip((h - np.abs(v)) * pixels + 0.5, 0.0, 1.0)
           for h, v in zip(half, (along, across))]
    paint(canvas[rows, columns], share * ink[0] * ink[1], colour)


def paint(canvas: np.ndarray, ink: np.ndarray, colour: tuple[int, int, int]) -> None:
    """Nothing; `colour` covers `canvas` (h, w, 3) float32 as far as `ink` (h, w) in [0, 1] goes.
    """
    canvas += ink[..., None].astype(np.float32) * (np.float32(colour) - canvas)
