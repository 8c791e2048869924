"""How high a series goes, how often: the level that it passes at a promised rate."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from lewm_core.tails import ParetoTail, peaks
from lewm_core.types import UserError

_KEEP = 2000
_MIN_EXCEEDANCES = 10
_TAIL_PEAKS = 500  # more of them fit no better, and reach too far into the bulk
# Beyond what was seen a promise is to be kept by three calibrations of four, not by their mean.
_CONFIDENCE = 0.75


@dataclass(frozen=True)
class Peaks:
    """The `highest` declustered peaks of `hours` of a series, highest first.

    Those above `start`, `above` in number, are what a Pareto tail is fitted to.
    """

    hours: float
    apart: int
    start: float
    above: int
    highest: tuple[float, ...]

    @classmethod
    def of(cls, series: Sequence[np.ndarray], hours: float, apart: int, share: float) -> Peaks:
        """The peaks of episodes (N,), more than `apart` from each other.

        The tail begins where a `share` of all values lies above.
        """
        values = np.concatenate(series)
        found = np.sort(np.concatenate([peaks(s, apart) for s in series]))[::-1]
        start = float(np.quantile(values, 1 - max(share, _MIN_EXCEEDANCES / len(values))))
        if len(found) > _TAIL_PEAKS:
            start = max(start, float(found[_TAIL_PEAKS]))
        return cls(hours, apart, start, int((found > start).sum()), tuple(found[:_KEEP].tolist()))

    @property
    def tail(self) -> ParetoTail | None:
        """The tail of the excesses over `start`; None where nothing lies above."""
        return _fit(self.highest[:self.above], self.start) if self.above else None

    def level(self, per_hour: float) -> float | None:
        """The level passed about `per_hour` times an hour, at most; None where nothing varied."""
        if not self.above:
            return None
        expected = per_hour * self.hours
        # Of exchangeable drives the next has a peak above the k-th highest of this one k times at
        # most in its mean (Vovk et al. 2005): as far as it reaches, no tail may promise more.
        shown = (self.highest[min(int(expected), len(self.highest)) - 1] if expected >= 1
                 else -np.inf)
        if expected >= self.above:
            return shown
        return max(shown, self.start + self.tail.sure_level(expected / self.above, _CONFIDENCE))

    def to_dict(self) -> dict[str, Any]:
        """The peaks as a plain tree for JSON."""
        return {**dataclasses.asdict(self), 'highest': list(self.highest)}

    @classmethod
    def from_dict(cls, tree: dict[str, Any]) -> Peaks:
        """The peaks in `tree`; raises UserError where it is none of `to_dict`."""
        known = {f.name for f in dataclasses.fields(cls)}
        if not isinstance(tree, dict) or set(tree) != known:
            odd = sorted(known ^ set(tree)) if isinstance(tree, dict) else tree
            raise UserError(f'the peaks of a surprise calibration have missing or unknown keys '
                            f'{odd!r}, but {sorted(known)} are expected; recalibrate with this '
                            'version')
        return cls(**{**tree, 'highest': tuple(tree['highest'])})


@lru_cache(maxsize=8)
def _fit(highest: tuple[float, ...], start: float) -> ParetoTail:
    return ParetoTail.fit(np.array(highest) - start)
