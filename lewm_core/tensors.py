"""The tensors of a file beside those of the model that it is for."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from lewm_core.types import UserError


def check_tensors(where: str, expected: Mapping[str, Tensor], found: Mapping[str, Tensor],
                  advice: str, types: bool = True) -> None:
    """Nothing; raises UserError on a tensor that is missing, unknown, or of another shape.

    With `types` on one of another type, too. `where` begins the sentence, `advice` ends it.
    """
    for what, names in (('lacks', set(expected) - set(found)),
                        ('has unexpected', set(found) - set(expected))):
        if names:
            raise UserError(f'{where} {what} {len(names)} tensors, such as {min(names)!r}, beside '
                            f'the {len(expected)} that its config asks for; {advice}')
    for name, tensor in expected.items():
        other = found[name]
        if other.shape != tensor.shape or (types and other.dtype != tensor.dtype):
            raise UserError(f'{where}: tensor {name!r} is {_shown(other, types)}, but its '
                            f'config asks for {_shown(tensor, types)}; {advice}')


def _shown(tensor: Tensor, types: bool) -> str:
    kind = f' {str(tensor.dtype).removeprefix("torch.")}' if types else ''
    return f'{tuple(tensor.shape)}{kind}'
