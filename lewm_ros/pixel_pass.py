"""The second pass: chosen images into their rows of the file, by one process or several."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import connection, get_context, parent_process
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np

from lewm_core.jpeg_pixels import encode
from lewm_core.robot import Camera
from lewm_core.types import UserError
from lewm_ros.bag_reader import Bag, open_bag
from lewm_ros.decode import picture

_LOG = logging.getLogger(__name__)
_SLICE = 32  # frames: a twentieth of a second of work, so that all processes end together


class ConversionStopped(Exception):
    """Somebody asked the conversion to stop; nothing was written."""


@dataclass(frozen=True)
class Target:
    """Where the pictures go: row r of `path` begins at byte `offset` + r · size of a picture.

    With `quality` they are made JPEGs instead and handed back.
    """

    path: Path
    offset: int
    quality: int | None = None


@dataclass(frozen=True)
class Slice:
    """Images of one bag that become consecutive rows: their indices on `topic`, and `row`."""

    bag: Path
    topic: str
    camera: Camera
    frames: tuple[int, ...]
    row: int


@dataclass
class Filled:
    """What became of a slice: why some of its images are unreadable (by index), its JPEGs."""

    bad: dict[int, str]
    jpegs: list[bytes]


def slices(bag: Path, topic: str, camera: Camera, frames: Sequence[int], row: int) -> list[Slice]:
    """The images `frames` of a bag, which become the rows from `row` on, in handy portions."""
    return [Slice(bag, topic, camera, tuple(frames[i:i + _SLICE]), row + i)
            for i in range(0, len(frames), _SLICE)]


class Reader:
    """Fills slices one after the other; keeps the bag of the last one open."""

    def __init__(self) -> None:
        self._open = ExitStack()
        self._path: Path | None = None
        self._bag: Bag | None = None

    def close(self) -> None:
        """Nothing; the bag is closed."""
        self._open.close()
        self._path = self._bag = None

    def bag_at(self, path: Path) -> Bag:
        """The open bag at `path`; raises UserError."""
        if path != self._path:
            self.close()
            self._bag = self._open.enter_context(open_bag(path))
            self._path = path
        return self._bag

    def fill(self, part: Slice, target: Target, filled: Filled) -> Iterator[None]:
        """Yields after each image; its picture is in the file then, or `filled` says why not."""
        handle = os.open(target.path, os.O_WRONLY)
        done = 0
        try:
            bag = self.bag_at(part.bag)
            for index, raw in zip(part.frames, bag.pick(part.topic, part.frames,
                                                        part.camera.type)):
                try:
                    pixels = picture(bag.message(raw, part.camera.type), part.camera)
                except UserError as error:
                    filled.bad[index], pixels = str(error), None
                if target.quality:
                    filled.jpegs.append(b'' if pixels is None else encode(pixels, target.quality))
                elif pixels is not None:
                    _write(handle, pixels, target.offset + (part.row + done) * pixels.nbytes)
                done += 1
                yield
        except UserError as error:  # the recording isn't what it was in the first pass
            filled.bad.update(dict.fromkeys(part.frames[done:], str(error)))
        finally:
            os.close(handle)
        left = part.frames[done:]
        filled.bad.update({i: 'the image is missing' for i in left if i not in filled.bad})
        filled.jpegs += [b''] * (len(left) if target.quality else 0)


def _write(handle: int, pixels: np.ndarray, at: int) -> None:
    data = memoryview(pixels).cast('B')
    while data:  # a write may be short where the disk is nearly full
        count = os.pwrite(handle, data, at)
        data, at = data[count:], at + count


@dataclass(frozen=True)
class Helpers:
    """`count` other processes that fill slices too."""

    pool: ProcessPoolExecutor
    count: int


def fill(parts: Sequence[Slice], target: Target, helpers: Helpers | None = None,
         on_frames: Callable[[int], None] = lambda count: None,
         should_stop: Callable[[], bool] = lambda: False) -> Iterator[tuple[Slice, Filled]]:
    """Yields each slice, in order, when its pictures are in the file.

    This process works too, so that the others' start, which takes as long as hundreds of images,
    is not waited for. `on_frames` gets the number of images just done. Raises
    ConversionStopped when `should_stop` says so, and OSError when the disk is full.
    """
    reader, queue = Reader(), deque(enumerate(parts))
    running: dict[Future, int] = {}
    ready: dict[int, Filled] = {}
    given = 0
    try:
        while given < len(parts):
            while helpers and queue and len(running) < 2 * helpers.count:
                number, part = queue.popleft()
                running[helpers.pool.submit(_work, part, target)] = number
            if queue:
                number, part = queue.popleft()
                ready[number] = Filled({}, [])
                for _ in reader.fill(part, target, ready[number]):
                    _ask(should_stop)
                    on_frames(1)
            elif running:
                wait(running, timeout=0.2, return_when=FIRST_COMPLETED)
                _ask(should_stop)
            for future in [f for f in running if f.done()]:
                number = running.pop(future)
                ready[number] = _result(future)
                on_frames(len(parts[number].frames))
            while given in ready:
                yield parts[given], ready.pop(given)
                given += 1
    finally:
        reader.close()
        for future in running:
            future.cancel()


def _result(future: Future) -> Filled:
    try:
        return future.result()
    except BrokenProcessPool:
        raise UserError('a process of the conversion was killed, perhaps for want of memory; '
                        'convert again with workers=1') from None


def _ask(should_stop: Callable[[], bool]) -> None:
    if should_stop():
        raise ConversionStopped()


@contextmanager
def processes(count: int, first: Path) -> Iterator[Helpers | None]:
    """That many other processes, which start and open the bag `first` while the first pass runs.

    They are started afresh: a fork copies the locks of ROS's and PyTorch's threads. None where
    `count` is 0, or where the machine has no semaphores for them.
    """
    pool = _pool(count) if count > 0 else None
    if pool is None:
        yield None
        return
    threads, waits = cv2.getNumThreads(), True
    cv2.setNumThreads(1)
    try:
        with _without_main():
            for _ in range(count):  # one is started for each
                pool.submit(_open_first, first)
        yield Helpers(pool, count)
        waits = False  # they have nothing left to do
    finally:
        pool.shutdown(waits, cancel_futures=True)
        cv2.setNumThreads(threads)


def _pool(count: int) -> ProcessPoolExecutor | None:
    try:
        return ProcessPoolExecutor(count, get_context('spawn'), _begin)
    except (OSError, ImportError) as error:  # a container whose /dev/shm can't be written to
        _LOG.warning('one process converts, for others could not be had here (%s: %s)',
                     type(error).__name__, error)
        return None


_READER = Reader()


def _work(part: Slice, target: Target) -> Filled:
    """What became of the slice, in another process; it keeps its bag open for the next one."""
    filled = Filled({}, [])
    for _ in _READER.fill(part, target, filled):
        pass
    return filled


@contextmanager
def _without_main() -> Iterator[None]:
    """A process started meanwhile does not run the calling program's main module again.

    It needs nothing of it, and a script may have no `if __name__ == '__main__'`.
    """
    main = sys.modules['__main__']
    sys.modules['__main__'] = ModuleType('__main__')
    try:
        yield
    finally:
        sys.modules['__main__'] = main


def _open_first(path: Path) -> None:
    with suppress(UserError):  # the first pass says why
        _READER.bag_at(path)


def _begin() -> None:
    """Nothing; a process that dies with its parent, and leaves Ctrl-C to it."""
    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        connection.wait([parent_process().sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
