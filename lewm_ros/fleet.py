"""Nodes as child processes in a private DDS domain, for the demo and the system tests."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from lewm_core.types import UserError


def free_domain() -> int:
    """A ROS domain id (1–101) whose discovery port nobody on this machine has bound."""
    for i in range(101):
        domain = 1 + (os.getpid() + i) % 101
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind(('', 7400 + 250 * domain))
            except OSError:
                continue
            return domain
    raise UserError('all ROS domains from 1 to 101 are in use on this machine; end some ROS nodes')


def private_environment(domain: int, log_dir: Path) -> dict[str, str]:
    """This process's environment with a ROS domain of its own, confined to this machine."""
    environment = dict(os.environ)
    environment.update(ROS_DOMAIN_ID=str(domain), ROS_AUTOMATIC_DISCOVERY_RANGE='LOCALHOST',
                       ROS_LOG_DIR=str(log_dir), PYTHONUNBUFFERED='1')
    return environment


def ros_arguments(parameters: dict[str, Any], remaps: dict[str, str] | None = None) -> list[str]:
    """`--ros-args` for a node: parameters as YAML scalars, remappings as from:=to."""
    words = ['--ros-args']
    for name, value in parameters.items():
        text = str(value).lower() if isinstance(value, bool) else str(value) or "''"
        words += ['-p', f'{name}:={text}']
    for old, new in (remaps or {}).items():
        words += ['-r', f'{old}:={new}']
    return words


class Fleet:
    """Child processes that end with this one: a context manager, logs one file a node."""

    def __init__(self, log_dir: Path, domain: int) -> None:
        self.log_dir = Path(log_dir)
        self.log_dir.mkdir(parents=True, exist_ok=True)
        self.environment = private_environment(domain, self.log_dir)
        self._children: dict[str, subprocess.Popen] = {}

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop_all()

    def start(self, name: str, module: str, arguments: list[str]) -> subprocess.Popen:
        """The started process of `python -m module arguments`; `name` names its log file."""
        log = open(self.log_dir / f'{name}.log', 'wb')
        with log:
            child = subprocess.Popen([sys.executable, '-m', module, *arguments], stdout=log,
                                     stderr=subprocess.STDOUT, env=self.environment,
                                     stdin=subprocess.DEVNULL, start_new_session=True)
        self._children[name] = child
        return child

    def ended(self, name: str) -> bool:
        """Whether a node has ended."""
        return self._children[name].poll() is not None

    def check(self) -> None:
        """Raises UserError with the last log lines of a node that ended badly."""
        for name, child in self._children.items():
            if child.poll() not in (None, 0):
                raise UserError(f'{name} ended with exit code {child.returncode}; the end of '
                                f'{self.log_dir / (name + ".log")} says: {self.tail(name)}')

    def tail(self, name: str, lines: int = 3) -> str:
        """The last lines of a node's log, joined to one."""
        text = (self.log_dir / f'{name}.log').read_text(errors='replace').strip().splitlines()
        return ' | '.join(text[-lines:]) or '(nothing)'

    def wait(self, name: str, timeout_s: float) -> int:
        """The exit code of a node that ends by itself; raises UserError when it's too slow."""
        try:
            return self._children[name].wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise UserError(f'{name} has not ended within {timeout_s:g} s; the end of its log '
                            f'says: {self.tail(name)}') from None

    def stop(self, name: str, timeout_s: float = 10.0) -> int:
        """The exit code of a node after SIGINT, or SIGKILL when it doesn't listen."""
        child = self._children.pop(name)
        if child.poll() is None:
            child.send_signal(signal.SIGINT)
            deadline = time.monotonic() + timeout_s
            while child.poll() is None and time.monotonic() < deadline:
                time.sleep(0.02)
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
        return child.wait()

    def stop_all(self) -> None:
        """Ends what still runs, newest first."""
        for name in reversed(list(self._children)):
            self.stop(name)
