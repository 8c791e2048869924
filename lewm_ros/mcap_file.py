"""The messages of an mcap file: each is read alone where its chunk is not compressed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from lewm_ros.bag_part import Damage, Entries, Loss
from lewm_ros.mcap_scan import MESSAGE, Chunk, McapScan

_CHUNKS_KEPT = 4  # decompressed ones: messages of overlapping chunks come in turn
_OUTSIDE = -1  # a message that is in no chunk


class McapFile:
    """An open mcap file, a Part.

    Entries count `offset` from the start of the records of the chunk with number `chunk`. The
    checksum of a chunk is compared where the whole chunk is read: where it is compressed, and
    where the file is damaged elsewhere.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open('rb', buffering=0)
        try:
            scan = self._scan = McapScan(self._file.fileno())
        except BaseException:
            self._file.close()
            raise
        self.channels = scan.channels
        self.losses = scan.losses
        self.entries = _entries(scan)
        self._kept: dict[int, bytes | Damage] = {}
        self._buffer = bytearray()

    def close(self) -> None:
        """Nothing; the file is closed."""
        self._file.close()
        self._kept.clear()

    def heads(self, entries: Entries, most: np.ndarray) -> Iterator[bytes | memoryview]:
        """Yields of each message the first `most` (n,) bytes at least; all of it where -1."""
        scan = self._scan
        for log_ns, channel, number, offset, few in zip(*_columns(entries), most.tolist()):
            if number != _OUTSIDE and scan.chunks[number].compression:
                yield self._unpacked(number, offset, channel, log_ns)
                continue
            at, room = self._place(number, offset)
            length = _length(scan.read(at, MESSAGE.size), room, channel, log_ns)
            yield scan.read(at + MESSAGE.size, length if few < 0 else min(few, length))

    def messages(self, entries: Entries) -> Iterator[bytes | memoryview]:
        """Yields each message whole; its memory may be used again for the next one."""
        scan = self._scan
        for log_ns, channel, number, offset in zip(*_columns(entries)):
            if number != _OUTSIDE and scan.chunks[number].compression:
                yield self._unpacked(number, offset, channel, log_ns)
                continue
            at, room = self._place(number, offset)
            length = _length(scan.read(at, MESSAGE.size), room, channel, log_ns)
            if len(self._buffer) < length:
                self._buffer = bytearray(length)
            view = memoryview(self._buffer)[:length]
            if os.preadv(self._file.fileno(), [view], at + MESSAGE.size) != length:
                raise Damage(f'the message at byte {at} is cut off')
            yield view

    def _place(self, number: int, offset: int) -> tuple[int, int]:
        """Where in the file a message's record begins, and how much room is there for it."""
        if number == _OUTSIDE:
            return offset, self._scan.size - offset
        chunk = self._scan.chunks[number]
        return chunk.start + offset, chunk.length - offset

    def _unpacked(self, number: int, offset: int, channel: int, log_ns: int) -> memoryview:
        data = self._kept.get(number)
        if data is None:
            try:
                data = self._scan.unpack(self._scan.chunks[number])
            except Damage as damage:
                data = damage  # of all its messages
            self._kept[number] = data
            if len(self._kept) > _CHUNKS_KEPT:
                del self._kept[next(iter(self._kept))]
        if isinstance(data, Damage):
            raise data
        head = data[offset:offset + MESSAGE.size]
        length = _length(head, len(data) - offset, channel, log_ns)
        start = offset + MESSAGE.size
        return memoryview(data)[start:start + length]


def _length(head: bytes, room: int, channel: int, log_ns: int) -> int:
    """The length of the data of the message with this record head, which must be the index's."""
    if len(head) == MESSAGE.size:
        opcode, length, is_channel, _, is_log_ns, _ = MESSAGE.unpack(head)
        if (opcode, is_channel, is_log_ns) == (5, channel, log_ns) and 22 <= length <= room - 9:
            return length - 22
    raise Damage('the index leads to what is no message')


def _columns(entries: Entries) -> tuple[list[int], ...]:
    return (entries.log_ns.tolist(), entries.channel.tolist(), entries.chunk.tolist(),
            entries.offset.tolist())


def _entries(scan: McapScan) -> Entries:
    """All messages, in the order of the file."""
    loose = np.array(scan.loose, dtype=np.int64).reshape(-1, 3)
    parts = [Entries(loose[:, 0], loose[:, 1], np.full(len(loose), _OUTSIDE), loose[:, 2])]
    parts += [_chunk_entries(chunk, number) for number, chunk in enumerate(scan.chunks)]
    joined = Entries.join(parts)
    good = np.isin(joined.channel, list(scan.channels))
    # An index that is damaged itself leads outside of its chunk.
    good &= (joined.offset >= 0) & (joined.log_ns >= 0)
    if not good.all():
        scan.losses.append(Loss('messages of unknown topics, or without a place',
                                messages=int((~good).sum())))
    return joined.at(np.flatnonzero(good))


def _chunk_entries(chunk: Chunk, number: int) -> Entries:
    pairs = [p for _, p in sorted(chunk.index.items())]
    channel = np.repeat(sorted(chunk.index), [len(p) for p in pairs]).astype(np.int64)
    both = np.concatenate(pairs) if pairs else np.empty((0, 2), dtype=np.int64)
    order = np.argsort(both[:, 1], kind='stable')
    return Entries(both[order, 0], channel[order], np.full(len(both), number, dtype=np.int64),
                   both[order, 1])
