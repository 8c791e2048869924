"""What lies where in an mcap file, whole or cut off: its records are walked, not trusted.

Source: the MCAP specification, mcap.dev/spec.
"""

from __future__ import annotations

import os
import struct
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO

import numpy as np
from mcap.data_stream import ReadDataStream
from mcap.opcode import Opcode
from mcap.records import Channel as McapChannel
from mcap.records import Chunk as McapChunk
from mcap.records import ChunkIndex, Footer, Schema, Statistics
from mcap.stream_reader import get_chunk_data_stream

from lewm_ros.bag_part import Channel, Damage, Loss, ros_type

MAGIC = b'\x89MCAP0\r\n'
RECORD = struct.Struct('<BQ')  # opcode, length
MESSAGE = struct.Struct('<BQHIQQ')  # opcode, length, channel, sequence, log, publish time
_CHUNK = struct.Struct('<QQQI')  # start, end, uncompressed size, CRC
_FOOTER = 20  # bytes in it
_LARGEST = 4 * 2**30  # a chunk that claims more is damaged
_LATEST = 2**63
_WINDOW = 4096


@dataclass
class Chunk:
    """A chunk: where its records begin in the file, how they are packed, and its index.

    `index` holds by channel (log times, offsets) pairs (n, 2) int64.
    """

    start: int
    length: int
    size: int
    compression: str
    crc: int
    index: dict[int, np.ndarray] = field(default_factory=dict)
    whole: bool = True


