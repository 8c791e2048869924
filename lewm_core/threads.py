"""How many CPU threads PyTorch uses in a serving process."""

from __future__ import annotations

from collections.abc import Callable

import torch

OWN = torch.get_num_threads()  # PyTorch's own choice, before anybody here made another
LONG_S = 0.2  # what takes longer is large enough for all threads
_GAIN = 0.9   # of the time with fewer threads, for more to be worth it


def set_threads(count: int) -> int:
    """The number of CPU threads in use from now on: `count`, or PyTorch's own choice when 0.

    Threads started later take it over. One thread is faster than several for a small model, which
    wait for each other at every layer: most of all where the other cores are busy.
    """
    torch.set_num_threads(count or OWN)
    return torch.get_num_threads()


def use_fastest(seconds: Callable[[], float]) -> float:
    """What `seconds` measures with the fastest number of CPU threads, which is in use from now on.

    1, 2, 4 … threads are tried for as long as a tenth is gained, and PyTorch's own choice, which
    stays where that takes more than `LONG_S`. For the thread that will do what is measured.
    """
    most = torch.get_num_threads()
    slowest = seconds()
    if most == 1 or slowest > LONG_S:
        return slowest
    best, found = 1, _with(1, seconds)
    while 2 * best < most and (more := _with(2 * best, seconds)) < _GAIN * found:
        best, found = 2 * best, more
    if slowest < _GAIN * found:
        best, found = most, slowest
    torch.set_num_threads(best)
    return found


def _with(count: int, seconds: Callable[[], float]) -> float:
    torch.set_num_threads(count)
    return seconds()
