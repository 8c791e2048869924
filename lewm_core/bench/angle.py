"""`lewm bench angle`: what of the pushed block's angle pictures hold, and what latents do."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from lewm_core.bench.angle_drives import ANGLE, drives
from lewm_core.bench.asked import asked
from lewm_core.bench.common import write_result
from lewm_core.bench.price import price
from lewm_core.bench.taught import taught
from lewm_core.checkpoint import load_checkpoint
from lewm_core.config import default
from lewm_core.data import Dataset
from lewm_core.encoders import build_encoder
from lewm_core.evaluate import encode_rows
from lewm_core.evaluation.mlp import MlpProbe
from lewm_core.evaluation.probes import fit_linear, targets
from lewm_core.jobs import BenchAngleJob
from lewm_core.model import WorldModel
from lewm_core.probes import r_squared
from lewm_core.run_folder import Settings, trained_already
from lewm_core.train import train
from lewm_core.types import UserError

log = logging.getLogger(__name__)

# After so much of a turn the block looks as before, and its picture says the angle no closer: a
# square after a quarter, a T after a whole one.
_FOLDS = {'push': 4, 'pusht': 1}
_SPLITS = ('train', 'validation', 'test')
_BATCH, _RATE = 64, 1e-3


def run(job: BenchAngleJob, overrides: list[str]) -> int:
    """The exit code: 0; writes `output`. Drives and trainings that are finished are kept.

    Drives of the push world's explorer are recorded with the block's angle; a convolutional
    network is fitted to pictures with the true state (the ceiling; not with the angle itself,
    which it could only learn by heart), a world model is trained, and ridge and MLP probes read
    the state out of its latents. Fitted on train, stopped by validation, R² on test episodes.
    """
    if job.world != 'push' and job.contact != default(BenchAngleJob, 'contact'):
        raise UserError(f'contact={job.contact:g} is asked of world={job.world!r}, but only the '
                        'explorer of world=push has errands through its block')
    folder = job.output.with_suffix('')
    dataset = drives(job, folder.parent).with_split(job.data)
    rows = {split: dataset.rows(split) for split in _SPLITS}
    fold = _FOLDS[job.world]
    columns = {split: table(dataset, rows[split], fold) for split in _SPLITS}
    names, tables = list(columns['train']), {s: np.stack(list(c.values()), 1)
                                             for s, c in columns.items()}
    hidden = targets({ANGLE: np.zeros(1)}, {ANGLE}) if fold > 1 else ()
    seen = np.array([name not in hidden for name in names])
    said, metrics = _answers(job, dataset, rows, tables, seen, folder)
    found = {kind: {name: r_squared(tables['test'][:, i], values[:, i])
                    for i, name in enumerate(names) if np.isfinite(values[:, i]).all()}
             for kind, values in said.items()}
    changed = changes(dataset, fold, job.model.frameskip)
    for kind, figures in {**found, 'changed': changed, 'price': metrics.get('price', {})}.items():
        print(f'{kind:9}', '  '.join(f'{k} {v:.3f}' for k, v in figures.items()), flush=True)
    write_result(job.output, {'r2': found, 'changed': changed, 'settings': overrides,
                              'metrics': metrics, 'frames': {k: len(v) for k, v in rows.items()}})
    print(job.output)
    return 0


def _answers(job: BenchAngleJob, dataset: Dataset, rows: dict[str, np.ndarray],
             tables: dict[str, np.ndarray], seen: np.ndarray, folder: Path
             ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The columns (N, M) of the test rows as each one says them, and what training noted."""
    said: dict[str, np.ndarray] = {}
    shown = {split: values[:, seen] for split, values in tables.items()}
    if job.ceiling_steps:
        said['pictures'] = np.full(tables['test'].shape, np.nan)
        said['pictures'][:, seen] = supervised(job, dataset, rows, shown)

    def probed(model: WorldModel) -> dict[str, np.ndarray]:
        return _probed(job, {split: encode_rows(model, dataset, rows[split])
                             for split in _SPLITS}, tables, seen)

    if job.taught_steps:
        job, before = _begun(job, dataset, rows['train'], shown['train'], folder)
        said |= {f'taught {kind}': values for kind, values in probed(before).items()}
    model, metrics = (_asked(job, dataset, seen, folder) if job.asked_weight else
                      _trained(job, dataset, folder))
    if job.features:
        said['features'] = np.full(tables['test'].shape, np.nan)
        said['features'][:, seen] = _from_features(job, model, dataset, rows, shown)
    if job.price_steps:
        every = np.arange(len(dataset.action))
        angle = {name: values for name, values in _shown(job, dataset, seen).items()
                 if ANGLE in name}
        metrics['price'] = price(model, dataset, encode_rows(model, dataset, every), angle,
                                 job.price_steps, job.seed)
    return {**said, **probed(model)}, metrics


