"""The steps that a recording makes, and what of it is no part of any."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np

from lewm_core.robot import RobotSpec
from lewm_ros.camera_watch import SLOW
from lewm_ros.clocks import queued
from lewm_ros.recording import Recording
from lewm_ros.steps import Step, StepBuilder

_LOG = logging.getLogger(__name__)


def build_steps(recording: Recording, spec: RobotSpec) -> tuple[list[Step], StepBuilder]:
    """The steps of a recording, each with its frame's index as payload, and their builder.

    Nothing is known of what the robot was told before the first command of an episode and after
    the last one has timed out: these frames are left out and counted as `uncommanded`.
    """
    builder = StepBuilder(spec, hold=True)
    clock, steps, wrong = recording.clock, [], _left_out(recording, spec)
    values = recording.commands.numbers()
    stamps = {'frame': recording.frames.stamps(clock), 'marker': recording.markers.stamps(clock),
              'command': recording.commands.stamps(clock)}
    for kind, index in recording.order:
        stamp_ns = stamps[kind][index]
        if kind in wrong and wrong[kind][index] or clock == 'header' and stamp_ns == 0:
            continue
        if kind == 'frame':
            steps += builder.frame(stamp_ns, index)
        elif kind == 'command':
            steps += builder.command(stamp_ns, values[index])
        else:
            steps += builder.marker(stamp_ns)
    every = steps + builder.flush()
    kept = commanded_part(every)
    recording.uncommanded = len(every) - len(kept)
    builder.timeouts = sum(not step.commanded for step in kept)
    if recording.uncommanded:
        _LOG.info('%s: %d frames before the first or after the last command are left out',
                  recording.name, recording.uncommanded)
    _warn_of_a_slow_camera(kept, recording.name, spec)
    return kept, builder


def _warn_of_a_slow_camera(steps: list[Step], name: str, spec: RobotSpec) -> None:
    """Nothing; warns, by the median, where frames are farther apart than the ticks they become.
    """
    apart = [after.stamp_ns - step.stamp_ns for step, after in zip(steps, steps[1:])
             if not after.new_episode]
    usual_s = float(np.median(apart)) / 1e9 if apart else 0.0
    if usual_s > SLOW * spec.tick_s:
        _LOG.warning('%s: pictures come every %.2g s, but a tick is %.2g s: each frame becomes a '
                     'tick, so that the robot seems faster than it is; give rate_hz: %.3g or less '
                     'in the robot spec', name, usual_s, spec.tick_s, 1 / usual_s)


def _left_out(recording: Recording, spec: RobotSpec) -> dict[str, np.ndarray]:
    """By kind, which messages (n,) bool came out of a queue, where log time is gone by."""
    if recording.clock == 'header':
        return {}
    wrong = {'frame': queued(np.array(recording.frames.log_ns))}
    if spec.action.reduce != 'sum':  # an increment that came late was made all the same
        wrong['command'] = queued(np.array(recording.commands.log_ns))
    recording.queued = int(sum(mask.sum() for mask in wrong.values()))
    if recording.queued:
        _LOG.warning('%s: %d messages that came out of a queue all at once are left out, for '
                     'their log time is not when they were sent', recording.name,
                     recording.queued)
    return wrong


def commanded_part(steps: list[Step]) -> list[Step]:
    """The steps of each episode from the first that was commanded to the last."""
    kept: list[Step] = []
    starts = [i for i, step in enumerate(steps) if step.new_episode]
    for start, end in zip(starts, [*starts[1:], len(steps)]):
        led = [i for i in range(start + 1, end) if steps[i].commanded]
        if led:
            # The first command moves the robot from the frame before it.
            kept.append(replace(steps[led[0] - 1], action=None, new_episode=True, commanded=True))
            kept += steps[led[0]:led[-1] + 1]
    return kept
