"""Episodes on disk: one HDF5 file of flat columns, the pixels read through a memory map."""

from __future__ import annotations

import dataclasses
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from lewm_core.config import DataConfig, config_from_dict
from lewm_core.jpeg_pixels import GROUP, JpegPixels
from lewm_core.robot import Camera, RobotSpec
from lewm_core.splits import SPLITS, split_grown
from lewm_core.types import UserError

log = logging.getLogger(__name__)

FORMAT = 1
_NOT_STATES = {'pixels', 'action', 'stamp_ns', 'ep_len', 'ep_offset', 'episode_idx', 'step_idx'}


@dataclass(frozen=True)
class Dataset:
    """Recorded episodes, read-only. Rows are ticks; N rows, E episodes, A action fields.

    `pixels` (N, H, W, 3) uint8 RGB: a memory map, or where the file compresses them an HDF5
    dataset or JpegPixels; `action` (N, A) float32 in robot units, the one executed after the
    row's frame, NaN on each episode's last row; `stamp_ns` (N,) int64; `states` columns (N,)
    float64 by name; `ep_len`, `ep_offset`, `ep_split` (E,). `data` is the configuration that the
    split came from, None when the file does not say. `appended`: of how many episodes it was,
    each time that others were added.
    """

    path: Path
    spec: RobotSpec
    pixels: Any
    action: np.ndarray
    stamp_ns: np.ndarray
    states: dict[str, np.ndarray]
    ep_len: np.ndarray
    ep_offset: np.ndarray
    ep_split: np.ndarray
    data: DataConfig | None
    provenance: dict
    appended: tuple[int, ...] = ()

    @classmethod
    def open(cls, path: str | Path, spec: RobotSpec | None = None) -> Dataset:
        """The dataset at `path`; `spec` is for files of other tools, which hold none.

        Raises UserError when the file is missing, truncated, not HDF5, lacks a column, is packed
        by a filter that is not installed, or holds the spec of another robot than `spec`.
        """
        path = Path(path)
        if not path.is_file():
            raise UserError(f'dataset {str(path)!r} is not a file; give the path of an .h5 file '
                            'that `lewm convert` wrote')
        try:
            with h5py.File(path, 'r') as f:
                return _read(cls, path, f, spec)
        except OSError as error:
            raise UserError(f'dataset {str(path)!r} cannot be read ({error}); it is truncated or '
                            'not HDF5: convert the recording again') from None

    def __len__(self) -> int:
        return len(self.action)

    def episodes(self, split: str) -> list[int]:
        """The indices of the episodes in `split`, one of SPLITS, or of all for 'all'."""
        if split == 'all':
            return list(range(len(self.ep_len)))
        if split not in SPLITS:
            raise UserError(f'split {split!r} is not known; choose one of {[*SPLITS, "all"]}')
        return np.flatnonzero(self.ep_split == SPLITS.index(split)).tolist()

    def rows(self, split: str) -> np.ndarray:
        """The rows (R,) int64 of all episodes in `split`, in order."""
        spans = [np.arange(self.ep_len[e], dtype=np.int64) + self.ep_offset[e]
                 for e in self.episodes(split)]
        return np.concatenate(spans) if spans else np.zeros(0, np.int64)

    def windows(self, split: str, frames: int, frameskip: int) -> np.ndarray:
        """The first row (W,) int64 of every window of `frames` frames, `frameskip` ticks apart.

        A window spans (frames - 1) * frameskip + 1 rows and never leaves its episode.
        """
        span = (frames - 1) * frameskip + 1
        spans = [np.arange(self.ep_len[e] - span + 1, dtype=np.int64) + self.ep_offset[e]
                 for e in self.episodes(split) if self.ep_len[e] >= span]
        return np.concatenate(spans) if spans else np.zeros(0, np.int64)

    def batch(self, starts: np.ndarray, frames: int, frameskip: int
              ) -> tuple[np.ndarray, np.ndarray]:
        """Pixels (B, T, H, W, 3) uint8 and the blocks between them (B, T - 1, F, A) float32.

        Block k leaves frame k: its F actions are those executed from frame k to frame k + 1.
        """
        rows, blocks = self.window_rows(starts, frames, frameskip)
        return self.frames(rows), blocks

    def window_rows(self, starts: np.ndarray, frames: int, frameskip: int
                    ) -> tuple[np.ndarray, np.ndarray]:
        """The rows (B, T) int64 of a batch's frames; the blocks between them, as in `batch`."""
        starts = np.asarray(starts, dtype=np.int64)
        rows = starts[:, None] + np.arange(frames) * frameskip
        ticks = starts[:, None] + np.arange((frames - 1) * frameskip)
        return rows, self.action[ticks].reshape(len(starts), frames - 1, frameskip,
                                                self.action.shape[1])

    def frames(self, rows: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """The pictures (*rows.shape, H, W, 3) uint8 of `rows`, copied once, to `out` if given."""
        rows, shape = np.asarray(rows), tuple(self.pixels.shape)
        if out is None:
            out = np.empty((*rows.shape, *shape[1:]), np.uint8)
        if rows.size and not 0 <= rows.min() <= rows.max() < shape[0]:
            raise IndexError(f'rows {rows.min()} to {rows.max()} of a dataset of {shape[0]}')
        flat = out.reshape(rows.size, *shape[1:])
        if isinstance(self.pixels, np.ndarray):
            # Checked above and not by take, which would then gather elsewhere and copy again.
            np.take(np.asarray(self.pixels), rows.ravel(), axis=0, out=flat, mode='clip')
            return out
        for i in np.argsort(rows, axis=None, kind='stable'):
            flat[i] = self.pixels[rows.flat[i]]
        return out

    def with_split(self, data: DataConfig) -> Dataset:
        """This dataset, split as `data` says; itself when it already is, or has its own split.

        An episode is where `data` had it before others were appended.
        """
        if self.data is None or self.data == data:
            return self
        return dataclasses.replace(self, data=data, ep_split=split_grown(
            (*self.appended, len(self.ep_len)), data))


def _read(cls: type, path: Path, f: h5py.File, spec: RobotSpec | None) -> Dataset:
    wanted = (GROUP if GROUP in f else 'pixels', 'action', 'ep_len', 'ep_offset')
    missing = [k for k in wanted if k not in f]
    if missing:
        raise UserError(f'dataset {str(path)!r} has no column {missing[0]!r}; it has '
                        f'{sorted(f.keys())}: give a file that `lewm convert` wrote')
    version = f.attrs.get('format', FORMAT)
    if version != FORMAT:
        raise UserError(f'dataset {str(path)!r} is of format {version}, but this version reads '
                        f'format {FORMAT}: convert the recording again')
    if 'robot_spec' in f.attrs:
        own = RobotSpec.from_json(f.attrs['robot_spec'], f'robot spec of {path}')
        if spec is not None and spec.fingerprint() != own.fingerprint():
            raise UserError(f'dataset {str(path)!r} is of robot {own.name!r} '
                            f'({own.fingerprint()}), but robot={spec.name} ({spec.fingerprint()}) '
                            'was given: leave robot= out')
        spec = own
    elif spec is None:
        raise UserError(f'dataset {str(path)!r} holds no robot spec; give one with robot=YAML')
    count = len(f['ep_len'])
    data = config_from_dict(DataConfig, json.loads(f.attrs['data']), f'dataset {str(path)!r}: data'
                            ) if 'data' in f.attrs else None
    if 'ep_split' in f['ep_len'].attrs:
        split = f['ep_len'].attrs['ep_split'].astype(np.int8)
    else:
        data = DataConfig()
        split = split_grown((count,), data)
    dataset = cls(
        path=path, spec=spec, pixels=_pixels(path, f, spec.camera),
        action=f['action'][:].astype(np.float32, copy=False), stamp_ns=_stamps(f, spec),
        states=_states(f, spec), ep_len=f['ep_len'][:].astype(np.int64),
        ep_offset=f['ep_offset'][:].astype(np.int64), ep_split=split, data=data,
        provenance=json.loads(f.attrs.get('provenance', '{}')),
        appended=tuple(f['ep_len'].attrs.get('appended', np.zeros(0, np.int64)).tolist()))
    _check(dataset)
    return dataset


def _pixels(path: Path, f: h5py.File, camera: Camera) -> Any:
    """A memory map where the pixels lie in one piece, else what reads them one by one."""
    if GROUP in f:
        return JpegPixels.open(path, f[GROUP], camera.height, camera.width)
    column = f['pixels']
    if not isinstance(column, h5py.Dataset) or column.dtype != np.uint8:
        kind = getattr(column, 'dtype', 'a group')
        raise UserError(f'dataset {str(path)!r}: pixels are {kind}, but uint8 from 0 to 255 is '
                        'expected: write the file again so')
    offset = column.id.get_offset()
    if column.chunks is None and offset is not None:
        return np.memmap(path, np.uint8, 'r', offset, column.shape)
    log.warning('%s: the pixels are chunked or compressed, so random reads are slow; '
                '`lewm repack` writes them in one piece', path)
    _unpackable(path, column)
    return h5py.File(path, 'r')['pixels']


def _unpackable(path: Path, column: h5py.Dataset) -> None:
    """Raises UserError when a filter of `column` is not here and hdf5plugin is not installed."""
    plist = column.id.get_create_plist()
    filters = {(n := plist.get_filter(i))[0]: n[3].decode() for i in range(plist.get_nfilters())}
    absent = [name for code, name in filters.items() if not h5py.h5z.filter_avail(code)]
    if absent:
        try:
            import hdf5plugin  # noqa: F401  registers the filters of the reference's files
        except ImportError:
            raise UserError(f'dataset {str(path)!r} packs its pixels with {absent[0]!r}, which '
                            'this HDF5 cannot unpack; pip install hdf5plugin') from None
        absent = [name for code, name in filters.items() if not h5py.h5z.filter_avail(code)]
    if absent:
        raise UserError(f'dataset {str(path)!r} packs its pixels with {absent[0]!r}, which '
                        'neither this HDF5 nor hdf5plugin can unpack; write the file again '
                        'without it')


def _stamps(f: h5py.File, spec: RobotSpec) -> np.ndarray:
    if 'stamp_ns' in f:
        return f['stamp_ns'][:]
    return (np.arange(len(f['action'])) * spec.tick_s * 1e9).astype(np.int64)


def _states(f: h5py.File, spec: RobotSpec) -> dict[str, np.ndarray]:
    """The spec's columns; of a file of another tool, all its numbers by row."""
    if spec.state_names and all(name in f for name in spec.state_names):
        return {name: f[name][:].astype(np.float64) for name in spec.state_names}
    states, rows = {}, len(f['action'])
    for name, column in f.items():
        if (name in _NOT_STATES or not isinstance(column, h5py.Dataset) or column.ndim > 2
                or column.shape[:1] != (rows,) or column.dtype.kind not in 'fiu'):
            continue
        values = column[:].astype(np.float64)
        if values.ndim == 1:
            states[name] = values
        else:
            states.update({f'{name}_{i}': values[:, i] for i in range(values.shape[1])})
    return states


def _check(dataset: Dataset) -> None:
    """Raises UserError where columns and spec contradict each other."""
    path, camera, rows = str(dataset.path), dataset.spec.camera, len(dataset)
    shape = (rows, camera.height, camera.width, 3)
    if tuple(dataset.pixels.shape) != shape:
        raise UserError(f'dataset {path!r}: pixels are {tuple(dataset.pixels.shape)}, but the '
                        f'robot spec and {rows} actions ask for {shape}: convert again')
    if dataset.action.ndim != 2 or dataset.action.shape[1] != dataset.spec.action_dim:
        raise UserError(f'dataset {path!r}: action is {dataset.action.shape}, but the robot spec '
                        f'has {dataset.spec.action_dim} action fields: convert again')
    per_row = {'stamp_ns': dataset.stamp_ns, **dataset.states}
    per_episode = {'ep_offset': dataset.ep_offset, 'ep_split': dataset.ep_split}
    for columns, what, count in ((per_row, 'row', rows),
                                 (per_episode, 'episode', len(dataset.ep_len))):
        for name, column in columns.items():
            if column.shape != (count,):
                raise UserError(f'dataset {path!r}: {name} has shape {column.shape}, but '
                                f'({count},) is expected, one for each {what}: convert again')
    ends = dataset.ep_offset + dataset.ep_len
    if len(ends) and (ends.max() > rows or dataset.ep_offset.min() < 0):
        raise UserError(f'dataset {path!r}: an episode ends at row {ends.max()} of {rows}: '
                        'convert again')
