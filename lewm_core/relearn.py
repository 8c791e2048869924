"""What error to expect where, learned further from ordinary driving that training never saw.

On the episodes it was trained on a model errs less, and where it errs most is rare: what the head
learned there is too little for a threshold that is passed once an hour. A drive that thresholds
are calibrated on says both, and may say both at once: each fifth of it is scored by a head that
learned from the others (cross-fitting; Vovk 2015, "Cross-conformal predictors"), so its scores
are of driving that their head did not see, as those of any later drive are. What serves from then
on is the mean of the five heads' weights (Wortsman et al. 2022, "Model soups"), which began as
one: it scores as the mean of the five does, at the price of one.
"""

from __future__ import annotations

import base64
import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError

from lewm_core.head_training import fit
from lewm_core.tensors import check_tensors
from lewm_core.types import UserError
from lewm_core.uncertainty import Errors, Uncertainty, bound, centre, likelihood

# Fewer blocks than this say less than training did; eight minutes of blocks of half a second.
LEAST = 1000
FOLDS = 5
RATE = 3e-4  # gentler than training: what it knows is to be mended, not forgotten


@dataclass(frozen=True)
class Relearned:
    """A head that learned from a drive, and that drive's scores (N,), an array an episode.

    The scores are out of fold: none by a head that learned from its block.
    """

    head: Uncertainty
    scores: list[np.ndarray]


def relearn(head: Uncertainty, episodes: Sequence[Errors], *, steps: int, seed: int = 0,
            learning_rate: float = RATE,
            on_progress: Callable[[float], None] | None = None,
            should_stop: Callable[[], bool] = lambda: False) -> Relearned | None:
    """The head trained further on `episodes`, `steps` for each of five; None: it was stopped.

    `head` itself is not changed, and should not have seen the episodes, of at least `LEAST`
    blocks together. Half of the scores are below 1. `on_progress(share)` is called between 0 and
    1. The same seed gives the same head on the CPU.
    """
    blocks = Errors.joined(episodes)
    fold = np.arange(len(blocks)) * FOLDS // len(blocks)  # neighbours are alike: whole stretches
    device = head.whitener.device
    scores, heads = np.zeros(len(blocks)), []
    with torch.random.fork_rng(devices=[device] if device.type == 'cuda' else []):
        torch.manual_seed(seed)
        for part in range(FOLDS):
            own, next_one = fold == part, fold == (part + 1) % FOLDS
            taught = blocks[~own & ~next_one]
            learned = _open(head)
            done = fit(learned, likelihood(learned, taught),
                       likelihood(learned, blocks[next_one]), steps=steps,
                       learning_rate=learning_rate, seed=seed + part, should_stop=should_stop,
                       on_progress=_share(on_progress, part))
            if done is None:
                return None
            bound(learned, taught)
            scores[own] = learned.over_expected(blocks[own])
            heads.append(learned)
    soup = _mean(heads)
    bound(soup, blocks)
    scores /= centre(soup, scores)
    return Relearned(soup, np.split(scores, np.cumsum([len(e) for e in episodes])[:-1]))


def to_text(head: Uncertainty) -> str:
    """The head's tensors as a text: base64 of a safetensors file."""
    tensors = {name: tensor.detach().cpu().contiguous()
               for name, tensor in head.state_dict().items()}
    return base64.b64encode(safetensors.torch.save(tensors)).decode('ascii')


def from_text(head: Uncertainty, text: str) -> Uncertainty:
    """A head of the shape of `head` with the tensors in `text`; UserError if they don't fit."""
    where = "the surprise calibration's uncertainty"
    try:
        tensors = safetensors.torch.load(base64.b64decode(text, validate=True))
    except (SafetensorError, ValueError) as error:
        raise UserError(f'{where} cannot be read ({str(error).splitlines()[0]}): it is damaged; '
                        'delete calibration_file, drive as usual and call ~/recalibrate') from None
    found = copy.deepcopy(head)
    check_tensors(where, found.state_dict(), tensors, 'it is of another checkpoint: delete '
                  'calibration_file, drive as usual and call ~/recalibrate')
    found.load_state_dict(tensors)
    return found.eval()


def _open(head: Uncertainty) -> Uncertainty:
    """A copy to be trained, without the range that `head` was held to."""
    found = copy.deepcopy(head).requires_grad_(True)
    found.range.copy_(torch.tensor([-torch.inf, torch.inf]))
    return found


@torch.no_grad()
def _mean(heads: Sequence[Uncertainty]) -> Uncertainty:
    """The head whose parameters are the mean of those of `heads`; their buffers are one."""
    found = copy.deepcopy(heads[0])
    for own, *all_of_them in zip(found.parameters(), *(head.parameters() for head in heads)):
        own.copy_(torch.stack(all_of_them).mean(dim=0))
    return found.eval()


def _share(tell: Callable[[float], None] | None, part: int
           ) -> Callable[[int, int, float], None] | None:
    if tell is None:
        return None
    return lambda step, steps, _: tell((part + step / steps) / FOLDS)
