"""What the heads of a checkpoint add to a search: where it begins, and what else it counts."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lewm_core.config import PlannerConfig
from lewm_core.planner import Prior, Term
from lewm_core.types import UserError


class Guidance:
    """The proposal and the distance in `heads`, as far as `config` asks for them.

    Raises UserError when it asks for a search without a search, or for a distance in the cost,
    and the head for it is not there.
    """

    def __init__(self, heads: Mapping[str, nn.Module], config: PlannerConfig,
                 device: str | torch.device = 'cpu') -> None:
        # Copies: what trains a head later must not change half of a search.
        self._heads = {name: copy.deepcopy(heads[name]).to(device).eval().requires_grad_(False)
                       for name in ('proposal', 'distance') if name in heads}
        self._config = config
        for name, wanted in (('proposal', config.solver == 'proposal'),
                             ('distance', config.distance_weight > 0)):
            if wanted and name not in heads:
                setting = ('solver=proposal' if name == 'proposal'
                           else f'distance_weight={config.distance_weight:g}')
                raise UserError(f'planner.{setting} needs a {name}, and the checkpoint has none; '
                                f'train with train.{name}_steps, or leave that setting out')

    def prior(self, latents: Tensor, goals: Tensor) -> Prior | None:
        """Where plans from latents (B, D) to goals (B, D) are expected; None if not known."""
        config = self._config
        if 'proposal' not in self._heads or not (config.proposal or config.solver == 'proposal'):
            return None
        return Prior(*self._heads['proposal'](latents, goals, config.horizon))

    def term(self) -> Term | None:
        """The distance in time to the goal, mean over the horizon, times its weight; or None.

        A mean will do, for this distance leads round walls: it has no places where it is near
        the goal and cannot come nearer.
        """
        weight = self._config.distance_weight
        if not weight:
            return None
        distance = self._heads['distance']

        def term(imagined: Tensor, goal: Tensor) -> Tensor:
            return weight * distance(imagined, goal[:, None, None]).mean(dim=-1)

        return term
