"""What a block was imagined to lead to and what came: the errors that surprise is made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lewm_core.data import Dataset
from lewm_core.evaluate import encode_rows
from lewm_core.model import LatentDynamics, WorldModel

_BATCH = 256


@dataclass(frozen=True)
class Residuals:
    """The errors of blocks (...), and what was known before each of them.

    `off` (..., D) float64 is what was imagined minus what came; `given` (..., X) float32 are the
    newest latent (D), the imagined one (D) and the block's commands (F · A) in robot units.
    """

    off: np.ndarray
    given: np.ndarray

    def __getitem__(self, at: object) -> Residuals:
        """Those of some of the blocks."""
        return Residuals(self.off[at], self.given[at])

    def __len__(self) -> int:
        return len(self.off)

    @staticmethod
    def joined(parts: Sequence[Residuals]) -> Residuals:
        """Those of all `parts`, one after the other along the first axis."""
        return Residuals(*(np.concatenate([getattr(part, name) for part in parts])
                           for name in ('off', 'given')))


# From residuals (...) to one number a block (...) float64, the higher the less expected.
Score = Callable[[Residuals], np.ndarray]


def plain(residuals: Residuals) -> np.ndarray:
    """The squared latent error (...), mean over its dimensions."""
    return np.square(residuals.off).mean(axis=-1)


def dataset_residuals(model: WorldModel, dataset: Dataset, split: str) -> list[Residuals]:
    """The residuals (N,) of each episode of `split`.

    Blocks are counted from the episode's first frame, so an episode of L frames has
    (L - 1) // frameskip of them; an episode without any is left out.
    """
    skip, found = model.config.frameskip, []
    for episode in dataset.episodes(split):
        count = (int(dataset.ep_len[episode]) - 1) // skip
        if count < 1:
            continue
        first = int(dataset.ep_offset[episode])
        latents = encode_rows(model, dataset, first + np.arange(count + 1) * skip)
        blocks = dataset.action[first:first + count * skip].reshape(count, skip, -1)
        found.append(block_residuals(model, latents[None], blocks[None])[0])
    return found


def block_residuals(model: LatentDynamics, latents: np.ndarray, blocks: np.ndarray) -> Residuals:
    """The residuals (B, T) of latents (B, T + 1, D) and the blocks (B, T, F, A) between them.

    Each of the B series begins without history, as an episode of its own.
    """
    device, (series, count) = next(model.parameters()).device, blocks.shape[:2]
    z, acts = (torch.from_numpy(np.ascontiguousarray(v)).to(device).flatten(0, 1)
               for v in (latents, blocks))
    which, block = (torch.from_numpy(v.ravel()).to(device) for v in np.meshgrid(
        np.arange(series), np.arange(count), indexing='ij'))
    found = indexed_residuals(model, z, acts, which * (count + 1) + block, which * count + block,
                              torch.clamp(block + 1, max=model.history))
    return Residuals(*(v.reshape(series, count, -1) for v in (found.off, found.given)))


@torch.inference_mode()
def indexed_residuals(model: LatentDynamics, latents: Tensor, blocks: Tensor, newest: Tensor,
                      block: Tensor, context: Tensor, step: int = 1) -> Residuals:
    """The residuals (N,) of N blocks out of latents (R, D) and blocks (Q, F, A).

    Block `block[n]` begins at latent `newest[n]`, with `context[n]` latents, and as many blocks,
    of history, it and this block included, each `step` places after the one before.
    """
    off = latents.new_empty(len(newest), latents.shape[-1])
    imagined = torch.empty_like(off)
    for size in context.unique().tolist():
        back = step * torch.arange(1 - size, 1, device=latents.device)
        for part in torch.nonzero(context == size)[:, 0].split(_BATCH):
            done = model.embed_actions(blocks[block[part, None] + back])
            foretold = model.predict(latents[newest[part, None] + back], done)[:, -1]
            imagined[part], off[part] = foretold, foretold - latents[newest[part] + step]
    given = torch.cat([latents[newest], imagined, blocks[block].flatten(1)], dim=1)
    return Residuals(off.double().cpu().numpy(), given.float().cpu().numpy())
