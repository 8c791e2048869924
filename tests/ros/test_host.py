"""Nodes inside a plain Python process."""

from __future__ import annotations

import threading

import pytest
import rclpy
from rclpy.node import Node
from std_msgs.msg import String

from lewm_ros.host import Host
from lewm_ros.node import BasicNode


class Talker(BasicNode):
    def __init__(self, **kwargs):
        super().__init__('talker', **kwargs)
        self.pub = self.create_publisher(String, 'words', 10)
        self.started = self.stopped = False
        self.threads = []

    def start(self):
        self.started = True
        self.threads.append(threading.current_thread())

    def stop(self):
        self.stopped = True
        self.threads.append(threading.current_thread())


def test_two_nodes_talk_in_one_host(host):
    heard = []
    ear = host.add(lambda **kw: Node('ear', **kw))
    host.call(lambda: ear.create_subscription(String, 'words', heard.append, 10))
    talker = host.add(Talker)
    assert host.wait_for(lambda: talker.pub.get_subscription_count() == 1)
    host.call(lambda: talker.pub.publish(String(data='hello')))
    assert host.wait_for(lambda: heard) and heard[0].data == 'hello'


def test_remaps_names_and_namespaces_reach_the_node(host):
    talker = host.add(Talker, remaps={'words': '/said'}, namespace='left', name='speaker')
    assert talker.pub.topic_name == '/said'
    assert talker.get_fully_qualified_name() == '/left/speaker'


def test_start_and_stop_run_in_the_executors_thread():
    with Host() as host:
        talker = host.add(Talker)
        assert talker.started and not talker.stopped
    assert talker.stopped and len(set(talker.threads)) == 1
    assert talker.threads[0] is not threading.current_thread()


def test_the_global_context_is_left_alone():
    before = rclpy.ok()
    with Host() as host:
        host.add(Talker)
        assert rclpy.ok() == before
    assert rclpy.ok() == before


def test_hosts_in_different_domains_do_not_hear_each_other():
    with Host(domain_id=102) as one, Host(domain_id=103) as other:
        talker = one.add(Talker)
        ear = other.add(lambda **kw: Node('ear', **kw))
        other.call(lambda: ear.create_subscription(String, 'words', print, 10))
        assert not one.wait_for(lambda: talker.pub.get_subscription_count(), 0.5)


def test_what_a_call_raises_comes_to_the_caller_and_the_host_goes_on(host):
    with pytest.raises(ZeroDivisionError):
        host.call(lambda: 1 / 0)
    assert host.call(lambda: 42) == 42


def test_what_a_callback_raises_stops_the_nodes_and_is_raised_on_leaving():
    with pytest.raises(ZeroDivisionError):
        with Host() as host:
            talker = host.add(Talker)
            host.call(lambda: talker.steady_timer(0.01, lambda: 1 / 0))
            with pytest.raises(ZeroDivisionError):
                host.wait_for(lambda: False)
    assert talker.stopped
