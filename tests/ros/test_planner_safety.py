"""What a robot must not be left with: each test tells of a way in which it was."""

from __future__ import annotations

import dataclasses
import re
import struct
import threading
import time

import cv2
import numpy as np
import pytest
from geometry_msgs.msg import TwistStamped
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from planner_rig import START, TICK, Rig
from rcl_interfaces.msg import Log
from rclpy.node import Node
from ros_toys import ToyAgent, ToyRobot, image
from sensor_msgs.msg import CompressedImage, Image
from std_srvs.srv import Trigger

from lewm_core.robot import ActionField
from lewm_core.types import UserError
from lewm_ros.goals import read_goal
from lewm_ros.node import OK, WARN
from lewm_ros.planner_node import PlannerNode
from lewm_ros.serving import check_types, picture

SAFE = (0.0, 0.0)


@pytest.fixture
def agent(two_room):
    return ToyAgent(two_room)


def keep_sending(rig, host, message, until):
    """Whether `until()` became true while the robot's camera sent `message()` again and again."""
    timer = host.call(lambda: rig.robot.create_timer(
        0.05, lambda: rig.robot.camera.publish(message())))
    found = host.wait_for(until)
    host.call(timer.cancel)
    return found


@pytest.mark.parametrize('stamp, said', [(START + TICK, 'with the stamp of the one before'),
                                         (0, 'without a stamp')])
def test_a_camera_that_repeats_itself_is_stale(host, agent, stamp, said):
    """A driver that hung went on sending its last picture: no frame became a step, so nothing was
    sent, but something had been received, so nothing was stale: the robot kept its last command
    for ever. The same with frames whose stamp was suddenly empty."""
    rig = Rig(host, agent).goal()
    rig.frame(), rig.frame()
    assert keep_sending(rig, host, lambda: image(stamp), lambda: rig.robot.values[-1] == SAFE)
    assert rig.said('the camera is stale') and rig.said(said)


def test_what_was_wrong_before_a_node_was_activated_is_not_said_of_its_new_drive(host, agent):
    """A camera that was stale was said to be, and the safe action to be sent, from the first
    moment of the next drive on; when it was stale then, too, nothing was counted or logged."""
    rig = Rig(host, agent).goal()
    rig.frame()
    for times in (1, 2):
        assert host.wait_for(lambda: rig.node._driver.count['stale'] == times)
        assert 'the camera is stale' in host.call(rig.node.diagnose)[1]
        host.call(rig.node.trigger_deactivate)
        level, said, _ = host.call(lambda: (rig.node.trigger_activate(), rig.node.diagnose())[1])
        assert (level, said) == (OK, 'driving to the goal')


def test_goals_that_keep_coming_do_not_hide_that_the_camera_has_gone(host, agent):
    """Each accepted goal began the camera's waiting anew, so a goal a tick hid a dead camera."""
    rig = Rig(host, agent).goal()
    rig.frame()
    goals = iter(range(1, 10**6))
    timer = host.call(lambda: rig.robot.create_timer(
        0.1, lambda: rig.robot.goal.publish(image(START + next(goals)))))
    assert host.wait_for(lambda: rig.robot.values[-1] == SAFE)
    host.call(timer.cancel)


def test_an_old_picture_does_not_become_the_goal(host, agent):
    """~/set_goal took an hour-old picture if only a goal had been accepted a moment before."""
    rig = Rig(host, agent)
    rig.frame(wait=False, value=77)
    assert host.wait_for(lambda: rig.node._watch.current)
    assert host.wait_for(lambda: not rig.node._watch.current)
    rig.goal()
    answer = rig.call('set_goal')
    assert not answer.success and 'no current image' in answer.message and agent.goals == [9]


def test_a_missing_camera_is_named_as_it_is_listened_to(host, agent):
    """In a namespace, or remapped, it is the resolved name that nobody publishes on; the spec's
    was given, which the robot may well publish on."""
    node = host.add(PlannerNode, agent=agent, namespace='/arm1', parameters={'autostart': False})
    host.call(node.trigger_configure)
    host.call(node.trigger_activate)
    answer = host.call(lambda: node._on_set_goal(None, Trigger.Response()))
    assert "no current image on '/arm1/camera/image_raw'" in answer.message
    assert "no new image on '/arm1/camera/image_raw'" in node._watch.sentence()


