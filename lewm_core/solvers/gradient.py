"""Gradient descent on the actions themselves, through the model."""

from __future__ import annotations

import torch
from torch import Tensor

from lewm_core.solvers.common import Best, Search, elites


def gradient(search: Search) -> tuple[Best, Tensor, int]:
    """The best plan, twice, and the iterations done: the first one draws, the others descend.

    The cheapest `elites` of the candidates are refined side by side by Adam (Kingma & Ba 2015)
    on the actions in units of their spread, with `step_size`, and moved back into the limits
    after each step. Raises ValueError when the objective has no gradient.
    """
    config, scale = search.config, search.spread[:, None]
    best, optimiser, done = search.nothing(), None, 0
    for done in search.rounds():
        if optimiser is None:
            noise = search.noise(config.samples)
            candidates = search.candidates(search.mean, search.spread, noise, True)
            chosen, costs = elites(candidates, search.judge(candidates), config.elites)
            best = best.or_cheaper(chosen[:, 0], costs[:, 0])
            optimiser = torch.optim.Adam([(chosen / scale).clone()], lr=config.step_size)
            continue
        best = _descend(search, optimiser, scale, best)
    if optimiser is not None and done:
        plans = search.clamp(optimiser.param_groups[0]['params'][0].detach() * scale)
        best = _cheapest(best, plans, search.judge(plans))
    return best, best.plan, done + 1


def _descend(search: Search, optimiser: torch.optim.Adam, scale: Tensor, best: Best) -> Best:
    """The best plan after one step, judged where the step began."""
    knots = optimiser.param_groups[0]['params'][0].requires_grad_()
    with torch.enable_grad():
        plans = search.clamp(knots * scale)
        costs = search.judge(plans)
        if not costs.requires_grad:
            raise ValueError('this objective has no gradient; choose another solver')
        # An infinite cost has no slope: that plan stays where it is. Of the knots alone: the
        # model's own weights would gather a gradient with every step.
        torch.where(torch.isfinite(costs), costs, 0.0).sum().backward(inputs=[knots])
    best = _cheapest(best, plans.detach(), costs.detach())
    knots.grad = torch.nan_to_num(knots.grad, nan=0.0, posinf=0.0, neginf=0.0)
    optimiser.step()
    optimiser.zero_grad()
    with torch.no_grad():
        knots.copy_(search.clamp(knots * scale) / scale)
    return best


def _cheapest(best: Best, plans: Tensor, costs: Tensor) -> Best:
    first, cost = elites(plans, costs, 1)
    return best.or_cheaper(first[:, 0], cost[:, 0])
