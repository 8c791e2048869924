"""The second signal, jump or shift, as a classifier of what was detected."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from lewm_core.calibration import Calibration
from lewm_core.evaluation.intervals import Figure, over_groups, share_of
from lewm_core.evaluation.trials import Outcome
from lewm_core.kinds import BLOCKS, kind, persistence, wait
from lewm_core.residuals import Score
from lewm_core.tails import auroc

_RESAMPLES = 200  # of ranks, which have no sums to resample


@dataclass(frozen=True)
class Judged:
    """One perturbation's trajectories: what was said of each ('jump', 'shift', '' if missed).

    `persistence` (N,) is the share of unusual blocks after the event, detected or not.
    """

    name: str
    kind: str
    said: list[str]
    persistence: np.ndarray
    episode: np.ndarray
    wait_blocks: int


def judged(outcome: Outcome, score: Score, calibration: Calibration, history: int) -> Judged:
    """What the kind of each alarm would have been said to be, at the calibration's own rate.

    An alarm that comes too late to be judged within the window counts as missed.
    """
    first, later, said, lasting = outcome.before, wait(history), [], []
    for scores in score(outcome.disturbed):
        p, lasts = calibration.p_values(scores)[first:], calibration.lasts(scores)[first:]
        over = np.flatnonzero(lasts | (scores[first:] > calibration.threshold))
        said.append(_said(p, lasts, int(over[0]), later) if len(over) else '')
        lasting.append(persistence(p[later:later + BLOCKS]))
    return Judged(outcome.name, outcome.kind, said, np.array(lasting), outcome.episode,
                  later + BLOCKS - 1)


def _said(p_values: np.ndarray, lasts: np.ndarray, alarm: int, later: int) -> str:
    """What the alarm of block `alarm` is said to be; '' where the window ends before that."""
    end = alarm + later + BLOCKS
    if lasts[alarm:end].any():
        return 'shift'
    return kind(p_values[alarm + later:end]) if end <= len(p_values) else ''


def confusion(rows: list[Judged]) -> dict[str, Any]:
    """What was said: a table, the share that was right, the AUROC of the persistence.

    `right` and `right_by_kind` are of what was detected; `missed` in the table is the rest.
    """
    table = {row.name: {'kind': row.kind, **{said: row.said.count(said)
                                             for said in ('jump', 'shift')},
                        'missed': row.said.count('')} for row in rows}
    share = {name: _right([row for row in rows if row.kind == name]).to_dict()
             for name in ('jump', 'shift')}
    return {'table': table, 'right': _right(rows).to_dict(), 'right_by_kind': share,
            'auroc': _apart(rows).to_dict(),
            'wait_blocks': rows[0].wait_blocks if rows else 0}


def _apart(rows: list[Judged]) -> Figure:
    """The AUROC of the persistence of shifts beside that of jumps; drives are drawn, as below."""
    lasting, episode = (np.concatenate([getattr(r, name) for r in rows] or [[]])
                        for name in ('persistence', 'episode'))
    shift = np.repeat([r.kind == 'shift' for r in rows], [len(r.persistence) for r in rows])
    return over_groups(episode, lambda at: auroc(lasting[at][shift[at]], lasting[at][~shift[at]]),
                       _RESAMPLES, 0)


def _right(rows: list[Judged]) -> Figure:
    """The share that was told rightly of what was detected.

    Every perturbation happens to the same drives, so what is drawn anew is a drive with all that
    was said of it.
    """
    told = [(row.kind == said, e) for row in rows
            for said, e in zip(row.said, row.episode) if said]
    return share_of(np.array([good for good, _ in told]), np.array([e for _, e in told]), 1000, 0)