def test_a_camera_slower_than_the_ticks_is_said(host, agent):
    """At half the rate each command moved the robot twice as far as was planned, in silence."""
    rig = Rig(host, agent).goal()
    for k in range(12):
        rig.frame(stamp=START + 2 * k * TICK)
    assert 'pictures come every 0.17 s, but a tick is 0.1 s' in rig.node.diagnose()[1]


def test_two_cameras_on_one_topic_are_said(host, agent):
    """Their frames take turns: the model sees a world that jumps to and fro."""
    rig = Rig(host, agent).goal()
    host.add(ToyRobot, name='other_robot')
    rig.frame()
    assert rig.said("2 publishers on '/camera/image_raw'")


def test_others_on_the_command_topic_are_named_and_do_not_end_the_drive(host, agent):
    """With a second planner, or a teleoperation node, the robot obeyed whoever spoke last, and
    nothing said so. Without a goal the topic is theirs."""
    logged = []
    rig = Rig(host, agent)
    host.call(lambda: rig.robot.create_subscription(Log, '/rosout', logged.append, 100))
    host.call(lambda: rig.robot.create_publisher(TwistStamped, 'cmd_vel', 10))
    namesake = host.add(Node, node_name='planner_node')
    host.call(lambda: namesake.create_publisher(TwistStamped, 'cmd_vel', 10))
    assert host.wait_for(lambda: host.call(rig.node.diagnose)[2]['other_commanders'] == 2)
    assert host.call(rig.node.diagnose)[:2] == (OK, 'no goal: silent')
    rig.goal().frame()
    level, sentence, _ = host.call(rig.node.diagnose)
    assert level == WARN and sentence.startswith(
        "driving to the goal; others publish on '/cmd_vel', too (/planner_node, /toy_robot)")
    assert rig.frame()[-1][1:] == (0.01, 0.01) and rig.said("others publish on '/cmd_vel', too")
    assert host.wait_for(lambda: any('the goal is taken' in m.msg for m in logged))
    assert sum('others publish' in m.msg for m in logged) == 1


def test_a_goal_that_was_driven_to_before_is_a_goal_again(host, agent):
    """Two stamped pictures in turn, as a patrol publishes them: from the third on they were taken
    for copies of the first two, in silence, and the robot stayed where it was."""
    rig = Rig(host, agent)
    for value in (3, 4, 3, 4):
        rig.goal(value, stamp=START + value)
    assert agent.goals == [3, 4, 3, 4]


def test_a_copy_of_a_goal_that_comes_after_it_was_cleared_moves_nothing(host, agent):
    """A goal comes by up to three subscriptions, and again when discovery finds its latched
    publisher anew: whichever came after ~/clear_goal started the robot that had been stopped."""
    rig, infos = Rig(host, agent), []
    host.call(lambda: rig.robot.create_subscription(
        Image, 'goal_image', lambda _, info: infos.append(info), 10))
    rig.goal()
    assert host.wait_for(lambda: infos)
    rig.call('clear_goal')
    host.call(lambda: rig.node._goals._hear(image(START, 9), infos[0]))
    assert rig.call('clear_goal').message == 'there was no goal' and agent.goals == [9]
    rig.goal()
    assert agent.goals == [9, 9]


@pytest.mark.parametrize('asked', [Transition(id=Transition.TRANSITION_CONFIGURE),
                                   Transition(label='activate'), Transition(id=77)])
def test_a_transition_that_the_state_does_not_have_is_refused_and_the_drive_goes_on(
        host, agent, asked):
    """A lifecycle manager that configures every node ended those that had done so themselves:
    rclpy lets the error raise out of the service."""
    rig = Rig(host, agent).goal()
    rig.frame()
    client = rig.robot.create_client(ChangeState, 'planner_node/change_state')
    assert host.wait_for(client.service_is_ready)
    future = host.call(lambda: client.call_async(ChangeState.Request(transition=asked)))
    assert host.wait_for(future.done) and not future.result().success
    assert rig.frame()[-1][1:] == (0.01, 0.01)


