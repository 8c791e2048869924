"""When the goal is reached: the picture is as near to its as half a block of ordinary motion.

Latent distances have no unit, and what is near differs from model to model. So it is learned, from
frames alone: a planner that looks once a block, and passes the goal, sees it from within half a
block of motion. That motion's median is the tolerance. A latent in which frames of other times are
as near by chance cannot tell that a goal is reached, and gets none.
"""

from __future__ import annotations

import logging
import math
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lewm_core.data import Dataset
from lewm_core.head_training import Episodes, encode_split
from lewm_core.model import WorldModel
from lewm_core.robot import RobotSpec
from lewm_core.types import Plan, UserError

log = logging.getLogger(__name__)

KEY = 'goal_tolerance'  # in a checkpoint's metrics
_LOOKS = 2    # successive ones within the tolerance: one may be by chance
LEAVE = 4.0   # times the squared tolerance, twice as far: then the goal is left, at once
# Half of what latents would have that know nothing of the place: the tolerance is a median.
_CONFUSED = 0.25
_FRAMES, _PAIRS = 5000, 100_000


class Arrival:
    """Whether the goal is reached, look by look, with hysteresis.

    `tolerance` is a squared latent distance, mean over dimensions; None: never reached.
    `distance` is that of the last look, NaN before the first. With `rests` a robot that is there
    gets the safe action.
    """

    def __init__(self, tolerance: float | None, rests: bool = False) -> None:
        self.tolerance, self._rests = tolerance, rests
        self.forget()

    @property
    def resting(self) -> bool:
        """Whether the robot is to rest now."""
        return self._rests and self.reached

    @property
    def told(self) -> tuple[float, bool]:
        """What a plan tells of it: distance and reached."""
        return self.distance, self.reached

    def rest(self, stamp_ns: int, spec: RobotSpec, ticks: int, begun: float) -> Plan:
        """The plan of so many ticks of the safe action; `begun` by `time.perf_counter`."""
        return Plan(stamp_ns, spec.clamp(np.tile(spec.safe, (ticks, 1))), self.distance, 0,
                    time.perf_counter() - begun, *self.told)

    def forget(self) -> None:
        """Nothing; another goal, or another place: the next look is the first."""
        self.reached, self.distance, self._near = False, math.nan, 0

    def look(self, latent: Tensor, goal: Tensor | None) -> None:
        """Nothing; the robot sees `latent` (D,), its goal is `goal` (D,)."""
        if goal is None:
            return
        self.distance = float((latent - goal).square().mean())
        if self.tolerance is None:
            return
        self._near = self._near + 1 if self.distance <= self.tolerance else 0
        kept = self.reached and self.distance <= LEAVE * self.tolerance
        self.reached = kept or self._near >= _LOOKS


def tolerance_of(metrics: dict[str, Any]) -> float | None:
    """The tolerance in a checkpoint's metrics, None where there is none.

    Raises UserError when there is something else.
    """
    found = metrics.get(KEY)
    try:
        tolerance = found and found['tolerance']
        if tolerance is None or float(tolerance) > 0:
            return tolerance
    except (KeyError, TypeError, ValueError):
        pass
    raise UserError(f'the checkpoint holds {KEY} {found!r}, but a mapping with a tolerance above '
                    '0 is expected; train again')


def learn_tolerance(model: WorldModel, dataset: Dataset) -> dict[str, Any] | None:
    """What metrics['goal_tolerance'] is to be, None where no episode is long enough.

    `tolerance`: the median squared latent distance, mean over dimensions, of frames half a block
    apart, where another command than the safe one was in force. `confusion`: the share of
    such pairs, but of frames of one episode at least two blocks apart, that are as near; above a
    quarter, or where the tolerance would be 0, it is None. Of calibration episodes; of others
    where there are none.
    """
    skip = model.config.frameskip
    for split in ('calibration', 'validation', 'train'):
        episodes = encode_split(model, dataset, split, _FRAMES)
        safe = torch.as_tensor(dataset.spec.safe).to(episodes.actions)
        moves = ~torch.isclose(episodes.actions, safe).all(dim=-1)
        near = _half_a_block(episodes, moves, max(1, skip // 2))
        far = _elsewhere(episodes, moves, 2 * skip)
        if len(near) and len(far):
            break
    else:
        log.warning('no episode shows what near a goal is, so none will be said to be reached: '
                    'record driving in episodes longer than two blocks')
        return None
    tolerance = float(near.median())
    found = {'tolerance': tolerance, 'confusion': float((far <= tolerance).double().mean()),
             'pairs': len(near), 'split': split}
    if not tolerance > 0:
        log.warning('most pictures are the same half a block of motion later, so no goal will be '
                    'said to be reached: look whether the camera is as fast as rate_hz says')
        return {**found, 'tolerance': None}
    if not found['confusion'] <= _CONFUSED:
        log.warning('frames of other times are as near as half a block of motion in %.0f %% of '
                    'cases, so no goal will be said to be reached: look at the latents (`lewm '
                    'evaluate`)', 100 * found['confusion'])
        return {**found, 'tolerance': None}
    return found


def _half_a_block(episodes: Episodes, moves: Tensor, ticks: int) -> Tensor:
    """The squared distances (N,) of frames `ticks` apart, where the robot `moves` (R,)."""
    if not episodes.has(ticks):
        return episodes.latents.new_zeros(0)
    rows = episodes.starts(ticks)
    rows = rows[torch.stack([moves[rows + i] for i in range(ticks)]).any(dim=0)]
    return _apart(episodes, rows, rows + ticks)


def _elsewhere(episodes: Episodes, moves: Tensor, ticks: int) -> Tensor:
    """The squared distances (N,) of pairs of one episode, at least `ticks` apart.

    Of frames in which the robot moves: those of one pause are near however long it was.
    """
    if not episodes.has(ticks):
        return episodes.latents.new_zeros(0)
    rows = episodes.starts(ticks).cpu()
    generator = torch.Generator().manual_seed(0)
    rows = rows[torch.randint(len(rows), (_PAIRS,), generator=generator)]
    room = episodes.last.cpu()[rows] - rows - ticks + 1
    later = rows + ticks + (torch.rand(_PAIRS, generator=generator) * room).long()
    both = moves.cpu()[rows] & moves.cpu()[later]
    return _apart(episodes, rows[both], later[both])


def _apart(episodes: Episodes, first: Tensor, second: Tensor) -> Tensor:
    device = episodes.latents.device
    first, second = (episodes.latents[rows.to(device)] for rows in (first, second))
    return (first - second).square().mean(dim=-1)
