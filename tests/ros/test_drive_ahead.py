"""The driver that plans ahead: plan n + 1 is made while plan n drives."""

from __future__ import annotations

import numpy as np
import pytest
from drive_bench import TICK, Bench

from lewm_ros.drive import Fault

SAFE = (0.0, 0.0)


@pytest.fixture
def ahead(two_room):
    return Bench(two_room, ahead=True).goal()


def test_ahead_only_the_first_frame_waits_for_its_plan(ahead):
    sent = [ahead.frame(work=k in (0, 3, 7))[0] for k in range(12)]
    ticks = [0.0, 0.01, 0.02, 0.03, 0.04]
    assert sent == [[n, t] for n in (0.01, 0.02) for t in ticks] + [[0.03, 0.0], [0.03, 0.01]]
    assert ahead.driver.count['late'] == 0 and ahead.driver.fault is None


def test_a_plan_made_ahead_is_told_what_its_block_before_does(ahead):
    for _ in range(6):
        ahead.frame()
    calls = [c for c in ahead.agent.calls if 'commit' not in c]
    assert calls[-4:] == [('plan', 0, 0), ('next', 0.0, 0.04),
                          ('see', 5 * TICK), ('next', 0.0, 0.04)]
    commits = [k for k, c in enumerate(ahead.agent.calls) if 'commit' in c]
    assert len(commits) == 5 and max(commits) < ahead.agent.calls.index(('see', 5 * TICK))


def test_a_plan_made_ahead_that_is_late_lets_the_old_one_go_on_and_is_taken_up_at_its_tick(ahead):
    ahead.frame()                                          # plan 1 now, plan 2 ahead
    for _ in range(4):
        ahead.frame()
    assert ahead.frame(work=False) == [[0.02, 0.0]]        # plan 3 is asked for, and takes long
    sent = [ahead.frame(work=False)[0] for _ in range(6)]
    assert sent == [[0.02, t] for t in (0.01, 0.02, 0.03, 0.04, 0.05, 0.06)]
    assert ahead.driver.fault is Fault.LATE and ahead.driver.following
    assert ahead.driver.count['late'] == 1 and ahead.driver.count['blocks'] == 2
    ahead.work()
    assert ahead.frame() == [[0.03, 0.02]]                 # its third tick, where time is
    assert ahead.agent.calls.count('lose_history') == 2


def test_ahead_a_plan_that_comes_in_the_last_tick_of_its_block_is_in_time(ahead):
    """A search that takes nearly a whole block kept the fault of one late plan for ever, for a
    plan that came after its block's last command was not taken for a fresh one."""
    for _ in range(5):
        ahead.frame()
    ahead.frame(work=False)
    for _ in range(5):
        ahead.frame(work=False)
    ahead.work()
    assert ahead.driver.fault is Fault.LATE
    for _ in range(5):
        ahead.frame(work=False)
    ahead.work()                                           # in time for the frame that comes
    ahead.frame(work=False)
    assert ahead.driver.fault is None and ahead.driver.count['late'] == 1


def test_ahead_what_a_plan_is_told_of_its_block_is_what_is_then_sent(two_room):
    """Searched through many interleavings of in time, late, failed and refused: the commands that
    a plan made ahead was told of are those that go out, safe actions among them."""
    rng, told = np.random.default_rng(0), 0
    bench = Bench(two_room, ahead=True, spoil=lambda plan: plan * rng.choice([1, 1, 1, np.nan]))
    seen = bench.agent.plan_next

    def plan_next(frame, committed):
        claims.append((frame.stamp_ns // TICK if frame else bench.now, committed))
        return seen(frame, committed)

    claims, bench.agent.plan_next = [], plan_next
    bench.goal()
    for _ in range(3000):
        bench.frame(work=rng.random() < 0.4, broken=rng.random() < 0.05)
    sent = {stamp // TICK: values for stamp, *values in bench.sent}
    for first, committed in claims:
        ticks = [sent[k] for k in range(first, first + 5) if k in sent]
        if len(ticks) == 5:
            assert np.allclose(ticks, committed)
            told += 1
    assert told > 100 and {(0.0, 0.0)} < set(map(tuple, sent.values()))


def test_ahead_a_refused_image_lets_the_plan_go_on(ahead):
    for _ in range(5):
        ahead.frame()
    assert ahead.frame(broken=True) == [[0.02, 0.0]]
    assert ahead.driver.fault is Fault.IMAGE
    rest = [ahead.frame()[0] for _ in range(5)]
    assert rest == [[0.02, t] for t in (0.01, 0.02, 0.03, 0.04, 0.05)]
    assert ahead.frame() == [[0.02, 0.06]]


def test_ahead_a_new_episode_plans_at_once_and_drops_what_was_made_before(ahead):
    for _ in range(3):
        ahead.frame()
    assert ahead.frame(work=False, start=True) == []
    assert ahead.driver.waiting
    ahead.work()
    assert ahead.sent[-1][1:] == (0.03, 0.0)


def test_ahead_a_plan_that_is_not_finite_lets_the_old_one_go_on_to_its_horizon(two_room):
    plans = []

    def spoil(actions):
        plans.append(1)
        return actions if len(plans) == 1 else actions * np.nan

    bench = Bench(two_room, ahead=True, spoil=spoil).goal()
    sent = [bench.frame()[0] for _ in range(11)]
    assert sent[:10] == [[0.01, t / 100] for t in range(10)]
    assert sent[10] == list(SAFE) and bench.driver.fault is Fault.NOT_FINITE


def test_ahead_a_goal_given_while_a_plan_is_made_for_the_former_one_drops_that_plan(ahead):
    for _ in range(5):
        ahead.frame()
    ahead.frame(work=False)                                # asks for plan 3, for the former goal
    ahead.driver.set_goal(np.ones((64, 64, 3), np.uint8), lambda error: None)
    ahead.work()
    assert ahead.agent.calls[-1] == 'set_goal' and ahead.agent.plans == 3
    assert ahead.frame() == [[0.04, 0.0]]
    assert ahead.agent.calls[-3:-1] == ['reset', ('plan', 6 * TICK, 6)]
