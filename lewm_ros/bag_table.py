"""Messages of a recording's files in order of log time: where each of them lies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lewm_ros.bag_part import Part


@dataclass(frozen=True)
class Table:
    """Messages in order; each array (n,): the log time, the part, the row of its entries."""

    log_ns: np.ndarray
    part: np.ndarray
    row: np.ndarray

    @classmethod
    def of(cls, parts: Sequence[Part], topics: Mapping[str, str]) -> Table:
        """The messages of `topics` (name to type) in order of log time, then of place."""
        tables = []
        for number, part in enumerate(parts):
            ids = [key for key, channel in part.channels.items()
                   if topics.get(channel.topic) == channel.type]
            rows = np.flatnonzero(np.isin(part.entries.channel, ids))
            tables.append(np.stack([part.entries.log_ns[rows], np.full(len(rows), number), rows]))
        log_ns, part, row = np.concatenate(tables, axis=1)
        order = np.argsort(log_ns, kind='stable')
        return cls(log_ns[order], part[order], row[order])

    def __len__(self) -> int:
        return len(self.log_ns)

    def at(self, rows: Any) -> Table:
        """Those with the indices `rows`, an array or a slice."""
        return Table(self.log_ns[rows], self.part[rows], self.row[rows])

    def runs(self) -> Iterator[tuple[int, int]]:
        """Yields (begin, end) of the stretches that lie in one part."""
        edges = np.flatnonzero(np.diff(self.part)) + 1
        bounds = [0, *edges.tolist(), len(self.part)]
        return ((a, b) for a, b in zip(bounds, bounds[1:]) if a < b)
