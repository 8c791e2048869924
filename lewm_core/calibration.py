"""From scores of ordinary driving to a threshold with a promised rate of false alarms."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from lewm_core.config import SurpriseConfig, check
from lewm_core.tails import ParetoTail, peaks
from lewm_core.types import UserError

log = logging.getLogger(__name__)

MIN_BLOCKS = 30
_MIN_EXCEEDANCES = 10
_KEEP, _KEEP_TOP = 2000, 1000
# Beyond what was seen a promise is to be kept by three calibrations of four, not by their mean.
_CONFIDENCE = 0.75
_TAIL_PEAKS = 500  # more of them fit no better, and reach too far into the bulk


@dataclass(frozen=True)
class Calibration:
    """What ordinary driving looks like to the model, and the threshold that follows from it.

    An alarm is one cluster: exceedances of `threshold` at most `cluster_blocks` apart. Alarms
    come at most about `promised_per_hour` times an hour in driving like that of the calibration;
    `extrapolated` says that fewer than one was expected in its `hours`, so that the rate rests on
    the Pareto tail of shape `tail_shape` and scale `tail_scale` fitted to `tail_peaks` declustered
    peaks above `tail_from`. `scores` are those of the `blocks` blocks, sorted, thinned evenly
    below the highest thousand; `peaks` the highest declustered ones. `note` is empty, or says in
    a sentence why the threshold means little. `scoring` names the model and the score that
    they are of (see `lewm_core.uncertainty.scoring`); '' where nobody said.
    """

    promised_per_hour: float
    threshold: float
    extrapolated: bool
    blocks: int
    hours: float
    block_s: float
    cluster_blocks: int
    tail_shape: float
    tail_scale: float
    tail_from: float
    tail_peaks: int
    scores: tuple[float, ...]
    peaks: tuple[float, ...]
    note: str = ''
    scoring: str = ''

    def p_value(self, score: float) -> float:
        """The conformal p-value in (0, 1] of `score` among the calibration's scores.

        (1 + scores at least as high) / (1 + scores), Vovk et al. 2005: among exchangeable scores
        a p-value at or below p comes with probability p at most. Above the highest score, where
        that formula stays at 1 / (1 + scores), the Pareto tail takes it further down.
        """
        if not math.isfinite(score):
            return math.nan
        below = int(np.searchsorted(self._sorted, score, side='left'))
        # Between two kept scores, as many as could lie there are taken to be higher.
        reached = 0 if below == 0 else int(_kept(self.blocks)[below - 1]) + 1
        p_value = (1 + self.blocks - reached) / (1 + self.blocks)
        top = self.scores[-1]
        if score > top > self.tail_from:
            tail = self._tail
            p_value *= tail.survival(score - self.tail_from) / tail.survival(top - self.tail_from)
        return max(p_value, 5e-324)

    def promising(self, config: SurpriseConfig) -> Calibration:
        """This calibration with the threshold for another promise.

        Raises UserError when the data cannot support it and `config.extrapolate` is false.
        """
        extrapolated = _extrapolated(config, self.hours)
        return dataclasses.replace(self, promised_per_hour=config.promised_per_hour,
                                   threshold=self._threshold(config.promised_per_hour),
                                   extrapolated=extrapolated)

    def at_rate(self, promised_per_hour: float) -> Calibration:
        """This calibration at another rate, extrapolated where the data can't show it."""
        config = SurpriseConfig(promised_per_hour, extrapolate=True)
        return self.promising(config)

    def _threshold(self, promised_per_hour: float) -> float:
        expected = promised_per_hour * self.hours
        if not self.tail_peaks:
            # Nothing varied, so nothing says how much is ordinary: twice the highest score, and
            # above the rounding errors of a score of nothing but zeros.
            return max(2 * self.scores[-1], 1e-12)
        # Of exchangeable drives the next has a peak above the k-th highest of this one k times at
        # most in its mean (Vovk et al. 2005): as far as it reaches, no tail may promise more.
        shown = self.peaks[min(int(expected), len(self.peaks)) - 1] if expected >= 1 else -math.inf
        if expected >= self.tail_peaks:
            return shown
        beyond = self._tail.sure_level(expected / self.tail_peaks, _CONFIDENCE)
        return max(shown, self.tail_from + beyond)

    @property
    def _tail(self) -> ParetoTail:
        return _fit(self.peaks[:self.tail_peaks], self.tail_from)

    @cached_property
    def _sorted(self) -> np.ndarray:
        return np.array(self.scores)

    def to_dict(self) -> dict[str, Any]:
        """The calibration as a plain tree for JSON."""
        return {**dataclasses.asdict(self), 'scores': list(self.scores),
                'peaks': list(self.peaks)}

    @classmethod
    def from_dict(cls, tree: dict[str, Any]) -> Calibration:
        """The calibration in `tree`; raises UserError on missing or unknown keys."""
        known = {f.name for f in dataclasses.fields(cls)}
        if not isinstance(tree, dict) or set(tree) | {'scoring'} != known:  # the first had none
            odd = sorted(known ^ set(tree)) if isinstance(tree, dict) else tree
            raise UserError(f'the surprise calibration has missing or unknown keys {odd!r}, but '
                            f'{sorted(known)} are expected; recalibrate with this version')
        return cls(**{**tree, 'scores': tuple(tree['scores']), 'peaks': tuple(tree['peaks'])})


