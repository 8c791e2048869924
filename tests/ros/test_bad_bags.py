"""Every fault of a recording: one sentence that says what is wrong, and nothing half-written."""

from __future__ import annotations

import sqlite3

import h5py
import numpy as np
import pytest
from bag_toys import (LOG, START, TICK, S, bag_image, command, drive, header, picture, twist,
                      with_latency, write_bag)

from lewm_core.cli import main
from lewm_core.data import Dataset
from lewm_core.robot import RobotSpec
from lewm_core.types import UserError
from lewm_ros.bag_reader import find_bags, open_bag
from lewm_ros.bags import convert


@pytest.fixture
def refused(tmp_path, two_room):
    """Calls convert, which must refuse with one sentence and leave nothing; returns its text."""
    def call(bags, spec=two_room, **kwargs):
        with pytest.raises(UserError) as caught:
            convert(bags if isinstance(bags, list) else [bags], spec, tmp_path / 'out' / 'data.h5',
                    **kwargs)
        text = str(caught.value)
        assert '\n' not in text and not list(tmp_path.glob('out/*'))
        return text
    return call


def drop(topic, messages=None):
    return [m for m in messages or drive(20) if m[0] != topic]


def test_a_missing_camera_topic_lists_what_is_there(refused, tmp_path):
    text = refused(write_bag(tmp_path / 'bag', drop('/camera/image_raw')))
    assert "no topic 'camera/image_raw' for the camera 'top'" in text
    assert '/cmd_vel (geometry_msgs/msg/TwistStamped, 20)' in text and 'correct' in text


def test_images_without_a_command_topic_say_so(refused, tmp_path):
    text = refused(write_bag(tmp_path / 'bag', drop('/cmd_vel')))
    assert "has 20 images on '/camera/image_raw' but no commands: no topic 'cmd_vel'" in text
    assert '/odom (nav_msgs/msg/Odometry, 20)' in text


def test_images_with_a_command_topic_that_is_silent_say_so(refused, tmp_path):
    text = refused(write_bag(tmp_path / 'bag', drop('/cmd_vel'),
                             empty=[('/cmd_vel', 'geometry_msgs/msg/TwistStamped')]))
    assert "has 20 images on '/camera/image_raw' but no command on '/cmd_vel'" in text


def test_commands_without_an_image_say_so(refused, tmp_path):
    text = refused(write_bag(tmp_path / 'bag', drop('/camera/image_raw'),
                             empty=[('/camera/image_raw', 'sensor_msgs/msg/Image')]))
    assert "has no image on '/camera/image_raw'" in text


@pytest.mark.parametrize('topic, what', [('/odom', 'state'), ('/episode', 'episode markers')])
def test_a_missing_state_or_marker_topic_is_named(refused, tmp_path, topic, what):
    text = refused(write_bag(tmp_path / 'bag', drop(topic)))
    assert f'no topic {topic[1:]!r} for the {what}' in text


def test_another_type_than_the_specs_is_named_with_both(refused, tmp_path):
    messages = [(t, log, twist(0.1) if t == '/cmd_vel' else m) for t, log, m in drive(20)]
    text = refused(write_bag(tmp_path / 'bag', messages))
    assert "'/cmd_vel'" in text and 'is a geometry_msgs/msg/Twist,' in text
    assert 'expects geometry_msgs/msg/TwistStamped' in text


def test_a_field_that_the_type_does_not_have_lists_those_it_has(refused, tmp_path, two_room):
    spec = with_latency(two_room, fields=[{'path': 'twist.speed', 'min': -1.0, 'max': 1.0}])
    text = refused(write_bag(tmp_path / 'bag', drive(20)), spec)
    assert "'twist.speed' is no number of geometry_msgs/msg/TwistStamped" in text
    assert 'twist.linear.x' in text


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_a_bag_of_commands_of_which_none_is_finite_is_refused(refused, tmp_path, value):
    messages = drive(20)
    for message in (m for t, _, m in messages if t == '/cmd_vel'):
        message.twist.linear.y = value
    text = refused(write_bag(tmp_path / 'bag', messages))
    assert f'twist.linear.y = {value} at stamp 1000.000000000 s' in text
    assert 'no command that is finite in 32 bits: the first of 20' in text


def test_an_image_of_another_size_is_named_with_both_sizes_and_its_stamp(refused, tmp_path):
    messages = drive(20)
    at = next(i for i, m in enumerate(messages) if 'camera' in m[0] and i > 20)
    topic, log, message = messages[at]
    stamp = message.header.stamp.sec * S + message.header.stamp.nanosec
    messages[at] = topic, log, bag_image(stamp, picture(0, 80))
    text = refused(write_bag(tmp_path / 'bag', messages))
    assert '80x80' in text and '64x64' in text and f'image at {stamp / S:.9f} s' in text


def test_a_damaged_image_is_named_with_its_stamp(refused, tmp_path):
    messages = drive(20)
    for image in (m for t, _, m in messages if 'camera' in t):
        image.data = image.data[:100]
    text = refused(write_bag(tmp_path / 'bag', messages))
    assert 'image at 1000.000000000 s' in text and '100 bytes' in text


