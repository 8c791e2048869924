"""The names of the tensors: ours are those that transformers 4 writes; 5 renamed the encoder's."""

from __future__ import annotations

import re
from collections.abc import Iterable

_LAYER = re.compile(r'^encoder\.encoder\.layer\.(\d+)\.(.+)\.(weight|bias)$')
_LAYER_5 = re.compile(r'^encoder\.layers\.(\d+)\.(.+)\.(weight|bias)$')
# Within a layer of the encoder: transformers 4 (and ours) to transformers 5.
_PARTS = {'attention.attention.query': 'attention.q_proj',
          'attention.attention.key': 'attention.k_proj',
          'attention.attention.value': 'attention.v_proj',
          'attention.output.dense': 'attention.o_proj',
          'intermediate.dense': 'mlp.fc1', 'output.dense': 'mlp.fc2',
          'layernorm_before': 'layernorm_before', 'layernorm_after': 'layernorm_after'}
_BACK = {new: old for old, new in _PARTS.items()}


def ours(name: str) -> str:
    """The name that the tensor `name` of a reference file, of either spelling, has here."""
    match = _LAYER_5.match(name)
    if match is None or match[2] not in _BACK:
        return name
    return f'encoder.encoder.layer.{match[1]}.{_BACK[match[2]]}.{match[3]}'


def theirs(name: str, transformers: int) -> str:
    """The name of our tensor `name` in a file for that major version of transformers, 4 or 5."""
    match = _LAYER.match(name)
    if transformers < 5 or match is None or match[2] not in _PARTS:
        return name
    return f'encoder.layers.{match[1]}.{_PARTS[match[2]]}.{match[3]}'


def spelling(names: Iterable[str]) -> int:
    """The major version of transformers, 4 or 5, that wrote a file with these names."""
    return 5 if any(_LAYER_5.match(name) for name in names) else 4
