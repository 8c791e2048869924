"""Datasets: written whole or not at all, split by episode, read without a frame out of place."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from lewm_core.atomic import replacing, sweep, write_text
from lewm_core.config import DataConfig
from lewm_core.data import SPLITS, Dataset, DatasetWriter, action_statistics, split_episodes
from lewm_core.merge import join
from lewm_core.repack import repack
from lewm_core.types import UserError

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


def test_what_was_written_is_read_back(tmp_path, robot, episode):
    rng = np.random.default_rng(1)
    episodes = [episode(rng, n) for n in (7, 12, 5)]
    with DatasetWriter(tmp_path / 'd.h5', robot, provenance={'bags': ['a']}) as writer:
        for parts in episodes:
            writer.add_episode(*parts)
        summary = writer.close()
    assert (summary.frames, summary.episodes, sum(summary.splits.values())) == (24, 3, 3)
    dataset = Dataset.open(tmp_path / 'd.h5')
    assert dataset.spec == robot and dataset.provenance == {'bags': ['a']}
    assert isinstance(dataset.pixels, np.memmap) and len(dataset) == 24
    for e, (pixels, actions, stamps, states) in enumerate(episodes):
        rows = slice(dataset.ep_offset[e], dataset.ep_offset[e] + dataset.ep_len[e])
        np.testing.assert_array_equal(dataset.pixels[rows], pixels)
        np.testing.assert_array_equal(dataset.action[rows][:-1], actions[:-1].astype(np.float32))
        assert np.isnan(dataset.action[rows][-1]).all()
        np.testing.assert_array_equal(dataset.stamp_ns[rows], stamps)
        np.testing.assert_array_equal(dataset.states['x'][rows], states['x'])
    assert os.listdir(tmp_path) == ['d.h5']


def test_the_columns_are_those_of_the_reference_library(recording):
    with h5py.File(recording.path, 'r', swmr=True) as f:
        rows, episodes = len(recording), len(recording.ep_len)
        assert f['pixels'].shape == (rows, 16, 16, 3) and f['pixels'].chunks is None
        assert f['action'].dtype == np.float32 and f['ep_len'].dtype == np.int32
        assert f['ep_offset'].dtype == np.int64 and f['step_idx'].dtype == np.int32
        # Its loader slices every dataset but these two by row, so nothing may be per episode.
        assert all(len(f[name]) == rows for name in f if name not in ('ep_len', 'ep_offset'))
        np.testing.assert_array_equal(np.bincount(f['episode_idx'][:]), [60] * episodes)
        np.testing.assert_array_equal(f['step_idx'][:], np.tile(np.arange(60), episodes))


def test_a_file_of_the_reference_library_is_read(tmp_path, robot):
    rows = 12
    with h5py.File(tmp_path / 'theirs.h5', 'w') as f:
        f.create_dataset('pixels', data=np.arange(rows, dtype=np.uint8)[:, None, None, None]
                         * np.ones((1, 16, 16, 3), np.uint8), chunks=(1, 16, 16, 3),
                         compression='gzip')
        f['action'] = np.zeros((rows, 2), np.float32)
        f['ep_len'], f['ep_offset'] = np.array([5, 7], np.int32), np.array([0, 5])
        f['proprio'] = np.arange(2 * rows, dtype=np.float32).reshape(rows, 2)
    with pytest.raises(UserError, match='holds no robot spec; give one'):
        Dataset.open(tmp_path / 'theirs.h5')
    dataset = Dataset.open(tmp_path / 'theirs.h5', robot)
    assert set(dataset.states) == {'proprio_0', 'proprio_1'}
    frames = dataset.frames(np.array([[7, 2], [2, 0]]))
    np.testing.assert_array_equal(frames[:, :, 0, 0, 0], [[7, 2], [2, 0]])


def test_windows_stay_inside_their_episode(record, tmp_path):
    dataset = record(tmp_path / 'd.h5', [4, 11, 30], data=DataConfig(0, 0, 0))
    starts = dataset.windows('train', frames=4, frameskip=3)
    np.testing.assert_array_equal(starts, [4, 5, *range(15, 36)])


def test_a_batch_pairs_each_frame_with_the_block_that_leaves_it(recording):
    starts = recording.windows('train', 4, 3)[[0, 5, 17]]
    pixels, actions = recording.batch(starts, 4, 3)
    assert pixels.shape == (3, 4, 16, 16, 3) and pixels.dtype == np.uint8
    assert actions.shape == (3, 3, 3, 2) and actions.dtype == np.float32
    for b, start in enumerate(starts):
        for k in range(4):
            np.testing.assert_array_equal(pixels[b, k], recording.pixels[start + 3 * k])
        for k in range(3):
            np.testing.assert_array_equal(
                actions[b, k], recording.action[start + 3 * k:start + 3 * k + 3])


def test_a_window_never_holds_the_action_after_an_episode(recording):
    for split in SPLITS:
        assert np.isfinite(recording.batch(recording.windows(split, 4, 3), 4, 3)[1]).all()


@pytest.mark.parametrize('count', [1, 2, 3, 4, 9, 10, 57, 1000])
def test_splits_keep_half_of_the_episodes_for_training(count):
    counts = np.bincount(split_episodes(count, DataConfig()), minlength=4)
    assert counts.sum() == count and counts[0] >= max(1, count / 2)
    if count >= 6:
        assert (counts[1:] == max(1, round(0.1 * count))).all()


def test_splits_are_a_function_of_the_seed():
    one, same = (split_episodes(100, DataConfig(split_seed=3)) for _ in range(2))
    np.testing.assert_array_equal(one, same)
    assert (one != split_episodes(100, DataConfig(split_seed=4))).any()


def test_shares_that_leave_nothing_to_train_on_are_refused(tmp_path, robot):
    with pytest.raises(UserError, match='sum to 1, but training needs some'):
        DatasetWriter(tmp_path / 'd.h5', robot, DataConfig(0.5, 0.25, 0.25))
    assert not os.listdir(tmp_path)


def test_another_split_is_made_from_the_config_that_asks_for_it(recording):
    data = DataConfig(split_seed=9)
    other = recording.with_split(data)
    np.testing.assert_array_equal(other.ep_split, split_episodes(20, data))
    assert recording.with_split(DataConfig()) is recording


def test_what_was_trained_on_stays_there_when_a_dataset_grows_whatever_its_shares(
        record, tmp_path):
    """A checkpoint of other shares than the conversion's dealt a grown dataset anew: episodes that
    it had been trained on were in its test and calibration splits."""
    parts = [record(tmp_path / f'{n}.h5', [4] * n, seed=n) for n in (20, 10, 7)]
    grown = parts[0]
    for count, part in zip((30, 37), parts[1:]):
        join(tmp_path / f'{count}.h5', [grown, part], keep_split=True)
        grown = Dataset.open(tmp_path / f'{count}.h5')
    assert grown.appended == (20, 30)
    repack(grown, tmp_path / 'again.h5')
    for data in (DataConfig(test=0.2), DataConfig(validation=0.3, split_seed=5)):
        before = parts[0].with_split(data).ep_split
        for dataset in (grown, Dataset.open(tmp_path / 'again.h5')):
            after = dataset.with_split(data)
            np.testing.assert_array_equal(after.ep_split[:20], before)
            # and it is the way back to the split in the file
            own = after.with_split(grown.data)
            np.testing.assert_array_equal(own.ep_split, grown.ep_split)


def test_an_existing_dataset_is_kept_unless_overwritten(record, tmp_path):
    path = tmp_path / 'd.h5'
    record(path, [5])
    before = path.read_bytes()
    with pytest.raises(UserError, match='exists already; give another path or overwrite=true'):
        record(path, [6])
    assert path.read_bytes() == before
    assert len(record(path, [6], overwrite=True)) == 6


def test_an_error_while_writing_leaves_nothing(tmp_path, robot, episode):
    with pytest.raises(RuntimeError), DatasetWriter(tmp_path / 'd.h5', robot) as writer:
        writer.add_episode(*episode(np.random.default_rng(0), 5))
        raise RuntimeError
    with pytest.raises(UserError, match='not a single episode'):
        with DatasetWriter(tmp_path / 'd.h5', robot):
            pass
    assert not os.listdir(tmp_path)


def test_a_command_that_is_not_finite_is_named(tmp_path, robot, episode):
    pixels, actions, stamps, states = episode(np.random.default_rng(0), 8)
    actions[5, 1] = np.nan
    with pytest.raises(UserError, match=r'step 5 in episode 0 is \[.*nan\]'):
        with DatasetWriter(tmp_path / 'd.h5', robot) as writer:
            writer.add_episode(pixels, actions, stamps, states)


@pytest.mark.parametrize('keep', [0, 100, 3000, -20])
def test_a_truncated_dataset_is_a_user_error(record, tmp_path, keep):
    whole = record(tmp_path / 'd.h5', [40]).path.read_bytes()
    (tmp_path / 'cut.h5').write_bytes(whole[:keep])
    with pytest.raises(UserError, match='truncated or not HDF5'):
        Dataset.open(tmp_path / 'cut.h5')


def test_what_is_no_dataset_is_a_user_error(tmp_path, robot):
    with pytest.raises(UserError, match='is not a file'):
        Dataset.open(tmp_path / 'none.h5')
    (tmp_path / 'text.h5').write_text('hello')
    with pytest.raises(UserError, match='truncated or not HDF5'):
        Dataset.open(tmp_path / 'text.h5')
    with h5py.File(tmp_path / 'other.h5', 'w') as f:
        f['something'] = [1, 2]
    with pytest.raises(UserError, match="no column 'pixels'; it has"):
        Dataset.open(tmp_path / 'other.h5')


def test_a_newer_format_and_a_contradicting_spec_are_user_errors(record, tmp_path):
    path = record(tmp_path / 'd.h5', [10]).path
    with h5py.File(path, 'r+') as f:
        f.attrs['format'] = 99
    with pytest.raises(UserError, match='is of format 99, but this version reads format 1'):
        Dataset.open(path)
    with h5py.File(path, 'r+') as f:
        f.attrs['format'] = 1
        del f['action']
        f['action'] = np.zeros((10, 3), np.float32)
    with pytest.raises(UserError, match='has 2 action fields'):
        Dataset.open(path)


def test_an_unknown_split_is_a_user_error(recording):
    with pytest.raises(UserError, match="split 'tests' is not known; choose one of"):
        recording.episodes('tests')
    assert len(recording.episodes('all')) == 20


def test_a_killed_writer_leaves_no_file_that_looks_finished(tmp_path, robot, episode, caplog):
    script = f"""
