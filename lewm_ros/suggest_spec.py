"""A robot spec that fits a recording, as YAML with a reason beside each choice."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from lewm_core.robot import RobotSpec
from lewm_core.types import UserError
from lewm_ros.bag_files import shown
from lewm_ros.bag_statistics import IMAGES, MARKER, STATES, TopicStatistics, command_score
from lewm_ros.latency import Latency
from lewm_ros.steps import finite

_LOOKS_LIKE_A_PICTURE = re.compile(r'depth|disparity|mask|parameter|theora|segment', re.I)
_VELOCITY = re.compile(r'/(Twist|Ackermann|\w*(Cmd|Command|Drive))')
_SIZE, _FASTEST_HZ = 64, 12.5
_UNITS = ((re.compile(r'angular\.[xyz]$|steering_angle_velocity$'), 'rad/s'),
          (re.compile(r'linear\.[xyz]$|(^|\.)speed$'), 'm/s'),
          (re.compile(r'steering_angle$|orientation'), ''),
          (re.compile(r'pose\.position\.[xyz]$|(^|\.)point\.[xyz]$'), 'm'))
_STATE_FIELDS = re.compile(r'(position\.[xyz]|orientation\.[zw]|twist\.linear\.[xy]|'
                           r'twist\.angular\.z|point\.[xyz]|^position\[\d+\])$')
_MOST_STATES = 12


@dataclass(frozen=True)
class Chosen:
    """What the robot is told and seen by: the topics of one recording."""

    camera: TopicStatistics
    action: TopicStatistics
    fields: tuple[int, ...]
    other_cameras: tuple[str, ...] = ()
    other_actions: tuple[str, ...] = ()


def choose_camera(topics: dict[str, TopicStatistics]) -> list[TopicStatistics]:
    """The topics that can be the camera, the likeliest first: decodable, raw, with most frames."""
    cameras = [t for t in topics.values() if t.topic.type in IMAGES and t.kinds]
    return sorted(cameras, key=lambda t: (bool(_LOOKS_LIKE_A_PICTURE.search(t.topic.name)),
                                          t.topic.type != IMAGES[0], -len(t.log), t.topic.name))


def choose_action(topics: dict[str, TopicStatistics]) -> list[TopicStatistics]:
    """The topics that can be the commands, the likeliest first: by type, name and variation."""
    found = [t for t in topics.values() if command_score(t.topic) and len(t.log)]
    return sorted(found, key=lambda t: (not varying(t), -command_score(t.topic), -len(t.log),
                                        t.topic.name))


def varying(topic: TopicStatistics) -> tuple[int, ...]:
    """Which of a topic's numbers change; stamps and identifiers are none of them."""
    values = topic.numbers()
    if not topic.paths or not len(values):
        return ()
    known = np.where(finite(values[..., None]), values, np.nan)
    return tuple(i for i, path in enumerate(topic.paths)
                 if not np.isnan(known[:, i]).all() and not path.endswith(('seq', 'id'))
                 and np.nanmax(known[:, i]) > np.nanmin(known[:, i]))


def constants(topic: TopicStatistics) -> dict[str, float]:
    """The numbers of a topic that are always the same and not 0, by path."""
    values = topic.numbers()
    if not topic.paths or not len(values):
        return {}
    known = values[np.isfinite(values).all(axis=1)]
    return {path: float(column[0]) for path, column in zip(topic.paths, known.T)
            if len(column) and column[0] and (column == column[0]).all()}


def choose(topics: dict[str, TopicStatistics], where: str, still: Collection[str] = ()) -> Chosen:
    """The camera and the command topic; raises UserError when there is none to choose.

    The cameras in `still`, whose picture never changes, come last.
    """
    cameras = sorted(choose_camera(topics), key=lambda t: t.topic.name in still)
    actions = choose_action(topics)
    if not cameras:
        raise UserError(f'{where} has no picture that can be decoded, so no robot spec can be '
                        'suggested; record a sensor_msgs/msg/Image or CompressedImage topic too')
    if not actions:
        raise UserError(f'{where} has no topic that looks like commands ({sorted(topics)}), so no '
                        'robot spec can be suggested; record what the robot is told, or write the '
                        'spec by hand')
    fields = varying(actions[0])
    if not fields and actions[0].trouble:
        raise UserError(f'{where}: the commands on {actions[0].topic.name!r} cannot be read: '
                        f'{actions[0].trouble}')
    if not fields:
        raise UserError(f'{where}: no number of {actions[0].topic.name!r} ever changes, so that '
                        'nothing can be learned of it; record while the robot is driven')
    return Chosen(cameras[0], actions[0], fields, tuple(t.topic.name for t in cameras[1:]),
                  tuple(t.topic.name for t in actions[1:]))


