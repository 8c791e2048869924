"""Checkpoints of the reference library, both ways: weights.pt and config.json.

Nothing in them is executed: the config's `_target_` names are read, never imported, and
`torch.load` unpickles tensors alone. Their files hold no normalisation statistics, so those of the
actions come from the dataset that is named with them.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lewm_core.atomic import refuse_existing, replacing, write_text
from lewm_core.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from lewm_core.config import DataConfig
from lewm_core.data import Dataset, action_statistics
from lewm_core.interchange_config import config_tree, model_config
from lewm_core.interchange_names import ours, spelling, theirs
from lewm_core.jobs import ExportJob, ImportJob
from lewm_core.model import WorldModel
from lewm_core.paths import load_robot
from lewm_core.tensors import check_tensors
from lewm_core.types import UserError

log = logging.getLogger(__name__)

# Ours alone: the statistics that their files leave out.
_STATISTICS = ('action_mean', 'action_std')


def run_import(job: ImportJob, overrides: list[str]) -> int:
    """The exit code of `lewm import`: an official checkpoint becomes ours."""
    refuse_existing(job.output, job.overwrite)
    dataset = Dataset.open(job.dataset, load_robot(job.robot) if job.robot else None)
    model, count = import_model(job.weights, job.config, dataset)
    job.output.parent.mkdir(parents=True, exist_ok=True)
    metrics = {'imported': {'weights': job.weights.name, 'tensors': count,
                            'statistics': f'train episodes of {dataset.path.name}'}}
    save_checkpoint(job.output, Checkpoint(model, dataset.spec, dataset.data or DataConfig(),
                                           metrics=metrics))
    log.info('%d of %d tensors taken over; action statistics from the training episodes of %s',
             count, count, dataset.path)
    print(job.output)
    return 0


def run_export(job: ExportJob, overrides: list[str]) -> int:
    """The exit code of `lewm export`: weights.pt and config.json of one of our checkpoints."""
    files = [job.output / name for name in ('weights.pt', 'config.json', 'statistics.json')]
    for path in files:
        refuse_existing(path, job.overwrite)
    checkpoint = load_checkpoint(job.checkpoint)
    model, dim = checkpoint.model, checkpoint.spec.action_dim
    tree = config_tree(model.config, dim)
    tensors = export_tensors(model, job.transformers)
    with replacing(files[0]) as partial:
        torch.save(tensors, partial)
    write_text(files[1], json.dumps(tree, indent=2) + '\n')
    # Theirs has no place for what the actions were normalised with; without it the model is mute.
    write_text(files[2], json.dumps(
        {name: getattr(model, name).tolist() for name in _STATISTICS}
        | {'fields': [f.path for f in checkpoint.spec.action.fields]}, indent=2) + '\n')
    print(job.output)
    return 0


def import_model(weights: Path, config: Path, dataset: Dataset) -> tuple[WorldModel, int]:
    """The model in the reference's files, in eval mode, and the number of tensors taken over.

    `dataset` gives the robot and, from its training episodes, the action statistics. Raises
    UserError when a tensor is missing, unknown, or of another shape or not finite.
    """
    shape = model_config(_json(config), dataset.spec.action_dim, f'config {str(config)!r}')
    model = WorldModel(shape, dataset.spec)
    named = _tensors(weights)
    tensors = {ours(name): tensor for name, tensor in named.items()}
    if len(tensors) < len(named):
        raise UserError(f'weights {str(weights)!r} has {len(named) - len(tensors)} tensors twice, '
                        'by the names of transformers 4 and 5; give a file that one of them wrote')
    _fill(model, tensors, str(weights))
    model.set_action_statistics(*action_statistics(dataset))
    return model.eval(), len(tensors)


def export_tensors(model: WorldModel, transformers: int = 4) -> dict[str, Tensor]:
    """The tensors of `model` by the names of the reference's weights.pt, on the CPU."""
    return {theirs(name, transformers): tensor.detach().cpu().clone()
            for name, tensor in model.state_dict().items() if name not in _STATISTICS}


def _fill(model: WorldModel, tensors: dict[str, Tensor], where: str) -> None:
    """Copies `tensors` into `model`, every one to its place and none left over."""
    wanted = {name: tensor for name, tensor in model.state_dict().items()
              if name not in _STATISTICS}
    check_tensors(f'weights {where!r}', wanted, tensors, 'give the config.json that belongs to '
                  'them', types=False)
    for name, tensor in wanted.items():
        found = tensors[name]
        if not torch.isfinite(found).all():
            raise UserError(f'weights {where!r}: {name!r} holds numbers that are not finite; its '
                            'training failed: use another checkpoint')
        tensor.copy_(found)


def _tensors(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise UserError(f'weights {str(path)!r} is not a file; give the weights.pt of the '
                        'checkpoint')
    try:
        tensors = torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:  # the unpickler raises whatever the damaged bytes lead it to
        first = str(error).strip().partition('\n')[0][:120] or type(error).__name__
        raise UserError(f'weights {str(path)!r} cannot be read as plain tensors ({first}); give a '
                        'state dict, which is what weights.pt is, or copy it again') from None
    if not isinstance(tensors, dict) or not all(
            isinstance(name, str) and isinstance(t, Tensor) and t.layout is torch.strided
            and not t.is_meta for name, t in tensors.items()):
        raise UserError(f'weights {str(path)!r} is no state dict of names and tensors; give the '
                        'weights.pt of the checkpoint')
    log.info('%s: %d tensors, named as transformers %d does', path, len(tensors),
             spelling(tensors))
    return tensors


def _json(path: Path) -> Any:
    if not path.is_file():
        raise UserError(f'config {str(path)!r} is not a file; give the config.json of the '
                        'checkpoint')
    try:
        return json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise UserError(f'config {str(path)!r} is not JSON ({error}); copy it again') from None
