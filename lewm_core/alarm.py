"""When an exceedance is an alarm: once a cluster, by its score or by the sum of what lasts."""

from __future__ import annotations

from lewm_core.calibration import Calibration
from lewm_core.cusum import APART, CAP, advance


class Alarm:
    """Judges the blocks of a drive by a calibration, one after the other, from their scores."""

    def __init__(self, calibration: Calibration) -> None:
        self.calibration = calibration
        self.reset()

    def reset(self) -> None:
        """Nothing; the next block is an episode's first."""
        self.sum = 0.0
        self.p_value = float('nan')
        self.lasts = self.exceeds = False
        self._since: int | None = None  # blocks since the last exceedance

    def judge(self, score: float, p_value: float | None = None) -> bool:
        """Whether a block with this score raises the alarm: it begins a cluster of exceedances.

        `p_value` saves computing it where it is known. What led to it is kept: `p_value`, `sum`,
        `lasts` (the sum is above its threshold), `exceeds` (either is).
        """
        calibration = self.calibration
        self.p_value = calibration.p_value(score) if p_value is None else p_value
        # No higher than a block may add, so that it comes down soon after what lasted is over.
        self.sum = advance(self.sum, self.p_value, calibration.cusum_threshold + CAP)
        self.lasts = self.sum > calibration.cusum_threshold
        by_score = score > calibration.threshold
        self.exceeds = by_score or self.lasts
        since = None if self._since is None else self._since + 1
        self._since = 0 if self.exceeds else since
        near = calibration.cluster_blocks if by_score else max(calibration.cluster_blocks, APART)
        return self.exceeds and (since is None or since > near)
