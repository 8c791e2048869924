"""Appending, merging, storing as JPEG, sharing out: the dataset is whole before, and after."""

from __future__ import annotations

import json
import logging
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from bag_toys import START, S, drive, picture, with_latency, write_bag

from lewm_core.cli import main
from lewm_core.config import DataConfig
from lewm_core.data import Dataset
from lewm_core.merge import merge
from lewm_core.splits import extended_split
from lewm_core.types import UserError
from lewm_ros.bag_hash import bag_hash
from lewm_ros.bags import convert

ROOT = Path(__file__).resolve().parents[2]


def recorded(path, episodes=4, at=0):
    """A bag of `episodes` of 20 frames that begins `at` thousand seconds later."""
    return write_bag(path, drive(20, episodes, start=START + at * 1000 * S))


def columns(path):
    """All columns of a dataset, and the splits of its episodes."""
    with h5py.File(path) as file:
        return {**{key: file[key][:] for key in file if key != 'jpeg'},
                'split': file['ep_len'].attrs['ep_split']}


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def test_appending_gives_the_rows_of_converting_all_at_once(tmp_path, two_room):
    bags = [recorded(tmp_path / name, at=at) for at, name in enumerate('abc')]
    convert(bags, two_room, tmp_path / 'all.h5')
    convert(bags[:1], two_room, tmp_path / 'grown.h5')
    old = columns(tmp_path / 'grown.h5')['split']
    for bag in bags[1:]:
        convert([bag], two_room, tmp_path / 'grown.h5', append=True)
    grown, whole = columns(tmp_path / 'grown.h5'), columns(tmp_path / 'all.h5')
    assert grown['split'][:4].tolist() == old.tolist()
    assert_same({k: v for k, v in grown.items() if k != 'split'},
                {k: v for k, v in whole.items() if k != 'split'})
    found = Dataset.open(tmp_path / 'grown.h5').provenance['bags']
    assert [bag['name'] for bag in found] == ['a', 'b', 'c']
    assert isinstance(Dataset.open(tmp_path / 'grown.h5').pixels, np.memmap)
    assert not list(tmp_path.glob('*partial*'))


def test_a_bag_that_is_in_already_is_known_by_its_content(tmp_path, two_room):
    bags = [recorded(tmp_path / name, at=at) for at, name in enumerate('ab')]
    convert(bags[:1], two_room, tmp_path / 'data.h5')
    before = (tmp_path / 'data.h5').read_bytes()
    renamed = (bags[0] / 'a.mcap').rename(tmp_path / 'renamed.mcap')
    report = convert([renamed], two_room, tmp_path / 'data.h5', append=True)
    assert report.known == (renamed,) and report.frames == 0
    assert (tmp_path / 'data.h5').read_bytes() == before
    report = convert([renamed, bags[1]], two_room, tmp_path / 'data.h5', append=True)
    assert report.known == (renamed,) and report.frames == 80
    twice = convert([bags[1], bags[1] / 'b.mcap'], two_room, tmp_path / 'twice.h5')
    assert twice.frames == 80 and len(twice.known) == 1


def test_what_does_not_fit_the_dataset_is_refused_and_leaves_it(tmp_path, two_room):
    convert([recorded(tmp_path / 'a')], two_room, tmp_path / 'data.h5')
    before = (tmp_path / 'data.h5').read_bytes()
    other = recorded(tmp_path / 'b', at=1)
    for changes, kwargs, words in (
            ({'latency_s': 0.25}, {}, 'is of another robot: it has fingerprint'),
            ({}, {'storage': 'jpeg'}, 'storage=raw, but storage=jpeg')):
        with pytest.raises(UserError, match=words):
            convert([other], with_latency(two_room, **changes), tmp_path / 'data.h5',
                    append=True, **kwargs)
    with pytest.raises(UserError, match='append=true or overwrite=true'):
        convert([other], two_room, tmp_path / 'data.h5')
    assert (tmp_path / 'data.h5').read_bytes() == before


def run_child(code, **kwargs):
    """The return code and the errors of a fresh process that runs `code` in the checkout."""
    found = subprocess.run([sys.executable, '-c', code], cwd=ROOT, timeout=120, text=True,
                           capture_output=True, **kwargs)
    return found.returncode, found.stderr


@pytest.mark.parametrize('where', ['lewm_ros.bags.join', 'lewm_core.dataset_layout.publish',
                                   'lewm_core.merge.copy_bytes', 'lewm_core.atomic.os.replace'])
