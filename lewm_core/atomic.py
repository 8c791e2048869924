"""Files that are whole or absent: write beside, flush, rename."""

from __future__ import annotations

import fcntl
import glob
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lewm_core.types import UserError

log = logging.getLogger(__name__)


def refuse_existing(path: str | Path, overwrite: bool) -> None:
    """Nothing; raises UserError where `path` exists and may not be overwritten."""
    if Path(path).exists() and not overwrite:
        raise UserError(f'output {str(path)!r} exists already; give another path or '
                        'overwrite=true')


def partial_path(path: str | Path) -> Path:
    """The name under which this process writes `path` until it is whole."""
    path = Path(path)
    return path.with_name(f'{path.name}.partial-{os.getpid()}')


def sweep(path: str | Path) -> None:
    """Nothing; removes what processes that are gone left of `path` half written, and says so.

    What belongs to a process that runs, or that holds a lock on it (another container's process
    ids are not ours), is left alone and named.
    """
    path = Path(path)
    for partial in sorted(path.parent.glob(f'{glob.escape(path.name)}.partial-*')):
        if partial.is_file():
            _sweep(partial, partial.name[len(path.name) + len('.partial-'):].partition('.')[0])


def _sweep(partial: Path, owner: str) -> None:
    if (alive(owner) and owner != str(os.getpid())) or _locked(partial):
        log.warning('%s belongs to process %s, which runs; it is left alone', partial, owner)
        return
    size = partial.stat().st_size / 1e6
    partial.unlink(missing_ok=True)
    log.warning('%s (%.1f MB), which an interrupted run left, is removed', partial, size)


def alive(pid: str) -> bool:
    """Whether a process of that number runs on this machine; false for what is no number."""
    try:
        os.kill(int(pid), 0)
    except (ValueError, OverflowError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True


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
    write_bytes(path, text.encode(errors='backslashreplace'))  # a path in it may be no UTF-8


def _locked(path: Path) -> bool:
    handle = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks
        return False
    finally:
        os.close(handle)
    return False


def _flush(path: Path, flags: int) -> None:
    handle = os.open(path, flags)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
