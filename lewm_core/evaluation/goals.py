"""Closed loop: how many goals the planner reaches in a world, with something in between."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np

from lewm_core.agent import Agent
from lewm_core.evaluation.intervals import Figure, ratio_of
from lewm_core.evaluation.subject import Subject
from lewm_core.images import prepare
from lewm_core.tails import wilson_interval
from lewm_core.types import Frame, UserError

_TICKS = 60  # a goal's budget, as in `lewm demo`
_RADII = 2.0
_TASKS = 100
_STREAM = 20


def drive_to_goals(subject: Subject, look: Callable[[np.ndarray], np.ndarray], noise: float,
                   delay: int) -> dict[str, Any]:
    """The share of the job's goals that are reached, with its Wilson interval.

    The tasks are the same whatever is in between. The planner sees `look` of each picture; its
    commands reach the robot `delay` ticks late, with noise of `noise` standard deviations of the
    training commands, and it takes them for what was done. Reached: within two radii of the goal
    within 60 ticks, or before the world ends the episode. Raises UserError where task after task
    is solved at its start.
    """
    job, world, agent = subject.job, subject.make_world(), Agent(subject.checkpoint)
    std = subject.model.action_std.cpu().numpy().astype(np.float64)
    reached = 0
    for i in range(job.goals):
        rng = np.random.default_rng([job.seed, _STREAM, i])
        task = _unsolved(world, rng)
        reached += _reaches(subject, world, agent, task, look, noise * std, delay, rng)
    return {'reached': _share(reached, job.goals).to_dict()}


def drive_from_rare(subject: Subject, share: float,
                    rarity: Callable[[dict[str, np.ndarray]], np.ndarray]) -> dict[str, Any]:
    """The shares of goals reached from the rarest `share` of starts and from others, their ratio.

    `rarity` (N,) of the states' columns (N,) says how rare each start is. The job's goals are
    driven to from either, undisturbed, as in `drive_to_goals`.
    """
    job, world, agent = subject.job, subject.make_world(), Agent(subject.checkpoint)
    tasks, states = [], []
    for i in range(round(job.goals / share)):
        rng = np.random.default_rng([job.seed, _STREAM + 1, i])
        tasks.append((_unsolved(world, rng), rng))
        states.append(world.state())
    order = np.argsort(-rarity({name: np.array([s[name] for s in states])
                                for name in states[0]}), kind='stable')
    found = {}
    for name, which in (('rare', order[:job.goals]), ('others', np.sort(order[job.goals:]))):
        reached = 0
        for task, rng in (tasks[i] for i in which[:job.goals]):
            world.reset_to(task)
            reached += _reaches(subject, world, agent, task, lambda pixels: pixels,
                                np.zeros(subject.checkpoint.spec.action_dim), 0, rng)
        found[name] = _share(reached, job.goals)
    found['ratio'] = ratio_of(found['rare'], found['others'])
    return {name: figure.to_dict() for name, figure in found.items()}


def _share(reached: int, goals: int) -> Figure:
    return Figure(reached / goals, *wilson_interval(reached, goals), goals)


def _unsolved(world: Any, rng: np.random.Generator) -> Any:
    """A task whose goal the robot isn't at already; the world then stands at its start."""
    for _ in range(_TASKS):
        task = world.sample_task(rng)
        world.reset_to(task)
        if not world.reached(task.goal, _RADII):
            return task
    raise UserError(f'{_TASKS} goals of this world in a row were reached at their start, so they '
                    'say nothing of a planner; leave robustness out of sections, or give '
                    'world=none')


def _reaches(subject: Subject, world: Any, agent: Agent, task: Any,
             look: Callable[[np.ndarray], np.ndarray], spread: np.ndarray, delay: int,
             rng: np.random.Generator) -> bool:
    """Whether the goal of `task`, at whose start `world` is, is reached."""
    spec, coming = subject.checkpoint.spec, deque([subject.checkpoint.spec.safe] * delay)
    agent.reset()
    agent.set_goal(prepare(world.goal_image(task), spec.camera))
    tick_ns = round(1e9 * spec.tick_s)
    for tick in range(_TICKS):
        # Between plans the picture is not looked at.
        pixels = look(prepare(world.render(), spec.camera)) if tick % subject.skip == 0 else None
        coming.append(agent.act(Frame(tick * tick_ns, pixels)).values)
        world.advance(spec.clamp(coming.popleft() + rng.normal(0.0, 1.0, len(spread)) * spread))
        if world.reached(task.goal, _RADII):
            return True
        if world.ended:
            break
    return False
