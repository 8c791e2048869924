"""Trials without ROS: copies of a world driven side by side, each to the goal of its own task."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from lewm_core.agent import Agent
from lewm_core.arena import Task
from lewm_core.planner import shift
from lewm_core.solvers.common import Solution

RADII = 2.0  # of the robot: nearer to its goal it has arrived, as in the demo


class Outcome(NamedTuple):
    """Of N trials: the tick at which each arrived (N,), -1 if never; plans, and their seconds."""

    ticks: np.ndarray
    plans: int
    seconds: float


@torch.no_grad()
def run_trials(agent: Agent, worlds: Sequence[Any], tasks: Sequence[Task], *, ticks: int,
               seed: int, seed_ticks: int = 1,
               on_first: Callable[[Solution, np.ndarray], None] | None = None) -> Outcome:
    """The outcome of driving all `worlds` at once, with a new plan for each after every block.

    The search is the agent's, for all robots that are still on their way at a time. Plans made at
    tick t draw from the seed (seed << 20) + t // seed_ticks. `on_first` gets what the first
    search found, and its commands (N, K, F, A) within the limits, before anything moves.
    """
    skip, spec = agent.frameskip, agent.spec
    goals = agent.encode(np.stack([w.goal_image(t) for w, t in zip(worlds, tasks)]))
    for world, task in zip(worlds, tasks):
        world.reset_to(task)
    arrived, left, start = np.full(len(tasks), -1), np.arange(len(tasks)), None
    plans, seconds = 0, 0.0
    for begun in range(0, ticks, skip):
        latents, goal = agent.encode(np.stack([worlds[i].render() for i in left])), goals[left]
        clock = time.perf_counter()
        past = latents.new_zeros(len(left), 0, skip, spec.action_dim)
        found = agent.search(latents[:, None], past, goal, (seed << 20) + begun // seed_ticks,
                             start)
        seconds, plans = seconds + time.perf_counter() - clock, plans + len(left)
        commands = spec.clamp(found.actions.double().cpu().numpy())
        if on_first is not None and begun == 0:
            on_first(found, commands)
        for i, actions in zip(left, commands[:, 0]):
            arrived[i] = _drive(worlds[i], tasks[i], actions[:ticks - begun], begun)
        going = arrived[left] < 0
        left = left[going]
        keep = torch.from_numpy(going).to(found.mean.device)
        start = shift(found.mean[keep]) if agent.planner.warm_start else None
        if not len(left):
            break
    return Outcome(arrived, plans, seconds)


def _drive(world: Any, task: Task, actions: np.ndarray, begun: int) -> int:
    """The tick of the trial at which these actions (n, A) led to the goal, or -1."""
    for tick, action in enumerate(actions, begun + 1):
        world.step(action)
        if world.reached(task.goal, RADII):
            return tick
    return -1
