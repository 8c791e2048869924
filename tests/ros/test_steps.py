"""The step rule: which frames are kept, which action was in force, what starts an episode."""

from __future__ import annotations

import dataclasses
import weakref
from itertools import product

import numpy as np
import pytest
from bag_toys import START, TICK, S, with_latency

from lewm_ros.steps import Choice, FrameSelector, LiveClock, StepBuilder, action_in_force

SKIP, KEEP, BEGIN = Choice.SKIP, Choice.KEEP, Choice.START


def choices(spec, stamps):
    selector = FrameSelector(spec)
    return [selector.offer(START + int(stamp)) for stamp in stamps]


def actions(steps):
    """The first value of each step's action, None at an episode's start."""
    return [None if s.action is None else float(s.action[0]) for s in steps]


def run(spec, events, hold=False):
    """All steps of (kind, stamp, value) events; a frame's value is its payload."""
    builder, steps = StepBuilder(spec, hold=hold), []
    for kind, stamp, value in events:
        if kind == 'command':
            steps += builder.command(stamp, np.array([value, 0.0]))
        elif kind == 'frame':
            steps += builder.frame(stamp, value)
        else:
            steps += builder.marker(stamp)
    return steps + builder.flush(), builder


def answered(frames, delay_ns):
    """Frames at 10 Hz, each answered by a command k that is stamped `delay_ns` later."""
    events = []
    for k in range(frames):
        events.append(('frame', START + k * TICK, k))
        events.append(('command', START + k * TICK + delay_ns, float(k)))
    return events


