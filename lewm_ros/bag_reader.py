"""Recordings of any kind, whole or damaged, with every fault as one sentence."""

from __future__ import annotations

import functools
import logging
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import zstandard

from lewm_core.types import UserError
from lewm_ros.bag_files import ZSTD, find_bags, kind_of, recording, unpacked, unreadable
from lewm_ros.bag_part import HEAD_BYTES, Damage, Entries, Loss, Part
from lewm_ros.bag_table import Table
from lewm_ros.bag_types import Types, of_one_ros
from lewm_ros.mcap_file import McapFile
from lewm_ros.ros1_file import Ros1File
from lewm_ros.sqlite_file import SqliteFile

__all__ = ['Bag', 'Topic', 'find_bags', 'open_bag']
_LOG = logging.getLogger(__name__)
Raw = bytes | memoryview | UserError  # the error in place of what can't be read
_OPENERS = {'mcap': McapFile, 'sqlite3': SqliteFile, 'ros1': Ros1File}
# Many a listing is longer than anyone reads; the rest is counted.
_MOST_TOPICS = 30
_BLOCK = 4096  # rows that become Python numbers at once
_LARGEST = 2**31  # a compressed message that claims more is damaged


@dataclass(frozen=True)
class Topic:
    """One topic of a bag: its name, type as package/msg/Type, and number of messages.

    A topic that comes in two types is two of these. `encoding` is as in `Channel`.
    """

    name: str
    type: str
    count: int
    encoding: str = 'cdr'


