"""What a bag holds, in a table: for `lewm inspect`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lewm_core.types import UserError
from lewm_ros.bag_reader import Bag, Topic, find_bags, open_bag
from lewm_ros.decode import decode

_IMAGES = ('sensor_msgs/msg/Image', 'sensor_msgs/msg/CompressedImage')


def inspect_bag(path: str | Path) -> str:
    """A table of the bag at `path`: a line per topic with its type, count, rate and stamps.

    A rate is the median one of successive header stamps, or of log times for a type without
    header; 'gap' is the longest interval. Images show size and encoding of the first. Raises
    UserError when it is no readable bag.
    """
    tables = []
    for bag_path in find_bags([path]):
        with open_bag(bag_path) as bag:
            tables.append(_table(bag))
    return '\n\n'.join(tables)


def _table(bag: Bag) -> str:
    total = sum(t.count for t in bag.topics)
    seconds = (bag.end_ns - bag.start_ns) / 1e9
    lines = [f'{bag.path}: {total} messages, {seconds:.1f} s of log time']
    stamps = _stamps(bag)
    rows = [('topic', 'type', 'messages', 'rate', 'gap', 'by', 'first')]
    for topic in bag.topics:
        rows.append((topic.name, topic.type, str(topic.count),
                     *_rate(stamps.get(topic.name, ([], []))), _first(bag, topic)))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines += ['  '.join(cell.ljust(w) for cell, w in zip(row, widths)).rstrip() for row in rows]
    return '\n'.join(lines)


def _stamps(bag: Bag) -> dict[str, tuple[list[int], list[int]]]:
    """The header stamps (0: none) and log times of all messages, by topic."""
    headed = {t.name: bag.has_header(t.type) for t in bag.topics}
    found: dict[str, tuple[list[int], list[int]]] = {}
    for name, log_ns, raw in bag.messages(list(headed)):
        header, log = found.setdefault(name, ([], []))
        header.append(bag.header_ns(raw) if headed[name] else 0)
        log.append(log_ns)
    return found


def _rate(stamps: tuple[list[int], list[int]]) -> tuple[str, str, str]:
    header, log = stamps
    by = 'header' if header and all(header) else 'log'
    steps = np.diff(np.array(header if by == 'header' else log, dtype=np.int64))
    forward = steps[steps > 0]
    if not len(forward):
        return '-', '-', by
    back = int((steps < 0).sum())
    return (f'{1e9 / np.median(forward):.2f} Hz', f'{forward.max() / 1e9:.3f} s',
            by + (f', {back}x backwards' if back else ''))


def _first(bag: Bag, topic: Topic) -> str:
    """The first image's size and encoding; empty for other topics."""
    if topic.type not in _IMAGES or not topic.count:
        return ''
    _, _, raw = next(bag.messages([topic.name]))
    try:
        message = bag.message(raw, topic.type)
        height, width = decode(message).shape[:2]
    except UserError as error:
        return str(error)
    return f'{width}x{height} {getattr(message, "encoding", None) or message.format}'
