"""The driver alone: which command answers which frame, with a worker that the test turns."""

from __future__ import annotations

import numpy as np
import pytest
from ros_toys import ToyAgent

from lewm_core.types import UserError
from lewm_ros.drive import Driver, Fault

TICK = 100_000_000
SAFE = (0.0, 0.0)


class Bench:
    """A driver whose worker works when `work` is called."""

    def __init__(self, spec, ahead=False, **toy):
        self.agent = ToyAgent(spec, **toy)
        self.jobs, self.sent, self.now = [], [], 0
        self.driver = Driver(self.agent, lambda job, done: self.jobs.append((job, done)),
                             lambda stamp, values: self.sent.append((stamp, *map(float, values))),
                             ahead=ahead)

    def work(self):
        while self.jobs:
            job, done = self.jobs.pop(0)
            try:
                result, error = job(), None
            except Exception as raised:
                result, error = None, raised
            done(result, error)

    def goal(self):
        self.driver.set_goal(np.zeros((64, 64, 3), np.uint8), lambda error: None)
        self.work()
        return self

    def frame(self, work=True, start=False, broken=False):
        """The commands that one more frame brings."""
        before = len(self.sent)

        def pixels():
            if broken:
                raise UserError('the image is 3x3')
            return np.full((64, 64, 3), self.now % 256, np.uint8)

        self.driver.frame(self.now * TICK, start, pixels)
        if work:
            self.work()
        self.now += 1
        return [values for _, *values in self.sent[before:]]


@pytest.fixture
def bench(two_room):
    return Bench(two_room).goal()


@pytest.fixture
def ahead(two_room):
    return Bench(two_room, ahead=True).goal()


def test_without_a_goal_frames_are_not_answered(two_room):
    bench = Bench(two_room)
    assert [bench.frame() for _ in range(3)] == [[], [], []]


