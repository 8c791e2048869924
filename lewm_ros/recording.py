"""What one bag says about time: its stamps, commands and states, and by which stamps to go."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import numpy as np

from lewm_core.robot import ANY_TOPIC, RobotSpec
from lewm_core.types import UserError
from lewm_ros.bag_reader import Bag, Topic
from lewm_ros.clocks import RULE, Stamps, choose_clock
from lewm_ros.fields import check_paths, get_field

_LOG = logging.getLogger(__name__)


@dataclass
class Stream:
    """One topic's messages in order of log time: both stamps, and the numbers where wanted."""

    header_ns: list[int] = field(default_factory=list)
    log_ns: list[int] = field(default_factory=list)
    values: list[list[float]] = field(default_factory=list)

    def stamps(self, clock: str) -> list[int]:
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
    `unstamped` messages had no header stamp, `queued` ones no log time that means anything, and
    `uncommanded` frames came before the first or after the last command of an episode: they are
    left out by `recorded_steps.build_steps`.
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
    uncommanded: int = 0


def find_topic(bag: Bag, wanted: str, type: str, what: str) -> Topic:
    """The topic of the bag that the spec means by `wanted`.

    A relative name also matches under a namespace, when exactly one there is of the type; '*'
    is the one topic of the type that has messages. Raises UserError when it is missing or of
    another type, with the topics that are there.
    """
    tail = '/' + wanted.lstrip('~/')
    named = [t for t in bag.topics if t.name == tail]
    if wanted == ANY_TOPIC:
        typed = [t for t in bag.topics if t.type == type]
        named = [t for t in typed if t.count] or typed
    elif not named and not wanted.startswith('/'):
        named = [t for t in bag.topics if t.name.endswith(tail)]
        named = [t for t in named if t.type == type] or named
    names = sorted({t.name for t in named})
    if not names:
        wanted = f'{wanted!r} of type {type}' if wanted == ANY_TOPIC else repr(wanted)
        raise UserError(f'bag {str(bag.path)!r} has no topic {wanted} for the {what}, only '
                        f'{bag.listing()}; correct the robot spec or record that topic')
    if len(names) > 1:
        raise UserError(f'bag {str(bag.path)!r} has several topics that {wanted!r} may mean for '
                        f'the {what}: {names}; give one of them in full in the robot spec')
    for topic in named:
        if topic.type != type:
            raise UserError(f'topic {topic.name!r} in bag {str(bag.path)!r} is a {topic.type}, '
                            f'but the robot spec expects {type} for the {what}; correct the spec '
                            'or record the other topic')
    return Topic(names[0], type, sum(t.count for t in named))


def _find_topics(bag: Bag, spec: RobotSpec) -> dict[str, str]:
    camera = find_topic(bag, spec.camera.topic, spec.camera.type, f'camera {spec.camera.name!r}')
    if camera.count == 0:
        raise UserError(f'bag {str(bag.path)!r} has no image on {camera.name!r}; record it again '
                        'with the camera running')
    try:
        action = find_topic(bag, spec.action.topic, spec.action.type, 'commands')
    except UserError as error:
        if 'has no topic' not in str(error):
            raise
        wanted = spec.action.topic if spec.action.topic != ANY_TOPIC else spec.action.type
        raise UserError(f'bag {str(bag.path)!r} has {camera.count} images on {camera.name!r} but '
                        f'no commands: no topic {wanted!r} is among {bag.listing()}; '
                        'correct the robot spec or record that topic too') from None
    if action.count == 0:
        raise UserError(f'bag {str(bag.path)!r} has {camera.count} images on {camera.name!r} but '
                        f'no command on {action.name!r}; record it again while the robot is '
                        'driven')
    names = {'camera': camera.name, 'action': action.name}
    for state in spec.state:
        names[state.topic] = find_topic(bag, state.topic, state.type, 'state').name
    if spec.episode_topic is not None:
        names['episode'] = find_topic(bag, spec.episode_topic, 'std_msgs/msg/Header',
                                      'episode markers').name
    return names


