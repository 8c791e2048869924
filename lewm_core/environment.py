"""What a run was made with, beside its settings: code, versions, machine."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import lewm_core
from lewm_core import distributed
from lewm_core.atomic import write_text

_PACKAGES = ('torch', 'numpy', 'scipy', 'h5py', 'safetensors', 'hydra-core', 'tensorboard')
_ROOT = Path(lewm_core.__file__).resolve().parents[1]


def write_environment(path: Path, step: int) -> None:
    """Nothing; adds this start of the run, at `step`, to the list in the JSON file at `path`."""
    try:
        starts = json.loads(path.read_text()) if step else []
    except (OSError, ValueError):
        starts = []
    write_text(path, json.dumps([*starts, {'step': step, **environment()}], indent=2) + '\n')


def environment() -> dict[str, Any]:
    """The command line, versions, machine, and the state of the checkout (None outside one)."""
    return {'command': sys.argv, 'git': git_state(_ROOT), 'versions': _versions(),
            'machine': {'name': platform.node(), 'system': platform.platform(),
                        'cores': len(os.sched_getaffinity(0)), 'gpu': _gpu()},
            'processes': distributed.size()}


def git_state(root: Path) -> dict[str, Any] | None:
    """The commit and the changed files of the checkout at `root`, None where there is none."""
    if not (root / '.git').exists():
        return None
    commit, changed = (_git(root, *words) for words in (
        ('rev-parse', 'HEAD'), ('status', '--porcelain', '--untracked-files=no')))
    if commit is None or changed is None:
        return None
    return {'commit': commit.strip(), 'changed': [line[3:] for line in changed.splitlines()]}


def _git(root: Path, *words: str) -> str | None:
    try:
        return subprocess.run(['git', '-C', str(root), *words], capture_output=True, text=True,
                              timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None


def _versions() -> dict[str, str]:
    found = {'python': platform.python_version(), 'lewm_core': lewm_core.__version__}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _gpu() -> str | None:
    import torch
    return torch.cuda.get_device_name() if torch.cuda.is_available() else None
