"""What a GPU would show, on a machine without one: copies to and from it, and questions to it."""

from __future__ import annotations

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Moves(TorchDispatchMode):
    """Notes in `seen` each copy between devices: its source's shape, and if nothing waits for it.

    Within it, on the `meta` device: that has no numbers, so whatever asks for one is an error
    already, but takes a copy of anything.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[tuple[int, ...], bool]] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        found = function(*args, **kwargs)
        given = [value for value in args if isinstance(value, torch.Tensor)]
        devices = {value.device for value in (*given, found) if isinstance(value, torch.Tensor)}
        # A number in a tensor without dimensions goes along with any operation.
        if len(devices) > 1 and any(value.dim() for value in given if value.device.type == 'cpu'):
            quick = kwargs.get('non_blocking', False) or True in args[2:]
            self.seen.append((tuple(given[-1].shape), bool(quick)))
        return found
