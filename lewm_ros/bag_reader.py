"""Recordings of any kind through rosbags, with every fault as one sentence."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_typestore

from lewm_core.types import UserError

STORAGE = ('.mcap', '.db3', '.bag')
_LFS = b'version https://git-lfs'
_ZSTD = b'\x28\xb5\x2f\xfd'
# Many a listing is longer than anyone reads; the rest is counted.
_MOST_TOPICS = 30


@dataclass(frozen=True)
class Topic:
    """One topic of a bag: its name, type as package/msg/Type, and number of messages."""

    name: str
    type: str
    count: int


@dataclass
class Bag:
    """An open recording: `topics`, and `messages()` in order of their log time."""

    path: Path
    reader: AnyReader
    topics: tuple[Topic, ...] = field(default=())

    def messages(self, names: Sequence[str]) -> Iterator[tuple[str, int, bytes]]:
        """Yields (topic, log time in nanoseconds, raw message) of the topics in `names`.

        The log time is the source stamp where the recorder wrote that one. Raises UserError
        where the file is damaged.
        """
        wanted = [c for c in self.reader.connections if c.topic in names]
        if not wanted:
            return
        stream = self.reader.messages(connections=wanted)
        while True:
            try:
                connection, log_ns, raw = next(stream)
            except StopIteration:
                return
            except Exception as error:  # struct, zstd, sqlite and rosbags each have their own
                raise _damaged(self.path, error) from None
            if raw[:4] == _ZSTD:
                # Compressed message by message, which only a metadata.yaml tells rosbags.
                raise UserError(f'bag {str(self.path)!r} holds compressed messages; give the '
                                'directory with its metadata.yaml instead of the file')
            yield connection.topic, log_ns, raw

    def message(self, raw: bytes, type: str) -> Any:
        """The message in `raw`, as rosbags' dataclass; raises UserError where it is damaged."""
        name = type if type in self.reader.typestore.fielddefs else type.replace('/msg/', '/')
        try:
            return self.reader.deserialize(raw, name)
        except Exception as error:
            raise _damaged(self.path, error, f' in a message of type {type}') from None

    def header_ns(self, raw: bytes) -> int:
        """The header stamp in nanoseconds of a raw message that begins with a std_msgs/Header.

        Read in place: taking a whole image apart for eight bytes would double the reading.
        """
        try:
            if not self.reader.is2:
                sec, nanosec = struct.unpack_from('<II', raw, 4)  # ROS 1: after seq
            else:
                order = '<' if raw[1] & 1 else '>'
                sec, nanosec = struct.unpack_from(f'{order}iI', raw, 4)
        except (struct.error, IndexError) as error:
            raise _damaged(self.path, error, ' in a message header') from None
        return sec * 1_000_000_000 + nanosec

    def has_header(self, type: str) -> bool:
        """Whether messages of `type` begin with a std_msgs/Header (or are one)."""
        if type == 'std_msgs/msg/Header':
            return True
        known = self.reader.typestore.fielddefs
        fields = known.get(type) or known.get(type.replace('/msg/', '/'))
        first = fields[1][0][1] if fields and fields[1] else None
        return first is not None and str(first[1]) in ('std_msgs/msg/Header', 'std_msgs/Header')

    def listing(self) -> str:
        """The topics for an error message: each with its type and number of messages."""
        parts = [f'{t.name} ({t.type}, {t.count})' for t in self.topics[:_MOST_TOPICS]]
        if len(self.topics) > _MOST_TOPICS:
            parts.append(f'{len(self.topics) - _MOST_TOPICS} more')
        return ', '.join(parts) if parts else 'no topics'


def find_bags(paths: Sequence[str | Path]) -> list[Path]:
    """The recordings at `paths`, in order: rosbag2 directories, or .mcap, .db3 and .bag files.

    A directory without a metadata.yaml stands for the recordings directly in it. Raises UserError
    when there is none.
    """
    if not paths:
        raise UserError('no bag is given; give the path of at least one recording')
    found = []
    for path in map(Path, paths):
        if not path.exists():
            raise UserError(f'bag {str(path)!r} does not exist; give the path of a rosbag2 '
                            'directory or of a .mcap, .db3 or .bag file')
        if path.is_dir() and not (path / 'metadata.yaml').exists():
            found += _inside(path)
        else:
            found.append(path)
    return found