def _from_features(job: BenchAngleJob, model: WorldModel, dataset: Dataset,
                   rows: dict[str, np.ndarray], tables: dict[str, np.ndarray]) -> np.ndarray:
    """The columns (N, M) of the test rows, read out of what the projector is given.

    Fitted to every third frame of the training rows: the features are many.
    """
    few = {**rows, 'train': rows['train'][::3]}
    given = {split: _features(model, dataset, at) for split, at in few.items()}
    return MlpProbe.fit(given['train'], tables['train'][::3], given['validation'],
                        tables['validation'], job.probe_steps, job.seed)(given['test'])


def _features(model: WorldModel, dataset: Dataset, rows: np.ndarray) -> np.ndarray:
    """The encoder's features (N, C) of the frames at `rows`, before the projector."""
    kept: list[np.ndarray] = []
    hook = model.encoder.register_forward_hook(
        lambda module, given, out: kept.append(out.float().cpu().numpy()))
    try:
        encode_rows(model, dataset, rows)
    finally:
        hook.remove()
    return np.concatenate(kept)


def _probed(job: BenchAngleJob, latents: dict[str, np.ndarray], tables: dict[str, np.ndarray],
            seen: np.ndarray) -> dict[str, np.ndarray]:
    """The columns (N, M) of the test rows, as each probe reads them out of the latents.

    What no picture shows is probed apart: what is learned by heart is no help to the rest.
    """
    linear, _ = fit_linear(latents['train'], tables['train'], latents['validation'],
                           tables['validation'])
    said = {'linear': linear(latents['test']), 'mlp': np.empty(tables['test'].shape)}
    for part in (p for p in (seen, ~seen) if p.any()):
        said['mlp'][:, part] = MlpProbe.fit(
            latents['train'], tables['train'][:, part], latents['validation'],
            tables['validation'][:, part], job.probe_steps, job.seed)(latents['test'])
    return said


def table(dataset: Dataset, rows: np.ndarray, fold: int) -> dict[str, np.ndarray]:
    """The columns to read out at `rows`: places, sine and cosine of the angle and its `fold`.

    Of a square (4) the picture tells no more than the angle modulo a quarter turn, which is the
    fourfold's sine and cosine; those of the angle itself are there to show it.
    """
    states = {name: values[rows] for name, values in dataset.states.items()}
    folded = {} if fold == 1 else {f'{fold} {ANGLE}': fold * states[ANGLE]}
    return targets({**states, **folded}, {ANGLE, *folded})


def changes(dataset: Dataset, fold: int, frameskip: int) -> dict[str, float]:
    """How much of each column is another a block later, as a share of its variance.

    The mean squared change over the training episodes: what a predictor would get wrong that
    knows no better than that nothing moves. 2 for what is drawn anew each time.
    """
    starts = dataset.windows('train', 2, frameskip)
    before, after = (table(dataset, rows, fold) for rows in (starts, starts + frameskip))
    return {name: float(np.square(after[name] - values).mean() / values.var())
            for name, values in before.items()}


