"""TensorBoard events, where TensorBoard is installed."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)


class EventLog:
    """A context manager over a TensorBoard writer that does nothing where there is none."""

    def __init__(self, folder: Path, first_step: int, wanted: bool) -> None:
        self._writer: Any = None
        if not wanted:
            return
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            log.info('TensorBoard is not installed: metrics.jsonl alone is written')
            return
        # What an earlier, killed run logged after its last checkpoint is taken back.
        self._writer = SummaryWriter(str(folder), purge_step=first_step + 1)

    def __enter__(self) -> EventLog:
        return self

    def __exit__(self, *error: object) -> None:
        if self._writer is not None:
            self._writer.close()

    def log(self, row: dict[str, float]) -> None:
        """Nothing; writes each number of `row` under its name at `row['step']`."""
        if self._writer is None:
            return
        for name, value in row.items():
            if name != 'step' and value is not None:
                self._writer.add_scalar(name, value, row['step'])
