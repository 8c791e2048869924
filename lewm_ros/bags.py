"""Bags to a dataset: stamps first, then the pictures of the chosen frames into their rows."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from lewm_core.config import DataConfig, ModelConfig
from lewm_core.dataset import Dataset
from lewm_core.dataset_layout import check_output, new_dataset
from lewm_core.job_fields import EPISODE_S
from lewm_core.merge import join
from lewm_core.merge import storage as storage_of
from lewm_core.robot import RobotSpec
from lewm_core.splits import split_episodes
from lewm_core.types import UserError
from lewm_ros.bag_hash import bag_hash
from lewm_ros.bag_reader import find_bags
from lewm_ros.bag_rows import BagRows, Cut, check_length, read_part, with_source
from lewm_ros.dataset_fill import Work, write_parts
from lewm_ros.pixel_pass import ConversionStopped, processes

__all__ = ['WINDOW', 'AllFailed', 'ConversionReport', 'ConversionStopped', 'convert']

_LOG = logging.getLogger(__name__)
# The paper's window: three frames of history and the one they predict, a block apart.
WINDOW = ModelConfig().history * ModelConfig().frameskip + 1
# Source pixels of 1000 VGA images: a second of work, which starting a process takes half of.
_WORTH_A_PROCESS = 1000 * 640 * 480


@dataclass(frozen=True)
class ConversionReport:
    """What became of the recordings' images: `frames` are in the dataset, the rest is counted.

    `images` were on the camera topic; `skipped_frames` of them were between two ticks,
    `dropped_frames` in the `dropped_episodes` too short for a window, `unreadable` ones could not
    be decoded, `unstamped` messages had no header stamp. `timeouts` steps had no command in force;
    `clocks` names each bag's clock. `queued` messages came all at once, so that their log time
    means nothing; `not_finite` commands were no numbers that a robot can follow; `uncommanded`
    frames came before the first or after the last command of their episode. `failed` bags are not
    in it, each with the reason; `known` ones were in it already.
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
    unreadable: int
    clocks: tuple[str, ...]
    failed: tuple[tuple[Path, str], ...] = ()
    known: tuple[Path, ...] = ()
    queued: int = 0
    uncommanded: int = 0
    not_finite: int = 0

    def summary(self) -> str:
        """One sentence for a log."""
        text = f'{self.frames} frames in {self.episodes} episodes from {self.images} images and ' \
               f'{self.commands} commands'
        for count, what in ((self.skipped_frames, 'images between two ticks were left out'),
                            (self.dropped_frames, f'frames were in {self.dropped_episodes} '
                             'episodes too short for a window'),
                            (self.unreadable, 'images could not be decoded'),
                            (self.timeouts, 'steps had no command in force'),
                            (self.uncommanded, 'frames came before the first or after the last '
                             'command'), (self.queued, 'messages came out of a queue at once'),
                            (self.not_finite, 'commands were not finite'),
                            (len(self.known), 'bags were given twice or in the dataset already'),
                            (len(self.failed), 'bags failed')):
            if count:
                text += f'; {count} {what}'
        return text


class AllFailed(UserError):
    """None of several bags can be converted; `failed` says why of each."""

    def __init__(self, failed: list[tuple[Path, str]]) -> None:
        super().__init__(f'none of the {len(failed)} bags can be converted: '
                         + '; '.join(text for _, text in failed))
        self.failed = failed


def convert(bags: Sequence[str | Path], spec: RobotSpec, output: str | Path,
            data: DataConfig = DataConfig(), overwrite: bool = False,
            on_progress: Callable[[int, int], None] | None = None, *,
            should_stop: Callable[[], bool] = lambda: False, window: int = WINDOW,
            workers: int = 1, storage: str = 'raw', quality: int = 95,
            append: bool = False, typestore: str = '',
            episode_s: float = EPISODE_S) -> ConversionReport:
    """What was converted; `output` then holds the dataset of all `bags` (HDF5).

    Two passes: the stamps and commands of all bags first, so that bad input is known before
    anything is written, then the pixels of the frames that were chosen, by `workers` processes
    (0: as many as are worth starting). Episodes longer than `episode_s` are cut into equal pieces
    (0: none is), those of fewer than `window` frames dropped and counted. With `append` the bags
    are added to the dataset that is there, but for those that it holds already, by their hash.
    `typestore`: see `open_bag`. `on_progress` gets (frames written, frames in all). `output`
    appears, or changes, as a whole or not at all. Of several bags those that fail are left out
    and named in the report. Raises UserError on bad input where nothing is left, and
    ConversionStopped when `should_stop` says so.
    """
    output = Path(output)
    _check_output(output, overwrite or append)
    split_episodes(1, data)
    base = Dataset.open(output) if append and output.exists() else None
    if base is not None:
        spec, data = _check_base(base, spec, storage), base.data or data
    paths = find_bags(bags)
    with ExitStack() as others:
        helpers = others.enter_context(processes(workers - 1, paths[0]))
        gathered = _gather(paths, spec, Cut(window, episode_s), should_stop, _hashes(base),
                           typestore)
        if not gathered.parts:
            return _nothing_new(gathered, output, base)
        check_length(gathered.parts, spec, window)
        spec = with_source(gathered.parts, spec)
        helpers = helpers or others.enter_context(
            processes(_worth(workers, gathered.parts, spec) - 1, gathered.parts[0].path))
        work = Work(gathered.parts, spec, data, window, storage, quality, helpers, on_progress,
                    should_stop)
        _write(work, gathered, output, base)
    report = _report(gathered, work, output)
    _LOG.info('%s: %s', output, report.summary())
    return report