def supervised(job: BenchAngleJob, dataset: Dataset, rows: dict[str, np.ndarray],
               tables: dict[str, np.ndarray]) -> np.ndarray:
    """The columns (N, M) of the test rows, as a network tells them that was shown the true ones.

    The model's own encoder and a linear layer, `ceiling_steps` steps: what such an encoder could
    have seen. The weights with the lowest validation error are used.
    """
    mean, scale = tables['train'].mean(0), tables['train'].std(0)
    torch.manual_seed(job.seed)
    encoder = build_encoder(job.model)
    net = nn.Sequential(encoder, nn.Linear(encoder.out_features, len(mean)))
    optimiser = torch.optim.AdamW(net.parameters(), lr=_RATE, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, _RATE,
                                                   total_steps=job.ceiling_steps)
    rng, best, least = np.random.default_rng(job.seed), None, np.inf
    wanted = {s: torch.from_numpy(((t - mean) / scale).astype(np.float32))
              for s, t in tables.items()}
    for step in range(1, job.ceiling_steps + 1):
        at = rng.integers(0, len(rows['train']), _BATCH)
        loss = functional.mse_loss(net(_pictures(dataset, rows['train'][at])),
                                   wanted['train'][at])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % max(1, job.ceiling_steps // 8) and step < job.ceiling_steps:
            continue
        said = _read(net, dataset, rows['validation'])
        error = float(functional.mse_loss(said, wanted['validation']))
        log.info('pictures: step %d of %d, validation error %.4f', step, job.ceiling_steps, error)
        if error < least:
            best, least = _read(net, dataset, rows['test']).numpy(), error
    return best * scale + mean


@torch.no_grad()
def _read(net: nn.Module, dataset: Dataset, rows: np.ndarray) -> torch.Tensor:
    net.eval()
    said = torch.cat([net(_pictures(dataset, rows[i:i + 256])) for i in range(0, len(rows), 256)])
    net.train()
    return said


def _pictures(dataset: Dataset, rows: np.ndarray) -> torch.Tensor:
    """The frames (N, 3, H, W) in [-1, 1]."""
    return torch.from_numpy(dataset.frames(rows)).permute(0, 3, 1, 2).float() / 127.5 - 1


def _trained(job: BenchAngleJob, dataset: Dataset, folder: Path) -> tuple[Any, dict[str, Any]]:
    """The world model after its last step, and what its training noted.

    Not the one of the greatest skill: the question is what it comes to hold, step by step. Raises
    UserError where the training that is there had other settings or data.
    """
    path = folder / 'model.safetensors'
    settings = Settings(job.model, job.data, job.train, job.planner, job.surprise)
    if job.overwrite or not trained_already(folder, settings, dataset):
        train(dataset, job.model, job.data, job.train, folder, planner=job.planner,
              surprise=job.surprise, overwrite=job.overwrite)
    kept = load_checkpoint(path).metrics
    return load_checkpoint(path.with_name('last.safetensors')).model, {
        key: kept.get(key) for key in ('step', 'seconds', 'kept_step', 'kept_skill')} | {
        key: kept['evaluation']['latent'][key] for key in ('std_min', 'effective_rank')}


def _asked(job: BenchAngleJob, dataset: Dataset, seen: np.ndarray, folder: Path
           ) -> tuple[WorldModel, dict[str, Any]]:
    """The world model that was asked for the true state while it trained, and what is noted."""
    path = folder / 'asked.safetensors'
    if job.overwrite or not path.exists():
        asked(job, dataset, np.stack(list(_shown(job, dataset, seen).values()), 1), path)
    kept = load_checkpoint(path)
    return kept.model, {key: kept.metrics['evaluation']['latent'][key]
                        for key in ('std_min', 'effective_rank')}


def _shown(job: BenchAngleJob, dataset: Dataset, seen: np.ndarray) -> dict[str, np.ndarray]:
    """The columns (R,) of all frames that pictures show."""
    columns = table(dataset, np.arange(len(dataset.action)), _FOLDS[job.world])
    return {name: values for (name, values), shows in zip(columns.items(), seen) if shows}


def _begun(job: BenchAngleJob, dataset: Dataset, rows: np.ndarray, columns: np.ndarray,
           folder: Path) -> tuple[BenchAngleJob, WorldModel]:
    """The job that goes on from a world model that was told the truth, and that model."""
    path = folder.with_name(f'{folder.name}_taught') / 'model.safetensors'
    if job.overwrite or not path.exists():
        taught(job, dataset, rows, columns, path)
    return (dataclasses.replace(job, train=dataclasses.replace(job.train, init=str(path))),
            load_checkpoint(path).model)
