"""How many CPU threads PyTorch uses in a serving process."""

from __future__ import annotations

import torch


def set_threads(count: int) -> int:
    """The number of CPU threads in use from now on: `count`, or PyTorch's own choice when 0.

    Threads started later take it over. On a machine whose other cores are busy, one thread is
    faster than several for a small model: they wait for each other at every layer.
    """
    if count:
        torch.set_num_threads(count)
    return torch.get_num_threads()
