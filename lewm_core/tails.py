"""Rare events from few data: intervals of counts, ranks, peaks and the tail beyond the data."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from lewm_core.types import UserError

# Below -0.5 the likelihood grows without bound at the tail's end point (Smith 1985), an end that
# the next drive would pass; from 1 on the tail has no mean, which no bounded latent error can
# give. So the shape lies between. Within, the prior leans to heavy tails: the highest scores are
# of rare kinds of moments (a door's corner), of which little data holds few, and a tail taken for
# lighter than it is costs more alarms than one taken for heavier saves.
SHAPE_LOW, SHAPE_HIGH = -0.5, 0.9
_SHAPE_MEAN, _SHAPE_SPREAD = 0.3, 0.2


def poisson_interval(count: int, hours: float, level: float = 0.95) -> tuple[float, float]:
    """The exact interval (low, high) an hour of a Poisson rate after `count` events in `hours`.

    Source: Garwood 1936. It holds the true rate in at least `level` of the cases. Raises
    UserError when `hours` is not positive.
    """
    if not (math.isfinite(hours) and hours > 0):
        raise UserError(f'a rate over {hours:g} hours has no meaning; watch for longer than 0 '
                        'hours')
    beyond = (1 - level) / 2
    low = stats.chi2.ppf(beyond, 2 * count) / 2 if count > 0 else 0.0
    return float(low / hours), float(stats.chi2.ppf(1 - beyond, 2 * count + 2) / 2 / hours)


def wilson_interval(successes: int, trials: int, level: float = 0.95) -> tuple[float, float]:
    """The Wilson score interval (low, high) of a success rate in [0, 1]; (0, 1) of no trials.

    Source: Wilson 1927.
    """
    if trials == 0:
        return 0.0, 1.0
    z = stats.norm.ppf(0.5 + level / 2)
    rate, extra = successes / trials, z * z / trials
    middle = (rate + extra / 2) / (1 + extra)
    half = z * math.sqrt(rate * (1 - rate) / trials + extra / trials / 4) / (1 + extra)
    # At the ends one side is exact, and rounding must not say 1e-17.
    return (0.0 if successes == 0 else float(max(0.0, middle - half)),
            1.0 if successes == trials else float(min(1.0, middle + half)))


def auroc(positive: np.ndarray, negative: np.ndarray) -> float:
    """How probably a positive outscores a negative, ties counted half; NaN when either is empty.

    The area under the receiver operating characteristic, by ranks (Mann and Whitney 1947).
    """
    positive, negative = np.ravel(positive), np.ravel(negative)
    if not (len(positive) and len(negative)):
        return math.nan
    ranks = stats.rankdata(np.concatenate([positive, negative]))[:len(positive)]
    wins = ranks.sum() - len(positive) * (len(positive) + 1) / 2
    return float(wins / (len(positive) * len(negative)))


def peaks(scores: np.ndarray, apart: int) -> np.ndarray:
    """The peaks (P,) of a series (N,), highest first, each more than `apart` from the others.

    The highest score is a peak and silences its neighbours, then the highest of what is left, and
    so on. At any threshold there are at least as many peaks above as clusters of exceedances, and
    exactly as many while clusters stay short: so one set of peaks serves every threshold, and a
    rate read from it errs to the safe side. (Clusters found at one low threshold chain up, and
    hide several alarms of a higher threshold in one cluster.)
    """
    scores = np.asarray(scores, dtype=np.float64)
    free, found = np.ones(len(scores), dtype=bool), []
    for i in np.argsort(-scores, kind='stable'):
        if free[i]:
            found.append(scores[i])
            free[max(0, i - apart):i + apart + 1] = False
    return np.array(found)


def clusters(exceeds: np.ndarray, apart: int) -> int:
    """The number of alarms in a series (N,) of booleans: those at most `apart` apart are one."""
    at = np.flatnonzero(exceeds)
    return int(len(at) > 0) + int((np.diff(at) > apart).sum())


@dataclass(frozen=True)
class ParetoTail:
    """A generalised Pareto distribution of excesses over a level, as uncertain as its fit.

    `weights` (G,) is the posterior over the pairs `shapes` (G,), `scales` (G,). `survival` and
    `level` are averages over it, the predictive distribution of the *next* excess: the plug-in
    tail of the best fit crosses a given rate too low, because a tail fitted too light is passed
    far more often than one fitted too heavy is spared. Source: Coles, An Introduction to
    Statistical Modeling of Extreme Values, 2001, chapters 4 and 9.
    """

    shapes: np.ndarray
    scales: np.ndarray
    weights: np.ndarray

    @classmethod
    def fit(cls, excesses: np.ndarray) -> ParetoTail:
        """The posterior given excesses (N,), all positive; with few of them mostly the prior's.

        On a grid: nothing to converge, nothing to seed. The prior of the scale is flat in its
        logarithm, so the fit doesn't depend on the unit.
        """
        excesses = np.asarray(excesses, dtype=np.float64)
        if not (len(excesses) and np.isfinite(excesses).all() and (excesses > 0).all()):
            raise ValueError('a Pareto tail is fitted to one or more finite positive excesses')
        unit = np.median(excesses)
        shape = np.linspace(SHAPE_LOW, SHAPE_HIGH, 71)
        scale = np.exp(np.linspace(-3.0, 3.0, 121))
        fits = np.stack([_log_likelihood(excesses / unit, s, scale) for s in shape])
        fits -= 0.5 * ((shape[:, None] - _SHAPE_MEAN) / _SHAPE_SPREAD) ** 2
        weights = np.exp(fits - fits.max())
        keep = weights > 1e-9 * weights.max()
        grid = np.broadcast_arrays(shape[:, None], scale * unit)
        return cls(grid[0][keep], grid[1][keep], weights[keep] / weights[keep].sum())

    @property
    def shape(self) -> float:
        """The posterior mean of the shape ξ: below 0 the tail ends, at 0 it is exponential."""
        return float(self.weights @ self.shapes)

    @property
    def scale(self) -> float:
        """The posterior mean of the scale σ, in the unit of the excesses."""
        return float(self.weights @ self.scales)

    def survival(self, excess: float) -> float:
        """The predictive probability in [0, 1] that an excess is greater than `excess`."""
        return float(self.weights @ _survival(max(0.0, excess), self.shapes, self.scales))

    def sure_level(self, probability: float, confidence: float) -> float:
        """The excess that is exceeded with at most `probability` in (0, 1], with `confidence`.

        A quantile over the posterior: `level` promises for the mean of all that could have been
        drawn, this for that share of them.
        """
        found = _levels(probability, self.shapes, self.scales)
        order = np.argsort(found)
        at = np.searchsorted(np.cumsum(self.weights[order]), confidence)
        return float(found[order][min(at, len(order) - 1)])

    def level(self, probability: float) -> float:
        """The excess that is exceeded with `probability` in (0, 1]."""
        low, high = 0.0, float(self.scales.max())
        while self.survival(high) > probability:
            high *= 2
        for _ in range(100):
            middle = (low + high) / 2
            low, high = (middle, high) if self.survival(middle) > probability else (low, middle)
        return high


def _levels(probability: float, shape: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """What is exceeded with `probability` under each pair: the survival function's inverse."""
    near_zero = np.abs(shape) < 1e-6
    safe = np.where(near_zero, 1.0, shape)
    return scale * np.where(near_zero, -math.log(probability),
                            (probability ** -safe - 1) / safe)


