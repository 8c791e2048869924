"""A damaged recording gives what is left of it, and says what is lost."""

from __future__ import annotations

import sqlite3

import numpy as np
import pytest
import zstandard
from bag_kinds import KINDS, SQLITE, mcap, rosbag2, storage_file
from bag_mutations import Runner, make_bags
from bag_toys import drive, write_bag
from mcap.stream_reader import StreamReader
from mcap.writer import CompressionType

from lewm_core.dataset import Dataset
from lewm_core.types import UserError
from lewm_ros.bag_reader import open_bag
from lewm_ros.bags import convert

CAMERA = '/camera/image_raw'


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
    """All of it, of thousands of cases, is `python tests/ros/bag_mutations.py 0 3200`.

    In a process forked from one that had run the other tests, with Push-T installed, each
    collection of garbage crashed: it was the tests' own, no reader's.
    """
    with Runner(make_bags(tmp_path)) as runner:
        results = [runner.run(case) for case in range(64)]
    assert [r for r in results if r[2].startswith('WRONG')] == []
    outcomes = [r[2].split(':')[0] for r in results]
    assert outcomes.count('dataset') > 10 and outcomes.count('refused') > 10
