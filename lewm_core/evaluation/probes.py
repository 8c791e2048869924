"""Probes: what of the robot's and the world's state can be read out of a latent."""

from __future__ import annotations

from typing import Any

import numpy as np

from lewm_core.evaluation.intervals import Figure, over_episodes, text
from lewm_core.evaluation.mlp import MlpProbe
from lewm_core.evaluation.subject import Encoded, Subject
from lewm_core.probes import LinearProbe
from lewm_core.report import Page, new_figure, to_png

_RIDGES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)


def measure(subject: Subject) -> dict[str, Any]:
    """Pearson's r, R² and the normalised squared error of each state column, linear and MLP.

    Fitted on train; the ridge and the MLP's stopping chosen on validation; measured on test. An
    angle is read as its sine and its cosine. Empty without state columns.
    """
    splits = {split: subject.encoded(split) for split in ('train', 'test')}
    splits['validation'] = (subject.encoded('validation')
                            if len(subject.dataset.rows('validation')) > 1 else splits['train'])
    columns = {split: targets(e.states, subject.angles) for split, e in splits.items()}
    names = [name for name, values in columns['train'].items()
             if varies(values) and varies(columns['test'][name])]
    if not names:
        return {'columns': {}, 'ridge': None, 'frames': {k: len(v.rows) for k, v in
                                                         splits.items()}}
    tables = {split: np.stack([c[name] for name in names], axis=1)
              for split, c in columns.items()}
    linear, ridge = fit_linear(splits['train'].latents, tables['train'],
                               splits['validation'].latents, tables['validation'])
    mlp = MlpProbe.fit(splits['train'].latents, tables['train'], splits['validation'].latents,
                       tables['validation'], subject.job.probe_steps, subject.job.seed)
    test, found = splits['test'], {}
    said = {'linear': linear(test.latents), 'mlp': mlp(test.latents)}
    for i, name in enumerate(names):
        found[name] = {kind: {key: figure.to_dict() for key, figure in _scores(
            tables['test'][:, i], values[:, i], test, subject).items()}
            for kind, values in said.items()}
    return {'columns': found, 'ridge': ridge,
            'frames': {split: len(e.rows) for split, e in splits.items()},
            'sample': _sample(names, tables['test'], said['linear'])}


def targets(states: dict[str, np.ndarray], angles: set[str]) -> dict[str, np.ndarray]:
    """The columns to read out: each state's, an angle's sine and cosine in its place."""
    columns = {}
    for name, values in states.items():
        if name in angles:
            columns[f'sin {name}'], columns[f'cos {name}'] = np.sin(values), np.cos(values)
        else:
            columns[name] = values
    return columns


def fit_linear(latents: np.ndarray, columns: np.ndarray, held: np.ndarray,
               held_columns: np.ndarray) -> tuple[LinearProbe, float]:
    """The ridge regression whose penalty is best on the held-out pair, and that penalty.

    One penalty for all columns. Rows where a column is NaN are left out of that column alone, as
    by the MLP: what is told by one topic must not hang on when another was heard.
    """
    known = np.isfinite(held_columns)
    fits = [(_by_column(latents, columns, ridge), ridge) for ridge in _RIDGES]
    some = known.any(axis=0)
    if not some.any():
        return fits[len(fits) // 2]
    scale = (np.nanvar(columns, axis=0) + 1e-24) * np.maximum(known.sum(axis=0), 1)
    errors = [(np.where(known, fit(held) - held_columns, 0.0) ** 2).sum(axis=0) / scale
              for fit, _ in fits]
    return fits[int(np.argmin([error[some].mean() for error in errors]))]


def _by_column(latents: np.ndarray, columns: np.ndarray, ridge: float) -> LinearProbe:
    """The ridge regression of each column on the rows where it is known."""
    known, found = np.isfinite(columns), LinearProbe(
        np.zeros((latents.shape[1], columns.shape[1])), np.zeros(columns.shape[1]))
    alike, group = np.unique(known, axis=1, return_inverse=True)
    for i, rows in enumerate(alike.T):
        of = np.flatnonzero(np.ravel(group) == i)
        fit = LinearProbe.fit(latents[rows], columns[rows][:, of], ridge)
        found.weights[:, of], found.bias[of] = fit.weights, fit.bias
    return found


def _scores(true: np.ndarray, said: np.ndarray, test: Encoded, subject: Subject
            ) -> dict[str, Figure]:
    good = np.isfinite(true)
    episodes, at = np.unique(test.episode[good], return_inverse=True)
    # About the mean, or the sums of squares would cancel.
    t, p = true[good] - true[good].mean(), said[good] - true[good].mean()
    sums = np.zeros((len(episodes), 6))
    np.add.at(sums, at, np.stack([np.ones_like(t), t, p, t * t, p * p, t * p], axis=1))
    job = subject.job
    return {name: over_episodes(sums, statistic, job.resamples, job.seed)
            for name, statistic in (('r', _pearson), ('r2', _r2), ('nmse', _nmse))}


def _pearson(s: np.ndarray) -> np.ndarray:
    n, t, p, tt, pp, tp = s.T
    return (tp - t * p / n) / np.sqrt((tt - t * t / n) * (pp - p * p / n))


def _nmse(s: np.ndarray) -> np.ndarray:
    n, t, _, tt, pp, tp = s.T
    return (tt + pp - 2 * tp) / (tt - t * t / n)


def _r2(s: np.ndarray) -> np.ndarray:
    return 1 - _nmse(s)


def varies(values: np.ndarray) -> bool:
    """Whether what is finite of a column (N,) is at least two values that differ."""
    good = values[np.isfinite(values)]
    return len(good) > 1 and float(good.std()) > 1e-12


def _sample(names: list[str], true: np.ndarray, said: np.ndarray) -> dict[str, Any]:
    """Some pairs to plot: the columns' names, true and read values (K, M)."""
    rows = np.linspace(0, len(true) - 1, min(300, len(true))).astype(int)
    return {'names': names, 'true': true[rows], 'said': said[rows]}


def show(page: Page, found: dict[str, Any]) -> None:
    """Nothing; adds the table and a plot of read against true values."""
    if not found['columns']:
        page.text('The dataset has no state columns that vary, so nothing can be probed.', 'note')
        return
    page.text('Fitted on training episodes, chosen on validation, measured on test episodes; 95 % '
              'bootstrap intervals over episodes. r: Pearson; NMSE: squared error over variance.',
              'note')
    page.table([(name, *(text(probe[kind][key]) for kind in ('linear', 'mlp')
                         for key in ('r', 'r2', 'nmse')))
                for name, probe in found['columns'].items()],
               ('column', 'linear r', 'R²', 'NMSE', 'MLP r', 'R²', 'NMSE'))
    names, sample = found['sample']['names'], found['sample']
    figure, axes = new_figure(2.6 * len(names) + 0.6, 2.8, ncols=len(names), squeeze=False)
    for i, (name, axis) in enumerate(zip(names, axes[0])):
        axis.plot(sample['true'][:, i], sample['said'][:, i], '.', markersize=3)
        ends = [sample['true'][:, i].min(), sample['true'][:, i].max()]
        axis.plot(ends, ends, color='0.6', linewidth=1)
        axis.set(title=name, xlabel='true', ylabel='read out (linear)' if i == 0 else '')
    page.picture(to_png(figure), 'state read out of the latents against the true state')
