"""`lewm repack`: a dataset of another tool, or a packed one, with its pixels in one piece."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

from lewm_core.atomic import refuse_existing
from lewm_core.config import DataConfig
from lewm_core.data import Dataset
from lewm_core.dataset_layout import Columns, lay_out, new_dataset
from lewm_core.jobs import RepackJob
from lewm_core.paths import load_robot
from lewm_core.terminal import EXIT_INTERRUPTED, Bar, interrupts

_SLAB = 64 << 20


class _Stopped(Exception):
    """Somebody asked for an end before all was copied."""


def run_repack(job: RepackJob, overrides: list[str]) -> int:
    """The exit code of `lewm repack`."""
    source = Dataset.open(job.dataset, load_robot(job.robot) if job.robot else None)
    bar = Bar('repacking')
    with interrupts() as interrupted:
        try:
            whole = repack(source, job.output, job.overwrite, bar, lambda: bool(interrupted))
        finally:
            bar.close()
    if not whole:
        print('stopped; nothing was written', file=sys.stderr)
        return EXIT_INTERRUPTED
    print(job.output)
    return 0


def repack(source: Dataset, output: Path, overwrite: bool = False,
           on_progress: Callable[[int, int], None] | None = None,
           should_stop: Callable[[], bool] = lambda: False) -> bool:
    """Whether `output` now holds all of `source`, memory-mapped and with its robot spec inside.

    False when `should_stop` said so first; then nothing is written. Numbers by row that the spec
    does not name are kept under their own names. Raises UserError when `output` exists (unless
    `overwrite`) or does not fit on its disk.
    """
    refuse_existing(output, overwrite)
    rows = source.rows('all')
    columns = _columns(source, rows)
    try:
        with new_dataset(output) as partial:
            offset, _ = lay_out(partial, columns)
            with h5py.File(partial, 'r+') as f:
                for name in sorted(set(source.states) - set(columns.spec.state_names)):
                    f[name] = source.states[name][rows]
            _copy(source, rows, partial, offset, on_progress, should_stop)
    except _Stopped:
        return False
    return True


def _columns(source: Dataset, rows: np.ndarray) -> Columns:
    """All but the pixels, the episodes one after the other."""
    spec, action = source.spec, source.action[rows]
    if not set(spec.state_names) <= set(source.states):
        spec = dataclasses.replace(spec, state=())  # of another tool: its columns are its own
    action[np.cumsum(source.ep_len) - 1] = np.nan
    return Columns(spec, source.data or DataConfig(),
                   {**source.provenance, 'repacked_from': source.path.name}, source.ep_len,
                   source.ep_split, action, source.stamp_ns[rows],
                   {name: source.states[name][rows] for name in spec.state_names},
                   source.appended)


def _copy(source: Dataset, rows: np.ndarray, partial: Path, offset: int,
          on_progress: Callable[[int, int], None] | None, should_stop: Callable[[], bool]) -> None:
    shape = (len(rows), *source.pixels.shape[1:])
    out = np.memmap(partial, np.uint8, 'r+', offset, shape)
    step = max(1, _SLAB // int(np.prod(shape[1:])))
    for first in range(0, len(rows), step):
        if should_stop():
            raise _Stopped()
        piece = rows[first:first + step]
        source.frames(piece, np.asarray(out)[first:first + len(piece)])
        if on_progress is not None:
            on_progress(first + len(piece), len(rows))
    out.flush()
