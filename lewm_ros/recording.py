"""What one bag says about time: its stamps, commands and states, and by which stamps to go."""

from __future__ import annotations

import logging
from array import array
from dataclasses import dataclass, field

import numpy as np

from lewm_core.robot import RobotSpec
from lewm_core.types import UserError
from lewm_ros.bag_part import Loss
from lewm_ros.bag_reader import Bag
from lewm_ros.bag_topics import find_topics
from lewm_ros.clocks import RULE, Stamps, choose_clock
from lewm_ros.fields import check_paths, get_field
from lewm_ros.steps import finite

_LOG = logging.getLogger(__name__)


@dataclass
class Stream:
    """One topic's messages in order of log time: both stamps, and the numbers that are wanted."""

    header_ns: array = field(default_factory=lambda: array('q'))
    log_ns: array = field(default_factory=lambda: array('q'))
    values: array = field(default_factory=lambda: array('d'))  # row by row

    def add(self, header_ns: int, log_ns: int, row: list[float]) -> None:
        """Nothing; appends a message's stamps and numbers."""
        self.header_ns.append(header_ns)
        self.log_ns.append(log_ns)
        self.values.extend(row)

    def numbers(self) -> np.ndarray:
        """The numbers (n, F) float64."""
        count = len(self.log_ns)
        return np.array(self.values).reshape(count, len(self.values) // max(count, 1))

    def stamps(self, clock: str) -> array:
        """The stamps (n,) by `clock`: 'header' or 'log'."""
        return self.header_ns if clock == 'header' else self.log_ns

    def both(self) -> Stamps:
        """Both stamps as arrays."""
        return Stamps.of(self.header_ns, self.log_ns)


@dataclass
class Recording:
    """The times of one bag. `order` holds (kind, index) of all messages in order of log time.

    `clock` is that of frames, commands and markers, 'header' or 'log' (the source stamps, where
    the recorder wrote those), and `reason` says why; `clocks` names that of each topic in the
    bag, of a state topic when it is compared with the frames. See lewm_ros/clocks.py.
    `topics` maps 'camera', 'action', 'episode' and each state topic to its name in the bag.
    `unstamped` messages had no header stamp, `queued` ones no log time that means anything,
    `not_finite` commands no finite number, and `uncommanded` frames came before the first or
    after the last command of an episode: they are left out by `recorded_steps.build_steps`.
    """

    name: str
    topics: dict[str, str]
    frames: Stream = field(default_factory=Stream)
    commands: Stream = field(default_factory=Stream)
    markers: Stream = field(default_factory=Stream)
    states: list[Stream] = field(default_factory=list)
    order: list[tuple[str, int]] = field(default_factory=list)
    clock: str = 'header'
    reason: str = ''
    clocks: dict[str, str] = field(default_factory=dict)
    unstamped: int = 0
    queued: int = 0
    not_finite: int = 0
    uncommanded: int = 0


@dataclass
class _Wanted:
    """What is taken of one topic: by each outlet the stamps, and the numbers at its paths."""

    type: str
    kind: str = ''  # of its messages in `order`; a topic of states alone is in none
    outlets: list[tuple[Stream, tuple[str, ...]]] = field(default_factory=list)


def read_times(bag: Bag, spec: RobotSpec) -> Recording:
    """The recording's stamps, commands and states; no image is taken apart for it.

    Messages that can't be read, or lack a number that the spec names, are left out and counted in
    the bag's losses. Raises UserError for a missing topic, another type, a field that isn't
    there, images without commands, and commands of which none is finite.
    """
    recording = Recording(str(bag.path), find_topics(bag, spec))
    _check_types(bag, spec)
    wanted = _wanted(recording, spec)
    headed = {name: bag.has_header(topic.type) for name, topic in wanted.items()}
    whole = {name for name, topic in wanted.items() if any(p for _, p in topic.outlets)}
    heads = [name for name in wanted if name not in whole]  # no image is taken apart
    damaged: list[UserError] = []
    for name, log_ns, raw in bag.messages({n: t.type for n, t in wanted.items()}, heads,
                                          damaged=True):
        topic = wanted[name]
        try:
            header_ns = bag.header_ns(raw) if headed[name] or isinstance(raw, UserError) else 0
            message = bag.message(raw, topic.type) if name in whole else None
            rows = [[get_field(message, path) for path in paths] for _, paths in topic.outlets]
        except UserError as error:
            damaged.append(error)
            if topic.kind == 'frame':
                # It keeps its place among the images, but no step takes it.
                recording.frames.add(0, log_ns, [])
            continue
        if topic.kind:
            recording.order.append((topic.kind, len(topic.outlets[0][0].log_ns)))
        for (stream, _), row in zip(topic.outlets, rows):
            stream.add(header_ns, log_ns, row)
    _say_damaged(bag, recording, damaged)
    _check_commands(recording, spec)
    _choose_clock(recording, spec)
    return recording


def _wanted(recording: Recording, spec: RobotSpec) -> dict[str, _Wanted]:
    """By the topic's name in the bag; one may be the commands' and states' at once."""
    found: dict[str, _Wanted] = {}

    def add(key: str, kind: str, stream: Stream, type: str, paths: tuple[str, ...] = ()) -> None:
        if key in recording.topics:
            topic = found.setdefault(recording.topics[key], _Wanted(type, kind))
            topic.outlets.append((stream, paths))

    add('camera', 'frame', recording.frames, spec.camera.type)
    add('action', 'command', recording.commands, spec.action.type,
        tuple(f.path for f in spec.action.fields))
    add('episode', 'marker', recording.markers, 'std_msgs/msg/Header')
    recording.states = [Stream() for _ in spec.state]
    for state, stream in zip(spec.state, recording.states):
        add(state.topic, '', stream, state.type, tuple(f.path for f in state.fields))
    return found


def _say_damaged(bag: Bag, recording: Recording, damaged: list[UserError]) -> None:
    """Nothing; raises UserError where damage leaves no image or no command."""
    if not damaged:
        return
    if not {'frame', 'command'} <= {kind for kind, _ in recording.order}:
        raise damaged[0]
    bag.losses += (Loss(f'{len(damaged)} messages: {damaged[0]}', messages=len(damaged)),)
    _LOG.warning('%s; %d such messages are left out', damaged[0], len(damaged))


def _check_types(bag: Bag, spec: RobotSpec) -> None:
    store = bag.types.store
    wanted = [(spec.action.type, [f.path for f in spec.action.fields], 'action field')]
    wanted += [(s.type, [f.path for f in s.fields], 'state field') for s in spec.state]
    for type, paths, what in wanted:
        if type in store.fielddefs:
            check_paths(type, paths, what, store)


def _check_commands(recording: Recording, spec: RobotSpec) -> None:
    values = recording.commands.numbers()
    good = finite(values)
    if not good.all():
        _say_not_finite(recording, spec, values, np.flatnonzero(~good))
    outside = (good & ((values < spec.low) | (values > spec.high)).any(axis=1)).sum()
    if outside:
        _LOG.warning('%s: %d of %d commands are outside the limits of the robot spec; they are '
                     'kept as they were sent', recording.name, outside, len(values))


def _say_not_finite(recording: Recording, spec: RobotSpec, values: np.ndarray, rows: np.ndarray
                    ) -> None:
    """Nothing; counts the commands `rows`; raises UserError when there are no others."""
    recording.not_finite = len(rows)
    row = int(rows[0])
    column = int(np.flatnonzero(~finite(values[row][:, None]))[0])
    stamp = recording.commands.header_ns[row] or recording.commands.log_ns[row]
    first = (f'{spec.action.fields[column].path} = {values[row, column]} at stamp '
             f'{stamp / 1e9:.9f} s on {recording.topics["action"]!r}')
    if len(rows) == len(values):
        raise UserError(f'bag {recording.name!r} has no command that is finite in 32 bits: the '
                        f'first of {len(rows)} has {first}; mend their publisher and record again')
    _LOG.warning('%s: %d of %d commands are not finite in 32 bits, the first with %s; nobody '
                 'knows what the robot did by them, so an episode ends at each',
                 recording.name, len(rows), len(values), first)


def _choose_clock(recording: Recording, spec: RobotSpec) -> None:
    """Nothing; decides by which stamps to go, and says so."""
    frames = recording.frames.both()
    recording.clock, recording.reason = choose_clock(frames, recording.commands.both(),
                                                     'commands')
    recording.clocks = {recording.topics[key]: recording.clock
                        for key in ('camera', 'action', 'episode') if key in recording.topics}
    for state, stream in zip(spec.state, recording.states):
        if stream.log_ns:
            clock, _ = choose_clock(frames, stream.both(), 'states')
            recording.clocks.setdefault(recording.topics[state.topic], clock)
    by = {'header': 'header stamps', 'log': 'log time'}[recording.clock]
    _LOG.info('%s: frames and commands go by %s: %s (rule: %s)', recording.name, by,
              recording.reason, RULE)
    if recording.clock == 'log':
        return
    streams = [recording.frames, recording.commands, recording.markers]
    recording.unstamped = sum(s.header_ns.count(0) for s in streams)
    if recording.unstamped:
        _LOG.warning('%s: %d messages without a header stamp among stamped ones are left out',
                     recording.name, recording.unstamped)


def states_at(recording: Recording, spec: RobotSpec, frames: list[int]) -> dict[str, np.ndarray]:
    """The state columns (n,) float64 at the frames with these indices, by name.

    Each takes the state stamped nearest to the frame, or NaN when none is within `max_age_s`.
    """
    columns = {}
    for state, stream in zip(spec.state, recording.states):
        clock = recording.clocks.get(recording.topics[state.topic], 'log')
        wanted = np.array(recording.frames.stamps(clock), dtype=np.int64)[frames]
        given = np.array(stream.stamps(clock), dtype=np.int64)
        if clock == 'header':
            given[given == 0] = -2**62  # not filled in: near to nothing
        rows = _nearest(given, wanted, round(spec.max_age_s * 1e9))
        values = stream.numbers().reshape(-1, len(state.fields))
        for i, f in enumerate(state.fields):
            column = np.full(len(frames), np.nan)
            column[rows >= 0] = values[rows[rows >= 0], i]
            columns[f.name] = column
    return columns


def _nearest(stamps: np.ndarray, wanted: np.ndarray, most: int) -> np.ndarray:
    """The index (n,) of the stamp nearest to each wanted one; -1 where none is within `most`."""
    if not len(stamps):
        return np.full(len(wanted), -1)
    order = np.argsort(stamps, kind='stable')
    sorted_stamps = stamps[order]
    right = np.clip(np.searchsorted(sorted_stamps, wanted), 0, len(stamps) - 1)
    left = np.clip(right - 1, 0, None)
    closer = np.abs(sorted_stamps[left] - wanted) < np.abs(sorted_stamps[right] - wanted)
    rows = np.where(closer, left, right)
    near = np.abs(sorted_stamps[rows] - wanted) <= most
    return np.where(near, order[rows], -1)
