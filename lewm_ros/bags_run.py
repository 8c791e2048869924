"""Bags to a model in one folder, resumable: what was begun there, and by whom."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from lewm_core.atomic import write_text
from lewm_core.checkpoint import read_metadata
from lewm_core.data import Dataset
from lewm_core.jobs import BagsJob
from lewm_core.model import check_camera
from lewm_core.paths import load_robot
from lewm_core.train import train
from lewm_core.types import UserError
from lewm_ros.bag_reader import find_bags
from lewm_ros.bags import ConversionStopped, convert

_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Status:
    """How far a run is: its phase, the share of the phase that is done, figures by name."""

    phase: str
    share: float
    figures: dict[str, Any] = dataclasses.field(default_factory=dict)


class Claim:
    """`conversion.json`: which bags and robot `data.h5` beside it is made from.

    It is written before the conversion and completed after it, so that a run which was killed in
    between knows its own half-done work from somebody else's data.
    """

    def __init__(self, folder: Path, identity: dict[str, Any]) -> None:
        self.data = folder / 'data.h5'
        self._path = folder / 'conversion.json'
        self._identity = identity

    def complete(self) -> bool:
        """Whether data.h5 is this run's own, whole and as it was written.

        Raises UserError when the folder belongs to another recording or robot.
        """
        found = self._read()
        if found is None:
            if self.data.exists():
                raise UserError(f'{str(self.data)!r} was not made by train_from_bags; give '
                                'another output, or overwrite=true')
            return False
        for key, value in self._identity.items():
            if found.get(key) != value:
                raise UserError(f'output {str(self.data.parent)!r} holds an unfinished run with '
                                f'other {key}; give another output, or overwrite=true')
        return found.get('data') is not None and found['data'] == _stat(self.data)

    def stake(self) -> None:
        """Nothing; says that the conversion has begun."""
        write_text(self._path, json.dumps({**self._identity, 'data': None}, indent=2) + '\n')

    def seal(self) -> None:
        """Nothing; says that data.h5 is whole."""
        tree = {**self._identity, 'data': _stat(self.data)}
        write_text(self._path, json.dumps(tree, indent=2) + '\n')

    def text(self) -> str | None:
        """What is in the file, to be put back by `restore`."""
        return self._path.read_text() if self._path.exists() else None

    def restore(self, text: str | None) -> None:
        """Nothing; a conversion that failed on its input leaves things as they were."""
        if text is None:
            self._path.unlink(missing_ok=True)
        else:
            write_text(self._path, text)

    def _read(self) -> dict[str, Any] | None:
        try:
            tree = json.loads(self._path.read_text())
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            tree = None
        if not isinstance(tree, dict):
            raise UserError(f'{str(self._path)!r} cannot be read as JSON; give another output, '
                            'or overwrite=true')
        return tree


def run(job: BagsJob, on_status: Callable[[Status], None],
        should_stop: Callable[[], bool]) -> Path | None:
    """The path of the finished checkpoint, or None when `should_stop` ended the run early.

    `job.output` holds data.h5 and the training run; called again, the job goes on where it was
    stopped or killed. Raises UserError on bad input and when a finished run is there.
    """
    spec = load_robot(job.robot)
    check_camera(job.model, spec)  # before hours of conversion
    window = job.model.history * job.model.frameskip + 1
    _refuse_finished(job)
    claim = Claim(job.output, {'bags': [_identity(p) for p in find_bags(job.bags)],
                               'robot': spec.to_dict(), 'window': window,
                               'episode_s': job.episode_s})
    if job.overwrite or not claim.complete():
        before, made = claim.text(), not job.output.exists()
        job.output.mkdir(parents=True, exist_ok=True)
        claim.stake()
        try:
            report = convert(job.bags, spec, claim.data, job.data, overwrite=True, window=window,
                             typestore=job.typestore, episode_s=job.episode_s, workers=0,
                             should_stop=should_stop, on_progress=lambda done, total: on_status(
                                 Status('converting', done / total, {'frames': done})))
        except ConversionStopped:
            return None
        except BaseException:
            claim.restore(before)
            if made:
                with suppress(OSError):  # something else came into it
                    job.output.rmdir()
            raise
        claim.seal()
        for path, why in report.failed:
            _LOG.warning('%s is not trained on: %s', path, why)
    if should_stop():
        return None
    path = train(Dataset.open(claim.data), job.model, job.data, job.train, job.output,
                 planner=job.planner, surprise=job.surprise, overwrite=job.overwrite,
                 should_stop=should_stop, on_progress=lambda progress: on_status(
                     Status('training', progress.step / progress.steps,
                            dataclasses.asdict(progress))))
    return path if read_metadata(path)['metrics'].get('finished') else None


def _refuse_finished(job: BagsJob) -> None:
    """Raises UserError, before hours of conversion, when the output is a finished run."""
    model = job.output / 'model.safetensors'
    if job.overwrite or not model.exists():
        return
    state = job.output / 'trainer.pt'
    if not state.exists() or read_metadata(model)['metrics'].get('finished'):
        raise UserError(f'output {str(job.output)!r} holds a finished run; give another output '
                        'or overwrite=true')


def _identity(bag: Path) -> dict[str, Any]:
    """What tells a bag from another: where it lies, the sizes and times of its files."""
    files = sorted(p for p in bag.rglob('*') if p.is_file()) if bag.is_dir() else [bag]
    return {'path': str(bag.resolve()), 'files': {p.name: _stat(p) for p in files}}


def _stat(path: Path) -> list[int] | None:
    """Size and modification time, None for a file that isn't there."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return [stat.st_size, stat.st_mtime_ns]
