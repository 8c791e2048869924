"""Where the figures of a run go beside metrics.jsonl: TensorBoard, or Weights & Biases."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np

from lewm_core import distributed
from lewm_core.atomic import write_text
from lewm_core.config import TrainConfig
from lewm_core.types import UserError

log = logging.getLogger(__name__)


class EventLog:
    """A context manager that takes rows of figures; without a writer it does nothing."""

    def __enter__(self) -> EventLog:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def log(self, row: dict[str, Any]) -> None:
        """Nothing; writes each figure of `row` under its name at `row['step']`.

        A figure is a number, or several of them, which TensorBoard shows as a histogram.
        """


class _TensorBoard(EventLog):
    def __init__(self, folder: Path, first_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter
        # What an earlier, killed run logged after its last checkpoint is taken back.
        self._writer = SummaryWriter(str(folder), purge_step=first_step + 1)

    def __exit__(self, *error: object) -> None:
        self._writer.close()

    def log(self, row: dict[str, Any]) -> None:
        for name, value in row.items():
            if isinstance(value, list):
                self._writer.add_histogram(name, np.array(value), row['step'])
            elif name != 'step' and value is not None:
                self._writer.add_scalar(name, value, row['step'])


class _WandB(EventLog):
    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        kept = folder / 'wandb_run.txt'
        known = kept.read_text().strip() if kept.exists() else None
        # A run that goes on is the same run there; what it logs again takes the old one's place.
        self._run = _wandb().init(project='lewm', name=folder.name, dir=str(folder), id=known,
                                  resume='allow' if known else None, config=settings)
        write_text(kept, f'{self._run.id}\n')

    def __exit__(self, kind: object = None, *error: object) -> None:
        self._run.finish(exit_code=0 if kind is None else 1)

    def log(self, row: dict[str, Any]) -> None:
        values = {k: v for k, v in row.items() if k != 'step' and v is not None}
        self._run.log(values, step=row['step'])


def check_logger(config: TrainConfig) -> None:
    """Raises UserError when the logger that was asked for is not installed; before any work."""
    if config.logger == 'wandb':
        _wandb()


def event_log(config: TrainConfig, folder: Path, first_step: int, settings: dict[str, Any]
              ) -> EventLog:
    """The log that `config` asks for, of the run in `folder` that begins after `first_step`.

    Only the first of several processes has one; the others' does nothing.
    """
    if not distributed.leader():
        return EventLog()
    if config.logger == 'wandb':
        return _WandB(folder, settings)
    if config.tensorboard:
        try:
            return _TensorBoard(folder / 'tensorboard', first_step)
        except ImportError:
            log.info('TensorBoard is not installed: metrics.jsonl alone is written')
    return EventLog()


def _wandb() -> Any:
    try:
        import wandb
    except ImportError:
        raise UserError("train.logger='wandb' needs the Python package wandb, which is not "
                        'installed here; pip install wandb, or give train.logger=tensorboard'
                        ) from None
    return wandb
