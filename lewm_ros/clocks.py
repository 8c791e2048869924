"""Which stamps to go by: a header's or the recorder's, never both in one comparison.

The rule, in the words that `RULE` prints:

* A topic can go by its header stamps where its type has a header, at least half of its messages
  fill it in, and the stamps advance.
* Two topics are compared by header stamps where both can and the stamps are of one clock, else
  by log time for both. Frames, commands and markers are one comparison, each state topic with
  the frames is another.
* Header stamps are of one clock unless what came one after the other is stamped more than a
  second apart (in the median, and more than five frames). Where one topic was received so late
  that log time can't pair the two at all, header stamps are taken nevertheless.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RULE = ('header stamps where both topics of a comparison fill them in from one clock, else log '
        'time for both')
_DISAGREE_NS = 1_000_000_000
_FRAMES_APART = 5


@dataclass(frozen=True)
class Stamps:
    """The stamps (n,) int64 of a topic's messages in order of log time; `header` 0: not filled."""

    header: np.ndarray
    log: np.ndarray

    @classmethod
    def of(cls, header_ns: Sequence[int], log_ns: Sequence[int]) -> Stamps:
        """The stamps of two sequences of nanoseconds."""
        return cls(np.asarray(header_ns, dtype=np.int64), np.asarray(log_ns, dtype=np.int64))

    def filled(self) -> Stamps:
        """Those whose header is filled in."""
        return Stamps(self.header[self.header != 0], self.log[self.header != 0])

    def usable(self) -> bool:
        """Whether the header stamps are there and advance."""
        stamps = self.header[self.header != 0]
        return 2 * len(stamps) >= len(self.header) > 0 and _advances(stamps)


def _advances(stamps: np.ndarray) -> bool:
    """Whether they are not all the same; of one or two nobody can say."""
    return len(stamps) < 3 or bool(stamps.min() < stamps.max())


def choose_clock(frames: Stamps, others: Stamps, what: str) -> tuple[str, str]:
    """The clock, 'header' or 'log', that frames and `what` are compared by, and the reason."""
    without = [name for name, s in (('frames', frames), (what, others)) if not s.usable()]
    if without:
        return 'log', f'{" and ".join(without)} have no header stamps to go by'
    if not _advances(frames.log) or not _advances(others.log):
        return 'header', 'log time does not advance'
    apart = disagreement_s(frames, others)
    if apart is None:
        return 'header', f'frames and {what} have header stamps of one clock'
    if not _overlap(frames.log, others.log):
        return 'header', (f'{what} were received apart from the frames, so that only header '
                          'stamps can pair them')
    return 'log', (f'the header stamps of frames and {what} are {abs(apart):.3g} s apart where '
                   'they were received together, so they are of two clocks')


def disagreement_s(frames: Stamps, others: Stamps) -> float | None:
    """How far the two header clocks are apart, s (positive: `others` behind); None: they agree.

    Taken between each message and the frame received last before it, so that a simulation that
    is faster or slower than real time, a replayed recording, a clock that jumps for both, and a
    few messages that were queued, all agree.
    """
    frames, others = frames.filled(), others.filled()
    before = np.searchsorted(frames.log, others.log, side='right') - 1
    late, at = others.log[before >= 0], before[before >= 0]
    if not len(late):
        return None
    apart = (late - others.header[before >= 0]) - (frames.log[at] - frames.header[at])
    median = float(np.median(apart))
    limit = max([_DISAGREE_NS, *(_FRAMES_APART * _interval(s)
                                 for s in (frames.header, frames.log))])
    return median / 1e9 if abs(median) > limit else None


def queued(log_ns: np.ndarray) -> np.ndarray:
    """Which messages (n,) bool have a log time that says only when a queue was emptied.

    Those that are followed by the next within a tenth of the usual interval, in a row of at
    least three: they were sent earlier, nobody knows when. The last of such a row is none.
    """
    log_ns = np.asarray(log_ns, dtype=np.int64)
    found = np.zeros(len(log_ns), dtype=bool)
    gaps = np.diff(log_ns)
    if len(gaps) < 3:
        return found
    close = np.append(10 * gaps < _interval(log_ns), False)
    # A single close pair may be two publishers; a row of them is a queue.
    found[:-1] = close[:-1] & (close[1:] | np.concatenate([[False], close[:-2]]))
    return found


def _interval(stamps: np.ndarray) -> float:
    """The usual interval between successive stamps, ns; 0 when there is none."""
    gaps = np.diff(stamps)
    gaps = gaps[gaps > 0]
    return float(np.median(gaps)) if len(gaps) else 0.0


def _overlap(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether the spans share at least half of the shorter one."""
    spans = [(int(s.min()), int(s.max())) for s in (one, other)]
    shared = min(s[1] for s in spans) - max(s[0] for s in spans)
    return 2 * shared >= min(s[1] - s[0] for s in spans) and shared >= 0
