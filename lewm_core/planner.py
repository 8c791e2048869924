"""The search: from a cost over action blocks to the plan that a solver finds within the limits.

Conventions: B problems, S candidates, K horizon blocks, F ticks in a block, A action dimensions.
Candidates are spread in units of the data's standard deviation and bounded in robot units: the
limits hold inside the search, so what is scored is what can be sent, and the distribution is
refitted to that. Source: LeWorldModel (arXiv 2603.19312), which enforces no limits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lewm_core.config import PlannerConfig
from lewm_core.model import LatentDynamics
from lewm_core.solvers import SOLVERS
from lewm_core.solvers.common import Draw, Objective, Prior, Search, SearchError, Solution
from lewm_core.types import UserError

__all__ = ['Objective', 'Prior', 'SearchError', 'Solution', 'Space', 'Term', 'check_search',
           'drawn_by', 'goal_objective', 'optimise', 'refuse_nothing', 'search_space', 'shift',
           'solve']

# A further cost (B, S) from the imagined latents (B, S, K, D) and the goals (B, D).
Term = Callable[[Tensor, Tensor], Tensor]

# Against the distance where a plan is nearest to the goal: without the mean a robot at the goal
# might as well leave it and come back; with much of it, no plan leads round a wall.
_STAY = 0.1


def solve(objective: Objective, low: Tensor | np.ndarray, high: Tensor | np.ndarray,
          std: Tensor | np.ndarray, config: PlannerConfig, *, generator: torch.Generator,
          frameskip: int, batch: int = 1, mean: Tensor | None = None,
          center: Tensor | np.ndarray | None = None, prior: Prior | None = None,
          deadline: float | None = None) -> Solution:
    """The best action blocks that `config.solver` finds, all within [low, high].

    `low`, `high`, `std` (A,) in robot units; the first spread is `config.init_std` times `std`.
    The first mean is `mean` (B, K, F, A), else `center` (A,), else 0, moved into the limits.
    `config.knots` actions are free in each block. A share `config.proposal_share` of the first
    candidates is drawn from `prior`, where there is one. A cost that is not finite counts as
    infinite; an iteration without a finite one keeps the distribution as it was. No iteration
    but the first begins that would end after `deadline`, by `time.perf_counter`. The same
    generator state gives the same plan, on the same machine with as many iterations.

    Raises SearchError when no candidate had a finite cost, and UserError when there are more
    elites than samples or more knots than ticks.
    """
    check_search(config, frameskip)
    space = search_space(low, high, std, config, frameskip, generator.device)
    found = optimise(objective, space, config, drawn_by(generator), batch=batch, mean=mean,
                     center=center, prior=prior, deadline=deadline)
    refuse_nothing(found.cost, config, found.iterations)
    return found


class Space(NamedTuple):
    """Where plans are searched: limits and first spread (A,), and the knots of a block.

    `low` and `high` are infinite where no limits hold; `knot` (F,) is each tick's; `share` (F, N)
    float64 gives a knot the mean of its ticks.
    """

    low: Tensor
    high: Tensor
    spread: Tensor
    knot: Tensor
    share: Tensor


def search_space(low: Tensor | np.ndarray, high: Tensor | np.ndarray, std: Tensor | np.ndarray,
                 config: PlannerConfig, frameskip: int, device: torch.device) -> Space:
    """The space on `device`: all that a search needs and no plan changes. See `solve`."""
    low, high, std = (torch.as_tensor(v, device=device).reshape(-1)
                      for v in _inward(low, high, std))
    if not config.limits:
        low, high = torch.full_like(low, -torch.inf), torch.full_like(high, torch.inf)
    knots = config.knots or frameskip
    knot = torch.arange(frameskip, device=device) * knots // frameskip
    belongs = torch.nn.functional.one_hot(knot, knots).double()
    return Space(low, high, config.init_std * std, knot, belongs / belongs.sum(dim=0))


def drawn_by(generator: torch.Generator) -> Draw:
    """Draws from `generator`, on its device."""
    return lambda shape: torch.randn(shape, generator=generator, device=generator.device)


def optimise(objective: Objective, space: Space, config: PlannerConfig, draw: Draw, *,
             batch: int = 1, mean: Tensor | None = None,
             center: Tensor | np.ndarray | None = None, prior: Prior | None = None,
             deadline: float | None = None) -> Solution:
    """What `solve` finds, also where no cost is finite: then `cost` is infinite.

    Without a deadline nothing waits for the device.
    """
    with torch.no_grad() if config.solver == 'gradient' else torch.inference_mode():
        search = _search(objective, space, config, draw, batch, mean, center, prior, deadline)
        best, last, iterations = SOLVERS[config.solver](search)
        actions, mean = (v[:, :, space.knot].contiguous() for v in (best.plan, last))
    return Solution(actions, best.cost, iterations, mean)


def goal_objective(model: LatentDynamics, latents: Tensor, past: Tensor, goal: Tensor,
                   cost: str = 'nearest', extra: Term | None = None) -> Objective:
    """The objective: squared latent distance to `goal` (B, D), mean over dimensions.

    From the context `latents` (B, C, D) and the blocks `past` (B, C - 1, F, A) between them.
    `cost`: 'final', at the end of the horizon, as in the paper; 'mean', over all of it, which
    prefers to be there early; or 'nearest', where it is closest, with a tenth of the mean, which
    lets a plan lead away from the goal, round an obstacle, and still prefers to stay there.
    `extra` is added to it. Raises UserError on another cost.
    """
    if cost not in ('nearest', 'mean', 'final'):
        raise UserError(f"cost={cost!r} is not known; choose one of ['nearest', 'mean', 'final']")

    return GoalObjective(model, latents, past, goal, cost, extra)


@dataclass(frozen=True)
class GoalObjective:
    """What `goal_objective` returns; `coarse` is the same of the model's own `coarse`, if any."""

    model: LatentDynamics
    latents: Tensor
    past: Tensor
    goal: Tensor
    cost: str
    extra: Term | None

    def __call__(self, actions: Tensor) -> Tensor:
        imagined = self.model.rollout(self.latents, self.past, actions)
        found = distance_cost(imagined, self.goal, self.cost)
        return found if self.extra is None else found + self.extra(imagined, self.goal)

    @property
    def coarse(self) -> GoalObjective | None:
        coarse = getattr(self.model, 'coarse', None)
        return None if coarse is None else replace(self, model=coarse)


