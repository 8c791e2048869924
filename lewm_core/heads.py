"""Optional networks on a world model's latents, by name: kept in its checkpoint, beside it.

A head is a module that is built as `Head(config, model)` and keeps `config`, a frozen dataclass of
the class attribute `Config`, and nothing else is needed to build it again: the file holds the
head's name, its config and its tensors. The name is looked up here, so a file can only ask for
what this table knows.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from lewm_core.config import config_from_dict
from lewm_core.types import UserError

if TYPE_CHECKING:
    from lewm_core.model import WorldModel

# MODULE:CLASS of each head, imported when it is needed.
HEADS: dict[str, str] = {'proposal': 'lewm_core.proposal:Proposal',
                         'distance': 'lewm_core.distance:Distance',
                         'decoder': 'lewm_core.decoder:Decoder',
                         'uncertainty': 'lewm_core.uncertainty:Uncertainty'}

PREFIX = 'heads.'


def build_head(name: str, tree: Any, model: WorldModel, where: str) -> nn.Module:
    """The untrained head `name` for `model`, from its config as a plain mapping.

    Raises UserError that begins with `where` on a name that is not known and on a config that
    lacks a key, or has one that this version does not know.
    """
    if name not in HEADS:
        raise UserError(f'{where}: head {name!r} is not known; this version knows '
                        f'{sorted(HEADS)}: use the version that wrote it or train again')
    module, _, cls = HEADS[name].partition(':')
    head = getattr(importlib.import_module(module), cls)
    return head(config_from_dict(head.Config, tree, f'{where}: head {name!r}'), model)


def head_tensors(heads: dict[str, nn.Module]) -> dict[str, Tensor]:
    """The tensors of all heads by their names in a checkpoint: `heads.NAME.` and the module's."""
    return {f'{PREFIX}{name}.{key}': tensor for name, head in heads.items()
            for key, tensor in head.state_dict().items()}


def load_heads(heads: dict[str, nn.Module], tensors: dict[str, Tensor]) -> None:
    """Nothing; fills the heads from `tensors`, named as `head_tensors` does, all of them."""
    for name, head in heads.items():
        start = f'{PREFIX}{name}.'
        head.load_state_dict({key[len(start):]: tensor for key, tensor in tensors.items()
                              if key.startswith(start)})
