"""How often the planner arrives, against its budget: the same problems for every search, at once.

The worlds are simulated in this process. A problem is a start and a goal picture; it is solved
when the robot is within two of its radii of the goal at any of 60 ticks, as in `lewm demo`.
"""

from __future__ import annotations

import dataclasses
import re
import sys
from typing import Any, NamedTuple

import numpy as np
import torch

from lewm_core.agent import Agent
from lewm_core.bench.common import peak_mb, reset_peak
from lewm_core.bench.trials import RADII, run_trials
from lewm_core.checkpoint import Checkpoint, load_checkpoint
from lewm_core.config import PlannerConfig, checked
from lewm_core.envs import WORLDS, make_world
from lewm_core.jobs import BenchPlannerJob
from lewm_core.planner import check_search, distance_cost
from lewm_core.solvers.common import Solution
from lewm_core.tails import wilson_interval
from lewm_core.types import UserError

TICKS = 60
# The reference's rollouts in one plan.
REFERENCE = 300 * 30
# Twice the median distance that the demo's training drive covers in 25 ticks: 0.33 m. As the way
# leads, through the door's middle.
FAR_M = 0.66
_FAR = 'two_room_far'
_DOOR = np.array([0.5, 0.5])
_BUDGET = re.compile(r'(\w+):(\d+)x(\d+)(?::(\d+))?(\+proposal)?')


class Driven(NamedTuple):
    """What came of P problems: arrived (P,), and the first plans' costs (P,)."""

    reached: np.ndarray
    imagined: np.ndarray
    executed: np.ndarray
    plan_ms: float  # of a plan and problem


def success(job: BenchPlannerJob) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """A row for each budget, and the small one beside the full one, paired by problem."""
    if job.checkpoint is None:
        raise UserError('the table of success needs a trained model; give checkpoint=PATH')
    checkpoint = load_checkpoint(job.checkpoint, job.device)
    job = dataclasses.replace(job, world=world_of(job.world, checkpoint))
    device, rows, driven = torch.device(job.device), [], []
    for text, config in _asked(job, checkpoint):
        reset_peak(device)
        found = drive(Agent(checkpoint, config, job.device), *problems(job, checkpoint), job.seed)
        driven.append(found)
        reached = int(found.reached.sum())
        low, high = wilson_interval(reached, job.problems)
        rows.append({
            'table': 'success', 'world': job.world, 'solver': config.solver, 'budget': text,
            'knots': config.knots, 'proposal': text.endswith('+proposal'),
            'device': job.device, 'dtype': config.precision, 'batch': job.problems,
            'samples': config.samples, 'iterations': config.iterations,
            'horizon': config.horizon, 'problems': job.problems,
            'success': reached / job.problems, 'low': low, 'high': high,
            'imagined': float(found.imagined.mean()), 'executed': float(found.executed.mean()),
            'final_cost': float(found.executed.mean()), 'plan_ms': found.plan_ms,
            'peak_mb': peak_mb(device)})
        print(f'{text}: {reached} of {job.problems}', file=sys.stderr)
    return rows, _compare(rows, driven, job.seed)


def world_of(asked: str, checkpoint: Checkpoint) -> str:
    """The world that is `asked` for, or the one called as the checkpoint's robot.

    Raises UserError where there is none, or where the robot is another world's.
    """
    robot, known = checkpoint.spec.name, (*WORLDS, _FAR)
    name = asked or robot
    if name not in known:
        raise UserError(f'world={name!r} is not known; choose one of {sorted(known)}')
    if robot in WORLDS and name.removesuffix('_far') != robot:
        raise UserError(f'world={name!r} is not that of the checkpoint, whose robot is of '
                        f'{robot!r}; leave world out, or give a checkpoint of that world')
    return name


def _asked(job: BenchPlannerJob, checkpoint: Checkpoint) -> list[tuple[str, PlannerConfig]]:
    """Each budget and its search; a UserError on one that cannot be, before anything is driven."""
    found = []
    for text in job.budgets or budgets('proposal' in checkpoint.heads):
        config = parse_budget(text, checkpoint.planner, job.seed)
        check_search(config, checkpoint.model.config.frameskip)
        if config.proposal and 'proposal' not in checkpoint.heads:
            raise UserError(f'budget {text!r} asks for a proposal, and {str(job.checkpoint)!r} '
                            'has none; train with train.proposal_steps, or leave +proposal out')
        found.append((text, config))
    return found


def budgets(proposal: bool) -> list[str]:
    """What is compared unless asked otherwise; a hundredth of the reference's rollouts first."""
    small = ['cem:30x3', 'cem:30x3:5', 'icem:30x3', 'mppi:30x3', 'gradient:30x3']
    learned = ['cem:30x3+proposal', 'proposal:2x1+proposal']
    full = ['cem:300x30', 'cem:300x30:5']
    return [*learned[:1], *small, *learned[1:], *full] if proposal else [*small, *full]


