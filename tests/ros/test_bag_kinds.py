"""Every kind of recording gives the same messages, however it is split, named and typed."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from bag_kinds import KINDS, MCAP, ROS1, SQLITE, mcap, rosbag2, storage_file
from bag_toys import LOG, STORE, bag_image, drive, picture, write_bag
from rosbags.rosbag1 import Writer

from lewm_core.types import UserError
from lewm_ros.bag_reader import find_bags, open_bag

CAMERA = '/camera/image_raw'


def contents(path, **options):
    """All messages of a recording as (topic, log time, raw data of an image or action)."""
    found = []
    with open_bag(path, **options) as bag:
        kinds = {t.name: t.type for t in bag.topics}
        for topic, log_ns, raw in bag.messages(list(kinds)):
            message = bag.message(raw, kinds[topic])
            data = bytes(message.data) if hasattr(message, 'data') else \
                str(getattr(message, 'twist', message))
            found.append((topic, log_ns, kinds[topic], data))
    return found


@pytest.fixture(scope='module')
def expected():
    """What `contents` gives of the toy drive of 20 frames, in any recording."""
    return sorted(((topic, log_ns, m.__msgtype__,
                    bytes(m.data) if hasattr(m, 'data') else str(getattr(m, 'twist', m)))
                   for topic, log_ns, m in drive(20)), key=lambda row: row[1])


@pytest.mark.parametrize('kind', KINDS)
def test_every_kind_of_recording_gives_the_same_messages(tmp_path, expected, kind):
    bag = KINDS[kind](tmp_path / 'bag', drive(20))
    found = contents(bag)
    assert [row[:3] for row in found] == [row[:3] for row in expected]
    # A header of ROS 1 counts, which is no part of the comparison.
    assert [row[3] for row in found if row[0] != '/episode'] == \
        [row[3] for row in expected if row[0] != '/episode']


@pytest.mark.parametrize('kind', KINDS)
def test_heads_and_picks_are_those_of_the_whole_messages(tmp_path, kind):
    bag = KINDS[kind](tmp_path / 'bag', drive(20))
    with open_bag(bag) as opened:
        whole = [(t, log, bytes(raw)) for t, log, raw in opened.messages([CAMERA, '/cmd_vel'])]
        heads = [(t, log, bytes(raw)) for t, log, raw in
                 opened.messages([CAMERA, '/cmd_vel'], heads=[CAMERA])]
        assert all(w[:2] == h[:2] and w[2].startswith(h[2]) and len(h[2]) >= 64
                   for w, h in zip(whole, heads, strict=True))
        assert all(w == h for w, h in zip(whole, heads) if w[0] == '/cmd_vel')
        images = [raw for topic, _, raw in whole if topic == CAMERA]
        wanted = [0, 7, 8, 19, 3]
        assert [bytes(raw) for raw in opened.pick(CAMERA, wanted)] == [images[i] for i in wanted]


@pytest.mark.parametrize('kind', ['mcap zstd by file', 'mcap zstd by message', 'mcap', 'sqlite3',
                                  'sqlite3 zstd by file', 'sqlite3 zstd by message'])
def test_a_rosbag2_directory_is_read_without_its_metadata(tmp_path, expected, kind):
    bag = KINDS[kind](tmp_path / 'bag', drive(20))
    (bag / 'metadata.yaml').unlink()
    assert find_bags([bag]) == [bag]
    assert contents(bag) == contents(storage_file(bag)) == expected


def split(tmp_path, parts=3, storage=MCAP):
    """A rosbag2 directory of several files, ten frames each, as the recorder splits them."""
    whole = tmp_path / 'split'
    messages = drive(10 * parts)
    size = len(messages) // parts + 1
    for i in range(parts):
        made = rosbag2(storage, None)(tmp_path / f'part_{i}',
                                      messages[i * size:(i + 1) * size])
        if i == 0:
            shutil.copytree(made, whole)
            storage_file(whole).unlink()
        file = storage_file(made)
        shutil.copy(file, whole / f'split_{i}{file.suffix}')
    tree = yaml.safe_load((whole / 'metadata.yaml').read_text())
    tree['rosbag2_bagfile_information'].update(
        message_count=len(messages),
        relative_file_paths=[f'split_{i}{file.suffix}' for i in range(parts)])
    (whole / 'metadata.yaml').write_text(yaml.safe_dump(tree))
    return whole


@pytest.mark.parametrize('storage', [MCAP, SQLITE])
def test_a_split_recording_is_one_and_a_missing_part_is_reported(tmp_path, storage, caplog):
    bag = split(tmp_path, storage=storage)
    with open_bag(bag) as opened:
        logs = [log for _, log, _ in opened.messages([CAMERA])]
        assert len(logs) == 30 and logs == sorted(logs) and not opened.losses
    file = storage_file(bag)
    (bag / f'split_1{file.suffix}').unlink()
    with open_bag(bag) as opened:
        assert len(list(opened.messages([CAMERA]))) == 20
        why = ' '.join(loss.why for loss in opened.losses)
        assert f"the part 'split_1{file.suffix}' is missing" in why
    assert 'split_1' in caplog.text
    (bag / 'metadata.yaml').unlink()
    with open_bag(bag) as opened:
        assert len(list(opened.messages([CAMERA]))) == 20


def test_a_damaged_part_is_reported_and_the_others_are_read(tmp_path):
    bag = split(tmp_path)
    (bag / 'split_1.mcap').write_bytes(b'version https://git-lfs.github.com/spec/v1\n')
    with open_bag(bag) as opened:
        assert len(list(opened.messages([CAMERA]))) == 20
        assert 'git lfs pull' in opened.losses[0].why


def test_parts_that_overlap_in_time_are_read_in_order_of_time(tmp_path):
    """Two recorders, or one that split by size: what comes later may lie in the first part."""
    messages = drive(20)
    folder = tmp_path / 'drive'
    folder.mkdir()
    for i in range(2):
        made = mcap()(tmp_path / f'half_{i}', messages[i::2])
        shutil.move(made, folder / f'drive_{i}.mcap')
    with open_bag(folder) as opened:
        logs = [log for _, log, _ in opened.messages([t.name for t in opened.topics])]
    assert len(logs) == len(messages) and logs == sorted(logs)


def test_a_sqlite_recording_is_read_with_its_write_ahead_log(tmp_path):
    """A recorder in that mode that was killed leaves its last seconds there.

    SQLite writes beside the file to read it, and so refused one in a folder without that right.
    """
    bag = rosbag2(SQLITE, None)(tmp_path / 'bag', drive(5))
    open_end = sqlite3.connect(storage_file(bag))
    open_end.execute('PRAGMA journal_mode = wal')
    open_end.execute('INSERT INTO messages (topic_id, timestamp, data) '
                     'SELECT topic_id, timestamp + 1, data FROM messages WHERE id = 2')
    open_end.commit()
    (tmp_path / 'left').mkdir()
    for name in ('bag.db3', 'bag.db3-wal'):
        shutil.copy(bag / name, tmp_path / 'left')
    open_end.close()
    assert len(contents(tmp_path / 'left' / 'bag.db3')) == 16 + 1
    assert sorted(p.name for p in (tmp_path / 'left').iterdir()) == ['bag.db3', 'bag.db3-wal']


def test_several_connections_on_one_topic_are_one_topic(tmp_path):
    messages = [(CAMERA, LOG + i, bag_image(i, picture(i))) for i in range(6)]
    path = tmp_path / 'bag.bag'
    with Writer(path) as writer:
        # As two publishers, or one that was started again.
        ends = [writer.add_connection(CAMERA, 'sensor_msgs/msg/Image', typestore=ROS1,
                                      callerid=f'/driver_{i}') for i in range(2)]
        for i, (_, log_ns, message) in enumerate(messages):
            raw = bytes(STORE.serialize_cdr(message, message.__msgtype__))
            writer.write(ends[i % 2], log_ns,
                         bytes(STORE.cdr_to_ros1(raw, message.__msgtype__)))
    with open_bag(path) as bag:
        assert [(t.name, t.count) for t in bag.topics] == [(CAMERA, 6)]
        assert [log for _, log, _ in bag.messages([CAMERA])] == [m[1] for m in messages]


def test_paths_may_be_patterns_and_folders_of_folders(tmp_path):
    for name in ('monday/a', 'monday/b', 'tuesday/deep/c'):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        write_bag(tmp_path / name, drive(2))
    alone = mcap()(tmp_path / 'tuesday' / 'alone', drive(2))
    monday = [tmp_path / 'monday' / 'a', tmp_path / 'monday' / 'b']
    assert find_bags([tmp_path / 'mon*']) == monday
    assert find_bags([tmp_path / 'monday' / '*', tmp_path / 'monday']) == monday
    (tmp_path / 'monday' / 'notes.txt').touch()  # a last slash asks for directories alone
    assert find_bags([f'{tmp_path}/monday/*/']) == monday
    assert find_bags([tmp_path]) == [*monday, alone, tmp_path / 'tuesday' / 'deep' / 'c']
    with pytest.raises(UserError, match='does not exist'):
        find_bags([tmp_path / 'wed*'])
    (tmp_path / 'monday' / 'now.bag.active').write_bytes(b'#ROSBAG V2.0\n')
    assert find_bags([tmp_path / 'monday']) == [*monday, tmp_path / 'monday' / 'now.bag.active']


@contextmanager
def closed(*folders):
    """Nobody may read the folders, not even who runs the tests as root."""
    user = os.geteuid()
    for folder in folders:
        folder.chmod(0)
    if user == 0:
        os.seteuid(65534)
    yield
    os.seteuid(user)
    for folder in folders:
        folder.chmod(0o700)


def test_a_folder_that_cannot_be_read_is_named_and_the_others_are_found(caplog):
    """One `lost+found` on a disk, and none of its recordings was found."""
    with tempfile.TemporaryDirectory() as name:
        disk = Path(name)
        disk.chmod(0o755)
        found = [write_bag(disk / day / 'drive', drive(2)) for day in ('a', 'c')]
        unread = [disk / 'b', disk / 'c' / 'lost+found']
        for folder in unread:
            folder.mkdir()
        with closed(*unread):
            assert find_bags([disk]) == found
            for folder in unread:
                assert f"folder '{folder}' cannot be read (Permission denied)" in caplog.text
            with pytest.raises(UserError, match='cannot be read: Permission denied'):
                find_bags(unread[:1])


def test_bytes_after_a_message_are_left_alone(tmp_path):
    """Some drivers allocate more than the picture needs, and serialise all of it."""
    image = bytes(STORE.serialize_cdr(bag_image(5, picture(1)), 'sensor_msgs/msg/Image'))
    with open_bag(write_bag(tmp_path / 'bag', drive(2))) as bag:
        message = bag.message(image + b'\x07' * 33, 'sensor_msgs/msg/Image')
    assert message.height == 64 and len(message.data) == 64 * 64 * 3


def without_definitions(tmp_path, name, text=''):
    """A recording whose types are named and not defined: as of ROS 2 before Iron."""
    bag = rosbag2(SQLITE, None)(tmp_path / 'bag', drive(3))
    with sqlite3.connect(storage_file(bag)) as opened:
        opened.execute('DROP TABLE message_definitions')
        opened.execute("UPDATE topics SET type = ? WHERE name = '/episode'", (name,))
    return bag


def test_types_that_a_recording_does_not_define_come_from_a_ros_distribution(tmp_path):
    bag = without_definitions(tmp_path, 'std_msgs/Header')  # and by their old name
    with open_bag(bag) as opened:
        assert {t.type for t in opened.topics} >= {'std_msgs/msg/Header'}
        assert opened.has_header('sensor_msgs/msg/Image')
        _, _, raw = next(opened.messages([CAMERA]))
        assert opened.message(raw, 'sensor_msgs/msg/Image').width == 64


def test_a_robots_own_types_are_found_in_a_folder_or_the_sourced_ros(tmp_path, monkeypatch):
    bag = without_definitions(tmp_path, 'robot_msgs/msg/Mark')
    folder = tmp_path / 'ros' / 'share' / 'robot_msgs' / 'msg'
    folder.mkdir(parents=True)
    (folder / 'Mark.msg').write_text('robot_msgs/Place place\n')
    (folder / 'Place.msg').write_text('int32 sec\nuint32 nanosec\nstring name\n')

    def seconds(**options):
        with open_bag(bag, **options) as opened:
            _, _, raw = next(opened.messages(['/episode']))
            return opened.message(raw, 'robot_msgs/msg/Mark').place.sec

    with pytest.raises(UserError, match='no definition of the type robot_msgs/msg/Mark'):
        seconds()
    assert seconds(typestore=str(tmp_path / 'ros' / 'share')) == 1000
    monkeypatch.setenv('AMENT_PREFIX_PATH', str(tmp_path / 'ros'))
    assert seconds() == 1000
    with pytest.raises(UserError, match="typestore='indigo' is neither .*'humble'"):
        seconds(typestore='indigo')
