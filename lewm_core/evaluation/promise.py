"""The promise beside what came out: false alarms in hours of ordinary driving never seen."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np

from lewm_core.alarm import Alarm
from lewm_core.calibration import Calibration
from lewm_core.evaluation.drives import ordinary_residuals
from lewm_core.evaluation.subject import Subject
from lewm_core.evaluation.ways import Judges
from lewm_core.report import Page
from lewm_core.residuals import Residuals, dataset_residuals
from lewm_core.tails import poisson_interval

log = logging.getLogger(__name__)

RATES = (1.0, 6.0, 60.0)
_WATCHED, _CALIBRATED = 1, 1000  # streams of random numbers


@dataclass(frozen=True)
class Ordinary:
    """Ordinary driving, the residuals (T,) of each episode.

    `calibration`: by name, what thresholds may be calibrated on; `watched`: what alarms are
    counted in. `fresh`: driven for this, in a world.
    """

    calibration: dict[str, list[Residuals]]
    watched: list[Residuals]
    fresh: bool


def gather(subject: Subject) -> Ordinary:
    """The calibration episodes (`split`) and the test episodes; in a world fresh drives.

    There `hours` are watched, and calibrated on `calibrations` drives of `calibration_minutes`.
    """
    job, model, dataset = subject.job, subject.model, subject.dataset
    calibration = {'split': dataset_residuals(model, dataset, 'calibration')}
    if subject.make_world is None:
        return Ordinary(calibration, dataset_residuals(model, dataset, 'test'), False)
    for i in range(job.calibrations):
        log.info('  calibration drive %d of %d', i + 1, job.calibrations)
        calibration[f'drive {i + 1}'] = ordinary_residuals(subject, job.calibration_minutes / 60,
                                                           _CALIBRATED + i)
    log.info('  %g hours of ordinary driving', job.hours)
    return Ordinary(calibration, ordinary_residuals(subject, job.hours, _WATCHED), True)


def measure(subject: Subject, ordinary: Ordinary, judges: Judges) -> dict[str, Any]:
    """Alarms that came at each promised rate, their ratio to the promise and its exact interval.

    One row for each calibration. The interval (Garwood) is over the alarms, the calibration taken
    as it is; how much that one matters is what the rows differ by. `judge`: the first drive's,
    else the split's, None when neither can be.
    """
    hours = sum(map(len, ordinary.watched)) * subject.block_s / 3600
    rows = [row for name, judge in judges.items() if judge is not None and hours > 0
            for row in _rows(name, judge.calibration, list(map(judge.score, ordinary.watched)),
                             hours)]
    first = judges.get('drive 1') or judges['split']
    scores = np.concatenate(list(map(first.score, ordinary.watched))) if (
        first is not None and ordinary.watched) else np.zeros(0)
    return {'hours': hours, 'blocks': sum(map(len, ordinary.watched)), 'fresh': ordinary.fresh,
            'rows': rows, 'judge': first,
            'score_quantiles': {f'{q:g}': float(np.quantile(scores, q))
                                for q in (0.5, 0.9, 0.99, 0.999, 1)} if len(scores) else {}}


def _rows(name: str, calibration: Calibration, watched: list[np.ndarray], hours: float
          ) -> list[dict[str, Any]]:
    found = []
    for rate in RATES:
        at = calibration.at_rate(rate)
        alarms = sum(alarms_in(scores, at) for scores in watched)
        low, high = poisson_interval(alarms, hours)
        found.append({'calibration': name, 'calibration_hours': calibration.hours,
                      'promised_per_hour': rate, 'extrapolated': at.extrapolated,
                      'threshold': at.threshold, 'cusum_threshold': at.cusum_threshold,
                      'alarms': alarms, 'per_hour': alarms / hours,
                      'ratio': alarms / hours / rate, 'low': low / rate, 'high': high / rate})
    return found


def alarms_in(scores: np.ndarray, calibration: Calibration) -> int:
    """The number of alarms in one episode's scores (N,), as the monitor raises them."""
    alarm = Alarm(calibration)
    return sum(alarm.judge(score, p_value) for score, p_value in zip(
        scores.tolist(), calibration.p_values(scores).tolist()))


def show(page: Page, found: dict[str, Any]) -> None:
    """Nothing; adds the table of promised and counted alarms."""
    source = 'fresh simulated' if found['fresh'] else 'recorded (test episodes)'
    page.text(f'{found["hours"]:.2f} hours of {source} ordinary driving, never seen by training '
              'or calibration; an alarm is a cluster of exceedances. Exact 95 % interval.', 'note')
    page.table([(r['calibration'], f'{60 * r["calibration_hours"]:.3g} min',
                 f'{r["promised_per_hour"]:g}' + (' *' if r['extrapolated'] else ''),
                 f'{r["threshold"]:.3g}', r['alarms'], f'{r["per_hour"]:.2f}',
                 f'{r["ratio"]:.2f} ({r["low"]:.2f} to {r["high"]:.2f})') for r in found['rows']],
               ('calibrated on', 'of', 'promised an hour', 'threshold', 'alarms', 'an hour',
                'ratio'))
    page.text('* rarer than the calibration can show: extrapolated by its Pareto tail.', 'note')