import sys; sys.path[:0] = [{str(ROOT)!r}, {str(HERE)!r}]
import numpy as np
from conftest import toy_episode, toy_spec
from lewm_core.data import DatasetWriter
writer, rng = DatasetWriter({str(tmp_path / 'd.h5')!r}, toy_spec()), np.random.default_rng(0)
while True:
    writer.add_episode(*toy_episode(rng, 50))
    print('episode', flush=True)
"""
    process = subprocess.Popen([sys.executable, '-c', script], stdout=subprocess.PIPE, text=True)
    for _ in range(3):
        assert process.stdout.readline() == 'episode\n'
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / 'd.h5').exists()
    (left,) = tmp_path.iterdir()
    assert left.name == f'd.h5.partial-{process.pid}.pixels'
    with DatasetWriter(tmp_path / 'd.h5', robot) as writer:
        writer.add_episode(*episode(np.random.default_rng(0), 50))
    assert f'{left} (' in caplog.text and 'is removed' in caplog.text
    assert [p.name for p in tmp_path.iterdir()] == ['d.h5']


def test_what_a_running_process_writes_is_left_alone_and_said(tmp_path, caplog):
    alive, own = tmp_path / 'a.partial-1', tmp_path / f'a.partial-{os.getpid()}'
    gone, other = tmp_path / f'a.partial-{2**22 + 1}', tmp_path / 'b.partial-0'  # above pid_max
    for path in (alive, own, gone, other):
        path.write_text('half')
    with gone.open() as file:
        fcntl.flock(file, fcntl.LOCK_SH)  # a process of another container
        sweep(tmp_path / 'a')
    assert sorted(tmp_path.iterdir()) == sorted([alive, gone, other])
    assert f'{alive} belongs to process 1, which runs' in caplog.text
    sweep(tmp_path / 'a')
    assert sorted(tmp_path.iterdir()) == sorted([alive, other])


def test_action_statistics_are_those_of_training_episodes(record, tmp_path):
    dataset = record(tmp_path / 'd.h5', [30] * 10)
    mean, std = action_statistics(dataset)
    train = np.concatenate([dataset.action[dataset.ep_offset[e]:][:29]
                            for e in dataset.episodes('train')])
    np.testing.assert_allclose(mean, train.mean(0), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(std, train.std(0), rtol=1e-5)


def test_an_action_that_never_changes_is_named(tmp_path, robot, episode):
    with DatasetWriter(tmp_path / 'd.h5', robot) as writer:
        pixels, actions, stamps, states = episode(np.random.default_rng(0), 30)
        actions[:, 1] = 0.25
        writer.add_episode(pixels, actions, stamps, states)
    with pytest.raises(UserError, match="'twist.linear.y' is 0.25 in all of the train episodes"):
        action_statistics(Dataset.open(tmp_path / 'd.h5'))


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    write_text(tmp_path / 'a.txt', 'old')
    with pytest.raises(RuntimeError), replacing(tmp_path / 'a.txt') as partial:
        partial.write_text('half')
        raise RuntimeError
    assert (tmp_path / 'a.txt').read_text() == 'old'
    write_text(tmp_path / 'a.txt', 'new')
    assert (tmp_path / 'a.txt').read_text() == 'new' and os.listdir(tmp_path) == ['a.txt']
