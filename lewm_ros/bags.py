"""Bags to a dataset: decode, prepare, steps, episodes; the pixels never all in memory."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lewm_core.config import DataConfig, ModelConfig
from lewm_core.data import DatasetWriter
from lewm_core.images import prepare
from lewm_core.robot import RobotSpec
from lewm_core.types import UserError
from lewm_ros.bag_reader import Bag, find_bags, open_bag
from lewm_ros.decode import decode
from lewm_ros.recording import Recording, build_steps, read_times, states_at
from lewm_ros.steps import Step

_LOG = logging.getLogger(__name__)
# The paper's window: three frames of history and the one they predict, a block apart.
WINDOW = ModelConfig().history * ModelConfig().frameskip + 1
_IN_MEMORY = 512 * 2**20


class ConversionStopped(Exception):
    """Somebody asked the conversion to stop; nothing was written."""


@dataclass(frozen=True)
class ConversionReport:
    """What became of the recordings' images: `frames` are in the dataset, the rest is counted.

    `images` were on the camera topic; `skipped_frames` of them were between two ticks,
    `dropped_frames` in the `dropped_episodes` too short for a window, `unstamped` messages had
    no header stamp. `timeouts` steps had no command in force; `clocks` names each bag's clock.
    `queued` messages came all at once, so that their log time means nothing; `uncommanded` frames
    came before the first or after the last command of their episode.
    """

    output: Path
    spec: RobotSpec
    frames: int
    episodes: int
    images: int
    commands: int
    skipped_frames: int
    dropped_episodes: int
    dropped_frames: int
    timeouts: int
    unstamped: int
    clocks: tuple[str, ...]
    queued: int = 0
    uncommanded: int = 0

    def summary(self) -> str:
        """One sentence for a log."""
        text = f'{self.frames} frames in {self.episodes} episodes from {self.images} images and ' \
               f'{self.commands} commands'
        for count, what in ((self.skipped_frames, 'images between two ticks were left out'),
                            (self.dropped_frames, f'frames were in {self.dropped_episodes} '
                             'episodes too short for a window'),
                            (self.timeouts, 'steps had no command in force'),
                            (self.uncommanded, 'frames came before the first or after the last '
                             'command'), (self.queued, 'messages came out of a queue at once')):
            if count:
                text += f'; {count} {what}'
        return text


@dataclass
class _Episode:
    """Rows of one recording: the frames' indices, their stamps, and the actions between them."""

    frames: list[int]
    stamps: list[int]
    actions: list[np.ndarray]


@dataclass
class _Part:
    """One recording and those of its episodes that are long enough."""

    path: Path
    recording: Recording
    episodes: list[_Episode]


def convert(bags: Sequence[str | Path], spec: RobotSpec, output: str | Path,
            data: DataConfig = DataConfig(), overwrite: bool = False,
            on_progress: Callable[[int, int], None] | None = None, *,
            should_stop: Callable[[], bool] = lambda: False,
            window: int = WINDOW) -> ConversionReport:
    """What was converted; `output` then holds the dataset of all `bags` (HDF5, see DatasetWriter).

    Two passes: the stamps and commands of all bags first, so that bad input is known before
    anything is written, then the pixels of the frames that were chosen. Episodes of fewer than
    `window` frames are dropped and counted. `on_progress` gets (frames written, frames in all).
    `output` appears whole or not at all. Raises UserError on bad input, and ConversionStopped
    when `should_stop` says so.
    """
    output = Path(output)
    if output.exists() and not overwrite:
        raise UserError(f'output {str(output)!r} exists already; give another path or '
                        'overwrite=true')
    paths = find_bags(bags)
    parts, counts = [], np.zeros(4, dtype=np.int64)
    for path in paths:
        if should_stop():
            raise ConversionStopped()
        part, found = _read_part(path, spec, window)
        parts.append(part)
        counts += found
    _check_length(parts, spec, window)
    spec = _with_source(parts[0], spec)
    written = _write(parts, spec, output, data, overwrite, on_progress, should_stop)
    recordings = [part.recording for part in parts]
    report = ConversionReport(
        output, spec, *written, sum(len(r.frames.log_ns) for r in recordings),
        sum(len(r.commands.log_ns) for r in recordings), *(int(c) for c in counts),
        sum(r.unstamped for r in recordings), tuple(r.clock for r in recordings),
        sum(r.queued for r in recordings), sum(r.uncommanded for r in recordings))
    _LOG.info('%s: %s', output, report.summary())
    return report


def _read_part(path: Path, spec: RobotSpec, window: int) -> tuple[_Part, tuple[int, ...]]:
    """The first pass over one bag; also (skipped, dropped episodes, dropped frames, timeouts)."""
    with open_bag(path) as bag:
        recording = read_times(bag, spec)
    steps, builder = build_steps(recording, spec)
    episodes = _episodes(steps)
    short = [e for e in episodes if len(e.frames) < window]
    part = _Part(path, recording, [e for e in episodes if len(e.frames) >= window])
    return part, (builder.skipped, len(short), sum(len(e.frames) for e in short),
                  builder.timeouts)


