"""The search: the cross-entropy method over action blocks, as pure functions over a cost.

Conventions: B batch, S candidates, K horizon blocks, F ticks in a block, A action dimensions.
Candidates are spread in units of the data's standard deviation and bounded in robot units: the
limits hold inside the search, so what is scored is what can be sent, and the distribution is
refitted to that. Source: LeWorldModel (arXiv 2603.19312), which enforces no limits; the method is
Rubinstein's (1999).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lewm_core.config import PlannerConfig
from lewm_core.model import LatentDynamics
from lewm_core.types import UserError

# From candidates (B, S, K, F, A) in robot units to their costs (B, S); lower is better.
Objective = Callable[[Tensor], Tensor]


# Against the distance where a plan is nearest to the goal: without the mean a robot at the goal
# might as well leave it and come back; with much of it, no plan leads round a wall.
_STAY = 0.1


@dataclass(frozen=True)
class Solution:
    """What a search found: `actions` (B, K, F, A) in robot units and their costs (B,).

    `actions` are the last elites' mean, or the best candidate seen where that is cheaper;
    `mean` (B, K, F, A) is the elites' mean, from which the next search may start (see `shift`).
    """

    actions: Tensor
    cost: Tensor
    iterations: int
    mean: Tensor


class SearchError(RuntimeError):
    """No candidate had a finite cost: the model or the picture is broken, and no plan is known."""


@torch.no_grad()
def cem(objective: Objective, low: Tensor | np.ndarray, high: Tensor | np.ndarray,
        std: Tensor | np.ndarray, config: PlannerConfig, *, generator: torch.Generator,
        frameskip: int, batch: int = 1, mean: Tensor | None = None,
        center: Tensor | np.ndarray | None = None) -> Solution:
    """The best action blocks that a cross-entropy search finds, all within [low, high].

    `low`, `high`, `std` (A,) in robot units; the first spread is `config.init_std` times `std`.
    The first mean is `mean` (B, K, F, A), else `center` (A,), else 0, moved into the limits.
    Candidate 0 of each iteration is the mean itself. With `config.hold` one action is held
    through each block. A cost that is not finite counts as infinite; an iteration without a
    finite one keeps the distribution as it was. Raises SearchError when no iteration had one,
    and UserError when there are more elites than samples. The same generator state gives the
    same plan.
    """
    if config.elites > config.samples:
        raise UserError(f'elites={config.elites} of samples={config.samples} candidates cannot '
                        'be chosen; give at most as many elites as samples')
    device = generator.device
    low, high, std = (torch.as_tensor(v, device=device).reshape(-1)
                      for v in _inward(low, high, std))
    shape = (batch, config.horizon, 1 if config.hold else frameskip, len(low))

    def judge(candidates: Tensor) -> Tensor:
        costs = objective(candidates.expand(-1, -1, -1, frameskip, -1))
        return torch.where(torch.isfinite(costs), costs, torch.inf)

    mean = _first_mean(mean, center, low, high, shape)
    spread = (config.init_std * std).expand(shape)
    best, best_cost = mean, torch.full((batch,), torch.inf, device=device)
    for _ in range(config.iterations):
        noise = torch.randn((batch, config.samples, *shape[1:]), generator=generator,
                            device=device)
        noise[:, 0] = 0
        candidates = torch.clamp(mean[:, None] + spread[:, None] * noise, low, high)
        costs, chosen = judge(candidates).topk(config.elites, dim=1, largest=False)
        elites = torch.stack([c[i] for c, i in zip(candidates, chosen)])
        best, best_cost = _cheaper(elites[:, 0], costs[:, 0], best, best_cost)
        mean, spread = _refit(elites, costs, mean, spread)
        mean = torch.clamp(mean, low, high)  # rounding may carry a mean past a limit
    if not torch.isfinite(best_cost).all():
        raise SearchError(f'none of {config.samples} candidates had a finite cost in any of '
                          f'{config.iterations} iterations; look at the camera picture and the '
                          'checkpoint')
    # The elites' mean averages the noise out, but it was never tried.
    best, best_cost = _cheaper(mean, judge(mean[:, None])[:, 0], best, best_cost)
    actions, mean = (v.expand(-1, -1, frameskip, -1).contiguous() for v in (best, mean))
    return Solution(actions, best_cost, config.iterations, mean)


def goal_objective(model: LatentDynamics, latents: Tensor, past: Tensor, goal: Tensor,
                   cost: str = 'nearest') -> Objective:
    """The objective: squared latent distance to `goal` (B, D), mean over dimensions.

    From the context `latents` (B, C, D) and the blocks `past` (B, C - 1, F, A) between them.
    `cost`: 'final', at the end of the horizon, as in the paper; 'mean', over all of it, which
    prefers to be there early; or 'nearest', where it is closest, with a tenth of the mean, which
    lets a plan lead away from the goal, round an obstacle, and still prefers to stay there.
    Raises UserError on another.
    """
    if cost not in ('nearest', 'mean', 'final'):
        raise UserError(f"cost={cost!r} is not known; choose one of ['nearest', 'mean', 'final']")

    def objective(actions: Tensor) -> Tensor:
        imagined = model.rollout(latents, past, actions)
        distance = (imagined - goal[:, None, None]).square().mean(dim=-1)
        if cost == 'final':
            return distance[..., -1]
        mean = distance.mean(dim=-1)
        return mean if cost == 'mean' else distance.amin(dim=-1) + _STAY * mean

    return objective


def shift(plan: Tensor, blocks: int = 1) -> Tensor:
    """`plan` (B, K, F, A) as it stands `blocks` later, its last block repeated at the end."""
    blocks = min(blocks, plan.shape[1] - 1)
    if blocks <= 0:
        return plan
    return torch.cat([plan[:, blocks:], plan[:, -1:].expand(-1, blocks, -1, -1)], dim=1)


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


def _first_mean(mean: Tensor | None, center: Tensor | np.ndarray | None, low: Tensor,
                high: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The mean (B, K, F or 1, A) that the search starts from, within the limits."""
    if mean is None:
        start = torch.zeros_like(low) if center is None else torch.as_tensor(
            center, dtype=torch.float32, device=low.device)
        return torch.clamp(start, low, high).expand(shape)
    mean = mean.to(low)
    if shape[2] == 1:
        mean = mean.mean(dim=2, keepdim=True)  # one action a block
    if mean.shape != shape:
        raise ValueError(f'warm start of shape {tuple(mean.shape)}, but {shape} is expected')
    return torch.clamp(mean, low, high)


def _cheaper(new: Tensor, new_cost: Tensor, old: Tensor, old_cost: Tensor
             ) -> tuple[Tensor, Tensor]:
    """The cheaper of two plans (B, K, F, A) and its cost (B,), the new one where they are equal.
    """
    better = new_cost <= old_cost
    return torch.where(better.view(-1, 1, 1, 1), new, old), torch.minimum(new_cost, old_cost)


def _refit(elites: Tensor, costs: Tensor, mean: Tensor, spread: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of the elites with a finite cost; as before where there is none."""
    weight = torch.isfinite(costs).to(elites.dtype)[:, :, None, None, None]
    count = weight.sum(dim=1)
    fitted = (weight * elites).sum(dim=1) / count.clamp(min=1)
    variance = (weight * (elites - fitted[:, None]).square()).sum(dim=1) / count.clamp(min=1)
    some = count > 0
    return torch.where(some, fitted, mean), torch.where(some, variance.sqrt(), spread)
