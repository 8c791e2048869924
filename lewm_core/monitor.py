"""Whether the latents still say anything: their spread, effective rank, distance to normal."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

# A healthy LeWM has a std near 1 in every dimension, which is what SIGReg pulls to, and a rank
# over 5 on a world of two degrees of freedom. Without SIGReg both fall at once: std .01, rank 1
# to 3. A weak SIGReg keeps the std and loses the rank, so either alone would miss a collapse.
COLLAPSED_STD = 0.1
COLLAPSED_RANK = 2.0
ADVICE = ('raise model.sigreg_weight (0.02 to 0.2 is its useful range), or train longer if it is '
          'there already')


@dataclass(frozen=True)
class LatentStatistics:
    """The spread of latents over many frames: (N, D) in all.

    `std` (D,) of each dimension, `std_min` and `std_mean` of these; `effective_rank` in [1, D]:
    exp(-Σ p log p) with p the eigenvalues of the covariance over their sum (Roy and Vetterli
    2007, there on singular values). It is D for isotropic latents, 1 for a line.
    `normal_distance`, at least 0: how far projections on random directions are from N(0, 1), the
    2-Wasserstein distance in standard deviations, mean over directions. SIGReg pulls it to 0; it
    is 1 where all latents are the same point at the origin.
    """

    std_min: float
    std_mean: float
    effective_rank: float
    dimensions: int
    normal_distance: float = 0.0
    std: tuple[float, ...] = ()

    @property
    def collapsed(self) -> str | None:
        """A sentence that says how the latents collapsed and what to change; None if they live."""
        return self.collapse(ADVICE)

    def collapse(self, advice: str) -> str | None:
        """The same, with `advice` on what to change."""
        rank = min(COLLAPSED_RANK, 1 + (self.dimensions - 1) / 4)
        if self.std_min >= COLLAPSED_STD and self.effective_rank >= rank:
            return None
        return (f'the latents collapsed: std {self.std_min:.3f} in the narrowest dimension and '
                f'{self.std_mean:.3f} on average (healthy: near 1), effective rank '
                f'{self.effective_rank:.1f} of {self.dimensions}, so different images look alike '
                f'to the planner and to the surprise score; {advice}')


def latent_statistics(latents: np.ndarray) -> LatentStatistics:
    """The statistics of `latents` (..., D), all leading dimensions taken as frames."""
    values = np.asarray(latents, dtype=np.float64)
    values = values.reshape(-1, values.shape[-1])
    if len(values) < 2 or not np.isfinite(values).all():
        raise ValueError(f'latents {values.shape} must be finite and of at least 2 frames')
    distance = normal_distance(values)
    values = values - values.mean(axis=0)
    covariance = values.T @ values / len(values)
    std = np.sqrt(np.diag(covariance))
    return LatentStatistics(float(std.min()), float(std.mean()), effective_rank(covariance),
                            values.shape[1], distance, tuple(std.tolist()))


def normal_distance(values: np.ndarray, directions: int = 64) -> float:
    """The mean 2-Wasserstein distance to N(0, 1) of `values` (N, D) projected on `directions`.

    The directions are always the same. In one dimension the best transport pairs sorted samples
    with the quantiles of the normal.
    """
    axes = np.random.default_rng(0).normal(size=(values.shape[1], directions))
    projected = np.sort(values @ (axes / np.linalg.norm(axes, axis=0)), axis=0)
    quantiles = ndtri((np.arange(len(values)) + 0.5) / len(values))
    return float(np.sqrt(np.square(projected - quantiles[:, None]).mean(axis=0)).mean())


def effective_rank(covariance: np.ndarray) -> float:
    """exp of the entropy of the normalised eigenvalues of `covariance` (D, D); 1 if all are 0."""
    values = np.clip(np.linalg.eigvalsh(covariance), 0, None)
    total = values.sum()
    if total <= 0:
        return 1.0
    share = values[values > 0] / total
    return float(np.exp(-(share * np.log(share)).sum()))
