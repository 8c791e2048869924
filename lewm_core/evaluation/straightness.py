"""Straightness: whether a robot's way through the latents is straighter than before training."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from lewm_core.evaluate import encode_rows, evenly
from lewm_core.evaluation.intervals import mean_of, text
from lewm_core.evaluation.subject import Subject
from lewm_core.model import WorldModel
from lewm_core.report import Page

_FRAMES = 3


def measure(subject: Subject) -> dict[str, Any]:
    """The mean cosine between successive latent velocities, one block apart, on test episodes.

    `after`: the checkpoint's encoder; `before`: one of the same shape with fresh weights from
    `seed`, its running moments those of training frames. Steps without any motion have no
    direction and are left out. Source: Hénaff et al., Perceptual straightening of natural videos,
    2019, who take the angle; LeWorldModel reports the cosine.
    """
    starts, _, episode = subject.windows('test', _FRAMES)
    if not len(starts):
        return {'before': None, 'after': None, 'windows': 0}
    rows = subject.frame_rows(starts, _FRAMES)
    found: dict[str, Any] = {'windows': len(starts)}
    for name, model in (('before', _fresh(subject)), ('after', subject.model)):
        cosines = straightness(encode_rows(model, subject.dataset, rows))
        found[name] = mean_of(cosines, episode, subject.job.resamples, subject.job.seed).to_dict()
    return found


def straightness(latents: np.ndarray) -> np.ndarray:
    """The cosine (B,) between the two steps of latents (B, 3, D); NaN where one is zero."""
    steps = np.diff(latents.astype(np.float64), axis=1)
    size = np.linalg.norm(steps, axis=-1)
    with np.errstate(invalid='ignore', divide='ignore'):
        cosine = (steps[:, 0] * steps[:, 1]).sum(-1) / (size[:, 0] * size[:, 1])
    return np.where((size > 1e-6).all(axis=1), cosine, np.nan)


@torch.no_grad()
def _fresh(subject: Subject) -> WorldModel:
    """A model of the same shape that learned nothing."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(subject.job.seed)
        model = WorldModel(subject.model.config, subject.checkpoint.spec)
    device = next(subject.model.parameters()).device
    model.to(device).train()
    # BatchNorm begins with the moments 0 and 1, which no picture has, and with its usual momentum
    # nearly half of that would be left after eight batches: the mean over them has nothing of it.
    for layer in model.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.momentum = None
    rows = evenly(subject.encoded('train').rows, 1024)
    for batch in np.array_split(rows, max(1, len(rows) // 128)):
        model.encode(torch.from_numpy(subject.dataset.frames(batch)).to(device))
    return model.eval()


def show(page: Page, found: dict[str, Any]) -> None:
    """Nothing; adds the two figures."""
    if not found['windows']:
        page.text('No test episode has three frames a block apart.', 'note')
        return
    page.text('Mean cosine of successive latent velocities; 1 is a straight line, 0 a random '
              'walk.', 'note')
    page.table([(name, text(found[key])) for name, key in (
        ('random weights', 'before'), ('this checkpoint', 'after'))], ('encoder', 'straightness'))
