"""Surprise: how well each perturbation is noticed, how soon, and what it is taken for."""

from __future__ import annotations

import logging
import math
from typing import Any

import numpy as np
from scipy import stats

from lewm_core.calibration import Calibration
from lewm_core.evaluation import promise
from lewm_core.evaluation.intervals import over_groups, share_of, text
from lewm_core.evaluation.kinds import confusion, judged
from lewm_core.evaluation.subject import Subject
from lewm_core.evaluation.trials import Outcome, ordinary, outcomes
from lewm_core.evaluation.ways import TITLES, Judges, ways
from lewm_core.report import Page, new_figure, to_png
from lewm_core.residuals import Score
from lewm_core.tails import auroc

log = logging.getLogger(__name__)

RATES = (1.0, 6.0)
_RESAMPLES = 200  # of ranks, which have no sums to resample


def measure(subject: Subject) -> dict[str, Any]:
    """Detection of each perturbation, jump or shift, and the false alarms beside the promise.

    By the monitor, and by single blocks of each score alone. The thresholds are calibrated on a
    fresh drive of `calibration_minutes` where there is a world, else on the calibration episodes.
    `perturbations` is None where nothing was calibrated or no trajectory is long enough.
    """
    driven, trials = promise.gather(subject), ordinary(subject)
    made = [] if trials is None else list(
        outcomes(subject, trials, lambda name: log.info('  %s', name)))
    never = [outcome.name for outcome in made if not len(outcome.disturbed)]
    made = [outcome for outcome in made if len(outcome.disturbed)]
    found = {way: _by(judges, subject, driven, made)
             for way, judges in ways(subject, driven.calibration).items()}
    if trials is None:
        return found
    return {**found, 'fresh': trials.fresh, 'trajectories': len(trials.pixels),
            'episodes': len(np.unique(trials.episode)), 'after': trials.after,
            'block_s': subject.block_s, 'never_happened': never}


def _by(judges: Judges, subject: Subject, driven: promise.Ordinary, made: list[Outcome]
        ) -> dict[str, Any]:
    """All figures of one way to tell an alarm."""
    kept = promise.measure(subject, driven, judges)
    judge = kept.pop('judge')
    found: dict[str, Any] = {'promise': kept, 'perturbations': None}
    if judge is None or not made:
        return found
    levels, score = {rate: judge.calibration.at_rate(rate) for rate in RATES}, judge.score
    rows = [_row(outcome, score, levels, subject) for outcome in made]
    _holm(rows)
    kinds = confusion([judged(outcome, score, levels[RATES[-1]], subject.model.history)
                       for outcome in made])
    return {**found, 'perturbations': rows, 'kinds': kinds,
            'thresholds': {f'{rate:g}': at.threshold for rate, at in levels.items()}}


def exceed(scores: np.ndarray, calibration: Calibration) -> np.ndarray:
    """Whether each block (N, K) of N drives exceeds: by its score or by the sum of what lasts."""
    return (scores > calibration.threshold) | np.array([calibration.lasts(s) for s in scores])


def _row(outcome: Outcome, by: Score, levels: dict[float, Calibration], subject: Subject
         ) -> dict[str, Any]:
    """The figures of one perturbation; a trajectory is compared with itself, undisturbed."""
    job, episode, first = subject.job, outcome.episode, outcome.before
    score, control = by(outcome.disturbed), by(outcome.control)
    over = {rate: [exceed(each, at)[:, first:] for each in (score, control)]
            for rate, at in levels.items()}
    score, control = score[:, first:], control[:, first:]
    ratio = np.log(np.maximum(score, 1e-30)) - np.log(np.maximum(control, 1e-30))
    row: dict[str, Any] = {'name': outcome.name, 'kind': outcome.kind, 'count': len(score)}
    for name, (hit, miss) in {'auroc': (score[:, 0], control[:, 0]),
                              'auroc_window': (score.max(1), control.max(1))}.items():
        row[name] = over_groups(episode, lambda at, h=hit, m=miss: auroc(h[at], m[at]),
                                min(job.resamples, _RESAMPLES), job.seed).to_dict()
    for rate, (found, false) in over.items():
        row[f'at_{rate:g}'] = {
            'first': share_of(found[:, 0], episode, job.resamples, job.seed).to_dict(),
            'window': share_of(found.any(1), episode, job.resamples, job.seed).to_dict(),
            'undisturbed': float(false.any(1).mean()), 'delay_blocks': delays(found)}
    row.update(effect(ratio[:, 0], episode, subject))
    row['decay'] = np.exp(np.median(ratio, axis=0))
    return row


