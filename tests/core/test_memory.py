"""Memory that the process keeps: large blocks still come, from every thread, and come again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Faults of 40 allocations of 48 MB, each written once: fresh from the kernel each time, or kept.
PROGRAM = """
import resource, sys, threading
import numpy as np
from lewm_core.memory import keep_freed_memory
if sys.argv[1] == 'kept':
    keep_freed_memory()
def fill():
    np.ones(300 << 20, np.uint8)
thread = threading.Thread(target=fill)
thread.start()
thread.join()
np.ones(48 << 20, np.uint8)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(40):
    np.ones(48 << 20, np.uint8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_large_blocks_are_not_faulted_in_anew():
    if sys.platform != 'linux':
        pytest.skip('mallopt is of glibc')
    plain, kept = (int(subprocess.run(
        [sys.executable, '-c', PROGRAM, how], cwd=ROOT, text=True, check=True,
        capture_output=True).stdout) for how in ('plain', 'kept'))
    assert kept < plain / 10, f'{kept} page faults, {plain} without'
