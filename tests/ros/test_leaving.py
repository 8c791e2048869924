"""How a node leaves its domain: at once, and without waiting for ever."""

from __future__ import annotations

import gc
import time

import pytest
import rclpy
from rclpy.context import Context
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from std_msgs.msg import String

from lewm_ros import leaving
from lewm_ros.host import Host
from lewm_ros.leaving import leave, stop_discovery
from lewm_ros.node import ManagedNode


@pytest.fixture
def node():
    """Makes nodes by name, each in a context of its own."""
    contexts = []

    def make(name):
        contexts.append(Context())
        rclpy.init(args=[], context=contexts[-1], signal_handler_options=SignalHandlerOptions.NO)
        return Node(name, context=contexts[-1], use_global_arguments=False)

    yield make
    for context in contexts:
        rclpy.shutdown(context=context)


def seen(node, name, wanted=True, timeout_s=10.0):
    """Whether a node comes to see another, or to see it no more."""
    deadline = time.monotonic() + timeout_s
    while (name in node.get_node_names()) != wanted and time.monotonic() < deadline:
        time.sleep(0.01)
    return (name in node.get_node_names()) == wanted


def test_a_participant_that_leaves_waits_for_no_discovery(node):
    """The listener is taken away with a time limit before Fast DDS does so without one.

    `make test` once stood still here for ever: Fast DDS of the wheels spins, with Python's lock
    held, where a participant ends while another is being discovered. Whether the listener is gone
    can be seen: who leaves doesn't notice a newcomer's topic that a third one sees.
    """
    if leaving.get_rmw_implementation_identifier() != 'rmw_fastrtps_cpp':
        pytest.skip('the middleware is not Fast DDS')
    leaver, watcher = node('leaver'), node('watcher')
    assert seen(leaver, 'watcher') and seen(watcher, 'leaver')
    heard = {}

    def destroy():
        newcomer = node('newcomer')
        newcomer.create_publisher(String, 'news', 1)
        deadline = time.monotonic() + 10.0
        while not watcher.count_publishers('news') and time.monotonic() < deadline:
            time.sleep(0.01)
        heard.update((n.get_name(), n.count_publishers('news')) for n in (watcher, leaver))
        leave(newcomer)
        Node.destroy_node(leaver)

    leaver.destroy_node = destroy
    leave(leaver)
    assert heard == {'watcher': 1, 'leaver': 0}
    assert seen(watcher, 'leaver', wanted=False)
    leave(watcher)


def test_another_middleware_is_left_alone(node, monkeypatch):
    monkeypatch.setattr(leaving, 'get_rmw_implementation_identifier', lambda: 'rmw_cyclonedds_cpp')
    leaver, watcher = node('leaver'), node('watcher')
    assert seen(watcher, 'leaver')
    assert not stop_discovery(leaver)
    leave(leaver)
    assert seen(watcher, 'leaver', wanted=False)
    leave(watcher)


@pytest.mark.parametrize('name', ['_PARTICIPANT', '_SET_LISTENER'])
def test_another_version_of_the_middleware_is_left_alone(node, monkeypatch, name):
    monkeypatch.setattr(leaving, name, '_Z5gone1v')
    leaver = node('leaver')
    assert not stop_discovery(leaver)
    leave(leaver)


def test_a_lifecycle_node_leaves_when_it_is_destroyed_not_when_it_is_collected(node):
    """rclpy's state machine kept the node in its domain until the next garbage collection."""
    watcher = node('watcher')
    gc.disable()
    try:
        with Host() as host:
            kept = host.add(lambda **words: ManagedNode('passing', **words),
                            parameters={'autostart': False})
            assert seen(watcher, 'passing')
        assert seen(watcher, 'passing', wanted=False)
    finally:
        gc.enable()
    assert kept.exit_code is None  # it is still referred to
    leave(watcher)


def test_a_node_whose_constructor_raised_leaves_with_its_host(node):
    class Broken(ManagedNode):
        def __init__(self, **kwargs):
            super().__init__('broken', **kwargs)
            raise ValueError('no camera')

    watcher = node('watcher')
    gc.disable()
    try:
        with Host() as host:
            with pytest.raises(ValueError, match='no camera'):
                host.add(Broken)
            assert seen(watcher, 'broken')
        assert seen(watcher, 'broken', wanted=False)
    finally:
        gc.enable()
    leave(watcher)
