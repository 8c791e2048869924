"""What the benches share: alternating timing, the machine in words, and the result file."""

from __future__ import annotations

import json
import math
import os
import platform
import resource
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lewm_core.atomic import write_text


def alternate(runs: Mapping[str, Callable[[], Any]], rounds: int, warm: int = 1
              ) -> dict[str, np.ndarray]:
    """The seconds (rounds,) that each of `runs` took, by name, taken in turn in every round.

    Timings on a shared machine drift; two that alternate drift together, so their ratio round by
    round (see `ratio`) says more than two means. `warm` rounds come first and do not count.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(warm + rounds):
        for name, run in runs.items():
            begun = time.perf_counter()
            run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if turn >= warm:
                seconds[name].append(time.perf_counter() - begun)
    return {name: np.array(values) for name, values in seconds.items()}


def ratio(reference: np.ndarray, ours: np.ndarray) -> float:
    """How many times faster ours is: the median over rounds of reference / ours."""
    return float(np.median(np.asarray(reference) / np.asarray(ours)))


def other_python() -> dict[str, str]:
    """The environment for another interpreter: nothing that leads to this one's libraries."""
    return {key: value for key, value in os.environ.items()
            if not key.startswith(('PYTHON', '_ROS')) and key != 'LD_LIBRARY_PATH'}


def reset_peak(device: torch.device) -> None:
    """Nothing; `peak_mb` looks back to here alone, where the system can forget what was before."""
    if device.type == 'cuda':
        torch.cuda.reset_peak_memory_stats(device)
    with suppress(OSError):
        Path('/proc/self/clear_refs').write_text('5')


def peak_mb(device: torch.device) -> float:
    """The most memory that this process held since `reset_peak`, MiB: on a GPU the GPU's.

    VmHWM and not ru_maxrss, which a process inherits from the one that starts it.
    """
    if device.type == 'cuda':
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        status = Path('/proc/self/status').read_text()
        return int(status.split('VmHWM:')[1].split()[0]) / 1024
    except (OSError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def hardware() -> dict[str, Any]:
    """The machine in words: processor, cores this process may use, memory, GPU, versions."""
    found = {'cpu': _cpu(), 'cores': len(os.sched_getaffinity(0)),
             'memory_gib': round(os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30),
             'gpu': None, 'python': platform.python_version(), 'torch': torch.__version__}
    if torch.cuda.is_available():
        found['gpu'] = torch.cuda.get_device_name()
    return found


def write_result(path: str | Path, result: Mapping[str, Any]) -> None:
    """Nothing; writes `result` with the hardware as JSON to `path`, over an earlier one.

    A figure that is not finite becomes null: JSON has no word for it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps({**_finite(result), 'hardware': hardware()}, indent=2) + '\n')


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _cpu() -> str:
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(':')[2].strip() for line in lines if line.startswith('model name'))
    return next(names, platform.processor() or platform.machine())
