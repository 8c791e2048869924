"""A learned distance in time: how many blocks the fastest way from one latent to another takes.

Latents far apart are all about equally far from each other, so their distance says nothing of the
way. Here d is a quasimetric by its construction (never negative, 0 from a place to itself, the
triangle inequality, not symmetric), made as large as it can be between frames of all episodes
while frames one block apart stay at most 1 apart: then it is the length of the shortest way. The
frames' own time is not used beyond one block, for it measures how the robot was driven.
Sources: quasimetric reinforcement learning (Wang et al. 2023, arXiv 2304.01203) and interval
quasimetric embeddings (Wang & Isola 2022, arXiv 2211.15120).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lewm_core.config import DistanceConfig
from lewm_core.head_training import Episodes, fit
from lewm_core.model import WorldModel

_DUAL_RATE = 0.05


class Distance(nn.Module):
    """Blocks from latents to goals (..., D): d(x, z) <= d(x, y) + d(y, z) and d(x, x) = 0."""

    Config = DistanceConfig

    def __init__(self, config: DistanceConfig, model: WorldModel) -> None:
        super().__init__()
        self.config = config
        sizes = [model.config.latent_dim, *[config.width] * config.depth]
        layers: list[nn.Module] = []
        for before, after in zip(sizes, sizes[1:]):
            layers += [nn.Linear(before, after), nn.LayerNorm(after), nn.GELU()]
        self.body = nn.Sequential(*layers, nn.Linear(sizes[-1],
                                                     config.components * config.intervals))
        self.mixture = nn.Parameter(torch.zeros(()))

    def embed(self, latents: Tensor) -> Tensor:
        """The embeddings (..., components, intervals) of latents (..., D)."""
        return self.body(latents).unflatten(-1, (self.config.components, self.config.intervals))

    def between(self, start: Tensor, end: Tensor) -> Tensor:
        """The distance (...) from embeddings `start` to `end`.

        A component is the length of the union of the intervals from each coordinate of `start`
        up to that of `end`; those that lead down count nothing. The distance lies between the
        largest component and their mean.
        """
        end = torch.maximum(start, end)
        order = start.argsort(dim=-1)
        start, end = start.gather(-1, order), end.gather(-1, order)
        covered = torch.cummax(end, dim=-1).values
        before = torch.cat([start[..., :1], covered[..., :-1]], dim=-1)
        lengths = (end - torch.maximum(start, before)).clamp(min=0).sum(dim=-1)
        share = torch.sigmoid(self.mixture)
        return share * lengths.amax(dim=-1) + (1 - share) * lengths.mean(dim=-1)

    def forward(self, latents: Tensor, goals: Tensor) -> Tensor:
        """The blocks (...) from latents (..., D) to goals (..., D), broadcast as usual."""
        start, end = torch.broadcast_tensors(self.embed(latents), self.embed(goals))
        return self.between(start, end)


def train_distance(model: WorldModel, train: Episodes, config: DistanceConfig, *, steps: int,
                   seed: int = 0, on_progress: Callable[[int, int, float], None] | None = None,
                   should_stop: Callable[[], bool] = lambda: False
                   ) -> tuple[Distance, float | None]:
    """A distance for `model`, and the excess over one block that is left between neighbours.

    None in place of the excess means that it was stopped. Each step takes `config.batch_size`
    pairs of frames from all episodes, which are pushed apart, and as many pairs one block apart,
    which are held together by a multiplier that grows while they exceed `config.tolerance`.
    """
    device = next(model.parameters()).device
    with torch.random.fork_rng(devices=[device] if device.type == 'cuda' else []):
        torch.manual_seed(seed)
        head = Distance(config, model).to(device)
        done = fit(head, _loss(head, train, model.config.frameskip), None, steps=steps,
                   learning_rate=config.learning_rate, seed=seed, on_progress=on_progress,
                   should_stop=should_stop)
    if done is None:
        return head, None
    return head, float(_excess(head, train, train.starts(model.config.frameskip),
                               model.config.frameskip).detach())


def _loss(head: Distance, episodes: Episodes, ticks: int) -> Callable[[torch.Generator], Tensor]:
    config, starts = head.config, episodes.starts(ticks)
    multiplier = torch.ones((), device=starts.device)

    def draw(rows: Tensor, generator: torch.Generator) -> Tensor:
        chosen = torch.randint(len(rows), (config.batch_size,), generator=generator,
                               device=rows.device)
        return rows[chosen]

    everywhere = torch.arange(len(episodes.last), device=starts.device)

    def loss(generator: torch.Generator) -> Tensor:
        here, there = (episodes.latents[draw(everywhere, generator)] for _ in range(2))
        # Less and less is gained by a pair that is far apart already.
        apart = nn.functional.softplus(config.farthest - head(here, there), beta=0.1).mean()
        excess = _excess(head, episodes, draw(starts, generator), ticks)
        # Dual ascent: the multiplier is no parameter of the head.
        multiplier.add_(_DUAL_RATE * (excess.detach() / config.tolerance ** 2 - 1)).clamp_(0.01)
        return apart + multiplier * excess / config.tolerance ** 2

    return loss


def _excess(head: Distance, episodes: Episodes, rows: Tensor, ticks: int) -> Tensor:
    """The mean square by which frames a block apart are more than one block apart."""
    far = head(episodes.latents[rows], episodes.latents[rows + ticks])
    return (far - 1).clamp(min=0).square().mean()
