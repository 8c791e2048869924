"""What can be read out of the latents by a linear map: ridge regression, scored held out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Against latents of unit variance: enough to keep a collapsed dimension from blowing up, too
# little to bias the rest.
RIDGE = 1e-3


@dataclass(frozen=True)
class LinearProbe:
    """A linear map from latents (..., D) to M columns, as `fit` gives it."""

    weights: np.ndarray
    bias: np.ndarray

    @classmethod
    def fit(cls, latents: np.ndarray, columns: np.ndarray, ridge: float = RIDGE) -> LinearProbe:
        """The ridge regression from `latents` (N, D) to `columns` (N, M), both finite.

        Minimises the mean squared error + `ridge` · |w|², on standardised latents.
        """
        latents, columns = np.asarray(latents, np.float64), np.asarray(columns, np.float64)
        mean, middle = latents.mean(axis=0), columns.mean(axis=0)
        scale = np.maximum(latents.std(axis=0), 1e-12)
        x, y = (latents - mean) / scale, columns - middle
        gram = x.T @ x / len(x) + ridge * np.eye(x.shape[1])
        weights = np.linalg.solve(gram, x.T @ y / len(x)) / scale[:, None]
        return cls(weights, middle - mean @ weights)

    def __call__(self, latents: np.ndarray) -> np.ndarray:
        """The columns (..., M) read out of `latents` (..., D)."""
        return np.asarray(latents, np.float64) @ self.weights + self.bias


def r_squared(true: np.ndarray, predicted: np.ndarray) -> float:
    """1 - squared error over variance, at most 1; NaN when `true` (N,) does not vary."""
    variance = float(np.var(true))
    if variance <= 1e-24:
        return float('nan')
    return 1.0 - float(np.mean((np.asarray(true) - predicted) ** 2)) / variance


def ridge_probe(latents: np.ndarray, columns: dict[str, np.ndarray], held_out: np.ndarray,
                held_out_columns: dict[str, np.ndarray], ridge: float = RIDGE
                ) -> dict[str, float]:
    """R² of each column, fitted on `latents` (N, D) and scored on `held_out` (M, D).

    Rows where a column is not finite are left out of that column; a column that does not vary, or
    has fewer than 2 rows on a side, is left out altogether.
    """
    scores = {}
    for name, values in columns.items():
        fit, test = np.isfinite(values), np.isfinite(held_out_columns[name])
        if fit.sum() < 2 or test.sum() < 2:
            continue
        probe = LinearProbe.fit(latents[fit], values[fit, None], ridge)
        score = r_squared(held_out_columns[name][test], probe(held_out[test])[:, 0])
        if np.isfinite(score):
            scores[name] = score
    return scores
