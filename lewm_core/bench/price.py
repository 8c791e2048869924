"""What it would cost a world model to hold something more: how well it could be foreseen."""

from __future__ import annotations

import dataclasses
import logging

import numpy as np
import torch
from torch import Tensor

from lewm_core.data import Dataset
from lewm_core.model import WorldModel

log = logging.getLogger(__name__)

_BATCH, _RATE, _TEST = 128, 2e-3, 4000


def price(model: WorldModel, dataset: Dataset, latents: np.ndarray, columns: dict[str, np.ndarray],
          steps: int, seed: int) -> dict[str, float]:
    """The squared error one block ahead over the variance: of the latents, and of each column.

    A fresh predictor of `model`'s shape learns the `latents` (N, D) of all N frames, which don't
    change, together with the true `columns` (N,), as if they were latents too. Fitted on train,
    measured on test episodes. A world model that minimises its prediction error takes up what is
    cheap first.
    """
    table = np.concatenate([latents, np.stack(list(columns.values()), 1)], 1)
    train = dataset.rows('train')
    x = torch.from_numpy(((table - table[train].mean(0)) / table[train].std(0).clip(1e-3)
                          ).astype(np.float32))
    width = latents.shape[1]
    torch.manual_seed(seed)
    net = WorldModel(dataclasses.replace(model.config, latent_dim=x.shape[1]), model.spec)
    net.set_action_statistics(model.action_mean, model.action_std)
    starts = {s: dataset.windows(s, net.history + 1, net.config.frameskip)
              for s in ('train', 'test')}
    rng = np.random.default_rng(seed)
    learned = [p for part in (net.action_encoder, net.predictor, net.pred_proj)
               for p in part.parameters()]
    optimiser = torch.optim.AdamW(learned, lr=_RATE, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, _RATE, total_steps=steps)
    for step in range(1, steps + 1):
        optimiser.zero_grad(set_to_none=True)
        _errors(net, dataset, x, rng.choice(starts['train'], _BATCH)).mean().backward()
        optimiser.step()
        schedule.step()
        if step % 500 == 0:
            log.info('price: step %d of %d', step, steps)
    with torch.no_grad():
        errors = _errors(net.eval(), dataset, x, rng.choice(starts['test'], _TEST)).numpy()
    scale = latents[train].var(0)  # a latent counts by its variance, as in the objective
    return {'latents': float((errors[:width] * scale).sum() / scale.sum()),
            **dict(zip(columns, errors[width:].tolist()))}


def _errors(net: WorldModel, dataset: Dataset, x: Tensor, starts: np.ndarray) -> Tensor:
    """The mean squared error (D + M,) of each component of `x` in the windows at `starts`."""
    rows, blocks = dataset.window_rows(starts, net.history + 1, net.config.frameskip)
    latents = x[torch.from_numpy(rows)]
    said = net.predict(latents[:, :-1], net.embed_actions(torch.from_numpy(blocks)))
    return (said - latents[:, 1:]).square().mean((0, 1))