def calibrate(episodes: Sequence[np.ndarray], block_s: float, config: SurpriseConfig,
              scoring: str = '') -> Calibration:
    """The calibration on the block scores (N,) of each episode, `block_s` seconds a block.

    The driving must be ordinary, and not what the model was trained on: a model's error on its
    training episodes is smaller. Raises UserError on fewer than MIN_BLOCKS scores, on a score
    that isn't finite, and, unless `config.extrapolate`, on a promise that the data can't support.
    """
    check(config)
    series = [np.asarray(e, dtype=np.float64).reshape(-1) for e in episodes]
    scores = np.concatenate(series) if series else np.zeros(0)
    if len(scores) < MIN_BLOCKS:
        raise UserError(f'{len(scores)} blocks of ordinary driving were scored, but at least '
                        f'{MIN_BLOCKS} ({MIN_BLOCKS * block_s:g} s in episodes of two blocks or '
                        'more) are needed; drive or record more')
    bad = np.flatnonzero(~np.isfinite(scores))
    if len(bad):
        raise UserError(f'{len(bad)} of {len(scores)} surprise scores are not finite, the first '
                        f'{scores[bad[0]]} at block {bad[0]}, but finite ones are expected; the '
                        'weights have diverged: train again')
    hours = len(scores) * block_s / 3600
    extrapolated = _extrapolated(config, hours)
    scores = np.sort(scores)
    found = np.sort(np.concatenate([peaks(s, config.cluster_blocks) for s in series]))[::-1]
    share = max(config.tail, _MIN_EXCEEDANCES / len(scores))
    start = float(np.quantile(scores, 1 - share))
    if len(found) > _TAIL_PEAKS:
        start = max(start, float(found[_TAIL_PEAKS]))
    above = int((found > start).sum())
    highest = tuple(found[:_KEEP].tolist())
    tail = _fit(highest[:above], start) if above else None
    note = '' if tail else ('the highest scores are all equal, so nothing shows how much an '
                            'ordinary score varies; the threshold is twice the highest')
    if note:
        log.warning('surprise: %s (%g); the model may have collapsed', note, scores[-1])
    calibration = Calibration(
        config.promised_per_hour, math.nan, extrapolated, len(scores), hours, block_s,
        config.cluster_blocks, tail.shape if tail else 0.0, tail.scale if tail else 0.0, start,
        above, tuple(scores[_kept(len(scores))].tolist()), highest, note,
        scoring)
    return calibration.promising(config)


@lru_cache(maxsize=8)
def _fit(highest: tuple[float, ...], start: float) -> ParetoTail:
    return ParetoTail.fit(np.array(highest) - start)


def _extrapolated(config: SurpriseConfig, hours: float) -> bool:
    """Whether the promise is rarer than once in `hours`; raises UserError where that's refused."""
    promised = config.promised_per_hour
    if promised * hours >= 1:
        return False
    if not config.extrapolate:
        raise UserError(f'promised_per_hour={promised:g} cannot be shown by {_rounded(60 * hours)}'
                        f' minutes of ordinary driving; drive {_rounded(60 / promised)} minutes, '
                        f'promise {_rounded(1 / hours)} an hour or more, or set extrapolate=true')
    return True


def _rounded(value: float) -> str:
    return f'{value:,.0f}' if value >= 100 else f'{value:.3g}'


def _kept(count: int) -> np.ndarray:
    """The positions, of `count` sorted scores, that are kept: the top ones all, evenly below."""
    if count <= _KEEP + _KEEP_TOP:
        return np.arange(count)
    below = np.linspace(0, count - _KEEP_TOP - 1, _KEEP).astype(np.int64)
    return np.concatenate([below, np.arange(count - _KEEP_TOP, count)])
