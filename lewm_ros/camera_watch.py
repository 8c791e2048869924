"""Whether the camera still shows something new: on the steady clock, which nothing can pause."""

from __future__ import annotations

import math
import time

from lewm_core.robot import RobotSpec

# Of the mean interval between steps: the weight of the newest, and what is too slow, in ticks.
_NEWEST, SLOW = 0.1, 1.5


class CameraWatch:
    """How old the newest picture is, from its receipt; a picture is new when its stamp is.

    A driver that hangs may go on sending its last picture, or lose its clock and leave the stamp
    empty: such messages come, but none becomes a step, so they don't count.
    """

    def __init__(self, spec: RobotSpec, topic: str) -> None:
        self._topic, self._max_age_s = topic, spec.max_age_s  # the name that is listened to
        self._tick_s = self._interval_s = spec.tick_s
        self._kept: int | None = None  # the stamp of the newest step
        self._stamp: int | None = None
        self._new_s = -math.inf  # receipt of the newest picture
        self._unstamped = self._repeated = 0  # messages since then
        self.begin()

    def begin(self) -> None:
        """Nothing; from now on a picture is due, none was before."""
        self._begun_s = time.monotonic()

    def heard(self, stamp_ns: int | None) -> None:
        """Nothing; a message has come, with this stamp or (None) without one."""
        if stamp_ns is None:
            self._unstamped += 1
        elif stamp_ns == self._stamp:
            self._repeated += 1
        else:
            self._stamp, self._new_s = stamp_ns, time.monotonic()
            self._unstamped = self._repeated = 0

    def kept(self, stamp_ns: int, start: bool) -> None:
        """Nothing; a picture became a step. `start`: of an episode."""
        if self._kept is not None and not start:
            interval_s = 1e-9 * (stamp_ns - self._kept)
            self._interval_s += _NEWEST * (interval_s - self._interval_s)
        self._kept = stamp_ns

    @property
    def stale(self) -> bool:
        """Whether a new picture is overdue."""
        return self._age_s > self._max_age_s

    @property
    def current(self) -> bool:
        """Whether there is a picture that isn't too old, whatever was due."""
        return time.monotonic() - self._new_s <= self._max_age_s

    @property
    def _age_s(self) -> float:
        return time.monotonic() - max(self._new_s, self._begun_s)

    def sentence(self) -> str:
        """What is missing, and what comes instead."""
        text = (f'no new image on {self._topic!r} for {self._age_s:.1f} s, at most '
                f'{self._max_age_s:g} s is allowed')
        if self._repeated:
            text += f'; {self._repeated} came with the stamp of the one before'
        if self._unstamped:
            text += f'; {self._unstamped} came without a stamp'
        return text

    def odd(self, publishers: int) -> str:
        """What is odd about a camera that isn't stale, with so many publishers; mostly empty."""
        if publishers > 1:
            return (f'{publishers} publishers on {self._topic!r}: their pictures are mixed, so '
                    'remap all but one')
        if self._interval_s > SLOW * self._tick_s:
            return (f'pictures come every {self._interval_s:.2g} s, but a tick is '
                    f'{self._tick_s:.2g} s: each command holds for longer than it was planned to')
        return ''
