"""What is counted and measured of a drive, for /diagnostics."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from lewm_ros.drive import Driver, Fault
from lewm_ros.node_params import PlannerParams

_COUNTS = ('frames', 'blocks', 'plans', 'clamped', 'goals', 'goals_refused',
           *(fault.name.lower() for fault in Fault))


def sentence(driver: Driver, reached: bool, params: PlannerParams) -> str:
    """What an active node is doing, and what is wrong."""
    if not driver.has_goal:
        return 'no goal: silent'
    if driver.fault is None:
        doing = 'driving to the goal'
        if reached:
            doing = 'the goal is reached: ' + ('at rest' if params.at_goal == 'rest'
                                               else 'driving to stay there')
        return doing + (' (dry run)' if params.dry_run else '')
    sent = 'the previous plan goes on' if driver.following else 'the safe action is sent'
    detail = f' ({driver.detail})' if driver.detail else ''
    return f'{driver.fault.value}{detail}: {sent}'


def figures(driver: Driver) -> dict[str, Any]:
    """The counts, the share of blocks whose plan was late, and how long plans took, ms."""
    found: dict[str, Any] = {name: driver.count[name] for name in _COUNTS}
    found['missed_share'] = driver.count['late'] / max(driver.count['blocks'], 1)
    taken = np.array(driver.latencies_s) * 1e3
    for share in (50, 95):
        found[f'latency_ms_p{share}'] = (float(np.percentile(taken, share)) if taken.size
                                         else math.nan)
    return found
