"""The driver alone: which command answers which frame, with a worker that the test turns."""

from __future__ import annotations

import numpy as np
import pytest
from drive_bench import TICK, Bench

from lewm_ros.drive import Fault

SAFE = (0.0, 0.0)


@pytest.fixture
def bench(two_room):
    return Bench(two_room).goal()


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


def test_a_late_plan_begins_where_the_robot_was_held_by_the_safe_action(two_room):
    """A first plan that came three ticks late was taken up at its fourth tick, though the robot
    had stood still meanwhile: whatever was to be done first, such as turning, was left out."""
    bench = Bench(two_room).goal()
    bench.frame(work=False)
    assert [bench.frame(work=False) for _ in range(3)][1:] == [[[0.0, 0.0]]] * 2
    bench.work()
    assert bench.frame() == [[0.01, 0.0]]


def test_a_late_plan_goes_on_after_what_the_former_plan_has_driven_of_its_time(bench):
    """Five ticks by the former plan, then the safe action: the robot is at the fifth."""
    for _ in range(5):
        bench.frame()
    for _ in range(8):
        bench.frame(work=False)
    assert [values for _, *values in bench.sent[-3:]] == [[0.0, 0.0]] * 3
    bench.work()
    bench.driver._phase = 1  # within a block, where plans are not asked for
    assert bench.frame() == [[0.02, 0.05]]


def test_no_plan_drives_for_longer_than_its_horizon_after_its_picture(two_room):
    """A search of seven seconds must not begin to drive by a picture of seven seconds ago."""
    bench = Bench(two_room).goal()
    bench.frame(work=False)
    for _ in range(6):
        bench.frame(work=False)
    bench.work()
    bench.driver._phase = 1
    assert [bench.frame(work=False)[0] for _ in range(4)] == [
        [0.01, 0.0], [0.01, 0.01], [0.01, 0.02], [0.0, 0.0]]
    late = Bench(two_room).goal()
    for _ in range(12):
        late.frame(work=False)
    late.work()
    late.driver._phase = 1
    assert late.frame() == [[0.0, 0.0]]


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


@pytest.mark.parametrize('ahead, blocks', [(False, 2), (True, 7)])
def test_a_frame_whose_image_is_refused_begins_a_block_only_where_it_is_driven_by_a_plan(
        two_room, ahead, blocks):
    """Each of them was counted as a block, so a minute of refused pictures hid that plans were
    late: missed_share is late plans a block."""
    bench = Bench(two_room, ahead=ahead, horizon=5).goal()
    for _ in range(5):
        bench.frame()
    for _ in range(40):
        bench.frame(broken=True)
    bench.frame()
    assert bench.driver.count['blocks'] == blocks
    assert bench.driver.count['frames'] == 46


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


def test_of_goals_that_come_faster_than_they_are_taken_the_newest_counts(two_room):
    """Goals at a camera's rate, for a robot that is to follow, waited in a queue that grew by each
    one that the encoder fell behind; the newest was taken last, and none before it was followed.
    """
    bench, taken = Bench(two_room), []

    def ask(grey):
        bench.driver.set_goal(np.full((64, 64, 3), grey, np.uint8),
                              lambda error: taken.append((grey, error)))

    for grey in range(1, 6):
        ask(grey)
    bench.work()
    assert bench.agent.goals == [5] and taken == [(5, None)]
    bench.agent.set_goal = lambda pixels: ask(6)  # while it is taken the next one comes
    ask(7)
    bench.jobs, (waiting,) = bench.jobs[1:], bench.jobs[:1]
    waiting[1](waiting[0](), None)
    assert taken == [(5, None), (7, None)] and len(bench.jobs) == 1


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
