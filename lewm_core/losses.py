"""The two losses of LeWorldModel: next-latent prediction and SIGReg.

SIGReg is written from its formula (LeJEPA, arXiv 2511.08544): the latents' projections on random
directions are held against a standard normal by the Epps-Pulley statistic.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from lewm_core import distributed
from lewm_core.model import WorldModel, at_least_float32

_T_MAX = 3.0


class Losses(NamedTuple):
    """`total` = `prediction` + λ·`sigreg`, scalars; `latents` (B, T, D) for the monitor.

    `terms` are what another objective adds, by name.
    """

    total: Tensor
    prediction: Tensor
    sigreg: Tensor
    latents: Tensor
    terms: Mapping[str, Tensor] = MappingProxyType({})


class LeWM(nn.Module):
    """The paper's objective, called as every objective is; it has no weights of its own."""

    def forward(self, model: WorldModel, pixels: Tensor, actions: Tensor,
                generator: torch.Generator | None = None) -> Losses:
        """The losses of one batch, as `prediction_losses` gives them."""
        return prediction_losses(model, pixels, actions, generator)


def prediction_losses(model: WorldModel, pixels: Tensor, actions: Tensor,
                      generator: torch.Generator | None = None) -> Losses:
    """The losses of one batch of windows.

    `pixels` (B, T, H, W, 3) uint8 with T - 1 <= history; `actions` (B, T - 1 or T, F, A) in robot
    units, block k leaving frame k (a last one, which leads out of the window, is not looked at).
    `generator` draws SIGReg's directions. The targets are not detached: SIGReg alone keeps the
    latents from collapsing.
    """
    config = model.config
    latents = model.encode(pixels)
    embedded = model.embed_actions(actions[:, :latents.shape[1] - 1])
    predicted = model.predict(latents[:, :-1], embedded)
    prediction = functional.mse_loss(predicted, latents[:, 1:])
    # With λ = 0 the statistic is still measured, for the log, but has no gradient.
    with torch.set_grad_enabled(torch.is_grad_enabled() and config.sigreg_weight > 0):
        spread = sigreg(latents.transpose(0, 1), config.sigreg_projections, config.sigreg_knots,
                        generator)
    total = prediction
    if config.sigreg_weight > 0:
        total = prediction + config.sigreg_weight * spread
    return Losses(total, prediction, spread, latents)


def sigreg(latents: Tensor, projections: int = 1024, knots: int = 17,
           generator: torch.Generator | None = None) -> Tensor:
    """How far the latents are from an isotropic standard normal: a scalar, at least 0.

    `latents` (N, D), or (T, N, D) for one statistic per time step, averaged. Directions are drawn
    anew at each call from `generator`. At least float32, under autocast too: in bfloat16 the
    statistic drowns in rounding.
    """
    with torch.autocast(latents.device.type, enabled=False):
        device = latents.device if generator is None else generator.device
        latents = at_least_float32(latents)
        directions = torch.randn(latents.shape[-1], projections, generator=generator,
                                 device=device).to(latents)
        directions = directions / directions.norm(dim=0)
        return epps_pulley(latents @ directions, knots).mean()


def epps_pulley(samples: Tensor, knots: int = 17) -> Tensor:
    """The statistic (..., M) of samples (..., N, M) against N(0, 1), over their N.

    N ∫ |φ_N(t) - φ(t)|² w(t) dt with φ_N the empirical characteristic function, φ(t) = w(t) =
    exp(-t²/2): the trapezoid rule over `knots` on [0, 3], doubled because the integrand is even.
    Where several processes train together, N and φ_N are those of all their samples.
    """
    t = torch.linspace(0, _T_MAX, knots, dtype=samples.dtype, device=samples.device)
    normal = torch.exp(-t ** 2 / 2)
    weight = 2 * (_T_MAX / (knots - 1)) * normal
    weight[0] /= 2
    weight[-1] /= 2
    angle = samples.unsqueeze(-1) * t                                   # (..., N, M, knots)
    moments = distributed.mean(torch.stack([angle.cos().mean(-3), angle.sin().mean(-3)]))
    real, imaginary = moments.unbind()
    count = distributed.size() * samples.shape[-2]
    return count * ((real - normal) ** 2 + imaginary ** 2) @ weight
