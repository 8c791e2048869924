"""The solvers by name: from a `Search` to (best plan, mean to go on from, iterations done)."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from lewm_core.solvers.cem import cem
from lewm_core.solvers.common import Best, Search
from lewm_core.solvers.gradient import gradient
from lewm_core.solvers.icem import icem
from lewm_core.solvers.mppi import mppi
from lewm_core.solvers.proposed import proposed

SOLVERS: dict[str, Callable[[Search], tuple[Best, Tensor, int]]] = {
    'cem': cem, 'icem': icem, 'mppi': mppi, 'gradient': gradient,
    'proposal': proposed}
