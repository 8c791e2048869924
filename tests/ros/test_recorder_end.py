"""The end of a recording while the robot goes on publishing; a topic that is named twice."""

from __future__ import annotations

import threading

import pytest
from ros_toys import image
from rosbags.highlevel import AnyReader
from std_msgs.msg import Bool
from test_recorder import START, TICK, Driver, recorder, stop

import lewm_ros.recorder
from lewm_core.types import UserError
from lewm_ros.bag_writer import BagWriter


def test_a_camera_that_goes_on_does_not_keep_the_recorder_from_its_end(host, tmp_path):
    """Ctrl-C took ten seconds beside any camera: the end was waited for until nothing came for a
    while, and a robot's camera never falls silent. People then pressed it again."""
    recorder(host, tmp_path, robot='', topics=['/camera/image_raw'])
    driver = host.add(Driver)
    assert host.wait_for(lambda: driver.out['/camera/image_raw'].get_subscription_count())
    over, sent = threading.Event(), []

    def film():
        while len(sent) < 600 and not over.wait(0.01):
            sent.append(driver.out['/camera/image_raw'].publish(image(START + len(sent) * TICK)))

    camera = threading.Thread(target=film)
    camera.start()
    assert host.wait_for(lambda: driver.counts.get('/camera/image_raw', 0) > 5)
    response = stop(host, driver)
    over.set()
    camera.join()
    assert response.success and len(sent) < 600


def test_a_full_disk_ends_the_recording_with_a_sentence(tmp_path, monkeypatch):
    """It was a traceback, and a second one when the bag was to be finished all the same."""
    bag = BagWriter(tmp_path / 'bag')
    bag.add_topic('/episode', 'std_msgs/msg/Header')
    monkeypatch.setattr(bag._writer.storage, 'bio', open('/dev/full', 'wb', buffering=0))
    with pytest.raises(UserError, match="bag' cannot be written any further .No space left"):
        for stamp in range(10**6):
            bag.write('/episode', stamp, bytes(1000))


def test_a_topic_that_is_named_twice_is_recorded_once(host, tmp_path):
    """A spec says odom and `topics` /odom: each message was in the bag twice."""
    recorder(host, tmp_path, topics=['/odom', 'odom'])
    driver = host.add(Driver)
    odom = driver.out['/odom']
    assert host.wait_for(driver.ready)
    for _ in range(3):
        host.call(lambda: odom.publish(odom.msg_type()))
    assert stop(host, driver).success
    with AnyReader([tmp_path / 'bag']) as bag:
        assert bag.topics['/odom'].msgcount == 3


def test_a_disk_that_is_full_at_the_end_is_said_as_one_that_is_full_before(tmp_path, monkeypatch):
    """A short recording meets the disk as it is finished: `~/stop` answered '[Errno 28] No space
    left on device', without a word of which bag, and of what can be rescued.
    """
    bag = BagWriter(tmp_path / 'bag')
    bag.add_topic('/episode', 'std_msgs/msg/Header')
    bag.write('/episode', 1, bytes(1000))
    monkeypatch.setattr(bag._writer.storage, 'bio', open('/dev/full', 'wb', buffering=0))
    with pytest.raises(UserError, match=r"bag' .*No space left.*rescue what is in .*partial-"):
        bag.close()
    assert not (tmp_path / 'bag').exists()


def test_a_late_topic_of_a_type_that_is_not_installed_does_not_end_a_recording(
        host, tmp_path, monkeypatch):
    """One that was there from the start should: nothing is lost by it. But a drive ended in the
    middle when such a publisher came."""
    def message_class(type):
        if type == 'std_msgs/msg/Bool':
            raise UserError('message type is not installed; install its package')
        return installed(type)

    installed = lewm_ros.recorder.message_class
    monkeypatch.setattr(lewm_ros.recorder, 'message_class', message_class)
    node, driver = recorder(host, tmp_path, robot='', topics=['/odom', '/late']), host.add(Driver)
    odom = driver.out['/odom']
    assert host.wait_for(odom.get_subscription_count)
    host.call(lambda: odom.publish(odom.msg_type()))
    assert host.wait_for(lambda: driver.counts.get('/odom') == 1)
    host.call(lambda: driver.create_publisher(Bool, '/late', 10))
    assert host.wait_for(lambda: node._topics[1].type == 'std_msgs/msg/Bool')
    host.call(lambda: odom.publish(odom.msg_type()))
    assert host.wait_for(lambda: driver.counts['/odom'] == 2) and stop(host, driver).success
