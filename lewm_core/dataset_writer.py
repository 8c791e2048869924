"""Writes a dataset episode by episode; the file has its name only when it is whole."""

from __future__ import annotations

import fcntl
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np

from lewm_core.atomic import partial_path, publish, refuse_existing, sweep
from lewm_core.config import DataConfig
from lewm_core.dataset_layout import Columns, copy_bytes, lay_out, writing
from lewm_core.robot import RobotSpec
from lewm_core.splits import SPLITS, split_episodes
from lewm_core.types import UserError


@dataclass(frozen=True)
class Summary:
    """What a finished dataset holds. `splits`: episodes by split name."""

    frames: int
    episodes: int
    splits: dict[str, int]


class DatasetWriter:
    """A context manager that streams episodes to PATH.partial-PID and renames it on `close`.

    Leaving the block by an exception removes everything. Pixels wait in a raw file beside it,
    because HDF5 lays a column out in one piece (what the memory map wants) only when it knows the
    number of rows. What a killed writer of the same `path` left is removed first. Raises
    UserError when `path` exists and `overwrite` is false.
    """

    def __init__(self, path: str | Path, spec: RobotSpec, data: DataConfig | None = None,
                 provenance: dict | None = None, overwrite: bool = False) -> None:
        self._path, self._spec = Path(path), spec
        self._data, self._provenance = data or DataConfig(), provenance or {}
        refuse_existing(path, overwrite)
        split_episodes(1, self._data)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        sweep(self._path)
        self._partial = partial_path(self._path)
        self._raw = self._partial.with_name(self._partial.name + '.pixels')
        self._pixels = open(self._raw, 'wb')
        with suppress(OSError):  # a file system without locks
            fcntl.flock(self._pixels, fcntl.LOCK_SH | fcntl.LOCK_NB)  # until closed: not to sweep
        self._lengths: list[int] = []
        self._columns: dict[str, list[np.ndarray]] = {
            name: [] for name in ('action', 'stamp_ns', *spec.state_names)}

    def __enter__(self) -> DatasetWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        if kind is not None:
            self.abort()
        elif not self._pixels.closed:
            self.close()

    def add_episode(self, pixels: np.ndarray, actions: np.ndarray, stamp_ns: np.ndarray,
                    states: dict[str, np.ndarray] | None = None) -> None:
        """Nothing; appends one episode of n frames.

        `pixels` (n, H, W, 3) uint8, `actions` (n, A) or (n - 1, A) in robot units (the last of n
        is ignored: no frame follows it), `stamp_ns` (n,) strictly rising, `states` columns (n,)
        of the spec's state names. Raises UserError on a command that is not finite.
        """
        pixels, camera, n = np.asarray(pixels), self._spec.camera, len(pixels)
        shape = (n, camera.height, camera.width, 3)
        if pixels.dtype != np.uint8 or pixels.shape != shape or n < 1:
            raise ValueError(f'pixels are {pixels.dtype} {pixels.shape}, but uint8 (n >= 1, '
                             f'{camera.height}, {camera.width}, 3) is expected')
        action = np.full((n, self._spec.action_dim), np.nan, np.float32)
        action[:n - 1] = np.asarray(actions, dtype=np.float32)[:n - 1]
        if not np.isfinite(action[:n - 1]).all():
            step = int(np.flatnonzero(~np.isfinite(action[:n - 1]).all(1))[0])
            raise UserError(f'the command of step {step} in episode {len(self._lengths)} is '
                            f'{action[step].tolist()}, but finite numbers are expected: cut it '
                            'out of the recording')
        columns = {'action': action, 'stamp_ns': np.asarray(stamp_ns, np.int64)}
        for name in self._spec.state_names:
            columns[name] = np.asarray((states or {})[name], np.float64)
        for name, values in columns.items():
            if len(values) != n:
                raise ValueError(f'{name} has {len(values)} rows, but {n} frames are given')
        with writing(self._path):
            self._pixels.write(np.ascontiguousarray(pixels).data)
        for name, values in columns.items():
            self._columns[name].append(values)
        self._lengths.append(n)

    def close(self) -> Summary:
        """The summary of the finished file; raises UserError when no episode was added."""
        try:
            if not self._lengths:
                raise UserError(f'nothing to write to {str(self._path)!r}: not a single episode '
                                'was found; check that frames and commands overlap in time')
            with writing(self._path):
                self._pixels.flush()
                summary = self._write()
                publish(self._partial, self._path)
            return summary
        finally:
            self.abort()

    def abort(self) -> None:
        """Nothing; removes what was written so far."""
        self._pixels.close()
        self._raw.unlink(missing_ok=True)
        self._partial.unlink(missing_ok=True)

    def _write(self) -> Summary:
        lengths = np.array(self._lengths, np.int64)
        split = split_episodes(len(lengths), self._data)
        whole = {name: np.concatenate(values) for name, values in self._columns.items()}
        columns = Columns(self._spec, self._data, self._provenance, lengths, split,
                          whole.pop('action'), whole.pop('stamp_ns'), whole)
        offset, length = lay_out(self._partial, columns)
        copy_bytes(self._raw, 0, length, self._partial, offset)
        return summarised(columns)


def summarised(columns: Columns) -> Summary:
    """The summary of a dataset with these columns."""
    counts = {name: int((columns.split == i).sum()) for i, name in enumerate(SPLITS)}
    return Summary(len(columns), len(columns.lengths), counts)
