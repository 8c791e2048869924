"""What is odd in a recording, each in one sentence; for `lewm inspect`."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from lewm_ros.bag_statistics import IMAGES, TopicStatistics
from lewm_ros.latency import Latency
from lewm_ros.picture_motion import Motion
from lewm_ros.steps import finite
from lewm_ros.suggest_spec import Chosen, constants

_FEW_PAIRS, _FEW_FRAMES = 200, 10


def of_topic(topic: TopicStatistics, motion: Motion | None) -> Iterator[str]:
    """Yields what is odd in one topic."""
    name, timing = topic.topic.name, topic.timing()
    if topic.trouble:
        yield f'{name}: {topic.trouble}'
    if motion is not None and motion.still and motion.frames >= _FEW_FRAMES:
        yield (f'{name}: the camera never changes in {motion.frames} pictures over the whole '
               f'recording (by {motion.range:.1f} grey levels at most); is it the right topic, '
               'and the camera alive?')
    if motion is not None and motion.failed and motion.frames:
        yield f'{name}: {motion.failed} of {motion.failed + motion.frames} pictures cannot be read'
    if topic.topic.type in IMAGES and len({k.split(' ')[0] for k in topic.kinds}) > 1:
        yield f'{name}: the size of the pictures changes: {", ".join(topic.kinds)}'
    if topic.others:
        yield (f'{name}: {topic.others} messages are of another type than {topic.topic.type} and '
               'are not shown')
    if topic.connections > 1:
        yield (f'{name}: {topic.connections} connections; were there several publishers, one '
               'would undo what another says')
    if timing is not None:
        yield from _of_stamps(topic)


def _of_stamps(topic: TopicStatistics) -> Iterator[str]:
    name, timing, stamps = topic.topic.name, topic.timing(), topic.stamps
    if timing.backwards:
        yield f'{name}: the clock goes back {timing.backwards} times; an episode ends there'
    if timing.queued and topic.clock == 'log':
        yield (f'{name}: {timing.queued} messages came out of a queue all at once, so that their '
               'log time is not when they were sent')
    missing = int((stamps.header == 0).sum())
    if 0 < missing < len(stamps.header):
        yield f'{name}: {missing} of {len(stamps.header)} messages have no header stamp'


def of_clocks(topics: dict[str, TopicStatistics]) -> Iterator[str]:
    """Yields how header stamps and log time differ, once for all topics alike."""
    apart: dict[str, list[str]] = {}
    for name, topic in topics.items():
        timing = topic.timing()
        if timing is None or topic.clock == 'log' or len(topic.log) < 20:
            continue
        if abs(timing.delay_s) > 3600:
            apart.setdefault(
                f'header stamps are {_days(timing.delay_s)} from the time of receipt: was it '
                'replayed, simulated, or is its clock wrong?', []).append(name)
        filled = topic.stamps.filled()
        spans = [float(np.ptp(s)) / 1e9 for s in (filled.header, filled.log)]
        if not timing.backwards and max(spans) > 1 and min(spans) > 0 and not (
                0.9 < spans[0] / spans[1] < 1.1):
            times = float(f'{spans[0] / spans[1]:.1g}')
            apart.setdefault(f'header stamps run about {times:g} times as fast as log time, as in '
                             'a simulation not at real time', []).append(name)
    for text, names in apart.items():
        yield f'{", ".join(names)}: {text}'


def between(chosen: Chosen, clock: str, reason: str, latency: Latency | None) -> Iterator[str]:
    """Yields what is odd between the camera and the commands."""
    camera, action = chosen.camera.topic.name, chosen.action.topic.name
    if clock == 'log' and 'two clocks' in reason:
        yield f'{camera} and {action}: {reason}; synchronise them, and record again'
    if latency is not None and not latency.related and latency.pairs >= _FEW_PAIRS:
        yield (f'{action}: the picture of {camera} follows the commands no more than by chance in '
               f'{latency.pairs} pairs of frames (strength {latency.strength:.2f}, by chance '
               f'{latency.chance:.2f}); is it the camera of that robot, and are they the commands '
               'that it follows? Of few pairs and many commands nobody can tell')
    values = chosen.action.numbers()[:, list(chosen.fields)]
    if wrong := int((~finite(values)).sum()):
        yield (f'{action}: {wrong} of {len(values)} commands are not finite; nobody knows what '
               'the robot did by them, so an episode ends at each')
    if lost := _not_sent(chosen):
        yield (f'{action}: {", ".join(lost)} in the recording, but the planner sends 0 in numbers '
               'that the spec does not name, and empty texts; where the robot needs them, a node '
               'between planner and robot must fill them in')
    frames, told = chosen.camera.times(clock), chosen.action.times(clock)
    if len(frames) and len(told):
        for count, where in ((int((frames < told.min()).sum()), 'before the first'),
                             (int((frames > told.max() + 500_000_000).sum()), 'after the last')):
            if count > 1:
                yield f'{camera}: {count} frames come {where} command; they are left out'


def _not_sent(chosen: Chosen) -> list[str]:
    """What of a command stays the same in the recording and is not what a planner would send."""
    found = [f'{path} is always {value:g}' for path, value in constants(chosen.action).items()]
    return found + [f'{path} has a text' for path in chosen.action.texts]


def _days(seconds: float) -> str:
    days = abs(seconds) / 86400
    return f'{days / 365.25:.1f} years' if days > 60 else f'{days:.1f} days'
