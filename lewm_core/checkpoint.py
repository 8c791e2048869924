"""One file for all that serving needs: weights, robot spec, configs, calibration, metrics.

The file is safetensors: tensors and a JSON header, nothing that can be executed. The model is
rebuilt from its frozen dataclass, and loading is strict in both directions: a file that lacks
something, or has something nobody knows, is refused.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors import torch as safetensors
from torch import Tensor, nn

from lewm_core.atomic import partial_path, publish
from lewm_core.config import (DataConfig, ModelConfig, PlannerConfig, SurpriseConfig, TrainConfig,
                              config_from_dict)
from lewm_core.heads import build_head, head_tensors, load_heads
from lewm_core.model import WorldModel
from lewm_core.robot import RobotSpec
from lewm_core.tensors import check_tensors
from lewm_core.types import UserError

# 2: heads, and planner.knots in the place of planner.hold. A key that is new and has a default
# makes no new format; one that is renamed, goes or means something else does.
FORMAT = 2
_KEY = 'lewm'
_CONFIGS = {'model': ModelConfig, 'data': DataConfig, 'train': TrainConfig,
            'planner': PlannerConfig, 'surprise': SurpriseConfig}
_OTHERS = ('format', 'spec', 'calibration', 'metrics', 'heads')
# A setting that came later takes its default in an older file: no tensor hangs on these.
_MAY_GROW = {'train', 'planner', 'surprise'}


@dataclass(frozen=True)
class Checkpoint:
    """A trained model and all that is known of it; `model` is in eval mode, on its device.

    `calibration` is surprise's (`Calibration.to_dict()`), or None before it was calibrated;
    `metrics` a plain tree of figures. `data` says which episodes were trained on. `heads` are
    optional networks on the model's latents by name (see lewm_core/heads.py).
    """

    model: WorldModel
    spec: RobotSpec
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()
    planner: PlannerConfig = PlannerConfig()
    surprise: SurpriseConfig = SurpriseConfig()
    calibration: dict[str, Any] | None = None
    metrics: dict[str, Any] = field(default_factory=dict)
    heads: dict[str, nn.Module] = field(default_factory=dict)

    def with_head(self, name: str, head: nn.Module) -> Checkpoint:
        """This checkpoint with `head` as its head `name`, in the place of an older one."""
        return dataclasses.replace(self, heads={**self.heads, name: head})


def save_checkpoint(path: str | Path, checkpoint: Checkpoint) -> None:
    """Nothing; writes `checkpoint` to `path`, whole or not at all, over what was there."""
    header = {'format': FORMAT, 'spec': checkpoint.spec.to_dict(),
              'model': dataclasses.asdict(checkpoint.model.config),
              'calibration': checkpoint.calibration, 'metrics': checkpoint.metrics,
              'heads': {name: dataclasses.asdict(head.config)
                        for name, head in checkpoint.heads.items()}}
    for name in ('data', 'train', 'planner', 'surprise'):
        header[name] = dataclasses.asdict(getattr(checkpoint, name))
    tensors = {name: tensor.detach().cpu().contiguous()
               for name, tensor in {**checkpoint.model.state_dict(),
                                    **head_tensors(checkpoint.heads)}.items()}
    _write(Path(path), tensors, header)


def load_checkpoint(path: str | Path, device: str | torch.device = 'cpu') -> Checkpoint:
    """The checkpoint in the file at `path`, its model and heads in eval mode on `device`.

    Raises UserError when the file is missing, truncated or no checkpoint, when a tensor is
    missing, unexpected or of another shape or type, and when a config lacks a key or has one
    that this version does not know.
    """
    path = Path(path)
    tensors, header = _read(path)
    where = f'checkpoint {str(path)!r}'
    configs = {name: config_from_dict(cls, header[name], f'{where}: {name}',
                                      partial=name in _MAY_GROW)
               for name, cls in _CONFIGS.items()}
    spec = RobotSpec.from_dict(header['spec'], f'{where}: spec')
    model = WorldModel(configs.pop('model'), spec)
    heads = {name: build_head(name, tree, model, where) for name, tree in header['heads'].items()}
    own = model.state_dict()
    check_tensors(where, {**own, **head_tensors(heads)}, tensors, 'its weights and its config do '
                  'not belong together: train again, or use the version that wrote it')
    model.load_state_dict({name: tensors[name] for name in own})
    load_heads(heads, tensors)
    try:
        for module in (model, *heads.values()):
            module.to(device).eval()
    except (RuntimeError, AssertionError) as error:
        raise UserError(f'device {str(device)!r} cannot be used here ({_first_line(error)}); '
                        "choose 'cpu' or a device that this PyTorch sees") from None
    return Checkpoint(model, spec, **configs, calibration=header['calibration'],
                      metrics=header['metrics'], heads=heads)


def update_metadata(path: str | Path, *, calibration: dict[str, Any] | None = None,
                    metrics: dict[str, Any] | None = None) -> None:
    """Nothing; rewrites the file at `path`, whole or not at all, with what is given.

    `calibration` takes the old one's place; `metrics` are added to the old ones, a new figure
    taking the place of an old one of the same name. None changes nothing.
    """
    path = Path(path)
    tensors, header = _read(path)
    if calibration is not None:
        header['calibration'] = calibration
    header['metrics'] = {**header['metrics'], **(metrics or {})}
    _write(path, tensors, header)


def read_metadata(path: str | Path) -> dict[str, Any]:
    """The header of the checkpoint at `path`, checked for its keys, as a plain tree.

    Keys: format, spec, model, data, train, planner, surprise, calibration, metrics, and heads,
    the config of each head by name.
    """
    return _read(Path(path))[1]


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    if not path.is_file():
        raise UserError(f'checkpoint {str(path)!r} is not a file; give the path of a '
                        'model.safetensors that training wrote')
    data = path.read_bytes()
    try:
        tensors = safetensors.load(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise UserError(f'checkpoint {str(path)!r} cannot be read ({_first_line(error)}): it is '
                        'truncated or no safetensors file; copy it again or train again'
                        ) from None
    # The file's first 8 bytes are the length of its JSON header (the safetensors format).
    length = int.from_bytes(data[:8], 'little')
    metadata = json.loads(data[8:8 + length]).get('__metadata__') or {}
    return tensors, _parse_header(path, metadata)


def _parse_header(path: Path, metadata: dict[str, str]) -> dict[str, Any]:
    try:
        header = json.loads(metadata[_KEY])
    except (KeyError, ValueError, RecursionError):  # no JSON, or one that no program can read
        header = None
    if not isinstance(header, dict):
        raise UserError(f'checkpoint {str(path)!r} holds tensors but no lewm header with a robot '
                        'spec; give a model.safetensors that training wrote')
    if header.get('format') == 1:
        _from_1(header)
    if header.get('format') != FORMAT:
        raise UserError(f'checkpoint {str(path)!r} has format {header.get("format")!r}, but this '
                        f'version reads the formats 1 to {FORMAT}; use the version that wrote it '
                        'or train again')
    expected = {*_CONFIGS, *_OTHERS}
    missing, unknown = sorted(expected - set(header)), sorted(set(header) - expected)
    if missing or unknown:
        raise UserError(f'checkpoint {str(path)!r}: its header lacks {missing} and has unknown '
                        f'{unknown}, but {sorted(expected)} are expected; use the version that '
                        'wrote it or train again')
    for name, kinds in (('calibration', (dict, type(None))), ('metrics', (dict,)),
                        ('heads', (dict,))):
        if not isinstance(header[name], kinds):
            raise UserError(f'checkpoint {str(path)!r}: {name} is {header[name]!r}, but a mapping '
                            'is expected; train again')
    return header


def _from_1(header: dict[str, Any]) -> None:
    """Nothing; makes of a header of format 1 what format 2 would have written."""
    header['format'] = 2
    header.setdefault('heads', {})  # there were none at first
    search = header.get('planner')
    if isinstance(search, dict) and 'hold' in search:  # before blocks had knots
        search['knots'] = 1 if search.pop('hold') else 0


def _write(path: Path, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    data = safetensors.save(tensors, metadata={_KEY: json.dumps(header, sort_keys=True)})
    partial = partial_path(path)
    try:
        partial.write_bytes(data)
        publish(partial, path)
    except OSError as error:
        raise UserError(f'checkpoint {str(path)!r} cannot be written ({error.strerror}); give a '
                        'path in a folder that exists and has room') from None
    finally:
        partial.unlink(missing_ok=True)


def _first_line(error: BaseException) -> str:
    return str(error).strip().split('\n')[0][:120]
