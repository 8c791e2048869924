"""What the search imagines with: the model made ready, in a precision that it bears."""

from __future__ import annotations

import logging
from functools import cached_property

import torch
from torch import Tensor

from lewm_core.config import PlannerConfig
from lewm_core.imagine import Imagination
from lewm_core.int8 import supported
from lewm_core.model import LatentDynamics, WorldModel
from lewm_core.precision import resolve_precision

log = logging.getLogger(__name__)

# bf16 and int8 pay from this width on; below it, calls cost more than products.
_WIDE = 192
# The float32 cost of others' elites may be this much above that of float32's own.
_TOLERANCE = 0.02
# A rolling cache's latents may be so far off, in proportion to how far candidates lie apart. With
# 8 % its elites still cost nothing more, and yet the plans at the end of a search 2 to 3 %.
_OFF = 0.05
# From so many contexts: in one of Push-T's a rolling cache's elites cost 14 % more, in another 0.
_CONTEXTS = 4
# Candidates from which int8 pays (the paper's model, beside bf16).
_MANY = 100
# Iterations up to which a search on a CPU is recorded: each takes a tenth of a second of that.
_SHORT = 8
# Candidates an iteration, of all problems together, up to which the calls count: of more a plan is
# arithmetic, and a recording of the paper's model for 50 x 300 took 12 GB to make.
_FEW = 512


def imagination(model: LatentDynamics, config: PlannerConfig) -> LatentDynamics | Imagination:
    """What the search imagines with: `model` made ready, in the precision of `config`.

    'auto' is bf16 where the hardware multiplies it, the predictor is wide enough to gain by it,
    and the elites agree with float32's; else float32. Likewise its `coarse` is in int8 on a CPU,
    and has a rolling cache, where the search has many candidates, a solver that asks for it, and
    no deadline. With the gradient solver, which needs gradients, or a model of another
    kind it is the model itself.
    """
    if not isinstance(model, WorldModel) or config.solver == 'gradient':
        return model
    trial = Trial(model, config)
    found = _in_full(model, config, trial)
    found.coarse = _coarse(model, found, config, trial)
    return found


def _in_full(model: WorldModel, config: PlannerConfig, trial: Trial) -> Imagination:
    auto = config.precision in ('auto', 'int8')
    name = resolve_precision('auto' if auto else config.precision, model.action_std.device)
    if name == 'float32' or (auto and model.config.predictor_width < _WIDE):
        return Imagination(model)
    fast = Imagination(model, torch.bfloat16)
    return fast if not auto or trial.agrees(fast, 'bf16') else Imagination(model)


def _coarse(model: WorldModel, full: Imagination, config: PlannerConfig, trial: Trial
            ) -> Imagination | None:
    """`full` in less time: in int8, with a rolling cache, or both; None where neither serves.

    Each where it is to be had, pays and agrees. int8 that is asked for is neither checked nor
    joined by the cache.
    """
    asked, device = config.precision == 'int8', model.action_std.device
    if not asked and not _worthwhile(model, full, config):
        return None
    whole = _judged_in_full(config)
    hindrance = whole or _without_int8(device)
    if asked and hindrance:
        log.warning('int8 is not used: %s', hindrance)
    found = full
    if not hindrance:
        bytewise = full.in_int8(*_drawn(model, config, config.seed + 1))
        if asked or trial.agrees(bytewise, 'int8'):
            found = bytewise
    slides = 1 < model.history < config.context + config.horizon - 1
    if slides and not (asked or whole) and trial.rolls(found):
        found = found.rolling()
    return None if found is full else found


def _worthwhile(model: WorldModel, full: Imagination, config: PlannerConfig) -> bool:
    """Whether such a search is arithmetic, of which there may be less, and not calls."""
    device = model.action_std.device
    large = model.config.predictor_width >= _WIDE and config.samples >= _MANY
    calls = device.type == 'cpu' and recordable(config, full, device)
    return config.precision == 'auto' and large and not calls


def _judged_in_full(config: PlannerConfig) -> str:
    """Why all of the search is judged in full, in words; '' where a part of it only sorts."""
    if config.solver not in ('cem', 'mppi'):
        return f'planner.solver={config.solver} judges all in full; choose cem or mppi'
    if config.deadline_ms:
        return 'with planner.deadline_ms any iteration may be the last, and that is judged in full'
    return ''


