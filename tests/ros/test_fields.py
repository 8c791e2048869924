"""Dotted fields on rclpy and rosbags messages."""

from __future__ import annotations

import numpy as np
import pytest
from bag_toys import STORE, T, command, odometry
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Twist, TwistStamped
from nav_msgs.msg import Odometry
from sensor_msgs.msg import JointState, Joy
from std_msgs.msg import Float64, Header
from trajectory_msgs.msg import JointTrajectory

from lewm_core.types import UserError
from lewm_ros.fields import (check_fields, check_paths, field_paths, get_action, get_field,
                             make_command, message_class, set_field, stamp_ns, type_name)


def test_a_field_reads_alike_from_rclpy_and_from_rosbags():
    live = TwistStamped()
    live.twist.linear.x = 0.25
    live.header.stamp.sec, live.header.stamp.nanosec = 7, 5
    bag = command(7_000_000_005, 0.25)
    for message in (live, bag):
        assert get_field(message, 'twist.linear.x') == 0.25
        assert stamp_ns(message) == 7_000_000_005
        assert type_name(message) == 'geometry_msgs/msg/TwistStamped'


def test_an_array_element_reads_alike_from_rclpy_and_from_rosbags():
    live = Odometry()
    live.pose.covariance[35] = 2.0
    bag = odometry(0, 1.0)
    bag.pose.covariance[35] = 2.0
    for message in (live, bag):
        assert get_field(message, 'pose.covariance[35]') == 2.0


def test_a_message_without_header_has_stamp_zero_and_a_header_its_own():
    assert stamp_ns(Twist()) == 0
    assert stamp_ns(Header(stamp=Time(sec=3, nanosec=1))) == 3_000_000_001


def test_a_command_made_reads_back_what_was_put_in(two_room):
    message = make_command(TwistStamped, two_room, np.array([0.1, -0.4]), 12_000_000_034)
    assert get_action(message, two_room).tolist() == [0.1, -0.4]
    assert stamp_ns(message) == 12_000_000_034
    again = make_command(TwistStamped, two_room, [0.0, 0.0], message.header.stamp)
    assert stamp_ns(again) == 12_000_000_034


def test_a_command_type_without_header_takes_no_stamp():
    from lewm_core.robot import ActionField, ActionSpec, Camera, RobotSpec
    spec = RobotSpec('toy', 10.0, (Camera('c', 'image', 64, 64),), ActionSpec(
        'go', 'std_msgs/msg/Float64', (ActionField('data', -1.0, 1.0),)))
    assert make_command(Float64, spec, [0.5], 1).data == 0.5


def test_setting_lengthens_sequences_of_numbers_and_of_messages():
    joints = JointState()
    set_field(joints, 'position[2]', 1.5)
    assert list(joints.position) == [0.0, 0.0, 1.5]
    plan = JointTrajectory()
    set_field(plan, 'points[1].velocities[0]', -1.0)
    assert len(plan.points) == 2 and plan.points[1].velocities[0] == -1.0
    joy = Joy()
    set_field(joy, 'buttons[1]', 1.0)
    assert list(joy.buttons) == [0, 1]


def test_setting_beyond_a_fixed_array_is_refused():
    with pytest.raises(UserError, match=r'beyond the end'):
        set_field(Odometry(), 'pose.covariance[36]', 1.0)


def test_a_missing_field_lists_the_numbers_that_are_there():
    for message in (TwistStamped(), command(0, 0.0)):
        with pytest.raises(UserError, match='linear.q'):
            get_field(message, 'twist.linear.q')
    with pytest.raises(UserError, match=r"\['twist.linear.x', 'twist.linear.y'"):
        set_field(TwistStamped(), 'twist.speed', 1.0)


def test_a_field_that_is_no_number_is_refused():
    with pytest.raises(UserError, match='is not a number'):
        get_field(TwistStamped(), 'twist.linear')
    with pytest.raises(UserError, match='beyond the end'):
        get_field(JointState(), 'position[0]')


def test_the_paths_of_a_type_are_alike_from_rclpy_and_from_rosbags():
    for cls in (TwistStamped, Odometry, JointState, JointTrajectory):
        name = type_name(cls)
        assert field_paths(cls) == field_paths(name, STORE)
    assert 'pose.covariance[36]' in field_paths(Odometry)
    assert 'position[]' in field_paths(JointState)
    assert field_paths(T['geometry_msgs/msg/Twist'].__msgtype__, STORE)[0] == 'linear.x'


def test_the_spec_is_checked_against_a_type_before_anything_runs(two_room):
    check_fields(TwistStamped, two_room)
    check_fields('geometry_msgs/msg/TwistStamped', two_room, STORE)
    with pytest.raises(UserError, match=r"'twist.linear.x' is no number of geometry_msgs/msg/"
                                        r"Twist; choose one of \['linear.x'"):
        check_fields(Twist, two_room)


def test_indices_are_checked_where_the_type_fixes_the_length():
    check_paths(JointState, ['position[99]'], 'field')
    check_paths(Odometry, ['pose.covariance[35]'], 'field')
    for path in ('pose.covariance[36]', 'pose.covariance', 'header.stamp.sec'):
        with pytest.raises(UserError, match='is no number of nav_msgs/msg/Odometry'):
            check_paths(Odometry, [path], 'field')


def test_a_type_that_is_not_installed_is_named():
    assert message_class('geometry_msgs/msg/Twist') is Twist
    for name in ('nobody_msgs/msg/Thing', 'geometry_msgs/msg/Thing'):
        with pytest.raises(UserError, match=name):
            message_class(name)
