"""`lewm bench loader`: clips a second out of a large file, beside HDF5's own random reads.

A clip is four frames of 224x224, five ticks apart: 602 kB that have to be copied.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import torch

from lewm_core.batches import Batches
from lewm_core.bench.common import alternate, ratio, write_result
from lewm_core.bench.frames import synthetic
from lewm_core.data import Dataset
from lewm_core.jobs import BenchLoaderJob

FRAMES, SKIP = 4, 5
_SPAN = (FRAMES - 1) * SKIP + 1
_EPISODE = 200
# HDF5's loaders read hundreds of clips a second: this many are enough of one.
_REFERENCE_CLIPS = 16


def run_loader(job: BenchLoaderJob, overrides: list[str]) -> int:
    """The exit code; measures and writes `output`. See the job for the settings.

    Warm: the file is in the page cache. Cold: the kernel was told to drop it. The references read
    one clip after the other: `chunked` a file with one compressed frame a chunk, the whole span
    and then every fifth of it, as the reference library does; `contiguous` the same file as ours.
    """
    path, packed = job.folder / 'frames.h5', job.folder / 'chunked.h5'
    _files(path, packed, job.gigabytes)
    dataset = Dataset.open(path)
    starts = np.random.default_rng(0).permutation(dataset.windows('all', FRAMES, SKIP))
    loader = Batches(dataset, FRAMES, SKIP, torch.device('cpu'), 'mapped')
    runs = {'ours': _ours(loader, starts, job), 'mapped_copy': _copy(dataset, job.batch_size)}
    with h5py.File(path) as one, h5py.File(packed) as other:
        runs['contiguous'] = _reads(one['pixels'])
        runs['chunked'] = _reads(other['pixels'], whole_span=True)
        for first in range(0, len(dataset), 512):  # into the page cache
            dataset.pixels[first:first + 512, ::8, 0, 0].sum()
        seconds = alternate(runs, job.rounds)
    clips = {'ours': job.batch_size * job.batches, 'mapped_copy': job.batch_size,
             'contiguous': _REFERENCE_CLIPS, 'chunked': _REFERENCE_CLIPS}
    speed = {name: clips[name] / float(np.median(s)) for name, s in seconds.items()}
    size = path.stat().st_size
    del runs, loader, dataset
    cold = _cold(path, starts[::-1], job)
    share = clips['chunked'] / clips['ours']
    result = {'clips_per_s': speed['ours'], 'reference_clips_per_s': speed['chunked'],
              'ratio': ratio(seconds['chunked'], seconds['ours'] * share),
              'cold_clips_per_s': cold, 'mapped_copy_clips_per_s': speed['mapped_copy'],
              'hdf5_contiguous_clips_per_s': speed['contiguous'], 'file_bytes': size,
              'batch_size': job.batch_size, 'rounds': job.rounds}
    write_result(job.output, result)
    for name, value in {**speed, 'ours, cold': cold}.items():
        print(f'{name:<12} {value:8.0f} clips/s')
    print(f'ours is {result["ratio"]:.0f} times as fast as chunked HDF5, on {size / 1e9:.1f} GB')
    return 0


def _ours(loader: Batches, starts: np.ndarray, job: BenchLoaderJob) -> Callable[[], None]:
    """What loads the next `job.batches` batches."""
    turn = [0]

    def run() -> None:
        for _ in range(job.batches):
            first = turn[0] * job.batch_size % (len(starts) - job.batch_size)
            loader.load(starts[first:first + job.batch_size], turn[0] % 2)
            turn[0] += 1
    return run


def _copy(dataset: Dataset, clips: int) -> Callable[[], None]:
    """What copies as many bytes as `clips` have from one piece of the map: as fast as it gets."""
    rng, count = np.random.default_rng(1), clips * FRAMES
    out = np.empty((count, *dataset.pixels.shape[1:]), np.uint8)

    def run() -> None:
        first = int(rng.integers(0, max(1, len(dataset) - count)))
        np.copyto(out[:len(dataset) - first], dataset.pixels[first:first + count])
    return run


def _reads(column: h5py.Dataset, whole_span: bool = False) -> Callable[[], None]:
    """What reads _REFERENCE_CLIPS clips at random through HDF5."""
    rng = np.random.default_rng(2)

    def run() -> None:
        for first in rng.integers(0, len(column) - _SPAN, _REFERENCE_CLIPS):
            if whole_span:
                column[first:first + FRAMES * SKIP][::SKIP].copy()
            else:
                np.stack([column[first + k * SKIP] for k in range(FRAMES)])
    return run


def _cold(path: Path, starts: np.ndarray, job: BenchLoaderJob) -> float:
    """Clips a second when nothing of the file is in memory; NaN where that cannot be had."""
    if not hasattr(os, 'posix_fadvise'):
        return float('nan')
    file = os.open(path, os.O_RDONLY)
    os.fsync(file)
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(file)
    loader = Batches(Dataset.open(path), FRAMES, SKIP, torch.device('cpu'), 'mapped')
    begun = time.perf_counter()
    _ours(loader, starts, job)()
    return job.batches * job.batch_size / (time.perf_counter() - begun)


def _files(path: Path, packed: Path, gigabytes: float) -> None:
    """Makes both files where they are not there, or not of that size."""
    episodes = max(1, round(gigabytes * 1e9 / (_EPISODE * 224 * 224 * 3)))
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_file() and len(Dataset.open(path).ep_len) != episodes:
        path.unlink()
    if not path.is_file():
        synthetic(path, episodes, _EPISODE)
    if not packed.is_file():
        with h5py.File(path) as source, h5py.File(packed, 'w') as f:
            count = min(1000, len(source['pixels']))
            column = f.create_dataset('pixels', (count, 224, 224, 3), np.uint8,
                                      chunks=(1, 224, 224, 3), compression='lzf')
            for first in range(0, count, 100):
                column[first:first + 100] = source['pixels'][first:first + 100]
