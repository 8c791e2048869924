"""The driver under frames, goals, gaps and results in any order: what must hold, holds always."""

from __future__ import annotations

import random

import numpy as np
import pytest

from lewm_core.types import Plan, UserError
from lewm_ros.drive import Driver

TICK, BLOCK = 100_000_000, 5
PICTURE = np.zeros((4, 4, 3), np.uint8)


class Strict:
    """An agent that plans at random, beyond the limits too, and checks the history it is told."""

    frameskip = BLOCK

    def __init__(self, spec, rng, sent):
        self.spec, self._rng, self._sent = spec, rng, sent
        self.goal, self.whole = None, 0
        self.drives, self.made = 0, {}  # begun so far; and in which one a command was planned
        self.reset()

    def reset(self):
        self._ticks, self._began = [], None

    lose_history = reset

    def set_goal(self, pixels):
        self.goal = pixels

    def clear_goal(self):
        self.goal = None
        self.reset()

    def commit(self, action):
        self._ticks.append(action)

    def plan(self, frame):
        return self.plan_next(frame, np.zeros((BLOCK, self.spec.action_dim)))

    def plan_next(self, frame, committed):
        assert self.goal is not None and committed.shape == (BLOCK, self.spec.action_dim)
        if frame is not None:
            self._observe(frame.stamp_ns)
        chance = self._rng.random()
        if chance < 0.03:
            raise RuntimeError('no plan')
        actions = np.random.default_rng(self._rng.randrange(2**32)).uniform(
            1.2 * self.spec.low, 1.2 * self.spec.high, (4 * BLOCK, self.spec.action_dim))
        self.made.update((tuple(values), self.drives) for values in self.spec.clamp(actions))
        if chance < 0.06:
            actions[3] = np.nan
        return Plan(0, actions, 0.0, 1, 0.0)

    def _observe(self, stamp):
        """A block that looks whole has no hole: these frames, one after the other, as sent."""
        if self._began is not None and len(self._ticks) == BLOCK:
            due = [self._began + i * TICK for i in range(BLOCK + 1)]
            assert [*(a.stamp_ns for a in self._ticks), stamp] == due
            assert all(np.array_equal(a.values, self._sent[a.stamp_ns]) for a in self._ticks)
            self.whole += 1
        self._ticks, self._began = [], stamp


def drive(spec, seed):
    """What was sent by the stamps of its frames, and the blocks that the agent saw whole."""
    rng, jobs, results, sent = random.Random(seed), [], [], {}
    agent = Strict(spec, rng, sent)

    def emit(stamp, values):
        assert (spec.low <= values).all() and (values <= spec.high).all()  # nor NaN
        if stamp >= 0:
            assert driver.has_goal and stamp not in sent
            assert agent.made.get(tuple(values), agent.drives) == agent.drives
            sent[stamp] = values

    def picture():
        if rng.random() < 0.03:
            raise UserError('the image is 3x3')
        return PICTURE

    driver = Driver(agent, lambda *job: jobs.append(job), emit, ahead=seed % 2 == 1)
    speed, now = rng.choice([0.05, 0.3, 0.8, 1.0]), 0
    for _ in range(300):
        what = rng.random()
        if what < 0.03:
            driver.set_goal(PICTURE, lambda error: None)
        elif what < 0.04:
            driver.clear_goal()
            driver.halt(-1)
            agent.drives += 1
        elif what < 0.05:
            driver.stale(-1, 'gone')
            agent.drives += driver.has_goal
        elif what < 0.08:
            driver.late()
        elif what < 0.6:
            gap = rng.random() < 0.03
            now += rng.randint(1, 7) if gap else 1
            start = gap or rng.random() < 0.02
            driver.late()  # what waited is answered in the drive that it was part of
            agent.drives += start
            driver.frame(now * TICK, start, picture)
        for _ in range(2):
            if jobs and rng.random() < speed:
                results.append(work(*jobs.pop(0)))
            if results and rng.random() < speed:
                done, *told = results.pop(0)
                done(*told)
    return sent, agent.whole


def work(job, done):
    """What a worker tells of a job; what was asserted in it is raised."""
    try:
        return done, job(), None
    except RuntimeError as error:
        return done, None, error


@pytest.mark.parametrize('ahead', [0, 1])
def test_whatever_happens_in_whatever_order_commands_and_history_are_sound(two_room, ahead):
    """Within the limits, one a frame, none without a goal nor of a plan for an earlier drive; and
    no history with a hole."""
    found = [drive(two_room, 2 * seed + ahead) for seed in range(40)]
    assert sum(len(sent) for sent, _ in found) > 2000
    assert sum(whole for _, whole in found) > 100
