"""The recorder over DDS: everything published is in the bag, which is whole or not there."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from bag_toys import START, TICK, S
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import Twist, TwistStamped
from nav_msgs.msg import Odometry
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from ros_toys import LATCHED, image
from rosbags.highlevel import AnyReader
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from std_srvs.srv import Trigger

from lewm_core.types import UserError
from lewm_ros.bag_writer import BagWriter
from lewm_ros.bags import convert
from lewm_ros.fields import make_command, set_stamp
from lewm_ros.recorder import Recorder

ROOT = Path(__file__).resolve().parents[2]
ROBOT = str(ROOT / 'config' / 'robot' / 'two_room.yaml')
TOPICS = ('/camera/image_raw', '/cmd_vel', '/odom', '/episode')


class Driver(Node):
    """Publishes what the two_room spec names, and hears the recorder's counts."""

    def __init__(self, qos=QoSProfile(depth=2000), **kwargs):
        super().__init__('driver', **kwargs)
        self.out = {name: self.create_publisher(kind, name, qos) for name, kind in zip(
            TOPICS, (Image, TwistStamped, Odometry, Header))}
        self.statuses = {}
        self.create_subscription(DiagnosticArray, 'recorder/recorded', self._hear, LATCHED)
        self.stopper = self.create_client(Trigger, 'recorder/stop')

    def _hear(self, message):
        self.statuses = {s.name: s for s in message.status}

    @property
    def counts(self):
        return {name: int(s.values[0].value) for name, s in self.statuses.items()}

    def ready(self):
        """Whether both sides know each other on every topic."""
        return (all(p.get_subscription_count() for p in self.out.values())
                and len(self.statuses) == len(self.out)
                and all(s.level == DiagnosticStatus.OK for s in self.statuses.values()))

    def drive(self, spec, frames, start=START):
        """Publishes `frames` frames, commands and odometry, and the episode's marker."""
        marker = Header()
        set_stamp(marker.stamp, start)
        self.out['/episode'].publish(marker)
        for k in range(frames):
            stamp = start + k * TICK
            odometry = Odometry()
            set_stamp(odometry.header.stamp, stamp)
            self.out['/odom'].publish(odometry)
            self.out['/camera/image_raw'].publish(image(stamp, k % 256))
            self.out['/cmd_vel'].publish(make_command(TwistStamped, spec, [k / 1e4, 0.0], stamp))


def recorder(host, tmp_path, **parameters):
    return host.add(Recorder, parameters={'output': str(tmp_path / 'bag'), 'robot': ROBOT,
                                          **parameters})


def stop(host, driver):
    """The response of ~/stop."""
    assert host.wait_for(driver.stopper.service_is_ready)
    future = host.call(lambda: driver.stopper.call_async(Trigger.Request()))
    assert host.wait_for(future.done, 30)
    return future.result()


def test_everything_published_is_in_the_bag_and_becomes_a_dataset(host, tmp_path, two_room):
    node, driver = recorder(host, tmp_path), host.add(Driver)
    assert host.wait_for(driver.ready)
    host.call(lambda: driver.drive(two_room, 300))
    expected = {**dict.fromkeys(TOPICS, 300), '/episode': 1}
    assert host.wait_for(lambda: driver.counts == expected)
    response = stop(host, driver)
    assert response.success and str(tmp_path / 'bag') in response.message
    assert host.wait_for(lambda: node.exit_code is not None) and node.exit_code == 0
    assert all(s.message == 'finished' for s in driver.statuses.values())
    assert [p.name for p in tmp_path.iterdir()] == ['bag']
    report = convert([tmp_path / 'bag'], two_room, tmp_path / 'data.h5')
    assert (report.frames, report.episodes, report.timeouts) == (300, 1, 0)


def test_a_compressed_bag_is_smaller_and_reads_alike(host, tmp_path, two_room):
    recorder(host, tmp_path, compress=True)
    driver = host.add(Driver)
    assert host.wait_for(driver.ready)
    host.call(lambda: driver.drive(two_room, 50))
    assert host.wait_for(lambda: driver.counts['/cmd_vel'] == 50)
    assert stop(host, driver).success
    assert (tmp_path / 'bag' / 'bag.mcap').stat().st_size < 50 * 12288 / 10
    assert convert([tmp_path / 'bag'], two_room, tmp_path / 'data.h5').frames == 50


