"""The gap: the same measures of one checkpoint on two datasets, simulated and real."""

from __future__ import annotations

from typing import Any

import numpy as np

from lewm_core.data import Dataset
from lewm_core.evaluation import open_loop, probes, straightness
from lewm_core.evaluation.intervals import Figure, figure, mean_of, ratio_of, text
from lewm_core.evaluation.subject import Subject, fitting
from lewm_core.report import Page
from lewm_core.surprise import score_dataset
from lewm_core.uncertainty import score_of


def measure(subject: Subject) -> dict[str, Any]:
    """Each figure on this dataset's test episodes, on those of `compare`, and their ratio.

    The probes are fitted on each dataset's own train episodes. A robot of another name and other
    limits is taken, as long as picture, rate and number of actions are the same. `other` is None
    without `compare`.
    """
    if subject.job.compare is None:
        return {'other': None, 'rows': []}
    other = subject.on(fitting(subject.checkpoint, Dataset.open(subject.job.compare), same=False))
    here, there = _figures(subject), _figures(other)
    rows = []
    for name in (n for n in here if n in there):
        ratio = ratio_of(figure(there[name]), figure(here[name]))
        rows.append({'name': name, 'here': here[name], 'there': there[name],
                     'ratio': ratio.value, 'low': ratio.low, 'high': ratio.high})
    return {'other': str(subject.job.compare), 'rows': rows}


def _figures(subject: Subject) -> dict[str, dict[str, Any]]:
    """Every figure by its name."""
    found = {}
    for column, kinds in probes.measure(subject)['columns'].items():
        for kind, figures in kinds.items():
            found |= {f'{kind} probe of {column}, {key}': figures[key] for key in ('r', 'nmse')}
    ahead = open_loop.measure(subject)
    for k in sorted({0, ahead['horizon'] - 1}) if ahead['horizon'] else ():
        found[f'latent error {k + 1} blocks ahead'] = ahead['model'][k]
        found[f'error of "nothing moves" {k + 1} blocks ahead'] = ahead['still'][k]
    straight = straightness.measure(subject)['after']
    if straight is not None:
        found['straightness'] = straight
    scores = score_dataset(subject.model, subject.dataset, 'test',
                           score_of(subject.checkpoint.heads))
    if scores:
        episode = np.repeat(np.arange(len(scores)), [len(s) for s in scores])
        found['surprise of an ordinary block'] = mean_of(
            np.concatenate(scores), episode, subject.job.resamples, subject.job.seed).to_dict()
    return found


def show(page: Page, found: dict[str, Any]) -> None:
    """Nothing; adds the table."""
    if found['other'] is None:
        page.text('No second dataset was given (compare=OTHER.h5).', 'note')
        return
    page.text(f'The other dataset: {found["other"]}. The ratio is other over this, its interval '
              'made of theirs.')
    page.table([(row['name'], text(row['here']), text(row['there']),
                 str(Figure(row['ratio'], row['low'], row['high'], 0)))
                for row in found['rows']], ('', 'this dataset', 'the other', 'ratio'))
