"""Topics found by their type as well as by their name."""

from __future__ import annotations

import pytest
from bag_toys import T, drive, header, write_bag

from lewm_core.dataset import Dataset
from lewm_core.robot import RobotSpec
from lewm_core.types import UserError
from lewm_ros.bag_reader import open_bag
from lewm_ros.bag_topics import find_topic
from lewm_ros.bags import convert
from lewm_ros.serving import serving_spec


def opened(spec, camera='*', action='*'):
    """The spec without state and markers, with other topics."""
    tree = spec.to_dict()
    tree['cameras'][0]['topic'], tree['action']['topic'] = camera, action
    tree['state'], tree['episode_topic'] = [], None
    return RobotSpec.from_dict(tree)


def test_an_open_topic_is_the_one_of_its_type_and_the_dataset_names_it(tmp_path, two_room):
    bag = write_bag(tmp_path / 'bag', [(f'/robot{t}', log, m) for t, log, m in drive(20)],
                    empty=[('/other/image', 'sensor_msgs/msg/Image')])
    report = convert([bag], opened(two_room), tmp_path / 'data.h5')
    spec = Dataset.open(tmp_path / 'data.h5').spec
    assert report.frames == 20
    assert (spec.camera.topic, spec.action.topic) == ('/robot/camera/image_raw', '/robot/cmd_vel')
    assert spec.fingerprint() == two_room.with_source(64, 64).fingerprint()


def test_an_open_topic_that_several_fit_lists_them(tmp_path, two_room):
    bag = write_bag(tmp_path / 'bag', [
        (f'/{robot}{t}', log, m) for t, log, m in drive(3) for robot in ('a', 'b')])
    with pytest.raises(UserError, match=r"\['/a/camera/image_raw', '/b/camera/image_raw'\]"):
        convert([bag], opened(two_room), tmp_path / 'data.h5')


def test_an_open_topic_that_none_fits_names_the_type(tmp_path, two_room):
    bag = write_bag(tmp_path / 'bag', [(t, log, m) for t, log, m in drive(3) if 'odom' in t])
    with pytest.raises(UserError, match=r"no topic '\*' of type sensor_msgs/msg/Image"):
        convert([bag], opened(two_room), tmp_path / 'data.h5')


def test_a_relative_name_under_two_namespaces_is_told_apart_by_type(tmp_path):
    """A driver publishes the JPEGs of a camera under a name that ends alike."""
    jpeg = T['sensor_msgs/msg/CompressedImage'](header(1), 'jpeg', drive(1)[2][2].data)
    bag = write_bag(tmp_path / 'bag', [*drive(1), ('/jpeg/camera/image_raw', 2 * 10**18, jpeg)])
    with open_bag(bag) as found:
        topic = find_topic(found, 'image_raw', 'sensor_msgs/msg/CompressedImage', 'camera')
        assert topic.name == '/jpeg/camera/image_raw'


def test_a_robot_cannot_be_driven_by_an_open_topic_unless_its_model_names_it(tmp_path, two_room):
    import yaml
    spec = opened(two_room)
    with pytest.raises(UserError, match=r"camera topic of robot .* is '\*'"):
        spec.require_topics()
    (tmp_path / 'robot.yaml').write_text(yaml.safe_dump(spec.to_dict()))
    served = serving_spec(two_room, str(tmp_path / 'robot.yaml'))
    served.require_topics()
    assert served.camera.topic == two_room.camera.topic
