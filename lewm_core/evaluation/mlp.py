"""A small MLP from latents to columns: the probe that shows what is there but not linear."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor, nn

_WIDTH, _BATCH, _CHECK, _PATIENCE = 256, 512, 100, 10
_RATE = 1e-3


class MlpProbe:
    """A fitted map from latents (..., D) to M columns, as `fit` gives it."""

    def __init__(self, nets: list[nn.Module], scales: tuple[Tensor, Tensor, Tensor, Tensor]
                 ) -> None:
        self._nets, self._scales = nets, scales

    @classmethod
    def fit(cls, latents: np.ndarray, columns: np.ndarray, held: np.ndarray,
            held_columns: np.ndarray, steps: int, seed: int) -> MlpProbe:
        """The MLP (two hidden layers of 256) from `latents` (N, D) to `columns` (N, M).

        Each column is read by the weights of the check at which its own error on `held` (K, D),
        `held_columns` (K, M) is lowest: one that can only be learned by heart would stop the
        others early. NaNs in a column count in neither. Adam, squared error of standardised
        columns.
        """
        x, y, xh, yh = (torch.from_numpy(np.asarray(v, np.float32))
                        for v in (latents, columns, held, held_columns))
        known = torch.isfinite(y)
        count = known.sum(0).clamp(min=1)
        middle = torch.where(known, y, 0.0).sum(0) / count
        spread = (torch.where(known, y - middle, 0.0).square().sum(0) / count).sqrt()
        scales = (x.mean(0), x.std(0).clamp(min=1e-6), middle, spread.clamp(min=1e-12))
        x, xh = ((v - scales[0]) / scales[1] for v in (x, xh))
        y, yh = ((v - scales[2]) / scales[3] for v in (y, yh))
        generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            net = nn.Sequential(nn.Linear(x.shape[1], _WIDTH), nn.GELU(),
                                nn.Linear(_WIDTH, _WIDTH), nn.GELU(),
                                nn.Linear(_WIDTH, y.shape[1]))
        return cls(_train(net, x, y, xh, yh, steps, generator), scales)

    @torch.no_grad()
    def __call__(self, latents: np.ndarray) -> np.ndarray:
        """The columns (..., M) read out of `latents` (..., D)."""
        mean, std, middle, spread = self._scales
        x = torch.from_numpy(np.asarray(latents, np.float32))
        said = [net((x - mean) / std)[..., i] for i, net in enumerate(self._nets)]
        return (torch.stack(said, dim=-1) * spread + middle).numpy().astype(np.float64)


def _train(net: nn.Module, x: Tensor, y: Tensor, xh: Tensor, yh: Tensor, steps: int,
           generator: torch.Generator) -> list[nn.Module]:
    """For each column `net` with the weights of its best check on the held-out pair."""
    optimiser = torch.optim.Adam(net.parameters(), lr=_RATE)
    best, stale = [copy.deepcopy(net)] * y.shape[1], 0
    least = torch.full((y.shape[1],), float('inf'))
    for step in range(1, steps + 1):
        rows = torch.randint(len(x), (min(_BATCH, len(x)),), generator=generator)
        optimiser.zero_grad(set_to_none=True)
        _errors(net(x[rows]), y[rows]).mean().backward()
        optimiser.step()
        if step % _CHECK and step < steps:
            continue
        with torch.no_grad():
            errors = _errors(net(xh), yh)
        better, kept = errors < least, copy.deepcopy(net)
        best = [kept if good else old for good, old in zip(better, best)]
        least, stale = torch.minimum(least, errors), 0 if better.any() else stale + 1
        if stale == _PATIENCE:
            break
    return best


def _errors(said: Tensor, true: Tensor) -> Tensor:
    """The mean squared error (M,) of each column, over what is known of it."""
    known = torch.isfinite(true)
    return torch.where(known, said - true, 0.0).square().sum(0) / known.sum(0).clamp(min=1)
