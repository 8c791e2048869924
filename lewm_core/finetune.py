"""A run that goes on from another's model: the same robot, new recordings."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from lewm_core.checkpoint import load_checkpoint, read_metadata
from lewm_core.model import WorldModel
from lewm_core.types import UserError

# Not part of the weights' shape, so a new run may choose them anew.
_FREE = {'name', 'dropout', 'sigreg_weight', 'sigreg_projections', 'sigreg_knots'}


def check_init(init: str, output: str | Path, overwrite: bool) -> None:
    """Raises UserError when the checkpoint `init` is none, or lies in `output`, where ours goes.

    Asked first of all: `overwrite` clears that folder, and it must not be for nothing. A run that
    goes on there has taken from it what it needs.
    """
    if not overwrite and (Path(output) / 'trainer.pt').exists():
        return
    if init and Path(init).resolve().parent == Path(output).resolve():
        raise UserError(f'train.init={init!r} is in the output {str(output)!r}, where the new '
                        'model goes; give another output')
    if init:
        read_metadata(init)


def start_from(path: Path, model: WorldModel) -> None:
    """Nothing; `model` takes the weights and action statistics of the checkpoint at `path`.

    The statistics are kept because the weights were fitted to them: another scale would be
    another robot to the model. Raises UserError when the robot or the model's shape is another.
    """
    found = load_checkpoint(path)
    if found.spec.fingerprint() != model.spec.fingerprint():
        raise UserError(f'train.init={str(path)!r} is of robot {found.spec.name!r} '
                        f'({found.spec.fingerprint()}), but the dataset is of '
                        f'{model.spec.name!r} ({model.spec.fingerprint()}): give a checkpoint of '
                        'the same robot and spec')
    for f in dataclasses.fields(model.config):
        old, new = (getattr(m.config, f.name) for m in (found.model, model))
        if f.name not in _FREE and old != new:
            raise UserError(f'train.init={str(path)!r} has model.{f.name}={old!r}, but {new!r} '
                            'is asked for; give the shape of the checkpoint')
    model.load_state_dict(found.model.state_dict())
