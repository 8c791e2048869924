"""What a bag holds, what is odd in it, and a robot spec that fits it: for `lewm inspect`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lewm_core.types import UserError
from lewm_ros.bag_files import shown
from lewm_ros.bag_reader import Bag, find_bags, open_bag
from lewm_ros.bag_statistics import IMAGES, Timing, TopicStatistics, read_statistics
from lewm_ros.bag_warnings import between, of_clocks, of_topic
from lewm_ros.clocks import RULE, choose_clock
from lewm_ros.latency import Latency, estimate_latency
from lewm_ros.picture_motion import Motion, look
from lewm_ros.steps import finite
from lewm_ros.suggest_spec import Chosen, choose, choose_camera, suggest, tick_rate

_GLANCE, _LOOK_AT, _LATENCY_FRAMES = 60, 600, 6000
_YEAR_S = 365.25 * 86400


@dataclass(frozen=True)
class Inspection:
    """What was found in one bag. `table` and `warnings` are for people.

    `chosen` are the likely camera and commands, compared by `clock` for `reason`; None, and the
    sentence `why_not`, when the bag lacks one of them. `latency` is None when nothing can be said.
    """

    path: Path
    table: str
    warnings: tuple[str, ...]
    topics: dict[str, TopicStatistics]
    chosen: Chosen | None
    why_not: str
    clock: str
    reason: str
    latency: Latency | None

    def spec(self, latency: bool = False) -> str:
        """The YAML of a fitting robot spec, with the latency if asked; raises UserError."""
        if self.chosen is None:
            raise UserError(self.why_not)
        return suggest(self.topics, self.chosen, self.path, self.clock,
                       self.latency if latency else None)

    def text(self, latency: bool = False) -> str:
        """All that there is to say, the estimated latency if asked."""
        lines = [self.table]
        if self.chosen is not None:
            lines.append(f'clock: {self.clock}: {self.reason} (rule: {RULE})')
        else:
            lines.append(f'spec: none: {self.why_not}')
        if latency:
            lines.append(f'latency: {self._latency()}')
        return '\n'.join([*lines, *(f'warning: {w}' for w in self.warnings)])

    def _latency(self) -> str:
        if self.chosen is None:
            return f'not estimated: {self.why_not}'
        found = self.latency
        if found is None:
            return 'not estimated: fewer than 100 pairs of frames have commands about them'
        rate, _ = tick_rate(self.chosen.camera, self.chosen.action, self.clock)
        trust = 'confident' if found.confident(1 / rate) else (
            'not confident: the picture follows the commands no more than by chance'
            if not found.related else 'not confident: known to no better than a tick')
        return (f'{found.seconds:.3f} s from the stamp of a command on '
                f'{self.chosen.action.topic.name} to motion on {self.chosen.camera.topic.name} '
                f'(95 % interval {found.low:.3f} to {found.high:.3f} s, {found.pairs} pairs of '
                f'frames, by the {found.by} of the commands, strength {found.strength:.2f}, by '
                f'chance {found.chance:.2f}): {trust}')


def inspect_bag(path: str | Path, latency: bool = False, typestore: str = '') -> str:
    """The tables of the bags at `path`, with what is odd in each; raises UserError.

    A line per topic with its type, number of messages, rate, jitter (95 % of the intervals are
    off by no more), gaps (intervals above three usual ones) and the longest, by header stamps
    where the topic fills them in; how long after its header stamp a message was received; the
    number of connections; the sizes and encodings of pictures. With `latency`, how long a
    command takes to move the picture. `typestore`: as for `open_bag`.
    """
    return '\n\n'.join(inspect_bags(path, [], latency, typestore))


def inspect_bags(path: str | Path, failed: list[tuple[Path, str]], latency: bool = False,
                 typestore: str = '') -> Iterator[str]:
    """Yields what `inspect_bag` says of each bag at `path`.

    Of several those that can't be read are noted in `failed`, each with the reason; raises
    UserError where there is no other.
    """
    paths = find_bags([path])
    for bag in paths:
        try:
            yield inspect_one(bag, latency, typestore).text(latency)
        except UserError as error:
            if len(paths) == 1:
                raise
            failed.append((bag, str(error)))


def suggest_spec(path: str | Path, latency: bool = False, typestore: str = ''
                 ) -> tuple[str, tuple[str, ...]]:
    """The YAML of a robot spec that fits the bag at `path`, and what is odd in that bag.

    Of several bags the one with the most messages that has a camera and commands is taken. Raises
    UserError where none has.
    """
    paths, faults = find_bags([path]), []
    if len(paths) > 1:
        paths.sort(key=_messages, reverse=True)
    for bag in paths:
        try:
            found = inspect_one(bag, latency, typestore)
            return found.spec(latency), found.warnings
        except UserError as error:
            faults.append(error)
    raise faults[0]


def _messages(path: Path) -> int:
    """The number of messages in a bag; -1 where it can't be read."""
    try:
        with open_bag(path) as bag:
            return sum(t.count for t in bag.topics)
    except UserError:
        return -1