class McapScan:
    """The records of the open file `fd`: `channels`, `chunks`, messages outside of chunks.

    `losses` says what can't be read; it is empty for a file that is as it was written. Raises
    Damage when the file is no mcap file.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.size = os.fstat(fd).st_size
        self.chunks: list[Chunk] = []
        self.loose = array('q')  # log time, channel, place of each
        self.losses: list[Loss] = []
        self.channels: dict[int, Channel] = {}
        self.profile = ''
        self._window, self._window_at = b'', 0  # read last: small records follow each other
        self._schemas: dict[int, Schema] = {}
        self._statistics: Statistics | None = None
        if self.read(0, len(MAGIC)) != MAGIC:
            raise Damage('it does not begin as an mcap file')
        self._walk()
        self._complete()

    def read(self, at: int, length: int) -> bytes:
        """The bytes at `at`; raises Damage when the file ends before their end."""
        begin = at - self._window_at
        if not 0 <= begin <= len(self._window) - length:
            if at + length > self.size:
                raise Damage(f'the file ends before byte {at + length}')
            data = os.pread(self.fd, max(length, _WINDOW), at)
            if len(data) < length:
                raise Damage(f'the file ends before byte {at + length}')
            if length >= _WINDOW:
                return data
            self._window, self._window_at, begin = data, at, 0
        return self._window[begin:begin + length]

    def unpack(self, chunk: Chunk) -> bytes:
        """The records of a chunk; raises Damage where they don't unpack or the CRC differs."""
        data = self.read(chunk.start, chunk.length)
        try:
            if chunk.compression not in ('', 'lz4', 'zstd'):
                raise ValueError(f'compression {chunk.compression!r} is not known')
            stream, length = get_chunk_data_stream(
                McapChunk(chunk.compression, data, 0, 0, chunk.crc, chunk.size), validate_crc=True)
            if length != chunk.size:
                raise ValueError(f'{length} bytes instead of {chunk.size}')
            return stream.read(length)
        except Exception as error:  # zstd, lz4 and mcap each have their own
            raise Damage(f'the chunk at byte {chunk.start}: {error}') from None

    def _walk(self) -> None:
        """All records to the footer; past damage, on from the next chunk that the index names."""
        at, whole = len(MAGIC), False
        while at < self.size and not whole:
            following = self._step(at)
            if following is None:
                following = self._next_chunk(at)
                if self.chunks:
                    self.chunks[-1].whole = False  # some of its index may be missing
                self.losses.append(Loss(
                    f'{following - at} bytes from byte {at} on are cut off or damaged',
                    bytes=following - at))
            else:
                whole = following < 0
            at = following
        if not whole and not self.losses:
            if self.chunks:
                self.chunks[-1].whole = False
            self.losses.append(Loss('the end of the file is missing'))

    def _step(self, at: int) -> int | None:
        """Where the record after that at `at` begins; -1 after the footer; None: damaged."""
        if at + RECORD.size > self.size:
            return None
        opcode, length = RECORD.unpack(self.read(at, RECORD.size))
        start = at + RECORD.size
        if not 1 <= opcode <= 15 or start + length > self.size:
            return None
        if opcode == Opcode.FOOTER:
            return -1 if length == _FOOTER else None
        try:
            self._record(opcode, start, length)
        except Exception:  # struct, Unicode and the mcap package's own
            return None
        return start + length

    def _record(self, opcode: int, start: int, length: int) -> None:
        if opcode == Opcode.CHUNK:
            self._chunk(start, length)
        elif opcode == Opcode.MESSAGE:
            _, size, channel, _, log_ns, _ = MESSAGE.unpack(
                self.read(start - RECORD.size, MESSAGE.size))
            if size < 22 or log_ns >= _LATEST:
                raise Damage('message')
            self.loose.extend((log_ns, channel, start - RECORD.size))
        elif opcode == Opcode.MESSAGE_INDEX:
            self._message_index(self.read(start, length))
        elif opcode in (Opcode.HEADER, Opcode.SCHEMA, Opcode.CHANNEL, Opcode.STATISTICS):
            self._described(opcode, self.read(start, length))

    def _chunk(self, start: int, length: int) -> None:
        head = self.read(start, min(length, _CHUNK.size + 4 + 64))
        _, _, size, crc = _CHUNK.unpack_from(head)
        name = int.from_bytes(head[28:32], 'little')
        packed, = struct.unpack_from('<Q', head, 32 + name)
        if 40 + name + packed != length or size > _LARGEST:
            raise Damage('chunk')
        self.chunks.append(Chunk(start + 40 + name, packed, size, head[32:32 + name].decode(),
                                 crc))

    def _message_index(self, data: bytes) -> None:
        channel, length = struct.unpack_from('<HI', data)
        pairs = np.frombuffer(data, '<i8', offset=6).reshape(-1, 2)
        if length != len(data) - 6 or not self.chunks or channel in self.chunks[-1].index:
            raise Damage('message index')
        self.chunks[-1].index[channel] = pairs

    def _described(self, opcode: int, data: bytes) -> None:
        stream = ReadDataStream(BytesIO(data))
        if opcode == Opcode.HEADER:
            self.profile = stream.read_prefixed_string()
        elif opcode == Opcode.STATISTICS:
            self._statistics = Statistics.read(stream)
        elif opcode == Opcode.SCHEMA:
            schema = Schema.read(stream)
            self._schemas.setdefault(schema.id, schema)
        else:
            channel = McapChannel.read(stream)
            schema = self._schemas.get(channel.schema_id)
            self.channels.setdefault(channel.id, Channel(
                channel.topic, ros_type(schema.name) if schema else '', channel.message_encoding,
                schema.encoding if schema else '',
                schema.data.decode(errors='replace') if schema else ''))

    def _next_chunk(self, at: int) -> int:
        """Where the summary says that the next chunk, or it itself, begins; else the end."""
        try:
            footer = Footer.read(ReadDataStream(BytesIO(
                self.read(self.size - len(MAGIC) - _FOOTER, _FOOTER))))
            summary = self.read(footer.summary_start,
                                self.size - footer.summary_start) if footer.summary_start else b''
            places = [footer.summary_start]
            for opcode, start, length in records(summary):
                if opcode == Opcode.CHUNK_INDEX:
                    places.append(ChunkIndex.read(ReadDataStream(BytesIO(
                        summary[start:start + length]))).chunk_start_offset)
        except Exception:  # struct and the mcap package's own
            places = []
        return min((p for p in places if at < p < self.size), default=self.size)

    def _complete(self) -> None:
        """Looks into the chunks whose index is missing or speaks of channels not yet known.

        In a file with damage, into all: what can't be unpacked is lost, and said to be.
        """
        doubtful = bool(self.losses)
        for chunk in list(self.chunks):
            indexed = chunk.whole and chunk.index
            if indexed and not doubtful and chunk.index.keys() <= self.channels.keys():
                continue
            try:
                self._look_into(chunk)
            except Damage as damage:
                self.chunks.remove(chunk)
                self.losses.append(Loss(str(damage), chunk.length,
                                        sum(map(len, chunk.index.values()))))
        expected = self._statistics.message_count if self._statistics else None
        found = len(self.loose) // 3 + sum(len(p) for c in self.chunks for p in c.index.values())
        if expected is not None and found < expected and not self.losses:
            self.losses.append(Loss('some messages are missing from the index',
                                    messages=expected - found))

    def _look_into(self, chunk: Chunk) -> None:
        """Reads a chunk's records for its index and for the channels that are not yet known."""
        data = self.unpack(chunk)
        index: dict[int, list[tuple[int, int]]] = {}
        end = 0
        for opcode, start, length in records(data):
            end = start + length
            if opcode in (Opcode.SCHEMA, Opcode.CHANNEL):
                try:
                    self._described(opcode, data[start:end])
                except Exception as error:  # struct, Unicode and the mcap package's own
                    raise Damage(f'the chunk at byte {chunk.start}: {error}') from None
            elif opcode == Opcode.MESSAGE and length >= 22:
                _, _, channel, _, log_ns, _ = MESSAGE.unpack_from(data, start - RECORD.size)
                if log_ns < _LATEST:
                    index.setdefault(channel, []).append((log_ns, start - RECORD.size))
        if end != len(data):
            raise Damage(f'the chunk at byte {chunk.start} holds damaged records')
        chunk.index = {c: np.array(p, dtype=np.int64).reshape(-1, 2) for c, p in index.items()}


def records(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yields (opcode, start of the content, its length) of the records that `data` holds whole."""
    at = 0
    while at + RECORD.size <= len(data):
        opcode, length = RECORD.unpack_from(data, at)
        at += RECORD.size
        if at + length > len(data):
            return
        yield opcode, at, length
        at += length