@pytest.mark.parametrize('kind, path, limit, said', [
    ('Int16', 'data', 40000.0, 'its limit -40000 arrives as 25536 in a std_msgs/msg/Int16'),
    ('Int16', 'data', 3.7, 'its limit -3.7 arrives as -4'),
    ('Float32', 'data', 1e39, 'its limit -1e+39 arrives as -inf'),
    ('UInt8', 'data', 1.0, 'its limit -1 cannot be sent'),
    ('Int16MultiArray', 'data[1]', 40000.0, 'its limit -40000 cannot be sent')])
def test_limits_that_would_not_arrive_as_such_are_refused_before_anything_moves(
        two_room, kind, path, limit, said):
    """A command of 40000 in 16 bits arrived as -25536, the other way; one of 3.7 as 4, beyond its
    limit; and what was below 0 in unsigned bits ended the node in the midst of a drive."""
    field = ActionField(path, -limit, limit)
    spec = dataclasses.replace(two_room, action=dataclasses.replace(
        two_room.action, type=f'std_msgs/msg/{kind}', fields=(field,)))
    with pytest.raises(UserError, match=re.escape(f'action field {path!r}: {said}')):
        check_types(spec, sends=True)
    assert len(check_types(spec)) == 2  # who only listens doesn't mind


def test_limits_that_arrive_but_for_rounding_serve(two_room):
    for kind, limit in (('Float32', 0.1), ('Int8', 127.0), ('Float64', 1e300)):
        spec = dataclasses.replace(two_room, action=dataclasses.replace(
            two_room.action, type=f'std_msgs/msg/{kind}',
            fields=(ActionField('data', -limit, limit),)))
        assert check_types(spec, sends=True)[1].__name__ == kind


@pytest.mark.parametrize('way_out', [('deactivate',), ('deactivate', 'cleanup'), ('shutdown',)])
def test_a_plan_that_ends_after_the_drive_moves_nothing(host, agent, way_out):
    """Whatever ends the drive, a search still runs in its thread: its plan comes to nothing."""
    rig = Rig(host, agent).goal()
    rig.frame()
    agent.gate.clear()
    rig.frame(stamp=START + 100 * TICK, wait=False)     # begins an episode, waits for its plan
    assert host.wait_for(lambda: rig.node._driver.waiting)
    threading.Timer(0.3, agent.gate.set).start()        # letting go waits for the thread
    for step in way_out:
        host.call(getattr(rig.node, f'trigger_{step}'))
    assert agent.gate.wait(5)
    time.sleep(0.2)
    assert host.wait_for(lambda: rig.robot.values[-1] == SAFE)


def test_a_goal_file_of_another_size_is_refused_by_its_name(two_room, tmp_path):
    """The sentence was about the camera's driver, which had nothing to do with it."""
    cv2.imwrite(str(tmp_path / 'small.png'), np.zeros((32, 32, 3), np.uint8))
    with pytest.raises(UserError, match='small.png.* is 32x32, but the camera publishes 64x64'):
        read_goal(str(tmp_path / 'small.png'), two_room.camera)


def jpeg(*, orientation=None):
    """A JPEG of the camera's size, bright above and dark below."""
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:32] = 200
    data = cv2.imencode('.jpg', pixels)[1].tobytes()
    if orientation is None:
        return data
    exif = b'Exif\0\0II*\0' + struct.pack('<IHHHIHHI', 8, 1, 0x112, 3, 1, orientation, 0, 0)
    return data[:2] + b'\xff\xe1' + struct.pack('>H', len(exif) + 2) + exif + data[2:]


def test_a_goal_file_is_seen_as_the_camera_is_whatever_its_exif_says(two_room, tmp_path):
    """The bytes of a camera's own picture, kept in a file, became a goal upside down: OpenCV turns
    what the file says is turned, and live pictures are taken as they lie."""
    data = jpeg(orientation=3)
    (tmp_path / 'goal.jpg').write_bytes(data)
    live = picture(CompressedImage(data=data, format='jpeg'), two_room.camera)
    assert live[0].mean() > 190 and live[-1].mean() < 10
    assert np.array_equal(read_goal(str(tmp_path / 'goal.jpg'), two_room.camera), live)


def test_a_goal_file_that_is_cut_off_is_refused(two_room, tmp_path):
    """A half-copied picture became a goal whose lower part was grey."""
    (tmp_path / 'goal.jpg').write_bytes(jpeg()[:-60])
    with pytest.raises(UserError, match='goal.jpg.* is not a whole image'):
        read_goal(str(tmp_path / 'goal.jpg'), two_room.camera)
