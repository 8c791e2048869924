"""A dataset's file before its pixels: every column in place, and room for them in one piece."""

from __future__ import annotations

import dataclasses
import errno
import glob
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from lewm_core.atomic import partial_path, publish, sweep
from lewm_core.config import DataConfig
from lewm_core.dataset import FORMAT
from lewm_core.jpeg_pixels import GROUP
from lewm_core.robot import RobotSpec
from lewm_core.splits import SPLITS
from lewm_core.types import UserError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_SLAB = 64 << 20


@dataclass(frozen=True)
class Columns:
    """All of a dataset but its pixels: N rows in E episodes.

    `lengths` (E,), `split` (E,) indices into SPLITS, `action` (N, A) float32 with NaN on each
    episode's last row, `stamp_ns` (N,) int64, `states` columns (N,) float64 by name; `appended` as
    in Dataset.
    """

    spec: RobotSpec
    data: DataConfig
    provenance: dict
    lengths: np.ndarray
    split: np.ndarray
    action: np.ndarray
    stamp_ns: np.ndarray
    states: dict[str, np.ndarray]
    appended: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.action)


def lay_out(path: Path, columns: Columns, jpeg_ends: np.ndarray | None = None
            ) -> tuple[int, int]:
    """Where the pixels belong in the new file at `path`: offset and length in bytes.

    The room is taken on the disk at once, so that a full disk is known before the work. With
    `jpeg_ends` (N,) it is for the JPEG stream instead. Raises OSError when the disk is full.
    """
    camera, rows = columns.spec.camera, len(columns)
    with h5py.File(path, 'w') as f:
        _write(f, columns)
        if jpeg_ends is None:
            shape = (rows, camera.height, camera.width, 3)
            column = _room(f, 'pixels', shape)
        else:
            f[f'{GROUP}/end'] = np.asarray(jpeg_ends, np.int64)
            column = _room(f, f'{GROUP}/bytes', (int(jpeg_ends[-1]),))
        offset, length = column.get_offset(), int(np.prod(column.shape))
    handle = os.open(path, os.O_RDWR)
    try:
        os.posix_fallocate(handle, offset, length)
    finally:
        os.close(handle)
    return offset, length


def _write(f: h5py.File, columns: Columns) -> None:
    lengths = np.asarray(columns.lengths, np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths[:-1])]).astype(np.int64)
    f.attrs['format'] = FORMAT
    f.attrs['robot_spec'] = columns.spec.to_json()
    f.attrs['data'] = json.dumps(dataclasses.asdict(columns.data))
    f.attrs['provenance'] = json.dumps(columns.provenance)
    f['ep_len'], f['ep_offset'] = lengths.astype(np.int32), offsets
    # An attribute, not a column: the reference library's loader takes every dataset but
    # ep_len and ep_offset for one value a row.
    f['ep_len'].attrs['ep_split'] = np.asarray(columns.split, np.int8)
    f['ep_len'].attrs['splits'] = json.dumps(SPLITS)
    if columns.appended:
        f['ep_len'].attrs['appended'] = np.asarray(columns.appended, np.int64)
    f['episode_idx'] = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
    f['step_idx'] = (np.arange(len(columns)) - np.repeat(offsets, lengths)).astype(np.int32)
    f['action'] = columns.action.astype(np.float32, copy=False)
    f['stamp_ns'] = columns.stamp_ns.astype(np.int64, copy=False)
    for name in columns.spec.state_names:
        f[name] = columns.states[name].astype(np.float64, copy=False)


def _room(f: h5py.File, name: str, shape: tuple[int, ...]) -> h5py.h5d.DatasetID:
    """A contiguous uint8 dataset whose place is fixed, and which HDF5 does not fill."""
    settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    settings.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    settings.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    settings.set_layout(h5py.h5d.CONTIGUOUS)
    links = h5py.h5p.create(h5py.h5p.LINK_CREATE)
    links.set_create_intermediate_group(True)
    return h5py.h5d.create(f.id, name.encode(), h5py.h5t.STD_U8LE,
                           h5py.h5s.create_simple(shape), settings, links)


def copy_bytes(source: Path, start: int, length: int, output: Path, at: int) -> None:
    """Nothing; copies a piece of one file into another, by the kernel where it can."""
    reader, writer = os.open(source, os.O_RDONLY), os.open(output, os.O_RDWR)
    try:
        while length > 0:
            count = _copy(reader, start, writer, at, min(length, _SLAB))
            if not count:
                raise OSError(errno.EIO, f'{source} ends before byte {start + length}')
            start, at, length = start + count, at + count, length - count
    finally:
        os.close(reader)
        os.close(writer)


def _copy(reader: int, start: int, writer: int, at: int, length: int) -> int:
    with suppress(OSError, AttributeError):  # two file systems; a kernel without it
        return os.copy_file_range(reader, writer, length, start, at)
    return os.pwrite(writer, os.pread(reader, length, start), at)


def check_output(path: Path) -> None:
    """Raises UserError when no file can be written at `path`, before the work begins."""
    if path.is_dir():
        raise UserError(f'output {str(path)!r} is a directory; give the path of a file, such as '
                        f'{str(path / "data.h5")!r}')
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f'output {str(path)!r} cannot be written: {str(folder)!r} is no directory '
                        'that may be written to; give an output elsewhere')


@contextmanager
def new_dataset(output: Path) -> Iterator[Path]:
    """The temporary path to write; becomes `output` when the block ends, vanishes if it raises.

    So does all whose name begins with the temporary path's. What killed writers of `output` left
    is removed first. Raises UserError where it can't be written, as when the disk is full.
    """
    partial = partial_path(output)
    try:
        with writing(output):
            output.parent.mkdir(parents=True, exist_ok=True)
            sweep(output)
            yield partial
            publish(partial, output)
    finally:
        for left in output.parent.glob(f'{glob.escape(partial.name)}*'):
            left.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raises a UserError where the block can't write, as when the disk is full: what `path` was,
    it still is."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # HDF5 raises either, with the number in its text
        text = ' '.join(str(error).split())
        full = getattr(error, 'errno', None) in _FULL or any(
            f'errno = {number},' in text for number in _FULL)
        if not full and not isinstance(error, OSError):
            raise
        kept = 'the dataset there is as it was' if path.exists() else 'nothing was written'
        what = 'does not fit on its disk' if full else 'cannot be written'
        raise UserError(f'output {str(path)!r} {what} ({text}); {kept}: '
                        f'{"make room, or " if full else ""}give an output elsewhere') from None
