"""Worlds for the simulated robot, and the drivers that it brings along."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from lewm_core.robot import RobotSpec
from lewm_core.types import UserError
from lewm_ros.sim_config import SimConfig

Policy = Callable[[], np.ndarray]


def make_world(name: str, spec: RobotSpec) -> Any:
    """The world called `name` (empty: as the spec is), with pictures of the spec's size.

    Raises UserError when it is neither one of this project's nor a Gymnasium environment.
    """
    # Here, not above: Gymnasium is needed by simulated robots alone.
    from lewm_core import envs
    return envs.make_world(name or spec.name, spec.camera.source_width or spec.camera.width)


def check_world(world: Any, spec: RobotSpec) -> None:
    """Nothing; raises UserError when the world's pictures, actions or state are not the spec's."""
    camera, pixels = spec.camera, world.render()
    height, width = pixels.shape[:2]
    if (camera.source_width or width, camera.source_height or height) != (width, height):
        raise UserError(f'robot spec {spec.name!r} says that its camera gives '
                        f'{camera.source_width}x{camera.source_height}, but this world renders '
                        f'{width}x{height}; correct source_width and source_height')
    if world.action_space.shape != (spec.action_dim,):
        raise UserError(f'robot spec {spec.name!r} has {spec.action_dim} action fields, but this '
                        f'world takes actions of shape {world.action_space.shape}; list one '
                        'field for each number')
    known = world.state()
    for name in spec.state_names:
        if name not in known:
            raise UserError(f'state field {name!r} of robot spec {spec.name!r} is not known to '
                            f'this world; choose among {sorted(known)}')


def own_policy(config: SimConfig, world: Any, spec: RobotSpec, rng: np.random.Generator,
               goal: Any = None) -> Policy:
    """A driver without a model: each call gives the next command (A,) in robot units.

    `random` draws uniformly within the limits and holds each command for `hold_ticks`; `hold`
    gives the safe action; `line` heads straight for `goal`; `explore` is the world's own.
    """
    if config.policy == 'random':
        return _random(config, spec, rng)
    if config.policy == 'line':
        return lambda: world.line_action(goal)
    if config.policy == 'explore':
        explore = world.explorer(rng)
        return lambda: explore(world.state())
    return lambda: spec.safe


def _random(config: SimConfig, spec: RobotSpec, rng: np.random.Generator) -> Policy:
    held, age = spec.safe, config.hold_ticks

    def act() -> np.ndarray:
        nonlocal held, age
        if age >= config.hold_ticks:
            held, age = rng.uniform(spec.low, spec.high), 0
        age += 1
        return held
    return act


def unsolved_task(world: Any, rng: np.random.Generator) -> Any:
    """A task whose goal the robot is not at already; the world then stands at its start.

    Raises RuntimeError after 100 solved ones: the world's goals are then no goals.
    """
    for _ in range(100):
        task = world.sample_task(rng)
        world.reset_to(task)
        if not world.reached(task.goal, 2.0):
            return task
    raise RuntimeError('100 tasks in a row were solved at their start')
