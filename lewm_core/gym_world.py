"""Any Gymnasium environment as a world for the simulated robot, as far as it can be one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import gymnasium
import numpy as np

from lewm_core.arena import COLOURS, Explorer
from lewm_core.types import UserError

# A strange light (floor), strange paint (robot), or both (all); on RGB in [0, 255].
_LIGHT = np.float32([0.65, 0.85, 1.0])


@dataclass(frozen=True)
class GymTask:
    """From where a reset with `seed` begins to `goal`, which the picture `picture` shows.

    `goal` is the state (N,) to be reached, in the environment's own units.
    """

    seed: int
    goal: np.ndarray
    picture: np.ndarray


class GymRobot(gymnasium.Env):
    """A Gymnasium environment with a box action space and `rgb_array` rendering.

    Commands are the environment's actions; the state is its observation, numbers named `obs_0`,
    `obs_1`, … Nothing more can be known of an environment in general, so a task leads from a
    reset to where random commands led from there, and "one radius" is a twentieth of the range
    that random commands reach, in every number of the state. Pictures are scaled to `pixels`
    square; None leaves them as they are rendered.
    """

    metadata = {'render_modes': ['rgb_array']}
    render_mode = 'rgb_array'
    # What `set_colour` does here, where nothing is known of what is in the picture.
    looks = {'floor': 'another light', 'robot': 'colours exchanged',
             'all': 'another light, colours exchanged'}

    def __init__(self, name: str, pixels: int | None = None, **options: Any) -> None:
        self._make = lambda: _make(name, options)
        self.env, self._pixels = self._make(), pixels
        self._name = name
        self._aside: gymnasium.Env | None = None  # imagines goals while `env` stays where it is
        self.action_space = self.env.action_space
        self.observation_space = self.env.observation_space
        if not (isinstance(self.action_space, gymnasium.spaces.Box)
                and len(self.action_space.shape) == 1
                and np.isfinite([self.action_space.low, self.action_space.high]).all()):
            raise UserError(f'environment {name!r} takes actions of {self.action_space}, but a '
                            'flat Box with finite limits is needed; choose another environment')
        # Not np.float64(v): NumPy before 2.3 makes a number of an array of one.
        self._low = np.asarray(self.action_space.low, np.float64)
        self._high = np.asarray(self.action_space.high, np.float64)
        self._observation: Any = None
        self._colour: str | None = None
        self._changes = 0
        self._range: np.ndarray | None = None
        self.reset(seed=0)
        self.render()  # fails now rather than in the middle of a drive

    # Gymnasium
    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None
              ) -> tuple[Any, dict]:
        """The environment's own observation and info."""
        super().reset(seed=seed)
        self.clear_colour()
        self.ended = False
        self._observation, info = self.env.reset(seed=seed, options=options)
        return self._observation, info

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict]:
        """The environment's own five; the action is clipped to its limits."""
        action = np.clip(np.asarray(action, np.float64), self._low, self._high)
        result = self.env.step(self._native(action))
        self._observation, self.ended = result[0], bool(result[2] or result[3])
        return result

    def advance(self, action: np.ndarray) -> None:
        """Nothing; one tick as in `step`. `ended` says whether the episode is over with it."""
        self.step(action)

    def render(self) -> np.ndarray:
        """The picture (pixels, pixels, 3) uint8 RGB."""
        return self._coloured(self._picture(self.env))

    def close(self) -> None:
        """Nothing; lets go of the environment."""
        self.env.close()
        if self._aside is not None:
            self._aside.close()

    # What a simulated robot needs
    def state(self) -> dict[str, float]:
        """The numbers of the observation by name; none where it is a picture."""
        return {f'obs_{i}': float(v) for i, v in enumerate(_flat(self._observation))}

    def sample_task(self, rng: np.random.Generator) -> GymTask:
        """A task whose goal is more than five radii from its start, if 50 drives find one."""
        aside, seed, task = self._imagined(), 0, None
        for _ in range(50):
            seed = int(rng.integers(2**31))
            start = _flat(aside.reset(seed=seed)[0])
            goal = self._drift(aside, rng, 40)
            task = GymTask(seed, goal, self._picture(aside))
            if self._radii(start, goal) > 5.0:
                break
        return task

    def reset_to(self, task: GymTask) -> None:
        """Nothing; the environment as it is at the task's start."""
        self.reset(seed=task.seed)

    def goal_image(self, task: GymTask) -> np.ndarray:
        """The picture of the goal."""
        return task.picture.copy()

    def reached(self, goal: np.ndarray, radii: float = 2.0) -> bool:
        """Whether every number of the state is within `radii` radii of the goal's."""
        return self._radii(_flat(self._observation), np.asarray(goal)) <= radii

    def teleport(self, rng: np.random.Generator, min_radii: float = 6.0) -> float:
        """How far, in radii, the new state of the environment is from the old: a reset elsewhere.

        Of 100 resets the first one `min_radii` away is taken, or else the last.
        """
        before, colour, distance = _flat(self._observation), self._colour, 0.0
        for _ in range(100):
            self._observation, _ = self.env.reset(seed=int(rng.integers(2**31)))
            distance = self._radii(before, _flat(self._observation))
            if distance >= min_radii:
                break
        self._colour = colour
        return distance

    def measurable(self) -> bool:
        """Whether the state holds a number that changes, without which nothing is far or near."""
        return bool((self._ranges() > 0).any())

    def set_colour(self, kind: str | None = None) -> str:
        """The `kind` of change: another light ('floor'), other paint ('robot') or both ('all').

        None takes them in turn. The picture alone changes. Raises UserError on another.
        """
        if kind is None:
            kind, self._changes = COLOURS[self._changes % len(COLOURS)], self._changes + 1
        if kind not in COLOURS:
            raise UserError(f'colour change {kind!r} is not known; choose one of {list(COLOURS)}')
        self._colour = kind
        return kind

    def clear_colour(self) -> None:
        """Nothing; the colours are the usual ones."""
        self._colour = None

    def explorer(self, rng: np.random.Generator) -> Explorer:
        """A policy of random commands within the limits, each held 3 to 8 ticks."""
        return held_at_random(rng, self._low, self._high)

    def line_action(self, goal: np.ndarray) -> np.ndarray:
        """Nothing: raises UserError, for no general environment says where a straight line leads.
        """
        raise UserError(f'a straight line is not known in environment {self._name!r}; choose the '
                        'policy random, hold or external')

    # For subclasses
    def _native(self, action: np.ndarray) -> np.ndarray:
        """What the environment is told for the command (A,)."""
        return action.astype(self.action_space.dtype)

    def _imagined(self) -> gymnasium.Env:
        if self._aside is None:
            self._aside = self._make()
        return self._aside

    def _picture(self, env: gymnasium.Env) -> np.ndarray:
        try:
            picture = np.asarray(env.render())
        except (gymnasium.error.Error, ImportError) as error:
            raise UserError(f'environment {self._name!r} cannot render ({error}); install what it '
                            'asks for') from None
        if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
            raise UserError(f'environment {self._name!r} renders {picture.dtype} of shape '
                            f'{picture.shape}, but (height, width, 3) uint8 is needed; choose '
                            'another environment')
        if self._pixels is None or picture.shape[:2] == (self._pixels, self._pixels):
            return picture
        shrinks = self._pixels < max(picture.shape[:2])
        return cv2.resize(picture, (self._pixels, self._pixels),
                          interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)

    def _coloured(self, picture: np.ndarray) -> np.ndarray:
        if self._colour in ('robot', 'all'):
            picture = np.roll(picture, 1, axis=2)
        if self._colour in ('floor', 'all'):
            picture = np.round(picture * _LIGHT).astype(np.uint8)
        return picture

    def _drift(self, env: gymnasium.Env, rng: np.random.Generator, ticks: int) -> np.ndarray:
        """The state (N,) after so many ticks of random commands, fewer if the episode ends."""
        act = held_at_random(rng, self._low, self._high)
        for _ in range(ticks):
            observation, _, terminated, truncated, _ = env.step(
                act({}).astype(self.action_space.dtype))
            if terminated or truncated:
                break
        return _flat(observation)

    def _radii(self, one: np.ndarray, other: np.ndarray) -> float:
        """The greatest distance of two states (N,) in any number, in twentieths of its range."""
        moving = self._ranges() > 0
        if not moving.any():
            raise UserError(f'environment {self._name!r} observes no number that changes, so no '
                            'goal can be told to be reached; choose another environment or mode')
        return float((np.abs(one - other)[moving] / (self._ranges()[moving] / 20)).max())

    def _ranges(self) -> np.ndarray:
        """The range (N,) of each number of the state in some short random drives."""
        if self._range is None:
            aside, rng = self._imagined(), np.random.default_rng(0)
            seen = []
            for seed in range(20):
                seen += [_flat(aside.reset(seed=seed)[0]), self._drift(aside, rng, 40)]
            self._range = np.ptp(seen, axis=0)
        return self._range