def tick_rate(camera: TopicStatistics, action: TopicStatistics, clock: str) -> tuple[float, str]:
    """The rate, ticks a second, and why: the camera's, thinned out to at most 12.5 Hz and not
    much faster than the commands come."""
    seen, told = (_rate(t.times(clock)) for t in (camera, action))
    if not seen:
        return 10.0, 'the camera has too few frames to tell its rate'
    wanted = min(_FASTEST_HZ, max(told * 1.25, 1.0)) if told else _FASTEST_HZ
    every = max(1, math.ceil(seen / wanted - 0.02))
    rate = seen / every
    for nice in (round(rate), round(rate, 1)):
        if nice and abs(nice / rate - 1) < 0.02:
            rate = float(nice)
            break
    why = f'the camera gives {seen:.3g} Hz and commands come at {told:.3g} Hz'
    return float(f'{rate:.3g}'), why + (f': each {_ordinal(every)} frame' if every > 1 else '')


def suggest(topics: dict[str, TopicStatistics], chosen: Chosen, path: Path, clock: str,
            latency: Latency | None = None) -> str:
    """The YAML of a robot spec that `RobotSpec.load` takes, with comments; raises UserError.

    `clock` is what the converter goes by, 'header' or 'log'. An estimated `latency` is filled in
    when it can be relied on.
    """
    rate, why = tick_rate(chosen.camera, chosen.action, clock)
    gaps = np.diff(chosen.camera.times(clock)) / 1e9
    usual = np.percentile(gaps[gaps > 0], 99) if (gaps > 0).any() else 0.0
    age = max(0.5, _up(2 * usual), _up(2 / rate)) if usual < 5 else 0.5
    lines = [f'# Suggested by `lewm inspect {shown(path)} --spec`: read it through before use.',
             f'name: {_plain(_name(path.stem))}',
             f'rate_hz: {rate:g}  # {why}',
             f'max_age_s: {max(age, _up(1 / rate)):g}  # 99 % of the camera intervals are at most '
             f'{usual:.3g} s', *_camera(chosen),
             *_action(chosen, rate, clock, latency), *_states(topics, chosen)]
    markers = [t.topic.name for t in topics.values() if t.topic.type == MARKER and len(t.log)]
    if markers:
        lines.append(f'episode_topic: {_relative(markers[0])}  # its stamps mark first frames')
    text = '\n'.join(lines) + '\n'
    RobotSpec.from_dict(yaml.safe_load(text), 'the suggested robot spec')
    return text


