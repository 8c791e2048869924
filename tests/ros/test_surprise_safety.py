"""What must not silence the watch: each test tells of a way in which it was."""

from __future__ import annotations

import pytest
from geometry_msgs.msg import TwistStamped
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from ros_toys import image
from std_msgs.msg import Float64MultiArray
from surprise_rig import START, TICK, Bench, Rig, ToyMonitor

from lewm_core.robot import RobotSpec
from lewm_ros.surprise_node import SurpriseNode


@pytest.fixture
def monitor(two_room):
    return ToyMonitor(two_room)


def test_a_camera_that_repeats_itself_is_said(host, monitor):
    """A driver that hung went on sending its last picture: no block was scored any more, and the
    node said that it was watching."""
    rig = Rig(host, monitor)
    rig.drive(3)
    timer = host.call(lambda: rig.bench.create_timer(
        0.05, lambda: rig.bench.camera.publish(image(START + 2 * TICK))))
    assert host.wait_for(lambda: 'stamp of the one before' in rig.node.diagnose()[1])
    host.call(timer.cancel)


def test_a_command_that_is_too_short_is_left_out_and_said(host, two_room):
    """An empty array among the commands ended the node that was to say what is odd."""
    tree = two_room.to_dict()
    tree['action'].update(type='std_msgs/msg/Float64MultiArray', topic='numbers')
    for i, each in enumerate(tree['action']['fields']):
        each['path'] = f'data[{i}]'
    node = host.add(SurpriseNode, monitor=ToyMonitor(RobotSpec.from_dict(tree)))
    bench = host.add(Bench)
    numbers = host.call(lambda: bench.create_publisher(Float64MultiArray, 'numbers', 10))
    assert host.wait_for(numbers.get_subscription_count)
    host.call(lambda: (numbers.publish(Float64MultiArray()),
                       numbers.publish(Float64MultiArray(data=[0.1, 0.2]))))
    assert host.wait_for(lambda: node._count['commands'])
    assert node._count['commands_refused'] == 1 and host.error is None


def test_a_driver_that_sends_best_effort_is_heard(host, monitor):
    """It was not, so that the robot was taken to stand still while it drove, and that was an
    alarm; the recorder of the drives that the model learned from had heard such a driver."""
    node = host.add(SurpriseNode, monitor=monitor)
    driver = host.add(Node, node_name='driver')
    commands = host.call(lambda: driver.create_publisher(TwistStamped, 'cmd_vel',
                                                         qos_profile_sensor_data))
    assert host.wait_for(commands.get_subscription_count)
    message = TwistStamped()
    message.header.stamp.sec = 1
    host.call(lambda: commands.publish(message))
    assert host.wait_for(lambda: node._count['commands'] == 1)
    host.call(node.trigger_deactivate)
    assert host.call(node.trigger_cleanup) is TransitionCallbackReturn.SUCCESS
    assert host.wait_for(lambda: not commands.get_subscription_count())
