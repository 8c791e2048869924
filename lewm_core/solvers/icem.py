"""iCEM (Pinneri et al. 2020, arXiv 2008.06389): smooth noise, kept elites, fewer and fewer draws.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from lewm_core.solvers.common import Best, Search, elites, equal, refit

_MOMENTUM = 0.1  # of the old mean in the new one, as in the paper


def icem(search: Search) -> tuple[Best, Tensor, int]:
    """The best plan, the last mean and the iterations done.

    The noise is coloured over the horizon, with a spectrum f^-`noise_beta`: plans that keep their
    direction. Each iteration draws 1/`decay` times as many as the one before, and a share `keep`
    of its elites stays in the running at no further cost.
    """
    config, best = search.config, search.nothing()
    mean, spread, done = search.mean, search.spread, 0
    colour = _coloured_on(int(mean.shape[1] * mean.shape[2]), config.noise_beta, mean.device)
    kept, kept_costs = mean[:, None][:, :0], mean.new_zeros(len(mean), 0)
    for done in search.rounds():
        count = max(config.samples * config.decay ** -done, 2 * config.elites)
        noise = _smooth(search, min(round(count), config.samples), colour)
        candidates = search.candidates(mean, spread, noise, done == 0)
        costs = torch.cat([search.judge(candidates), kept_costs], dim=1)
        chosen, costs = elites(torch.cat([candidates, kept], dim=1), costs, config.elites)
        best = best.or_cheaper(chosen[:, 0], costs[:, 0])
        keep = math.ceil(config.keep * config.elites)
        kept, kept_costs = chosen[:, :keep], costs[:, :keep]
        fitted, spread = refit(chosen, equal(costs), mean, spread)
        mean = search.clamp(fitted + _MOMENTUM * (mean - fitted))
    return search.answer(best, mean, done + 1)


def coloured(steps: int, beta: float) -> Tensor:
    """A matrix (2·T, T) that turns white noise (..., 2·T) into T steps of spectrum f^-beta.

    Each step has unit variance. Filtered at twice the length and cut, so that the end of a plan
    knows nothing of its beginning.
    """
    length = 2 * steps
    frequency = torch.fft.rfftfreq(length, dtype=torch.float64)
    frequency[0] = frequency[1]
    gain = frequency ** (-beta / 2)
    kernel = torch.fft.irfft(gain * torch.fft.rfft(torch.eye(length, dtype=torch.float64)),
                             n=length)[:, :steps]
    return (kernel / kernel.square().sum(dim=0).sqrt()).float()


@lru_cache(maxsize=None)  # never dropped: a recorded search on CUDA reads it where it is
def _coloured_on(steps: int, beta: float, device: torch.device) -> Tensor:
    return coloured(steps, beta).to(device)


def _smooth(search: Search, count: int, colour: Tensor) -> Tensor:
    """Coloured draws (B, S, K, N, A) for `count` candidates."""
    batch, blocks, knots, dims = search.mean.shape
    white = search.draw((batch, count, dims, len(colour)))
    return (white @ colour).transpose(2, 3).reshape(batch, count, blocks, knots, dims)
