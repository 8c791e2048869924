"""What can go wrong in a drive: in the world, in front of the camera, or on the way to the wheels.

Each perturbation happens at one frame of a trajectory, the event. `kind` is what it is by its
nature: a 'jump' happens once, and from then on everything is as usual; a 'shift' stays.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from lewm_core.robot import RobotSpec

TELEPORT_RADII = (1, 2, 3, 6)
_FAR = 6.0  # radii: what a reset elsewhere changes at least

# From pictures (N, T, H, W, 3), commands (N, T - 1, F, A), the event's frame, the robot and a
# random generator to the same as they would have come.
Alter = Callable[[np.ndarray, np.ndarray, int, RobotSpec, np.random.Generator],
                 tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Recorded:
    """A perturbation of what is recorded: it can be applied to any dataset."""

    name: str
    kind: str
    alter: Alter


@dataclass(frozen=True)
class InWorld:
    """A perturbation of the world: `happen(world, rng)` says whether it found room to."""

    name: str
    kind: str
    happen: Callable[[Any, np.random.Generator], bool]


def shifted(pixels: np.ndarray, share: float) -> np.ndarray:
    """The pictures (..., H, W, 3) of a camera turned by `share` of its width, at least a pixel.

    The picture moves to the right, and the left edge is repeated where nothing is known.
    """
    columns = np.arange(pixels.shape[-2]) - max(1, round(share * pixels.shape[-2]))
    return pixels[..., np.clip(columns, 0, None), :]


def brightened(pixels: np.ndarray, factor: float) -> np.ndarray:
    """The pictures (..., H, W, 3) in a light that is `factor` of the usual."""
    return np.clip(np.round(pixels * np.float32(factor)), 0, 255).astype(np.uint8)


def noisy(actions: np.ndarray, share: float, std: np.ndarray, spec: RobotSpec,
          rng: np.random.Generator) -> np.ndarray:
    """Commands (..., A) within the limits, with noise of `share` of the usual deviation (A,)."""
    off = rng.normal(0.0, 1.0, actions.shape) * share * std
    return np.clip(actions + off, spec.low, spec.high).astype(np.float32)


def recorded() -> list[Recorded]:
    """The perturbations that need no world."""
    def look(change: Callable[[np.ndarray], np.ndarray]) -> Alter:
        def alter(pixels, actions, event, spec, rng):
            return np.concatenate([pixels[:, :event], change(pixels[:, event:])], axis=1), actions
        return alter

    def told(change: Callable[..., np.ndarray]) -> Alter:
        # The block that ends at the event is the first whose commands are not those it says.
        def alter(pixels, actions, event, spec, rng):
            return pixels, np.concatenate([actions[:, :event - 1], change(
                actions[:, event - 1:], actions, spec, rng)], axis=1)
        return alter

    def jittered(share: float) -> Alter:
        return told(lambda after, all, spec, rng: noisy(
            after, share, all.reshape(-1, all.shape[-1]).std(axis=0), spec, rng))

    return [
        Recorded('camera shift 3 %', 'shift', look(lambda p: shifted(p, 0.03))),
        Recorded('camera shift 6 %', 'shift', look(lambda p: shifted(p, 0.06))),
        Recorded('brightness 80 %', 'shift', look(lambda p: brightened(p, 0.8))),
        Recorded('brightness 60 %', 'shift', look(lambda p: brightened(p, 0.6))),
        Recorded('dropped block', 'jump', _dropped),
        Recorded('frozen camera', 'shift', _frozen),
        Recorded('action noise 50 %', 'shift', jittered(0.5)),
        Recorded('action noise 100 %', 'shift', jittered(1.0)),
        Recorded('swapped action', 'shift', told(lambda after, all, spec, rng: _swapped(after)))]


def _dropped(pixels, actions, event, spec, rng):
    """The frames and the commands of the block that begins at the event's are lost, unnoticed."""
    keep = np.delete(np.arange(pixels.shape[1]), event)
    return pixels[:, keep], np.delete(actions, event, axis=1)


