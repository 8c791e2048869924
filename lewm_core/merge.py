"""Datasets to one: shards of many machines, new recordings behind old ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lewm_core.atomic import refuse_existing
from lewm_core.config import DataConfig
from lewm_core.dataset import Dataset
from lewm_core.dataset_layout import Columns, check_output, copy_bytes, lay_out, new_dataset
from lewm_core.dataset_writer import Summary, summarised
from lewm_core.jpeg_pixels import JpegPixels
from lewm_core.splits import extended_split, split_episodes
from lewm_core.types import UserError


@dataclass(frozen=True)
class Source:
    """A dataset and those of its `episodes`, (first row, rows) each, that are taken from it."""

    dataset: Dataset
    episodes: list[tuple[int, int]]

    @classmethod
    def whole(cls, dataset: Dataset) -> Source:
        """All episodes of `dataset`."""
        return cls(dataset, list(zip(dataset.ep_offset.tolist(), dataset.ep_len.tolist())))


def merge(paths: Sequence[str | Path], output: str | Path, overwrite: bool = False) -> Summary:
    """The summary of `output`, which then holds the episodes of all datasets at `paths`.

    A bag that is in two of them, by its hash, comes once. The split is drawn anew, as one
    conversion of all bags would have drawn it. `output` appears whole or not at all, and may be
    one of `paths`. Raises UserError when the robots, state columns or storages differ.
    """
    output = Path(output)
    check_output(output)
    refuse_existing(output, overwrite)
    datasets = [Dataset.open(path) for path in paths]
    if not datasets:
        raise UserError('no dataset is given; give the path of at least one .h5 file')
    for other in datasets[1:]:
        check_alike(datasets[0], other)
    with new_dataset(output) as partial:
        columns = join(partial, datasets)
    return summarised(columns)


def join(path: Path, datasets: Sequence[Dataset], keep_split: bool = False) -> Columns:
    """The columns of the dataset written to `path`: the episodes of `datasets`, each bag's once.

    With `keep_split` the first dataset's episodes stay in their splits and the others fill up
    what is short.
    """
    sources, bags = _without_doubles(datasets)
    data = datasets[0].data or DataConfig()
    count = sum(len(s.episodes) for s in sources)
    new = count - len(sources[0].episodes)
    split = (extended_split(datasets[0].ep_split, new, data) if keep_split
             else split_episodes(count, data))
    grown = (*datasets[0].appended, count - new) if keep_split and new else ()
    return assemble(path, sources, split, data, {**datasets[0].provenance, 'bags': bags}, grown)


def assemble(path: Path, sources: Sequence[Source], split: np.ndarray, data: DataConfig,
             provenance: dict[str, Any], appended: tuple[int, ...] = ()) -> Columns:
    """The columns of the dataset written to `path`: the sources' episodes, in order."""
    spec = sources[0].dataset.spec
    rows = [np.concatenate([np.arange(start, start + n) for start, n in s.episodes]
                           or [np.zeros(0, np.int64)]) for s in sources]
    lengths = np.array([n for s in sources for _, n in s.episodes], np.int64)

    def column(read: Any) -> np.ndarray:
        return np.concatenate([read(s.dataset)[r] for s, r in zip(sources, rows)])

    action = column(lambda d: d.action)
    action[np.cumsum(lengths) - 1] = np.nan  # where an episode was cut, too
    columns = Columns(spec, data, provenance, lengths, split, action,
                      column(lambda d: d.stamp_ns),
                      {name: column(lambda d, n=name: d.states[n]) for name in spec.state_names},
                      appended)
    jpeg = isinstance(sources[0].dataset.pixels, JpegPixels)
    ends = np.cumsum(column(lambda d: np.diff(d.pixels.ends, prepend=0))) if jpeg else None
    at, _ = lay_out(path, columns, ends)
    for source in sources:
        for start, count in source.episodes:
            begin, length = _bytes(source.dataset, start, count)
            copy_bytes(source.dataset.path, begin, length, path, at)
            at += length
    return columns


def _bytes(dataset: Dataset, start: int, count: int) -> tuple[int, int]:
    """Where in its file the pictures of `count` rows from `start` lie: first byte and length."""
    pixels = dataset.pixels
    if isinstance(pixels, JpegPixels):
        begin = int(pixels.ends[start - 1]) if start else 0
        return pixels.stream.offset + begin, int(pixels.ends[start + count - 1]) - begin
    size = int(np.prod(pixels.shape[1:]))
    return pixels.offset + start * size, count * size


def check_alike(one: Dataset, other: Dataset) -> None:
    """Raises UserError when the episodes of the two datasets can't be in one."""
    names = f'{str(one.path)!r} and {str(other.path)!r}'
    for dataset in (one, other):
        if not isinstance(dataset.pixels, (np.memmap, JpegPixels)):
            raise UserError(f'dataset {str(dataset.path)!r} holds its pixels in chunks, and only '
                            'what `lewm convert` writes can be merged; convert its bags again')
    if one.spec.fingerprint() != other.spec.fingerprint():
        raise UserError(f'datasets {names} are of different robots (fingerprints '
                        f'{one.spec.fingerprint()} and {other.spec.fingerprint()}); convert all '
                        'bags with one robot spec')
    if one.spec.state_names != other.spec.state_names:
        raise UserError(f'datasets {names} have the state columns {list(one.spec.state_names)} '
                        f'and {list(other.spec.state_names)}; convert all bags with one spec')
    kinds = [storage(d) for d in (one, other)]
    if kinds[0] != kinds[1]:
        raise UserError(f'datasets {names} have storage={kinds[0]} and storage={kinds[1]}; '
                        'convert all bags with the same storage')


def storage(dataset: Dataset) -> str:
    """How its pictures are kept: 'raw' or 'jpeg'."""
    return 'jpeg' if isinstance(dataset.pixels, JpegPixels) else 'raw'


def _without_doubles(datasets: Sequence[Dataset]) -> tuple[list[Source], list[dict[str, Any]]]:
    """The episodes to take of each, and the bags that they come from."""
    sources, bags, seen = [], [], set()
    for dataset in datasets:
        source, own = Source.whole(dataset), dataset.provenance.get('bags', [])
        if sum(len(bag.get('episodes', ())) for bag in own) != len(source.episodes):
            # Of an earlier version, or another tool: nothing says which bag an episode is of.
            bags += own
            sources.append(source)
            continue
        left, kept = iter(source.episodes), []
        for bag in own:
            episodes = [next(left) for _ in bag['episodes']]
            if bag.get('sha256') not in seen:
                kept += episodes
                bags.append(bag)
        seen.update(bag.get('sha256') for bag in own if bag.get('sha256'))
        sources.append(Source(dataset, kept))
    return sources, bags
