"""Files that are whole or absent: write beside, flush, rename."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def partial_path(path: str | Path) -> Path:
    """The name under which this process writes `path` until it is whole."""
    path = Path(path)
    return path.with_name(f'{path.name}.partial-{os.getpid()}')


def publish(partial: str | Path, path: str | Path) -> None:
    """Nothing; gives the finished file `partial` its name, on disk before any reader sees it.

    The data is flushed before the rename and the directory after it: without the first, a power
    cut can leave a whole name on an empty file; without the second, the old one.
    """
    partial, path = Path(partial), Path(path)
    _flush(partial, os.O_RDWR)
    os.replace(partial, path)
    _flush(path.parent, os.O_RDONLY)


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """The temporary path to write; becomes `path` when the block ends, vanishes if it raises."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_path(path)
    try:
        yield partial
        publish(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_bytes(path: str | Path, data: bytes) -> None:
    """Nothing; `path` holds `data` in whole, or what it held before."""
    with replacing(path) as partial:
        partial.write_bytes(data)


def write_text(path: str | Path, text: str) -> None:
    """Nothing; `path` holds `text` (UTF-8) in whole, or what it held before."""
    write_bytes(path, text.encode())


def _flush(path: Path, flags: int) -> None:
    handle = os.open(path, flags)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
