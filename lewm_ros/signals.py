"""Signals that end a node, as a flag that its spin loop reads."""

from __future__ import annotations

import ctypes
import os
import signal
from typing import Any


# The process that launched a node, by its id, where the node is to end with it.
LAUNCHER = 'LEWM_ROS_LAUNCHER'
_PR_SET_PDEATHSIG = 1


class Signals:
    """SIGINT, SIGTERM and SIGHUP as a flag, for as long as the context manager is entered.

    SIGHUP comes when the terminal goes, and with it the ssh session that a robot was started from:
    untouched it would end the node before the safe action is out. Under nohup it stays ignored.
    """

    def __init__(self) -> None:
        self.pending: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: Any) -> None:
        self.pending = number

    def take(self) -> int | None:
        """The signal that has come since the last call, or None."""
        number, self.pending = self.pending, None
        return number


def end_with_launcher() -> None:
    """Nothing; SIGTERM comes when the process named in the environment, our parent, has died.

    `ros2 launch` that is killed, or gets SIGTERM, leaves its nodes behind: a planner would drive
    on with nobody to stop it. Source: prctl(2), PR_SET_PDEATHSIG; on Linux alone.
    """
    launcher = os.environ.pop(LAUNCHER, '')
    if launcher != str(os.getppid()):
        return  # started by hand, or through another program that has its own way to end it
    prctl = getattr(ctypes.CDLL(None), 'prctl', None)
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
