"""What lasts: many small surprises in a row, none of which would be an alarm, summed up.

A teleport is one large surprise; a camera that was knocked or a wheel that slips is a small one,
block after block. Page's cumulative sum (1954) is the quickest way to notice such a change
(Lorden 1971). Summed are the logarithms of conformal p-values, so that no distribution is
assumed: in driving like that of the calibration they are exponential with a mean of 1, whatever
the model and its scores (so do conformal tests of exchangeability, Volkhonskiy et al. 2017).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

# What each block takes off: twice what an ordinary one adds on average, so that the sum is mostly
# small. And the most that one adds: how extraordinary a single block is, its score says.
DRIFT, CAP = 2.0, 5.0
# Of the promised false alarms, those that the sum may cause: what lasts soon stands out, also at
# a quarter of the rate, while each jump has one block to be seen in.
SHARE = 0.25
# A sum this many blocks after another is part of the same excursion.
APART = 12
# No threshold is lower, however dull the drive: what one block of the highest surprise adds.
LEAST = CAP - DRIFT


def advance(total: float, p_value: float, ceiling: float = math.inf) -> float:
    """The sum after one more block with a p-value in (0, 1], in [0, `ceiling`].

    A ceiling lets a sum come down soon after what lasted for hours has ended.
    """
    return min(ceiling, max(0.0, total + min(-math.log(p_value), CAP) - DRIFT))


def cusum(p_values: Iterable[float], ceiling: float = math.inf) -> np.ndarray:
    """The sums (N,) of an episode's p-values (N,), which begins with nothing summed."""
    total, sums = 0.0, []
    for p_value in p_values:
        total = advance(total, p_value, ceiling)
        sums.append(total)
    return np.array(sums)
