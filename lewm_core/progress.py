"""What is said of a training run while it runs, and when it is stopped."""

from __future__ import annotations

import logging
import math
import sys
import time
from dataclasses import dataclass

import numpy as np

from lewm_core import distributed
from lewm_core.config import TrainConfig
from lewm_core.data import Dataset
from lewm_core.monitor import ADVICE, COLLAPSED_STD, LatentStatistics
from lewm_core.types import UserError

log = logging.getLogger(__name__)

# At the start the latents are narrow because nothing has been learned yet: a collapse counts from
# this share of the steps on, and stops a run when it has lasted for the second one.
_WARM_UP, _PATIENCE = 0.2, 0.1
_LEAST_PATIENCE = 100
_ADVICE_PLDM = 'raise train.pldm_variance and train.pldm_covariance, or train longer'


@dataclass(frozen=True)
class Progress:
    """Where training is: `step` of `steps` are done; losses are means since the last report.

    The latents' statistics are those of the newest batch. `validation_loss` and `skill` are the
    newest on held-out episodes, None before the first; `collapsed` says in words what to change,
    or None.
    """

    step: int
    steps: int
    loss: float
    prediction: float
    sigreg: float
    latent_std_min: float
    latent_std_mean: float
    effective_rank: float
    learning_rate: float
    steps_per_s: float
    seconds_left: float
    validation_loss: float | None = None
    collapsed: str | None = None
    windows_per_s: float = 0.0
    skill: float | None = None

    def __str__(self) -> str:
        skill = '' if self.skill is None else f', skill {self.skill:.3f}'
        return (f'step {self.step} of {self.steps}: loss {self.loss:.4f}{skill}, smallest std '
                f'{self.latent_std_min:.2f}, rank {self.effective_rank:.1f}; '
                f'{self.steps_per_s:.2g} steps/s ({self.windows_per_s:.0f} windows/s), '
                f'{self.seconds_left:.0f} s left')


class Spoken:
    """Logs progress in words every few seconds, where no terminal shows a bar."""

    def __init__(self, every_s: float = 10.0) -> None:
        self._every_s, self._said = every_s, -math.inf
        self._wanted = distributed.leader() and not sys.stderr.isatty()

    def __call__(self, progress: Progress) -> None:
        """Nothing; says where training is, if it is time to, or at its end."""
        now = time.monotonic()
        due = now - self._said >= self._every_s or progress.step == progress.steps
        if self._wanted and due:
            self._said = now
            log.info('%s', progress)


class CollapseWatch:
    """Notices latents that stay collapsed after the warm-up; stops the run where it may.

    It warns of every collapse, and stops for the one that cannot be a matter of the world: latents
    that are narrow on average. Few directions may be all that a world of one dimension needs.
    `since`: the step since which they are, -1 where they aren't; a run that resumes keeps it.
    """

    def __init__(self, config: TrainConfig) -> None:
        self._config, self.since, self._warned = config, -1, False

    def __call__(self, step: int, latent: LatentStatistics) -> str | None:
        """A sentence that says what to change, or None; raises it as a UserError in the end."""
        advice = ADVICE if self._config.loss == 'lewm' else _ADVICE_PLDM
        sentence = latent.collapse(advice) if step > _WARM_UP * self._config.steps else None
        if sentence and not self._warned:
            log.warning('step %d: %s', step, sentence)
        self._warned = sentence is not None
        if sentence is None or latent.std_mean >= COLLAPSED_STD:
            self.since = -1
            return sentence
        if self.since < 0:
            self.since = step
        patience = max(_LEAST_PATIENCE, _PATIENCE * self._config.steps)
        if self._config.stop_on_collapse and step - self.since >= patience:
            raise UserError(f'training stopped at step {step}: since step {self.since} {sentence}'
                            '. Train again with overwrite=true; train.stop_on_collapse=false '
                            'trains on all the same')
        return sentence


def not_finite(step: int, values: dict[str, float], starts: np.ndarray, dataset: Dataset,
               config: TrainConfig) -> UserError:
    """The error for a step whose `values` (losses, gradient norm) are not all finite.

    It names the batch: the episodes and first rows of its windows, `starts`.
    """
    bad = {name: value for name, value in values.items() if not np.isfinite(value)}
    what = 'gradient' if set(bad) == {'gradient'} else 'loss'
    first = bad['gradient'] if what == 'gradient' else values['loss']
    rest = ', '.join(f'{name} {value:g}' for name, value in values.items() if name != 'loss')
    where = windows_in_words(starts, dataset)
    log.error('step %d: the windows begin at %s', step, where)
    return UserError(
        f'the {what} of step {step} is {first:g} ({rest}), but it must be finite; lower '
        f'train.learning_rate ({config.learning_rate:g} now), or use train.precision=float32, or '
        f'look at the windows of that batch, which begin at {where}')


def out_of_memory(config: TrainConfig, resident: bool) -> UserError:
    """The error for a step that the GPU has no room for; `resident`: all frames are there too."""
    room = ', or train.frames=mapped, for all frames are there as well' if resident else ''
    return UserError(f'a step of train.batch_size={config.batch_size} windows needs more memory '
                     f'than the GPU has left; give fewer{room}, or free what others use of it')


def windows_in_words(starts: np.ndarray, dataset: Dataset) -> str:
    """The windows that begin at rows `starts`, by episode: 'episode 3 row 12, 40; episode 5 …'.

    Rows are those of the dataset's columns.
    """
    ends = dataset.ep_offset + dataset.ep_len
    starts = np.sort(starts)
    order = np.argsort(dataset.ep_offset, kind='stable')
    episodes = order[np.searchsorted(ends[order], starts, side='right')]
    return '; '.join(f'episode {episode} row ' + ', '.join(map(str, starts[episodes == episode]))
                     for episode in dict.fromkeys(episodes.tolist()))