def test_a_damaged_image_ends_its_episode_and_is_counted(tmp_path, two_room):
    """A single odd message used to refuse the whole recording."""
    messages = drive(60)
    images = [m for t, _, m in messages if 'camera' in t]
    images[25].data = images[25].data[:100]
    report = convert([write_bag(tmp_path / 'bag', messages)], two_room, tmp_path / 'data.h5')
    assert (report.frames, report.episodes, report.unreadable) == (59, 2, 1)
    dataset = Dataset.open(report.output)
    assert dataset.ep_len.tolist() == [25, 34]
    shown = [*range(25), *range(26, 60)]
    for row, index in enumerate(shown):
        np.testing.assert_array_equal(dataset.pixels[row], picture(index))
    expected = np.array(shown, np.float32) / 1000
    expected[[24, 58]] = np.nan
    np.testing.assert_array_equal(dataset.action[:, 0], expected)
    (bag,) = dataset.provenance['bags']
    assert bag['unreadable'] == 1 and [e['frames'] for e in bag['episodes']] == [25, 34]
    assert sorted(p.name for p in tmp_path.iterdir()) == ['bag', 'data.h5']


def test_a_bag_without_messages_is_empty(refused, tmp_path):
    bag = write_bag(tmp_path / 'bag', [], empty=[('/cmd_vel', 'geometry_msgs/msg/Twist')])
    assert 'is empty: it holds no message' in refused(bag)
    assert 'is empty: it holds no message' in refused(write_bag(tmp_path / 'none', []))


@pytest.mark.parametrize('share', [0.0, 0.000001, 0.001])
def test_a_file_cut_off_before_its_first_message_is_refused(refused, tmp_path, share):
    bag = write_bag(tmp_path / 'bag', drive(40, 4))
    file = bag / 'bag.mcap'
    data = file.read_bytes()
    file.write_bytes(data[:int(len(data) * share)])
    for path in (bag, file):
        text = refused(path)
        assert str(path) in text and 'record it again' in text


@pytest.mark.parametrize('at', [0.2, 0.5, 0.9])
def test_a_file_with_damaged_bytes_is_refused_or_read(tmp_path, two_room, at):
    """A flipped block either breaks the format, which is a sentence, or only some pixels."""
    bag = write_bag(tmp_path / 'bag', drive(40, 4))
    file = bag / 'bag.mcap'
    data = bytearray(file.read_bytes())
    start = int(len(data) * at)
    data[start:start + 3000] = b'\xff' * 3000
    file.write_bytes(data)
    try:
        convert([file], two_room, tmp_path / 'data.h5')
    except UserError as error:
        assert str(file) in str(error) and not (tmp_path / 'data.h5').exists()


def test_a_damaged_sqlite_file_is_refused(refused, tmp_path):
    file = tmp_path / 'bag.db3'
    file.write_bytes(b'SQLite format 3\0' + b'\x07' * 5000)
    assert 'cut off, damaged or of an unknown kind' in refused(file)
    file.unlink()
    with sqlite3.connect(file) as connection:
        connection.execute('create table people (name text)')
    assert 'cut off, damaged or of an unknown kind' in refused(file)


@pytest.mark.parametrize('name, data, expected', [
    ('notes.txt', b'hello', 'is not a bag'),
    ('drive.mcap', b'version https://git-lfs.github.com/spec/v1\n', 'git lfs pull'),
    ('drive.bag.active', b'#ROSBAG V2.0\n', 'rosbag reindex'),
    ('drive.bag', b'#ROSBAG V2.0\nrubbish', 'cut off, damaged'),
    ('drive.mcap', b'', 'the file has no bytes')])
def test_what_is_no_bag_is_refused_with_the_reason(refused, tmp_path, name, data, expected):
    (tmp_path / name).write_bytes(data)
    assert expected in refused(tmp_path / name)


def test_paths_that_hold_nothing_are_refused(refused, tmp_path):
    assert 'does not exist' in refused(tmp_path / 'nowhere')
    (tmp_path / 'folder').mkdir()
    assert 'is not a bag: a directory with a metadata.yaml' in refused(tmp_path / 'folder')
    assert 'no bag is given' in refused([])


def test_a_part_that_is_missing_and_a_bad_metadata_are_refused(refused, tmp_path):
    bag = write_bag(tmp_path / 'bag', drive(20))
    (bag / 'bag.mcap').rename(tmp_path / 'elsewhere.mcap')
    assert 'missing' in refused(bag)
    (bag / 'metadata.yaml').write_text('rosbag2_bagfile_information: [')
    assert 'is missing; copy the whole directory' in refused(bag)


def test_what_an_interrupted_recording_left_is_named_as_such(refused, tmp_path):
    write_bag(tmp_path / 'bag.partial-99' / 'bag', drive(20))
    assert 'interrupted recording' in refused(tmp_path / 'bag.partial-99')


