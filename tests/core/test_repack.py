"""Files as the reference library writes them: read, trained on, repacked, and clear about why not.

Made here as its HDF5Writer makes them: a frame a chunk, NaN for an episode's last action, no
stamps, no robot spec.
"""

from __future__ import annotations

import dataclasses
import sys

import h5py
import numpy as np
import pytest

from lewm_core.cli import main
from lewm_core.config import TrainConfig
from lewm_core.data import Dataset
from lewm_core.repack import repack
from lewm_core.train import train
from lewm_core.types import UserError

LENGTHS = [30, 25, 40, 30, 30, 30]


@pytest.fixture
def theirs(tmp_path, episode):
    """A file of the reference library, its pixels by the filter `packing`."""
    def make(**packing):
        rng = np.random.default_rng(3)
        parts = [episode(rng, n) for n in LENGTHS]
        path = tmp_path / 'theirs.h5'
        with h5py.File(path, 'w', libver='latest') as f:
            f.create_dataset('pixels', data=np.concatenate([p[0] for p in parts]),
                             chunks=(1, 16, 16, 3), maxshape=(None, 16, 16, 3), **packing)
            action = np.concatenate([p[1] for p in parts]).astype(np.float32)
            action[np.cumsum(LENGTHS) - 1] = np.nan
            f['action'] = action
            f['ep_len'] = np.array(LENGTHS, np.int32)
            f['ep_offset'] = np.cumsum([0, *LENGTHS[:-1]]).astype(np.int64)
            f['proprio'] = np.stack([np.concatenate([p[3][k] for p in parts]) for k in 'xy'], 1)
        return path
    return make


@pytest.mark.parametrize('packing', [{}, {'compression': 'lzf'}])
def test_a_file_of_the_reference_trains_as_it_is(theirs, robot, toy_model, tmp_path, packing):
    dataset = Dataset.open(theirs(**packing), robot)
    config = TrainConfig(steps=2, batch_size=8, device='cpu', tensorboard=False)
    path = train(dataset, toy_model, dataset.data, config, tmp_path / 'run')
    assert path.is_file()
    with pytest.raises(UserError, match='holds no robot spec; give one with robot=YAML'):
        Dataset.open(dataset.path)


def test_a_repacked_file_is_mapped_and_says_the_same(theirs, robot, tmp_path):
    dataset = Dataset.open(theirs(compression='gzip'), robot)
    seen = []
    assert repack(dataset, tmp_path / 'ours.h5', on_progress=lambda *a: seen.append(a))
    ours = Dataset.open(tmp_path / 'ours.h5')
    assert isinstance(ours.pixels, np.memmap) and seen[-1] == (sum(LENGTHS), sum(LENGTHS))
    np.testing.assert_array_equal(ours.pixels, dataset.frames(np.arange(len(dataset))))
    np.testing.assert_array_equal(ours.action, dataset.action)
    np.testing.assert_array_equal(ours.ep_split, dataset.ep_split)
    assert set(ours.states) == {'proprio_0', 'proprio_1'}
    np.testing.assert_array_equal(ours.states['proprio_1'], dataset.states['proprio_1'])
    assert ours.spec == dataclasses.replace(robot, state=())
    assert ours.provenance['repacked_from'] == 'theirs.h5'


def test_our_own_file_repacks_to_the_same_with_its_states(recording, tmp_path):
    assert repack(recording, tmp_path / 'again.h5')
    again = Dataset.open(tmp_path / 'again.h5')
    assert again.spec == recording.spec and again.data == recording.data
    np.testing.assert_array_equal(again.pixels, recording.pixels)
    np.testing.assert_array_equal(again.states['x'], recording.states['x'])


def test_a_stopped_repacking_leaves_nothing_and_an_output_is_kept(recording, tmp_path):
    assert not repack(recording, tmp_path / 'a.h5', should_stop=lambda: True)
    assert not list(tmp_path.iterdir())
    (tmp_path / 'a.h5').write_text('mine')
    with pytest.raises(UserError, match='exists already'):
        repack(recording, tmp_path / 'a.h5')
    assert (tmp_path / 'a.h5').read_text() == 'mine'


def test_a_filter_that_is_not_there_is_named_with_what_to_install(
        theirs, robot, monkeypatch, capsys):
    path = theirs(compression='lzf')
    monkeypatch.setattr(h5py.h5z, 'filter_avail', lambda code: code != h5py.h5z.FILTER_LZF)
    monkeypatch.setitem(sys.modules, 'hdf5plugin', None)
    with pytest.raises(UserError, match="packs its pixels with 'lzf', .* pip install hdf5plugin"):
        Dataset.open(path, robot)


def test_a_robot_that_is_not_the_files_own_is_refused(recording, robot, tmp_path, capsys):
    other = dataclasses.replace(robot, rate_hz=20.0)
    with pytest.raises(UserError, match='leave robot= out'):
        Dataset.open(recording.path, other)
    assert Dataset.open(recording.path, robot).spec == robot
    assert main(['repack', f'dataset={recording.path}', f'output={tmp_path}/a.h5',
                 'robot=two_room']) == 1
    assert 'is of robot' in capsys.readouterr().err


@pytest.mark.parametrize('chunks', [None, (1, 16, 16, 3)])
def test_pixels_that_are_no_bytes_are_refused(record, tmp_path, chunks):
    """Floats from 0 to 1, as other tools write them, were read as if their bytes were colours,
    and from a chunked file as black: training ran on that without a word."""
    path = record(tmp_path / 'd.h5', [5]).path
    with h5py.File(path, 'r+') as f:
        del f['pixels']
        f.create_dataset('pixels', data=np.full((5, 16, 16, 3), 0.5, np.float32), chunks=chunks)
    with pytest.raises(UserError, match='pixels are float32, but uint8'):
        Dataset.open(path)


@pytest.mark.parametrize('name, words', [('ep_offset', 'one for each episode'),
                                         ('stamp_ns', 'one for each row'), ('x', 'each row')])
def test_a_column_of_another_length_is_named(record, tmp_path, name, words):
    """It was a traceback here, or later where the column was first needed."""
    path = record(tmp_path / 'd.h5', [5, 5]).path
    with h5py.File(path, 'r+') as f:
        short = f[name][:-1]
        del f[name]
        f[name] = short
    with pytest.raises(UserError, match=f'{name} has shape .*{words}'):
        Dataset.open(path)
