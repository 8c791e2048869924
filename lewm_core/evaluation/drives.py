"""Fresh drives in a simulated world: as its explorer drives, looked at once a block."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from lewm_core.evaluate import encode_pixels
from lewm_core.evaluation.subject import Subject
from lewm_core.images import prepare
from lewm_core.residuals import Residuals, block_residuals
from lewm_core.robot import RobotSpec
from lewm_core.types import UserError

# A long drive is made of these: long enough that an episode's start is a rare sight, short enough
# to keep its pictures in memory. 10 simulated minutes at 10 Hz.
_EPISODE_TICKS = 6000
# So many episodes in a row without a whole block are a world that can't be driven in.
_PATIENCE = 1000

# Called before the frame of each tick; it may change the world.
Change = Callable[[int, Any], None]


def drive(world: Any, spec: RobotSpec, frameskip: int, blocks: int, seed: tuple[int, ...],
          change: Change | None = None) -> tuple[np.ndarray, np.ndarray, list[dict[str, float]]]:
    """Pictures (T + 1, H, W, 3) at block ends, commands (T, F, A) float32, states at block ends.

    T = `blocks`, or as many as are whole where the world ends the episode before that. The same
    seed gives the same drive up to where `change` changes it; from there on the explorer sees
    what came of it, as a driver would.
    """
    rng = np.random.default_rng(seed)
    world.reset(seed=int(rng.integers(2**31)))
    explore = world.explorer(rng)
    pixels, actions, states = [], [], []
    for tick in range(blocks * frameskip + 1):
        if change is not None:
            change(tick, world)
        if tick % frameskip == 0:
            pixels.append(prepare(world.render(), spec.camera))
            states.append(world.state())
        if tick < blocks * frameskip:
            actions.append(spec.clamp(explore(world.state())))
            world.advance(actions[-1])
            if world.ended:
                break
    whole = len(pixels) - 1
    commands = np.array(actions[:whole * frameskip], np.float32)
    return np.stack(pixels), commands.reshape(whole, frameskip, spec.action_dim), states


def ordinary_residuals(subject: Subject, hours: float, stream: int) -> list[Residuals]:
    """The residuals (T,) of each episode of `hours` of ordinary driving in the world.

    Episodes of ten minutes or as long as the world lets them be, the last one shorter. `stream`
    tells drives apart: the same number gives the same drive. Raises UserError where episode after
    episode ends within its first block.
    """
    left, found, number, since = round(hours * 3600 / subject.block_s), [], 0, 0
    whole = max(1, _EPISODE_TICKS // subject.skip)
    world = subject.make_world()
    while left > 0:
        pixels, actions, _ = drive(world, subject.checkpoint.spec, subject.skip, min(left, whole),
                                   (subject.job.seed, stream, number))
        number, since = number + 1, 0 if len(actions) else since + 1
        if since > _PATIENCE:
            raise UserError(f'{since} episodes of the world of {subject.checkpoint.spec.name!r} '
                            f'in a row ended within a block of {subject.block_s:g} s, so no '
                            'ordinary driving can be watched; give world=none')
        if len(actions):
            latents = encode_pixels(subject.model, pixels)
            found.append(block_residuals(subject.model, latents[None], actions[None])[0])
        left -= len(actions)
    return found


def trajectories(subject: Subject, blocks: int, stream: int, numbers: Iterable[int],
                 change: Callable[[int], Change | None] = lambda number: None
                 ) -> Iterator[tuple[np.ndarray, np.ndarray] | None]:
    """Pictures and commands of each drive, as `drive` gives them, its seed by its number.

    None of one that the world ended before `blocks` blocks. `change(n)` is what happens in
    drive n.
    """
    world = subject.make_world()
    for number in numbers:
        pixels, actions, _ = drive(world, subject.checkpoint.spec, subject.skip, blocks,
                                   (subject.job.seed, stream, number), change(number))
        yield (pixels, actions) if len(actions) == blocks else None