def _camera(chosen: Chosen) -> list[str]:
    topic = chosen.camera
    kind = max(topic.kinds, key=topic.kinds.get)
    width, height = (int(v) for v in kind.split(' ')[0].split('x'))
    others = f'  # others: {", ".join(chosen.other_cameras)}' if chosen.other_cameras else ''
    lines = ['cameras:', '  - name: camera', f'    topic: {_relative(topic.topic.name)}{others}',
             f'    type: {topic.topic.type}  # {kind}',
             f'    width: {_SIZE}  # what the model sees; 64 trains on a CPU, 224 wants a GPU',
             f'    height: {_SIZE}']
    if width != height:
        side = min(width, height)
        square = [(width - side) // 2, (height - side) // 2, side, side]
        lines.append(f'    # crop: {square}  # the middle square; without it all is squeezed in')
    if len({k.split(' ')[0] for k in topic.kinds}) == 1:
        lines += [f'    source_width: {width}', f'    source_height: {height}']
    return lines


def _action(chosen: Chosen, rate: float, clock: str, latency: Latency | None) -> list[str]:
    topic = chosen.action
    others = f'  # others: {", ".join(chosen.other_actions)}' if chosen.other_actions else ''
    gaps = np.diff(topic.times(clock)) / 1e9
    usual = float(np.percentile(gaps[gaps > 0], 95)) if (gaps > 0).any() else 0.0
    timeout = max(0.5, min(_up(2 * usual), 5.0))
    told = _rate(topic.times(clock))
    each = told / rate
    lines = ['action:', f'  topic: {_relative(topic.topic.name)}{others}',
             f'  type: {topic.topic.type}',
             *_latency(latency, 1 / rate),
             f'  timeout_s: {timeout:g}  # 95 % of the command intervals are at most '
             f'{usual:.3g} s; the robot has its own watchdog: give that one',
             '  on_timeout: safe',
             f'  reduce: last  # {each:.2g} commands a tick; mean averages them, sum is for '
             'increments', '  fields:  # those that change; limits: the extremes, rounded outward']
    values = topic.numbers()
    zero = bool(_VELOCITY.search(topic.topic.type))
    for i in chosen.fields:
        column = values[finite(values[:, i, None]), i]
        low, high = outward(float(column.min()), float(column.max()), zero)
        safe = min(max(0.0, low), high)
        note = '' if zero else '  # safe: is the robot at rest then?'
        limits = ', '.join(f'{name}: {_number(value)}' for name, value in
                           (('min', low), ('max', high), ('safe', safe)))
        lines.append(f'    - {{path: {_plain(topic.paths[i])}, {limits}, '
                     f'unit: {_unit(topic.paths[i])}}}{note}'
                     f'  # {"" if note else "seen "}{column.min():.4g} to {column.max():.4g}'
                     .replace('?  # ', '? seen '))
    return lines


def _latency(latency: Latency | None, tick_s: float) -> list[str]:
    if latency is None:
        return ['  latency_s: 0.0  # not estimated: `lewm inspect --latency --spec` does']
    text = (f'{latency.seconds:.3f} s, 95 % interval {latency.low:.3f} to {latency.high:.3f}, '
            f'from {latency.pairs} pairs of frames')
    if latency.confident(tick_s):
        return [f'  latency_s: {max(latency.seconds, 0.0):.3f}  # estimated: {text}']
    return [f'  latency_s: 0.0  # the estimate is too uncertain to use: {text}']


def _states(topics: dict[str, TopicStatistics], chosen: Chosen) -> list[str]:
    lines: list[str] = []
    taken: set[str] = set()
    for topic in topics.values():
        if topic.topic.type not in STATES or topic is chosen.action or not topic.paths:
            continue
        fields = [topic.paths[i] for i in varying(topic)
                  if _STATE_FIELDS.search(topic.paths[i]) and 'covariance' not in topic.paths[i]]
        fields = fields[:_MOST_STATES]
        if not fields:
            continue
        lines += [f'  - topic: {_relative(topic.topic.name)}', f'    type: {topic.topic.type}',
                  '    fields:']
        for path in fields:
            name = _column(path, topic.topic.name, taken)
            lines.append(f'      - {{path: {_plain(path)}, name: {name}, unit: {_unit(path)}}}')
    return ['state:  # for probes only, the model never sees it', *lines] if lines else []


def outward(low: float, high: float, zero: bool = True) -> tuple[float, float]:
    """The limits rounded outward to a step of about a tenth of their range; 0 lies within them
    when `zero` says that it means standing still."""
    if zero:
        low, high = min(low, 0.0), max(high, 0.0)
    raw = (high - low) / 10
    if not 1e-9 < raw < 1e9:  # nothing that a robot is told
        return low, high
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * f for f in (1, 2, 5, 10) if power * f >= raw * 0.999)
    digits = max(0, -math.floor(math.log10(step)) + 1)
    down, up = math.floor(low / step + 1e-6), math.ceil(high / step - 1e-6)
    return round(down * step, digits), round(up * step, digits)


def _rate(stamps: np.ndarray) -> float:
    """Messages a second, by the median interval; 0 when there are too few."""
    gaps = np.diff(stamps)
    gaps = gaps[gaps > 0]
    return 1e9 / float(np.median(gaps)) if len(gaps) else 0.0


def _up(seconds: float) -> float:
    """Seconds rounded up to a tenth."""
    return math.ceil(seconds * 10 - 1e-6) / 10


def _ordinal(number: int) -> str:
    return {2: 'second', 3: 'third'}.get(number, f'{number}th')


def _relative(name: str) -> str:
    """A topic as the spec has it: relative, to follow a namespace, where that is legal."""
    relative = name.lstrip('/')
    return name if not re.match(r'[A-Za-z_]', relative) else _plain(relative)


def _plain(text: str) -> str:
    """The text as YAML takes it inside braces: quoted where it would be anything else."""
    return text if '[' not in text and yaml.safe_load(text) == text else repr(text)


def _number(value: float) -> str:
    """The number as YAML takes it: without a point, 1e-05 would be a text."""
    text = f'{value:g}'
    return text if '.' in text else text.replace('e', '.0e')


def _name(text: str) -> str:
    name = re.sub(r'[^a-z0-9_]+', '_', text.lower()).strip('_')
    return name if re.match(r'[a-z]', name) else f'robot_{name}'.rstrip('_')


def _unit(path: str) -> str:
    return next((unit for pattern, unit in _UNITS if pattern.search(path)), '') or "''"


def _column(path: str, topic: str, taken: set[str]) -> str:
    """A short name of a state's number that nobody has yet: x, then odom_x."""
    parts: Sequence[Any] = re.sub(r'\[(\d+)\]', r'_\1', path).lower().split('.')
    topic_words = _name(topic.replace('/', '_'))
    for name in (parts[-1], '_'.join(parts[-2:]), f'{topic_words}_{"_".join(parts[-2:])}',
                 f'{topic_words}_{"_".join(parts)}'):
        if name not in taken and name not in ('pixels', 'action', 'stamp_ns'):
            taken.add(name)
            return name
    return '_'.join(parts)
