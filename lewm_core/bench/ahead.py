"""What it costs to plan a block ahead: the same tasks, driven three ways, without a clock."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from lewm_core.agent import Agent
from lewm_core.checkpoint import Checkpoint
from lewm_core.config import PlannerConfig
from lewm_core.envs import make_world
from lewm_core.types import Action, Frame, Plan

MODES = ('now', 'ahead', 'delayed')
TRIAL_TICKS = 60


def compare_delays(checkpoint: Checkpoint, planner: PlannerConfig, goals: int, seed: int,
                   on_progress: Callable[[int, int], None] | None = None
                   ) -> dict[str, list[bool]]:
    """Whether each of `goals` tasks was reached, by mode, on the same tasks in every mode.

    'now': a block is driven by the plan from its first frame, as if a search took no time.
    'ahead': by a plan made during the block before from the latent predicted for its start.
    'delayed': by a plan made from the first frame of the block before, as if nothing had moved
    since: what a late plan is without the prediction. Reached: within two robot radii at any of
    60 ticks.
    """
    rng = np.random.default_rng(seed)
    world = make_world(checkpoint.spec.name, checkpoint.model.config.image_size)
    agent = Agent(checkpoint, planner)
    reached: dict[str, list[bool]] = {mode: [] for mode in MODES}
    for done in range(goals):
        task = world.sample_task(rng)
        for mode in MODES:
            world.reset_to(task)
            agent.reset()
            agent.set_goal(world.goal_image(task))
            reached[mode].append(_drive(world, agent, task.goal, mode))
        if on_progress is not None:
            on_progress(done + 1, goals)
    return reached


def _drive(world: Any, agent: Agent, goal: np.ndarray, mode: str) -> bool:
    """Whether the goal was reached."""
    plans = _plans(world, agent, mode)
    for tick in range(TRIAL_TICKS):
        if world.reached(goal):
            return True
        index = tick % agent.frameskip
        if index == 0:
            block = next(plans).actions[:agent.frameskip]
        agent.commit(Action(tick, block[index]))
        world.step(block[index])
    return bool(world.reached(goal))


def _plans(world: Any, agent: Agent, mode: str) -> Iterator[Plan]:
    """The plan of each block, made when the block begins; what comes next is made for the next."""
    plan = agent.plan(Frame(0, world.render()))
    if mode != 'ahead':
        coming = plan
        while True:
            yield coming if mode == 'delayed' else plan
            coming, plan = plan, agent.plan(Frame(0, world.render()))
    following = agent.plan_next(None, plan.actions[:agent.frameskip])
    while True:
        yield plan
        plan = following
        following = agent.plan_next(Frame(0, world.render()), plan.actions[:agent.frameskip])