def delays(over: np.ndarray) -> dict[str, float | None]:
    """Median and 95 % quantile of the blocks until the first True of `over` (N, K), where any."""
    found = over.any(axis=1)
    late = over.argmax(axis=1)[found]
    if not len(late):
        return {'median': None, 'p95': None}
    return {'median': float(np.median(late)), 'p95': float(np.quantile(late, 0.95))}


def effect(ratio: np.ndarray, episode: np.ndarray, subject: Subject) -> dict[str, Any]:
    """The effect on the first block, and a paired one-sided Wilcoxon test of it.

    `ratio` (N,) is the log of disturbed over undisturbed. `effect` is its mean over its deviation
    (Cohen's d for pairs). Trajectories of one episode are averaged first: the test counts
    independent ones alone.
    """
    pairs = np.array([ratio[episode == e].mean() for e in np.unique(episode)])

    def size(at: np.ndarray) -> float:
        spread = pairs[at].std(ddof=1) if len(at) > 1 else 0.0
        return float(pairs[at].mean() / spread) if spread > 0 else math.nan

    job = subject.job
    figure = over_groups(np.arange(len(pairs)), size, min(job.resamples, _RESAMPLES), job.seed)
    p = stats.wilcoxon(pairs, alternative='greater').pvalue if np.abs(pairs).max() > 0 else 1.0
    return {'effect': figure.to_dict(), 'ratio': float(np.exp(np.median(pairs))),
            'p': float(p), 'pairs': len(pairs)}


def _holm(rows: list[dict[str, Any]]) -> None:
    """Nothing; adds to each row its p-value after Holm's correction (1979) over all of them."""
    largest = 0.0
    for rank, row in enumerate(sorted(rows, key=lambda r: r['p'])):
        largest = max(largest, min(1.0, (len(rows) - rank) * row['p']))
        row['p_holm'] = largest


def show(page: Page, found: dict[str, Any]) -> None:
    """Nothing; adds the promise, the detection table, the decay and the kinds, each way."""
    for name, title in TITLES.items():
        if name in found:
            page.text(f'{title}.', 'good')
            promise.show(page, found[name]['promise'])
            _show(page, found, found[name])


def _show(page: Page, trials: dict[str, Any], found: dict[str, Any]) -> None:
    if found['perturbations'] is None:
        page.text('No trajectory is long enough, or nothing was calibrated: no perturbation was '
                  'judged.', 'note')
        return
    if trials['never_happened']:
        page.text(f'Never found room to happen: {", ".join(trials["never_happened"])}.', 'note')
    source = ('fresh simulated drives' if trials['fresh'] else
              f'windows of {trials["episodes"]} test episodes')
    page.text(f'{trials["trajectories"]} trajectories ({source}), each with and without the '
              f'perturbation; {trials["after"]} blocks of {trials["block_s"]:g} s are looked at '
              'from it on. AUROC: of the first block; within: of the highest. Detected: above '
              'the threshold within those blocks. Effect: mean over deviation of the log ratio '
              'of the scores of the first block, paired; p: Wilcoxon, one-sided, Holm.', 'note')
    page.table([_cells(row) for row in found['perturbations']],
               ('perturbation', 'trajectories', 'AUROC', 'within', 'detected at 1/h', 'at 6/h',
                'delay at 6/h, blocks', 'score ×', 'effect', 'p'))
    from matplotlib import colormaps
    figure, axis = new_figure(8.5, 3.8)
    axis.set_prop_cycle(color=colormaps['tab20'].colors)  # ten colours would come twice
    for row in found['perturbations']:
        axis.semilogy(row['decay'], label=row['name'],
                      linestyle='-' if row['kind'] == 'jump' else '--')
    axis.set(xlabel='blocks after the event', ylabel='score / undisturbed (median)')
    axis.legend(fontsize=6, ncols=2, loc='center left', bbox_to_anchor=(1, 0.5))
    page.picture(to_png(figure), 'how surprise decays after each perturbation')
    kinds = found['kinds']
    page.text(f'Jump or shift, told {kinds["wait_blocks"]} blocks after the alarm, of what was '
              f'detected at 6 an hour: {text(kinds["right"])} right; AUROC of the persistence '
              f'over all, detected or not: {text(kinds["auroc"])}.')
    page.table([(name, row['kind'], row['jump'], row['shift'], row['missed'])
                for name, row in kinds['table'].items()],
               ('perturbation', 'is a', 'taken for a jump', 'for a shift', 'missed'))


def _cells(row: dict[str, Any]) -> tuple[Any, ...]:
    delay = row['at_6']['delay_blocks']['median']
    return (row['name'], row['count'], text(row['auroc']), text(row['auroc_window']),
            text(row['at_1']['window']), text(row['at_6']['window']),
            '–' if delay is None else f'{delay:g}', f'{row["ratio"]:.3g}', text(row['effect']),
            f'{row["p_holm"]:.2g}')
