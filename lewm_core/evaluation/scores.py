"""From what was imagined and what came to one number a block."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

# From residuals (..., D) to scores (...).
Score = Callable[[np.ndarray], np.ndarray]


def plain(residuals: np.ndarray) -> np.ndarray:
    """The squared latent error (...,), mean over the dimensions of `residuals` (..., D)."""
    return np.square(residuals).mean(axis=-1)


def whitening(ordinary: Sequence[np.ndarray]) -> Score:
    """The squared Mahalanobis length, per dimension, by the covariance of `ordinary` (T, D) each.

    An error counts as much as it is rare: ordinary errors lie in few directions (what a wall or a
    corner does is hard to foretell), and in the others a small one says that something is wrong.
    Source: Mahalanobis 1936.
    """
    residuals = np.concatenate(ordinary)
    moments = residuals.T @ residuals / len(residuals)
    # A share of the mean variance keeps dead directions from deciding; fewer blocks, more of it.
    floor = np.trace(moments) / len(moments) * (1e-6 + 0.01 / len(residuals))
    lower = np.linalg.cholesky(moments + floor * np.eye(len(moments)))
    inverse = np.linalg.inv(lower)
    return lambda r: np.square(np.asarray(r) @ inverse.T).mean(axis=-1)
