"""Trials: the same tasks for every driver, and whether each goal was reached."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from std_msgs.msg import Header

from lewm_core.robot import RobotSpec
from lewm_core.types import UserError
from lewm_ros.fields import stamp_ns
from lewm_ros.sim_config import SimConfig
from lewm_ros.sim_drive import Drive
from lewm_ros.sim_topics import Topics
from lewm_ros.sim_world import own_policy, unsolved_task

REACHED_RADII, STRICT_RADII = 2.0, 1.0


@dataclass(frozen=True)
class Trial:
    """One finished task. `ticks`: until the goal was reached, or all that were allowed."""

    start: dict[str, float]
    goal: Any
    reached: bool
    strict: bool
    ticks: int
    timeouts: int
    violations: int
    realtime_factor: float
    path: tuple[tuple[float, ...], ...]


class Referee:
    """Judges one trial tick by tick.

    Reached: within two robot radii at any tick up to `trial_ticks`. Strictly: within one radius
    at such a tick, and again `settle_ticks` later, for which the driving goes on.
    """

    def __init__(self, trial_ticks: int, settle_ticks: int) -> None:
        self._limit, self._settle = trial_ticks, settle_ticks
        self._inside: list[bool] = []
        self.reached_at: int | None = None
        self.strict = False

    def judge(self, near: bool, inside: bool) -> bool:
        """Whether the trial is over, from the robot's place after one more tick."""
        self._inside.append(inside)
        tick = len(self._inside)
        if near and self.reached_at is None and tick <= self._limit:
            self.reached_at = tick
        then = tick - self._settle
        if inside and 1 <= then <= self._limit and self._inside[then - 1]:
            self.strict = True
        # It may still turn out strict while a visit within the limit is younger than the settling.
        pending = any(self._inside[max(then, 0):self._limit])
        return self.strict or (tick >= self._limit and not pending)


class Goals:
    """Gives goal images to an external planner and waits until it has taken them."""

    def __init__(self, config: SimConfig, topics: Topics, spin: Callable[[float], None]) -> None:
        self._config, self._topics, self._spin = config, topics, spin
        self._echo: tuple[int, str] = (0, '')
        self._given = 0

    def on_accepted(self, message: Header) -> None:
        """Nothing; notes the header of the goal that the planner says it has taken."""
        self._echo = (stamp_ns(message), message.frame_id)

    def give(self, pixels: np.ndarray) -> None:
        """Nothing, once the planner has taken the goal; raises UserError when it does not."""
        header = self._topics.goal(pixels, f'goal_{self._given}')
        self._given += 1
        wanted = (stamp_ns(header), header.frame_id)
        if not self._config.goal_accepted_topic or not self._config.external:
            return
        late = time.monotonic() + self._config.goal_timeout_s
        while self._echo != wanted:
            if time.monotonic() > late:
                raise UserError(
                    f'goal {self._given - 1} was not taken on {self._config.goal_accepted_topic} '
                    f'within {self._config.goal_timeout_s:g} s; start an active planner, or set '
                    "goal_accepted_topic:='' for one that does not answer")
            self._spin(0.1)


def run_trial(index: int, spec: RobotSpec, config: SimConfig, world: Any, drive: Drive,
              goals: Goals) -> Trial:
    """The outcome of task `index`: the same start and goal for the same seed, whoever drives."""
    task = unsolved_task(world, np.random.default_rng([config.seed, index]))
    goals.give(world.goal_image(task))
    drive.begin_episode()
    # A stream of its own: how much a driver draws must not change the tasks.
    drive.policy = own_policy(config, world, spec,
                              np.random.default_rng([config.seed, index, 1]), task.goal)
    start = dict(world.state())
    timeouts, violations, begun = drive.timeouts, drive.violations, time.perf_counter()
    referee, path, over, ticks = Referee(config.trial_ticks, config.settle_ticks), [], False, 0
    path.append(_place(start, spec))
    while not over:
        drive.tick()
        ticks += 1
        path.append(_place(world.state(), spec))
        over = referee.judge(world.reached(task.goal, REACHED_RADII),
                             world.reached(task.goal, STRICT_RADII))
    seconds = time.perf_counter() - begun
    return Trial(start=start, goal=task.goal, reached=referee.reached_at is not None,
                 strict=referee.strict, ticks=referee.reached_at or config.trial_ticks,
                 timeouts=drive.timeouts - timeouts, violations=drive.violations - violations,
                 realtime_factor=ticks * spec.tick_s / seconds, path=tuple(path))


def key_values(trial: Trial) -> dict[str, Any]:
    """The trial as keys and values that a DiagnosticStatus carries; lists as JSON."""
    return {'start': json.dumps(list(trial.path[0])), 'goal': json.dumps(_plain(trial.goal)),
            'reached': trial.reached, 'strict': trial.strict, 'ticks': trial.ticks,
            'timeouts': trial.timeouts, 'violations': trial.violations,
            'realtime_factor': f'{trial.realtime_factor:.3f}',
            'path': json.dumps([[round(v, 5) for v in place] for place in trial.path])}


def _place(state: dict[str, float], spec: RobotSpec) -> tuple[float, ...]:
    """The robot's first two state numbers: where it is, in both of this project's worlds."""
    names = [n for n in spec.state_names if n in state] or list(state)
    return tuple(float(state[name]) for name in names[:2])


def _plain(goal: Any) -> Any:
    """A goal as what JSON knows: numbers, lists, mappings."""
    if isinstance(goal, dict):
        return {key: _plain(value) for key, value in goal.items()}
    return np.asarray(goal, dtype=float).round(6).tolist()
