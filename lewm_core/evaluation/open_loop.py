"""Open loop: how far imagination drifts from what came, beside baselines that know less."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from lewm_core.evaluate import encode_rows
from lewm_core.evaluation.intervals import Figure, over_episodes
from lewm_core.evaluation.subject import Subject
from lewm_core.model import LatentDynamics
from lewm_core.probes import LinearProbe
from lewm_core.report import Page, new_figure, to_png

_RIDGES = (1e-6, 1e-4, 1e-2)
_BATCH = 256


def measure(subject: Subject) -> dict[str, Any]:
    """The squared latent error 1 … H blocks ahead: the model's, nothing's, a linear model's.

    Mean over latent dimensions, of windows in test episodes that begin with `history` true
    latents. The linear model maps one latent and one block to the next latent and is fitted on
    train, its ridge chosen on validation. `skill` is 1 - model / nothing moves. Empty lists where
    no episode is long enough for a single block ahead.
    """
    context = subject.model.history
    horizon = longest(subject, 'test', subject.job.horizon)
    starts, blocks, episode = subject.windows('test', context + horizon)
    if not horizon or not len(starts):
        return {'horizon': 0, 'windows': 0, 'model': [], 'still': [], 'linear': [], 'skill': []}
    latents = encode_rows(subject.model, subject.dataset,
                          subject.frame_rows(starts, context + horizon))
    errors = {'model': imagination_errors(subject.model, latents, blocks, context),
              'still': still_errors(latents, context)}
    linear = fit_dynamics(subject)
    if linear is not None:
        errors['linear'] = _linear_errors(linear, latents, blocks, context)
    job = subject.job

    def figures(kinds: tuple[str, ...], statistic: Any) -> list[Figure]:
        made = []
        for k in range(horizon):
            sums = episode_sums(np.stack([errors[kind][:, k] for kind in kinds], 1), episode)
            made.append(over_episodes(sums, statistic, job.resamples, job.seed))
        return made

    found = {kind: [f.to_dict() for f in figures((kind,), lambda s: s[:, 1] / s[:, 0])]
             for kind in errors}
    found.setdefault('linear', [])
    found['skill'] = [f.to_dict() for f in figures(('model', 'still'),
                                                   lambda s: 1 - s[:, 1] / s[:, 2])]
    return {'horizon': horizon, 'windows': len(starts), 'block_s': subject.block_s, **found}


def longest(subject: Subject, split: str, horizon: int) -> int:
    """The largest horizon up to `horizon` that some window in `split` has room for; 0 if none."""
    context = subject.model.history
    lengths = subject.dataset.ep_len[subject.dataset.episodes(split)]
    room = (int(lengths.max(initial=1)) - 1) // subject.skip + 1 - context
    return max(0, min(horizon, room))


@torch.no_grad()
def imagination_errors(model: LatentDynamics, latents: np.ndarray, blocks: np.ndarray,
                       context: int) -> np.ndarray:
    """The errors (B, K) of K imagined blocks, from latents (B, C + K, D) and all blocks between.
    """
    device, errors = next(model.parameters()).device, []
    for i in range(0, len(latents), _BATCH):
        z, b = (torch.from_numpy(np.ascontiguousarray(v[i:i + _BATCH])).to(device)
                for v in (latents, blocks))
        imagined = model.rollout(z[:, :context], b[:, :context - 1], b[:, None, context - 1:])
        errors.append((imagined[:, 0] - z[:, context:]).square().mean(-1).cpu().numpy())
    return np.concatenate(errors).astype(np.float64)


def still_errors(latents: np.ndarray, context: int) -> np.ndarray:
    """The errors (B, K) of "nothing moves", from latents (B, C + K, D)."""
    off = latents[:, context:].astype(np.float64) - latents[:, context - 1:context]
    return (off ** 2).mean(axis=-1)


def episode_sums(values: np.ndarray, episode: np.ndarray) -> np.ndarray:
    """Counts and sums (E, 1 + S) by episode of rows `values` (N, S)."""
    names, at = np.unique(episode, return_inverse=True)
    sums = np.zeros((len(names), 1 + values.shape[1]))
    np.add.at(sums, at, np.concatenate([np.ones((len(values), 1)), values], axis=1))
    return sums


def fit_dynamics(subject: Subject) -> LinearProbe | None:
    """The linear map from (latent, block) to the change of the latent; None without windows."""
    pairs = {split: _pairs(subject, split) for split in ('train', 'validation')}
    inputs, changes = pairs['train']
    if len(inputs) < 2:
        return None
    held, held_changes = pairs['validation'] if len(pairs['validation'][0]) else pairs['train']
    fits = [LinearProbe.fit(inputs, changes, ridge) for ridge in _RIDGES]
    return fits[int(np.argmin([((f(held) - held_changes) ** 2).mean() for f in fits]))]


def _pairs(subject: Subject, split: str) -> tuple[np.ndarray, np.ndarray]:
    starts, blocks, _ = subject.windows(split, 2)
    latents = encode_rows(subject.model, subject.dataset, subject.frame_rows(starts, 2)) if len(
        starts) else np.zeros((0, 2, subject.model.config.latent_dim), np.float32)
    flat = blocks.reshape(len(starts), np.prod(blocks.shape[1:], dtype=int))  # -1 fails on none
    return np.concatenate([latents[:, 0], flat], axis=1), latents[:, 1] - latents[:, 0]


def _linear_errors(linear: LinearProbe, latents: np.ndarray, blocks: np.ndarray, context: int
                   ) -> np.ndarray:
    here, errors = latents[:, context - 1].astype(np.float64), []
    for k in range(context, latents.shape[1]):
        block = blocks[:, k - 1].reshape(len(blocks), -1)
        here = here + linear(np.concatenate([here, block], axis=1))
        errors.append(((here - latents[:, k]) ** 2).mean(axis=-1))
    return np.stack(errors, axis=1)


def show(page: Page, found: dict[str, Any]) -> None:
    """Nothing; adds the curves of error against horizon and a table."""
    if not found['horizon']:
        page.text('No test episode is long enough to imagine a block ahead.', 'note')
        return
    names = {'model': 'the model', 'still': 'nothing moves', 'linear': 'linear model'}
    figure, axis = new_figure(6.5, 3.2)
    ahead = np.arange(1, found['horizon'] + 1)
    for kind, name in names.items():
        if found[kind]:
            line, = axis.plot(ahead, [f['value'] for f in found[kind]], label=name)
            ends = [[np.nan if f[end] is None else f[end] for f in found[kind]]
                    for end in ('low', 'high')]
            axis.fill_between(ahead, *ends, color=line.get_color(), alpha=0.2)
    axis.set(xlabel=f'blocks ahead ({found["block_s"]:g} s each)', ylabel='squared latent error',
             ylim=(0, None))
    axis.legend()
    page.text(f'{found["windows"]} windows of test episodes, the recorded actions; bands are 95 % '
              'bootstrap intervals over episodes.', 'note')
    page.picture(to_png(figure), 'latent error against the horizon')
    at = sorted({0, found['horizon'] // 2, found['horizon'] - 1})
    page.table([(k + 1, *(f'{found[kind][k]["value"]:.4g}' if found[kind] else '–'
                          for kind in names), f'{found["skill"][k]["value"]:.3f}') for k in at],
               ('blocks ahead', *names.values(), 'skill'))