def test_an_output_that_exists_is_kept_unless_overwrite_is_given(tmp_path, two_room):
    bag = write_bag(tmp_path / 'bag', drive(20))
    (tmp_path / 'data.h5').write_text('precious')
    with pytest.raises(UserError, match='exists.*overwrite=true'):
        convert([bag], two_room, tmp_path / 'data.h5')
    assert (tmp_path / 'data.h5').read_text() == 'precious'
    assert convert([bag], two_room, tmp_path / 'data.h5', overwrite=True).frames == 20


def test_a_failing_overwrite_keeps_what_was_there(tmp_path, two_room):
    (tmp_path / 'data.h5').write_text('precious')
    messages = drive(20)
    for image in (m for t, _, m in messages if 'camera' in t):
        image.encoding = '32FC1'
    with pytest.raises(UserError, match='32FC1'):
        convert([write_bag(tmp_path / 'bag', messages)], two_room, tmp_path / 'data.h5',
                overwrite=True)
    assert (tmp_path / 'data.h5').read_text() == 'precious'


def test_episodes_that_are_all_too_short_say_how_long_one_must_be(refused, tmp_path):
    text = refused(write_bag(tmp_path / 'bag', drive(15, 3)))
    assert 'the 45 images' in text and 'no episode of at least 16 frames at 10 Hz' in text


def test_a_relative_topic_that_fits_two_namespaces_is_ambiguous(refused, tmp_path):
    messages = [(f'/{robot}{t}', log, m) for robot in ('a', 'b') for t, log, m in drive(20)]
    text = refused(write_bag(tmp_path / 'bag', sorted(messages, key=lambda m: m[1])))
    assert "['/a/camera/image_raw', '/b/camera/image_raw']" in text


def test_one_bad_bag_of_many_does_not_stop_the_rest(tmp_path, two_room, capsys):
    good = write_bag(tmp_path / 'good', drive(20))
    bad = write_bag(tmp_path / 'bad', drop('/cmd_vel'))
    report = convert([good, bad], two_room, tmp_path / 'data.h5')
    assert report.frames == 20 and '1 bags failed' in report.summary()
    ((path, reason),) = report.failed
    assert path == bad and 'no commands' in reason
    assert main(['convert', f'bags={good},{bad}', 'robot=two_room', f'output={tmp_path}/b.h5',
                 'report=false']) == 1
    assert '1 bags are not in the dataset' in (said := capsys.readouterr()).err
    assert str(bad) in said.err and str(tmp_path / 'b.h5') in said.out


def test_bags_that_are_all_bad_are_refused_with_each_reason(refused, tmp_path):
    bags = [write_bag(tmp_path / 'a', drop('/cmd_vel')), write_bag(tmp_path / 'b', drop('/odom'))]
    text = refused(bags)
    assert 'none of the 2 bags' in text and all(str(bag) in text for bag in bags)


def test_a_long_topic_list_is_cut(tmp_path):
    bag = write_bag(tmp_path / 'bag', [(f'/topic_{i:03}', LOG, header(S)) for i in range(90)])
    with open_bag(bag) as opened:
        assert '60 more' in opened.listing() and len(opened.topics) == 90


def test_find_bags_takes_strings_and_keeps_the_order(tmp_path):
    for name in ('b', 'a'):
        write_bag(tmp_path / name, drive(2))
    assert find_bags([str(tmp_path / 'b'), tmp_path / 'a']) == [tmp_path / 'b', tmp_path / 'a']


def test_commands_outside_the_limits_are_kept_and_warned_about(tmp_path, two_room, caplog):
    messages = [(t, log, command(START + i // 3 * TICK, 0.9) if t == '/cmd_vel' else m)
                for i, (t, log, m) in enumerate(drive(20)[1:])]
    spec = RobotSpec.from_dict({**two_room.to_dict(), 'episode_topic': None})
    with caplog.at_level('WARNING'):
        convert([write_bag(tmp_path / 'bag', messages)], spec, tmp_path / 'data.h5')
    assert '20 of 20 commands are outside the limits' in caplog.text


def test_a_damaged_state_message_is_left_out_and_the_bag_is_not(tmp_path, two_room, caplog):
    """A flipped byte in the name of a frame once refused a whole recording."""
    messages = drive(20)
    for topic, _, message in messages:
        if topic == '/odom':
            message.child_frame_id = 'base_link_7' if message.header.stamp.sec == 1001 else 'base'
    bag = write_bag(tmp_path / 'bag', messages)
    file = next(bag.glob('*.mcap'))
    file.write_bytes(file.read_bytes().replace(b'base_link_7', b'base_lin\xf0_7'))
    report = convert([bag], two_room, tmp_path / 'data.h5')
    assert report.frames == 20
    assert caplog.text.count('10 such messages are left out') == 1
    with h5py.File(tmp_path / 'data.h5') as data:
        assert np.isnan(data['x'][15:]).all() and np.isfinite(data['x'][:9]).all()
