"""How large an error to expect: what makes a small teleport stand out from a wall's usual bump.

Errors are unequal in two ways. They lie in few directions of the latent space, and they are large
where the world is hard to foretell (at a wall, at the corner of a door) and small elsewhere. So
an error is whitened by the covariance of the errors on training episodes (Mahalanobis 1936), and
divided by what a small network expects of it from what was known before the block: a normal
distribution's variance, learned by its likelihood (Nix and Weigend 1994), as the difficulty
in normalised conformal prediction (Papadopoulos et al. 2002). On ordinary drives that training
has not seen, half of the scores are below 1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from lewm_core.config import UncertaintyConfig
from lewm_core.evaluate import evenly
from lewm_core.head_training import Episodes, fit
from lewm_core.model import WorldModel
from lewm_core.residuals import Residuals, Score, indexed_residuals, plain

# Fewer errors than this say nothing of what to expect; more than that say nothing new.
LEAST, _MOST = 100, 50_000
# Shares of equal variance in all directions: the fewer errors there are, the more of it is right.
_SHRINKAGE = np.geomspace(1e-6, 1.0, 25)
_BULK = 0.999
_NOTHING = 1e-30


@dataclass(frozen=True)
class Errors:
    """What a head learns from: `squared` (N,) whitened errors, `given` (N, X) before each."""

    squared: np.ndarray
    given: np.ndarray

    def __getitem__(self, at: object) -> Errors:
        """Those of some of the blocks."""
        return Errors(self.squared[at], self.given[at])

    def __len__(self) -> int:
        return len(self.squared)

    @staticmethod
    def joined(parts: Sequence[Errors]) -> Errors:
        """Those of all `parts`, one after the other."""
        return Errors(np.concatenate([part.squared for part in parts]),
                      np.concatenate([part.given for part in parts]))


class Uncertainty(nn.Module):
    """What squared error to expect of a block, and the score that follows."""

    Config = UncertaintyConfig

    def __init__(self, config: UncertaintyConfig, model: WorldModel) -> None:
        super().__init__()
        self.config = config
        dim = model.config.latent_dim
        given = 2 * dim + model.config.frameskip * model.spec.action_dim
        sizes = [given, *[config.width] * config.depth]
        layers: list[nn.Module] = []
        for before, after in zip(sizes, sizes[1:]):
            layers += [nn.Linear(before, after), nn.GELU(), nn.Dropout(config.dropout)]
        self.body = nn.Sequential(*layers)
        self.out = nn.Linear(sizes[-1], 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        self.register_buffer('whitener', torch.eye(dim))
        self.register_buffer('given_mean', torch.zeros(given))
        self.register_buffer('given_std', torch.ones(given))
        self.register_buffer('range', torch.tensor([-torch.inf, torch.inf]))

    def forward(self, given: Tensor) -> Tensor:
        """The log (...,) of the whitened squared error to expect after what was `given` (..., X).

        Within the range that it had in training: what was never seen must excuse nothing.
        """
        known = (given - self.given_mean) / self.given_std
        return self.out(self.body(known))[..., 0].clamp(self.range[0], self.range[1])

    def whitened(self, off: np.ndarray) -> np.ndarray:
        """The squared Mahalanobis length (...,) of errors (..., D), mean over dimensions."""
        return np.square(off @ self.whitener.double().cpu().numpy()).mean(axis=-1)

    def score(self, residuals: Residuals) -> np.ndarray:
        """The whitened squared errors (...,) float64 over what was to be expected."""
        return self.over_expected(Errors(self.whitened(residuals.off), residuals.given))

    @torch.inference_mode()
    def over_expected(self, errors: Errors) -> np.ndarray:
        """Squared errors (...,) float64 over what was to be expected."""
        given = torch.from_numpy(np.asarray(errors.given)).to(self.whitener)
        return errors.squared / self(given).double().exp().cpu().numpy()


def score_of(heads: Mapping[str, nn.Module]) -> Score:
    """The score that belongs to a checkpoint's `heads`: by its uncertainty, else `plain`."""
    return heads['uncertainty'].score if 'uncertainty' in heads else plain