def test_every_frame_is_answered_once_and_echoed_with_a_plan_a_block(bench):
    for _ in range(12):
        assert len(bench.frame()) == 1
    assert [stamp for stamp, *_ in bench.sent] == [k * TICK for k in range(12)]
    assert [values for _, *values in bench.sent] == [
        [(k // 5 + 1) / 100, k % 5 / 100] for k in range(12)]
    assert bench.agent.plans == 3 and bench.driver.fault is None


def test_the_agent_hears_what_was_sent_between_its_plans(bench):
    for _ in range(6):
        bench.frame()
    calls = bench.agent.calls
    assert calls[:3] == ['set_goal', 'reset', ('plan', 0, 0)]
    assert calls[3:] == [('commit', k * TICK, (0.01, k / 100)) for k in range(5)] + [
        ('plan', 5 * TICK, 5)]


def test_a_late_plan_lets_the_previous_one_go_on_and_is_taken_up_at_its_tick(bench):
    for _ in range(5):
        bench.frame()
    assert bench.frame(work=False) == []
    bench.driver.late()
    assert bench.sent[-1] == (5 * TICK, 0.01, 0.05)
    assert bench.driver.fault is Fault.LATE and bench.driver.following
    assert bench.frame(work=False) == [[0.01, 0.06]]
    bench.work()
    assert bench.frame() == [[0.02, 0.02]]
    assert bench.driver.fault is Fault.LATE
    bench.frame(), bench.frame(), bench.frame()
    assert bench.driver.fault is None


def test_a_plan_that_never_comes_ends_at_the_horizon_with_the_safe_action(bench):
    for _ in range(5):
        bench.frame()
    bench.frame(work=False)
    sent = [bench.frame(work=False) for _ in range(7)]
    # The first of these answers the frame that waited as well.
    assert sent[0] == [[0.01, 0.05], [0.01, 0.06]]
    assert sent[1:4] == [[[0.01, 0.07]], [[0.01, 0.08]], [[0.01, 0.09]]]
    assert sent[4:] == [[[0.0, 0.0]]] * 3
    assert not bench.driver.following and bench.driver.fault is Fault.LATE
    assert bench.driver.count['late'] == 1


def test_a_boundary_that_could_not_be_planned_begins_a_new_history(bench):
    bench.frame(work=False)
    for _ in range(7):
        bench.frame(work=False)
    bench.work()
    bench.agent.calls.clear()
    assert bench.frame() == [[0.02, 0.0]]
    assert bench.agent.calls == ['reset', ('plan', 8 * TICK, 8)]


def test_a_worker_that_is_stuck_costs_no_memory(bench):
    for _ in range(500):
        bench.frame(work=False)
    bench.work()
    bench.agent.calls.clear()
    bench.frame()
    assert len(bench.agent.calls) < 5 and 'reset' in bench.agent.calls


def test_without_any_plan_the_safe_action_is_sent(bench):
    bench.frame(work=False)
    bench.driver.late()
    assert bench.sent == [(0, *SAFE)]


@pytest.mark.parametrize('bad', [np.nan, np.inf])
def test_a_plan_that_is_not_finite_is_never_sent(two_room, bad):
    broken = {2, 3}

    def spoil(actions):
        return actions + bad if round(actions[0, 0] * 100) in broken else actions

    bench = Bench(two_room, spoil=spoil).goal()
    sent = [bench.frame()[0] for _ in range(20)]
    assert sent[5:10] == [[0.01, k / 100] for k in range(5, 10)]
    assert sent[10:15] == [[0.0, 0.0]] * 5
    assert sent[15] == [0.04, 0.0] and bench.driver.fault is None
    assert bench.driver.count['not_finite'] == 2


@pytest.mark.parametrize('spoil', [
    lambda actions: actions[:, :1], lambda actions: actions[:0], lambda actions: actions[0]])
def test_a_plan_of_the_wrong_shape_is_never_sent(two_room, spoil):
    bench = Bench(two_room, spoil=spoil).goal()
    assert bench.frame() == [[0.0, 0.0]]


def test_a_planner_that_raises_is_answered_for(two_room):
    def spoil(actions):
        raise RuntimeError('out of memory')

    bench = Bench(two_room, spoil=spoil).goal()
    assert bench.frame() == [[0.0, 0.0]]
    assert bench.driver.fault is Fault.FAILED and 'out of memory' in bench.driver.detail


def test_what_leaves_the_limits_is_clamped_and_counted(two_room):
    bench = Bench(two_room, spoil=lambda actions: actions * 0 + [9.0, -9.0]).goal()
    assert bench.frame() == [[0.4, -0.4]]
    assert bench.driver.count['clamped'] == 1
    assert ('commit', 0, (0.4, -0.4)) not in bench.agent.calls  # handed over with the next plan
    for _ in range(5):
        bench.frame()
    assert ('commit', 0, (0.4, -0.4)) in bench.agent.calls


def test_a_refused_image_lets_the_plan_go_on_and_the_next_good_one_plans(bench):
    for _ in range(5):
        bench.frame()
    assert bench.frame(broken=True) == [[0.01, 0.05]]
    assert bench.driver.fault is Fault.IMAGE and '3x3' in bench.driver.detail
    assert bench.frame() == [[0.02, 0.0]]
    assert bench.driver.fault is None


def test_an_episode_start_forgets_plan_and_history(bench):
    for _ in range(3):
        bench.frame()
    assert bench.frame(start=True) == [[0.02, 0.0]]
    assert bench.agent.calls[-2:] == ['reset', ('plan', 3 * TICK, 3)]


def test_a_plan_of_an_earlier_episode_is_dropped(bench):
    bench.frame(work=False)
    bench.frame(work=False, start=True)
    bench.work()
    assert [values for _, *values in bench.sent] == [[0.0, 0.0], [0.01, 0.0]]


def test_plans_that_nobody_waits_for_any_more_are_not_made(bench):
    """Two cameras with two clocks on one topic began an episode with every frame: each asked for
    a plan, the slow search fell ever further behind, and the queue of pictures grew for ever."""
    for _ in range(50):
        bench.frame(work=False, start=True)
    bench.work()
    assert bench.agent.plans == 1 and bench.sent[-1] == (49 * TICK, 0.01, 0.0)
    assert bench.agent.calls[-2:] == ['reset', ('plan', 49 * TICK, 49)]


def test_a_new_goal_is_planned_for_at_the_next_frame(bench):
    for _ in range(2):
        bench.frame()
    bench.goal()
    assert bench.frame() == [[0.02, 0.0]]


def test_a_frame_that_waits_behind_a_new_goal_is_answered_with_a_plan_for_it(bench):
    bench.driver.set_goal(np.zeros((64, 64, 3), np.uint8), lambda error: None)
    assert bench.frame() == [[0.01, 0.0]]
    assert bench.agent.calls[1:2] == ['set_goal']


def test_a_goal_that_is_cleared_before_the_agent_took_it_stays_cleared(two_room):
    bench = Bench(two_room)
    bench.driver.set_goal(np.zeros((64, 64, 3), np.uint8), lambda error: None)
    bench.driver.clear_goal()
    bench.work()
    assert not bench.driver.has_goal and bench.frame() == []


def test_a_stale_camera_sends_the_safe_action_and_counts_once(bench):
    bench.frame()
    bench.driver.stale(7, 'no image'), bench.driver.stale(8, 'no image')
    assert bench.sent[-2:] == [(7, *SAFE), (8, *SAFE)]
    assert bench.driver.fault is Fault.STALE and bench.driver.count['stale'] == 1
    assert bench.frame() == [[0.02, 0.0]] and bench.driver.fault is None


# Ahead: plan n + 1 is made while plan n drives.
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
    """Searched through all interleavings of in time, late, failed and refused: the commands that a
    plan made ahead was told of are those that go out, safe actions among them."""
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
