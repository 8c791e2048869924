"""The time from a command's stamp until the picture shows it: for `lewm inspect --latency`.

Between two frames the picture moves by what the commands said on average over that time, some
latency earlier (velocities), or by how much they changed in it (positions): whichever of the two
explains more. For each latency that is tried these numbers and their sizes are compared with the
signed motion of the picture: Pillai's trace of their canonical correlations (Hotelling,
Biometrika 1936). The latency with the largest is the estimate; it is not tied to frames or ticks,
for the average shifts continuously. What it finds holds between the stamps that the converter
goes by: transport, exposure and the robot's own slowness are all in it, which is what `latency_s`
means.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LOWEST_S, HIGHEST_S, STEP_S = -0.5, 1.5, 0.02
LAGS = np.arange(LOWEST_S, HIGHEST_S + STEP_S / 2, STEP_S)
_PAUSE_S = 0.5
_BLOCK, _FEWEST = 25, 100
_DRAWS, _SHUFFLES = 200, 40
_CLIP = 4.0
_CLEARLY = 1.25  # of 30 pairings of unrelated drives, 2 were above 1.0 and none above 1.2


@dataclass(frozen=True)
class Latency:
    """The estimate, s, with its 95 % bootstrap interval over blocks of 25 frames.

    `by` says what moves the picture: the commands' 'level' or their 'change'. `strength` is
    Pillai's trace at the estimate over the number of its canonical correlations, in [0, 1];
    `chance` the largest that any of 40 pairings of motion with commands of another time gave;
    `pairs` the number of pairs of frames it rests on.
    """

    seconds: float
    low: float
    high: float
    strength: float
    chance: float
    pairs: int
    by: str = 'level'

    @property
    def related(self) -> bool:
        """Whether the picture follows the commands clearly more than by chance."""
        return self.strength > _CLEARLY * self.chance

    def confident(self, tick_s: float) -> bool:
        """Whether it can be relied on: beyond chance, within the range, and known to a tick."""
        inside = LOWEST_S + STEP_S < self.seconds < HIGHEST_S - STEP_S
        return self.related and inside and self.high - self.low <= tick_s


def estimate_latency(begin_ns: np.ndarray, end_ns: np.ndarray, features: np.ndarray,
                     command_ns: np.ndarray, values: np.ndarray, seed: int = 0
                     ) -> Latency | None:
    """The latency between commands (m, F) and the motion (n, D) from `begin_ns` to `end_ns`.

    All stamps (n,) and (m,) int64 are of one clock, the commands' in order. None when fewer than
    100 pairs of frames have commands about them, or neither changes.
    """
    keep = np.ptp(values, axis=0) > 0 if len(values) else np.zeros(0, bool)
    if len(command_ns) < 2 or not keep.any() or not len(begin_ns):
        return None
    origin = int(command_ns[0])
    times, begin, end = ((np.asarray(stamps) - origin) / 1e9
                         for stamps in (command_ns, begin_ns, end_ns))
    good = _commanded(begin, end, times) & np.isfinite(features).all(axis=1)
    if good.sum() < _FEWEST:
        return None
    begin, end, motion = begin[good], end[good], _standard(features[good])
    if not motion.shape[1]:
        return None
    return max((_estimate(said(begin, end, times, values[:, keep]), motion, by, seed)
                for by, said in (('level', _levels), ('change', _changes))),
               key=lambda found: found.strength)


def _estimate(said: np.ndarray, motion: np.ndarray, by: str, seed: int) -> Latency:
    """The latency from what was said (lags, n, 2F) and the motion (n, D)."""
    rng, split = np.random.default_rng(seed), said.shape[2]
    moments = _moments(said, motion)
    blocks, most = moments.shape[1], min(split, motion.shape[1])
    traces = _trace(moments.sum(axis=1)[None], split)
    rows = np.ascontiguousarray(np.swapaxes(moments, 0, 1)).reshape(blocks, -1)
    drawn = rng.multinomial(blocks, np.full(blocks, 1 / blocks), _DRAWS).astype(np.float64)
    spread = np.concatenate([_peaks(_trace((weights @ rows).reshape(-1, *moments[:, 0].shape),
                                           split)) for weights in np.split(drawn, _DRAWS // 20)])
    low, high = np.percentile(spread, [2.5, 97.5])
    return Latency(float(_peaks(traces)[0]), float(low), float(high), float(traces.max()) / most,
                   _chance(said, motion, rng) / most, len(motion), by)


def _commanded(begin: np.ndarray, end: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Which pairs (n,) bool follow each other and had commands all about them, whatever the
    latency: a pause in the commands, or between two episodes, says nothing."""
    waits = np.diff(times)
    longest = max(_PAUSE_S, 2 * float(np.percentile(waits, 95)))
    pauses = np.flatnonzero(waits > longest)
    good = (end > begin) & (end - begin < 3 * np.median(end - begin))
    good &= (begin - HIGHEST_S >= times[0]) & (end - LOWEST_S <= times[-1] + longest)
    for at in pauses:
        good &= (end - LOWEST_S <= times[at] + longest) | (begin - HIGHEST_S >= times[at + 1])
    return good


def _levels(begin: np.ndarray, end: np.ndarray, times: np.ndarray, values: np.ndarray
            ) -> np.ndarray:
    """The commands averaged from `begin` to `end` and their sizes, (lags, n, 2F)."""
    steps = np.diff(times, append=times[-1] + HIGHEST_S + 60.0)
    total = np.concatenate([np.zeros((1, values.shape[1])),
                            np.cumsum(values * steps[:, None], axis=0)])
    knots = np.append(times, times[-1] + steps[-1])
    return _with_sizes(np.stack([np.stack([
        (np.interp(end - lag, knots, column) - np.interp(begin - lag, knots, column))
        / (end - begin) for column in total.T], axis=1) for lag in LAGS]))


def _changes(begin: np.ndarray, end: np.ndarray, times: np.ndarray, values: np.ndarray
             ) -> np.ndarray:
    """How much the commands change from `begin` to `end` and its size, (lags, n, 2F)."""
    def at(moments: np.ndarray) -> np.ndarray:
        return np.maximum(np.searchsorted(times, moments, side='right') - 1, 0)

    return _with_sizes(np.stack([values[at(end - lag)] - values[at(begin - lag)] for lag in LAGS]))


def _with_sizes(said: np.ndarray) -> np.ndarray:
    both = np.concatenate([said, np.abs(said)], axis=2)
    return np.stack([_standard(columns, drop=False) for columns in both])


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


def _peaks(traces: np.ndarray) -> np.ndarray:
    """The lags (n,) of the largest of each row (n, lags), refined by a parabola."""
    at = np.clip(traces.argmax(axis=1), 1, len(LAGS) - 2)
    rows = np.arange(len(traces))
    left, top, right = (traces[rows, at + step] for step in (-1, 0, 1))
    bend = left - 2 * top + right
    off = np.where(bend < 0, 0.5 * (left - right) / np.where(bend < 0, bend, -1.0), 0.0)
    return LAGS[at] + np.clip(off, -1, 1) * STEP_S


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