def _inside(folder: Path) -> list[Path]:
    files = sorted(p for p in folder.iterdir() if p.suffix in STORAGE and p.is_file())
    bags = sorted(p.parent for p in folder.glob('*/metadata.yaml') if '.partial' not in str(p))
    if '.partial' in folder.name:
        raise UserError(f'bag {str(folder)!r} is what an interrupted recording left; record again '
                        'or recover its .mcap file and give that file')
    if not files and not bags:
        raise UserError(f'{str(folder)!r} is not a bag: a directory with a metadata.yaml, or with '
                        '.mcap, .db3 or .bag files is expected; give the path of a recording')
    return files or bags


@contextmanager
def open_bag(path: str | Path) -> Iterator[Bag]:
    """The open recording at `path`: a rosbag2 directory, or a .mcap, .db3 or ROS 1 .bag file.

    Raises UserError when it isn't there, is no recording, is damaged or cut off, or is empty.
    """
    path = Path(path)
    if not path.exists():
        find_bags([path])
    if path.is_file():
        _check_file(path)
    try:
        reader = AnyReader([path], default_typestore=get_typestore(Stores.ROS2_JAZZY))
        reader.open()
    except Exception as error:  # rosbags raises KeyError, IndexError and more on damaged files
        raise _damaged(path, error) from None
    try:
        topics = _topics(reader)
        if not any(t.count for t in topics):
            raise UserError(f'bag {str(path)!r} is empty: it holds no message; record it again '
                            'while the robot runs')
        yield Bag(path, reader, topics)
    finally:
        reader.close()


def _topics(reader: AnyReader) -> tuple[Topic, ...]:
    counts: dict[tuple[str, str], int] = {}
    for c in reader.connections:
        # Early ROS 2 recorders and ROS 1 leave out the /msg/.
        kind = c.msgtype if c.msgtype.count('/') == 2 else c.msgtype.replace('/', '/msg/')
        counts[c.topic, kind] = counts.get((c.topic, kind), 0) + c.msgcount
    return tuple(Topic(*key, count) for key, count in sorted(counts.items()))


def _check_file(path: Path) -> None:
    with path.open('rb') as file:
        head = file.read(len(_LFS))
    if head == _LFS:
        raise UserError(f'bag {str(path)!r} is a Git LFS pointer and not the recording; fetch it '
                        'with git lfs pull')
    if path.suffix == '.active':
        raise UserError(f'bag {str(path)!r} is an unfinished ROS 1 recording; repair it with '
                        'rosbag reindex and give the .bag file')
    if path.suffix not in STORAGE:
        raise UserError(f'{str(path)!r} is not a bag: a rosbag2 directory or a file that ends in '
                        f'one of {list(STORAGE)} is expected; give the path of a recording')
    if not head:
        raise UserError(f'bag {str(path)!r} is empty: the file has no bytes; record it again')


def _damaged(path: Path, error: Exception, where: str = '') -> UserError:
    reason = ' '.join(str(error).split()).rstrip('.') or type(error).__name__
    if 'Profile is not ros2' in reason:
        return UserError(f'bag {str(path)!r} is an mcap file with the messages of another system '
                         'than ROS 2; give the ROS 1 .bag file, or a ROS 2 recording')
    advice = ('recover it with `mcap recover`' if _holds_mcap(path) else 'repair or copy it anew')
    return UserError(f'bag {str(path)!r} is cut off, damaged or of an unknown kind{where} '
                     f'({reason}); {advice} or record it again')


def _holds_mcap(path: Path) -> bool:
    return path.suffix == '.mcap' or (path.is_dir() and any(path.glob('*.mcap')))