def scoring(model: nn.Module, heads: Mapping[str, nn.Module]) -> str:
    """A name of 16 hex digits for what makes the scores: the weights of model and uncertainty.

    Thresholds of one scoring mean nothing to another.
    """
    digest = hashlib.blake2b(digest_size=8)
    modules = [model, heads['uncertainty']] if 'uncertainty' in heads else [model]
    for module in modules:
        for name, tensor in sorted(module.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def train_uncertainty(model: WorldModel, train: Episodes, held_out: Episodes,
                      config: UncertaintyConfig, *, steps: int, seed: int = 0,
                      on_progress: Callable[[int, int, float], None] | None = None,
                      should_stop: Callable[[], bool] = lambda: False
                      ) -> tuple[Uncertainty | None, float | None]:
    """The head, as it was best on `held_out`, and its loss there (None: it was stopped).

    The head is None where `train` has too few blocks. The loss is the mean negative log
    likelihood, per dimension, of the whitened errors of blocks that begin at any tick.
    """
    usual, test = (_errors(model, episodes) for episodes in (train, held_out))
    if len(usual) < LEAST:
        return None, None
    device = train.latents.device
    with torch.random.fork_rng(devices=[device] if device.type == 'cuda' else []):
        torch.manual_seed(seed)
        head = Uncertainty(config, model).to(device)
        head.whitener.copy_(torch.from_numpy(whitener(usual.off, test.off)))
        given = torch.from_numpy(usual.given)
        head.given_mean.copy_(given.mean(dim=0))
        head.given_std.copy_(given.std(dim=0).clamp(min=1e-6))
        taught, unseen = (Errors(head.whitened(e.off), e.given) for e in (usual, test))
        held = likelihood(head, unseen) if len(test) >= LEAST else None
        best = fit(head, likelihood(head, taught), held, steps=steps,
                   learning_rate=config.learning_rate, seed=seed, on_progress=on_progress,
                   should_stop=should_stop)
        bound(head, taught)
        if len(test):  # errors are larger on what the model has not seen
            centre(head, head.over_expected(unseen))
    return head, best


@torch.no_grad()
def bound(head: Uncertainty, taught: Errors) -> None:
    """Nothing; the head says no more, and no less, than it says of nearly all it learned from."""
    head.range.copy_(torch.tensor([-torch.inf, torch.inf]))
    told = head(torch.from_numpy(taught.given).to(head.whitener)).sort().values
    head.range.copy_(told[[0, int(_BULK * (len(told) - 1))]])


@torch.no_grad()
def centre(head: Uncertainty, scores: np.ndarray) -> float:
    """The median of its `scores` (N,), by which the head divides from now on: it becomes 1."""
    median = max(float(np.median(scores)), _NOTHING)
    head.out.bias += float(np.log(median))
    head.range += float(np.log(median))
    return median


def whitener(usual: np.ndarray, held_out: np.ndarray) -> np.ndarray:
    """The matrix (D, D) float32 that makes errors `usual` (N, D) of unit covariance: off @ it.

    The covariance is shrunk towards a multiple of the identity (Ledoit and Wolf 2004), by the
    share that makes the directions of the errors `held_out` (M, D) the likeliest: their angular
    central Gaussian likelihood (Tyler 1987), which no few large ones decide. With too few of
    those it is the dimensions over the errors.
    """
    values, axes = np.linalg.eigh(usual.T @ usual / len(usual))
    mean = max(float(values.mean()), _NOTHING)
    shares = (_SHRINKAGE if len(held_out) >= LEAST
              else [min(1.0, len(values) / max(1, len(usual)))])
    spreads = [(1 - share) * np.maximum(values, 0.0) + share * mean for share in shares]
    seen = np.square(held_out @ axes)
    fits = [-np.log(spread).mean() - np.log((seen / spread).sum(axis=1) + _NOTHING).mean()
            for spread in spreads] if len(spreads) > 1 else [0.0]
    return (axes / np.sqrt(spreads[int(np.argmax(fits))])).astype(np.float32)


def _errors(model: WorldModel, episodes: Episodes) -> Residuals:
    """The residuals (N,) of the blocks that begin at any tick, at most `_MOST`, spread evenly."""
    skip, last = model.config.frameskip, episodes.last
    rows = torch.arange(len(last), device=last.device)
    first = torch.searchsorted(last, last)                   # rows that end earlier come before
    begin = torch.where(first > 0, last[(first - 1).clamp(min=0)] + 1, 0)
    rows = rows[rows + skip <= last]
    rows = rows[torch.from_numpy(evenly(np.arange(len(rows)), _MOST)).to(rows.device)]
    blocks = episodes.actions.unfold(0, skip, 1).transpose(1, 2) if len(rows) else (
        episodes.actions.new_zeros(0, skip, episodes.actions.shape[-1]))
    context = torch.clamp((rows - begin[rows]) // skip + 1, max=model.history)
    return indexed_residuals(model, episodes.latents, blocks, rows, rows, context, skip)


def likelihood(head: Uncertainty, errors: Errors) -> Callable[[torch.Generator], Tensor]:
    """The loss of a drawn batch of `errors`: the negative log likelihood, per dimension."""
    device = head.whitener.device
    given = torch.from_numpy(np.ascontiguousarray(errors.given)).to(device)
    squared = torch.from_numpy(errors.squared).to(given)

    def loss(generator: torch.Generator) -> Tensor:
        rows = torch.randint(len(given), (head.config.batch_size,), generator=generator,
                             device=device)
        log = head(given[rows])
        return 0.5 * (log + squared[rows] * torch.exp(-log)).mean()

    return loss
