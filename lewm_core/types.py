"""What crosses between the ROS side and the model: NumPy in robot units, and nothing else."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


class UserError(ValueError):
    """An error that a user caused and can mend: one sentence, shown without a traceback.

    Its text names the value, what was expected and what to do. Command lines and nodes print it
    and exit with a code that is not 0; a bug in the package raises anything else.
    """


@dataclass(frozen=True)
class Frame:
    """One prepared camera image: `pixels` (H, W, 3) uint8 RGB as the model sees it."""

    stamp_ns: int
    pixels: np.ndarray


@dataclass(frozen=True)
class Action:
    """One command: `values` (A,) float64 in robot units, finite and within the spec's limits."""

    stamp_ns: int
    values: np.ndarray


@dataclass(frozen=True)
class Plan:
    """What the planner found: `actions` (K * frameskip, A) float64 in robot units, tick by tick.

    `cost` is the objective's value of the whole plan and `seconds` the time the search took.
    `distance` is the squared latent distance, mean over dimensions, from the newest frame to the
    goal; `reached` says that this is near enough (see lewm_core/arrival.py).
    """

    stamp_ns: int
    actions: np.ndarray
    cost: float
    iterations: int
    seconds: float
    distance: float = math.nan
    reached: bool = False


@dataclass(frozen=True)
class Surprise:
    """How far one block ended from where the model said it would.

    `score` is the squared latent error ‖ẑ − z‖², whitened and over what was to be expected where
    the checkpoint knows that (see lewm_core/uncertainty.py: then it is about 1 in ordinary
    driving), else its mean over dimensions, `p_value` the conformal p-value in (0, 1] of that
    score among ordinary driving, `cusum` the sum of such surprises that lasts (0 or little in
    ordinary driving, see lewm_core/cusum.py). The block counts as an exceedance when `score` is
    above `threshold` or `cusum` above `cusum_threshold`, and `alarm` is true on the first block
    of a cluster of exceedances. Without a calibration all but `score` are NaN or False; with one
    from before there was a sum, `cusum_threshold` is infinite. `kind` is '' but on the block
    where the last alarm can be told: 'jump' when it was over at once, 'shift' when it stayed.
    """

    stamp_ns: int
    score: float
    p_value: float
    threshold: float
    exceeds: bool
    alarm: bool
    kind: str = ''
    cusum: float = float('nan')
    cusum_threshold: float = float('nan')