def parse_budget(text: str, planner: PlannerConfig, seed: int) -> PlannerConfig:
    """`planner` with the budget SOLVER:SAMPLESxITERATIONS[:KNOTS][+proposal] in `text`."""
    match = _BUDGET.fullmatch(text)
    if match is None:
        raise UserError(f'budget {text!r} is not understood; give '
                        'SOLVER:SAMPLESxITERATIONS[:KNOTS][+proposal], such as cem:64x3')
    solver, samples, iterations, knots, proposal = match.groups()
    count = int(samples)
    changes: dict[str, Any] = {
        'solver': solver, 'samples': count, 'iterations': int(iterations), 'seed': seed,
        'elites': max(2, count // (10 if count >= 100 else 8)), 'proposal': bool(proposal)}
    if knots is not None:
        changes['knots'] = int(knots)
    return checked(dataclasses.replace(planner, **changes), f'budget {text!r}')


def problems(job: BenchPlannerJob, checkpoint: Checkpoint) -> tuple[list[Any], list[Any]]:
    """The worlds, each at its start, and their tasks: those of `lewm demo` with the same seed."""
    name, far = job.world.removesuffix('_far'), job.world == _FAR
    worlds, tasks = [], []
    for index in range(job.problems):
        world = make_world(name, checkpoint.model.config.image_size)
        rng = np.random.default_rng([job.seed, index])
        while True:
            task = world.sample_task(rng)
            world.reset_to(task)
            if not world.reached(task.goal, RADII) and not (far and _way(task) < FAR_M):
                break
        worlds.append(world)
        tasks.append(task)
    return worlds, tasks


def _way(task: Any) -> float:
    start = np.array([task.start['x'], task.start['y']])
    return float(np.linalg.norm(start - _DOOR) + np.linalg.norm(task.goal - _DOOR))


@torch.no_grad()
def drive(agent: Agent, worlds: list[Any], tasks: list[Any], seed: int) -> Driven:
    """What comes of driving all `worlds`, each at its start, for the whole blocks of 60 ticks."""
    skip = agent.frameskip
    if agent.planner.context != 1:
        raise UserError(f'planner.context={agent.planner.context} in this bench is not possible; '
                        'use a checkpoint with planner.context=1')
    goals = agent.encode(np.stack([w.goal_image(t) for w, t in zip(worlds, tasks)]))
    costs: list[np.ndarray] = []

    def judge(found: Solution, commands: np.ndarray) -> None:
        costs.extend((found.cost.cpu().numpy(), _executed(agent, worlds, commands, goals)))

    out = run_trials(agent, worlds, tasks, ticks=TICKS - TICKS % skip, seed=seed, seed_ticks=skip,
                     on_first=judge)
    return Driven(out.ticks >= 0, *costs, 1e3 * out.seconds / out.plans)


def _executed(agent: Agent, worlds: list[Any], plans: np.ndarray, goals: torch.Tensor
              ) -> np.ndarray:
    """The cost (P,) of whole plans (P, K, F, A) by the pictures they really lead to."""
    seen = []
    for world, plan in zip(worlds, plans):
        before, pictures = world.state(), []
        for block in plan:
            for action in block:
                world.step(action)
            pictures.append(world.render())
        world.set_state(before)
        seen.append(agent.encode(np.stack(pictures)))
    return distance_cost(torch.stack(seen)[:, None], goals, agent.planner.cost)[:, 0].cpu().numpy()


def _compare(rows: list[dict[str, Any]], driven: list[Driven], seed: int) -> dict[str, Any]:
    """The first budget of at most 1/100 of the reference's beside the largest one, paired.

    Nothing where none is smaller than the largest: a budget beside itself differs by 0 for sure.
    """
    budgets = [row['samples'] * row['iterations'] for row in rows]
    full = int(np.argmax(budgets))
    small = next((i for i, b in enumerate(budgets)
                  if b <= REFERENCE / 100 and b < budgets[full]), None)
    if small is None:
        return {}
    difference = driven[small].reached.astype(float) - driven[full].reached
    rng = np.random.default_rng(seed)
    means = rng.choice(difference, (10_000, len(difference))).mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return {'small_budget': rows[small]['budget'], 'full_budget': rows[full]['budget'],
            'small_budget_fraction': budgets[small] / REFERENCE,
            'small_budget_success': rows[small]['success'],
            'full_budget_success': rows[full]['success'],
            'success_difference': float(difference.mean()),
            'success_difference_low': float(low), 'success_difference_high': float(high)}