def test_each_message_carries_its_source_stamp_and_describes_itself(host, tmp_path, two_room):
    recorder(host, tmp_path)
    driver = host.add(Driver)
    assert host.wait_for(driver.ready)
    before = time.time_ns()
    host.call(lambda: driver.drive(two_room, 20))
    after = time.time_ns()
    assert host.wait_for(lambda: driver.counts['/cmd_vel'] == 20)
    assert stop(host, driver).success
    with AnyReader([tmp_path / 'bag']) as reader:  # without a store of types to fall back on
        heard = {name: [] for name in TOPICS}
        for connection, log_ns, raw in reader.messages():
            heard[connection.topic].append((log_ns, reader.deserialize(raw, connection.msgtype)))
        assert {c.ext.offered_qos_profiles[0].reliability.name
                for c in reader.connections} == {'RELIABLE'}
    logs = [log for log, _ in heard['/cmd_vel']]
    assert before <= logs[0] and logs[-1] <= after and logs == sorted(logs)
    assert [m.twist.linear.x for _, m in heard['/cmd_vel']] == [k / 1e4 for k in range(20)]
    assert [int(m.data[0]) for _, m in heard['/camera/image_raw']] == list(range(20))


def test_a_recorder_that_stalls_loses_nothing_within_its_depth(host, tmp_path, two_room):
    node = recorder(host, tmp_path)
    driver = host.add(Driver)
    assert host.wait_for(driver.ready)

    def drive_while_nobody_listens():
        # In the thread that also serves the recorder, which hears nothing until this ends.
        driver.drive(two_room, 900)

    host.call(drive_while_nobody_listens)
    assert host.wait_for(lambda: node.counts['/camera/image_raw'] == 900, 20)
    assert host.wait_for(lambda: node.counts['/cmd_vel'] == 900)
    assert stop(host, driver).success


def test_the_publishers_reliability_is_taken_over(host, tmp_path):
    best_effort = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)
    node = recorder(host, tmp_path, robot='', topics=['go', 'see'])
    driver = host.add(lambda **kwargs: Node('driver', **kwargs))
    host.call(lambda: (driver.create_publisher(Twist, 'go', 10),
                       driver.create_publisher(Image, 'see', best_effort)))
    assert host.wait_for(lambda: all(t.matched for t in node._topics))
    profiles = {t.name: t.subscription.qos_profile for t in node._topics}
    assert profiles['/go'].reliability == ReliabilityPolicy.RELIABLE
    assert profiles['/see'].reliability == ReliabilityPolicy.BEST_EFFORT
    assert all(p.depth >= 1000 for p in profiles.values())
    # A second publisher that is best effort would not be heard by a reliable subscription.
    late = host.call(lambda: driver.create_publisher(Twist, 'go', best_effort))
    assert host.wait_for(late.get_subscription_count)
    assert host.wait_for(lambda: driver.count_subscribers('go') == 1)
    host.call(lambda: late.publish(Twist()))
    assert host.wait_for(lambda: node.counts['/go'] == 1)


def test_a_topic_is_waited_for_until_its_publisher_comes(host, tmp_path):
    recorder(host, tmp_path, robot='', topics=['go'])
    driver = host.add(Driver)
    assert host.wait_for(lambda: '/go' in driver.statuses)
    assert driver.statuses['/go'].level == DiagnosticStatus.STALE
    assert driver.statuses['/go'].message == 'waiting for a publisher'
    host.call(lambda: driver.create_publisher(Twist, 'go', 10))
    assert host.wait_for(lambda: driver.statuses['/go'].level == DiagnosticStatus.OK)


def test_a_recorder_that_heard_nothing_says_so_and_leaves_nothing(host, tmp_path):
    node, driver = recorder(host, tmp_path), host.add(Driver)
    response = stop(host, driver)
    assert not response.success and 'nothing was recorded' in response.message
    assert host.wait_for(lambda: node.exit_code is not None) and node.exit_code == 1
    assert not list(tmp_path.iterdir())


def test_a_publisher_of_another_type_is_refused_with_both_types(tmp_path):
    from lewm_ros.host import Host
    with pytest.raises(UserError, match=r'published as \[.geometry_msgs/msg/Twist.\], but '
                                        r'geometry_msgs/msg/TwistStamped is expected'):
        with Host() as host:
            driver = host.add(lambda **kwargs: Node('driver', **kwargs))
            host.call(lambda: driver.create_publisher(Twist, 'cmd_vel', 10))
            recorder(host, tmp_path)
            host.wait_for(lambda: False, 20)


@pytest.mark.parametrize('parameters, expected', [
    ({'output': ''}, 'output is empty'), ({'robot': ''}, 'neither robot nor topics'),
    ({'robot': 'nobody'}, "robot='nobody'"), ({'depth': 10}, 'depth'),
    ({'output': __file__}, 'exists already')])
