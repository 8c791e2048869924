"""The messages of a rosbag2 .db3 file; of a damaged one, what SQLite can still read."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from array import array
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from lewm_ros.bag_part import Channel, Damage, Entries, Loss, ros_type

MAGIC = b'SQLite format 3\0'
# After so many rows in a row that can't be read, the rest of the table is taken to be lost.
_MISSING_ROWS = 5000
_ROW = 'SELECT id, timestamp, topic_id FROM messages NOT INDEXED WHERE id > ? ORDER BY id'
_DATA = 'SELECT data FROM messages WHERE id = ?'


class SqliteFile:
    """An open .db3 file, a Part. Entries count the row of the table in `offset`."""

    def __init__(self, path: Path) -> None:
        self.losses: list[Loss] = []
        self.channels: dict[int, Channel] = {}
        missing, page = _missing_bytes(path)
        self._copy: tempfile.TemporaryDirectory[str] | None = None
        size = path.stat().st_size
        if missing and size % page:
            # SQLite takes what a page lacks for zeros, and a message for whole.
            path = self._copied(path)
            os.truncate(path, size // page * page)
        elif (log := _write_ahead_log(path)) and not path.with_name(f'{path.name}-shm').exists():
            # No recorder is at it, and to read the log SQLite would write beside the bag.
            path = self._copied(path, log)
        self._open = _connect(path)
        try:
            self._read_topics()
            rows = None if missing else self._rows()
            if rows is None:
                rows = self._salvage(missing)
        except (sqlite3.Error, OverflowError, UnicodeDecodeError) as error:
            self.close()
            raise Damage(str(error)) from None
        except BaseException:
            self.close()
            raise
        self.entries = self._entries(rows)

    def close(self) -> None:
        """Nothing; the file is closed."""
        self._open.close()
        if self._copy is not None:
            self._copy.cleanup()

    def _copied(self, *files: Path) -> Path:
        """The first of copies of `files` that are gone when this is closed."""
        self._copy = tempfile.TemporaryDirectory(prefix='lewm_bag_')
        return [Path(shutil.copyfile(file, Path(self._copy.name, file.name))) for file in files][0]

    def heads(self, entries: Entries, most: np.ndarray) -> Iterator[bytes | memoryview]:
        """Yields of each message the first `most` (n,) bytes at least; all of it where -1."""
        blobs = hasattr(self._open, 'blobopen')  # Python 3.11
        for row, few in zip(entries.offset.tolist(), most.tolist()):
            yield self._data(row) if few < 0 or not blobs else self._head(row, few)

    def messages(self, entries: Entries) -> Iterator[bytes | memoryview]:
        """Yields each message whole."""
        for row in entries.offset.tolist():
            yield self._data(row)

    def _head(self, row: int, few: int) -> bytes:
        """The first bytes of a message: of a long row SQLite reads no more pages than that."""
        try:
            with self._open.blobopen('messages', 'data', row, readonly=True) as blob:
                return blob.read(few)
        except sqlite3.Error as error:
            raise Damage(f'row {row} of messages: {error}') from None

    def _data(self, row: int) -> bytes:
        try:
            found = self._open.execute(_DATA, (row,)).fetchone()
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise Damage(f'row {row} of messages: {error}') from None
        if found is None or not isinstance(found[0], bytes):
            raise Damage(f'row {row} of messages holds no message')
        return found[0]

    def _read_topics(self) -> None:
        columns = {row[1] for row in self._open.execute('PRAGMA table_info(topics)')}
        messages = {row[1] for row in self._open.execute('PRAGMA table_info(messages)')}
        if not {'id', 'name', 'type'} <= columns or \
                not {'id', 'topic_id', 'timestamp', 'data'} <= messages:
            raise Damage('the tables of a rosbag2 recording are not in it')
        definitions = {}
        try:  # since ROS 2 Iron
            definitions = {ros_type(name): (encoding, text) for name, encoding, text in
                           self._open.execute('SELECT topic_type, encoding, '
                                              'encoded_message_definition '
                                              'FROM message_definitions')}
        except (sqlite3.Error, AttributeError, UnicodeDecodeError):
            pass
        encoding = 'serialization_format' if 'serialization_format' in columns else "'cdr'"
        for key, name, kind, how in self._open.execute(
                f'SELECT id, name, type, {encoding} FROM topics'):
            if not isinstance(key, int) or \
                    not all(isinstance(v, str) for v in (name, kind, how)):
                raise Damage(f'topic {key!r} has no name or type')
            kind = ros_type(kind)
            schema, text = definitions.get(kind, ('', ''))
            self.channels[key] = Channel(name, kind, how, str(schema), str(text))

    def _rows(self) -> array | None:
        """Row, log time, topic of each message in turn; None where the table is damaged."""
        rows, last = array('q'), -2**63
        try:
            for row in self._open.execute(_ROW, (last,)):
                # In a damaged table the rows may come in a circle.
                if row[0] <= last:
                    return None
                last = row[0]
                rows.extend(row)
        except (sqlite3.Error, TypeError, OverflowError):
            return None
        return rows

    def _salvage(self, missing: int) -> array:
        """As `_rows`, of the rows that can be read to their last byte: every one is looked at."""
        rows, row, failed = array('q'), 0, 0
        while failed < _MISSING_ROWS:
            try:
                found = self._open.execute(_ROW + ' LIMIT 1', (row,)).fetchone()
            except sqlite3.Error:
                row, failed = row + 1, failed + 1
                continue
            if found is None:
                break
            forward = isinstance(found[0], int) and found[0] > row
            row = found[0] if forward else row + 1
            good = forward and self._readable(found)
            rows.extend(found if good else ())
            failed = 0 if good else failed + 1
        self.losses.append(Loss(f'{missing} bytes at its end are missing' if missing else
                                'some of its pages are damaged', missing))
        return rows

    def _readable(self, found: tuple) -> bool:
        try:
            self._data(found[0])
        except Damage:
            return False
        return all(isinstance(v, int) for v in found)

    def _entries(self, rows: array) -> Entries:
        table = np.array(rows, dtype=np.int64).reshape(-1, 3)
        good = np.isin(table[:, 2], list(self.channels)) & (table[:, 1] >= 0)
        if not good.all():
            self.losses.append(Loss('messages without a time or a topic',
                                    messages=int((~good).sum())))
        table = table[good]
        return Entries(table[:, 1], table[:, 2], np.zeros(len(table), dtype=np.int64),
                       table[:, 0])


def _connect(path: Path) -> sqlite3.Connection:
    """The database, read-only. `immutable` leaves it alone, but knows no write-ahead log."""
    mode = 'mode=ro' if _write_ahead_log(path) else 'immutable=1'
    name = str(path.absolute()).replace('%', '%25').replace('?', '%3f').replace('#', '%23')
    connection = sqlite3.connect(f'file:{name}?{mode}', uri=True, isolation_level=None)
    # Without it SQLite refuses a file that is shorter than its header says.
    connection.execute('PRAGMA writable_schema = ON')
    connection.execute('PRAGMA cell_size_check = ON')
    return connection


def _write_ahead_log(path: Path) -> Path | None:
    """What was written last, when it is not in the file itself yet."""
    log = path.with_name(f'{path.name}-wal')
    return log if log.exists() and log.stat().st_size else None


def _missing_bytes(path: Path) -> tuple[int, int]:
    """By how much the file is shorter than its header says, and the size of its pages.

    Source: sqlite.org/fileformat2.html.
    """
    with path.open('rb') as file:
        head = file.read(100)
        size = os.fstat(file.fileno()).st_size
    if len(head) < 100:
        raise Damage('it ends within its first 100 bytes')
    page = int.from_bytes(head[16:18], 'big')
    page = 65536 if page == 1 else max(page, 512)
    pages = int.from_bytes(head[28:32], 'big')
    counted = head[24:28] == head[92:96]  # else an old SQLite wrote it, without a size
    return max(pages * page - size, 0) if counted else 0, page