def test_appending_killed_at_any_moment_leaves_the_dataset_before(tmp_path, two_room, where):
    bags = [recorded(tmp_path / name, at=at) for at, name in enumerate('ab')]
    convert(bags[:1], two_room, tmp_path / 'data.h5')
    before = (tmp_path / 'data.h5').read_bytes()
    module, _, name = where.rpartition('.')
    owner, _, attribute = ((module, '', '') if module != 'lewm_core.atomic.os'
                           else ('lewm_core.atomic', '', 'os.'))
    code = f"""
import os, signal, {owner}
from lewm_core.robot import RobotSpec
from lewm_ros.bags import convert
{owner}.{attribute}{name} = lambda *args, **kwargs: os.kill(os.getpid(), signal.SIGKILL)
spec = RobotSpec.load({str(ROOT / 'config/robot/two_room.yaml')!r})
convert([{str(bags[1])!r}], spec, {str(tmp_path / 'data.h5')!r}, append=True)
"""
    assert run_child(code)[0] == -signal.SIGKILL
    assert (tmp_path / 'data.h5').read_bytes() == before
    convert(bags[1:], two_room, tmp_path / 'data.h5', append=True)
    assert len(Dataset.open(tmp_path / 'data.h5')) == 160
    assert not list(tmp_path.glob('*partial*'))


@pytest.mark.parametrize('append', [False, True])
def test_a_full_disk_is_said_and_leaves_what_was_there(tmp_path, two_room, append):
    """A limit on the size of a file stands for the disk: the system refuses both alike."""
    bags = [recorded(tmp_path / name, at=at) for at, name in enumerate('ab')]
    convert(bags[:1], two_room, tmp_path / 'data.h5')
    before = (tmp_path / 'data.h5').read_bytes()
    code = f"""
from lewm_core.robot import RobotSpec
from lewm_ros.bags import convert
spec = RobotSpec.load({str(ROOT / 'config/robot/two_room.yaml')!r})
convert([{str(bags[1])!r}], spec, {str(tmp_path / 'data.h5')!r}, append={append},
        overwrite={not append})
"""
    limit = len(before) - 1000 if not append else len(before) + 1000

    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    code, said = run_child(code, preexec_fn=limited)
    assert code == 1 and 'does not fit on its disk' in said
    assert 'the dataset there is as it was' in said.splitlines()[-1]
    assert (tmp_path / 'data.h5').read_bytes() == before
    assert not list(tmp_path.glob('*partial*'))


def test_shards_merge_to_what_one_conversion_gives(tmp_path, two_room, capsys):
    bags = [recorded(tmp_path / name, at=at) for at, name in enumerate('abc')]
    convert(bags, two_room, tmp_path / 'all.h5')
    for bag in bags:
        assert main(['convert', f'bags={bag}', 'robot=two_room', 'report=false',
                     f'output={tmp_path}/shards/{bag.name}.h5']) == 0
    assert main(['merge', f'datasets={tmp_path}/shards/a.h5,{tmp_path}/shards/b.h5,'
                 f'{tmp_path}/shards/c.h5', f'output={tmp_path / "merged.h5"}']) == 0
    assert '240 frames in 12 episodes' in capsys.readouterr().out
    assert_same(columns(tmp_path / 'merged.h5'), columns(tmp_path / 'all.h5'))
    one, other = (Dataset.open(tmp_path / name) for name in ('merged.h5', 'all.h5'))
    assert one.provenance == other.provenance
    again = merge([tmp_path / 'merged.h5', tmp_path / 'shards' / 'b.h5'], tmp_path / 'twice.h5')
    assert again.frames == 240  # a bag comes once


def test_new_episodes_fill_up_the_splits_and_old_ones_stay():
    data, split = DataConfig(), np.zeros(0, np.int8)
    for count in (10, 1, 1, 1, 30):
        grown = extended_split(split, count, data)
        assert grown[:len(split)].tolist() == split.tolist()
        split = grown
    shares = np.bincount(split, minlength=4) / len(split)
    np.testing.assert_allclose(shares[1:], [data.validation, data.calibration, data.test],
                               atol=0.03)


def test_pictures_kept_as_jpeg_are_read_like_raw_ones(tmp_path, two_room):
    bags = [recorded(tmp_path / name, at=at) for at, name in enumerate('ab')]
    made = {}
    for storage in ('raw', 'jpeg'):
        path = tmp_path / f'{storage}.h5'
        convert(bags[:1], two_room, path, storage=storage)
        convert(bags[1:], two_room, path, storage=storage, append=True)
        made[storage] = Dataset.open(path)
    raw, jpeg = made['raw'], made['jpeg']
    assert jpeg.path.stat().st_size < raw.path.stat().st_size / 3
    starts = raw.windows('train', 4, 5)[:9]
    given, wanted = jpeg.batch(starts, 4, 5), raw.batch(starts, 4, 5)
    assert given[0].shape == wanted[0].shape and given[0].dtype == np.uint8
    assert np.abs(given[0].astype(int) - wanted[0]).mean() < 2
    np.testing.assert_array_equal(given[1], wanted[1])
    np.testing.assert_array_equal(jpeg.pixels[-1], jpeg.frames(np.array([159]))[0])
    with pytest.raises(UserError, match='storage=raw and storage=jpeg'):
        merge([raw.path, jpeg.path], tmp_path / 'both.h5')