def inspect_one(path: Path, latency: bool = False, typestore: str = '') -> Inspection:
    """The inspection of one bag: a pass for the stamps, one for (some of) the pictures."""
    with open_bag(path, typestore) as bag:
        topics = read_statistics(bag)
        motions = _motions(bag, topics, _LATENCY_FRAMES if latency else _LOOK_AT)
    chosen, why_not = None, ''
    try:
        chosen = choose(topics, f'bag {str(path)!r}', {n for n, m in motions.items() if m.still})
    except UserError as error:
        why_not = str(error)
    warnings = [w for t in topics.values() for w in of_topic(t, motions.get(t.topic.name))]
    warnings += of_clocks(topics)
    clock, reason, estimate = 'header', '', None
    if chosen is not None:
        clock, reason = choose_clock(chosen.camera.stamps, chosen.action.stamps, 'commands')
        estimate = _estimate(chosen, motions.get(chosen.camera.topic.name), clock)
        warnings += between(chosen, clock, reason, estimate)
    return Inspection(path, _table(path, topics), tuple(warnings), topics, chosen, why_not, clock,
                      reason, estimate)


def _motions(bag: Bag, topics: dict[str, TopicStatistics], most: int) -> dict[str, Motion]:
    """The motion on each camera topic, of `most` pictures where it may be the chosen one."""
    cameras = choose_camera(topics)
    found = {t.topic.name: look(bag, t.topic.name, t.topic.type, len(t.log), _GLANCE)
             for t in cameras}
    alive = [t for t in cameras if not found[t.topic.name].still] or cameras
    for topic in alive[:1]:
        name = topic.topic.name
        found[name] = look(bag, name, topic.topic.type, len(topic.log), most)
    return found


def _estimate(chosen: Chosen, motion: Motion | None, clock: str) -> Latency | None:
    """The latency in the longest stretch in which no clock goes back."""
    if motion is None:
        return None
    frames, commands = _stamps(chosen.camera, clock), _stamps(chosen.action, clock)
    cuts = sorted(_cuts(chosen.camera, frames) + _cuts(chosen.action, commands))
    span = [np.searchsorted(cuts, t.stamps.log, side='right')
            for t in (chosen.camera, chosen.action)]
    part = np.bincount(span[0][motion.second]).argmax() if len(motion.second) else 0
    pairs = ((span[0][motion.first] == part) & (span[0][motion.second] == part)
             & (frames[motion.first] != 0) & (frames[motion.second] != 0))
    told = (span[1] == part) & (commands != 0)
    values = chosen.action.numbers()[:, list(chosen.fields)]
    told &= finite(values)
    order = np.argsort(commands[told], kind='stable')
    return estimate_latency(frames[motion.first][pairs], frames[motion.second][pairs],
                            motion.features[pairs], commands[told][order], values[told][order])


def _stamps(topic: TopicStatistics, clock: str) -> np.ndarray:
    """The stamps (n,) of all messages, those not filled in 0."""
    stamps = topic.stamps
    return stamps.header if clock == 'header' else stamps.log


def _cuts(topic: TopicStatistics, stamps: np.ndarray) -> list[int]:
    """The log times at which the topic's clock went back by more than half a second."""
    log = topic.stamps.log[stamps != 0]
    back = np.diff(stamps[stamps != 0]) < -500_000_000
    return log[1:][back].tolist()


def _table(path: Path, topics: dict[str, TopicStatistics]) -> str:
    logs = [t.stamps.log for t in topics.values() if len(t.log)]
    seconds = (max(s.max() for s in logs) - min(s.min() for s in logs)) / 1e9 if logs else 0.0
    total = sum(len(t.log) for t in topics.values())
    lines = [f'{shown(path)}: {total} messages, {seconds:.1f} s of log time']
    rows = [('topic', 'type', 'messages', 'rate', 'jitter', 'gaps', 'longest', 'by', 'received',
             'from', 'pictures')]
    for name, t in topics.items():
        rows.append((name, t.topic.type, str(len(t.log)), *_timing(t.timing(), t.clock),
                     str(t.connections), _kinds(t)))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines += ['  '.join(cell.ljust(w) for cell, w in zip(row, widths)).rstrip() for row in rows]
    return '\n'.join(lines)


def _timing(timing: Timing | None, clock: str) -> tuple[str, ...]:
    if timing is None:
        return '-', '-', '-', '-', clock, '-'
    return (f'{timing.rate_hz:.2f} Hz', f'{1e3 * timing.jitter_s:.1f} ms', str(timing.gaps),
            f'{timing.longest_s:.3f} s', clock,
            '-' if timing.delay_s is None else after(timing.delay_s))


def after(seconds: float) -> str:
    """How long after its header stamp a message was received, in fitting units."""
    if abs(seconds) >= 0.1 * _YEAR_S:
        return f'{seconds / _YEAR_S:+.1f} years'
    return f'{1e3 * seconds:+.1f} ms' if abs(seconds) < 10 else f'{seconds:+,.0f} s'


def _kinds(topic: TopicStatistics) -> str:
    return ', '.join(topic.kinds) or (topic.trouble if topic.topic.type in IMAGES else '')
