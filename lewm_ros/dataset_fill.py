"""The second pass into a file: columns laid out, pictures filled in, unreadable ones cut out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from lewm_core.config import DataConfig
from lewm_core.dataset import Dataset
from lewm_core.dataset_layout import Columns, copy_bytes, lay_out
from lewm_core.merge import Source, assemble
from lewm_core.robot import RobotSpec
from lewm_core.splits import split_episodes
from lewm_ros.bag_hash import grown
from lewm_ros.bag_rows import Episode, BagRows, named, provenance_of, rows_of
from lewm_ros.pixel_pass import Helpers, Slice, Target, fill, slices


@dataclass
class Work:
    """What the second pass does, and in `failed` the bags of which nothing was readable."""

    parts: list[BagRows]
    spec: RobotSpec
    data: DataConfig
    window: int
    storage: str
    quality: int
    helpers: Helpers | None
    on_progress: Callable[[int, int], None] | None
    should_stop: Callable[[], bool]
    failed: list[tuple[Path, str]] = field(default_factory=list)


def write_parts(work: Work, partial: Path) -> Path | None:
    """The file, `partial` or one beside it, that holds the dataset; None when nothing is left.

    Images that can't be decoded end their episode there: no step goes over a frame that nobody
    could see. Raises OSError when the disk is full.
    """
    target, columns, todo = _begin(work, partial)
    jpegs = _Stream(partial.with_name(partial.name + '.jpeg')) if target.quality else None
    bad: dict[Path, dict[int, str]] = {}
    for part, filled in fill(todo, target, work.helpers, _progress(work), work.should_stop):
        bad.setdefault(part.bag, {}).update(filled.bad)
        if jpegs is not None:
            jpegs.add(filled.jpegs)
    for part in work.parts:
        if grown(part.path, part.hash):
            bad[part.path] = dict.fromkeys(part.frames, 'the recording changed while it was read; '
                                           'convert it again when its recorder has stopped')
    if jpegs is not None:
        jpegs.finish(partial, columns)
    if not any(bad.values()):
        return partial
    return _without(bad, work, partial)


def _begin(work: Work, partial: Path) -> tuple[Target, Columns, list[Slice]]:
    """Where the pictures go, the columns (laid out already for raw pixels), and all slices."""
    parts, spec = work.parts, work.spec
    lengths = np.array([len(e.frames) for p in parts for e in p.episodes], np.int64)
    rows = rows_of(parts, spec)
    columns = Columns(spec, work.data, provenance_of(parts), lengths,
                      split_episodes(len(lengths), work.data), rows.pop('action'),
                      rows.pop('stamp_ns'), rows)
    todo: list[Slice] = []
    row = 0
    for part in parts:
        todo += slices(part.path, part.recording.topics['camera'], spec.camera, part.frames, row)
        row += len(part.frames)
    if work.storage == 'jpeg':
        partial.touch()
        return Target(partial, 0, work.quality), columns, todo
    return Target(partial, lay_out(partial, columns)[0]), columns, todo


def _progress(work: Work) -> Callable[[int], None]:
    total = sum(len(part.frames) for part in work.parts)
    done = 0

    def add(count: int) -> None:
        nonlocal done
        before, done = done, done + count
        if work.on_progress and (done == total or done // 100 > before // 100):
            work.on_progress(done, total)
    return add


class _Stream:
    """JPEGs one after the other in a file of their own, until their sizes are all known."""

    def __init__(self, path: Path) -> None:
        self._path, self._sizes = path, []
        self._file = path.open('wb')

    def add(self, jpegs: list[bytes]) -> None:
        """Nothing; appends them."""
        self._sizes += [len(data) for data in jpegs]
        self._file.writelines(jpegs)

    def finish(self, path: Path, columns: Columns) -> None:
        """Nothing; `path` holds the dataset of `columns` with these pictures."""
        self._file.close()
        at, length = lay_out(path, columns, np.cumsum(self._sizes))
        copy_bytes(self._path, 0, length, path, at)
        self._path.unlink()


def _without(bad: dict[Path, dict[int, str]], work: Work, partial: Path) -> Path | None:
    """The file without the rows of unreadable images; what was readable is not read again."""
    row, kept, left = 0, [], []
    for part in work.parts:
        part.bad = bad.get(part.path, {})
        taken = []
        pieces: list[Episode] = []
        for episode in part.episodes:
            for first, last in _runs([i not in part.bad for i in episode.frames]):
                taken.append((row + first, last - first))
                pieces.append(episode.part(first, last))
            row += len(episode.frames)
        part.episodes = pieces
        part.drop_short(work.window)
        kept += [(start, n) for start, n in taken if n >= work.window]
        if part.bad and not part.episodes:
            index, reason = next(iter(part.bad.items()))
            work.failed.append((part.path, named(part, index, reason)))
        else:
            left.append(part)
    work.parts = left
    if not kept:
        return None
    split = split_episodes(len(kept), work.data)
    cut = partial.with_name(partial.name + '.cut')
    assemble(cut, [Source(Dataset.open(partial), kept)], split, work.data, provenance_of(left))
    return cut


def _runs(good: list[bool]) -> list[tuple[int, int]]:
    """The (first, behind the last) of each run of true ones."""
    edges = np.flatnonzero(np.diff([0, *good, 0]))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2])]