@pytest.mark.parametrize('storage', ['raw', 'jpeg'])
def test_several_processes_write_what_one_writes(tmp_path, two_room, storage):
    messages = drive(100, 3)
    images = [m for t, _, m in messages if 'camera' in t]
    images[130].data = images[130].data[:100]  # a bad one among them
    bag = write_bag(tmp_path / 'bag', messages)
    for workers in (1, 3):
        report = convert([bag], two_room, tmp_path / f'{workers}.h5', workers=workers,
                         storage=storage)
        assert (report.frames, report.unreadable) == (299, 1)
    one, three = (Dataset.open(tmp_path / f'{workers}.h5') for workers in (1, 3))
    assert_same(columns(one.path), columns(three.path))
    rows = np.arange(299)
    np.testing.assert_array_equal(one.frames(rows), three.frames(rows))
    if storage == 'raw':
        np.testing.assert_array_equal(three.pixels[131], picture(132))


def test_where_no_process_can_be_had_one_converts_and_says_so(tmp_path, two_room, monkeypatch,
                                                              caplog):
    """In a container whose /dev/shm is not the user's, a large bag ended in a traceback."""
    def refused(*_, **__):
        raise PermissionError(13, 'Permission denied')

    bag = recorded(tmp_path / 'bag')
    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
        patch.setattr('multiprocessing.synchronize.SemLock.__init__', refused)
        assert convert([bag], two_room, tmp_path / 'data.h5', workers=2).frames == 80
    assert 'one process converts, for others could not be had here (PermissionError' in caplog.text


def test_a_script_without_a_main_guard_is_not_run_by_the_other_processes(tmp_path):
    """Each of them began the conversion anew, and the first one said that they were killed."""
    bag, script = recorded(tmp_path / 'bag'), tmp_path / 'script.py'
    script.write_text(f"""
from lewm_core.paths import load_robot
from lewm_ros.bags import convert
print('once', convert([{str(bag)!r}], load_robot('two_room'), 'data.h5', workers=2).frames)
""")
    found = subprocess.run([sys.executable, str(script)], cwd=tmp_path, text=True, timeout=120,
                           env={**os.environ, 'PYTHONPATH': str(ROOT)}, capture_output=True)
    assert found.stdout == 'once 80\n' and found.returncode == 0


def test_each_episode_says_where_it_comes_from(tmp_path, two_room):
    bag = recorded(tmp_path / 'bag')
    convert([bag], two_room, tmp_path / 'data.h5')
    provenance = Dataset.open(tmp_path / 'data.h5').provenance
    (told,) = provenance['bags']
    assert provenance['converter'].startswith('lewm_ros ')
    assert told['name'] == 'bag' and told['sha256'] == bag_hash(bag).sha256
    assert told['topics']['camera'] == '/camera/image_raw' and told['images'] == 80
    assert [e['frames'] for e in told['episodes']] == [20] * 4
    assert told['episodes'][0] == {'frames': 20, 'start_ns': START, 'skipped': 0, 'unreadable': 0}


def test_the_hash_of_one_file_is_plain_sha256_and_of_a_large_one_sees_its_ends(
        tmp_path, monkeypatch):
    bag = recorded(tmp_path / 'bag')
    found = subprocess.run(['sha256sum', str(bag / 'bag.mcap')], capture_output=True, text=True)
    assert found.stdout.split()[0] == bag_hash(bag).sha256 == bag_hash(bag / 'bag.mcap').sha256
    monkeypatch.setattr('lewm_ros.bag_hash._WHOLE', 1000)
    monkeypatch.setattr('lewm_ros.bag_hash._ENDS', 5000)
    sampled = bag_hash(bag)
    assert sampled.hashed < sampled.bytes
    data = bytearray((bag / 'bag.mcap').read_bytes())
    data[-2000] ^= 1
    (bag / 'bag.mcap').write_bytes(data)
    assert bag_hash(bag).sha256 != sampled.sha256


def test_the_report_shows_frames_actions_drops_and_what_failed(tmp_path, capsys):
    bag = recorded(tmp_path / 'bag')
    broken = write_bag(tmp_path / 'broken', [m for m in drive(20) if m[0] != '/cmd_vel'])
    assert main(['convert', f'bags={bag},{broken}', 'robot=two_room',
                 f'output={tmp_path / "data.h5"}']) == 1
    tree = json.loads((tmp_path / 'data.report.json').read_text())
    assert tree['frames'] == 80 and len(tree['episodes']) == 4
    first = tree['episodes'][0]
    assert first['bag'] == 'bag' and first['rate_hz'] == pytest.approx(10)
    assert first['actions']['twist.linear.x']['max'] == pytest.approx(0.018)
    assert tree['failed'][0]['bag'] == str(broken)
    page = (tmp_path / 'data.report.html').read_text()
    assert page.count('<img') == 8 and str(broken) in page and 'src="http' not in page
    capsys.readouterr()
