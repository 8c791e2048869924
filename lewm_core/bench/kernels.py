"""The share of a plan's time in which a GPU computes: the rest is waiting for the next launch."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable

import torch

log = logging.getLogger(__name__)

_TIMES = 10


def kernel_share(run: Callable[[], object], device: torch.device) -> float | None:
    """The share (0 to 1) of `run`'s time in which `device` is busy; None where that isn't known.

    Not known off CUDA, and where the profiler does not work. `run` ends when its result is here.
    The time is taken without the profiler, which makes launches slower and kernels not.
    """
    if device.type != 'cuda':
        return None
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile
    run()
    begun = time.perf_counter()
    for _ in range(_TIMES):
        run()
    torch.cuda.synchronize(device)
    seconds = time.perf_counter() - begun
    try:
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as found:
            for _ in range(_TIMES):
                run()
            torch.cuda.synchronize(device)
        spans = [(event.time_range.start, event.time_range.end) for event in found.events()
                 if event.device_type == DeviceType.CUDA]
    except Exception as error:  # a driver that forbids it, a build without it
        log.warning('the share of time in kernels is not known: %s', error)
        return None
    return covered(spans) / (1e6 * seconds) if spans else None


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """The length of the union of intervals (start, end)."""
    total, reached = 0.0, float('-inf')
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total
