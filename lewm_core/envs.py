"""The worlds by name."""

from __future__ import annotations

from collections.abc import Callable

import gymnasium

from lewm_core.gym_world import GymRobot
from lewm_core.push import Push
from lewm_core.pusht import NAME as PUSHT
from lewm_core.pusht import PushT
from lewm_core.two_room import TwoRoom

__all__ = ['WORLDS', 'GymRobot', 'Push', 'PushT', 'TwoRoom', 'make_world']

# Each is called with the side of its square picture in pixels.
WORLDS: dict[str, Callable[[int], gymnasium.Env]] = {
    'two_room': TwoRoom, 'push': Push, 'pusht': PushT, PUSHT: PushT}


def make_world(name: str, pixels: int = 64) -> gymnasium.Env:
    """The world called `name`: two_room, push, pusht, or any Gymnasium environment's id.

    It renders pictures of `pixels` square. Raises UserError on a name that is none of these, and
    on an environment that can't be a robot's world.
    """
    world = WORLDS.get(name)
    return world(pixels) if world is not None else GymRobot(name, pixels)
