"""Which command answers which frame: plans, lateness and fallbacks, without ROS and threads."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import replace
from enum import Enum
from functools import partial
from typing import Any

import numpy as np

from lewm_core.types import Action, Frame, Plan, UserError
from lewm_ros.driven_agent import DrivenAgent


class Fault(Enum):
    """Why a fresh plan is not what is sent."""

    LATE = 'no plan in time'
    NOT_FINITE = 'the plan is not finite'
    FAILED = 'planning failed'
    IMAGE = 'the image is refused'
    STALE = 'the camera is stale'
    USED_UP = 'the plan is used up'


class Driver:
    """Answers each frame with one command, in the executor's thread.

    A block begins with a plan, which the worker makes: `submit(job, done)` runs `job` there, in
    order, and `done(result, error)` here. The agent is only ever touched in the worker; what it
    must know of the ticks between plans is handed over with the next plan. Without a plan in
    time the previous one goes on to its horizon, then the safe action is sent. A plan that comes
    late is taken up at the tick up to which a plan has driven meanwhile, for a robot that was held
    by the safe action is still where the plan begins; it ends when the picture that it was made
    for is as old as it would have been. `emit(stamp_ns, values)` publishes; what it is
    given is finite and within the limits.

    With `ahead` only the first frame waits: each block is driven by a plan that was made during
    the block before, from the latent predicted for its start, so a search may take a whole block.
    """

    def __init__(self, agent: DrivenAgent, submit: Callable[[Any, Any], None],
                 emit: Callable[[int, np.ndarray], None],
                 on_plan: Callable[[Plan], None] = lambda plan: None,
                 ahead: bool = False) -> None:
        self._agent, self._ahead = agent, ahead
        self._spec = agent.spec
        self._safe = agent.spec.clamp(agent.spec.safe)
        self._submit, self._emit, self._on_plan = submit, emit, on_plan
        self.has_goal = False
        self.fault: Fault | None = None
        self.detail = ''
        self.error: Exception | None = None  # what planning last raised
        self.following = False  # the last command came from a plan
        self.count: Counter[str] = Counter()
        self.latencies_s: deque[float] = deque(maxlen=4096)
        self._plan: Plan | None = None
        self._at = 0  # the tick of the plan that the next frame gets
        self._next: Plan | None = None  # made ahead, for the block that comes
        self._phase = 0  # ticks since the block began
        self._open: int | None = None  # stamp of the frame that waits for its plan
        self._requested_s = 0.0
        self._busy = self._late = False  # a plan is being made; it is late
        self._elapsed = 0  # ticks answered since the frame that is being planned for
        self._driven = 0  # those of them that came from a plan
        self._serial = 0  # plans of an earlier goal or episode are dropped
        self._asked = [0]  # how many goals, since there was to be none
        self._debts: list[Callable[[], None]] = []

    @property
    def waiting(self) -> bool:
        """Whether a frame waits for its plan."""
        return self._open is not None

    def frame(self, stamp_ns: int, start: bool, pixels: Callable[[], np.ndarray]) -> None:
        """Nothing; answers the frame now, or has it planned for. `start`: of an episode.

        `pixels()` gives the prepared picture; it is called at the start of a block alone.
        """
        if self._open is not None:
            self.late()
        if start:
            self.restart()
        if not self.has_goal:
            return
        self.count['frames'] += 1
        if self._phase == 0 and not self._busy:
            self._begin(stamp_ns, pixels)
            return
        if self._phase == 0:  # still planning for the block before: this frame can't begin one
            self._blame_late()
        self._answer(stamp_ns, counts=self._phase != 0)

    def late(self) -> None:
        """Nothing; the frame that waits is answered without its plan."""
        if self._open is None:
            return
        self._blame_late()
        stamp_ns, self._open = self._open, None
        self._answer(stamp_ns)

    def stale(self, stamp_ns: int, detail: str) -> None:
        """Nothing; no frame has come for too long: the safe action, and all is forgotten."""
        if not self.has_goal:
            return
        if self.fault is not Fault.STALE:
            self._blame(Fault.STALE)
        self.detail = detail
        self.halt(stamp_ns)

    def halt(self, stamp_ns: int) -> None:
        """Nothing; sends the safe action and forgets the plan and the history."""
        self.restart()
        self.following = False
        self._emit(stamp_ns, self._safe)

    def restart(self) -> None:
        """Nothing; the next frame begins a block, with no history."""
        self._plan, self._next, self._open, self._busy = None, None, None, False
        self._phase = 0
        self._serial += 1
        self._debts = [self._agent.reset]

    def begin(self) -> None:
        """Nothing; a drive begins, of which nothing is known to be wrong."""
        self.restart()
        self.fault, self.detail = None, ''

    def set_goal(self, pixels: np.ndarray, done: Callable[[Exception | None], None]) -> None:
        """Nothing; `done(None)` when the agent has taken the goal, `done(error)` when not."""
        asked = self._asked
        asked[0] = number = asked[0] + 1

        def take() -> bool:
            newest = asked is self._asked and number == asked[0]
            if newest:  # no other goal, or none, was asked for meanwhile
                self._agent.set_goal(pixels)
            return newest

        def ended(taken: bool | None, error: Exception | None) -> None:
            if asked is not self._asked or taken is False:
                return
            if error is None:
                self.has_goal = True
                if not self._busy:  # a plan in the queue behind this is for the new goal already
                    self.restart()
            done(error)

        self._submit(take, ended)

    def clear_goal(self) -> None:
        """Nothing; frames are not answered until there is a goal. Call `halt` as well."""
        self.has_goal = False
        self._asked = [0]
        self.fault, self.detail = None, ''
        self.restart()
        self._submit(self._agent.clear_goal, _raise)

    def _begin(self, stamp_ns: int, pixels: Callable[[], np.ndarray]) -> None:
        """Nothing; the frame begins a block: it waits for its plan, or has one already."""
        if self._next is not None:
            self._plan, self._at, self._next = self._next, 0, None
            self.fault, self.detail = None, ''
        if self._ahead and self._plan is not None and self._at < len(self._plan.actions):
            self.count['blocks'] += 1
            self._begin_planned(stamp_ns, pixels)
            return
        frame = self._frame(stamp_ns, pixels)
        if frame is None:
            self._answer(stamp_ns, counts=False)
            return
        self.count['blocks'] += 1
        self._open = stamp_ns
        debts, self._debts = self._debts, []
        self._request(debts, lambda: self._agent.plan(frame))

    def _begin_planned(self, stamp_ns: int, pixels: Callable[[], np.ndarray]) -> None:
        """Nothing; answers at once from the plan there is, and has the next block's made."""
        committed = self._coming(self._at)
        debts, self._debts = self._debts, []
        self._answer(stamp_ns)  # first, for taking the picture apart takes time
        frame = self._frame(stamp_ns, pixels)
        if frame is None:
            self._debts = [*debts, *self._debts]
            return
        self._request(debts, lambda: self._agent.plan_next(frame, committed),
                      self._agent.frameskip - 1)

    def _coming(self, at: int) -> np.ndarray:
        """The commands (F, A) of a block that begins with tick `at` of the plan."""
        ticks = self._spec.clamp(self._plan.actions[at:at + self._agent.frameskip])
        rest = np.tile(self._safe, (self._agent.frameskip - len(ticks), 1))
        return np.concatenate([ticks, rest])

    def _frame(self, stamp_ns: int, pixels: Callable[[], np.ndarray]) -> Frame | None:
        """The frame with its picture, None when that is refused."""
        try:
            return Frame(stamp_ns, pixels())
        except UserError as error:
            self._blame(Fault.IMAGE, str(error))
            return None

    def _request(self, debts: list[Callable[[], None]], make: Callable[[], Plan],
                 ticks_ahead: int = 0) -> None:
        """Nothing; the worker pays the debts and plans, for so many unanswered ticks ahead."""
        serial = self._serial

        def job() -> Plan | None:
            if serial != self._serial:
                return None  # nobody waits for it any more, others may wait behind it
            for debt in debts:
                debt()
            return make()

        self._requested_s = time.monotonic()
        self._busy, self._late = True, False
        self._elapsed, self._driven = -ticks_ahead, 0
        self._submit(job, lambda plan, error: self._planned(serial, plan, error))

    def _planned(self, serial: int, plan: Plan | None, error: Exception | None) -> None:
        if serial != self._serial:
            return
        self._busy, sound = False, self._sound(plan)
        if sound:
            self._take(plan)
        elif error is None:
            self._blame(Fault.NOT_FINITE)
        else:
            self.error = error
            self._blame(Fault.FAILED, f'{type(error).__name__}: {error}')
        self.latencies_s.append(time.monotonic() - self._requested_s)
        if self._open is not None:
            stamp_ns, self._open = self._open, None
            self._answer(stamp_ns)
            if self._ahead and sound:
                committed = self._coming(0)
                self._request([], lambda: self._agent.plan_next(None, committed),
                              self._agent.frameskip - 1)
        if sound:
            self._on_plan(plan)

    def _take(self, plan: Plan) -> None:
        self.count['plans'] += 1
        if self._open is None and self._elapsed <= 0:
            self._next = plan  # its block begins with the next frame, or later
            return
        held = self._elapsed - self._driven
        if held:
            plan = replace(plan, actions=plan.actions[:max(len(plan.actions) - held, 0)])
        self._plan, self._at = plan, self._driven
        if self._open is not None:
            self.fault, self.detail = None, ''

    def _sound(self, plan: Plan | None) -> bool:
        actions = None if plan is None else np.asarray(plan.actions)
        return (actions is not None and actions.ndim == 2 and len(actions) > 0
                and actions.shape[1] == self._spec.action_dim and bool(np.isfinite(actions).all()))

    def _answer(self, stamp_ns: int, counts: bool = True) -> None:
        """Sends the plan's next tick, or the safe action when there is none.

        A tick that doesn't count was to begin a block and couldn't: the next frame tries again,
        and the history, which would have a hole, begins anew; when no plan is left either, all.
        """
        self.following = self._plan is not None and self._at < len(self._plan.actions)
        values = self._safe
        if self.following:
            values = self._plan.actions[self._at]
            clamped = self._spec.clamp(values)
            if (clamped != values).any():
                self.count['clamped'] += 1
            values = clamped
        elif self.fault is None:
            self._blame(Fault.USED_UP)
        self._at += 1
        self._driven += self.following and self._elapsed >= 0
        self._elapsed += 1
        self._debts.append(partial(self._agent.commit, Action(stamp_ns, values)))
        if counts:
            self._phase = (self._phase + 1) % self._agent.frameskip
        elif self.following:
            self._debts.append(self._agent.lose_history)
        else:
            self._debts = [self._agent.reset]
        self._emit(stamp_ns, values)

    def _blame_late(self) -> None:
        """Nothing; a plan is late, however many frames it keeps waiting."""
        self.count['late'] += not self._late
        self._late, self.fault, self.detail = True, Fault.LATE, ''

    def _blame(self, fault: Fault, detail: str = '') -> None:
        self.fault, self.detail = fault, detail
        self.count[fault.name.lower()] += 1


def _raise(_: Any, error: Exception | None) -> None:
    if error is not None:
        raise error