def _frozen(pixels, actions, event, spec, rng):
    """From the event on the camera repeats the picture before it."""
    seen = pixels.copy()
    seen[:, event:] = pixels[:, event - 1:event]
    return seen, actions


def _swapped(actions: np.ndarray) -> np.ndarray:
    """The first two numbers of the commands (..., A) exchanged; a single one's sign turned."""
    if actions.shape[-1] == 1:
        return -actions
    return actions[..., [1, 0, *range(2, actions.shape[-1])]]


def in_world(world: Any) -> list[InWorld]:
    """The perturbations of `world`: a teleport of each of its things, other colours.

    Where no single thing can be put elsewhere, but the world says how far its states are apart,
    all of it is: it begins anew.
    """
    found = [InWorld(f'teleport {thing or "robot"} {radii} radii', 'jump',
                     _teleport(thing, radii * world.radius))
             for thing in movable(world) for radii in TELEPORT_RADII]
    if not found and measurable(world):
        found = [InWorld('reset elsewhere', 'jump', _reset_elsewhere)]
    return found + [InWorld(name, 'shift', _colour(kind)) for kind, name in world.looks.items()]


def movable(world: Any) -> list[str]:
    """The things, as in `things`, that can be put elsewhere in `world`: none or all of them."""
    able = all(hasattr(world, name) for name in ('set_state', 'possible', 'radius'))
    return things(world.state()) if able else []


def measurable(world: Any) -> bool:
    """Whether `world` can tell how far one of its states is from another."""
    return not hasattr(world, 'measurable') or world.measurable()


def left_out(make_world: Callable[[], Any] | None) -> list[str]:
    """What fresh drives in the world can't show, a sentence each; without a world, all of it."""
    if make_world is None:
        return ['There is no world to drive in: no teleports, no other colours and no goals, and '
                'all driving is recorded.']
    world, found = make_world(), []
    if not movable(world):
        found.append('Nothing in this world can be put elsewhere by itself, so there are no '
                     'teleports of 1 to 6 radii' + (
                         '; "reset elsewhere" lets all of it begin anew, six twentieths or more '
                         'of the usual range away.' if measurable(world) else '.'))
    if not measurable(world):
        found.append('This world observes no number that changes, so nothing says when a goal is '
                     'reached: there are no goals and no resets elsewhere.')
    if hasattr(world, 'env'):
        found.append('Colours are changed in the picture, all over, for the simulator has no '
                     'other ones.')
    return found


def things(state: dict[str, float]) -> list[str]:
    """What has a place in a world's state: '' for the robot's `x`, 'block' for `block_x`."""
    return sorted(name[:-1].rstrip('_') for name in state
                  if name.endswith('x') and f'{name[:-1]}y' in state)


def _teleport(thing: str, distance: float) -> Callable[[Any, np.random.Generator], bool]:
    """Moves a thing by `distance`, m, in a random direction that has room for it."""
    start = f'{thing}_' if thing else ''

    def happen(world: Any, rng: np.random.Generator) -> bool:
        before = world.state()
        for angle in rng.uniform(-np.pi, np.pi, 64):
            world.set_state({**before, f'{start}x': before[f'{start}x'] + distance * np.cos(angle),
                             f'{start}y': before[f'{start}y'] + distance * np.sin(angle)})
            if world.possible():
                return True
        world.set_state(before)
        return False
    return happen


def _reset_elsewhere(world: Any, rng: np.random.Generator) -> bool:
    return world.teleport(rng, _FAR) >= _FAR


def _colour(kind: str) -> Callable[[Any, np.random.Generator], bool]:
    def happen(world: Any, rng: np.random.Generator) -> bool:
        world.set_colour(kind)
        return True
    return happen


class Happening:
    """A `Change` that lets one perturbation happen at one tick and notes whether it did."""

    def __init__(self, perturbation: InWorld, tick: int, rng: np.random.Generator) -> None:
        self._perturbation, self._tick, self._rng = perturbation, tick, rng
        self.happened = False

    def __call__(self, tick: int, world: Any) -> None:
        """Nothing; at the tick it was made for, it happens."""
        if tick == self._tick:
            self.happened = self._perturbation.happen(world, self._rng)
