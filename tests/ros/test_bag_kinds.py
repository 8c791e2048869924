"""Every kind of recording gives the same messages, and a damaged one what is left of them."""

from __future__ import annotations

import shutil
import sqlite3

import numpy as np
import pytest
import yaml
import zstandard
from bag_kinds import KINDS, MCAP, ROS1, SQLITE, mcap, rosbag2, storage_file
from bag_mutations import Runner, make_bags
from bag_toys import LOG, STORE, bag_image, drive, picture, write_bag
from mcap.stream_reader import StreamReader
from mcap.writer import CompressionType
from rosbags.rosbag1 import Writer

from lewm_core.dataset import Dataset
from lewm_core.types import UserError
from lewm_ros.bag_reader import find_bags, open_bag
from lewm_ros.bags import convert

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


@pytest.mark.parametrize('compression', [CompressionType.NONE, CompressionType.ZSTD])
def test_a_truncated_mcap_gives_what_the_mcap_packages_stream_reader_does(tmp_path, compression):
    file = mcap(chunk_size=40_000, compression=compression)(tmp_path / 'bag', drive(40))
    data = file.read_bytes()
    counts = []
    for share in (0.3, 0.6, 0.8, 0.95, 0.999):
        file.write_bytes(data[:int(len(data) * share)])
        streamed = []
        try:
            for record in StreamReader(str(file), emit_chunks=False,
                                       validate_crcs=True).records:
                if type(record).__name__ == 'Message':
                    streamed.append((record.log_time, record.data))
        except Exception:  # of several kinds, where the file ends
            pass
        with open_bag(file) as bag:
            found = [(log, bytes(raw)) for _, log, raw in
                     bag.messages([t.name for t in bag.topics])]
            assert bag.losses and sum(loss.bytes for loss in bag.losses) < len(data)
        # Those of the last, incomplete chunk are in doubt: its checksum can't be compared.
        assert found == sorted(streamed, key=lambda row: row[0])
        counts.append(len(found))
    assert counts == sorted(counts) and counts[0] < counts[-1] == 121


def test_a_truncated_mcap_makes_a_dataset_of_its_complete_chunks(tmp_path, two_room, caplog):
    bag = write_bag(tmp_path / 'bag', drive(40, 4))
    file = storage_file(bag)
    data = file.read_bytes()
    file.write_bytes(data[:int(len(data) * 0.6)])
    report = convert([file], two_room, tmp_path / 'data.h5')
    assert 60 <= report.frames < 100
    assert 'is damaged' in caplog.text and 'bytes from byte' in caplog.text


