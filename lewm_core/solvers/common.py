"""What every solver shares: the problem in knots, limits, draws, elites and the best plan so far.

Conventions: B problems, S candidates, K horizon blocks, N knots in a block, F ticks in a block,
A action dimensions. A knot is an action that is held for its share of the block's ticks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lewm_core.config import PlannerConfig

# From candidates (B, S, K, F, A) in robot units to their costs (B, S); lower is better. It may
# have a `coarse`, an objective that is nearly the same in less time.
Objective = Callable[[Tensor], Tensor]
# Standard normal draws of a shape.
Draw = Callable[[tuple[int, ...]], Tensor]
# Of so many iterations the first `_COARSE` are judged by the coarse objective, where there is one.
_ALL, _COARSE = 6, 5


class Prior(NamedTuple):
    """Where a proposal expects the plan: mean and deviation (B, K, F, A), robot units."""

    mean: Tensor
    std: Tensor


@dataclass(frozen=True)
class Solution:
    """What a search found: `actions` (B, K, F, A) in robot units and their costs (B,).

    `mean` (B, K, F, A) is where the next search may start (see `planner.shift`); `iterations`
    those done, fewer than asked for when the deadline came first.
    """

    actions: Tensor
    cost: Tensor
    iterations: int
    mean: Tensor


class SearchError(RuntimeError):
    """No candidate had a finite cost: the model or the picture is broken, and no plan is known."""


class Best(NamedTuple):
    """The cheapest plan (B, K, N, A) so far and its cost (B,), infinite before there is one."""

    plan: Tensor
    cost: Tensor

    def or_cheaper(self, plan: Tensor, cost: Tensor) -> Best:
        """The cheaper of both, the new one where they are equal."""
        better = (cost <= self.cost).view(-1, 1, 1, 1)
        return Best(torch.where(better, plan, self.plan), torch.minimum(cost, self.cost))


@dataclass(frozen=True)
class Search:
    """One search as a solver sees it: `mean` and `spread` (B, K, N, A) to start from.

    `low` and `high` (A,) are infinite where no limits hold; `prior` is in knots; no iteration
    begins that would end after `until`, by `time.perf_counter`, except for the first.
    """

    objective: Objective
    config: PlannerConfig
    draw: Draw
    ticks: Tensor  # (F,): the knot of each tick
    mean: Tensor
    spread: Tensor
    low: Tensor
    high: Tensor
    prior: Prior | None = None
    until: float | None = None

    def rounds(self) -> Iterator[int]:
        """0, 1, … to the number of iterations, or as long as there is time for one more."""
        begun, longest = time.perf_counter(), 0.0
        for done in range(self.config.iterations):
            yield done
            if self.until is None:
                continue
            if self.mean.is_cuda:
                torch.cuda.synchronize(self.mean.device)
            now = time.perf_counter()
            longest, begun = max(longest, now - begun), now
            if now + longest > self.until:
                return

    def noise(self, count: int) -> Tensor:
        """Standard normal draws (B, S, K, N, A) for `count` candidates."""
        batch, *rest = self.mean.shape
        return self.draw((batch, count, *rest))

    def clamp(self, plans: Tensor) -> Tensor:
        """Plans (..., A) moved into the limits."""
        return torch.clamp(plans, self.low, self.high)

    def candidates(self, mean: Tensor, spread: Tensor, noise: Tensor, first: bool) -> Tensor:
        """Candidates (B, S, K, N, A) within the limits, spread by `noise`; the first is the mean.

        In the `first` iteration the prior, if there is one, gives a share of them instead, of
        which one is its own mean; the others stay as wide as ever, so that a wrong prior costs
        candidates and traps nothing. `noise` is overwritten.
        """
        noise[:, 0].zero_()
        found = torch.addcmul(mean[:, None], spread[:, None], noise)
        count = int(noise.shape[1])
        share = min(round(self.config.proposal_share * count), count - 1)
        if first and self.prior is not None and share:
            near = noise[:, count - share:]
            near[:, 0].zero_()
            found[:, count - share:] = torch.addcmul(self.prior.mean[:, None],
                                                     self.prior.std[:, None], near)
        return self.clamp(found)

    @property
    def coarse_rounds(self) -> int:
        """How many iterations, the first ones, the coarse objective judges: 0 without one.

        And with a deadline, for that may come before the others.
        """
        if self.until is not None or getattr(self.objective, 'coarse', None) is None:
            return 0
        return _COARSE * self.config.iterations // _ALL

    def judge(self, candidates: Tensor, coarsely: bool = False) -> Tensor:
        """The costs (B, S) of candidates (B, S, K, N, A); infinite where they are not finite."""
        ticks = len(self.ticks)
        if candidates.shape[3] == 1:
            actions = candidates.expand(-1, -1, -1, ticks, -1)
        elif candidates.shape[3] == ticks:
            actions = candidates
        else:
            actions = candidates[:, :, :, self.ticks]
        costs = (self.objective.coarse if coarsely else self.objective)(actions).float()
        return torch.where(torch.isfinite(costs), costs, torch.inf)

    def nothing(self) -> Best:
        """What is best before anything was tried."""
        return Best(self.mean, self.mean.new_full(self.mean.shape[:1], torch.inf))

    def answer(self, best: Best, mean: Tensor, iterations: int) -> tuple[Best, Tensor, int]:
        """The plan to be sent, the mean to go on from, and the iterations done.

        The elites' mean averages the noise out but was never tried: it is the plan where it is
        cheaper than the best candidate, or always with `answer: mean`.
        """
        tried = self.judge(mean[:, None])[:, 0]
        if self.config.answer == 'mean':
            return Best(mean, tried), mean, iterations
        return best.or_cheaper(mean, tried), mean, iterations


def refine(search: Search, weigh: Callable[[Tensor], Tensor]) -> tuple[Best, Tensor, int]:
    """The best plan, the last mean and the iterations done: draw, keep the elites, refit, again.

    `weigh` gives the elites' weights (B, E) from their costs (B, E), sorted; 0 where infinite.
    """
    config, best = search.config, search.nothing()
    mean, spread, done = search.mean, search.spread, 0
    for done in search.rounds():
        candidates = search.candidates(mean, spread, search.noise(config.samples), done == 0)
        coarsely = done < search.coarse_rounds
        chosen, costs = elites(candidates, search.judge(candidates, coarsely), config.elites)
        if not coarsely:  # what only seems cheap must not become the plan
            best = best.or_cheaper(chosen[:, 0], costs[:, 0])
        mean, spread = refit(chosen, weigh(costs), mean, spread)
        mean = search.clamp(mean)  # rounding may carry a mean past a limit
    return search.answer(best, mean, done + 1)


def equal(costs: Tensor) -> Tensor:
    """Equal weights (B, E) for costs (B, E); 0 where a cost is infinite."""
    return torch.isfinite(costs).float()


def elites(candidates: Tensor, costs: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` cheapest of candidates (B, S, K, N, A) and their costs (B, `count`), sorted."""
    costs, chosen = costs.topk(count, dim=1, largest=False)
    return torch.take_along_dim(candidates, chosen[:, :, None, None, None], dim=1), costs


def refit(plans: Tensor, weights: Tensor, mean: Tensor, spread: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted mean and deviation of plans (B, E, K, N, A); as before where no weight is positive.

    `weights` (B, E) are 0 or more. The deviation is the sample's own, without bias where all
    weights are equal, as in the reference.
    """
    w = weights[:, :, None, None, None]
    total, squares = w.sum(dim=1), w.square().sum(dim=1)
    some = total > 0
    total = total.clamp(min=1e-12)
    fitted = (w * plans).sum(dim=1) / total
    variance = (w * (plans - fitted[:, None]).square()).sum(dim=1)
    variance = variance / (total - squares / total).clamp(min=1e-6 * total)
    return torch.where(some, fitted, mean), torch.where(some, variance.sqrt(), spread)
