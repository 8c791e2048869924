"""The batches of a run: windows gathered in one pass into memory that is used again and again.

A fresh buffer for each batch costs more than the copy into it: the kernel has to find and zero its
pages. So two take turns: one is filled while the model works on the other.
"""

from __future__ import annotations

import gc
import os
import time

import numpy as np
import torch
from torch import Tensor

from lewm_core.dataset import Dataset
from lewm_core.types import UserError

# A gather slower than this waits for the disk; from the page cache it is several times faster.
_SLOW_BYTES_PER_S = 1.5e9
# What frames kept on the GPU may take of what is free there: the rest is for the step itself.
_SHARE_OF_DEVICE = 0.6


class Batches:
    """Batches of `frames` frames, `frameskip` ticks apart, brought to `device`.

    `where`: 'mapped' gathers them from the file's memory map (or whatever the dataset reads from);
    'resident' holds all frames on the device, so that a batch is rows of what is there; 'auto' is
    resident on a GPU whose free memory has room. Raises UserError when 'resident' does not fit.
    """

    def __init__(self, dataset: Dataset, frames: int, frameskip: int, device: torch.device,
                 where: str = 'auto') -> None:
        self._dataset, self._window, self._device = dataset, (frames, frameskip), device
        self._buffers: dict[int, Tensor] = {}
        self._copied: dict[int, torch.cuda.Event] = {}
        self._frames = _resident(dataset, device, where)
        self._disk = None if self._frames is not None else _Disk.of(dataset)

    @property
    def resident(self) -> bool:
        """Whether all frames are on the device."""
        return self._frames is not None

    def load(self, starts: np.ndarray, turn: int | None = None) -> tuple[Tensor, Tensor]:
        """What `place` makes a batch of, for the windows that start at rows `starts` (B,).

        Pixels (B, T, H, W, 3) uint8 on the CPU, or where the frames are resident their rows
        (B, T) int64; and the blocks (B, T - 1, F, A) float32. With a `turn` the pixels lie in a
        buffer that the next call with the same turn fills again; without, in memory of their own.
        """
        rows, blocks = self._dataset.window_rows(starts, *self._window)
        if self._frames is not None:
            return torch.from_numpy(rows), torch.from_numpy(blocks)
        out = self._buffer(turn, rows.shape)
        if self._disk is not None:
            self._disk.gather(self._dataset, rows, out.numpy())
        else:
            self._dataset.frames(rows, out.numpy())
        return out, torch.from_numpy(blocks)

    def place(self, batch: tuple[Tensor, Tensor], turn: int | None = None
              ) -> tuple[Tensor, Tensor]:
        """Pixels (B, T, H, W, 3) uint8 and blocks (B, T - 1, F, A) on the device."""
        first, blocks = (part.to(self._device, non_blocking=True) for part in batch)
        if self._frames is not None:
            return self._frames[first], blocks
        if turn is not None and self._device.type == 'cuda':
            # The CPU runs ahead of the GPU: this buffer may be filled only when it was read.
            self._copied[turn] = torch.cuda.Event()
            self._copied[turn].record(torch.cuda.current_stream(self._device))
        return first, blocks

    def _buffer(self, turn: int | None, lead: tuple[int, int]) -> Tensor:
        shape = (*lead, *self._dataset.pixels.shape[1:])
        if turn is None:
            return torch.empty(shape, dtype=torch.uint8)
        if turn in self._copied:
            self._copied.pop(turn).synchronize()
        if turn not in self._buffers or self._buffers[turn].shape != shape:
            self._buffers[turn] = torch.empty(shape, dtype=torch.uint8,
                                              pin_memory=self._device.type == 'cuda')
        return self._buffers[turn]


class _Disk:
    """Gathers from a memory map; asks for all frames at once while the disk is what it waits for.

    A page fault fetches 128 KiB and waits; a frame's worth of faults is a queue of one. Told of
    all frames beforehand, the kernel reads them side by side. From the page cache that would cost
    a seventh of the speed, so it is done only after a gather that was slow.
    """

    def __init__(self, path: str | os.PathLike, offset: int, row_bytes: int) -> None:
        self._file, self._offset, self._bytes = os.open(path, os.O_RDONLY), offset, row_bytes
        self._slow = False

    @classmethod
    def of(cls, dataset: Dataset) -> _Disk | None:
        """Of the file that the dataset maps; None where it maps none, or nothing takes advice."""
        pixels = dataset.pixels
        if not isinstance(pixels, np.memmap) or not hasattr(os, 'posix_fadvise'):
            return None
        return cls(pixels.filename, pixels.offset, pixels.strides[0])

    def __del__(self) -> None:
        os.close(self._file)

    def gather(self, dataset: Dataset, rows: np.ndarray, out: np.ndarray) -> None:
        """Nothing; `out` holds the frames of `rows`."""
        begun = time.perf_counter()
        if self._slow:
            for row in rows.flat:
                os.posix_fadvise(self._file, self._offset + int(row) * self._bytes, self._bytes,
                                 os.POSIX_FADV_WILLNEED)
        dataset.frames(rows, out)
        self._slow = out.nbytes < _SLOW_BYTES_PER_S * (time.perf_counter() - begun)


def _resident(dataset: Dataset, device: torch.device, where: str) -> Tensor | None:
    """All frames of `dataset` on `device`, or None where they stay in the file."""
    if where == 'mapped' or (where == 'auto' and device.type != 'cuda'):
        return None
    shape = tuple(dataset.pixels.shape)
    size = int(np.prod(shape))
    if device.type == 'cuda':
        # The frames of an earlier run of this process count as free: Python may still hold them in
        # a circle, and PyTorch keeps what it freed.
        gc.collect()
        torch.cuda.empty_cache()
        room = int(_SHARE_OF_DEVICE * torch.cuda.mem_get_info(device)[0])
    else:
        room = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_AVPHYS_PAGES')
    if size > room:
        if where == 'auto':
            return None
        raise UserError(f'train.frames=resident asks for {size / 1e9:.1f} GB on {device}, where '
                        f'{room / 1e9:.1f} GB are to be had; use train.frames=mapped')
    frames = torch.empty(shape, dtype=torch.uint8, device=device)
    step = max(1, (64 << 20) // (size // max(1, shape[0])))
    for first in range(0, shape[0], step):
        rows = np.arange(first, min(shape[0], first + step))
        frames[first:first + step] = torch.from_numpy(dataset.frames(rows))
    return frames