def distance_cost(latents: Tensor, goal: Tensor, cost: str) -> Tensor:
    """The cost (B, S) of latents (B, S, K, D), imagined or seen; see `goal_objective`."""
    reached = latents[:, :, -1:] if cost == 'final' else latents
    distance = (reached - goal[:, None, None]).square().mean(dim=-1)
    found = distance.mean(dim=-1)
    return found if cost != 'nearest' else torch.add(distance.amin(dim=-1), found, alpha=_STAY)


def shift(plan: Tensor, blocks: int = 1) -> Tensor:
    """`plan` (B, K, F, A) as it stands `blocks` later, its last block repeated at the end."""
    blocks = min(blocks, plan.shape[1] - 1)
    if blocks <= 0:
        return plan
    return torch.cat([plan[:, blocks:], plan[:, -1:].expand(-1, blocks, -1, -1)], dim=1)


def check_search(config: PlannerConfig, frameskip: int) -> None:
    """Nothing; raises UserError where samples, elites, knots and a block's ticks do not fit."""
    if config.elites > config.samples:
        raise UserError(f'elites={config.elites} of samples={config.samples} candidates cannot '
                        'be chosen; give at most as many elites as samples')
    if config.knots > frameskip:
        raise UserError(f'knots={config.knots} is more than the {frameskip} ticks of a block; '
                        f'give 1 to {frameskip}, or 0 for one a tick')


def _search(objective: Objective, space: Space, config: PlannerConfig, draw: Draw, batch: int,
            mean: Tensor | None, center: Tensor | np.ndarray | None, prior: Prior | None,
            deadline: float | None) -> Search:
    """The problem in knots."""
    low, (ticks, knots) = space.low, space.share.shape
    shape = (batch, config.horizon, ticks, len(low))
    if mean is None:
        start = torch.zeros_like(low) if center is None else torch.as_tensor(
            center, dtype=torch.float32, device=low.device)
        mean = start.expand(batch, config.horizon, knots, len(low))
    else:
        mean = _in_knots(mean.to(low), space.share, shape, 'warm start')
    if prior is not None:
        prior = Prior(*(_in_knots(v.to(low), space.share, shape, 'prior') for v in prior))
    return Search(objective, config, draw, space.knot, torch.clamp(mean, low, space.high),
                  space.spread.expand(mean.shape), low, space.high, prior, deadline)


def _in_knots(plan: Tensor, share: Tensor, shape: tuple[int, ...], what: str) -> Tensor:
    """`plan` (B, K, F, A) as its mean over the ticks of each knot (B, K, N, A)."""
    if plan.shape != shape:
        raise ValueError(f'{what} of shape {tuple(plan.shape)}, but {shape} is expected')
    if share.shape[0] == share.shape[1]:
        return plan
    # In float64, so that the mean of a value that was held is that value.
    return torch.einsum('bkfa,fn->bkna', plan.double(), share).to(plan)


def refuse_nothing(cost: Tensor, config: PlannerConfig, iterations: int) -> None:
    """Nothing; raises SearchError where a plan's cost (B,) is not finite."""
    if not torch.isfinite(cost).all():
        raise SearchError(f'none of {config.samples} candidates had a finite cost in any of '
                          f'{iterations} iterations; look at the camera picture and the '
                          'checkpoint')


def _inward(low: Tensor | np.ndarray, high: Tensor | np.ndarray, std: Tensor | np.ndarray
            ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The limits as float32 that lie within them: rounding must not reach beyond a limit."""
    exact = [np.asarray(torch.as_tensor(v).cpu(), dtype=np.float64) for v in (low, high, std)]
    low32, high32 = exact[0].astype(np.float32), exact[1].astype(np.float32)
    low32 = np.where(low32 < exact[0], np.nextafter(low32, np.float32(np.inf)), low32)
    high32 = np.where(high32 > exact[1], np.nextafter(high32, np.float32(-np.inf)), high32)
    if not (low32 < high32).all() or not (exact[2] > 0).all():
        raise ValueError(f'limits {exact[0].tolist()} to {exact[1].tolist()} with deviations '
                         f'{exact[2].tolist()}: each must leave room and vary, in float32 too')
    return low32, high32, exact[2].astype(np.float32)
