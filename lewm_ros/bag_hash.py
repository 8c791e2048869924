"""What a recording is known by, whatever its name and wherever it lies."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from lewm_core.types import UserError
from lewm_ros.bag_files import recording, unreadable

# Up to this size all bytes count. Hashing all of a large raw recording would take half as long
# as resizing its images (0.51 ms beside 1.28 ms a 640x480 image, measured).
_WHOLE = 64 << 20
_ENDS = 8 << 20
_STEP, _SAMPLE = 1 << 20, 4096


@dataclass(frozen=True)
class BagHash:
    """`sha256` over `hashed` of the `bytes` of a recording's files; plain SHA-256 when equal."""

    sha256: str
    bytes: int
    hashed: int


def grown(path: Path, identity: BagHash) -> bool:
    """Whether the recording has another size than when it was hashed: a recorder is at it."""
    try:
        return sum(file.stat().st_size for file in recording(path).files) != identity.bytes
    except (OSError, UserError):
        return True


def bag_hash(path: Path) -> BagHash:
    """The hash of the recording at `path`: its file, or all storage files of its directory.

    metadata.yaml does not count, so a directory and the one file in it are the same recording.
    Of a file above 64 MiB count its size, its first and last 8 MiB (an mcap's end holds the stamp
    and place of every message) and 4 KiB of each MiB between. Raises UserError where the
    recording can't be read.
    """
    digest, total, hashed = hashlib.sha256(), 0, 0
    try:
        for file in sorted(recording(path).files):
            with file.open('rb') as f:
                size = os.fstat(f.fileno()).st_size
                total += size
                hashed += _whole(f, digest) if size <= _WHOLE else _sampled(f, size, digest)
    except OSError as error:
        raise unreadable(path, error) from None
    return BagHash(digest.hexdigest(), total, hashed)


def _whole(file: BinaryIO, digest: hashlib._Hash) -> int:
    count = 0
    while data := file.read(1 << 20):
        digest.update(data)
        count += len(data)
    return count


def _sampled(file: BinaryIO, size: int, digest: hashlib._Hash) -> int:
    digest.update(str(size).encode())
    count = 0
    spans = [(0, _ENDS), *((at, _SAMPLE) for at in range(_ENDS, size - _ENDS, _STEP)),
             (size - _ENDS, _ENDS)]
    for at, length in spans:
        file.seek(at)
        data = file.read(length)
        digest.update(data)
        count += len(data)
    return count
