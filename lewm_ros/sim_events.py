"""When the simulated world breaks its own rules: a schedule that is known before the drive."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lewm_core.types import UserError
from lewm_ros.sim_config import SimConfig

TELEPORT, COLOUR, COLOUR_END = 'teleport', 'colour', 'colour_end'


@dataclass(frozen=True)
class Event:
    """Something that happens between tick `tick` - 1 and tick `tick`: frame `tick` shows it."""

    tick: int
    kind: str


def schedule(config: SimConfig, rng: np.random.Generator) -> list[Event]:
    """The events of a drive in order, none before `normal_ticks`.

    Teleports and colour changes come in a random order, one a slot of `event_gap_ticks`; a colour
    lasts a slot and its end is an event with a slot of its own. Each is moved back by at most a
    fifth of a slot, so that they fall into all phases of a block. Where an episode would be cut
    within half a slot of an event, its slot starts that much after the cut. Raises UserError when
    the drive is too short for them.
    """
    kinds = [TELEPORT] * config.teleports + [COLOUR] * config.colours
    rng.shuffle(kinds)
    gap, events = config.event_gap_ticks, []
    slot = max(config.normal_ticks, gap)
    for kind in kinds:
        steps = (COLOUR, COLOUR_END) if kind == COLOUR else (kind,)
        slot = _clear_of_cuts(slot, gap * len(steps), config)
        for step in steps:
            events.append(Event(slot + int(rng.integers(0, gap // 5 + 1)), step))
            slot += gap
    if events and config.mode != 'drive':
        raise UserError(f'{len(kinds)} events are asked for, but events belong to mode:=drive; '
                        'set teleports:=0 and colours:=0')
    if events and 0 < config.frames < slot:
        raise UserError(f'frames={config.frames} is too short for {len(kinds)} events after '
                        f'normal_ticks={config.normal_ticks}; give at least {slot}')
    return events


def _clear_of_cuts(slot: int, length: int, config: SimConfig) -> int:
    """The first tick from `slot` on at which `length` ticks fit well inside an episode."""
    episode, margin = config.episode_frames, config.event_gap_ticks // 2
    if episode == 0:
        return slot
    if length + margin > episode:
        raise UserError(f'episode_frames={episode} is too short for an event; give at least '
                        f'{length + margin}, or 0 for one long episode')
    phase = slot % episode
    if phase < margin:
        return slot - phase + margin
    if phase + length > episode:
        return slot - phase + episode + margin
    return slot
