"""What the driver asks of an agent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

from lewm_core.robot import RobotSpec
from lewm_core.types import Action, Frame, Plan

if TYPE_CHECKING:  # it imports torch, which only a node with a checkpoint needs
    from lewm_core.arrival import Arrival


class DrivenAgent(Protocol):
    """What the driver asks of an agent: `lewm_core.agent.Agent`, or a toy."""

    spec: RobotSpec
    frameskip: int
    arrival: Arrival

    def set_goal(self, pixels: np.ndarray) -> None: ...
    def clear_goal(self) -> None: ...
    def reset(self) -> None: ...
    def plan(self, frame: Frame) -> Plan: ...
    def plan_next(self, frame: Frame | None, committed: np.ndarray) -> Plan: ...
    def lose_history(self) -> None: ...
    def commit(self, action: Action) -> None: ...
