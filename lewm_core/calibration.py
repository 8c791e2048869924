"""From scores of ordinary driving to a threshold with a promised rate of false alarms."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from lewm_core import cusum as lasting
from lewm_core.config import SurpriseConfig, check
from lewm_core.peaks import Peaks
from lewm_core.tails import ParetoTail
from lewm_core.types import UserError

log = logging.getLogger(__name__)

MIN_BLOCKS = 30
_KEEP, _KEEP_TOP = 2000, 1000


@dataclass(frozen=True)
class Calibration:
    """What ordinary driving looks like to the model, and the thresholds that follow from it.

    An alarm is one cluster: exceedances of `threshold` at most `cluster_blocks` apart, or of
    `cusum_threshold` by the sum of what lasts (see `lewm_core.cusum`), whose peaks are `cusum`;
    None where it was calibrated before there was such a sum, and then there is one threshold.
    Alarms come at most about `promised_per_hour` times an hour in driving like that of the
    calibration; `extrapolated` says that fewer than one of either kind was expected in its
    `hours`, so that the rate rests on the Pareto tail, of shape `tail_shape` and scale
    `tail_scale`, fitted to `tail_peaks` declustered peaks above `tail_from`. `scores` are those
    of the `blocks` blocks, sorted, thinned evenly below the highest thousand; `peaks` the highest
    declustered ones. `note` is empty, or says in a sentence why the threshold means little.
    `scoring` names the model and the score that they are of (see
    `lewm_core.uncertainty.scoring`); '' where nobody said. `uncertainty` is what the calibration
    drive taught of the errors to expect, as `lewm_core.relearn` writes it; '': nothing.
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
    cusum: Peaks | None = None
    cusum_threshold: float = math.inf
    uncertainty: str = ''

    def p_value(self, score: float) -> float:
        """The conformal p-value in (0, 1] of `score` among the calibration's scores.

        (1 + scores at least as high) / (1 + scores), Vovk et al. 2005: among exchangeable scores
        a p-value at or below p comes with probability p at most. Above the highest score, where
        that formula stays at 1 / (1 + scores), the Pareto tail takes it further down.
        """
        return float(self.p_values(np.array([score]))[0])

    def p_values(self, scores: np.ndarray) -> np.ndarray:
        """The p-values (N,) of scores (N,), NaN of those that are not finite."""
        below = np.searchsorted(self._sorted, scores, side='left')
        # Between two kept scores, as many as could lie there are taken to be higher.
        reached = np.where(below == 0, 0, _kept(self.blocks)[below - 1] + 1)
        found = (1 + self.blocks - reached) / (1 + self.blocks)
        top, tail = self.scores[-1], self._tail
        if tail is not None and top > self.tail_from:
            for i in np.flatnonzero(scores > top):
                found[i] *= (tail.survival(scores[i] - self.tail_from)
                             / tail.survival(top - self.tail_from))
        return np.where(np.isfinite(scores), np.maximum(found, 5e-324), np.nan)

    def promising(self, config: SurpriseConfig) -> Calibration:
        """This calibration with the thresholds for another promise.

        Raises UserError when the data cannot support it and `config.extrapolate` is false.
        """
        promised, share = config.promised_per_hour, lasting.SHARE if self.cusum else 0.0
        extrapolated = _extrapolated(config, self.hours, share or 1.0)
        return dataclasses.replace(
            self, promised_per_hour=promised, extrapolated=extrapolated,
            threshold=self._threshold((1 - share) * promised),
            cusum_threshold=self._cusum_threshold(share * promised))

    def at_rate(self, promised_per_hour: float) -> Calibration:
        """This calibration at another rate, extrapolated where the data can't show it."""
        config = SurpriseConfig(promised_per_hour, extrapolate=True)
        return self.promising(config)

    def by_score_alone(self) -> Calibration:
        """This calibration without the sum of what lasts, the whole promise for single blocks."""
        return dataclasses.replace(self, cusum=None).at_rate(self.promised_per_hour)

    def sums(self, scores: np.ndarray) -> np.ndarray:
        """The sums (N,) of what lasts, of one episode's scores (N,), as the monitor has them."""
        return lasting.cusum(self.p_values(scores), self.cusum_threshold + lasting.CAP)

    def lasts(self, scores: np.ndarray) -> np.ndarray:
        """Whether the sum is above its threshold at each of one episode's scores (N,)."""
        return self.sums(scores) > self.cusum_threshold

    def _threshold(self, per_hour: float) -> float:
        level = self._peaks.level(per_hour)
        # Nothing varied, so nothing says how much is ordinary: twice the highest score, and
        # above the rounding errors of a score of nothing but zeros.
        return max(2 * self.scores[-1], 1e-12) if level is None else level

    def _cusum_threshold(self, per_hour: float) -> float:
        if self.cusum is None:
            return math.inf
        return max(lasting.LEAST, self.cusum.level(per_hour) or 0.0)

    @property
    def _peaks(self) -> Peaks:
        return Peaks(self.hours, self.cluster_blocks, self.tail_from, self.tail_peaks, self.peaks)

    @property
    def _tail(self) -> ParetoTail | None:
        return self._peaks.tail

    @cached_property
    def _sorted(self) -> np.ndarray:
        return np.array(self.scores)

    def to_dict(self) -> dict[str, Any]:
        """The calibration as a plain tree for JSON."""
        finite = None if math.isinf(self.cusum_threshold) else self.cusum_threshold
        return {**dataclasses.asdict(self), 'scores': list(self.scores),
                'peaks': list(self.peaks), 'cusum_threshold': finite,
                'cusum': None if self.cusum is None else self.cusum.to_dict()}

    @classmethod
    def from_dict(cls, tree: dict[str, Any]) -> Calibration:
        """The calibration in `tree`; raises UserError on missing or unknown keys."""
        later = {'scoring', 'cusum', 'cusum_threshold', 'uncertainty'}  # the first had none
        known = {f.name for f in dataclasses.fields(cls)}
        if not isinstance(tree, dict) or set(tree) | later != known:
            odd = sorted(known ^ set(tree)) if isinstance(tree, dict) else tree
            raise UserError(f'the surprise calibration has missing or unknown keys {odd!r}, but '
                            f'{sorted(known)} are expected; recalibrate with this version')
        sums, level = tree.get('cusum'), tree.get('cusum_threshold')
        return cls(**{**tree, 'scores': tuple(tree['scores']), 'peaks': tuple(tree['peaks']),
                      'cusum': None if sums is None else Peaks.from_dict(sums),
                      'cusum_threshold': math.inf if level is None else level})


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
    _check_scores(scores, block_s)
    hours = len(scores) * block_s / 3600
    _extrapolated(config, hours, lasting.SHARE)
    found = Peaks.of(series, hours, config.cluster_blocks, config.tail)
    scores, tail = np.sort(scores), found.tail
    note = '' if tail else ('the highest scores are all equal, so nothing shows how much an '
                            'ordinary score varies; the threshold is twice the highest')
    if note:
        log.warning('surprise: %s (%g); the model may have collapsed', note, scores[-1])
    calibration = Calibration(
        config.promised_per_hour, math.nan, False, len(scores), hours, block_s,
        config.cluster_blocks, tail.shape if tail else 0.0, tail.scale if tail else 0.0,
        found.start, found.above, tuple(scores[_kept(len(scores))].tolist()), found.highest, note,
        scoring)
    sums = Peaks.of([calibration.sums(s) for s in series], hours,
                    max(config.cluster_blocks, lasting.APART), config.tail)
    return dataclasses.replace(calibration, cusum=sums).promising(config)