@dataclass
class Bag:
    """An open recording: `topics`, and `messages()` in order of their log time.

    `losses` says what of its files can't be read; `types` knows its message types. `start_ns`
    and `end_ns` are the first and last log time.
    """

    path: Path
    parts: list[Part]
    types: Types
    topics: tuple[Topic, ...] = field(default=())
    losses: tuple[Loss, ...] = ()
    start_ns: int = 0
    end_ns: int = 0

    def messages(self, names: Sequence[str] | Mapping[str, str], heads: Sequence[str] = (),
                 damaged: bool = False) -> Iterator[tuple[str, int, Raw]]:
        """Yields (topic, log time in nanoseconds, raw message) of the topics in `names`.

        With a mapping, of those topics the messages of the type it names; else of the type that
        has the most. The log time is the source stamp where the recorder wrote that one. Of the
        topics in `heads` the caller needs the first bytes alone (64), and may get no more. A raw
        message holds until the next is asked for. Raises UserError where the file is damaged;
        with `damaged` a message that can't be read comes as that error in its place.
        """
        table = self._table(names)
        for at in range(0, len(table), _BLOCK):
            block = table.at(slice(at, at + _BLOCK))
            times = block.log_ns.tolist()
            for (topic, raw), log_ns in zip(self._read(block, frozenset(heads)), times):
                if isinstance(raw, UserError) and not damaged:
                    raise raw
                yield topic, log_ns, raw

    def pick(self, name: str, wanted: Sequence[int], type: str = '') -> Iterator[Raw]:
        """Yields the raw messages with the indices `wanted` among those of topic `name`.

        They are counted as in `messages({name: type})`, and read fastest where they rise; what
        is between them is not read. A raw message holds until the next is asked for. One that
        can't be read comes as a UserError in its place.
        """
        table = self._table({name: type} if type else [name])
        rows = np.asarray(wanted, dtype=np.int64)
        for at in range(0, len(rows), _BLOCK):
            for _, raw in self._read(table.at(rows[at:at + _BLOCK]), frozenset()):
                yield raw

    def message(self, raw: Raw, type: str) -> Any:
        """The message in `raw`, as rosbags' dataclass; raises UserError where it is damaged."""
        try:
            if isinstance(raw, UserError):
                raise raw
            return self.types.read(raw, type)
        except UserError:
            raise
        except Exception as error:  # struct, Unicode, NumPy and rosbags' own
            raise _damaged(self.path, error, f' in a message of type {type}') from None

    def header_ns(self, raw: Raw) -> int:
        """The header stamp in nanoseconds of a raw message that begins with a std_msgs/Header.

        Read in place: taking a whole image apart for eight bytes would double the reading.
        Raises UserError where it is damaged.
        """
        if isinstance(raw, UserError):
            raise raw
        try:
            if self.types.ros1:
                sec, nanosec = struct.unpack_from('<II', raw, 4)  # after seq
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
        fields = self.types.store.fielddefs[type][1] if self.types.find(type) else ()
        return bool(fields) and str(fields[0][1][1]) == 'std_msgs/msg/Header'

    def listing(self) -> str:
        """The topics for an error message: each with its type and number of messages."""
        parts = [f'{t.name} ({t.type}, {t.count})' for t in self.topics[:_MOST_TOPICS]]
        if len(self.topics) > _MOST_TOPICS:
            parts.append(f'{len(self.topics) - _MOST_TOPICS} more')
        return ', '.join(parts) if parts else 'no topics'

    def lost(self) -> list[dict[str, Any]]:
        """What can't be read, as plain values for a report: why, bytes and messages each."""
        return [vars(loss) for loss in self.losses]

    def main_topics(self) -> dict[str, Topic]:
        """The topics by name; of one that comes in several types, the type with most messages."""
        return {t.name: t for t in sorted(self.topics, key=lambda t: t.count)}

    def _table(self, names: Sequence[str] | Mapping[str, str]) -> Table:
        """The messages of these topics in all parts, in order."""
        if not isinstance(names, Mapping):
            names = {name: t.type for name, t in self.main_topics().items() if name in names}
        return Table.of(self.parts, names)

    def _read(self, table: Table, heads: frozenset[str]) -> Iterator[tuple[str, Raw]]:
        """Yields (topic, raw message); of the topics in `heads` perhaps the first bytes alone."""
        for begin, end in table.runs():
            part = self.parts[table.part[begin]]
            entries = part.entries.at(table.row[begin:end])
            names = {key: channel.topic for key, channel in part.channels.items()}
            topics = [names[key] for key in entries.channel.tolist()]
            done = 0
            while done < len(topics):
                try:
                    for raw in self._read_part(part, entries.at(slice(done, None)), topics[done:],
                                               heads):
                        yield topics[done], raw
                        done += 1
                except (Damage, OSError) as error:
                    yield topics[done], _damaged(self.path, error)
                    done += 1

    def _read_part(self, part: Part, entries: Entries, topics: list[str], heads: frozenset[str]
                   ) -> Iterator[bytes | memoryview]:
        if heads:
            most = np.array([HEAD_BYTES if t in heads else -1 for t in topics])
            raws = part.heads(entries, most)
        else:
            raws = part.messages(entries)
        for row, raw in enumerate(raws):
            if raw[:4] == ZSTD and not self.types.ros1:  # compressed one by one
                raw = _decompress(next(iter(part.messages(entries.at([row])))))
            yield raw


@contextmanager
def open_bag(path: str | Path, typestore: str = '') -> Iterator[Bag]:
    """The open recording at `path`: a rosbag2 directory, or a .mcap, .db3 or ROS 1 .bag file.

    Of a damaged one, what can be read; what can't is in `losses` and in the log. `typestore`
    names a ROS distribution, or a folder of .msg files, for types that the bag doesn't define.
    Raises UserError when it isn't there, is no recording, can't be read at all, or is empty.
    """
    path = Path(path)
    if not path.exists():
        find_bags([path])
    if path.is_dir() and '.partial' in path.name:
        find_bags([path])
    with ExitStack() as files:
        yield _open(path, typestore, files)


