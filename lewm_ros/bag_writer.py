"""A self-describing mcap bag of raw messages; it has its name only when it is whole."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from rosbags.interfaces import (Connection, Qos, QosDurability, QosHistory, QosLiveliness,
                                QosReliability, QosTime)
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from lewm_core.atomic import alive
from lewm_core.types import UserError

_NO_LIMIT = QosTime(9223372036, 854775807)  # rmw's infinite duration


class BagWriter:
    """Writes OUTPUT.partial-PID/OUTPUT and renames it to OUTPUT on `close`.

    `counts` holds the number of messages by topic; `compress` packs the mcap's chunks with zstd.
    Raises UserError when `output` exists and `overwrite` is false. A process killed in between
    leaves only the partial folder.
    """

    def __init__(self, output: str | Path, overwrite: bool = False,
                 compress: bool = False) -> None:
        self.output = Path(output).absolute()
        if self.output.exists() and not overwrite:
            raise UserError(f'output {str(output)!r} exists already; give another path or '
                            'overwrite:=true')
        self._folder = self.output.with_name(f'{self.output.name}.partial-{os.getpid()}')
        # The bag's files carry its folder's name, so that one is final from the start.
        self._partial = self._folder / self.output.name
        shutil.rmtree(self._folder, ignore_errors=True)
        self._writer = Writer(self._partial, version=9, storage_plugin=StoragePlugin.MCAP)
        if compress:
            self._writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
        self._store = get_typestore(Stores.ROS2_JAZZY)
        self._connections: dict[str, Connection] = {}
        self.counts: dict[str, int] = {}
        try:
            self._writer.open()
        except OSError as error:
            raise UserError(f'output {str(output)!r} cannot be written ({error.strerror}); give '
                            'a path in a folder that can') from None

    def leftovers(self) -> list[Path]:
        """The partial folders that interrupted recordings to the same output left."""
        found = sorted(self.output.parent.glob(f'{self.output.name}.partial-*'))
        return [p for p in found if p != self._folder and not alive(p.name.rpartition('-')[2])]

    def add_topic(self, topic: str, type: str, qos: Sequence[Qos] = ()) -> None:
        """Nothing; messages of `type` on `topic` can now be written. `qos`: its publishers'."""
        if topic in self._connections:
            return
        _learn(self._store, type)
        self._connections[topic] = self._writer.add_connection(
            topic, type, typestore=self._store, offered_qos_profiles=list(qos))
        self.counts[topic] = 0

    def write(self, topic: str, stamp_ns: int, raw: bytes) -> None:
        """Nothing; appends one message as it came over the wire (CDR).

        Raises UserError when it can't be written, as on a full disk.
        """
        try:
            self._writer.write(self._connections[topic], stamp_ns, raw)
        except OSError as error:
            raise self._unwritable(error) from None
        self.counts[topic] += 1

    def _unwritable(self, error: OSError) -> UserError:
        return UserError(
            f'{str(self.output)!r} cannot be written any further ({error.strerror}); make room '
            f'and record again, or rescue what is in {str(self._folder)!r} with `mcap recover`')

    def close(self) -> Path:
        """The path of the finished bag, on disk.

        Raises UserError when nothing was written, and when its end can't be, as on a full disk.
        """
        if not sum(self.counts.values()):
            self.abort()
            raise UserError(f'nothing was recorded to {str(self.output)!r}: no message came on '
                            f'{sorted(self._connections) or "any topic"}; start the robot first, '
                            'and check the topic names')
        try:
            self._writer.close()
            for path in [*self._partial.iterdir(), self._partial]:
                _flush(path)
        except OSError as error:
            raise self._unwritable(error) from None
        if self.output.exists():
            # Renamed aside first: a directory can't replace another one in a single step.
            shutil.move(self.output, self._folder / 'replaced')
        self._partial.rename(self.output)
        _flush(self.output.parent)
        shutil.rmtree(self._folder, ignore_errors=True)
        return self.output

    def abort(self) -> None:
        """Nothing; removes what was written."""
        self._writer.abort()
        shutil.rmtree(self._folder, ignore_errors=True)


def bag_qos(reliable: bool, latched: bool, depth: int) -> Qos:
    """A publisher's quality of service in a bag's words, so that playing it back is alike."""
    return Qos(QosHistory.KEEP_LAST, depth,
               QosReliability.RELIABLE if reliable else QosReliability.BEST_EFFORT,
               QosDurability.TRANSIENT_LOCAL if latched else QosDurability.VOLATILE,
               _NO_LIMIT, _NO_LIMIT, QosLiveliness.AUTOMATIC, _NO_LIMIT, False)


def _learn(store: object, type: str) -> None:
    """Nothing; `store` knows `type`, from the installed .msg files when it isn't a common one."""
    if type in store.fielddefs:
        return
    package, _, kind = type.split('/')
    for prefix in os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep):
        file = Path(prefix) / 'share' / package / 'msg' / f'{kind}.msg'
        if prefix and file.is_file():
            types = get_types_from_msg(file.read_text(), type)
            for _, (_, fields) in types.items():
                for name in _names(fields):
                    _learn(store, name)
            store.register({k: v for k, v in types.items() if k not in store.fielddefs})
            return
    raise UserError(f'message type {type!r} has no definition in AMENT_PREFIX_PATH; install its '
                    'package, or leave that topic out')


def _names(fields: list) -> list[str]:
    found = []
    for _, (node, detail) in fields:
        if node.name in ('ARRAY', 'SEQUENCE'):
            node, detail = detail[0]
        if node.name == 'NAME':
            found.append(detail)
    return found


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
