"""The second signal, jump or shift, as a classifier of what was detected."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from lewm_core.calibration import Calibration
from lewm_core.evaluation.intervals import Figure, mean_of
from lewm_core.evaluation.trials import Outcome
from lewm_core.kinds import BLOCKS, kind, persistence, wait
from lewm_core.residuals import Score
from lewm_core.tails import auroc, wilson_interval


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
    """The table of what was said, the share that was right, and the AUROC of the persistence."""
    table = {row.name: {'kind': row.kind, **{said: row.said.count(said)
                                             for said in ('jump', 'shift')},
                        'missed': row.said.count('')} for row in rows}
    told = [(row.kind == said, e) for row in rows
            for said, e in zip(row.said, row.episode) if said]
    right = (Figure(float('nan'), float('nan'), float('nan'), 0) if not told else mean_of(
        np.array([float(good) for good, _ in told]), np.array([e for _, e in told]), 1000, 0))
    found = {name: np.concatenate([r.persistence for r in rows if r.kind == name] or [[]])
             for name in ('jump', 'shift')}
    share = {name: _recall(rows, name) for name in ('jump', 'shift')}
    area = auroc(found['shift'], found['jump'])
    return {'table': table, 'right': right.to_dict(), 'recall': share,
            'auroc': Figure(area, float('nan'), float('nan'), len(found['jump'])).to_dict(),
            'wait_blocks': rows[0].wait_blocks if rows else 0}


def _recall(rows: list[Judged], name: str) -> dict[str, Any]:
    said = [s for row in rows if row.kind == name for s in row.said if s]
    low, high = wilson_interval(said.count(name), len(said))
    return {'right': said.count(name), 'of': len(said), 'low': low, 'high': high}
