"""Asynchronous topics to steps: the one rule, for the bag converter and for the live nodes."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import Counter, deque
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import numpy as np

from lewm_core.robot import RobotSpec

_NS = 1_000_000_000
_MOST = 100_000  # commands that a live node remembers: half an hour of 50 Hz
_LARGEST = float(np.finfo(np.float32).max)  # as a dataset holds it


class Choice(Enum):
    """What becomes of a frame: it is left out, goes on with the episode, or starts one."""

    SKIP = 0
    KEEP = 1
    START = 2


@dataclass(frozen=True)
class Step:
    """One kept frame and the action that led to it.

    `action` (A,) float64 in robot units was in force at the end of the tick that ends with this
    frame (or is what the spec's `reduce` makes of the tick's commands), so it belongs to the
    previous frame's row of a dataset; None on the first frame of an episode. `commanded`: a
    command was in force, the action is not the safe one for want of it. `payload` is what was
    handed in with the frame.

    Where the command in force is no finite number nobody knows what the robot did: such a step
    begins an episode, uncommanded.
    """

    stamp_ns: int
    payload: Any
    action: np.ndarray | None
    new_episode: bool
    commanded: bool = True


class FrameSelector:
    """Which frames of a camera become steps: a due time that is locked to the camera's phase.

    The first frame starts an episode. A frame is kept when it comes no more than a quarter tick
    before it is due. The next is then due one tick later, moved by an eighth of how far this one
    was off, or one tick after this frame when it was off by half a tick or more. So a camera at
    the spec's rate keeps every frame through jitter, whatever the first one's, and through a
    clock that is 3 % fast or slow (its lag settles at eight times that, below a quarter tick);
    one at three times the rate keeps each third.
    A gap between kept frames above `max_age_s`, a stamp that goes backwards and a marker each
    start an episode; a stamp that repeats is skipped.
    """

    def __init__(self, spec: RobotSpec) -> None:
        self._tick = round(_NS / spec.rate_hz)
        self._max_age = round(_NS * spec.max_age_s)
        self._last: int | None = None
        self._due = 0
        self._seen = 0
        self._markers: list[int] = []

    def marker(self, stamp_ns: int) -> None:
        """Nothing; the first frame stamped at or after `stamp_ns` will start an episode."""
        if self._last is not None and stamp_ns <= self._last - self._max_age:
            # The clock went back, and the marker came before its frame.
            self.restart()
        insort(self._markers, stamp_ns)

    def restart(self) -> None:
        """Nothing; the next frame starts an episode whatever its stamp."""
        self._last = None
        self._markers.clear()

    def offer(self, stamp_ns: int) -> Choice:
        """Whether the frame with this stamp is skipped, kept, or starts an episode."""
        last = self._last
        if last is not None and stamp_ns == self._seen:
            return Choice.SKIP
        marked = bisect_right(self._markers, stamp_ns)
        del self._markers[:marked]
        backwards = last is not None and stamp_ns < self._seen
        self._seen = stamp_ns
        if last is None or marked or backwards or stamp_ns - last > self._max_age:
            self._last, self._due = stamp_ns, stamp_ns + self._tick
            return Choice.START
        if stamp_ns < self._due - self._tick // 4:
            return Choice.SKIP
        off = stamp_ns - self._due
        in_phase = 2 * abs(off) < self._tick
        self._due = (self._due + off // 8 if in_phase else stamp_ns) + self._tick
        self._last = stamp_ns
        return Choice.KEEP


def action_in_force(effective_ns: list[int], end_ns: int, timeout_ns: int) -> int | None:
    """The index of the command in force at the end of a step, or None when there is none.

    `effective_ns` are the sorted times at which commands take effect (stamp + latency) and
    `end_ns` is t_{k+1}, the stamp of the frame that ends step k. The last command that takes
    effect *before* t_{k+1} counts: one that takes effect exactly then, such as a command that
    echoes frame k+1's stamp, was chosen after seeing that frame and can only have moved the robot
    afterwards, so it belongs to step k+1. The command must have taken effect at most `timeout_ns`
    before t_{k+1}.
    """
    index = bisect_left(effective_ns, end_ns) - 1
    if index < 0 or end_ns - effective_ns[index] > timeout_ns:
        return None
    return index


def reduce_commands(values: list[np.ndarray], effective_ns: list[int], start_ns: int, index: int,
                    reduce: str) -> np.ndarray:
    """The action (A,) of a step from `start_ns` at whose end the command `index` is in force.

    Those that take effect within the step, at its start or later, are reduced: 'last' takes the
    one in force at the end, 'mean' and 'sum' take them all alike. Where none does, the mean is
    the one that is held, and the sum is 0, for an increment is not held. All three are the same
    where one command takes effect in each step, as a planner's does.
    """
    first = bisect_left(effective_ns, start_ns, 0, index + 1)
    if reduce == 'last' or (reduce == 'mean' and first > index):
        return values[index]
    if first > index:
        return np.zeros_like(values[index])
    within = values[first:index + 1]
    return within[0] if len(within) == 1 else getattr(np, reduce)(within, axis=0)


def finite(values: np.ndarray) -> np.ndarray:
    """Whether (…) bool all numbers of an action (…, A) are finite in 32 bits."""
    return (np.abs(values) <= _LARGEST).all(axis=-1)


@dataclass(frozen=True)
class _Pending:
    stamp_ns: int
    payload: Any
    start: bool
    received_ns: int


class StepBuilder:
    """Turns frames, commands and episode markers, as they come, into `Step`s in order.

    Live (`hold=False`): a step is given out as soon as a command that takes effect at or after
    its end has come, for commands come in order and so none that matters can follow; or when
    `poll` finds that it has waited `grace_s` on the caller's clock. From a recording
    (`hold=True`): everything waits for `flush` (or for the clock to go back), when all commands
    are known. Both give the same steps when no command is later than the grace.
    All stamps are of one clock (see `LiveClock` and the converter). `late` counts commands and
    markers that came after their step was given out, `skipped` frames that were not kept.
    """

    def __init__(self, spec: RobotSpec, *, hold: bool = False, grace_s: float = 0.5) -> None:
        self._selector = FrameSelector(spec)
        self._safe = spec.safe if spec.action.on_timeout == 'safe' else None
        self._latency = round(_NS * spec.action.latency_s)
        self._timeout = round(_NS * spec.action.timeout_s)
        self._max_age = round(_NS * spec.max_age_s)
        self._reduce = spec.action.reduce
        self._hold = hold
        self._grace = round(_NS * grace_s)
        self._pending: deque[_Pending] = deque()
        self._times: list[int] = []
        self._values: list[np.ndarray] = []
        self._frame: int | None = None
        self._start = 0  # the stamp of the frame given out last: where the next step starts
        self._decided = -(2**63)
        self.late = self.skipped = self.timeouts = 0

    def command(self, stamp_ns: int, values: np.ndarray) -> list[Step]:
        """The steps that this command completes; `values` (A,) in robot units, finite or not."""
        effective = stamp_ns + self._latency
        steps = []
        if self._times and effective < self._times[-1] - self._max_age:
            # The command clock went back: what is known belongs to the time before.
            steps = self._forget(effective)
        if effective < self._decided:
            self.late += 1
        if len(self._times) >= _MOST and not self._hold:  # no frame has used them up for long
            del self._times[:_MOST // 2], self._values[:_MOST // 2]
        at = bisect_right(self._times, effective)  # of equal stamps the last to come counts
        self._times.insert(at, effective)
        values = np.asarray(values, dtype=np.float64)
        self._values.insert(at, values if finite(values) else np.full_like(values, np.nan))
        return steps + self._ready()

    def marker(self, stamp_ns: int) -> list[Step]:
        """No steps; the first frame stamped at or after `stamp_ns` starts an episode."""
        last = self._frame
        if last is None or stamp_ns > last or stamp_ns <= last - self._max_age:
            self._selector.marker(stamp_ns)
            return []
        # Its frame came first, for order holds on one topic only.
        for i, waiting in enumerate(self._pending):
            if waiting.stamp_ns >= stamp_ns:
                self._pending[i] = replace(waiting, start=True)
                return []
        self.late += 1
        return []

    def frame(self, stamp_ns: int, payload: Any = None, received_ns: int = 0) -> list[Step]:
        """The steps that are complete now; `received_ns` is the caller's (steady) clock."""
        steps = []
        if self._frame is not None and stamp_ns < self._frame:
            steps = self._forget(stamp_ns)
        choice = self._selector.offer(stamp_ns)
        if choice is Choice.SKIP:
            self.skipped += 1
            return steps
        self._frame = stamp_ns
        self._pending.append(_Pending(stamp_ns, payload, choice is Choice.START, received_ns))
        return steps + self._ready()

    def poll(self, now_ns: int) -> list[Step]:
        """The steps that have waited for the whole grace, on the clock of `received_ns`."""
        steps = []
        while self._pending and self._pending[0].received_ns + self._grace <= now_ns:
            steps.append(self._emit())
            steps += self._ready()
        return steps

    def flush(self) -> list[Step]:
        """All steps that still wait: nothing more will come."""
        return [self._emit() for _ in range(len(self._pending))]

    def restart(self) -> list[Step]:
        """All steps that still wait; the next frame then starts an episode."""
        steps = self.flush()
        self._selector.restart()
        self._frame = None
        return steps

    def _ready(self) -> list[Step]:
        steps = []
        while self._pending and not self._hold:
            head = self._pending[0]
            if not head.start and (not self._times or self._times[-1] < head.stamp_ns):
                break
            steps.append(self._emit())
        return steps

    def _emit(self) -> Step:
        """The oldest waiting frame as a step, from the commands known now."""
        head = self._pending.popleft()
        start_ns, self._start = self._start, head.stamp_ns
        if head.start:
            return Step(head.stamp_ns, head.payload, None, True)
        self._decided = head.stamp_ns
        index = action_in_force(self._times, head.stamp_ns, self._timeout)
        if index is None:
            self.timeouts += 1
            return Step(head.stamp_ns, head.payload, self._safe, self._safe is None, False)
        action = reduce_commands(self._values, self._times, start_ns, index, self._reduce)
        if index > 256:  # older ones can't come into force again; dropped in bulk
            del self._times[:index], self._values[:index]
        if not finite(action):
            return Step(head.stamp_ns, head.payload, None, True, False)
        return Step(head.stamp_ns, head.payload, action, False)

    def _forget(self, now_ns: int) -> list[Step]:
        """The steps that waited when a clock went back to `now_ns`; drops the time's commands."""
        steps = self.flush()
        self._decided = -(2**63)
        keep = bisect_left(self._times, now_ns + self._max_age + self._latency)
        del self._times[keep:], self._values[keep:]
        return steps


class LiveClock:
    """The one clock by which a live node compares frames, commands and markers.

    Header stamps when both message types have them, else the source stamps that DDS gives. A
    publisher that leaves the header stamp empty from the start moves everything to source stamps
    (`header` is then false); unless it was its first one alone, for a simulator's first picture
    may be of time 0. An empty one among filled ones is refused with None. The receipt time is
    never used: after a stall it misplaces hundreds of commands.
    """

    def __init__(self, has_header: bool) -> None:
        self.header = self._there = has_header
        self._seen: set[str] = set()
        self._empty: Counter[str] = Counter()

    def stamp(self, stream: str, header_ns: int, source_ns: int) -> int | None:
        """The stamp in nanoseconds of a message of `stream`, or None when it can't be placed."""
        if header_ns:
            self._seen.add(stream)
        elif stream not in self._seen:
            self._empty[stream] += 1
        self.header = self._there and all(count == 1 and name in self._seen
                                          for name, count in self._empty.items())
        return (header_ns or None) if self.header else source_ns
