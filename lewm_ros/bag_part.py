"""What every kind of recording file gives: its channels, where each message lies, what is lost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

# A message whose head is enough: a header's stamp is in it, in ROS 1 and 2.
HEAD_BYTES = 64


class Damage(Exception):
    """A place in a file that is not as its format says; the text says where and what."""


@dataclass(frozen=True)
class Channel:
    """One connection: its topic, its type as package/msg/Type, and how its messages are written.

    `encoding` is 'cdr' (ROS 2), 'ros1' or another system's; `schema` tells the language of
    `definition` ('ros2msg', 'ros2idl', 'ros1msg'), both empty where the file has none.
    """

    topic: str
    type: str
    encoding: str
    schema: str = ''
    definition: str = ''

    def __post_init__(self) -> None:
        # Names of a damaged file stand in messages to the user, which are one line.
        for key in ('topic', 'type'):
            object.__setattr__(self, key, printable(getattr(self, key)))


@dataclass(frozen=True)
class Loss:
    """What can't be read: why, in words, and how many bytes or messages where that is known."""

    why: str
    bytes: int = 0
    messages: int = 0


@dataclass(frozen=True)
class Entries:
    """Messages, one a row; each array (n,) int64.

    `chunk` and `offset` say where, in the file's own terms.
    """

    log_ns: np.ndarray
    channel: np.ndarray
    chunk: np.ndarray
    offset: np.ndarray

    def __len__(self) -> int:
        return len(self.log_ns)

    def at(self, rows: np.ndarray | slice) -> Entries:
        """Those with the indices `rows` (m,)."""
        return Entries(self.log_ns[rows], self.channel[rows], self.chunk[rows], self.offset[rows])

    @classmethod
    def join(cls, parts: list[Entries]) -> Entries:
        """All rows of all `parts`, in their order."""
        none = [np.empty(0, dtype=np.int64)]
        return cls(*(np.concatenate([getattr(p, name) for p in parts] or none)
                     for name in ('log_ns', 'channel', 'chunk', 'offset')))


class Part(Protocol):
    """One open recording file.

    `entries` are all messages that can be read, in the order of the file; opening the same file
    again gives the same. What is read from a file that turns out damaged raises Damage.
    """

    channels: dict[int, Channel]
    entries: Entries
    losses: list[Loss]

    def heads(self, entries: Entries, most: np.ndarray) -> Iterator[bytes | memoryview]:
        """Yields of each message the first `most` (n,) bytes at least; all of it where -1."""

    def messages(self, entries: Entries) -> Iterator[bytes | memoryview]:
        """Yields each message whole; its memory may be used again for the next one."""

    def close(self) -> None:
        """Nothing; the file is closed."""


def ros_type(name: str) -> str:
    """The type as package/msg/Type; ROS 1 and early ROS 2 recorders leave out the /msg/."""
    return name.replace('/', '/msg/') if name.count('/') == 1 else name


def printable(text: str) -> str:
    """The text on one line, as it is where it can be printed."""
    return text if text.isprintable() else ascii(text)[1:-1]
