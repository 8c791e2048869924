"""Odd recordings that a converter meets: each gives a dataset or one clear sentence."""

from __future__ import annotations

import json
import os

import cv2
import numpy as np
import pytest
import yaml
from bag_kinds import KINDS, ROS1, mcap, storage_file
from bag_toys import (LOG, START, STORE, TICK, S, T, bag_image, command, converted, drive, picture,
                      twist, with_latency, without, write_bag)
from mcap.writer import CompressionType
from mcap.writer import Writer as McapWriter
from rosbags.rosbag1 import Writer as Ros1Writer

from lewm_core.cli import main
from lewm_core.robot import RobotSpec
from lewm_core.types import UserError
from lewm_ros.bag_files import find_bags
from lewm_ros.bag_hash import bag_hash
from lewm_ros.bag_reader import open_bag
from lewm_ros.bags import convert
from lewm_ros.inspect_bag import inspect_bag, suggest_spec

IMAGE, JPEG = 'sensor_msgs/msg/Image', 'sensor_msgs/msg/CompressedImage'


@pytest.fixture
def spec(two_room):
    """The demo's robot without states and markers."""
    return without(two_room, 'state', 'episode_topic')


def replaced(change, frames=40):
    """The drive with each image replaced by `change(number, message)`."""
    numbers = iter(range(frames))
    return [(t, log, change(next(numbers), m) if 'camera' in t else m) for t, log, m
            in drive(frames)]


def test_a_topic_in_two_types_is_the_one_of_the_specs_type(tmp_path, spec):
    """A bag with one plain Twist among the stamped ones was refused, and broke `lewm inspect`."""
    odd = [*drive(40), ('/cmd_vel', LOG + 10 * TICK, twist(0.4))]
    report, data = converted(tmp_path, sorted(odd, key=lambda m: m[1]), spec)
    assert (report.frames, report.commands) == (40, 40) and data['action'][9, 0] < 0.04
    assert '1 messages are of another type' in inspect_bag(tmp_path / 'bag')
    assert 'type: geometry_msgs/msg/TwistStamped' in suggest_spec(tmp_path / 'bag')[0]


def test_latched_topics_and_several_connections_of_ros1_are_read(tmp_path, spec):
    with Ros1Writer(tmp_path / 'a.bag') as writer:
        ends = {}
        for number, (topic, log_ns, message) in enumerate(drive(40)):
            kind, end = message.__msgtype__, (topic, number % 3 if topic == '/cmd_vel' else 0)
            if end not in ends:
                ends[end] = writer.add_connection(topic, kind, typestore=ROS1, latching=end[1] % 2,
                                                  callerid=f'/node_{end[1]}')
            raw = STORE.cdr_to_ros1(bytes(STORE.serialize_cdr(message, kind)), kind)
            writer.write(ends[end], log_ns, bytes(raw))
    assert convert([tmp_path / 'a.bag'], spec, tmp_path / 'data.h5').commands == 40


def test_an_mcap_that_mixes_ros1_and_ros2_is_refused_by_its_topics(tmp_path, spec):
    """All of it was read by the rules of ROS 1: numbers came out of the wrong bytes."""
    both = mcap(ros1_topics=['/cmd_vel', '/odom'])(tmp_path / 'both', drive(40))
    sentence = r'mixes messages of ROS 1 \(/cmd_vel, /odom\) and of ROS 2 \(/camera/image_raw, '
    for look in (lambda: convert([both], spec, tmp_path / 'data.h5'), lambda: inspect_bag(both)):
        with pytest.raises(UserError, match=sentence):
            look()


def test_a_channel_of_the_other_ros_without_messages_changes_nothing(tmp_path, spec):
    path = mcap(idle=['/chatter'])(tmp_path / 'a', drive(40))
    assert convert([path], spec, tmp_path / 'data.h5').frames == 40


def written_as_json(path):
    """A recording by another system, whose commands have a ROS type's name."""
    with path.open('wb') as file:
        writer, ends = McapWriter(file), {}
        writer.start(profile='', library='other')
        for topic, log_ns, message in drive(20):
            kind = message.__msgtype__
            if topic not in ends:
                text = STORE.generate_msgdef(kind, ros_version=2)[0]
                ends[topic] = writer.register_channel(
                    topic, 'json' if topic == '/cmd_vel' else 'cdr',
                    writer.register_schema(kind, 'ros2msg', text.encode()))
            writer.add_message(ends[topic], log_ns, b'{}' if topic == '/cmd_vel' else
                               bytes(STORE.serialize_cdr(message, kind)), log_ns)
        writer.finish()
    return path


def test_a_topic_of_another_system_is_named_and_the_others_are_shown(tmp_path, spec):
    bag = written_as_json(tmp_path / 'a.mcap')
    with pytest.raises(UserError, match="'/cmd_vel' .* is written as json, but cdr"):
        convert([bag], spec, tmp_path / 'data.h5')
    text = inspect_bag(bag)
    assert '64x64 rgb8' in text and '/cmd_vel: bag' in text


