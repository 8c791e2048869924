"""Whether `~/goal_reached` is true: what was said of goals beside where the robot really was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from lewm_core.agent import Agent
from lewm_core.bench.ahead import TRIAL_TICKS
from lewm_core.checkpoint import Checkpoint
from lewm_core.config import PlannerConfig
from lewm_core.envs import make_world
from lewm_core.tails import wilson_interval
from lewm_core.types import Frame

_AFTER = 20  # ticks in which a goal that was reached at the last moment may be said to be


class Drive(NamedTuple):
    """One goal: the distance to it, m, before each tick and at the end (T + 1,), and the tick at
    which it was first said to be reached, -1 if never."""

    metres: np.ndarray
    said: int


def measure_arrival(checkpoint: Checkpoint, planner: PlannerConfig, goals: int, seed: int,
                    on_progress: Callable[[int, int], None] | None = None
                    ) -> dict[str, Any] | None:
    """What was said of `goals` goals with at_goal=keep, and where the robot was with rest.

    None where the checkpoint has no tolerance. Every goal is driven to for 80 ticks, the same in
    both. Truth is two robot radii, as in `lewm demo`.
    """
    rng = np.random.default_rng(seed)
    world = make_world(checkpoint.spec.name, checkpoint.model.config.image_size)
    agents = {rest: Agent(checkpoint, planner, rest=rest) for rest in (False, True)}
    if agents[True].arrival.tolerance is None:
        return None
    drives: dict[bool, list[Drive]] = {rest: [] for rest in agents}
    for done in range(goals):
        task = world.sample_task(rng)
        for rest, agent in agents.items():
            world.reset_to(task)
            agent.reset()
            agent.set_goal(world.goal_image(task))
            drives[rest].append(_drive(world, agent, task.goal))
        if on_progress is not None:
            on_progress(done + 1, goals)
    return {'tolerance': agents[True].arrival.tolerance,
            **figures(drives[False], 2 * world.radius),
            'keep': _final(drives[False]), 'rest': _final(drives[True])}


def _drive(world: Any, agent: Agent, goal: np.ndarray) -> Drive:
    metres, said = [], -1
    for tick in range(TRIAL_TICKS + _AFTER):
        metres.append(float(np.linalg.norm(goal - world.position)))
        # Between plans the picture is not looked at.
        action = agent.act(Frame(tick, world.render() if tick % agent.frameskip == 0 else None))
        if agent.arrival.reached and said < 0:
            said = tick
        world.advance(action.values)
    return Drive(np.array([*metres, np.linalg.norm(goal - world.position)]), said)


def figures(drives: list[Drive], near_m: float) -> dict[str, Any]:
    """What was said beside the truth, which is less than `near_m` from the goal.

    `precision`: of the goals said to be reached, those that were, at that moment. `recall`: of
    the goals that were, at any tick of the first 60, those said to be, rightly. Both with Wilson's
    95 % interval. `late_ticks`: from the first tick there to the one it was said, median and 95th
    percentile. `said_m`: the distance at which it was said, the same.
    """
    said = [d for d in drives if d.said >= 0]
    right = [d for d in said if d.metres[d.said] <= near_m]
    there = [d for d in drives if (d.metres[:TRIAL_TICKS + 1] <= near_m).any()]
    late = [d.said - int(np.argmax(d.metres <= near_m)) for d in right]
    both = [d for d in there if d.said >= 0 and d.metres[d.said] <= near_m]
    return {'goals': len(drives), 'precision': _share(len(right), len(said)),
            'recall': _share(len(both), len(there)), 'late_ticks': _middle(late),
            'said_m': _middle([d.metres[d.said] for d in said])}


def in_words(found: dict[str, Any] | None) -> str:
    """What `measure_arrival` found, in a line."""
    if found is None:
        return 'the checkpoint does not say how near to a goal is near enough'
    return ('said to be reached: {precision[count]} of {precision[of]} rightly, of the goals '
            'reached {recall[count]} of {recall[of]}, {late_ticks[p50]:.0f} ticks late (p95 '
            '{late_ticks[p95]:.0f}); in the end {keep[p50]:.3f} m away (p95 {keep[p95]:.3f}), '
            'with at_goal=rest {rest[p50]:.3f} m (p95 {rest[p95]:.3f})').format(**found)


def _share(count: int, total: int) -> dict[str, Any]:
    low, high = wilson_interval(count, total) if total else (0.0, 1.0)
    return {'count': count, 'of': total, 'ci_low': low, 'ci_high': high}


def _final(drives: list[Drive]) -> dict[str, Any]:
    """How far from the goal, m, the robot is at the end, where it was said to be reached."""
    return _middle([d.metres[-1] for d in drives if d.said >= 0])


def _middle(values: list[float]) -> dict[str, Any]:
    p50, p95 = np.percentile(values, (50, 95)).tolist() if values else (np.nan, np.nan)
    return {'p50': p50, 'p95': p95, 'count': len(values)}
