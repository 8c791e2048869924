"""A checkpoint's figures on episodes that training never saw."""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from lewm_core.checkpoint import Checkpoint
from lewm_core.data import Dataset
from lewm_core.model import WorldModel, pixels_on
from lewm_core.monitor import LatentStatistics, latent_statistics
from lewm_core.probes import LinearProbe, ridge_probe
from lewm_core.types import UserError

log = logging.getLogger(__name__)

_BATCH = 256
_FRAMES = 2000
_WINDOWS = 128


@dataclass(frozen=True)
class Evaluation:
    """What the model knows, measured on the episodes of `split`.

    `probe_r2`: for each state column, how well a ridge regression fitted on training episodes
    reads it out of a latent (R², at most 1; empty without state columns or training episodes).
    `latent`: the latents' spread. `open_loop_error[k]`: squared latent error, mean over
    dimensions, k + 1 blocks ahead with the recorded actions; `still_error[k]`: the same for
    "nothing moves". `open_loop_rmse[name][k]`: the error of the imagined latent's probe, in the
    column's own unit. Empty where no episode is long enough.
    """

    split: str
    episodes: int
    frames: int
    probe_r2: dict[str, float]
    latent: LatentStatistics
    block_s: float
    open_loop_error: tuple[float, ...] = ()
    still_error: tuple[float, ...] = ()
    open_loop_rmse: dict[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)

    @property
    def probe_r2_min(self) -> float | None:
        """The worst column's R², None when there is none."""
        return min(self.probe_r2.values(), default=None)

    @property
    def one_step_skill(self) -> float | None:
        """1 - error one block ahead over that of "nothing moves"; 0: no better, 1: perfect."""
        if not self.still_error or self.still_error[0] <= 0:
            return None
        return 1.0 - self.open_loop_error[0] / self.still_error[0]

    def to_dict(self) -> dict[str, Any]:
        """The figures as a plain tree for JSON."""
        return {**dataclasses.asdict(self), 'probe_r2_min': self.probe_r2_min,
                'one_step_skill': self.one_step_skill, 'collapsed': self.latent.collapsed}


def evaluate_checkpoint(checkpoint: Checkpoint, dataset: Dataset, split: str = 'test'
                        ) -> Evaluation:
    """The evaluation of `checkpoint` on `split` of `dataset`, split as in its training.

    Raises UserError when the dataset is another robot's or has no frames in `split`.
    """
    model = checkpoint.model
    if checkpoint.spec.fingerprint() != dataset.spec.fingerprint():
        raise UserError(f'the checkpoint is for robot {checkpoint.spec.name!r} '
                        f'({checkpoint.spec.fingerprint()}), but the dataset '
                        f'{str(dataset.path)!r} is of {dataset.spec.name!r} '
                        f'({dataset.spec.fingerprint()}): evaluate on recordings of the same '
                        'robot and spec')
    dataset = dataset.with_split(checkpoint.data)
    rows = evenly(dataset.rows(split), _FRAMES)
    if len(rows) < 2:
        raise UserError(f'dataset {str(dataset.path)!r} has {len(rows)} frames in its {split} '
                        'episodes, but 2 are needed: record more episodes')
    latents = encode_rows(model, dataset, rows)
    fit_rows = evenly(dataset.rows('train'), _FRAMES)
    fit = encode_rows(model, dataset, fit_rows) if dataset.states and len(fit_rows) else None
    scores = {} if fit is None else ridge_probe(
        fit, {k: v[fit_rows] for k, v in dataset.states.items()},
        latents, {k: v[rows] for k, v in dataset.states.items()})
    errors, still, imagined, ends = _open_loop(model, dataset, split, checkpoint.planner.horizon)
    rmse = {}
    for name in scores if len(ends) else ():
        column = dataset.states[name]
        good = np.isfinite(column[fit_rows])
        probe = LinearProbe.fit(fit[good], column[fit_rows][good, None])
        off = probe(imagined)[..., 0] - column[ends]
        rmse[name] = tuple(np.sqrt(np.nanmean(off ** 2, axis=0)).tolist())
    return Evaluation(split, len(dataset.episodes(split)), len(dataset.rows(split)), scores,
                      latent_statistics(latents), model.config.frameskip * dataset.spec.tick_s,
                      errors, still, rmse)


@torch.no_grad()
def encode_rows(model: WorldModel, dataset: Dataset, rows: np.ndarray) -> np.ndarray:
    """The latents (*rows.shape, D) float32 of the frames at `rows`, on the model's device."""
    flat = np.asarray(rows).reshape(-1)
    pieces = [encode_pixels(model, dataset.frames(flat[i:i + _BATCH]))
              for i in range(0, len(flat), _BATCH)]
    return np.concatenate(pieces).reshape(*np.shape(rows), -1)


@torch.no_grad()
def encode_pixels(model: WorldModel, pixels: np.ndarray) -> np.ndarray:
    """The latents (..., D) float32 of pictures (..., H, W, 3) uint8, on the model's device."""
    device, flat = next(model.parameters()).device, pixels.reshape(-1, *pixels.shape[-3:])
    pieces = [model.encode(pixels_on(device, flat[i:i + _BATCH])).cpu()
              for i in range(0, len(flat), _BATCH)]
    return torch.cat(pieces).numpy().reshape(*pixels.shape[:-3], -1)


@torch.no_grad()
def _open_loop(model: WorldModel, dataset: Dataset, split: str, horizon: int
               ) -> tuple[tuple[float, ...], tuple[float, ...], np.ndarray, np.ndarray]:
    """Errors (K,) of imagination and of standing still, imagined latents (B, K, D), rows (B, K).

    Each window gives `history` true latents as context; the rest is imagined with the recorded
    actions and held against the latents of the frames that came.
    """
    skip, context = model.config.frameskip, model.config.history
    frames = context + horizon
    starts = evenly(dataset.windows(split, frames, skip), _WINDOWS)
    if not len(starts):
        return (), (), np.zeros((0, horizon, 0)), np.zeros((0, horizon), np.int64)
    rows, blocks = dataset.window_rows(starts, frames, skip)
    latents = encode_rows(model, dataset, rows)
    device = next(model.parameters()).device
    seen, past, ahead = (torch.from_numpy(np.ascontiguousarray(a)).to(device) for a in (
        latents[:, :context], blocks[:, :context - 1], blocks[:, None, context - 1:]))
    imagined = model.rollout(seen, past, ahead)[:, 0].cpu().numpy()
    came = latents[:, context:]
    errors = ((imagined - came) ** 2).mean(axis=(0, 2))
    still = ((latents[:, context - 1:context] - came) ** 2).mean(axis=(0, 2))
    return tuple(errors.tolist()), tuple(still.tolist()), imagined, rows[:, context:]


def evenly(rows: np.ndarray, count: int) -> np.ndarray:
    """At most `count` of `rows`, spread evenly over them."""
    if len(rows) <= count:
        return rows
    return rows[np.linspace(0, len(rows) - 1, count).astype(np.int64)]
