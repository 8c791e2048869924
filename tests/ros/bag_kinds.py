"""The same messages in every kind of recording that can be read."""

from __future__ import annotations

from pathlib import Path

from bag_toys import STORE
from mcap.writer import CompressionType, IndexType
from mcap.writer import Writer as McapWriter
from rosbags.rosbag1 import Writer as Ros1Writer
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

ROS1 = get_typestore(Stores.ROS1_NOETIC)


def rosbag2(storage, mode):
    """A writer of rosbag2 directories, compressed by `mode`."""
    def write(path, messages):
        writer = Writer(path, version=9, storage_plugin=storage)
        if mode is not None:
            writer.set_compression(mode, CompressionFormat.ZSTD)
        _fill(writer, messages, STORE, lambda raw, kind: raw)
        return path
    return write


def _fill(writer, messages, typestore, encoded):
    """Writes all messages with a writer of rosbags, each as `encoded(CDR bytes, type)`."""
    with writer:
        known = {}
        for topic, log_ns, message in messages:
            kind = message.__msgtype__
            if topic not in known:
                known[topic] = writer.add_connection(topic, kind, typestore=typestore)
            raw = bytes(STORE.serialize_cdr(message, kind))
            writer.write(known[topic], log_ns, bytes(encoded(raw, kind)))


def mcap(profile='ros2', ros1_topics=(), idle=(), **settings):
    """A writer of single .mcap files by the mcap package, in one of its ways.

    `ros1_topics` are written as ROS 1 does, `idle` ones too, and nobody publishes on these.
    """
    def write(path, messages):
        path = path.with_suffix('.mcap')
        with path.open('wb') as file:
            writer = McapWriter(file, **settings)
            writer.start(profile=profile, library='toy')
            for topic in idle:
                schema = writer.register_schema('std_msgs/String', 'ros1msg', b'string data')
                writer.register_channel(topic, 'ros1', schema)
            known = {}
            for number, (topic, log_ns, message) in enumerate(messages):
                kind = message.__msgtype__
                ros1 = profile == 'ros1' or topic in ros1_topics
                if topic not in known:
                    store = ROS1 if ros1 else STORE
                    text = store.generate_msgdef(kind, ros_version=1 if ros1 else 2)[0]
                    name = kind.replace('/msg/', '/') if ros1 else kind
                    schema = writer.register_schema(name, 'ros1msg' if ros1 else 'ros2msg',
                                                    text.encode())
                    known[topic] = writer.register_channel(
                        topic, 'ros1' if ros1 else 'cdr', schema)
                raw = bytes(STORE.serialize_cdr(message, kind))
                writer.add_message(known[topic], log_ns,
                                   bytes(STORE.cdr_to_ros1(raw, kind)) if ros1 else raw,
                                   log_ns, number)
            writer.finish()
        return path
    return write


def ros1(compression=None):
    """A writer of ROS 1 .bag files."""
    def write(path, messages):
        path = path.with_suffix('.bag')
        writer = Ros1Writer(path)
        if compression is not None:
            writer.set_compression(compression)
        _fill(writer, messages, ROS1, STORE.cdr_to_ros1)
        return path
    return write


MCAP, SQLITE = StoragePlugin.MCAP, StoragePlugin.SQLITE3
FILE, MESSAGE, CHUNK = CompressionMode.FILE, CompressionMode.MESSAGE, CompressionMode.STORAGE

KINDS = {
    'mcap': rosbag2(MCAP, None),
    'mcap zstd by chunk': rosbag2(MCAP, CHUNK),
    'mcap zstd by message': rosbag2(MCAP, MESSAGE),
    'mcap zstd by file': rosbag2(MCAP, FILE),
    'mcap many chunks': mcap(chunk_size=2000, compression=CompressionType.NONE),
    'mcap many chunks, zstd': mcap(chunk_size=2000, compression=CompressionType.ZSTD),
    'mcap many chunks, lz4': mcap(chunk_size=2000, compression=CompressionType.LZ4),
    'mcap without chunks': mcap(use_chunking=False),
    'mcap without an index': mcap(chunk_size=2000, index_types=IndexType.NONE,
                                  use_summary_offsets=False, use_statistics=False,
                                  repeat_channels=False, repeat_schemas=False),
    'mcap of ROS 1': mcap('ros1', chunk_size=2000),
    'sqlite3': rosbag2(SQLITE, None),
    'sqlite3 zstd by message': rosbag2(SQLITE, MESSAGE),
    'sqlite3 zstd by file': rosbag2(SQLITE, FILE),
    'ROS 1': ros1(),
    'ROS 1 bz2': ros1(Ros1Writer.CompressionFormat.BZ2),
    'ROS 1 lz4': ros1(Ros1Writer.CompressionFormat.LZ4),
}


def storage_file(path: Path) -> Path:
    """The file with the messages of a recording of any kind."""
    return path if path.is_file() else next(
        p for p in sorted(path.iterdir()) if p.name != 'metadata.yaml')
