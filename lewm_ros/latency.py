"""The time from a command's stamp until the picture shows it: for `lewm inspect --latency`.

While a command is in force it moves the picture; between two frames, the picture moves by what
the commands said on average over that time, some latency earlier. For each latency that is tried
the averaged commands (signed, and their size) are compared with the signed motion of the picture:
Pillai's trace of their canonical correlations (Hotelling, Biometrika 1936), at most the number of
fields. The latency with the largest is the estimate; it is not tied to frames or ticks, for the
average shifts continuously. What it finds holds between the stamps that the converter goes by:
transport, exposure and the robot's own slowness are all in it, which is what `latency_s` means.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LOWEST_S, HIGHEST_S, STEP_S = -0.5, 1.5, 0.02
_BLOCK, _FEWEST = 25, 100
_DRAWS, _SHUFFLES = 200, 40
_CLIP = 4.0
_CLEARLY = 1.25  # of 30 pairings of unrelated drives, 2 were above 1.0 and none above 1.2


@dataclass(frozen=True)
class Latency:
    """The estimate, s, with its 95 % bootstrap interval over blocks of 25 frames.

    `strength` is Pillai's trace at the estimate over the number of its canonical correlations, in
    [0, 1]; `chance` the largest that any of 40 pairings of motion with commands of another time
    gave; `pairs` the number of pairs of frames it rests on.
    """

    seconds: float
    low: float
    high: float
    strength: float
    chance: float
    pairs: int

    @property
    def related(self) -> bool:
        """Whether the picture follows the commands clearly more than by chance."""
        return self.strength > _CLEARLY * self.chance

    def confident(self, tick_s: float) -> bool:
        """Whether it can be relied on: beyond chance, within the range, and known to a tick."""
        inside = LOWEST_S + STEP_S < self.seconds < HIGHEST_S - STEP_S
        return self.related and inside and self.high - self.low <= tick_s


def estimate_latency(begin_ns: np.ndarray, end_ns: np.ndarray, features: np.ndarray,
                     command_ns: np.ndarray, values: np.ndarray, held_s: float = 0.5,
                     seed: int = 0) -> Latency | None:
    """The latency between commands (m, F) and the motion (n, D) from `begin_ns` to `end_ns`.

    All stamps (n,) and (m,) int64 are of one clock, the commands' in order; a command is held
    until the next, the last for `held_s`. None when fewer than 100 pairs of frames have commands
    about them, or neither changes.
    """
    keep = np.ptp(values, axis=0) > 0 if len(values) else np.zeros(0, bool)
    if len(command_ns) < 2 or not keep.any():
        return None
    origin = int(command_ns[0])
    times = (np.asarray(command_ns) - origin) / 1e9
    begin, end = (np.asarray(begin_ns) - origin) / 1e9, (np.asarray(end_ns) - origin) / 1e9
    good = ((begin - HIGHEST_S >= times[0]) & (end - LOWEST_S <= times[-1] + held_s)
            & (end > begin) & np.isfinite(features).all(axis=1))
    if good.sum() < _FEWEST:
        return None
    begin, end, motion = begin[good], end[good], _standard(features[good])
    if not motion.shape[1]:
        return None
    lags = np.arange(LOWEST_S, HIGHEST_S + STEP_S / 2, STEP_S)
    said = np.stack([_said(begin - lag, end - lag, times, values[:, keep]) for lag in lags])
    moments = _moments(said, motion)
    split = said.shape[2]
    best = _peaks(_trace(moments.sum(axis=1)[None], split), lags)[0]
    rng = np.random.default_rng(seed)
    blocks = moments.shape[1]
    drawn = rng.multinomial(blocks, np.full(blocks, 1 / blocks), _DRAWS).astype(np.float64)
    spread = _peaks(np.stack([_trace(np.einsum('b,lbij->lij', weights, moments)[None], split)[0]
                              for weights in drawn]), lags)
    low, high = np.percentile(spread, [2.5, 97.5])
    most = min(split, motion.shape[1])
    strength = float(_trace(moments.sum(axis=1)[None], split).max()) / most
    return Latency(float(best), float(low), float(high), strength,
                   _chance(said, motion, rng) / most, len(begin))


def _said(begin: np.ndarray, end: np.ndarray, times: np.ndarray, values: np.ndarray
          ) -> np.ndarray:
    """The commands averaged from `begin` to `end`, and their sizes, (n, 2F), standardised."""
    steps = np.diff(times, append=times[-1] + HIGHEST_S + 1.0)
    total = np.concatenate([np.zeros((1, values.shape[1])),
                            np.cumsum(values * steps[:, None], axis=0)])
    knots = np.append(times, times[-1] + steps[-1])
    mean = np.stack([(np.interp(end, knots, column) - np.interp(begin, knots, column))
                     / (end - begin) for column in total.T], axis=1)
    return _standard(np.concatenate([mean, np.abs(mean)], axis=1), drop=False)


def _standard(values: np.ndarray, drop: bool = True) -> np.ndarray:
    """The columns centred and scaled by median and spread, outliers clipped; constants 0."""
    centred = values - np.median(values, axis=0)
    scale = np.maximum(1.4826 * np.median(np.abs(centred), axis=0), 0.1 * values.std(axis=0))
    moving = scale > 1e-12
    if drop:
        centred, scale, moving = centred[:, moving], scale[moving], moving[moving]
    scaled = np.clip(centred / np.where(moving, scale, 1.0), -_CLIP, _CLIP) * moving
    return scaled - scaled.mean(axis=0)


def _moments(said: np.ndarray, motion: np.ndarray) -> np.ndarray:
    """The second moments (lags, blocks, d, d) of commands and motion, block by block."""
    count = max(len(motion) // _BLOCK, 1)
    edges = np.linspace(0, len(motion), count + 1).astype(int)
    found = []
    for columns in said:
        both = np.concatenate([columns, motion], axis=1)
        found.append([both[a:b].T @ both[a:b] for a, b in zip(edges, edges[1:])])
    return np.array(found)


def _trace(moments: np.ndarray, split: int) -> np.ndarray:
    """Pillai's trace (…) from second moments (…, d, d) of `split` columns and the others."""
    width = moments.shape[-1]
    ridge = 1e-6 * np.trace(moments, axis1=-2, axis2=-1)[..., None, None] / width + 1e-9
    square = moments + ridge * np.eye(width)
    xx, yy = square[..., :split, :split], square[..., split:, split:]
    xy = square[..., :split, split:]
    return np.trace(np.linalg.solve(xx, xy) @ np.linalg.solve(yy, np.swapaxes(xy, -1, -2)),
                    axis1=-2, axis2=-1)


def _peaks(traces: np.ndarray, lags: np.ndarray) -> np.ndarray:
    """The lags (n,) of the largest of each row (n, lags), refined by a parabola."""
    at = np.clip(traces.argmax(axis=1), 1, len(lags) - 2)
    rows = np.arange(len(traces))
    left, top, right = (traces[rows, at + step] for step in (-1, 0, 1))
    bend = left - 2 * top + right
    off = np.where(bend < 0, 0.5 * (left - right) / np.where(bend < 0, bend, -1.0), 0.0)
    return lags[at] + np.clip(off, -1, 1) * STEP_S


def _chance(said: np.ndarray, motion: np.ndarray, rng: np.random.Generator) -> float:
    """The largest trace of commands with the motion of other times."""
    rows, few = len(motion), said[::5]
    least = min(rows // 4, 2 * _BLOCK)
    shifts: Sequence[int] = rng.integers(least, rows - least, _SHUFFLES)
    largest = 0.0
    for shift in shifts:
        rolled = np.roll(motion, shift, axis=0)
        both = np.stack([np.concatenate([columns, rolled], axis=1) for columns in few])
        moments = np.swapaxes(both, 1, 2) @ both
        largest = max(largest, float(_trace(moments, said.shape[2]).max()))
    return largest
