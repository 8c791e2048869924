"""The robot spec that `lewm inspect --spec` suggests."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml
from bag_toys import (LOG, START, TICK, S, T, bag_image, command, drive, header, odometry,
                      picture, twist, write_bag)
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from lewm_core.cli import main
from lewm_core.robot import RobotSpec
from lewm_core.types import UserError
from lewm_ros.bags import convert
from lewm_ros.inspect_bag import suggest_spec
from lewm_ros.suggest_spec import outward

ROOT = Path(__file__).resolve().parents[2]


def suggested(tmp_path, messages):
    """The suggested spec, its text, and what was warned of."""
    bag = write_bag(tmp_path / 'Bag of Tuesday', sorted(messages, key=lambda m: m[1]))
    text, warnings = suggest_spec(bag)
    return RobotSpec.from_dict(yaml.safe_load(text)), text, warnings


def frames(topic='/camera/image_raw', hz=10, seconds=6, size=64, start=0, **kwargs):
    return [(topic, LOG + k * S // hz, bag_image(START + k * S // hz, picture(k + start, size),
                                                 **kwargs)) for k in range(hz * seconds)]


def twists(topic='/cmd_vel', hz=10, seconds=6):
    return [(topic, LOG + k * S // hz + 1000, twist(0.37 * np.sin(k), 0)) for k in
            range(hz * seconds)]


def test_the_sample_gives_a_spec_that_makes_the_same_dataset_as_the_one_by_hand(
        tmp_path, two_room, capsys):
    sample = ROOT / 'bags' / 'two_room_sample'
    assert main(['inspect', str(sample), '--spec', '--latency']) == 0
    out, err = capsys.readouterr()
    (tmp_path / 'robot.yaml').write_text(out)
    assert 'warning: ' in err and 'warning: ' not in out
    assert main(['convert', f'bags={sample}', f'robot={tmp_path / "robot.yaml"}',
                 f'output={tmp_path / "suggested.h5"}']) == 0
    convert([sample], two_room, tmp_path / 'by_hand.h5')
    with h5py.File(tmp_path / 'suggested.h5') as one, h5py.File(tmp_path / 'by_hand.h5') as other:
        for name in other:
            np.testing.assert_array_equal(one[name][:], other[name][:])


def test_topics_types_sizes_markers_and_states_come_from_the_bag(tmp_path):
    spec, text, _ = suggested(tmp_path, drive(60, 2))
    assert spec.name == 'bag_of_tuesday' and spec.episode_topic == 'episode'
    assert (spec.camera.topic, spec.camera.source_width) == ('camera/image_raw', 64)
    assert (spec.action.topic, spec.action.type) == ('cmd_vel', 'geometry_msgs/msg/TwistStamped')
    # Command x and odometry x are the only numbers that change.
    assert [f.path for f in spec.action.fields] == ['twist.linear.x']
    assert [(s.topic, s.fields[0].path, s.fields[0].name) for s in spec.state] == [
        ('odom', 'pose.pose.position.x', 'x')]
    assert all('#' in line for line in text.splitlines() if 'rate_hz' in line or 'min:' in line)


@pytest.mark.parametrize('low, high, expected', [
    (-0.387, 0.391, (-0.4, 0.4)), (-0.4, 0.4, (-0.4, 0.4)), (0.02, 0.83, (0.0, 0.9)),
    (-1.47, -0.2, (-1.6, 0.0)), (0.0, 183.0, (0.0, 200.0)), (-3e-4, 2.2e-3, (-5e-4, 2.5e-3))])
def test_limits_are_rounded_outward_and_hold_standing_still(low, high, expected):
    assert outward(low, high) == pytest.approx(expected)


def test_the_limits_of_positions_need_not_hold_zero():
    assert outward(1.03, 1.48, zero=False) == pytest.approx((1.0, 1.5))


@pytest.mark.parametrize('camera_hz, command_hz, rate', [
    (10, 10, 10.0), (30, 20, 10.0), (26, 50, 8.7), (5, 20, 5.0), (12, 12, 12.0), (30, 4, 5.0)])
def test_the_rate_is_the_cameras_thinned_out_and_not_much_above_the_commands(
        tmp_path, camera_hz, command_hz, rate):
    spec, text, _ = suggested(tmp_path, frames(hz=camera_hz) + twists(hz=command_hz))
    assert spec.rate_hz == pytest.approx(rate, rel=0.02)
    assert f'the camera gives {camera_hz} Hz and commands come at {command_hz} Hz' in text


def test_among_cameras_the_raw_one_that_is_alive_and_no_depth_is_taken(tmp_path):
    messages = twists() + frames('/depth/image', hz=20) + frames('/front', hz=10)
    messages += [('/dead', log, bag_image(m.header.stamp.sec * S, picture(0)))
                 for _, log, m in frames(hz=30)]
    compressed = T['sensor_msgs/msg/CompressedImage'](header(START), 'jpeg', np.zeros(9, np.uint8))
    messages += [('/front/compressed', LOG + k * TICK, compressed) for k in range(60)]
    spec, text, warnings = suggested(tmp_path, messages)
    assert spec.camera.topic == 'front' and '# others: ' in text
    assert any('/dead: the camera never changes' in w for w in warnings)
    assert any(w.startswith('/front/compressed: ') for w in warnings)


def test_commands_are_told_from_states_and_sensors_by_type_and_name(tmp_path):
    numbers = T['std_msgs/msg/Float64MultiArray']
    layout = T['std_msgs/msg/MultiArrayLayout']([], 0)
    messages = frames() + [(t, log, m) for t, log, m in drive(60) if t == '/odom']
    messages += [('/temperatures', LOG + k * TICK, numbers(layout, np.array([20.0 + k, 3])))
                 for k in range(60)]
    messages += [('/arm_controller/commands', LOG + k * TICK, numbers(
        layout, np.array([1.0 + 0.4 * np.sin(k), 7.0, -k / 100]))) for k in range(60)]
    spec, text, _ = suggested(tmp_path, messages)
    assert spec.action.topic == 'arm_controller/commands'
    assert [f.path for f in spec.action.fields] == ['data[0]', 'data[2]']
    assert 'is the robot at rest then?' in text and spec.action.fields[0].min >= 0.5


def test_a_recording_that_waits_for_commands_gets_a_longer_timeout_and_gaps_a_longer_age(tmp_path):
    messages = [m for k, m in enumerate(frames(seconds=20)) if k % 10 < 3]
    messages += [m for k, m in enumerate(twists(seconds=20)) if k % 8 == 0]
    spec, text, _ = suggested(tmp_path, messages)
    assert spec.action.timeout_s == 1.6 and spec.max_age_s >= 1.6


def test_a_picture_that_is_not_square_offers_a_crop(tmp_path):
    messages = twists() + [('/eye', LOG + k * TICK, bag_image(START + k * TICK, np.full(
        (48, 96, 3), k * 4, np.uint8))) for k in range(60)]
    spec, text, _ = suggested(tmp_path, messages)
    assert '# crop: [24, 0, 48, 48]' in text and spec.camera.crop is None
    assert (spec.camera.source_width, spec.camera.source_height) == (96, 48)


def test_two_states_of_one_name_get_names_of_their_own(tmp_path):
    messages = drive(60) + [('/other/odom', log, odometry(START + log - LOG, log % 7.0))
                            for _, log, _ in frames()]
    spec, _, _ = suggested(tmp_path, messages)
    assert len(spec.state_names) == len(set(spec.state_names)) == 2


@pytest.mark.parametrize('messages, said', [
    ([('/cmd_vel', LOG, twist(0.1))], 'has no picture that can be decoded'),
    (frames(), 'has no topic that looks like commands'),
    (frames() + [('/cmd_vel', LOG + k, command(START + k, 0.1)) for k in range(9)],
     "no number of '/cmd_vel' ever changes")])
def test_a_bag_without_camera_or_commands_gives_no_spec_and_says_why(
        tmp_path, capsys, messages, said):
    bag = write_bag(tmp_path / 'bag', sorted(messages, key=lambda m: m[1]))
    with pytest.raises(UserError, match=said):
        suggest_spec(bag)
    assert main(['inspect', str(bag), '--spec']) == 1
    out, err = capsys.readouterr()
    assert not out and said in err
    assert main(['inspect', str(bag)]) == 0 and said in capsys.readouterr().out


def test_of_several_bags_the_fullest_is_taken(tmp_path):
    write_bag(tmp_path / 'bags' / 'a', drive(30))
    write_bag(tmp_path / 'bags' / 'b', drive(60))
    assert 'name: b\n' in suggest_spec(tmp_path / 'bags')[0]


@pytest.mark.parametrize('name', ['off', 'null', 'true'])
def test_a_recording_whose_name_is_a_word_of_yaml_gets_it_as_its_name(tmp_path, name):
    """A folder called `off` gave no spec: YAML reads `name: off` as false."""
    text, _ = suggest_spec(write_bag(tmp_path / name, drive(40)))
    assert RobotSpec.from_dict(yaml.safe_load(text)).name == name


def test_numbers_with_capitals_in_their_names_are_suggested_and_converted(tmp_path):
    """ROS 1 messages have such names (steeringAngle), and the spec refused them as no path."""
    kind, image = 'car/msg/CarCmd', 'sensor_msgs/msg/Image'
    store = get_typestore(Stores.ROS2_JAZZY)
    store.register(get_types_from_msg('float32 steeringAngle', kind))
    with Writer(tmp_path / 'car', version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        seen, told = (writer.add_connection(topic, each, typestore=store)
                      for topic, each in (('/camera', image), ('/command', kind)))
        for k in range(40):
            at, angle = LOG + k * TICK, store.types[kind](np.sin(k))
            writer.write(told, at, store.serialize_cdr(angle, kind))
            writer.write(seen, at + 1, store.serialize_cdr(bag_image(at, picture(k)), image))
    text, _ = suggest_spec(tmp_path / 'car')
    spec = RobotSpec.from_dict(yaml.safe_load(text))
    assert [f.path for f in spec.action.fields] == ['steeringAngle']
    assert convert([tmp_path / 'car'], spec, tmp_path / 'd.h5').episodes == 1


def test_commands_of_a_type_without_a_definition_are_not_said_to_be_still(tmp_path):
    """Until Humble a sqlite3 bag held no definitions: of a robot with messages of its own it was
    said that no number ever changes, and that it should be driven."""
    kind = 'car/msg/CarCmd'
    store = get_typestore(Stores.ROS2_JAZZY)
    store.register(get_types_from_msg('float32 steering', kind))
    with Writer(tmp_path / 'car', version=9, storage_plugin=StoragePlugin.SQLITE3) as writer:
        told = writer.add_connection('/command', kind, typestore=store)
        seen = writer.add_connection('/camera', 'sensor_msgs/msg/Image', typestore=store)
        for k in range(40):
            image = bag_image(START + k * TICK, picture(k))
            writer.write(told, LOG + k * TICK,
                         store.serialize_cdr(store.types[kind](np.sin(k)), kind))
            writer.write(seen, LOG + k * TICK, store.serialize_cdr(image, image.__msgtype__))
    with closing(sqlite3.connect(next((tmp_path / 'car').glob('*.db3')))) as file:
        file.execute('DELETE FROM message_definitions')
        file.commit()
    with pytest.raises(UserError, match="on '/command' cannot be read: no definition of the type "
                                        f'{kind} is known; give typestore='):
        suggest_spec(tmp_path / 'car')
