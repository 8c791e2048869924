"""Which windows a step trains on, and the next batch assembled while this one computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from lewm_core.dataset import Dataset
from lewm_core.types import UserError


class WindowSampler:
    """The windows of each step, as a pure function of (seed, step): nothing to save or restore.

    Every epoch is a fresh permutation of the split's windows, cut into whole batches; what is
    left over at its end is dropped. Raises UserError when one batch is more than all windows.
    """

    def __init__(self, starts: np.ndarray, batch_size: int, seed: int) -> None:
        if len(starts) < batch_size:
            raise UserError(f'the training episodes hold {len(starts)} windows, but batch_size '
                            f'is {batch_size}: record more or longer episodes, or lower '
                            'train.batch_size')
        self._starts, self._batch, self._seed = starts, batch_size, seed
        self.steps_per_epoch = len(starts) // batch_size
        self._shuffled = (-1, starts)

    def __call__(self, step: int) -> np.ndarray:
        """The first rows (B,) int64 of the windows of `step`, counted from 0."""
        epoch, index = divmod(step, self.steps_per_epoch)
        known, order = self._shuffled
        if epoch != known:
            shuffle = np.random.default_rng([self._seed, epoch])
            order = self._starts[shuffle.permutation(len(self._starts))]
            self._shuffled = (epoch, order)
        return order[index * self._batch:(index + 1) * self._batch]


class Prefetch:
    """An iterator over `load(step)` for each step, one step ahead in a thread.

    The copy out of the memory map releases the interpreter lock, so a page that must come from
    disk is waited for behind the computation. A context manager: the thread ends with the block.
    """

    def __init__(self, load: Callable[[int], Any], steps: range) -> None:
        self._load, self._steps = load, steps
        self._pool = ThreadPoolExecutor(1, thread_name_prefix='batches')

    def __enter__(self) -> Prefetch:
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        pending = None
        for step in self._steps:
            batch = (pending or self._pool.submit(self._load, step)).result()
            if step + 1 in self._steps:
                pending = self._pool.submit(self._load, step + 1)
            yield step, batch


def action_statistics(dataset: Dataset, split: str = 'train') -> tuple[np.ndarray, np.ndarray]:
    """Mean (A,) and standard deviation (A,) float32 of the actions in `split`, robot units.

    From training episodes alone, per raw dimension. Raises UserError naming an action field that
    never changes: the model could learn nothing about it, and its z-score is not defined.
    """
    actions = dataset.action[dataset.rows(split)].astype(np.float64)
    actions = actions[np.isfinite(actions).all(axis=1)]
    if not len(actions):
        raise UserError(f'dataset {str(dataset.path)!r} has no actions in its {split} episodes: '
                        'record episodes of at least two frames')
    mean, std = actions.mean(axis=0), actions.std(axis=0)
    for field, low, value in zip(dataset.spec.action.fields, std, mean):
        if low < 1e-6 * (field.max - field.min):
            raise UserError(f'action field {field.path!r} is {value:g} in all of the {split} '
                            'episodes, but it must vary to be learned: record driving that uses '
                            'it, or take it out of the robot spec')
    return mean.astype(np.float32), std.astype(np.float32)
