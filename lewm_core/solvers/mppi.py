"""Model predictive path integral control (Williams et al. 2017): candidates weighted by cost."""

from __future__ import annotations

import torch
from torch import Tensor

from lewm_core.solvers.common import Best, Search, refine


def mppi(search: Search) -> tuple[Best, Tensor, int]:
    """The best plan, the last mean and the iterations done.

    The mean of the elites is weighted by exp(-cost / λ), and so is the next spread, as in TD-MPC2
    (arXiv 2310.16828). λ is `temperature` times how far the elites' mean cost lies above the
    cheapest, so that it means the same for latents of any scale.
    """
    temperature = search.config.temperature
    return refine(search, lambda costs: weights(costs, temperature))


def weights(costs: Tensor, temperature: float) -> Tensor:
    """The weights (B, E) in [0, 1] of costs (B, E); 0 where a cost is infinite."""
    finite = torch.isfinite(costs)
    above = torch.where(finite, costs - costs.amin(dim=1, keepdim=True), 0.0)
    scale = above.sum(dim=1, keepdim=True) / finite.sum(dim=1, keepdim=True).clamp(min=1)
    weight = torch.exp(-above / (temperature * scale).clamp(min=1e-12))
    return torch.where(finite, weight, 0.0)
