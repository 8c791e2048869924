"""What is counted and measured of a drive, for /diagnostics."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from lewm_ros.drive import Driver, Fault

_COUNTS = ('frames', 'blocks', 'plans', 'clamped', 'goals', 'goals_refused',
           *(fault.name.lower() for fault in Fault))


def figures(driver: Driver) -> dict[str, Any]:
    """The counts, the share of blocks whose plan was late, and how long plans took, ms."""
    found: dict[str, Any] = {name: driver.count[name] for name in _COUNTS}
    found['missed_share'] = driver.count['late'] / max(driver.count['blocks'], 1)
    taken = np.array(driver.latencies_s) * 1e3
    for share in (50, 95):
        found[f'latency_ms_p{share}'] = (float(np.percentile(taken, share)) if taken.size
                                         else math.nan)
    return found