def _check_output(output: Path, exists: bool) -> None:
    check_output(output)
    if output.exists() and not exists:
        raise UserError(f'output {str(output)!r} exists already; give another path, append=true '
                        'or overwrite=true')


@dataclass
class _Gathered:
    """What the first pass over all bags found."""

    parts: list[BagRows]
    failed: list[tuple[Path, str]]
    known: list[Path]


def _gather(paths: list[Path], spec: RobotSpec, cut: Cut, should_stop: Callable[[], bool],
            seen: set[str], typestore: str) -> _Gathered:
    """The first pass; a bag that fails among others is noted and left out."""
    found = _Gathered([], [], [])
    for path in paths:
        if should_stop():
            raise ConversionStopped()
        try:
            identity = bag_hash(path)
            if identity.sha256 in seen:
                _LOG.info('%s is left out: it is in the dataset already', path)
                found.known.append(path)
                continue
            found.parts.append(read_part(path, spec, cut, identity, typestore))
            seen.add(identity.sha256)
        except UserError as error:
            if len(paths) == 1:
                raise
            found.failed.append((path, str(error)))
    if not found.parts and not found.known:
        raise _all_failed(found.failed)
    return found


def _all_failed(failed: list[tuple[Path, str]]) -> UserError:
    return UserError(failed[0][1]) if len(failed) == 1 else AllFailed(failed)


def _hashes(base: Dataset | None) -> set[str]:
    bags = base.provenance.get('bags', []) if base is not None else []
    return {bag['sha256'] for bag in bags if 'sha256' in bag}


def _check_base(base: Dataset, spec: RobotSpec, kind: str) -> RobotSpec:
    """The spec to convert by; raises UserError when its episodes don't belong in `base`."""
    name = str(base.path)
    if base.spec.fingerprint() != spec.fingerprint():
        raise UserError(f'dataset {name!r} is of another robot: it has fingerprint '
                        f'{base.spec.fingerprint()} and {spec.name!r} {spec.fingerprint()}; '
                        'append with the robot spec that it was made with, or give another output')
    if base.spec.state_names != spec.state_names:
        raise UserError(f'dataset {name!r} has the state columns {list(base.spec.state_names)}, '
                        f'but the robot spec {list(spec.state_names)}; append with the robot '
                        'spec that it was made with, or give another output')
    if storage_of(base) != kind:
        raise UserError(f'dataset {name!r} has storage={storage_of(base)}, but storage={kind} is '
                        f'asked for; give storage={storage_of(base)}, or another output')
    camera = base.spec.camera
    if spec.camera.source_width is None or spec.camera.source_height is None:
        return spec.with_source(camera.source_width, camera.source_height)
    return spec


def _worth(workers: int, parts: list[BagRows], spec: RobotSpec) -> int:
    """The number of processes that pay for their start, unless `workers` says it."""
    if workers:
        return workers
    frames = sum(len(part.frames) for part in parts)
    pixels = frames * (spec.camera.source_width or 1) * (spec.camera.source_height or 1)
    return max(1, min(len(os.sched_getaffinity(0)), pixels // _WORTH_A_PROCESS))


def _write(work: Work, gathered: _Gathered, output: Path, base: Dataset | None) -> None:
    """The second pass, into a file that becomes `output`, or its last episodes."""
    with new_dataset(output) as partial:
        written = write_parts(work, partial)
        gathered.failed += work.failed
        if written is None:
            raise _all_failed(gathered.failed)
        if base is not None:
            joined = partial.with_name(partial.name + '.joined')
            join(joined, [base, Dataset.open(written)], keep_split=True)
            written = joined
        written.replace(partial)


def _nothing_new(gathered: _Gathered, output: Path, base: Dataset | None) -> ConversionReport:
    return ConversionReport(output, base.spec, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, (),
                            tuple(gathered.failed), tuple(gathered.known))


def _report(gathered: _Gathered, work: Work, output: Path) -> ConversionReport:
    parts = work.parts
    recordings = [part.recording for part in parts]
    episodes = [e for part in parts for e in part.episodes]
    return ConversionReport(
        output, work.spec, sum(len(e.frames) for e in episodes), len(episodes),
        sum(len(r.frames.log_ns) for r in recordings),
        sum(len(r.commands.log_ns) for r in recordings),
        sum(part.skipped for part in parts), sum(part.dropped_episodes for part in parts),
        sum(part.dropped_frames for part in parts), sum(part.timeouts for part in parts),
        sum(r.unstamped for r in recordings), sum(len(part.bad) for part in parts),
        tuple(r.clock for r in recordings), tuple(gathered.failed), tuple(gathered.known),
        sum(r.queued for r in recordings), sum(r.uncommanded for r in recordings),
        sum(r.not_finite for r in recordings))
