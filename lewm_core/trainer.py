"""One training run's model, optimiser and windows, and what a step does with them."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lewm_core import distributed
from lewm_core.batches import Batches
from lewm_core.compiling import compile_networks
from lewm_core.config import ModelConfig, TrainConfig
from lewm_core.data import Dataset, WindowSampler, action_statistics
from lewm_core.finetune import start_from
from lewm_core.losses import Losses, LeWM
from lewm_core.model import WorldModel
from lewm_core.monitor import latent_statistics
from lewm_core.pldm import PLDM
from lewm_core.precision import resolve_precision
from lewm_core.progress import CollapseWatch, Progress, not_finite
from lewm_core.skill import open_loop_skill
from lewm_core.types import UserError

_VALIDATION_WINDOWS = 512


class Trainer:
    """Model, optimiser and windows of one run. `done` counts steps, `seconds` their time.

    Whatever is random in a step is a function of (seed, step), so no generator's state needs to
    be saved: the order of windows, SIGReg's directions and dropout. Where several processes
    train together (`distributed`), each takes its share of every batch, and all take the same
    step.
    """

    def __init__(self, dataset: Dataset, model: ModelConfig, config: TrainConfig,
                 device: str | None = None, horizon: int = 5) -> None:
        """`device` is this process's own, where it is not the one in `config`.

        `horizon` is how many blocks ahead the skill looks that picks the best model.
        """
        self.config, self.dataset, self.done, self.horizon = config, dataset, 0, horizon
        self.device = resolve_device(device or config.device)
        self.precision = resolve_precision(config.precision, self.device)
        torch.manual_seed(config.seed)
        self.model = WorldModel(model, dataset.spec)
        if not config.init:
            self.model.set_action_statistics(*action_statistics(dataset))
        if distributed.size() > 1:
            distributed.share_batch_norm(self.model)
        self.objective = PLDM(self.model, config) if config.loss == 'pldm' else LeWM()
        self.learned = torch.nn.ModuleDict({'model': self.model, 'objective': self.objective})
        self.learned.to(self.device).train()
        if config.compile:
            compile_networks(self.model, self.device)
        self.optimizer = _optimizer(self.learned, config)
        self.window = (model.history + 1, model.frameskip)
        if config.batch_size % distributed.size():
            raise UserError(f'train.batch_size={config.batch_size} cannot be shared equally by '
                            f'{distributed.size()} processes; give a multiple of that')
        self.batches = Batches(dataset, *self.window, self.device, config.frames)
        self.sampler = WindowSampler(dataset.windows('train', *self.window), config.batch_size,
                                     config.seed)
        # Asked once: batches are assembled in a thread, beside whatever this one does `alone`.
        self._share = slice(distributed.rank(), None, distributed.size())
        self.generator = torch.Generator(self.device)
        held_out = dataset.windows('validation', *self.window)
        # Mixed, because SIGReg is about a batch: windows of one episode alone are not normal.
        self._held_out = np.random.default_rng(config.seed).permutation(
            held_out)[:_VALIDATION_WINDOWS]
        self._validation: dict[str, float] = {}
        self._validated = -1
        self.best: dict[str, Any] | None = None
        self._collapse = CollapseWatch(config)
        self._pending: list[torch.Tensor] = []
        self.seconds, self._clock = 0.0, time.monotonic()

    def initialise(self) -> None:
        """Nothing; a fresh run that goes on from a checkpoint (`train.init`) takes its weights."""
        if self.config.init:
            start_from(Path(self.config.init), self.model)

    def batch(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The windows of `step` as `Batches.load` gives them: this process's share of the batch.

        Its pixels are good until the batch of the step after next is asked for.
        """
        return self.batches.load(self.sampler(step)[self._share], step % 2)

    def step(self, step: int, batch: tuple[torch.Tensor, torch.Tensor]) -> Losses:
        """The losses of one optimiser step on `batch`."""
        rate = learning_rate(step, self.config)
        for group in self.optimizer.param_groups:
            group['lr'] = rate
        torch.manual_seed(seed_of(self.config.seed, step, self._share.start))  # dropout
        self.generator.manual_seed(seed_of(self.config.seed, step))  # directions: everywhere
        losses = self._losses(*self.batches.place(batch, step % 2))
        self.optimizer.zero_grad(set_to_none=True)
        losses.total.backward()
        distributed.average_gradients(self.learned.parameters())
        norm = torch.nn.utils.clip_grad_norm_(self.learned.parameters(), self.config.grad_clip)
        self.optimizer.step()
        self.done = step + 1
        self._pending.append(torch.stack([*losses[:3], norm, *losses.terms.values()]).detach())
        return losses

    @torch.no_grad()
    def validate(self) -> None:
        """Nothing; measures losses and skill on held-out episodes, and keeps the best model.

        The first process alone does it while the others go on to their next batch.
        """
        if len(self._held_out) < 2 or not distributed.leader():
            return
        self.model.eval()
        self.generator.manual_seed(self.config.seed)
        pieces = np.array_split(self._held_out,
                                math.ceil(len(self._held_out) / self.config.batch_size))
        with distributed.alone():
            batches = (self.batches.place(self.batches.load(piece)) for piece in pieces)
            rows = [torch.stack(self._losses(*batch)[:3]).cpu() for batch in batches]
        total, prediction, spread = torch.stack(rows).double().mean(0).tolist()
        self._validation = {'val_loss': total, 'val_prediction': prediction, 'val_sigreg': spread}
        self._validated = self.done
        self._keep_best()
        self.model.train()

    def _keep_best(self) -> None:
        """Nothing; the model is remembered if none that lives had more open-loop skill so far."""
        found = open_loop_skill(self.model, self.dataset, 'validation', self.horizon)
        if found is None:
            return
        self._validation['val_skill'] = found.skill
        if found.usable and (self.best is None or found.skill > self.best['skill']):
            weights = {k: v.detach().cpu().clone() for k, v in self.model.state_dict().items()}
            self.best = {'step': self.done, 'skill': found.skill, 'model': weights}

    def report(self, losses: Losses) -> tuple[Progress, dict[str, Any]]:
        """Progress and its row for metrics.jsonl.

        Losses are looked at here and not after each step, because on a GPU each look waits for
        all that was queued. No state is saved without a look. Raises UserError on a loss or a
        gradient that is not finite, and when the latents stay collapsed.
        """
        names = ['loss', 'prediction', 'sigreg', 'gradient', *losses.terms]
        values = distributed.mean(torch.stack(self._pending)).cpu().double().numpy()
        first = self.done - len(values)
        self._pending.clear()
        bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
        if len(bad):
            step = first + int(bad[0])
            raise not_finite(step + 1, dict(zip(names, values[bad[0]])), self.sampler(step),
                             self.dataset, self.config)
        means = dict(zip(names, values.mean(axis=0).tolist()))
        latents = distributed.gathered(losses.latents.detach().float())
        latent = latent_statistics(latents.cpu().numpy())
        now = time.monotonic()
        speed = len(values) / max(now - self._clock, 1e-9)
        self.seconds, self._clock = self.seconds + now - self._clock, now
        progress = Progress(
            self.done, self.config.steps, means['loss'], means['prediction'], means['sigreg'],
            latent.std_min, latent.std_mean, latent.effective_rank,
            learning_rate(self.done - 1, self.config), speed,
            (self.config.steps - self.done) / speed, self._validation.get('val_loss'),
            self._collapse(self.done, latent), speed * self.config.batch_size,
            self._validation.get('val_skill'))
        row = {'step': self.done, **means, 'latent_std_min': latent.std_min,
               'latent_std_mean': latent.std_mean,
               'latent_std': [float(f'{std:.4g}') for std in latent.std],
               'effective_rank': latent.effective_rank,
               'normal_distance': latent.normal_distance, 'lr': progress.learning_rate,
               'steps_per_s': speed, 'windows_per_s': progress.windows_per_s,
               'seconds': self.seconds, 'seconds_left': progress.seconds_left}
        return progress, row | (self._validation if self._validated == self.done else {})

    def state(self) -> dict[str, Any]:
        """All that resuming needs, loadable with weights_only=True."""
        return {'step': self.done, 'model': self.model.state_dict(), 'seconds': self.seconds,
                'optimizer': self.optimizer.state_dict(), 'precision': self.precision,
                'objective': self.objective.state_dict(), 'best': self.best,
                'collapsed_since': self._collapse.since}

    def load(self, state: dict[str, Any]) -> None:
        """Nothing; goes on from `state`, in the precision the run began with."""
        self.model.load_state_dict(state['model'])
        self.objective.load_state_dict(state['objective'])
        self.optimizer.load_state_dict(state['optimizer'])
        self.best = state['best']
        self._collapse.since = state['collapsed_since']
        self.precision, self.seconds = state['precision'], state['seconds']
        self.done, self._clock = state['step'], time.monotonic()

    def _losses(self, pixels: torch.Tensor, actions: torch.Tensor) -> Losses:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == 'bf16'):
            return self.objective(self.model, pixels, actions, self.generator)