def _without_int8(device: torch.device) -> str:
    """Why there is no int8 there, in words; '' where there is."""
    if device.type != 'cpu':
        return f'the planner is on {device}, and it is for CPUs'
    return '' if supported() else 'the processor has no VNNI, or this PyTorch no kernels for it'


def recordable(config: PlannerConfig, dynamics: LatentDynamics | Imagination,
               device: torch.device, batch: int = 1) -> bool:
    """Whether such a search for `batch` problems can be recorded, and gains by it; see `graphs`.

    Not with a deadline, which asks for the time, nor with gradients. On a CPU a long or a wide
    search is arithmetic and not calls, and weights packed for bf16 or int8 can't be part of a
    program.
    """
    if config.deadline_ms or config.solver == 'gradient':
        return False
    if device.type == 'cuda':
        return True
    if getattr(dynamics, 'coarse', None):
        return False
    narrow = getattr(dynamics, 'dtype', torch.float32) == torch.float32
    few = batch * config.samples <= _FEW and config.iterations <= _SHORT
    return device.type == 'cpu' and narrow and few


class Trial:
    """Candidates of a first iteration, to be sorted by others than the model in float32.

    From contexts as SIGReg shapes latents, standard normal, to where one more such sequence leads.
    """

    def __init__(self, model: WorldModel, config: PlannerConfig) -> None:
        self._model, self._elites = model, config.elites
        self._latents, self._past, self._actions = _drawn(model, config, config.seed)

    @cached_property
    @torch.no_grad()
    def _goals_and_costs(self) -> tuple[Tensor, Tensor]:
        """The goals (B, 1, D) and the model's own costs (B, S)."""
        ready = Imagination(self._model)
        ends = ready.rollout(self._latents, self._past, self._actions)[:, :, -1]
        goals, ends = ends[:, -1:], ends[:, :-1]
        return goals, (ends - goals).square().mean(dim=-1)

    @torch.no_grad()
    def regret(self, other: Imagination) -> float:
        """How much more `other`'s elites cost under the model than its own; 0: just as much."""
        goals, costs = self._goals_and_costs
        ends = other.rollout(self._latents, self._past, self._actions[:, :-1])[:, :, -1]
        own, theirs = (costs.gather(1, c.topk(self._elites, dim=1, largest=False).indices).mean()
                       for c in (costs, (ends - goals).square().mean(dim=-1)))
        return float(theirs / own - 1)

    def agrees(self, other: Imagination, name: str) -> bool:
        """Whether they cost hardly more; if not, that is logged with the other's `name`."""
        regret = self.regret(other)
        if regret <= _TOLERANCE:
            return True
        log.warning('%s is not used: its elites cost %.1f %% more than those of float32, at most '
                    '%g %% is allowed', name, 100 * regret, 100 * _TOLERANCE)
        return False

    @torch.no_grad()
    def rolls(self, other: Imagination) -> bool:
        """Whether a rolling cache leaves `other` nearly what it is; if not, that is logged."""
        given = self._latents, self._past, self._actions
        ends, rolled = (each.rollout(*given)[:, :, -1] for each in (other, other.rolling()))
        off = float((rolled - ends).norm() / (ends - ends.mean(dim=1, keepdim=True)).norm())
        if off <= _OFF:
            return True
        log.info('a rolling cache is not used: its latents are off by %.1f %% of how far the '
                 'candidates lie apart, at most %g %% is allowed', 100 * off, 100 * _OFF)
        return False


def _drawn(model: WorldModel, config: PlannerConfig, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Contexts (B, C, D), the blocks between, and a first iteration's candidates and one more."""
    device, skip, frames = model.action_std.device, model.config.frameskip, config.context
    draw = torch.Generator().manual_seed(seed)
    low, high = (torch.as_tensor(v, dtype=torch.float32, device=device)
                 for v in (model.spec.low, model.spec.high))

    def blocks(*shape: int) -> Tensor:
        noise = torch.randn((_CONTEXTS, *shape, skip, len(model.action_std)), generator=draw)
        return torch.clamp(model.action_mean + model.action_std * noise.to(device), low, high)

    actions = blocks(config.samples + 1, config.horizon)
    latents = torch.randn((_CONTEXTS, frames, model.config.latent_dim), generator=draw).to(device)
    return latents, blocks(frames - 1), actions
