"""`gym_pusht/PushT-v0`, the T-shaped block of Diffusion Policy (arXiv 2303.04137), as a world."""

from __future__ import annotations

import importlib
from typing import Any

import gymnasium
import numpy as np

from lewm_core.arena import Explorer, Steering, Task
from lewm_core.gym_world import GymRobot
from lewm_core.types import UserError

NAME = 'gym_pusht/PushT-v0'
SIDE, TICK_S, MAX_SPEED = 512.0, 0.1, 200.0
_INSIDE = 30.0  # where the disc is told to stay away from the walls, which don't stop it
_WALL = 7.0  # how far the walls reach into the arena
# The simulator's controller takes a place to go to, and pulls with 100/s² and brakes with 20/s:
# towards a place that keeps a quarter second's way ahead the disc moves at that speed.
_LEAD_S = 0.25


class PushT(GymRobot):
    """The simulator's disc, told velocities (2,), px/s, instead of places; goals are for the disc.

    A place as a command would have no safe value and no limit on speed. Coordinates are the
    simulator's: 0 to 512 pixels, y down.

    No wall stops the disc, so it can squeeze the block out between them, from where nothing
    brings it back. An episode therefore ends (`truncated`) once a corner of the block has left
    the picture, and none begins so.
    """

    radius = 15.0

    def __init__(self, pixels: int | None = None) -> None:
        try:
            importlib.import_module('gym_pusht')  # which registers the environment
        except ImportError as error:
            raise UserError(f'world {NAME!r} needs the package gym-pusht ({error}); install it '
                            'with `make pusht`') from None
        super().__init__(NAME, pixels, visualization_width=512, visualization_height=512)
        self._low, self._high = np.full(2, -MAX_SPEED), np.full(2, MAX_SPEED)
        self.action_space = gymnasium.spaces.Box(-MAX_SPEED, MAX_SPEED, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None
              ) -> tuple[Any, dict]:
        """The simulator's own observation and info; it may lay the block across a wall."""
        result = super().reset(seed=seed, options=options)
        while options is None and not _within(self.env, 0.0):
            result = super().reset()
        return result

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict]:
        """The simulator's five after one tick of velocity `action` (2,), px/s."""
        observation, reward, terminated, truncated, info = super().step(action)
        truncated = truncated or not _within(self.env, 0.0)
        self.ended = bool(terminated or truncated)
        return observation, reward, terminated, truncated, info

    def state(self) -> dict[str, float]:
        """Where the disc and the block are, px, and how far the block is turned, rad in [0, 2π).
        """
        return _read(self.env)

    def set_state(self, state: dict[str, float]) -> None:
        """Nothing; disc and block are where `state`, as `state()` gives it, says.

        Exactly, which the simulator's own option `reset_to_state` is not: it turns the block
        after placing it, and so about another point. The disc keeps its velocity.
        """
        velocity = self.env.agent.velocity
        _write(self.env, state)
        self.env.agent.velocity = velocity

    def possible(self) -> bool:
        """Whether the disc is where commands lead and not in the block, which no wall touches."""
        here = self._here()
        apart = min(shape.point_query(tuple(here)).distance for shape in self.env.block.shapes)
        return (bool((np.abs(here - SIDE / 2) <= SIDE / 2 - _INSIDE + 1.0).all())
                and apart >= self.radius and _within(self.env, _WALL))

    def sample_task(self, rng: np.random.Generator) -> Task:
        """A task for the disc, 0.4 of the arena long at least, clear of the block."""
        aside = self._imagined()
        while True:
            aside.reset(seed=int(rng.integers(2**31)))
            start = _read(aside)
            goal = rng.uniform(_INSIDE, SIDE - _INSIDE, 2)
            apart = np.hypot(goal[0] - start['x'], goal[1] - start['y'])
            free = all(_free(aside, place) for place in (
                goal, np.array([start['x'], start['y']])))
            if apart > 0.4 * SIDE and free and _within(aside, 0.0):
                return Task(start, goal)

    def reset_to(self, task: Task) -> None:
        """Nothing; disc and block lie still at the task's start, in the usual colours."""
        self.clear_colour()
        _write(self.env, task.start)

    def goal_image(self, task: Task) -> np.ndarray:
        """The picture of the disc at the goal and the block as at the start."""
        aside = self._imagined()
        aside.reset(seed=0)
        _write(aside, {**task.start, 'x': float(task.goal[0]), 'y': float(task.goal[1])})
        return self._picture(aside)

    def reached(self, goal: np.ndarray, radii: float = 2.0) -> bool:
        """Whether the disc's centre is within `radii` of its radii of `goal` (2,)."""
        return bool(np.linalg.norm(goal - self._here()) <= radii * self.radius)

    def teleport(self, rng: np.random.Generator, min_radii: float = 6.0) -> float:
        """How far, px, the disc was moved: to a free place `min_radii` radii away or more."""
        while True:
            place = rng.uniform(_INSIDE, SIDE - _INSIDE, 2)
            distance = float(np.linalg.norm(place - self._here()))
            if distance >= min_radii * self.radius and _free(self.env, place):
                _write(self.env, {**self.state(), 'x': float(place[0]), 'y': float(place[1])})
                return distance

    def explorer(self, rng: np.random.Generator) -> Explorer:
        """A policy that goes everywhere and through the block; commands (2,), px/s."""
        target: list[np.ndarray] = []

        def choose() -> None:
            target[:] = [rng.uniform(_INSIDE, SIDE - _INSIDE, 2)] if rng.uniform() < 0.5 else []

        def aim(state: dict[str, float]) -> np.ndarray | None:
            here, block = (np.array([state[p + 'x'], state[p + 'y']]) for p in ('', 'block_'))
            goal = target[0] if target else block
            near = np.linalg.norm(goal - here) < 2 * self.radius
            return None if near else _toward(here, goal) * rng.uniform(0.5, 1.0)

        return Steering(rng, aim, choose, purpose=0.6, patience=6, limit=MAX_SPEED)

    def line_action(self, goal: np.ndarray) -> np.ndarray:
        """The command (2,) straight towards `goal`, through whatever is in between."""
        return _toward(self._here(), np.asarray(goal))

    def _native(self, action: np.ndarray) -> np.ndarray:
        return np.clip(self._here() + action * _LEAD_S, _INSIDE, SIDE - _INSIDE)

    def _picture(self, env: gymnasium.Env) -> np.ndarray:
        # It would draw a cross where the last command leads, which a real camera doesn't see.
        env._last_action = None
        return super()._picture(env)

    def _here(self) -> np.ndarray:
        return np.array(self.env.agent.position)