def _optimizer(model: torch.nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW over all parameters, fused where this PyTorch can: before 2.4 not on a CPU."""
    keys = {'lr': config.learning_rate, 'weight_decay': config.weight_decay}
    try:
        return torch.optim.AdamW(model.parameters(), fused=True, **keys)
    except RuntimeError:
        return torch.optim.AdamW(model.parameters(), **keys)


def seed_of(seed: int, step: int, process: int = 0) -> int:
    """What a generator is seeded with in `step` of the run `seed`: 32 bits, other ones for each.

    A CPU's generator looks at no more of them. The two odd factors spread seeds and processes
    over the whole range, so that their steps do not meet.
    """
    return (step + 1 + 0x9E3779B1 * seed + 0x85EBCA6B * process) % 2 ** 32


def learning_rate(step: int, config: TrainConfig) -> float:
    """The rate of `step`, counted from 0: rises in a line, then falls to 0 along a cosine."""
    rising = max(1, round(config.warmup * config.steps))
    if step < rising:
        return config.learning_rate * (step + 1) / rising
    share = (step - rising) / max(1, config.steps - rising)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * share))


def resolve_device(name: str) -> torch.device:
    """The device that `name` (auto, cpu, cuda, cuda:N) stands for; raises UserError if absent."""
    others = "'cpu' or a CUDA device of this machine"
    if name == 'auto':
        name = 'cuda' if torch.cuda.is_available() else 'cpu'
    else:
        others = f"'auto', {others}"
    try:
        device = torch.device(name)
        torch.ones(1, device=device)  # computed: a GPU too old for this PyTorch has memory alone
    except (RuntimeError, AssertionError) as error:
        raise UserError(f'device={name!r} cannot be used ({str(error).splitlines()[0]}); '
                        f'choose {others}') from None
    return device