def held_at_random(rng: np.random.Generator, low: np.ndarray, high: np.ndarray) -> Callable:
    """A policy `act(state)`: uniform commands (A,) between the limits, each held 3 to 8 ticks."""
    left, held = 0, low

    def act(_: Any) -> np.ndarray:
        nonlocal left, held
        if left == 0:
            left, held = int(rng.integers(3, 9)), rng.uniform(low, high)
        left -= 1
        return held
    return act


def _make(name: str, options: dict[str, Any]) -> gymnasium.Env:
    try:
        # Unwrapped: the time limit and the checks of the wrappers are not the robot's.
        return gymnasium.make(name, render_mode='rgb_array', disable_env_checker=True,
                              **options).unwrapped
    except (gymnasium.error.Error, ImportError, TypeError, ValueError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f'world {name!r} cannot be made ({first}); give two_room, push, pusht or '
                        'the id of an installed Gymnasium environment that renders rgb_array'
                        ) from None


def _flat(observation: Any) -> np.ndarray:
    """The numbers (N,) of an observation, () where it is a picture or nothing flat."""
    values = np.asarray(observation) if not isinstance(observation, (dict, tuple)) else None
    if values is None or values.ndim > 1 or values.dtype.kind not in 'fiu':
        return np.zeros(0)
    return values.reshape(-1).astype(np.float64)