def _episodes(steps: list[Step]) -> list[_Episode]:
    episodes: list[_Episode] = []
    for step in steps:
        if step.new_episode:
            episodes.append(_Episode([], [], []))
        else:
            # It led to this frame, so it is the action of the row before.
            episodes[-1].actions.append(step.action)
        episodes[-1].frames.append(step.payload)
        episodes[-1].stamps.append(step.stamp_ns)
    return episodes


def _check_length(parts: list[_Part], spec: RobotSpec, window: int) -> None:
    if any(part.episodes for part in parts):
        return
    images = sum(len(part.recording.frames.log_ns) for part in parts)
    alone = sum(part.recording.uncommanded for part in parts)
    beside = f' ({alone} frames have no command in force)' if alone else ''
    raise UserError(f'the {images} images of {[str(p.path) for p in parts]} give no episode of at '
                    f'least {window} frames at {spec.rate_hz:g} Hz{beside}; record longer, or '
                    f'raise max_age_s={spec.max_age_s:g} or correct rate_hz in the robot spec')


def _with_source(part: _Part, spec: RobotSpec) -> RobotSpec:
    """The spec with the size of the bag's first image, where it leaves that open."""
    if spec.camera.source_width is not None and spec.camera.source_height is not None:
        return spec
    with open_bag(part.path) as bag:
        _, _, raw = next(bag.messages([part.recording.topics['camera']]))
        height, width = decode(bag.message(raw, spec.camera.type)).shape[:2]
    return spec.with_source(width, height)


def _write(parts: list[_Part], spec: RobotSpec, output: Path, data: DataConfig, overwrite: bool,
           on_progress: Callable[[int, int], None] | None,
           should_stop: Callable[[], bool]) -> tuple[int, int]:
    """The second pass; the number of frames and of episodes written."""
    total = sum(len(e.frames) for part in parts for e in part.episodes)
    provenance = {'bags': [_provenance(part) for part in parts]}
    output.parent.mkdir(parents=True, exist_ok=True)
    done = 0
    with DatasetWriter(output, spec, data, provenance, overwrite=overwrite) as writer:
        for part in parts:
            if not part.episodes:
                continue
            with open_bag(part.path) as bag:
                pictures = _pictures(bag, part, spec)
                for episode in part.episodes:
                    pixels = _room(len(episode.frames), spec, output.parent)
                    for row in range(len(episode.frames)):
                        if should_stop():
                            raise ConversionStopped()
                        pixels[row] = next(pictures)
                        done += 1
                        if on_progress is not None and (done % 100 == 0 or done == total):
                            on_progress(done, total)
                    writer.add_episode(pixels, np.array(episode.actions, dtype=np.float32),
                                       np.array(episode.stamps, dtype=np.int64),
                                       states_at(part.recording, spec, episode.frames))
    return total, sum(len(part.episodes) for part in parts)


def _provenance(part: _Part) -> dict[str, object]:
    recording = part.recording
    return {'name': part.path.name, 'clock': recording.clock, 'reason': recording.reason,
            'clocks': recording.clocks, 'topics': recording.topics,
            'images': len(recording.frames.log_ns), 'commands': len(recording.commands.log_ns)}


def _pictures(bag: Bag, part: _Part, spec: RobotSpec) -> Iterator[np.ndarray]:
    """The prepared pictures (H, W, 3) of all chosen frames of a recording, in order."""
    chosen = (index for episode in part.episodes for index in episode.frames)
    wanted = next(chosen)
    stream = bag.messages([part.recording.topics['camera']])
    for index, (_, _, raw) in enumerate(stream):
        if index != wanted:
            continue
        try:
            picture = prepare(decode(bag.message(raw, spec.camera.type)), spec.camera)
        except UserError as error:
            stamp = part.recording.frames.stamps(part.recording.clock)[index]
            raise UserError(f'bag {str(part.path)!r}, image at {stamp / 1e9:.9f} s: {error}'
                            ) from None
        yield picture
        wanted = next(chosen, None)
        if wanted is None:
            return


def _room(frames: int, spec: RobotSpec, folder: Path) -> np.ndarray:
    """An array (frames, H, W, 3) uint8 to fill: in memory, or in an unnamed file if it is large.

    The file has no name, so nothing of it is left behind whatever happens.
    """
    shape = (frames, spec.camera.height, spec.camera.width, 3)
    if int(np.prod(shape)) <= _IN_MEMORY:
        return np.empty(shape, dtype=np.uint8)
    return np.memmap(tempfile.TemporaryFile(dir=folder), dtype=np.uint8, mode='w+', shape=shape)