def test_damage_in_the_middle_of_an_mcap_costs_its_chunk_alone(tmp_path):
    """The reader goes on at the next chunk that the file's own index names."""
    file = mcap(chunk_size=40_000, compression=CompressionType.ZSTD)(tmp_path / 'bag', drive(40))
    with open_bag(file) as bag:
        chunk = bag.parts[0]._scan.chunks[len(bag.parts[0]._scan.chunks) // 2]
        lost = sum(len(pairs) for pairs in chunk.index.values())
    data = bytearray(file.read_bytes())
    at = chunk.start - 60
    data[at:at + 60] = b'\xff' * 60
    file.write_bytes(data)
    with open_bag(file) as bag:
        assert len(list(bag.messages([t.name for t in bag.topics]))) == 121 - lost
        assert bag.lost()[0]['bytes'] > 0


def test_a_flipped_byte_in_a_compressed_chunk_costs_its_messages_alone(tmp_path, two_room):
    """The file is whole, so nothing is known of it before the chunk's checksum is compared."""
    write = mcap(chunk_size=40_000, compression=CompressionType.ZSTD)
    file = write(tmp_path / 'bag', drive(60, 2))
    with open_bag(file) as bag:
        chunk = bag.parts[0]._scan.chunks[5]
        lost = sum(len(pairs) for pairs in chunk.index.values())
    data = bytearray(file.read_bytes())
    data[chunk.start + chunk.length // 2] ^= 0xff
    file.write_bytes(data)
    report = convert([file], two_room, tmp_path / 'data.h5')
    assert 120 - lost <= report.frames < 120
    said = Dataset.open(tmp_path / 'data.h5').provenance['bags'][0]['lost']
    assert [loss['messages'] for loss in said] == [lost]
    assert 'chunk' in said[0]['why']
    with open_bag(file) as bag, pytest.raises(UserError, match='damaged'):
        list(bag.messages(['/cmd_vel']))


@pytest.mark.parametrize('kind', ['mcap many chunks', 'sqlite3'])
@pytest.mark.parametrize('rest', [b'', b'\xff' * 999])
def test_a_file_that_does_not_decompress_to_its_end_gives_what_comes_before(tmp_path, kind, rest):
    rng, messages = np.random.default_rng(0), drive(60)
    for topic, _, message in messages:
        if topic == CAMERA:  # noise, so that there is something to compress
            message.data = rng.integers(0, 256, message.data.size, np.uint8)
    whole = storage_file(KINDS[kind](tmp_path / 'bag', messages))
    packed = zstandard.compress(whole.read_bytes())
    file = tmp_path / f'{whole.name}.zstd'
    file.write_bytes(packed[:len(packed) // 2] + rest)
    with open_bag(file) as opened:
        assert opened.losses
        assert 20 < len(list(opened.messages([CAMERA]))) < 40


def test_names_in_a_damaged_file_do_not_break_the_line_of_an_error(tmp_path, two_room):
    """A file compressed as a whole has no checksum: a flipped bit made a type's name so."""
    file = mcap(compression=CompressionType.NONE, enable_crcs=False)(tmp_path / 'bag', drive(20))
    file.write_bytes(file.read_bytes().replace(b'msg/TwistSt', b'msg/\n\x02\x05\x00\x04St'))
    with pytest.raises(UserError) as caught:
        convert([file], two_room, tmp_path / 'data.h5')
    assert str(caught.value).isprintable()


@pytest.mark.parametrize('share', [0.3, 0.7, 0.97])
def test_a_truncated_sqlite_gives_the_rows_that_sqlite_can_still_read(tmp_path, share):
    bag = rosbag2(SQLITE, None)(tmp_path / 'bag', drive(40))
    file = storage_file(bag)
    with sqlite3.connect(file) as whole:
        rows = dict(whole.execute('SELECT timestamp, data FROM messages'))
    data = file.read_bytes()
    file.write_bytes(data[:int(len(data) * share)])
    with open_bag(file) as opened:
        found = {log: bytes(raw) for _, log, raw in
                 opened.messages([t.name for t in opened.topics])}
        missing = sum(loss.bytes for loss in opened.losses)
    assert found.items() <= rows.items()
    # Rows lie in the file in the order of their writing.
    assert share - 0.1 < len(found) / len(rows) < 1
    assert missing == len(data) - int(len(data) * share)


def test_a_sqlite_recording_is_read_with_its_write_ahead_log(tmp_path):
    """A recorder in that mode that was killed leaves its last seconds there."""
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


@pytest.mark.parametrize('hole', [0.1, 0.5])
def test_damaged_pages_of_a_sqlite_file_cost_their_rows_alone(tmp_path, hole):
    bag = rosbag2(SQLITE, None)(tmp_path / 'bag', drive(60))
    file = storage_file(bag)
    with sqlite3.connect(file) as whole:
        page, = whole.execute('PRAGMA page_size').fetchone()
        rows = dict(whole.execute('SELECT timestamp, data FROM messages'))
    data = bytearray(file.read_bytes())
    at = int(len(data) * hole) // page * page
    data[at:at + 8 * page] = b'\xff' * (8 * page)
    # And its end is missing: only then is every row read before it is counted.
    file.write_bytes(data[:-page])
    with open_bag(file) as opened:
        found = {log for _, log, _ in opened.messages([t.name for t in opened.topics])}
        assert opened.losses
    assert found < rows.keys() and len(found) > 0.4 * len(rows)


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
    assert find_bags([tmp_path]) == [*monday, alone, tmp_path / 'tuesday' / 'deep' / 'c']
    with pytest.raises(UserError, match='does not exist'):
        find_bags([tmp_path / 'wed*'])
    (tmp_path / 'monday' / 'now.bag.active').write_bytes(b'#ROSBAG V2.0\n')
    assert find_bags([tmp_path / 'monday']) == [*monday, tmp_path / 'monday' / 'now.bag.active']


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


def test_a_definition_that_does_not_fit_a_type_of_ros_is_not_believed(tmp_path, two_room):
    """A flipped byte once turned the field `height` into another, and the decoder fell over it."""
    file = mcap(compression=CompressionType.NONE)(tmp_path / 'bag', drive(20))
    data = file.read_bytes().replace(b'uint32 height', b'uint32 heighx')
    file.write_bytes(data)
    try:
        convert([file], two_room, tmp_path / 'data.h5')
    except UserError as error:
        assert 'checksum' in str(error) or 'crc' in str(error)


def test_damage_at_random_makes_a_dataset_or_is_refused_clearly(tmp_path):
    """All of it, of thousands of cases, is `python tests/ros/bag_mutations.py 0 3200`."""
    with Runner(make_bags(tmp_path)) as runner:
        results = [runner.run(case) for case in range(64)]
    assert [r for r in results if r[2].startswith('WRONG')] == []
    outcomes = [r[2].split(':')[0] for r in results]
    assert outcomes.count('dataset') > 10 and outcomes.count('refused') > 10
