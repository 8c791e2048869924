"""Jump or shift: a surprise that is over at once, or one that stays."""

from __future__ import annotations

import numpy as np

# So many blocks are looked at, and so small a p-value (a twentieth of ordinary blocks have one as
# small) is out of the ordinary. At most one ordinary drive in 70 has half of four blocks there.
BLOCKS, UNUSUAL = 4, 0.05


def kind(p_values: np.ndarray) -> str:
    """'shift' when at least half of the p-values (K,) after an alarm are unusual, else 'jump'.

    They are those of the blocks `wait(history)` and on after the alarm's first: until then the
    predictor's history holds frames from before what happened, and any jump would look lasting.
    """
    return 'shift' if persistence(p_values) >= 0.5 else 'jump'


def persistence(p_values: np.ndarray) -> float:
    """The share in [0, 1] of the p-values (K,) that are unusual."""
    return float((np.asarray(p_values) <= UNUSUAL).mean())


def wait(history: int) -> int:
    """How many blocks after an alarm's first the history holds no frame from before it."""
    return history