def _open(path: Path, typestore: str, files: ExitStack) -> Bag:
    found = recording(path)
    losses = [Loss(f'the part {name!r} is missing') for name in found.missing]
    parts, faults = [], []
    for file in found.files:
        try:
            parts.append(_part(file, files))
        except UserError as error:
            faults.append(error)
    if not parts:
        raise faults[0]
    losses += [Loss(str(fault)) for fault in faults]
    losses += [loss for part in parts for loss in part.losses]
    channels = of_one_ros(path, parts)
    topics = _topics(parts)
    count = sum(t.count for t in topics)
    if losses and (found.messages or 0) > count:
        losses.append(Loss(f'{found.messages - count} of the {found.messages} messages that '
                           'metadata.yaml counts', messages=found.messages - count))
    if not count:
        raise UserError(f'bag {str(path)!r} is empty: it holds no message'
                        + (f' that can be read ({losses[0].why})' if losses else '')
                        + '; record it again while the robot runs')
    if losses:
        _warn(f'{path} is damaged; {count} messages can be read and are used; lost: '
              + '; '.join(loss.why for loss in losses))
    times = [t for part in parts for t in (part.entries.log_ns.min(initial=2**63 - 1),
                                           part.entries.log_ns.max(initial=-1))]
    return Bag(path, parts, Types(channels, found.distro, typestore), topics, tuple(losses),
               int(min(times[::2])), int(max(times[1::2])))


@functools.lru_cache(maxsize=1024)  # a conversion opens a bag more than once
def _warn(text: str) -> None:
    _LOG.warning(text)


def _part(file: Path, files: ExitStack) -> Part:
    try:
        kind, loss = kind_of(file), ''
        if kind == 'zstd':
            file, loss = unpacked(file, files)
            kind = kind_of(file)
        part = _OPENERS[kind](file)
        part.losses += [Loss(loss)] if loss else []
    except UserError:
        raise
    except OSError as error:
        raise unreadable(file, error) from None
    except Exception as error:  # Damage, zstd's own, and KeyError for a zstd in a zstd
        raise _damaged(file, error) from None
    files.callback(part.close)
    return part


def _topics(parts: list[Part]) -> tuple[Topic, ...]:
    counts: dict[tuple[str, str], int] = {}
    encodings: dict[tuple[str, str], str] = {}
    for part in parts:
        found = np.unique(part.entries.channel, return_counts=True)
        messages = dict(zip(found[0].tolist(), found[1].tolist()))
        for key, channel in part.channels.items():
            name = channel.topic, channel.type
            counts[name] = counts.get(name, 0) + messages.get(key, 0)
            encodings[name] = channel.encoding
    return tuple(Topic(*key, count, encodings[key]) for key, count in sorted(counts.items()))


def _decompress(raw: bytes | memoryview) -> bytes:
    """The message in a zstd frame."""
    try:
        size = zstandard.frame_content_size(bytes(raw[:32]))
        if not -1 <= size <= _LARGEST or size == 0:
            raise ValueError(f'a size of {size} bytes')
        if size > 0:
            return zstandard.ZstdDecompressor().decompress(raw)
        stream = zstandard.ZstdDecompressor().decompressobj()  # its size was not known beforehand
        data = stream.decompress(raw)
        if not stream.eof:
            raise ValueError('its end is missing')
        return data
    except Exception as error:  # zstd's own
        raise Damage(f'a compressed message: {error}') from None


def _damaged(path: Path, error: Exception, where: str = '') -> UserError:
    reason = ' '.join(str(error).split()).rstrip('.') or type(error).__name__
    advice = ('recover it with `mcap recover`' if _holds_mcap(path) else
              'repair it with rosbag reindex' if path.suffix == '.bag' else
              'repair or copy it anew')
    return UserError(f'bag {str(path)!r} is cut off, damaged or of an unknown kind{where} '
                     f'({reason}); {advice} or record it again')


def _holds_mcap(path: Path) -> bool:
    return path.suffix == '.mcap' or (path.is_dir() and any(path.glob('*.mcap')))
