"""Figures with their uncertainty: the bootstrap resamples whole episodes, never frames."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from lewm_core.tails import wilson_interval

_LEVEL = 0.95


@dataclass(frozen=True)
class Figure:
    """A measured value with its interval (`low`, `high`), and over how many episodes it is.

    NaN where it can't be told: a single episode says nothing of how much episodes differ.
    """

    value: float
    low: float
    high: float
    episodes: int

    def __str__(self) -> str:
        """Such as `0.987 (0.981 to 0.990)`."""
        if not math.isfinite(self.value):
            return 'unknown'
        text = f'{self.value:.3g}' if abs(self.value) < 0.1 else f'{self.value:.3f}'
        return text + ('' if math.isnan(self.low) else f' ({self.low:.3g} to {self.high:.3g})')

    def to_dict(self) -> dict[str, Any]:
        """The figure as a plain tree for JSON; what is not finite becomes null."""
        values = {'value': self.value, 'low': self.low, 'high': self.high}
        return {**{k: v if math.isfinite(v) else None for k, v in values.items()},
                'episodes': self.episodes}


def over_episodes(sums: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray],
                  resamples: int, seed: int) -> Figure:
    """The figure `statistic` of all episodes, with its bootstrap percentile interval.

    `sums` (E, S) are additive over episodes; `statistic` maps sums (R, S) to values (R,).
    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993; the unit that is drawn
    is the episode, since the frames of one are alike.
    """
    if not len(sums):
        return Figure(math.nan, math.nan, math.nan, 0)
    sums = np.asarray(sums, np.float64).reshape(len(sums), -1)
    with np.errstate(invalid='ignore', divide='ignore'):
        value = float(statistic(sums.sum(axis=0)[None])[0])
        if len(sums) < 2 or resamples < 1:
            return Figure(value, math.nan, math.nan, len(sums))
        rng = np.random.default_rng(seed)
        drawn = rng.multinomial(len(sums), np.full(len(sums), 1 / len(sums)), resamples)
        values = np.asarray(statistic(drawn @ sums))
    return Figure(value, *_ends(values), len(sums))


def over_groups(groups: np.ndarray, statistic: Callable[[np.ndarray], float], resamples: int,
                seed: int) -> Figure:
    """The figure `statistic(rows)` of all rows; `groups` (N,) says which episode a row is of.

    For statistics that are no function of sums, such as ranks: the rows of whole episodes are
    drawn and the statistic is found anew each time.
    """
    members = [np.flatnonzero(groups == g) for g in np.unique(groups)]
    value = float(statistic(np.arange(len(groups)))) if len(groups) else math.nan
    if len(members) < 2 or resamples < 1:
        return Figure(value, math.nan, math.nan, len(members))
    rng = np.random.default_rng(seed)
    values = [statistic(np.concatenate([members[i] for i in rng.integers(0, len(members),
                                                                         len(members))]))
              for _ in range(resamples)]
    return Figure(value, *_ends(np.array(values)), len(members))


def mean_of(values: np.ndarray, groups: np.ndarray, resamples: int, seed: int) -> Figure:
    """The mean of `values` (N,) over all rows that are finite, `groups` (N,) their episodes."""
    good = np.isfinite(values)
    names, at = np.unique(groups[good], return_inverse=True)
    sums = np.zeros((len(names), 2))
    np.add.at(sums, at, np.stack([values[good], np.ones(good.sum())], axis=1))
    return over_episodes(sums, lambda s: s[:, 0] / s[:, 1], resamples, seed)


def share_of(hits: np.ndarray, groups: np.ndarray, resamples: int, seed: int) -> Figure:
    """The share of `hits` (N,) that are true, `groups` (N,) their episodes.

    Where each is of an episode of its own the interval is Wilson's, and so it is where all or none
    are true, then of as many trials as there are episodes: a bootstrap of none or of all has no
    width, as if it were certain.
    """
    hits = np.asarray(hits, bool)
    episodes = len(np.unique(groups))
    if not len(hits) or (episodes < len(hits) and hits.any() and not hits.all()):
        return mean_of(hits.astype(float), groups, resamples, seed)
    share = float(hits.mean())
    return Figure(share, *wilson_interval(round(share * episodes), episodes), episodes)


def ratio_of(above: Figure, below: Figure) -> Figure:
    """The ratio of two figures measured apart, its interval made of theirs.

    Both ends are NaN where one is not known, as where the figure below may be 0. Source: Donner &
    Zou, Closed-form confidence intervals for functions of the normal mean and standard deviation,
    2012 (MOVER).
    """
    a, b, ends = above, below, []
    if not (math.isfinite(a.value) and math.isfinite(b.value) and b.value != 0):
        return Figure(math.nan, math.nan, math.nan, min(a.episodes, b.episodes))
    both = a.value * b.value
    for end, other, sign in ((a.low, b.high, -1), (a.high, b.low, 1)):
        scale = other * (2 * b.value - other)
        root = both ** 2 - end * (2 * a.value - end) * scale
        known = b.low > 0 and a.low >= 0 and scale > 0 and root >= 0  # false of NaN
        ends.append((both + sign * math.sqrt(root)) / scale if known else math.nan)
    ends = [math.nan] * 2 if any(map(math.isnan, ends)) else ends
    return Figure(a.value / b.value, *ends, min(a.episodes, b.episodes))


def figure(tree: dict[str, Any]) -> Figure:
    """The figure in `tree`, as `Figure.to_dict` gives it."""
    return Figure(**{k: math.nan if v is None else v for k, v in tree.items()})


def text(tree: dict[str, Any] | None) -> str:
    """A figure's tree, as `Figure.to_dict` gives it, in words."""
    return 'unknown' if tree is None else str(figure(tree))


def _ends(values: np.ndarray) -> tuple[float, float]:
    values = values[np.isfinite(values)]
    if not len(values):
        return math.nan, math.nan
    low, high = np.quantile(values, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    return float(low), float(high)
