"""A world model that is asked for the true state while it trains: what it takes to hold it."""

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
from lewm_core.evaluate import evaluate_checkpoint
from lewm_core.losses import prediction_losses
from lewm_core.model import WorldModel, pixels_on
from lewm_core.precision import resolve_precision
from lewm_core.trainer import learning_rate
from lewm_core.windows import WindowSampler

log = logging.getLogger(__name__)


def asked(job: BenchAngleJob, dataset: Dataset, columns: np.ndarray, path: Path) -> None:
    """Nothing; at `path` is a world model trained as ever, with one more term in its loss.

    The term is `asked_weight` times the mean squared error of a linear layer behind the latents
    that says `columns` (R, M), the true state of all R frames, each of unit variance. Everything
    else (steps, batches, learning rate, λ) is `lewm train`'s.
    """
    config, cpu = job.train, torch.device('cpu')
    train = dataset.rows('train')
    mean, std = columns[train].mean(0), columns[train].std(0)
    wanted = torch.from_numpy(((columns - mean) / std).astype(np.float32))
    torch.manual_seed(config.seed)
    model = WorldModel(job.model, dataset.spec)
    model.set_action_statistics(*action_statistics(dataset))
    learned = nn.ModuleDict({'model': model, 'tell': nn.Linear(job.model.latent_dim,
                                                               wanted.shape[1])}).train()
    optimiser = torch.optim.AdamW(learned.parameters(), weight_decay=config.weight_decay)
    window, skip = model.history + 1, job.model.frameskip
    sampler = WindowSampler(dataset.windows('train', window, skip), config.batch_size, config.seed)
    narrow = resolve_precision(config.precision, cpu) == 'bf16'
    for step in range(config.steps):
        rows, actions = dataset.window_rows(sampler(step), window, skip)
        pixels = pixels_on(cpu, dataset.frames(rows))
        with torch.autocast('cpu', torch.bfloat16, enabled=narrow):
            losses = prediction_losses(model, pixels, torch.from_numpy(actions))
            said = learned['tell'](losses.latents)
        error = functional.mse_loss(said.float(), wanted[rows])
        for group in optimiser.param_groups:
            group['lr'] = learning_rate(step, config)
        optimiser.zero_grad(set_to_none=True)
        (losses.total + job.asked_weight * error).backward()
        nn.utils.clip_grad_norm_(learned.parameters(), config.grad_clip)
        optimiser.step()
        if (step + 1) % 100 == 0:
            log.info('asked: step %d of %d, prediction %.4f, asked %.4f', step + 1, config.steps,
                     losses.prediction.item(), error.item())
    checkpoint = Checkpoint(model.eval(), dataset.spec, job.data, config)
    checkpoint.metrics['evaluation'] = evaluate_checkpoint(checkpoint, dataset, 'test').to_dict()
    path.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(path, checkpoint)