def read_times(bag: Bag, spec: RobotSpec) -> Recording:
    """The recording's stamps, commands and states; no image is taken apart for it.

    Raises UserError for a missing topic, another type, a field that isn't there, images without
    commands, and a command that is not finite.
    """
    recording = Recording(str(bag.path), _find_topics(bag, spec))
    _check_types(bag, spec)
    recording.states = [Stream() for _ in spec.state]
    damaged: list[UserError] = []
    kinds = {recording.topics['camera']: ('frame', recording.frames, spec.camera.type, ()),
             recording.topics['action']: ('command', recording.commands, spec.action.type,
                                          tuple(f.path for f in spec.action.fields))}
    if 'episode' in recording.topics:
        kinds[recording.topics['episode']] = ('marker', recording.markers,
                                              'std_msgs/msg/Header', ())
    states = {recording.topics[s.topic]: (stream, s)
              for s, stream in zip(spec.state, recording.states)}
    headed = {name: bag.has_header(kind) for name, (_, _, kind, _) in kinds.items()}
    headed.update({name: bag.has_header(s.type) for name, (_, s) in states.items()})
    # No image is read for its stamp.
    heads = [n for n, (*_, paths) in kinds.items() if not paths and n not in states]
    for topic, log_ns, raw in bag.messages([*kinds, *states], heads):
        header_ns = bag.header_ns(raw) if headed[topic] else 0
        if topic in kinds:
            kind, stream, type, paths = kinds[topic]
            recording.order.append((kind, len(stream.log_ns)))
            _append(stream, header_ns, log_ns, paths, bag.message(raw, type) if paths else None)
        if topic in states:
            stream, state = states[topic]
            try:
                message = bag.message(raw, state.type)
            except UserError as error:  # a state less is a gap in a column, and no more
                damaged.append(error)
                continue
            _append(stream, header_ns, log_ns, tuple(f.path for f in state.fields), message)
    if damaged:
        _LOG.warning('%s; %d such states are left out', damaged[0], len(damaged))
    _check_commands(recording, spec)
    _choose_clock(recording, spec)
    return recording


def _append(stream: Stream, header_ns: int, log_ns: int, paths: tuple[str, ...],
            msg: object) -> None:
    stream.header_ns.append(header_ns)
    stream.log_ns.append(log_ns)
    if paths:
        stream.values.append([get_field(msg, path) for path in paths])


def _check_types(bag: Bag, spec: RobotSpec) -> None:
    store = bag.types.store
    wanted = [(spec.action.type, [f.path for f in spec.action.fields], 'action field')]
    wanted += [(s.type, [f.path for f in s.fields], 'state field') for s in spec.state]
    for type, paths, what in wanted:
        if type in store.fielddefs:
            check_paths(type, paths, what, store)


def _check_commands(recording: Recording, spec: RobotSpec) -> None:
    values = np.array(recording.commands.values, dtype=np.float64)
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        row, column = (int(v) for v in bad[0])
        stamp = recording.commands.header_ns[row] or recording.commands.log_ns[row]
        path = spec.action.fields[column].path
        raise UserError(f'bag {recording.name!r} has a command with {path} = '
                        f'{values[row, column]} at stamp {stamp / 1e9:.9f} s on '
                        f'{recording.topics["action"]!r} ({len(np.unique(bad[:, 0]))} '
                        'in all), but finite numbers are expected; mend their publisher and '
                        'record again, or cut that part out')
    outside = ((values < spec.low) | (values > spec.high)).any(axis=1).sum()
    if outside:
        _LOG.warning('%s: %d of %d commands are outside the limits of the robot spec; they are '
                     'kept as they were sent', recording.name, outside, len(values))


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
        values = np.array(stream.values, dtype=np.float64).reshape(-1, len(state.fields))
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
