"""The heads of a run: trained after its world model, on its frozen latents."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from torch import nn

from lewm_core.config import (DistanceConfig, PlannerConfig, ProposalConfig, TrainConfig,
                              UncertaintyConfig)
from lewm_core.data import Dataset
from lewm_core.distance import train_distance
from lewm_core.head_training import encode_split
from lewm_core.model import WorldModel
from lewm_core.proposal import train_proposal
from lewm_core.uncertainty import LEAST, train_uncertainty

log = logging.getLogger(__name__)

_SAY_EVERY_S = 5.0
_ENOUGH = 100_000


def train_heads(model: WorldModel, dataset: Dataset, config: TrainConfig,
                planner: PlannerConfig = PlannerConfig(),
                should_stop: Callable[[], bool] = lambda: False) -> dict[str, nn.Module] | None:
    """The heads that `config` asks for, by name, or None when `should_stop` ended it early.

    Trained on the training episodes alone; the proposal covers the planner's horizon, and it and
    the uncertainty are kept as they were best on the validation episodes. `model` (in eval mode)
    is left as it is. Raises UserError when no episode is longer than a block.
    """
    heads: dict[str, nn.Module] = {}
    if not (config.proposal_steps or config.distance_steps or config.uncertainty_steps):
        return heads
    # What error to expect shows in part of a long recording; the others want all there is.
    most = None if config.proposal_steps or config.distance_steps else _ENOUGH
    train, held_out = (encode_split(model, dataset, split, most)
                       for split in ('train', 'validation'))
    if config.uncertainty_steps:
        head, done = train_uncertainty(
            model, train, held_out, UncertaintyConfig(), steps=config.uncertainty_steps,
            seed=config.seed, on_progress=_say('uncertainty'), should_stop=should_stop)
        if head is None:
            log.warning('fewer than %d blocks to learn from: surprise will be the plain squared '
                        'error; record more', LEAST)
        elif done is None:
            return None
        else:
            heads['uncertainty'] = head
    if config.proposal_steps:
        heads['proposal'], done = train_proposal(
            model, train, held_out, ProposalConfig(blocks=planner.horizon),
            steps=config.proposal_steps, seed=config.seed, on_progress=_say('proposal'),
            should_stop=should_stop)
        if done is None:
            return None
    if config.distance_steps:
        heads['distance'], done = train_distance(
            model, train, DistanceConfig(), steps=config.distance_steps, seed=config.seed,
            on_progress=_say('distance'), should_stop=should_stop)
        if done is None:
            return None
    return heads


def _say(name: str) -> Callable[[int, int, float], None]:
    """Logs progress at its end, and every few seconds until then."""
    said = time.monotonic()

    def say(step: int, steps: int, loss: float) -> None:
        nonlocal said
        if step == steps or time.monotonic() > said + _SAY_EVERY_S:
            said = time.monotonic()
            log.info('%s: step %d of %d, loss %.4f', name, step, steps, loss)

    return say
