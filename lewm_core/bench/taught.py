"""A world model that was told the truth: does its own objective keep what it did not find?"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from lewm_core.bench_jobs import BenchAngleJob
from lewm_core.checkpoint import Checkpoint, save_checkpoint
from lewm_core.data import Dataset, action_statistics
from lewm_core.losses import sigreg
from lewm_core.model import WorldModel, pixels_on

log = logging.getLogger(__name__)

_BATCH, _RATE = 64, 1e-3


def taught(job: BenchAngleJob, dataset: Dataset, rows: np.ndarray, columns: np.ndarray,
           path: Path) -> None:
    """Nothing; at `path` is a world model told `columns` (N, M) of the frames at `rows` (N,).

    Encoder and projector learn them with a linear layer behind the latents, `taught_steps` steps,
    and under SIGReg, so that the world model's own training finds latents as it would have them.
    The predictor is as it was drawn.
    """
    wanted = torch.from_numpy(((columns - columns.mean(0)) / columns.std(0)).astype(np.float32))
    torch.manual_seed(job.seed)
    model = WorldModel(job.model, dataset.spec)
    model.set_action_statistics(*action_statistics(dataset))
    tell = nn.Linear(job.model.latent_dim, wanted.shape[1])
    learned = nn.ModuleList([model.encoder, model.projector, tell])
    optimiser = torch.optim.AdamW(learned.parameters(), lr=_RATE, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, _RATE, total_steps=job.taught_steps)
    rng = np.random.default_rng(job.seed)
    for step in range(1, job.taught_steps + 1):
        at = rng.integers(0, len(rows), _BATCH)
        latents = model.encode(pixels_on(torch.device('cpu'), dataset.frames(rows[at])))
        error = functional.mse_loss(tell(latents), wanted[at])
        optimiser.zero_grad(set_to_none=True)
        (error + job.model.sigreg_weight * sigreg(latents, job.model.sigreg_projections)
         ).backward()
        optimiser.step()
        schedule.step()
        if step % 100 == 0:
            log.info('taught: step %d of %d, error %.4f', step, job.taught_steps, error.item())
    path.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(path, Checkpoint(model.eval(), dataset.spec, job.data, job.train))
