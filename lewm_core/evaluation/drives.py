"""Fresh drives in a simulated world: as its explorer drives, looked at once a block."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from lewm_core.evaluate import encode_pixels
from lewm_core.evaluation.subject import Subject
from lewm_core.residuals import Residuals, block_residuals
from lewm_core.robot import RobotSpec

# A long drive is made of these: long enough that an episode's start is a rare sight, short enough
# to keep its pictures in memory. 10 simulated minutes at 10 Hz.
_EPISODE_TICKS = 6000

# Called before the frame of each tick; it may change the world.
Change = Callable[[int, Any], None]


def drive(world: Any, spec: RobotSpec, frameskip: int, blocks: int, seed: tuple[int, ...],
          change: Change | None = None) -> tuple[np.ndarray, np.ndarray, list[dict[str, float]]]:
    """Pictures (T + 1, H, W, 3) at block ends, commands (T, F, A) float32, states at block ends.

    T = `blocks`. The same seed gives the same drive up to where `change` changes it; from there
    on the explorer sees what came of it, as a driver would.
    """
    rng = np.random.default_rng(seed)
    world.reset(seed=int(rng.integers(2**31)))
    explore = world.explorer(rng)
    pixels, actions, states = [], [], []
    for tick in range(blocks * frameskip + 1):
        if change is not None:
            change(tick, world)
        if tick % frameskip == 0:
            pixels.append(world.render())
            states.append(world.state())
        if tick < blocks * frameskip:
            actions.append(spec.clamp(explore(world.state())))
            world.advance(actions[-1])
    commands = np.array(actions, np.float32).reshape(blocks, frameskip, -1)
    return np.stack(pixels), commands, states


def ordinary_residuals(subject: Subject, hours: float, stream: int) -> list[Residuals]:
    """The residuals (T,) of each episode of `hours` of ordinary driving in the world.

    Episodes of ten minutes, the last one shorter. `stream` tells drives apart: the same number
    gives the same drive.
    """
    left, found = round(hours * 3600 / subject.block_s), []
    whole = max(1, _EPISODE_TICKS // subject.skip)
    world = subject.make_world()
    while left > 0:
        blocks = min(left, whole)
        pixels, actions, _ = drive(world, subject.checkpoint.spec, subject.skip, blocks,
                                   (subject.job.seed, stream, len(found)))
        latents = encode_pixels(subject.model, pixels)
        found.append(block_residuals(subject.model, latents[None], actions[None])[0])
        left -= blocks
    return found


def trajectories(subject: Subject, blocks: int, stream: int, count: int,
                 change: Callable[[int], Change | None] = lambda index: None
                 ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pictures and commands of `count` drives, as `drive` gives them, each of its own seed.

    `change(i)` is what happens in drive i.
    """
    world = subject.make_world()
    for i in range(count):
        yield drive(world, subject.checkpoint.spec, subject.skip, blocks,
                    (subject.job.seed, stream, i), change(i))[:2]