def test_log_time_that_stands_still_leaves_header_stamps(tmp_path, spec):
    report, _ = converted(tmp_path, [(t, 0, m) for t, _, m in drive(40)], spec)
    assert (report.frames, report.clocks) == (40, ('header',))
    assert 'log time does not advance' in inspect_bag(tmp_path / 'bag')


@pytest.mark.parametrize('encoding, size', [
    ('8UC1', 1), ('8UC3', 3), ('16UC1', 2), ('rgb16', 6), ('bgr16', 6), ('bayer_rggb16', 2)])
def test_every_encoding_of_colours_and_greys_is_read(tmp_path, spec, encoding, size):
    def change(k, message):
        return bag_image(START + k * TICK, np.full((64, 64 * size), k, np.uint8), encoding,
                         width=64)
    _, data = converted(tmp_path, replaced(change), spec)
    np.testing.assert_array_equal(data['pixels'][:, 9, 9, 0], np.arange(40))


@pytest.mark.parametrize('form', ['.webp', '.tiff', '.bmp'])
def test_compressed_images_of_other_forms_are_read(tmp_path, spec, form):
    def change(k, message):
        data = cv2.imencode(form, np.full((64, 64, 3), 5 * k, np.uint8))[1]
        return T[JPEG](message.header, 'any', data.ravel())
    camera = {**spec.to_dict()['cameras'][0], 'type': JPEG}
    _, data = converted(tmp_path, replaced(change), without(spec, cameras=[camera]))
    assert np.abs(data['pixels'][:, 9, 9, 0].astype(int) - 5 * np.arange(40)).max() <= 2


def test_an_open_source_size_is_that_of_most_images(tmp_path, spec):
    """Some drivers send a first picture of another mode: it made all others of a wrong size."""
    camera = {**spec.to_dict()['cameras'][0], 'source_width': None, 'source_height': None}
    messages = replaced(lambda k, m: bag_image(START + k * TICK, picture(k, 96 if k < 2 else 64)))
    report, _ = converted(tmp_path, messages, without(spec, cameras=[camera]))
    assert (report.frames, report.unreadable) == (38, 2)


@pytest.mark.parametrize('empty', [9, 999])
def test_a_message_without_the_number_is_left_out(tmp_path, spec, empty):
    """The first message of many a joint driver is empty, and of some each."""
    joints, odd = T['sensor_msgs/msg/JointState'], []
    for k, (topic, log, m) in enumerate(drive(40)):
        if topic == '/odom':
            m = joints(m.header, [], np.array([1.0 * k] if k > empty else []), np.array([]),
                       np.array([]))
        odd.append((topic, log, m))
    fields = [{'path': 'position[0]', 'name': 'joint', 'unit': 'rad'}]
    tree = {**spec.to_dict(), 'state': [{'topic': 'odom', 'type': 'sensor_msgs/msg/JointState',
                                         'fields': fields}]}
    report, data = converted(tmp_path, odd, RobotSpec.from_dict(tree))
    assert report.frames == 40
    assert np.isfinite(data['joint']).all() if empty == 9 else np.isnan(data['joint']).all()


def test_two_states_may_come_from_one_topic(tmp_path, two_room):
    tree = two_room.to_dict()
    both = [{**tree['state'][0], 'fields': [{'path': f'pose.pose.position.{axis}', 'name': axis}]}
            for axis in 'xy']
    _, data = converted(tmp_path, drive(40), RobotSpec.from_dict({**tree, 'state': both}))
    np.testing.assert_array_equal(data['x'], np.arange(40.0))
    np.testing.assert_array_equal(data['y'], np.zeros(40))


def test_small_and_huge_limits_are_numbers_in_a_suggested_spec(tmp_path):
    """YAML takes 2e-05 for a text."""
    small = [(t, log, command(START + i * S, i * 1e-6) if t == '/cmd_vel' else m)
             for i, (t, log, m) in enumerate(drive(40))]
    tree = yaml.safe_load(suggest_spec(write_bag(tmp_path / 'bag', small))[0])
    assert 1e-4 < RobotSpec.from_dict(tree).action.fields[0].max < 2e-4


def test_files_beside_a_metadata_that_names_others_are_read_and_that_is_said(tmp_path, spec):
    bag = write_bag(tmp_path / 'bag', drive(40))
    storage_file(bag).rename(bag / 'renamed.mcap')
    assert convert([bag], spec, tmp_path / 'data.h5').frames == 40
    with open_bag(bag) as opened:
        assert opened.lost()[0]['why'] == "the part 'bag.mcap' is missing"


def test_pipes_devices_and_links_that_lead_nowhere_are_named(tmp_path):
    """A pipe was read until the end of time."""
    os.mkfifo(tmp_path / 'pipe.mcap')
    (tmp_path / 'gone.mcap').symlink_to(tmp_path / 'nowhere')
    write_bag(tmp_path / 'good', drive(2))
    assert find_bags([tmp_path]) == [tmp_path / 'gone.mcap', tmp_path / 'good']
    for path, reason in (('pipe.mcap', 'a device or a pipe'), ('gone.mcap', 'No such file'),
                         ('/dev/null', 'a device or a pipe')):
        with pytest.raises(UserError, match=reason):
            bag_hash(tmp_path / path)
        with pytest.raises(UserError, match=reason), open_bag(tmp_path / path):
            pass


