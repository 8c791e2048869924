"""Which episodes go where: whole ones, from a seed, and never to another place when more come."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lewm_core.config import DataConfig
from lewm_core.types import UserError

SPLITS = ('train', 'validation', 'calibration', 'test')


def split_episodes(count: int, data: DataConfig) -> np.ndarray:
    """The split of each episode (count,) int8: an index into SPLITS, from `data.split_seed`.

    Whole episodes, because windows of one episode overlap and a random split over windows would
    leak training frames into validation. With few episodes the held-out splits are filled in the
    order test, validation, calibration, and only while half of the episodes stay for training.
    Raises UserError when the shares leave nothing to train on.
    """
    shares = {'test': data.test, 'validation': data.validation, 'calibration': data.calibration}
    total = sum(shares.values())
    if total >= 1:
        raise UserError(f'the shares of validation, calibration and test episodes sum to '
                        f'{total:g}, but training needs some: lower them below 1')
    split = np.zeros(count, dtype=np.int8)
    order = np.random.default_rng(data.split_seed).permutation(count)
    spare = min(count - 1, max(count // 2, int(total * count)))
    for name, share in shares.items():
        take = min(max(1, round(share * count)), spare) if share > 0 else 0
        split[order[:take]] = SPLITS.index(name)
        order, spare = order[take:], spare - take
    return split


def extended_split(old: np.ndarray, new: int, data: DataConfig) -> np.ndarray:
    """The split (E + new,) int8: `old` (E,) as it is, then the new episodes'.

    Of these each held-out split gets what it is short of its share of all, the rest is for
    training. Deterministic in `data.split_seed` and the numbers of episodes.
    """
    total = len(old) + new
    order = np.random.default_rng([data.split_seed, len(old)]).permutation(new)
    split = np.zeros(new, np.int8)
    for name in ('test', 'validation', 'calibration'):
        number = SPLITS.index(name)
        short = round(getattr(data, name) * total) - int((old == number).sum())
        take = max(0, min(short, len(order)))
        split[order[:take]] = number
        order = order[take:]
    return np.concatenate([old, split]).astype(np.int8)


def split_grown(counts: Sequence[int], data: DataConfig) -> np.ndarray:
    """The split (E,) int8 of a dataset that held so many episodes, one number after the other.

    The first were split by themselves, and each time that others were appended, those alone. So a
    checkpoint of any `data` finds its training episodes where they were when the dataset grows.
    """
    split = split_episodes(counts[0], data)
    for count in counts[1:]:
        split = extended_split(split, count - len(split), data)
    return split
