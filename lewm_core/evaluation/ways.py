"""The monitor, and the simpler ways it is compared with: a score, and thresholds for it."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

from lewm_core.calibration import Calibration, calibrate
from lewm_core.evaluation.subject import Subject
from lewm_core.recalibration import calibrated, errors_of
from lewm_core.residuals import Residuals, Score, plain
from lewm_core.types import UserError
from lewm_core.uncertainty import score_of

log = logging.getLogger(__name__)

TITLES = {
    'monitor': 'By the score and by the sum of what lasts, as the monitor raises its alarms',
    'expected': 'By the score alone: the whitened error over what was to be expected, as the '
                'calibration drive taught it',
    'trained': 'The same, over what was to be expected as training left it',
    'whitened': 'By the error whitened: by the covariance of errors on training episodes',
    'plain': 'By the squared latent error'}


@dataclass(frozen=True)
class Judge:
    """What is an alarm: the score, and the thresholds that a drive was scored for."""

    score: Score
    calibration: Calibration

    def by_score_alone(self) -> Judge:
        """The same by single blocks alone, without the sum of what lasts."""
        return replace(self, calibration=self.calibration.by_score_alone())


# By the name of the drive that was calibrated on; None where it was too little.
Judges = dict[str, 'Judge | None']


def ways(subject: Subject, drives: dict[str, list[Residuals]]) -> dict[str, Judges]:
    """The judges of each way, calibrated on each of `drives`.

    `monitor` is what a monitor is after it was recalibrated on the drive; `expected` its score by
    single blocks alone. What is left out of that score, step by step: `trained`, which learned
    nothing from the drive; `whitened`, by the errors' covariance alone; `plain`, the squared
    latent error. All but the first raise alarms by single blocks alone.
    """
    head = subject.checkpoint.heads.get('uncertainty')
    monitor = {name: _recalibrated(subject, episodes) for name, episodes in drives.items()}
    scores = {'plain': plain} if head is None else {
        'trained': head.score, 'whitened': lambda found: head.whitened(found.off), 'plain': plain}
    found = {'monitor': monitor}
    if head is not None:
        found['expected'] = {name: judge and judge.by_score_alone()
                             for name, judge in monitor.items()}
    return {**found, **{way: {name: _fixed(subject, score, episodes)
                              for name, episodes in drives.items()}
                        for way, score in scores.items()}}


def _recalibrated(subject: Subject, episodes: list[Residuals]) -> Judge | None:
    model, heads = subject.model, subject.checkpoint.heads
    try:
        found = calibrated(model, heads, [errors_of(heads, each) for each in episodes],
                           subject.block_s, subject.checkpoint.surprise)
    except UserError as error:
        log.warning('no threshold: %s', error)
        return None
    return None if found is None else Judge(score_of(found[1]), found[0])


def _fixed(subject: Subject, score: Score, episodes: list[Residuals]) -> Judge | None:
    try:
        return Judge(score, calibrate([score(each) for each in episodes], subject.block_s,
                                      subject.checkpoint.surprise)).by_score_alone()
    except UserError:  # said for the monitor already
        return None
