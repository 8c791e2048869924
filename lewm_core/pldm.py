"""The baseline: PLDM's objective on the same encoder and predictor (arXiv 2502.14819).

L = L_sim + α L_var + β L_cov + δ L_time-sim + ω L_IDM: five terms and four weights where LeWM has
two and one. Variance and covariance are VICReg's (arXiv 2105.04906). The authors' code has a
sixth, the variance over a window's time, and divides the covariance by the number of its
off-diagonal entries; so do we, and the default weights are theirs for their world of two rooms.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from lewm_core import distributed
from lewm_core.config import TrainConfig
from lewm_core.losses import Losses, sigreg
from lewm_core.model import WorldModel, at_least_float32

_TARGET_STD, _EPSILON = 1.0, 1e-4


class PLDM(nn.Module):
    """The objective with its weights, and the inverse model, which is no part of a checkpoint."""

    def __init__(self, model: WorldModel, config: TrainConfig) -> None:
        super().__init__()
        self.weights = {'variance': config.pldm_variance, 'covariance': config.pldm_covariance,
                        'time_variance': config.pldm_time_variance,
                        'similarity': config.pldm_similarity, 'inverse': config.pldm_inverse}
        shape, hidden = model.config, model.config.projector_hidden
        actions = shape.frameskip * model.spec.action_dim
        self.inverse = nn.Sequential(nn.Linear(2 * shape.latent_dim, hidden), nn.GELU(),
                                     nn.Linear(hidden, actions))

    def forward(self, model: WorldModel, pixels: Tensor, actions: Tensor,
                generator: torch.Generator | None = None) -> Losses:
        """The losses of one batch, shapes as in `prediction_losses`; SIGReg only for the log."""
        latents = model.encode(pixels)
        actions = actions[:, :latents.shape[1] - 1]
        predicted = model.predict(latents[:, :-1], model.embed_actions(actions))
        prediction = functional.mse_loss(predicted, latents[:, 1:])
        pairs = torch.cat([latents[:, :-1], latents[:, 1:]], dim=-1)
        wanted = ((actions - model.action_mean) / model.action_std).flatten(-2)
        terms = {**variance_covariance(latents), 'time_variance': time_variance(latents),
                 'similarity': functional.mse_loss(latents[:, 1:], latents[:, :-1]),
                 'inverse': functional.mse_loss(at_least_float32(self.inverse(pairs)), wanted)}
        total = prediction + sum(self.weights[name] * term for name, term in terms.items())
        with torch.no_grad():
            config = model.config
            spread = sigreg(latents.transpose(0, 1), config.sigreg_projections,
                            config.sigreg_knots, generator)
        return Losses(total, prediction, spread, latents, terms)


def variance_covariance(latents: Tensor) -> dict[str, Tensor]:
    """VICReg's two terms for latents (B, T, D), each a mean over the T frames; both at least 0.

    `variance`: how far each dimension's standard deviation falls short of 1. `covariance`: the
    mean of the squares off the covariance's diagonal. Moments are over the windows of all
    processes; a single window has no spread.
    """
    with torch.autocast(latents.device.type, enabled=False):
        rows = at_least_float32(latents).transpose(0, 1)                     # (T, B, D)
        count = rows.shape[1] * distributed.size()
        centred = rows - distributed.mean(rows.mean(dim=1, keepdim=True))
        product = distributed.mean(centred.transpose(1, 2) @ centred / rows.shape[1])
        covariance = product * (count / max(count - 1, 1))                   # (T, D, D)
        diagonal = covariance.diagonal(dim1=1, dim2=2)
        off = covariance.square().sum(dim=(1, 2)) - diagonal.square().sum(dim=1)
        dimensions = rows.shape[-1]
        return {'variance': _short(diagonal),
                'covariance': off.mean() / max(dimensions * (dimensions - 1), 1)}


def time_variance(latents: Tensor) -> Tensor:
    """How far each dimension's standard deviation over a window's time falls short of 1: a scalar.

    Over the T frames of each window of `latents` (B, T, D) but the first, as the authors have it;
    0 where fewer than two are left.
    """
    if latents.shape[1] < 3:
        return latents.new_zeros(())
    with torch.autocast(latents.device.type, enabled=False):
        return _short(at_least_float32(latents)[:, 1:].var(dim=1))


def _short(variance: Tensor) -> Tensor:
    return functional.relu(_TARGET_STD - (variance + _EPSILON).sqrt()).mean()
