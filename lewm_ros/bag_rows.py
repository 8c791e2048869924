"""The first pass over one bag: which of its frames become rows, in which episodes."""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lewm_core import __version__
from lewm_core.robot import RobotSpec
from lewm_core.types import UserError
from lewm_ros.bag_files import shown
from lewm_ros.bag_hash import BagHash
from lewm_ros.bag_reader import open_bag
from lewm_ros.decode import decode
from lewm_ros.recorded_steps import build_steps
from lewm_ros.recording import Recording, read_times, states_at
from lewm_ros.steps import Step

_LOOK_AT = 9  # images, for their size


@dataclass
class Episode:
    """Rows of one recording: the frames' indices, their stamps, and the actions between them."""

    frames: list[int]
    stamps: list[int]
    actions: list[np.ndarray]

    def pieces(self, most: int) -> list[Episode]:
        """The episode, or as few pieces as there must be, at most a frame apart in length."""
        count = -(-len(self.frames) // most)
        edges = np.linspace(0, len(self.frames), count + 1).round().astype(int).tolist()
        return [self.part(first, last) for first, last in zip(edges, edges[1:])]

    def part(self, first: int, last: int) -> Episode:
        """The frames from `first` to before `last`, as an episode of its own."""
        return Episode(self.frames[first:last], self.stamps[first:last],
                       self.actions[first:last - 1])


@dataclass
class BagRows:
    """One recording, those of its episodes that are long enough, and what is not in them.

    `bad` says of unreadable images, by index, why they are, and `lost` what else of a damaged
    recording can't be read.
    """

    path: Path
    hash: BagHash
    recording: Recording
    episodes: list[Episode]
    skipped: int
    timeouts: int
    dropped_episodes: int = 0
    dropped_frames: int = 0
    bad: dict[int, str] = field(default_factory=dict)
    lost: list[dict[str, Any]] = field(default_factory=list)

    @property
    def frames(self) -> list[int]:
        """The indices of all frames that become rows, in order."""
        return [index for episode in self.episodes for index in episode.frames]

    def drop_short(self, window: int) -> None:
        """Nothing; episodes of fewer than `window` frames are taken out and counted."""
        short = [e for e in self.episodes if len(e.frames) < window]
        self.dropped_episodes += len(short)
        self.dropped_frames += sum(len(e.frames) for e in short)
        self.episodes = [e for e in self.episodes if len(e.frames) >= window]

    def cut_long(self, most: int | None) -> None:
        """Nothing; episodes of more than `most` frames are cut into pieces of one length.

        A drive recorded in one piece would be one episode, and all of it training data. Each cut
        costs the windows across it.
        """
        if most is not None:
            self.episodes = [piece for e in self.episodes for piece in e.pieces(most)]


class Cut(NamedTuple):
    """Which lengths episodes have: at least `window` frames, at most `episode_s` (0: any)."""

    window: int
    episode_s: float

    def frames(self, rate_hz: float) -> int | None:
        """The most frames of an episode; two windows always fit in it. None: any number."""
        if not self.episode_s:
            return None
        return max(round(self.episode_s * rate_hz), 2 * self.window)


def read_part(path: Path, spec: RobotSpec, cut: Cut, identity: BagHash,
              typestore: str = '') -> BagRows:
    """The first pass over the bag at `path`: no image is decoded, or even read where it can."""
    with open_bag(path, typestore) as bag:
        recording, lost = read_times(bag, spec), bag.lost()
    steps, builder = build_steps(recording, spec)
    part = BagRows(path, identity, recording, _episodes(steps), builder.skipped, builder.timeouts,
                   lost=lost)
    part.drop_short(cut.window)
    part.cut_long(cut.frames(spec.rate_hz))
    return part


def _episodes(steps: list[Step]) -> list[Episode]:
    episodes: list[Episode] = []
    for step in steps:
        if step.new_episode:
            episodes.append(Episode([], [], []))
        else:
            # It led to this frame, so it is the action of the row before.
            episodes[-1].actions.append(step.action)
        episodes[-1].frames.append(step.payload)
        episodes[-1].stamps.append(step.stamp_ns)
    return episodes


def check_length(parts: list[BagRows], spec: RobotSpec, window: int) -> None:
    """Raises UserError when no recording has an episode of `window` frames."""
    if any(part.episodes for part in parts):
        return
    images = sum(len(part.recording.frames.log_ns) for part in parts)
    alone = sum(part.recording.uncommanded for part in parts)
    beside = f' ({alone} frames have no command in force)' if alone else ''
    raise UserError(f'the {images} images of {[str(p.path) for p in parts]} give no episode of at '
                    f'least {window} frames at {spec.rate_hz:g} Hz{beside}; record longer, or '
                    f'raise max_age_s={spec.max_age_s:g} or correct rate_hz in the robot spec')


def with_source(parts: list[BagRows], spec: RobotSpec) -> RobotSpec:
    """The spec with the first recording's topics and image size, where it leaves those open.

    Of several sizes the one that most images have.
    """
    topics = parts[0].recording.topics
    spec = spec.with_topics(topics['camera'], topics['action'])
    if spec.camera.source_width is not None and spec.camera.source_height is not None:
        return spec
    reason = ''
    for part in parts:
        sizes: Counter[tuple[int, int]] = Counter()
        with open_bag(part.path) as bag:
            spread = np.linspace(0, len(part.frames) - 1, min(_LOOK_AT, len(part.frames)))
            few = [part.frames[i] for i in spread.astype(int)]
            for index, raw in zip(few, bag.pick(topics['camera'], few, spec.camera.type)):
                try:
                    sizes[decode(bag.message(raw, spec.camera.type)).shape[:2]] += 1
                except UserError as error:
                    reason = reason or named(part, index, str(error))
        if sizes:
            (height, width), _ = sizes.most_common(1)[0]
            return spec.with_source(width, height)
    raise UserError(reason)


def named(part: BagRows, index: int, reason: str) -> str:
    """The sentence that says which image is unreadable, and why."""
    stamp = part.recording.frames.stamps(part.recording.clock)[index]
    return f'bag {str(part.path)!r}, image at {stamp / 1e9:.9f} s: {reason}'


def rows_of(parts: list[BagRows], spec: RobotSpec) -> dict[str, np.ndarray]:
    """The columns action, stamp_ns and those of the spec's states, of all parts' rows in order."""
    columns: dict[str, list[np.ndarray]] = {
        name: [] for name in ('action', 'stamp_ns', *spec.state_names)}
    for part in parts:
        for episode in part.episodes:
            action = np.full((len(episode.frames), spec.action_dim), np.nan, np.float32)
            action[:-1] = np.array(episode.actions, np.float32).reshape(-1, spec.action_dim)
            columns['action'].append(action)
            columns['stamp_ns'].append(np.array(episode.stamps, np.int64))
            states = states_at(part.recording, spec, episode.frames)
            for name in spec.state_names:
                columns[name].append(states[name])
    return {name: np.concatenate(values) for name, values in columns.items()}


def provenance_of(parts: list[BagRows]) -> dict[str, Any]:
    """Where the rows come from: the bags in order, each with its episodes, and the converter."""
    return {'converter': f'lewm_ros {__version__}', 'bags': [_bag(part) for part in parts]}


def _bag(part: BagRows) -> dict[str, Any]:
    recording = part.recording
    return {'name': shown(part.path.name), **dataclasses.asdict(part.hash),
            'clock': recording.clock, 'reason': recording.reason, 'clocks': recording.clocks,
            'topics': recording.topics, 'images': len(recording.frames.log_ns),
            'commands': len(recording.commands.log_ns), 'skipped': part.skipped,
            'dropped_episodes': part.dropped_episodes, 'dropped_frames': part.dropped_frames,
            'unreadable': len(part.bad), 'unstamped': recording.unstamped,
            'timeouts': part.timeouts, 'queued': recording.queued,
            'not_finite': recording.not_finite, 'uncommanded': recording.uncommanded,
            'lost': part.lost, 'episodes': [_episode(e, part.bad) for e in part.episodes]}


def _episode(episode: Episode, bad: dict[int, str]) -> dict[str, Any]:
    """Rows, the stamp of the first, and which of the camera's images meanwhile are not in it."""
    between = range(episode.frames[0], episode.frames[-1] + 1)
    unreadable = sum(1 for index in bad if index in between)
    return {'frames': len(episode.frames), 'start_ns': episode.stamps[0],
            'skipped': len(between) - len(episode.frames) - unreadable, 'unreadable': unreadable}
