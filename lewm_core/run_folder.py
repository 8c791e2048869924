"""The folder of one training run: what was asked, how far it is, what it logged."""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lewm_core.atomic import replacing, sweep, write_text
from lewm_core.checkpoint import read_metadata
from lewm_core.config import (DataConfig, ModelConfig, PlannerConfig, SurpriseConfig, TrainConfig)
from lewm_core.dataset import Dataset
from lewm_core.environment import write_environment
from lewm_core.types import UserError

# What may differ when a run goes on: none of these changes what a step computes or what is kept.
# Of the search, whose settings belong to the checkpoint, the horizon alone counts: the skill that
# keeps a model looks so far ahead.
_FREE = {'device', 'compile', 'threads', 'frames', 'checkpoint_every', 'log_every', 'tensorboard',
         'logger', 'stop_on_collapse', 'proposal_steps', 'distance_steps', 'uncertainty_steps'}
_STATE = ('step', 'model', 'objective', 'optimizer', 'precision', 'seconds', 'best')
_ADDED = {'collapsed_since': -1}  # what the state of an earlier version lacks


@dataclass(frozen=True)
class Settings:
    """All that a training run is made from, but for the frames."""

    model: ModelConfig
    data: DataConfig
    train: TrainConfig
    planner: PlannerConfig
    surprise: SurpriseConfig

    def to_dict(self, dataset: Dataset) -> dict[str, Any]:
        """The settings as a plain tree, with the robot spec and what identifies the dataset."""
        tree = json.loads(json.dumps(dataclasses.asdict(self)))
        tree['robot'] = dataset.spec.to_dict()
        tree['dataset'] = {'path': str(dataset.path), 'frames': len(dataset),
                           'episodes': len(dataset.ep_len), 'sha256': _fingerprint(dataset)}
        return tree


def trained_already(output: str | Path, settings: Settings, dataset: Dataset) -> bool:
    """Whether a finished run of these settings lies in `output`; UserError when it had others."""
    return RunFolder(output, settings, dataset.with_split(settings.data)).finished()


class RunFolder:
    """`output` with model.safetensors, last.safetensors, trainer.pt, metrics.jsonl, config.json,
    environment.json and what a logger writes, such as tensorboard/.

    A context manager: inside it no other process can train in the same folder.
    """

    def __init__(self, output: str | Path, settings: Settings, dataset: Dataset) -> None:
        self.path = Path(output)
        self.model = self.path / 'model.safetensors'
        self.last = self.path / 'last.safetensors'
        self.trainer = self.path / 'trainer.pt'
        self.metrics = self.path / 'metrics.jsonl'
        self.config = self.path / 'config.json'
        self.environment = self.path / 'environment.json'
        self._files = (self.model, self.last, self.trainer, self.metrics, self.config,
                       self.environment, self.path / 'wandb_run.txt')
        self.tensorboard = self.path / 'tensorboard'
        self.settings = settings.to_dict(dataset)
        self._lock: int | None = None

    def __enter__(self) -> RunFolder:
        with _writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise UserError(f'another process is training in {str(self.path)!r}; wait for it, '
                            'stop it, or give another output') from None
        except OSError:  # a file system without locks
            pass
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self._lock)

    def open(self, resume: bool, overwrite: bool) -> dict[str, Any] | None:
        """The trainer state to go on from, or None for a fresh run.

        Raises UserError when a finished run is there, when an unfinished one may not be resumed
        or was started with other settings, and when its state cannot be read.
        """
        if overwrite:
            self._clear()
        state = None
        if self.model.exists() and self._finished():
            raise UserError(f'output {str(self.path)!r} holds a finished run; give another output '
                            'or overwrite=true')
        if self.trainer.exists():
            if not resume:
                raise UserError(f'output {str(self.path)!r} holds an unfinished run; let it '
                                'resume, give another output, or overwrite=true')
            self._same_settings()
            state = _load(self.trainer)
        self._clear_partials()
        write_text(self.config, json.dumps(self.settings, indent=2) + '\n')
        write_environment(self.environment, state['step'] if state else 0)
        self._cut_metrics(state['step'] if state else 0)
        return state

    def save(self, state: dict[str, Any]) -> None:
        """Nothing; the state to resume from, whole or as it was before."""
        with _writing(self.trainer), replacing(self.trainer) as partial:
            torch.save(state, partial)

    def log(self, row: dict[str, Any]) -> None:
        """Nothing; appends one line to metrics.jsonl."""
        with _writing(self.metrics), self.metrics.open('a') as file:
            file.write(json.dumps({k: v for k, v in row.items() if v is not None}) + '\n')

    def finished(self) -> bool:
        """Whether a finished run of these settings is here; UserError when it had others."""
        found = self.model.exists() and self._finished()
        if found:
            self._same_settings()
        return found

    def _finished(self) -> bool:
        # A model that some other tool put here is as much worth keeping.
        return not self.trainer.exists() or bool(read_metadata(self.model)['metrics'].get(
            'finished'))

    def _same_settings(self) -> None:
        """Raises UserError naming the first setting that differs from the run's own."""
        try:
            before = json.loads(self.config.read_text())
        except (OSError, ValueError):
            raise UserError(f'{str(self.config)!r} is missing or not JSON, so the run there '
                            'cannot be resumed; give another output, or overwrite=true') from None
        for group in ('model', 'data', 'train', 'planner', 'robot', 'dataset'):
            old, new = before.get(group, {}), self.settings[group]
            free = {'train': _FREE, 'dataset': {'path'},
                    'planner': new.keys() - {'horizon'}}.get(group, ())
            for key in new:
                if key not in free and old.get(key) != new[key]:
                    raise UserError(
                        f'the run in {str(self.path)!r} has {group}.{key}={old.get(key)!r}, but '
                        f'{new[key]!r} is asked for; go on with its own settings, give another '
                        'output, or overwrite=true')

    def _cut_metrics(self, step: int) -> None:
        """Drops what was logged after the checkpoint, and a line that a kill cut short."""
        rows = []
        for line in self.metrics.read_text().splitlines() if self.metrics.exists() else ():
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if row['step'] <= step:
                rows.append(line + '\n')
        write_text(self.metrics, ''.join(rows))

    def _clear(self) -> None:
        for path in self._files:
            path.unlink(missing_ok=True)
        shutil.rmtree(self.tensorboard, ignore_errors=True)

    def _clear_partials(self) -> None:
        """Removes what a killed run of this folder left half written."""
        for path in self._files:
            sweep(path)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Nothing; a UserError where within the block the disk would not take `path`."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # of PyTorch's writer, which knows no reason
        said = getattr(error, 'strerror', None) or 'the disk took only part of it'
        raise UserError(f'{str(path)!r} cannot be written ({said}); make room there, and the same '
                        'call goes on from its last checkpoint, or give another output'
                        ) from None


def _load(path: Path) -> dict[str, Any]:
    try:
        state = torch.load(path, map_location='cpu', weights_only=True)
        return {**{key: state[key] for key in _STATE},
                **{key: state.get(key, default) for key, default in _ADDED.items()}}
    except Exception:  # the unpickler raises whatever the damaged bytes lead it to
        raise UserError(f'trainer state {str(path)!r} cannot be read: it is damaged or no trainer '
                        'state; give another output, or overwrite=true') from None


def _fingerprint(dataset: Dataset) -> str:
    digest = hashlib.sha256()
    for column in (dataset.ep_len, dataset.ep_split, dataset.stamp_ns, dataset.action):
        digest.update(column.tobytes())
    return digest.hexdigest()[:16]
