"""Topic names that a recording may have, and a node may not."""

from __future__ import annotations

import dataclasses

import pytest
import yaml

from lewm_core.types import UserError
from lewm_ros.names import check_topic
from lewm_ros.recorder import Recorder
from lewm_ros.serving import check_types
from lewm_ros.sim_robot import SimRobot


@pytest.mark.parametrize('name', ['cmd_vel', '/cmd_vel', 'a/b_1', '~/image', '/r1/camera/raw'])
def test_a_name_that_ros_takes_is_taken(name):
    check_topic('camera topic', name)


@pytest.mark.parametrize('name', ['camera//image', 'camera/', '/', 'camera/1/image', '*'])
def test_a_topic_that_no_node_can_have_is_one_sentence(two_room, name):
    """A slash too many in a spec was the traceback of an rcl that could not resolve it."""
    spec = dataclasses.replace(two_room, action=dataclasses.replace(two_room.action, topic=name))
    with pytest.raises(UserError, match='action topic is .*, but a name of ROS 2 is expected'):
        check_types(spec)


@pytest.mark.parametrize('key', ['camera', 'state', 'episode'])
def test_the_recorder_and_the_simulated_robot_refuse_it_too(host, two_room, tmp_path, key):
    tree = two_room.to_dict()
    if key == 'camera':
        tree['cameras'][0]['topic'] = 'camera/'
    elif key == 'state':
        tree['state'][0]['topic'] = 'odom//'
    else:
        tree['episode_topic'] = 'episode/'
    (tmp_path / 'odd.yaml').write_text(yaml.dump(tree))
    given = {'robot': str(tmp_path / 'odd.yaml')}
    with pytest.raises(UserError, match=f'{key}.*but a name of ROS 2 is expected'):
        host.add(Recorder, parameters={**given, 'output': str(tmp_path / 'bag')})
    with pytest.raises(UserError, match=f'{key}.*but a name of ROS 2 is expected'):
        host.add(SimRobot, parameters=given)


def test_the_recorders_own_topics_are_looked_at_too(host, tmp_path):
    with pytest.raises(UserError, match="one of topics is 'a//b'"):
        host.add(Recorder, parameters={'output': str(tmp_path / 'bag'), 'topics': ['a//b']})
