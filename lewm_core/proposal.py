"""A learned proposal: from where the robot is and where it should be to likely commands.

A small network on the frozen latents, trained on the recording itself: whatever frame came later
in an episode was a goal that the commands before it led to (hindsight; Andrychowicz et al. 2017,
arXiv 1707.01495, and as supervised learning Ghosh et al. 2021, arXiv 1912.06088). The search
starts from it and stays on top: what is proposed is only tried first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lewm_core.config import ProposalConfig
from lewm_core.head_training import Episodes, fit
from lewm_core.model import WorldModel

# Of the standard deviation of the data: a proposal is never surer than this.
_LEAST_STD = 0.05


class Proposed(NamedTuple):
    """The commands that are likely: mean and deviation (B, K, F, A), robot units."""

    mean: Tensor
    std: Tensor


class Proposal(nn.Module):
    """A normal distribution of each command of the next K blocks, given latent and goal."""

    Config = ProposalConfig

    def __init__(self, config: ProposalConfig, model: WorldModel) -> None:
        super().__init__()
        self.config = config
        actions = model.spec.action_dim
        self.shape = (config.blocks, model.config.frameskip, actions)
        sizes = [3 * model.config.latent_dim, *[config.width] * config.depth]
        layers: list[nn.Module] = []
        for before, after in zip(sizes, sizes[1:]):
            layers += [nn.Linear(before, after), nn.LayerNorm(after), nn.GELU(),
                       nn.Dropout(config.dropout)]
        self.body = nn.Sequential(*layers)
        self.out = nn.Linear(sizes[-1], 2 * config.blocks * model.config.frameskip * actions)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        self.register_buffer('action_mean', model.action_mean.detach().clone())
        self.register_buffer('action_std', model.action_std.detach().clone())

    def normalised(self, latents: Tensor, goals: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log deviation (B, K, F, A) in units of the data's standard deviation."""
        seen = torch.cat([latents, goals, goals - latents], dim=-1)
        mean, log_std = self.out(self.body(seen)).unflatten(-1, (2, *self.shape)).unbind(-4)
        # It starts about as wide as the data.
        return mean, torch.log(_LEAST_STD + nn.functional.softplus(log_std + 0.5))

    @torch.no_grad()
    def forward(self, latents: Tensor, goals: Tensor, horizon: int | None = None) -> Proposed:
        """The commands of `horizon` blocks from latents (B, D) to goals (B, D), robot units.

        Blocks beyond those it was trained for are the data's own mean and deviation.
        """
        mean, log_std = self.normalised(latents, goals)
        mean = self.action_mean + self.action_std * mean
        std = self.action_std * log_std.exp()
        missing = (horizon or self.config.blocks) - self.config.blocks
        if missing > 0:
            shape = (len(mean), missing, *self.shape[1:])
            mean = torch.cat([mean, self.action_mean.expand(shape)], dim=1)
            std = torch.cat([std, self.action_std.expand(shape)], dim=1)
        return Proposed(mean[:, :horizon], std[:, :horizon])


def train_proposal(model: WorldModel, train: Episodes, held_out: Episodes | None,
                   config: ProposalConfig, *, steps: int, seed: int = 0,
                   on_progress: Callable[[int, int, float], None] | None = None,
                   should_stop: Callable[[], bool] = lambda: False
                   ) -> tuple[Proposal, float | None]:
    """A proposal for `model`, and its loss: on `held_out`, where it is long enough, at its best.

    `steps` of `config.batch_size` pairs of a frame and a later one of its episode, 1 to
    `config.reach` blocks ahead and seldom far: a goal h blocks ahead counts `config.discount`^h,
    so that among the ways that led somewhere the quick ones are learned. The loss is the mean
    negative log likelihood of a command in units of the data's deviation. None in its place
    means that it was stopped.
    """
    device = next(model.parameters()).device
    with torch.random.fork_rng(devices=[device] if device.type == 'cuda' else []):
        torch.manual_seed(seed)
        head = Proposal(config, model).to(device)
        loss = _loss(head, train)
        test = None
        if held_out is not None and held_out.has(model.config.frameskip):
            test = _loss(head, held_out)
        best = fit(head, loss, test, steps=steps, learning_rate=config.learning_rate, seed=seed,
                   on_progress=on_progress, should_stop=should_stop)
    return head, best


def _loss(head: Proposal, episodes: Episodes) -> Callable[[torch.Generator], Tensor]:
    config, (blocks, ticks, _) = head.config, head.shape
    starts = episodes.starts(ticks)
    weight = config.discount ** torch.arange(1, config.reach + 1, device=starts.device)
    span = torch.arange(blocks * ticks, device=starts.device)

    def loss(generator: torch.Generator) -> Tensor:
        rows = starts[torch.randint(len(starts), (config.batch_size,), generator=generator,
                                    device=starts.device)]
        last = episodes.last[rows]
        ahead = torch.multinomial(weight.float(), len(rows), True, generator=generator) + 1
        ahead = torch.minimum(ahead, (last - rows) // ticks)
        mean, log_std = head.normalised(episodes.latents[rows],
                                        episodes.latents[rows + ahead * ticks])
        done = rows[:, None] + span
        real = (done < last[:, None])[..., None]
        actions = episodes.actions[torch.minimum(done, last[:, None])]
        actions = (actions - head.action_mean) / head.action_std
        mean, log_std = mean.flatten(1, 2), log_std.flatten(1, 2)
        nll = 0.5 * ((actions - mean) / log_std.exp()).square() + log_std
        return (nll * real).sum() / (real.sum() * actions.shape[-1])

    return loss
