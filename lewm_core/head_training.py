"""Training of the heads: the frozen latents of a recording, encoded once, and a small loop."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from lewm_core.data import Dataset
from lewm_core.evaluate import encode_rows
from lewm_core.model import WorldModel
from lewm_core.types import UserError

# A batch's loss for a generator that draws it.
Loss = Callable[[torch.Generator], Tensor]
_REPORTS, _VALIDATIONS = 20, 8


@dataclass(frozen=True)
class Episodes:
    """The episodes of a split as latents, on one device.

    `latents` (R, D) and `actions` (R, A) in robot units, zero on the last row of an episode;
    `last` (R,) is the row in which each row's episode ends.
    """

    latents: Tensor
    actions: Tensor
    last: Tensor

    def has(self, ticks: int) -> bool:
        """Whether any episode has more than `ticks` ticks."""
        rows = torch.arange(len(self.last), device=self.last.device)
        return bool((rows + ticks <= self.last).any())

    def starts(self, ticks: int) -> Tensor:
        """The rows (N,) that have at least `ticks` more in their episode; UserError if none."""
        rows = torch.arange(len(self.last), device=self.last.device)
        found = rows[rows + ticks <= self.last]
        if not self.has(ticks):
            raise UserError(f'no episode has more than {ticks} ticks, which training a head '
                            'takes: record longer episodes, or set the steps of that head to 0')
        return found


def encode_split(model: WorldModel, dataset: Dataset, split: str, most: int | None = None
                 ) -> Episodes:
    """The episodes of `split` of `dataset`, encoded by `model`, on the model's device.

    With `most`, whole episodes spread evenly over the split, of about that many rows together.
    """
    device = next(model.parameters()).device
    episodes = np.array(dataset.episodes(split), dtype=np.int64)
    total = int(dataset.ep_len[episodes].sum())
    if most is not None and total > most:
        count = max(1, len(episodes) * most // total)
        episodes = episodes[np.linspace(0, len(episodes) - 1, count).astype(np.int64)]
    lengths = dataset.ep_len[episodes]
    rows = np.concatenate([np.arange(first, first + length) for first, length in zip(
        dataset.ep_offset[episodes], lengths)] or [np.zeros(0, np.int64)])
    last = np.repeat(np.cumsum(lengths) - 1, lengths)
    latents = (encode_rows(model, dataset, rows) if len(rows)
               else np.zeros((0, model.config.latent_dim), np.float32))
    return Episodes(*(torch.from_numpy(a).to(device) for a in (
        latents, np.nan_to_num(dataset.action[rows]), last)))


def fit(head: nn.Module, loss: Loss, held_out: Loss | None, *, steps: int, learning_rate: float,
        seed: int, on_progress: Callable[[int, int, float], None] | None = None,
        should_stop: Callable[[], bool] = lambda: False) -> float | None:
    """The head's loss: the best on held-out batches, if there are any; `head` is as it was then.

    AdamW with a cosine to zero, for `steps` steps. `held_out` draws from the validation
    episodes, always the same batches: a head of few recordings learns them by heart, and its
    best is before the end. `on_progress(step, steps, loss)` is called twenty times. A stop
    leaves the head unfinished and returns None. The same seed gives the same head on the CPU.
    Raises UserError when the loss is never finite.
    """
    device = next(head.parameters()).device
    generator = torch.Generator(device).manual_seed(seed)
    optimizer = torch.optim.AdamW(head.parameters(), learning_rate, weight_decay=1e-2)
    best, best_state, every = math.inf, None, max(1, steps // _REPORTS)
    head.train()
    for step in range(steps):
        if should_stop():
            return None
        optimizer.param_groups[0]['lr'] = learning_rate * 0.5 * (
            1 + math.cos(math.pi * step / steps))
        value = loss(generator)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % every and step + 1 < steps:
            continue
        shown = float(value.detach()) if held_out is None else _mean(head, held_out, seed)
        if shown < best or (held_out is None and math.isfinite(shown)):
            best, best_state = shown, copy.deepcopy(head.state_dict())
        if on_progress is not None:
            on_progress(step + 1, steps, shown)
    head.eval()
    if best_state is None:
        raise UserError('the loss of a head is not finite; look at the latents of this model '
                        '(`lewm evaluate`), or set the steps of that head to 0')
    head.load_state_dict(best_state)
    return best


@torch.no_grad()
def _mean(head: nn.Module, loss: Loss, seed: int) -> float:
    """The mean of a few batches' losses, the same batches each time."""
    device = next(head.parameters()).device
    generator = torch.Generator(device).manual_seed(seed + 1)
    head.eval()
    value = torch.stack([loss(generator) for _ in range(_VALIDATIONS)]).mean()
    head.train()
    return float(value)
