"""Batches: the frames that were asked for, wherever they wait and however they come."""

from __future__ import annotations

import dataclasses
import os
import weakref

import h5py
import numpy as np
import pytest
import torch

from lewm_core.batches import Batches
from lewm_core.config import DataConfig, TrainConfig
from lewm_core.data import Dataset
from lewm_core.trainer import Trainer
from lewm_core.types import UserError

CPU = torch.device('cpu')


@pytest.mark.parametrize('where', ['auto', 'mapped', 'resident'])
def test_a_batch_is_the_same_wherever_the_frames_wait(recording, where):
    batches = Batches(recording, 4, 3, CPU, where)
    assert batches.resident == (where == 'resident')
    starts = recording.windows('train', 4, 3)[[7, 0, 90]]
    pixels, blocks = batches.place(batches.load(starts, 0), 0)
    expected = recording.batch(starts, 4, 3)
    np.testing.assert_array_equal(pixels, expected[0])
    np.testing.assert_array_equal(blocks, expected[1])


def test_two_buffers_take_turns(recording):
    batches = Batches(recording, 4, 3, CPU)
    one, two, three = (recording.windows('train', 4, 3)[i:i + 5] for i in (0, 40, 80))
    first, second = batches.load(one, 0)[0], batches.load(two, 1)[0]
    kept = first.clone()
    np.testing.assert_array_equal(first, recording.batch(one, 4, 3)[0])
    third = batches.load(three, 0)[0]
    assert third.data_ptr() == first.data_ptr() != second.data_ptr()
    assert not torch.equal(first, kept)
    np.testing.assert_array_equal(second, recording.batch(two, 4, 3)[0])
    alone = batches.load(one)[0]
    batches.load(two, 0)
    np.testing.assert_array_equal(alone, recording.batch(one, 4, 3)[0])


def test_frames_are_asked_of_the_disk_before_they_are_needed_only_where_it_is_slow(
        recording, monkeypatch):
    asked = []
    monkeypatch.setattr(os, 'posix_fadvise', lambda *a: asked.append(a[1:3]))
    starts = recording.windows('train', 4, 3)[:2]
    for speed, count in ((0.0, 0), (1e18, 8)):  # bytes a second that would be slow
        monkeypatch.setattr('lewm_core.batches._SLOW_BYTES_PER_S', speed)
        batches = Batches(recording, 4, 3, CPU)
        for _ in range(2):
            pixels = batches.load(starts, 0)[0]
            np.testing.assert_array_equal(pixels, recording.batch(starts, 4, 3)[0])
        assert len(asked) == count
    offset, size = asked[1]
    with recording.path.open('rb') as file:
        file.seek(offset)
        assert file.read(size) == recording.pixels[starts[0] + 3].tobytes()


def test_compressed_frames_come_too(recording, tmp_path):
    with h5py.File(recording.path) as old, h5py.File(tmp_path / 'packed.h5', 'w') as new:
        for name in old:
            if name != 'pixels':
                old.copy(name, new)
        new.attrs.update(old.attrs)
        new.create_dataset('pixels', data=old['pixels'], chunks=(5, 16, 16, 3),
                           compression='gzip')
    packed = Dataset.open(tmp_path / 'packed.h5')
    starts = recording.windows('train', 4, 3)[[3, 50]]
    for where in ('mapped', 'resident'):
        batches = Batches(packed, 4, 3, CPU, where)
        np.testing.assert_array_equal(batches.place(batches.load(starts, 0))[0],
                                      recording.batch(starts, 4, 3)[0])


def test_a_row_outside_the_file_is_an_error_and_not_another_frame(recording):
    for row in (-1, len(recording)):
        with pytest.raises(IndexError):
            recording.frames(np.array([0, row]))


def test_frames_that_do_not_fit_are_a_user_error(recording, monkeypatch):
    monkeypatch.setattr(os, 'sysconf', lambda name: 10)
    with pytest.raises(UserError, match='where 0.0 GB are to be had; use train.frames=mapped'):
        Batches(recording, 4, 3, CPU, 'resident')


class Circle:
    """What Python holds until it looks for such."""

    def __init__(self):
        self.itself = self


def test_the_memory_of_an_earlier_run_of_the_process_is_room_for_frames(recording, monkeypatch):
    """PyTorch keeps what it freed, and Python what it has not looked for: of the trials of `lewm
    tune-lambda` the first had its frames on the GPU, and to the others there was no room."""
    held, given_back, empty = weakref.ref(Circle()), [], torch.empty
    monkeypatch.setattr(torch.cuda, 'empty_cache', lambda: given_back.append(held() is None))
    monkeypatch.setattr(torch.cuda, 'mem_get_info', lambda device: (
        10**9 if given_back == [True] else 0, 10**9))
    monkeypatch.setattr(torch, 'empty', lambda shape, dtype, device: empty(shape, dtype=dtype))
    for where in ('resident', 'auto'):
        given_back.clear()
        assert Batches(recording, 4, 3, torch.device('cuda'), where).resident


def test_training_takes_the_same_steps_wherever_the_frames_wait(record, toy_model, tmp_path):
    dataset = record(tmp_path / 'd.h5', [40] * 6, data=DataConfig(0, 0, 0))
    ends = []
    for where in ('mapped', 'resident'):
        config = TrainConfig(steps=3, batch_size=8, device='cpu', precision='float32',
                             frames=where)
        trainer = Trainer(dataset, dataclasses.replace(toy_model, dropout=0.0), config)
        for step in range(3):
            trainer.step(step, trainer.batch(step))
        ends.append([p.detach().clone() for p in trainer.model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*ends))
