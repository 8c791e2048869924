"""The messages of a ROS 1 .bag file, found and unpacked by rosbags' reader."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
from rosbags.rosbag1 import Reader
from rosbags.rosbag1.reader import Header, RecordType, read_bytes, read_uint32

from lewm_ros.bag_part import Channel, Damage, Entries, Loss, ros_type

MAGIC = b'#ROSBAG V'
_CHUNKS_KEPT = 4  # messages of overlapping chunks come in turn


class Ros1File:
    """An open .bag file, a Part. Entries count `offset` within the chunk that begins at `chunk`.

    Raises Damage when it has no index or the index is damaged.
    """

    losses: list[Loss]

    def __init__(self, path: Path) -> None:
        self.losses = []
        self._reader = Reader(path)
        try:
            self._reader.open()
        except Exception as error:  # rosbags raises KeyError, IndexError and more on damaged files
            raise Damage(' '.join(str(error).split()) or type(error).__name__) from None
        self._kept: dict[int, bytes] = {}
        self.channels = {c.id: Channel(c.topic, ros_type(c.msgtype), 'ros1', 'ros1msg',
                                       c.msgdef.data) for c in self._reader.connections}
        self.entries = Entries.join([
            _entries(key, index) for key, index in self._reader.indexes.items() if index])

    def close(self) -> None:
        """Nothing; the file is closed."""
        self._reader.close()
        self._kept.clear()

    def heads(self, entries: Entries, most: np.ndarray) -> Iterator[bytes | memoryview]:
        """Yields each message whole: the index of a .bag doesn't say how long one is."""
        return self.messages(entries)

    def messages(self, entries: Entries) -> Iterator[bytes | memoryview]:
        """Yields each message whole."""
        for log_ns, channel, chunk, offset in zip(entries.log_ns.tolist(),
                                                  entries.channel.tolist(),
                                                  entries.chunk.tolist(),
                                                  entries.offset.tolist()):
            try:
                yield self._message(self._chunk(chunk), offset, channel, log_ns)
            except Exception as error:  # bz2, lz4 and rosbags each have their own
                raise Damage(f'the chunk at byte {chunk}: {error}') from None

    def _chunk(self, at: int) -> bytes:
        data = self._kept.get(at)
        if data is None:
            chunk = self._reader.chunks[at]
            self._reader.bio.seek(chunk.datapos)
            data = self._kept[at] = chunk.decompressor(read_bytes(self._reader.bio,
                                                                  chunk.datasize))
            if len(self._kept) > _CHUNKS_KEPT:
                del self._kept[next(iter(self._kept))]
        return data

    def _message(self, data: bytes, offset: int, channel: int, log_ns: int) -> memoryview:
        stream = BytesIO(data)
        stream.seek(offset)
        header = Header.read(stream)
        while header.get_uint8('op') == RecordType.CONNECTION:  # written before its first message
            stream.seek(read_uint32(stream), 1)
            header = Header.read(stream)
        if (header.get_uint8('op'), header.get_uint32('conn'), header.get_time('time')) != \
                (RecordType.MSGDATA, channel, log_ns):
            raise Damage(f'no message is at {offset}, where its index leads')
        length = read_uint32(stream)
        start = stream.tell()
        if start + length > len(data):
            raise Damage(f'the message at {offset} leaves it')
        return memoryview(data)[start:start + length]


def _entries(channel: int, index: list) -> Entries:
    table = np.array([(e.time, channel, e.chunk_pos, e.offset) for e in index], dtype=np.int64)
    return Entries(*table.T)
