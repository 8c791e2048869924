"""Pictures as JPEG inside a dataset: a tenth of the space, decoded whenever they are read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from lewm_core.types import UserError

if TYPE_CHECKING:  # a process that only makes pictures starts a third faster without it
    import h5py

GROUP = 'jpeg'


def encode(rgb: np.ndarray, quality: int) -> bytes:
    """The picture (H, W, 3) uint8 RGB as JPEG, its colours at full resolution (4:4:4).

    Small pictures show small things: at 4:2:0 the colour of an object of a few pixels is lost.
    """
    settings = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
                cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    good, data = cv2.imencode('.jpg', cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), settings)
    if not good:
        raise ValueError(f'a picture of shape {rgb.shape} and type {rgb.dtype} is no JPEG')
    return data.tobytes()


class JpegPixels:
    """The column `pixels` (N, H, W, 3) uint8 of a dataset with storage=jpeg.

    `stream` (bytes,) uint8, memory-mapped, holds one JPEG after the other and `ends` (N,) int64
    where each one ends. An index, a slice or an array of indices gives decoded pictures.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, path: Path, stream: np.ndarray, ends: np.ndarray,
                 height: int, width: int) -> None:
        self.stream, self.ends = stream, ends
        self.shape = (len(ends), height, width, 3)
        self._path = path

    @classmethod
    def open(cls, path: Path, group: h5py.Group, height: int, width: int) -> JpegPixels:
        """The pictures in `group` of the file at `path`; UserError where they contradict it."""
        column, ends = group['bytes'], group['end'][:].astype(np.int64)
        sizes = np.diff(ends, prepend=0)
        if column.id.get_offset() is None or (len(ends) and ends[-1] != len(column)) or (
                sizes < 0).any():
            raise UserError(f'dataset {str(path)!r}: its JPEG pictures are incomplete; convert '
                            'the recording again')
        return cls(path, np.memmap(path, np.uint8, 'r', column.id.get_offset(), column.shape),
                   ends, height, width)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, rows: Any) -> np.ndarray:
        if isinstance(rows, (int, np.integer)):
            return self._decode(range(len(self))[rows])
        numbers = np.arange(len(self))[rows]
        out = np.empty((numbers.size, *self.shape[1:]), np.uint8)
        for i, row in enumerate(numbers.flat):
            out[i] = self._decode(row)
        return out.reshape(*numbers.shape, *self.shape[1:])

    def _decode(self, row: int) -> np.ndarray:
        start = self.ends[row - 1] if row else 0
        bgr = cv2.imdecode(self.stream[start:self.ends[row]], cv2.IMREAD_COLOR)
        if bgr is None or bgr.shape != self.shape[1:]:
            raise UserError(f'dataset {str(self._path)!r}: the picture of row {row} is damaged; '
                            'convert the recording again')
        return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
