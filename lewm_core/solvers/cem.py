"""The cross-entropy method (Rubinstein 1999): draw, keep the cheapest, refit, again."""

from __future__ import annotations

import torch
from torch import Tensor

from lewm_core.solvers.common import Best, Search, elites, refit


def cem(search: Search) -> tuple[Best, Tensor, int]:
    """The best plan, the last mean and the iterations done.

    With free knots, no limits, `answer: mean` and `cost: final` it is the search of LeWorldModel
    (arXiv 2603.19312): candidate 0 is the mean, the elites' mean and deviation come next.
    """
    config, best = search.config, search.nothing()
    mean, spread, done = search.mean, search.spread, 0
    for done in search.rounds():
        candidates = search.candidates(mean, spread, search.noise(config.samples), done == 0)
        chosen, costs = elites(candidates, search.judge(candidates), config.elites)
        best = best.or_cheaper(chosen[:, 0], costs[:, 0])
        mean, spread = refit(chosen, torch.isfinite(costs).to(mean), mean, spread)
        mean = search.clamp(mean)  # rounding may carry a mean past a limit
    return search.answer(best, mean, done + 1)
