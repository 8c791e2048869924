"""When plans are made: at the frame that begins their block, or during the block before."""

from __future__ import annotations

SCHEDULES = ('auto', 'now', 'ahead')
# A search that was measured alone takes longer beside cameras and controllers.
_MARGIN = 2.0


def plans_ahead(schedule: str, plan_s: float, frame_s: float, block_s: float) -> tuple[bool, str]:
    """Whether plans are made a block ahead, and a warning, empty when there is time enough.

    `plan_s` is what a plan takes, measured; `frame_s` how long a frame may wait for its command;
    `block_s` how long a block lasts. 'auto' plans ahead when a frame would wait for more than
    half of what it may: a fresh frame is worth more than a predicted one, a late plan nothing.
    """
    ahead = schedule == 'ahead' or (schedule == 'auto' and _MARGIN * plan_s > frame_s)
    room_s = block_s if ahead else frame_s
    if plan_s <= room_s:
        return ahead, ''
    cure = '' if ahead else ', raise plan_deadline_s, or set plan_when:=ahead'
    return ahead, (f'a plan takes {plan_s:.3f} s here, longer than the {room_s:.3f} s there are; '
                   f'plan less (planner.samples, planner.iterations){cure}')


def patience(deadline_s: float, max_age_s: float) -> str:
    """A warning where a frame may wait for longer than a camera may be silent, else empty."""
    if deadline_s <= max_age_s:
        return ''
    return (f'plan_deadline_s is {deadline_s:g} s, longer than the {max_age_s:g} s after which a '
            'camera is stale: a command may answer an old picture, which is right only for a '
            'simulator that waits for it; lower it on a robot')