def _toward(here: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """The velocity (2,) from `here` to `goal`; half of the way a tick when near."""
    wanted = (goal - here) / (2 * TICK_S)
    return wanted * min(1.0, MAX_SPEED / max(float(np.abs(wanted).max()), 1e-9))


def _read(env: Any) -> dict[str, float]:
    (x, y), (block_x, block_y) = env.agent.position, env.block.position
    return {'x': float(x), 'y': float(y), 'block_x': float(block_x), 'block_y': float(block_y),
            'block_angle': float(env.block.angle % (2 * np.pi))}


def _write(env: Any, state: dict[str, float]) -> None:
    """Nothing; disc and block lie still where `state` says."""
    env.agent.position, env.agent.velocity = (state['x'], state['y']), (0.0, 0.0)
    # The angle first: the block turns about its centre of gravity, which moves its position.
    env.block.angle = state['block_angle']
    env.block.position = (state['block_x'], state['block_y'])
    env.block.velocity, env.block.angular_velocity = (0.0, 0.0), 0.0
    for body in (env.agent, env.block):
        env.space.reindex_shapes_for_body(body)


def _within(env: Any, margin: float) -> bool:
    """Whether all of the block is in the picture and `margin`, px, from its edges."""
    corners = np.array([env.block.local_to_world(corner) for shape in env.block.shapes
                        for corner in shape.get_vertices()])
    return bool((np.abs(corners - SIDE / 2) <= SIDE / 2 - margin).all())


def _free(env: Any, place: np.ndarray) -> bool:
    """Whether the disc, at `place` (2,), would touch neither the block nor a wall."""
    clear = PushT.radius + 3.0
    return min(shape.point_query(tuple(place)).distance for shape in env.space.shapes
               if shape.body is not env.agent) >= clear
