"""The cross-entropy method (Rubinstein 1999): draw, keep the cheapest, refit, again."""

from __future__ import annotations

from torch import Tensor

from lewm_core.solvers.common import Best, Search, equal, refine


def cem(search: Search) -> tuple[Best, Tensor, int]:
    """The best plan, the last mean and the iterations done; the elites count alike.

    With free knots, no limits, `answer: mean` and `cost: final` it is the search of LeWorldModel
    (arXiv 2603.19312): candidate 0 is the mean, the elites' mean and deviation come next.
    """
    return refine(search, equal)