def test_wrong_parameters_are_refused_with_a_sentence(host, tmp_path, parameters, expected):
    with pytest.raises(UserError, match=expected):
        recorder(host, tmp_path, **parameters)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def process(tmp_path, child_environment):
    """Starts recorder processes that write to tmp_path/bag; ends those that are left."""
    started = []

    def start():
        found = subprocess.Popen(
            [sys.executable, '-m', 'lewm_ros.recorder', '--ros-args', '-p',
             f'output:={tmp_path / "bag"}', '-p', f'robot:={ROBOT}'],
            env=child_environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        started.append(found)
        return found

    yield start
    for found in started:
        found.kill()
        found.wait()


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_bag(host, process, tmp_path, two_room, number):
    driver, child = host.add(Driver), process()
    assert host.wait_for(driver.ready, 30)
    host.call(lambda: driver.drive(two_room, 50))
    assert host.wait_for(lambda: driver.counts['/cmd_vel'] == 50)
    child.send_signal(number)
    assert child.wait(30) == 0, child.stdout.read()
    assert [p.name for p in tmp_path.iterdir()] == ['bag']
    with AnyReader([tmp_path / 'bag']) as reader:
        assert reader.message_count == 151


def test_a_killed_recorder_leaves_only_the_partial_bag_and_the_next_one_says_so(
        host, process, tmp_path, two_room):
    driver, child = host.add(Driver), process()
    assert host.wait_for(driver.ready, 30)
    host.call(lambda: driver.drive(two_room, 50))
    assert host.wait_for(lambda: driver.counts['/cmd_vel'] == 50)
    child.kill()
    child.wait()
    (left,) = tmp_path.iterdir()
    assert left.name == f'bag.partial-{child.pid}'
    with pytest.raises(UserError, match='interrupted recording'):
        convert([left], two_room, tmp_path / 'data.h5')
    bag = BagWriter(tmp_path / 'bag')
    assert bag.leftovers() == [left]
    bag.abort()
    driver.statuses = {}
    second = process()
    assert host.wait_for(driver.ready, 30)
    second.send_signal(signal.SIGINT)
    assert second.wait(30) == 1  # nothing came
    text = second.stdout.read()
    assert f'an interrupted recording left {str(left)!r}' in text and 'mcap recover' in text


def test_overwrite_replaces_a_bag_only_when_the_new_one_is_whole(tmp_path):
    old = tmp_path / 'bag'
    for value in ('first', 'second'):
        bag = BagWriter(old, overwrite=value == 'second')
        bag.add_topic('/note', 'std_msgs/msg/String')
        bag.write('/note', S, b'\0\1\0\0' + (len(value) + 1).to_bytes(4, 'little')
                  + value.encode() + b'\0')
        if value == 'second':
            assert note(old) == 'first'
        bag.close()
        assert note(old) == value
    assert [p.name for p in tmp_path.iterdir()] == ['bag']


def note(path):
    with AnyReader([path]) as reader:
        ((connection, _, raw),) = reader.messages()
        return reader.deserialize(raw, connection.msgtype).data


def test_a_type_of_an_installed_package_is_described_from_its_files(tmp_path, monkeypatch):
    folder = tmp_path / 'prefix' / 'share' / 'toy_msgs' / 'msg'
    folder.mkdir(parents=True)
    (folder / 'Arm.msg').write_text('std_msgs/Header header\nJoint[] joints\n')
    (folder / 'Joint.msg').write_text('float64 angle\n')
    monkeypatch.setenv('AMENT_PREFIX_PATH', str(tmp_path / 'prefix'))
    bag = BagWriter(tmp_path / 'bag')
    bag.add_topic('/arm', 'toy_msgs/msg/Arm')
    bag.write('/arm', S, b'\0\1\0\0' + bytes(8) + b'\1\0\0\0\0\0\0\0' + bytes(4))
    bag.close()
    with AnyReader([tmp_path / 'bag']) as reader:
        assert [name for name, _ in reader.typestore.fielddefs['toy_msgs/msg/Arm'][1]] == [
            'header', 'joints']
        assert 'toy_msgs/msg/Joint' in reader.typestore.fielddefs
    other = BagWriter(tmp_path / 'other')
    with pytest.raises(UserError, match="'nobody_msgs/msg/Thing' has no definition"):
        other.add_topic('/thing', 'nobody_msgs/msg/Thing')
    other.abort()
