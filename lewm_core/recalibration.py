"""A calibration on ordinary driving, and the heads its scores are by: taught by it if it is long.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from torch import nn

from lewm_core import relearn
from lewm_core.calibration import Calibration, calibrate
from lewm_core.config import SurpriseConfig
from lewm_core.residuals import Residuals, plain
from lewm_core.types import UserError
from lewm_core.uncertainty import Errors, scoring

log = logging.getLogger(__name__)

# The heads of a checkpoint by name, as far as they make scores.
Heads = Mapping[str, nn.Module]


def errors_of(heads: Heads, residuals: Residuals) -> Errors:
    """What scores (...,) are made of, and what a later calibration learns from."""
    head = heads.get('uncertainty')
    if head is None:
        return Errors(plain(residuals), residuals.given[..., :0])
    return Errors(head.whitened(residuals.off), residuals.given)


def scores_of(heads: Heads, errors: Errors) -> np.ndarray:
    """The scores (...,) float64 by `heads` of what `errors_of` gave."""
    head = heads.get('uncertainty')
    return errors.squared if head is None else head.over_expected(errors)


def taught(model: nn.Module, heads: Heads, kept: Calibration) -> Heads:
    """The heads that the scores of `kept` are by: a checkpoint's, with what `kept` was taught.

    Raises UserError when `kept` is of another model's scores.
    """
    own, head = scoring(model, heads), heads.get('uncertainty')
    if kept.uncertainty and head is not None:
        heads = {**heads, 'uncertainty': relearn.from_text(head, kept.uncertainty)}
    serving = scoring(model, heads)
    # The first calibrations did not say: they were all of the plain squared error.
    said = kept.scoring or ('' if head is not None else own)
    if said != serving:
        raise UserError(f'the surprise calibration is of the scores of another checkpoint '
                        f'({kept.scoring or "an older one"}) than this ({serving}), so its '
                        'threshold means nothing here; delete calibration_file, drive as usual '
                        'and call ~/recalibrate')
    return heads


def calibrated(model: nn.Module, heads: Heads, episodes: Sequence[Errors], block_s: float,
               config: SurpriseConfig, *, serving: Heads | None = None,
               on_progress: Callable[[float], None] | None = None,
               should_stop: Callable[[], bool] = lambda: False
               ) -> tuple[Calibration, Heads] | None:
    """The calibration on the blocks of each episode, and the heads that score from then on.

    From `relearn.LEAST` blocks on, `heads` learn what error to expect from these, unless
    `config.relearn_steps` is 0. With fewer the scores are by `serving`, where they are others.
    Neither may have seen the episodes before. None: it was stopped. Raises UserError as
    `calibrate` does.
    """
    head, count = heads.get('uncertainty'), sum(map(len, episodes))
    if head is None or not config.relearn_steps or count < relearn.LEAST:
        heads = heads if serving is None else serving
        scores = [scores_of(heads, each) for each in episodes]
        text = relearn.to_text(heads['uncertainty']) if serving is not None and head else ''
        return dataclasses.replace(calibrate(scores, block_s, config, scoring(model, heads)),
                                   uncertainty=text), heads
    log.info('learning from %d blocks of ordinary driving what error to expect', count)
    found = relearn.relearn(head, episodes, steps=config.relearn_steps,
                            on_progress=on_progress, should_stop=should_stop)
    if found is None:
        return None
    heads = {**heads, 'uncertainty': found.head}
    calibration = calibrate(found.scores, block_s, config, scoring(model, heads))
    return dataclasses.replace(calibration, uncertainty=relearn.to_text(found.head)), heads
