"""The robot spec: there and back again, and each of its error messages."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import yaml

from lewm_core.robot import RobotSpec
from lewm_core.types import UserError

ROOT = Path(__file__).resolve().parents[2]
TREE = {
    'name': 'rover', 'rate_hz': 10.0, 'max_age_s': 0.5,
    'cameras': [{'name': 'top', 'topic': 'camera/image_raw', 'width': 64, 'height': 48,
                 'crop': [10, 20, 300, 200]}],
    'action': {'topic': 'cmd_vel', 'type': 'geometry_msgs/msg/Twist', 'latency_s': 0.06,
               'fields': [{'path': 'linear.x', 'min': -0.5, 'max': 1.0, 'unit': 'm/s'},
                          {'path': 'angular.z', 'min': -2.0, 'max': 2.0, 'safe': 0.5}]},
    'state': [{'topic': 'odom', 'type': 'nav_msgs/msg/Odometry',
               'fields': [{'path': 'pose.pose.position.x', 'name': 'x', 'unit': 'm'},
                          {'path': 'pose.covariance[3]', 'name': 'cov'}]}],
    'episode_topic': 'episode'}


def changed(path: str, value: object) -> dict:
    """TREE with the key at dotted `path` set to `value`, or removed where it is `...`."""
    tree = copy.deepcopy(TREE)
    node, keys = tree, [int(k) if k.isdigit() else k for k in path.split('.')]
    for key in keys[:-1]:
        node = node[key]
    if value is ...:
        del node[keys[-1]]
    else:
        node[keys[-1]] = value
    return tree


def test_a_spec_goes_there_and_back_through_yaml_json_and_dict(tmp_path):
    path = tmp_path / 'rover.yaml'
    path.write_text(yaml.safe_dump(TREE))
    spec = RobotSpec.load(path)
    assert RobotSpec.from_json(spec.to_json()) == spec
    assert RobotSpec.from_dict(spec.to_dict()) == spec
    path.write_text(yaml.safe_dump(spec.to_dict()))
    assert RobotSpec.load(path) == spec
    assert spec.camera.crop == (10, 20, 300, 200) and spec.action.fields[1].safe == 0.5
    assert spec.state_names == ('x', 'cov') and spec.action_dim == 2
    assert spec.tick_s == pytest.approx(0.1)


@pytest.mark.parametrize('path', sorted((ROOT / 'config' / 'robot').glob('*.yaml')),
                         ids=lambda path: path.stem)
def test_every_spec_of_the_project_loads(path):
    spec = RobotSpec.load(path)
    assert RobotSpec.from_json(spec.to_json()) == spec


def test_actions_are_clamped_to_their_limits():
    spec = RobotSpec.from_dict(TREE)
    np.testing.assert_array_equal(spec.clamp([[3.0, -9.0], [0.25, 0.5]]),
                                  [[1.0, -2.0], [0.25, 0.5]])
    np.testing.assert_array_equal(spec.safe, [0.0, 0.5])
    assert spec.low.tolist() == [-0.5, -2.0] and spec.high.tolist() == [1.0, 2.0]
    for bad in (np.nan, np.inf):
        with pytest.raises(ValueError, match='is not finite'):
            spec.clamp([bad, 0.0])


def test_the_fingerprint_follows_what_changes_a_tensor_and_nothing_else():
    spec = RobotSpec.from_dict(TREE)
    same = [spec.with_source(640, 480), dataclasses.replace(spec, episode_topic=None),
            RobotSpec.from_dict(changed('cameras.0.topic', 'elsewhere/image')),
            RobotSpec.from_dict(changed('action.topic', 'other')),
            RobotSpec.from_dict(changed('state', []))]
    assert {s.fingerprint() for s in same} == {spec.fingerprint()}
    others = [changed('rate_hz', 20.0), changed('cameras.0.width', 96),
              changed('cameras.0.crop', [11, 20, 300, 200]), changed('action.latency_s', 0.0),
              changed('action.fields.0.max', 0.9), changed('action.fields.1.path', 'angular.y'),
              changed('action.reduce', 'mean'), changed('action.reduce', 'sum')]
    prints = {RobotSpec.from_dict(tree).fingerprint() for tree in others}
    assert len(prints) == len(others) and spec.fingerprint() not in prints


def test_the_source_size_is_filled_in():
    spec = RobotSpec.from_dict(TREE).with_source(640, 480)
    assert (spec.camera.source_width, spec.camera.source_height) == (640, 480)


WRONG = [
    # keys and types
    ('colour', 'red', "unknown key 'colour'; known keys are"),
    ('cameras.0.focal', 3, r"cameras\[0\]: unknown key 'focal'"),
    ('name', ..., "key 'name' is missing; add it"),
    ('action.topic', ..., "action: key 'topic' is missing"),
    ('action', [1], r'action is \[1\], but a mapping'),
    ('cameras', 'top', "cameras is 'top', but a list is expected"),
    ('rate_hz', 'fast', "rate_hz is 'fast', but float is expected"),
    ('rate_hz', True, 'rate_hz is True, but float is expected'),
    ('cameras.0.width', 64.5, 'width is 64.5, but int is expected'),
    ('cameras.0.crop', [1, 2, 3], r'crop is \[1, 2, 3\], but \[x, y, width, height\]'),
    ('cameras.0.crop', [1, 2, 3, 'a'], r'but \[x, y, width, height\] in whole source pixels'),
    # the robot
    ('name', 'My Rover', "name is 'My Rover', but lower-case letters"),
    ('rate_hz', 0.0, 'rate_hz is 0.0, but a positive number of ticks'),
    ('rate_hz', float('inf'), 'rate_hz is inf'),
    ('max_age_s', 0.05, 'max_age_s is 0.05, but at least one tick, 0.1 s'),
    ('cameras', [], '0 are given, but this version plans through exactly one'),
    ('cameras', TREE['cameras'] * 2, '2 are given'),
    ('episode_topic', 'a topic', "episode_topic is 'a topic', but a ROS topic name"),
    # the camera
    ('cameras.0.name', 'Top', "camera name is 'Top'"),
    ('cameras.0.topic', 'a b', "camera topic is 'a b', but a ROS topic name"),
    ('cameras.0.type', 'sensor_msgs/msg/PointCloud2', 'but sensor_msgs/msg/Image or'),
    ('cameras.0.width', 4, 'camera width is 4, but 8 to 1024 pixels'),
    ('cameras.0.height', 4000, 'camera height is 4000'),
    ('cameras.0.crop', [-1, 0, 10, 10], r'crop is \(-1, 0, 10, 10\), but x and y at least 0'),
    ('cameras.0.crop', [0, 0, 0, 10], 'width and height at least 1'),
    # the action
    ('action.topic', '1cmd', "action topic is '1cmd'"),
    ('action.type', 'Twist', "action type is 'Twist', but package/msg/Type"),
    ('action.reduce', 'first', "action reduce is 'first', but 'last', 'mean' or 'sum'"),
    ('action.fields', [], 'action fields: none are given; list at least one'),
    ('action.latency_s', -0.1, 'latency_s is -0.1, but 0 to 10 s'),
    ('action.timeout_s', 0.0, 'timeout_s is 0.0, but a positive number of seconds'),
    ('action.on_timeout', 'hold', "on_timeout is 'hold', but 'safe' or 'drop'"),
    ('action.fields.0.path', 'linear x', "action field path is 'linear x', but a unique dotted"),
    ('action.fields.1.path', 'linear.x', "path is 'linear.x', but a unique dotted path"),
    ('action.fields.0.min', 2.0, r'limits of linear.x is \[2.0, 1.0\], but two finite numbers'),
    ('action.fields.0.max', float('inf'), 'two finite numbers, min below max'),
    ('action.fields.1.safe', 3.0, r'value of angular.z is 3.0, but a number within \[-2, 2\]'),
    # the state
    ('state.0.topic', '', "state topic is ''"),
    ('state.0.type', 'Odometry', "state type is 'Odometry'"),
    ('state.0.fields.0.path', 'pose..x', "state field path is 'pose..x', but a dotted path"),
    ('state.0.fields.0.name', 'pixels', "state field name is 'pixels', but a unique"),
    ('state.0.fields.0.name', 'cov', "state field name is 'cov', but a unique"),
]


@pytest.mark.parametrize('path, value, message', WRONG, ids=lambda v: str(v)[:30])
def test_each_error_names_the_value_and_what_was_expected(path, value, message):
    with pytest.raises(UserError, match=message) as error:
        RobotSpec.from_dict(changed(path, value))
    assert '\n' not in str(error.value)


def test_a_crop_outside_the_source_is_refused_once_the_source_is_known():
    with pytest.raises(UserError, match='a rectangle inside the source image of 160x120'):
        RobotSpec.from_dict(TREE).with_source(160, 120)


def test_a_file_that_is_missing_or_no_yaml_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match='is not a file; give the path of a robot YAML'):
        RobotSpec.load(tmp_path / 'none.yaml')
    for text in ('a: [1', 'name: {', b'\xff\xfe\x00bad'):
        (tmp_path / 'bad.yaml').write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(UserError, match='is not YAML'):
            RobotSpec.load(tmp_path / 'bad.yaml')
    (tmp_path / 'list.yaml').write_text('- 1\n- 2\n')
    with pytest.raises(UserError, match=r'is \[1, 2\], but a mapping'):
        RobotSpec.load(tmp_path / 'list.yaml')


@pytest.mark.parametrize('before, after, key', [
    ('rate_hz: 10.0\n', 'rate_hz: 10.0\nrate_hz: 5.0\n', 'rate_hz'),
    ('max: 0.4, safe', 'max: 0.4, max: 4.0, safe', 'max')])
def test_a_key_that_comes_twice_is_refused_and_named(tmp_path, before, after, key):
    """YAML wants keys to be unique. The last one counted without a word, so that a limit or a
    rate which stood there to be read was not the one that the robot was driven by."""
    text = (ROOT / 'config' / 'robot' / 'two_room.yaml').read_text()
    assert before in text
    (tmp_path / 'twice.yaml').write_text(text.replace(before, after, 1))
    with pytest.raises(UserError, match=f"is not YAML .*key '{key}' comes twice.*line"):
        RobotSpec.load(tmp_path / 'twice.yaml')


def test_a_mapping_may_be_merged_and_one_of_its_keys_given_anew(tmp_path):
    """A merge key (`<<`) is how a spec repeats the limits of a field: what it brings in counts
    less, and is no key that comes twice."""
    text = (ROOT / 'config' / 'robot' / 'two_room.yaml').read_text()
    text = text.replace('- {path: twist.linear.x', '- &first {path: twist.linear.x').replace(
        '- {path: twist.linear.y, min: -0.4, max: 0.4, safe: 0.0, unit: m/s}',
        '- {<<: *first, path: twist.linear.y}')
    (tmp_path / 'merged.yaml').write_text(text)
    assert [f.path for f in RobotSpec.load(tmp_path / 'merged.yaml').action.fields] == [
        'twist.linear.x', 'twist.linear.y']