def test_a_camera_at_the_rate_keeps_every_frame_through_jitter(two_room):
    jitter = np.random.default_rng(0).integers(-TICK // 7, TICK // 7, 200)
    jitter[0] = TICK // 10
    assert choices(two_room, np.arange(200) * TICK + jitter) == [BEGIN] + [KEEP] * 199


@pytest.mark.parametrize('factor', [0.97, 0.99, 1.01, 1.03])
def test_a_camera_with_a_clock_slightly_off_keeps_every_frame(two_room, factor):
    assert choices(two_room, np.arange(500) * TICK * factor) == [BEGIN] + [KEEP] * 499


def test_a_camera_at_three_times_the_rate_keeps_each_third(two_room):
    found = choices(two_room, np.arange(9) * TICK / 3)
    assert found == [BEGIN, SKIP, SKIP, KEEP, SKIP, SKIP, KEEP, SKIP, SKIP]


def test_after_a_late_frame_the_phase_is_kept_and_after_a_lost_one_it_is_found(two_room):
    assert choices(two_room, [0, 1.4 * TICK, 2 * TICK]) == [BEGIN, KEEP, KEEP]
    assert choices(two_room, [0, 2.6 * TICK, 3 * TICK, 3.6 * TICK]) == [BEGIN, KEEP, SKIP, KEEP]


def test_a_gap_starts_an_episode_and_a_gap_of_exactly_max_age_does_not(two_room):
    assert choices(two_room, [0, 5 * TICK]) == [BEGIN, KEEP]
    assert choices(two_room, [0, 5 * TICK + 1]) == [BEGIN, BEGIN]


def test_a_clock_that_goes_back_starts_an_episode_and_a_repeated_stamp_is_skipped(two_room):
    assert choices(two_room, [0, TICK, TICK, -40 * TICK, -39 * TICK]) == [
        BEGIN, KEEP, SKIP, BEGIN, KEEP]


def test_a_marker_starts_an_episode_at_the_first_frame_at_or_after_it(two_room):
    selector = FrameSelector(two_room)
    selector.offer(START)
    selector.marker(START + 2 * TICK)
    found = [selector.offer(START + k * TICK) for k in (1, 2, 3)]
    assert found == [KEEP, BEGIN, KEEP]


def test_the_last_command_before_the_end_of_a_step_counts_and_one_at_its_end_does_not():
    assert action_in_force([10, 20, 30], 30, 100) == 1
    assert action_in_force([10, 20, 30], 31, 100) == 2
    assert action_in_force([10], 10, 100) is None
    assert action_in_force([10, 10], 11, 100) == 1


def test_a_command_is_in_force_for_the_timeout_and_no_longer():
    assert action_in_force([10], 110, 100) == 0
    assert action_in_force([10], 111, 100) is None


@pytest.mark.parametrize('hold', [False, True])
@pytest.mark.parametrize('delay_ns, latency_s', [(60_000_000, 0.0), (0, 0.0), (0, 0.05),
                                                 (20_000_000, 0.05)])
def test_action_k_is_the_one_that_answers_frame_k(two_room, hold, delay_ns, latency_s):
    spec = with_latency(two_room, latency_s=latency_s)
    steps, _ = run(spec, answered(6, delay_ns), hold)
    assert [s.payload for s in steps] == [0, 1, 2, 3, 4, 5]
    # The action of the step that ends with frame k + 1 is the answer to frame k.
    assert actions(steps) == [None, 0, 1, 2, 3, 4]


def test_a_command_that_takes_longer_than_a_tick_belongs_to_the_next_step(two_room):
    spec = with_latency(two_room, latency_s=0.13)
    steps, builder = run(spec, answered(5, 0))
    assert actions(steps) == [None, 0.0, 0, 1, 2] and builder.timeouts == 1


def test_without_a_command_in_force_the_safe_action_holds_or_the_step_is_cut(two_room):
    events = [('command', START + 1, 0.3)] + [('frame', START + k * TICK, k) for k in range(9)]
    steps, builder = run(with_latency(two_room, latency_s=0.0), events)
    assert actions(steps) == [None, 0.3, 0.3, 0.3, 0.3, 0.3, 0.0, 0.0, 0.0]
    assert builder.timeouts == 3
    steps, _ = run(with_latency(two_room, latency_s=0.0, on_timeout='drop'), events)
    assert actions(steps) == [None, 0.3, 0.3, 0.3, 0.3, 0.3, None, None, None]
    assert [s.new_episode for s in steps] == [True] + [False] * 5 + [True] * 3


# Commands at 0.2, 0.7 (of a tick) in each step, but none in the third.
@pytest.mark.parametrize('reduce, expected', [
    ('last', [None, 0.2, 0.4, 0.4, 0.8]), ('mean', [None, 0.15, 0.35, 0.4, 0.75]),
    ('sum', [None, 0.3, 0.7, 0.0, 1.5])])
@pytest.mark.parametrize('hold', [False, True])
def test_the_commands_of_a_step_become_its_last_their_mean_or_their_sum(
        two_room, reduce, expected, hold):
    spec = with_latency(two_room, latency_s=0.0, reduce=reduce)
    events = [('frame', START + k * TICK, k) for k in range(5)]
    events += [('command', START + k * TICK + part * TICK // 10, (2 * k + (part > 5) + 1) / 10)
               for k in (0, 1, 3) for part in (2, 7)]
    steps, builder = run(spec, sorted(events, key=lambda e: e[1]), hold)
    found = actions(steps)
    assert found[0] is None and found[1:] == pytest.approx(expected[1:])
    assert builder.timeouts == 0


@pytest.mark.parametrize('reduce', ['last', 'mean', 'sum'])
@pytest.mark.parametrize('delay_ns, latency_s', [(60_000_000, 0.0), (0, 0.0), (0, 0.05)])
def test_one_command_a_tick_gives_the_same_action_however_it_is_reduced(
        two_room, reduce, delay_ns, latency_s):
    """A planner answers each frame once: what it sends is what a model of its bags learns."""
    spec = with_latency(two_room, latency_s=latency_s, reduce=reduce)
    steps, _ = run(spec, answered(6, delay_ns))
    assert actions(steps) == [None, 0, 1, 2, 3, 4]


def test_without_a_command_in_force_a_sum_is_the_safe_action_too(two_room):
    spec = with_latency(two_room, latency_s=0.0, reduce='sum')
    events = [('command', START + 1, 0.3)] + [('frame', START + k * TICK, k) for k in range(8)]
    steps, builder = run(spec, events)
    assert actions(steps) == [None, 0.3, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    assert [s.commanded for s in steps] == [True] * 6 + [False] * 2 and builder.timeouts == 2


def test_a_live_step_is_given_out_once_a_later_command_is_there(two_room):
    builder = StepBuilder(with_latency(two_room, latency_s=0.0))
    assert len(builder.frame(START, 0)) == 1  # an episode's first frame waits for nothing
    builder.command(START, np.array([0.1, 0.0]))
    assert builder.frame(START + TICK, 1) == []
    assert builder.command(START + TICK - 1, np.array([0.2, 0.0])) == []
    (step,) = builder.command(START + TICK, np.array([0.3, 0.0]))
    assert step.action[0] == 0.2 and step.payload == 1


def test_a_live_step_is_given_out_after_the_grace_when_commands_have_ceased(two_room):
    builder = StepBuilder(two_room, grace_s=0.2)
    builder.frame(START, 0, received_ns=0)
    builder.frame(START + TICK, 1, received_ns=5)
    assert builder.poll(5 + S // 5 - 1) == []
    (step,) = builder.poll(5 + S // 5)
    assert step.payload == 1 and step.action.tolist() == [0.0, 0.0]
    builder.command(START, np.array([0.1, 0.0]))
    assert builder.late == 1


@pytest.mark.parametrize('camera', ['off', 'too slow for an episode', 'of an earlier clock'])
def test_a_live_node_does_not_remember_every_command_while_no_frame_uses_them_up(two_room, camera):
    """A camera that was off overnight while the controller went on sending cost the surprise node
    32 MB an hour at 50 Hz, for commands were let go where a step was made from one alone: without
    frames there are none, and none where every frame begins an episode or is before all commands.
    """
    builder, told = StepBuilder(two_room), []
    behind = 3600 * S if camera == 'of an earlier clock' else 0
    for k in range(120_000):
        values = np.zeros(2)
        told.append(weakref.ref(values))
        builder.command(START + k * S // 50, values)
        if camera != 'off' and k % 50 == 0:
            builder.frame(START + k * S // 50 - behind)
            builder.poll(2**62)
    assert sum(each() is not None for each in told) <= 100_000
    builder.frame(last := START + 2500 * S)
    builder.command(last, np.ones(2))
    builder.frame(last + TICK)
    (step,) = builder.command(last + TICK, np.zeros(2))
    assert step.action.tolist() == [1, 1]


def test_steps_are_given_out_in_order_with_their_payloads(two_room):
    builder = StepBuilder(two_room)
    builder.frame(START, 'a')
    assert builder.frame(START + TICK, 'b') == []
    assert builder.frame(START + 10 * TICK, 'c') == []  # a new episode, but b waits before it
    steps = builder.command(START + TICK, np.zeros(2))
    assert [s.payload for s in steps] == ['b', 'c']


def test_when_the_clock_goes_back_the_old_commands_no_longer_count(two_room):
    events = answered(5, 0) + [(kind, stamp - 100 * S, value + 50)
                               for kind, stamp, value in answered(5, 0)]
    for hold in (False, True):
        steps, _ = run(two_room, events, hold)
        assert actions(steps) == [None, 0, 1, 2, 3, None, 50, 51, 52, 53]


def test_a_marker_that_comes_after_its_frame_still_starts_the_episode(two_room):
    events = [('frame', START, 0), ('frame', START + TICK, 1), ('marker', START + TICK, None),
              ('frame', START + 2 * TICK, 2)]
    steps, _ = run(two_room, events)
    assert [s.new_episode for s in steps] == [True, True, False]


@pytest.mark.parametrize('seed', range(5))
def test_live_and_recorded_give_the_same_steps_when_commands_come_in_order(two_room, seed):
    rng = np.random.default_rng(seed)
    frames = np.cumsum(rng.choice([TICK // 3, TICK, 2 * TICK, 7 * TICK], 300))
    commands = np.cumsum(rng.choice([TICK // 5, TICK, 9 * TICK], 300, p=[0.4, 0.55, 0.05]))
    events = [('frame', START + int(t), k) for k, t in enumerate(frames)]
    events += [('command', START + int(t), float(k)) for k, t in enumerate(commands)]
    events += [('marker', START + int(t), None) for t in frames[::60]]
    rank = {'marker': 0, 'frame': 1, 'command': 2}
    events.sort(key=lambda e: (e[1], rank[e[0]]))
    for on_timeout, reduce in product(('safe', 'drop'), ('last', 'mean', 'sum')):
        spec = with_latency(two_room, on_timeout=on_timeout, reduce=reduce)
        live, recorded = run(spec, events)[0], run(spec, events, hold=True)[0]
        assert [(s.stamp_ns, s.payload, s.new_episode) for s in live] == [
            (s.stamp_ns, s.payload, s.new_episode) for s in recorded]
        assert actions(live) == actions(recorded)


@pytest.mark.parametrize('reduce', ['last', 'sum'])
def test_the_commands_kept_stay_bounded(two_room, reduce):
    builder = StepBuilder(with_latency(two_room, reduce=reduce))
    for kind, stamp, value in answered(5000, 0):
        builder.frame(stamp, value) if kind == 'frame' else builder.command(stamp, [value, 0.0])
    assert len(builder._times) < 600


def test_header_stamps_are_used_only_where_everybody_fills_them():
    clock = LiveClock(has_header=True)
    assert clock.stamp('frame', 5, 100) == 5 and clock.stamp('command', 6, 101) == 6
    assert clock.stamp('frame', 0, 102) is None and clock.header
    assert clock.stamp('marker', 0, 103) == 103 and not clock.header
    assert clock.stamp('frame', 7, 104) == 104
    assert LiveClock(has_header=False).stamp('frame', 5, 100) == 100


def test_a_first_stamp_of_zero_does_not_take_the_stamps_from_a_camera_that_has_them():
    """A simulator's first picture, of time 0, moved a planner to the clock of the wall for good:
    its commands were stamped years ahead, so that no robot in simulated time found one too old."""
    clock = LiveClock(has_header=True)
    assert clock.stamp('frame', 0, 10**18) == 10**18 and not clock.header
    assert clock.stamp('frame', 5, 10**18 + 1) == 5 and clock.header
    assert clock.stamp('frame', 0, 10**18 + 2) is None
    assert clock.stamp('command', 0, 10**18 + 3) == 10**18 + 3  # of these none is filled in
    assert clock.stamp('frame', 6, 10**18 + 4) == 10**18 + 4
    assert clock.stamp('command', 6, 10**18 + 5) == 6
    assert clock.stamp('marker', 0, 101) == clock.stamp('marker', 0, 101) == 101
    assert clock.stamp('marker', 7, 102) == 102  # not the first one alone


def test_another_rate_has_another_tick(two_room):
    spec = dataclasses.replace(two_room, rate_hz=30.0)
    assert choices(spec, np.arange(6) * S / 30) == [BEGIN] + [KEEP] * 5