def test_names_that_are_no_utf8_are_taken_and_shown(tmp_path, capsys):
    bag = write_bag(tmp_path / 'bag', drive(40))
    odd = bag.rename(os.fsdecode(os.fsencode(tmp_path) + b'/dr\xffive #1%?'))
    for arguments in (['convert', f'bags={odd}', 'robot=two_room', f'output={tmp_path}/a.h5'],
                      ['inspect', str(odd)], ['inspect', '--spec', str(odd)]):
        assert main(arguments) == 0
    assert 'dr\\xffive' in capsys.readouterr().out
    assert json.loads((tmp_path / 'a.report.json').read_text())['bags'][0]['name'].startswith(
        'dr\\xffive')


@pytest.mark.parametrize('output, reason', [
    ('.', 'is a directory'), ('file/data.h5', 'is no directory'), ('/proc/a/b.h5', 'cannot be')])
def test_an_output_that_cannot_be_written_is_one_sentence(tmp_path, capsys, output, reason):
    (tmp_path / 'file').touch()
    bag = write_bag(tmp_path / 'bag', drive(20))
    for more in ((), ('overwrite=true',)):
        assert main(['convert', f'bags={bag}', 'robot=two_room', f'output={tmp_path / output}',
                     *more]) == 1
        said = capsys.readouterr().err.strip().splitlines()[-1]
        assert said.startswith('lewm convert: output') and reason in said
    assert sorted(p.name for p in tmp_path.iterdir()) == ['bag', 'file']


def test_bags_that_all_fail_are_a_table_with_a_sentence_below(tmp_path, capsys):
    for name in 'ab':
        write_bag(tmp_path / name, [m for m in drive(20) if m[0] != '/cmd_vel'])
    assert main(['convert', f'bags={tmp_path}', 'robot=two_room', f'output={tmp_path}/d.h5']) == 1
    *table, sentence = capsys.readouterr().err.strip().splitlines()
    assert sum('no commands' in line for line in table) == 2
    assert sentence == ('lewm convert: none of the bags can be converted, for the reasons above; '
                        'nothing was written')


def test_inspect_shows_the_good_ones_of_many_bags_and_fails(tmp_path, capsys):
    write_bag(tmp_path / 'images', [m for m in drive(60) if 'camera' in m[0]])
    write_bag(tmp_path / 'good', drive(20))
    (tmp_path / 'lfs.mcap').write_bytes(b'version https://git-lfs.github.com/spec/v1\n')
    assert main(['inspect', str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert said.out.count('messages,') == 2 and 'git lfs pull' in said.err
    assert main(['inspect', str(tmp_path / 'lfs.mcap')]) == 1
    assert 'git lfs pull' in capsys.readouterr().err
    assert main(['inspect', '--spec', str(tmp_path)]) == 0  # of the only one that has both
    assert 'name: good\n' in capsys.readouterr().out
    assert main(['inspect', str(tmp_path / 'go*')]) == 0


def test_a_zstd_file_alone_is_inspected(tmp_path, capsys):
    bag = KINDS['mcap zstd by file'](tmp_path / 'bag', drive(5))
    assert main(['inspect', str(storage_file(bag))]) == 0
    assert '/camera/image_raw' in capsys.readouterr().out


def test_damage_in_one_topic_does_not_keep_inspect_from_the_others(tmp_path):
    file = mcap(chunk_size=40_000, compression=CompressionType.ZSTD)(tmp_path / 'bag', drive(60))
    with open_bag(file) as bag:
        chunk = bag.parts[0]._scan.chunks[5]
    data = bytearray(file.read_bytes())
    data[chunk.start + chunk.length // 2] ^= 0xff
    file.write_bytes(data)
    text = inspect_bag(file)
    assert '/camera/image_raw: bag' in text and 'clock: header' in text


def test_camera_and_commands_on_one_topic_are_refused(tmp_path, spec):
    tree = with_latency(spec, topic='camera/image_raw', type=IMAGE,
                        fields=[{'path': 'height', 'min': 0, 'max': 9}])
    with pytest.raises(UserError, match='camera and commands are both'):
        converted(tmp_path, drive(20), tree)


def test_a_recording_that_is_still_written_to_is_refused(tmp_path, two_room):
    """Its images would be counted anew in the second pass, and its hash be another tomorrow."""
    bag = write_bag(tmp_path / 'bag', drive(60, 2))
    still = write_bag(tmp_path / 'still', drive(60, 2, start=START + 999 * S))

    def record(done, total):
        with storage_file(still).open('ab') as file:
            file.write(b'more')

    with pytest.raises(UserError, match='when its recorder has stopped'):
        convert([still], two_room, tmp_path / 'data.h5', on_progress=record)
    report = convert([still, bag], two_room, tmp_path / 'data.h5', on_progress=record)
    assert (report.frames, [path for path, _ in report.failed]) == (120, [still])
