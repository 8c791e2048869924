"""One figure for how well a model imagines, fair across models: it picks checkpoints and λ."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from lewm_core.data import Dataset
from lewm_core.evaluate import encode_rows, evenly
from lewm_core.model import WorldModel
from lewm_core.monitor import COLLAPSED_STD, LatentStatistics, latent_statistics

_WINDOWS = 128
# Added to the variances, as a share of their mean: a direction as narrow as a collapsed dimension
# counts half, one with nothing in it not at all. Without it a direction of rounding errors counts
# as much as the robot's position.
_FLOOR = COLLAPSED_STD ** 2


@dataclass(frozen=True)
class OpenLoopSkill:
    """How well a model imagines the episodes of a split, up to K blocks ahead.

    `skill` = 1 - Σ error / Σ still over the K horizons: 1 is perfect, 0 no better than "nothing
    moves", below 0 worse. `error[k]` is the squared error k + 1 blocks ahead over the variance,
    direction by direction along the latents' principal axes, and then the mean; `still[k]` the
    same of "nothing moves". Over the variance, because a model that shrinks what is hard to
    predict has a small error and has learned nothing: here each direction counts as much as any
    other, and the figure does not change when latents are scaled, turned or stretched.
    """

    skill: float
    error: tuple[float, ...]
    still: tuple[float, ...]
    latent: LatentStatistics

    @property
    def usable(self) -> bool:
        """Whether the latents live and the figure is a number: what has collapsed has no skill."""
        return self.latent.collapsed is None and bool(np.isfinite(self.skill))


@torch.no_grad()
def open_loop_skill(model: WorldModel, dataset: Dataset, split: str, horizon: int,
                    windows: int = _WINDOWS) -> OpenLoopSkill | None:
    """The skill of `model` on at most `windows` windows spread evenly over `split`.

    Each window gives `history` true latents; `horizon` more are imagined with the recorded
    actions. None where no episode is that long.
    """
    skip, context = model.config.frameskip, model.config.history
    frames = context + horizon
    starts = dataset.windows(split, frames, skip)
    if len(starts) < 2:
        return None
    starts = evenly(starts, windows)
    rows, blocks = dataset.window_rows(starts, frames, skip)
    latents = encode_rows(model, dataset, rows)
    seen, past, ahead = (torch.from_numpy(np.ascontiguousarray(a)).to(model.action_mean) for a in (
        latents[:, :context], blocks[:, :context - 1], blocks[:, None, context - 1:]))
    imagined = model.rollout(seen, past, ahead)[:, 0].cpu().numpy()
    return _skill(latents[:, context - 1:context], imagined, latents[:, context:], latents)


def _skill(now: np.ndarray, imagined: np.ndarray, came: np.ndarray, latents: np.ndarray
           ) -> OpenLoopSkill | None:
    """The skill of `imagined` (N, K, D), which `came`, from `now` (N, 1, D), over `latents`."""
    every = latents.reshape(-1, latents.shape[-1]).astype(np.float64)
    if not (np.isfinite(every).all() and np.isfinite(imagined).all()):
        return None
    variance, axes = np.linalg.eigh(np.cov(every.T))
    scale = axes / np.sqrt(np.maximum(variance, 0) + _FLOOR * variance.mean() + 1e-12)
    error, still = (np.square((guess - came) @ scale).mean(axis=(0, 2))
                    for guess in (imagined, now))
    skill = 1 - error.sum() / max(still.sum(), 1e-12)
    return OpenLoopSkill(float(skill), tuple(error.tolist()), tuple(still.tolist()),
                         latent_statistics(latents))
