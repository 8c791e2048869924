"""No search: the proposal itself, for robots that have no time and as what a search must beat."""

from __future__ import annotations

from torch import Tensor

from lewm_core.solvers.common import Best, Search
from lewm_core.types import UserError


def proposed(search: Search) -> tuple[Best, Tensor, int]:
    """The prior's mean within the limits, twice, and no iteration; it is judged once."""
    if search.prior is None:
        raise UserError('solver=proposal needs a proposal, and there is none; train with '
                        'train.proposal_steps, or choose another solver')
    plan = search.clamp(search.prior.mean)
    return Best(plan, search.judge(plan[:, None])[:, 0]), plan, 0
