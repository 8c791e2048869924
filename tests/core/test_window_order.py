"""In which order windows are drawn, and that the next batch is there when it is asked for."""

from __future__ import annotations

import time

import numpy as np
import pytest

from lewm_core.data import Prefetch, WindowSampler
from lewm_core.types import UserError


def test_every_window_comes_once_an_epoch():
    sampler = WindowSampler(np.arange(100, 133), 8, seed=5)
    epochs = [np.concatenate([sampler(4 * e + i) for i in range(4)]) for e in range(2)]
    for epoch in epochs:
        assert len(np.unique(epoch)) == 32 and epoch.min() >= 100 and epoch.max() < 133
    assert (epochs[0] != epochs[1]).any()


def test_a_step_draws_the_same_windows_whatever_came_before():
    order = [WindowSampler(np.arange(50), 8, seed=5)(step) for step in range(20)]
    fresh = WindowSampler(np.arange(50), 8, seed=5)
    for step in (13, 2, 19, 0):
        np.testing.assert_array_equal(fresh(step), order[step])
    assert (WindowSampler(np.arange(50), 8, seed=6)(3) != order[3]).any()


def test_fewer_windows_than_a_batch_is_a_user_error():
    with pytest.raises(UserError, match='hold 7 windows, but batch_size is 8'):
        WindowSampler(np.arange(7), 8, seed=0)


def test_prefetch_gives_each_step_once_in_order_and_passes_errors_on():
    with Prefetch(lambda step: step ** 2, range(3, 9)) as batches:
        assert list(batches) == [(s, s ** 2) for s in range(3, 9)]

    def broken(step):
        if step == 2:
            raise OSError('disk')
        return step
    with pytest.raises(OSError, match='disk'), Prefetch(broken, range(5)) as batches:
        list(batches)


def test_a_slow_consumer_finds_the_next_batch_ready():
    loaded = []
    with Prefetch(lambda step: loaded.append(step), range(4)) as batches:
        for step, _ in batches:
            deadline = time.monotonic() + 10
            while step < 3 and len(loaded) < step + 2 and time.monotonic() < deadline:
                time.sleep(0.001)
            assert loaded == list(range(min(step + 2, 4)))