def _check_scores(scores: np.ndarray, block_s: float) -> None:
    """Nothing; raises UserError where the scores (N,) are too few, or one isn't finite."""
    if len(scores) < MIN_BLOCKS:
        raise UserError(f'{len(scores)} blocks of ordinary driving were scored, but at least '
                        f'{MIN_BLOCKS} ({MIN_BLOCKS * block_s:g} s in episodes of two blocks or '
                        'more) are needed; drive or record more')
    bad = np.flatnonzero(~np.isfinite(scores))
    if len(bad):
        raise UserError(f'{len(bad)} of {len(scores)} surprise scores are not finite, the first '
                        f'{scores[bad[0]]} at block {bad[0]}, but finite ones are expected; the '
                        'weights have diverged: train again')


def _extrapolated(config: SurpriseConfig, hours: float, share: float) -> bool:
    """Whether a `share` of the promise is rarer than once in `hours`.

    Raises UserError where `config.extrapolate` refuses that.
    """
    promised = config.promised_per_hour
    if promised * share * hours >= 1:
        return False
    if not config.extrapolate:
        raise UserError(f'promised_per_hour={promised:g} cannot be shown by {_rounded(60 * hours)}'
                        f' minutes of ordinary driving; drive {_rounded(60 / promised / share)} '
                        f'minutes, promise {_rounded(1 / hours / share)} an hour or more, or set '
                        'extrapolate=true')
    return True


def _rounded(value: float) -> str:
    return f'{value:,.0f}' if value >= 100 else f'{value:.3g}'


def _kept(count: int) -> np.ndarray:
    """The positions, of `count` sorted scores, that are kept: the top ones all, evenly below."""
    if count <= _KEEP + _KEEP_TOP:
        return np.arange(count)
    below = np.linspace(0, count - _KEEP_TOP - 1, _KEEP).astype(np.int64)
    return np.concatenate([below, np.arange(count - _KEEP_TOP, count)])