def _survival(excess: float, shape: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """The generalised Pareto survival (1 + ξ x / σ)^(-1/ξ), with its limit exp(-x / σ)."""
    near_zero = np.abs(shape) < 1e-6
    safe = np.where(near_zero, 1.0, shape)
    inside = np.maximum(1 + safe * excess / scale, 0.0)
    with np.errstate(divide='ignore'):
        return np.where(near_zero, np.exp(-excess / scale), inside ** (-1 / safe))


def _log_likelihood(excesses: np.ndarray, shape: float, scale: np.ndarray) -> np.ndarray:
    """The log likelihood (S,) of the excesses under one shape and each of the scales (S,)."""
    ratio = excesses / scale[:, None]
    if abs(shape) < 1e-6:
        return -ratio.sum(axis=1) - len(excesses) * np.log(scale)
    inside = 1 + shape * ratio
    with np.errstate(invalid='ignore', divide='ignore'):
        logs = np.where(inside > 0, np.log(inside), np.inf if shape < 0 else 0.0)
    # A point beyond the end of a tail that has one (ξ < 0): impossible under this pair.
    impossible = (inside <= 0).any(axis=1)
    fit = -(1 + 1 / shape) * np.where(impossible[:, None], 0.0, logs).sum(axis=1)
    return np.where(impossible, -np.inf, fit - len(excesses) * np.log(scale))
