"""The simulated robot's clock: one frame, one command, one tick, in lock-step or at a pace."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from lewm_core.robot import RobotSpec
from lewm_ros.fields import get_action, stamp_ns
from lewm_ros.sim_config import SimConfig
from lewm_ros.sim_topics import Topics
from lewm_ros.sim_world import Policy

_NS = 1_000_000_000
# Own drivers need no message, so services and signals are looked after this often, wall seconds.
_CHORES_S = 0.02


class Drive:
    """Steps the world: publishes frame k, finds the command of tick k, moves on by one tick.

    An own driver's command is published, stamped with the frame's stamp, and followed. An
    external one is waited for in lock-step (`lockstep`): only a command that echoes the frame's
    stamp moves time on, or the timeout, which is counted. Otherwise the newest command received
    within the tick is followed. Commands are clamped to the spec's limits, as a robot's own
    controller would; those that needed it are counted in `violations`. One older than the spec's
    `timeout_s`, by simulation time since its receipt, gives way to the safe action.
    `spin(seconds)` waits for callbacks at most so long, and raises to end the drive.
    """

    def __init__(self, spec: RobotSpec, config: SimConfig, world: Any, topics: Topics,
                 spin: Callable[[float], None]) -> None:
        self._spec, self._config, self._world = spec, config, world
        self._topics, self._spin = topics, spin
        self._tick_ns = round(_NS * spec.tick_s)
        self._jump_ns = self._tick_ns * (math.ceil(spec.max_age_s * spec.rate_hz) + 5)
        self._tolerance = 1e-6 * (spec.high - spec.low)  # a float32 field rounds
        self.stamp_ns = round(_NS * config.start_stamp)
        self.ticks = self.timeouts = self.violations = self.overruns = self.episodes = 0
        self.ended = False
        self.policy: Policy = lambda: spec.safe
        self._held, self._held_ns = spec.safe, None
        self._answer = -1
        self._begun = self._chores = time.perf_counter()
        self._due = self._begun

    def on_command(self, message: Any) -> None:
        """Nothing; takes a command from the action topic, the newest one counting."""
        values = get_action(message, self._spec)
        inside = (np.isfinite(values).all()
                  and (values >= self._spec.low - self._tolerance).all()
                  and (values <= self._spec.high + self._tolerance).all())
        self.violations += not inside
        stamp = stamp_ns(message)
        if self._config.lockstep and stamp != self.stamp_ns:
            return  # the answer to another frame
        self._answer = stamp
        self._held = self._spec.clamp(np.where(np.isfinite(values), values, self._spec.safe))
        self._held_ns = self.stamp_ns

    def begin_episode(self) -> None:
        """Nothing; a jump of the clock and a marker, and no command is in force any more."""
        if self.ticks:
            self.stamp_ns += self._jump_ns
        self.episodes += 1
        self.ended = False
        self._held, self._held_ns = self._spec.safe, None
        self._topics.marker(self.stamp_ns, f'episode_{self.episodes - 1}')
        self.restart_clock()

    def restart_clock(self) -> None:
        """Nothing; what was waited for until now does not count as time lost."""
        self._due = time.perf_counter()

    def tick(self) -> None:
        """Nothing; one frame out, one command in force, the world one tick further."""
        self._topics.frame(self.stamp_ns, self._world.render(), self._world.state())
        values = self._command()
        self._pace()
        if self._config.external:
            values = self._in_force()
        _, _, terminated, truncated, _ = self._world.step(values)
        self.ended = bool(terminated or truncated)
        self.stamp_ns += self._tick_ns
        self.ticks += 1

    def _command(self) -> np.ndarray:
        """The own driver's command, published; an external one once it has come or timed out."""
        if not self._config.external:
            values = self._spec.clamp(self.policy())
            self._topics.command(self.stamp_ns, values)
            return values
        if self._config.lockstep:
            late = time.monotonic() + self._config.lockstep_timeout_s
            while self._answer != self.stamp_ns:
                left = late - time.monotonic()
                if left <= 0:
                    self.timeouts += 1
                    break
                self._spin(min(left, 0.1))
        return self._held

    def _in_force(self) -> np.ndarray:
        """The command held, or the safe action once it is older than the spec allows."""
        timeout_ns = _NS * self._spec.action.timeout_s
        if self._held_ns is None or self.stamp_ns - self._held_ns > timeout_ns:
            return self._spec.safe
        return self._held

    def _pace(self) -> None:
        """Nothing; waits for the wall time of the next frame, looking after callbacks."""
        now = time.perf_counter()
        if self._config.speed == 0:
            free = self._config.external and not self._config.lockstep
            if free or now - self._chores > _CHORES_S:
                self._chores = now
                self._spin(0.0)
            return
        self._due += self._spec.tick_s / self._config.speed
        if now > self._due:
            self._spin(0.0)
            if now > self._due + max(self._spec.tick_s / self._config.speed, _CHORES_S):
                self.overruns += 1  # not made up for by a burst: the pace would be another
                self._due = now
            return
        while (left := self._due - time.perf_counter()) > 0:
            self._spin(min(left, 0.1))

    def seconds(self) -> float:
        """The simulated seconds driven so far."""
        return self.ticks * self._spec.tick_s
