"""A node ends, safely, with whoever launched it."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading

import pytest
from rclpy.node import Node
from std_msgs.msg import String
from test_node import CHILD

from lewm_ros.signals import LAUNCHER
from lewm_ros.train_from_bags import TrainFromBags

LAUNCH = """
import os, subprocess, sys
os.environ[sys.argv[1]] = str(os.getpid())
subprocess.call([sys.executable, '-c', sys.argv[2], 'run'])
"""


@pytest.fixture
def ear(host):
    heard = []
    node = host.add(Node, node_name='ear')
    host.call(lambda: node.create_subscription(String, 'last', lambda m: heard.append(m.data),
                                               10))
    return heard


def test_a_node_ends_safely_when_its_launch_is_killed(host, child_environment, ear):
    """`ros2 launch` that was killed left its planner behind, and that drove on."""
    launch = subprocess.Popen([sys.executable, '-c', LAUNCH, LAUNCHER, CHILD],
                              env=child_environment, stdout=subprocess.PIPE)
    try:
        assert host.wait_for(lambda: len(ear) > 3, 30)
        launch.kill()
        assert host.wait_for(lambda: ear[-1] == 'safe')
    finally:
        launch.kill()
        launch.communicate()


@pytest.fixture
def training(host, monkeypatch):
    """(node, event): a training that has its checkpoint to write once the event is set."""
    begun, written = threading.Event(), threading.Event()

    def run(job, on_status, should_stop):
        begun.set()
        while not should_stop() or not written.is_set():
            written.wait(0.01)

    monkeypatch.setattr('lewm_ros.bags_run.run', run)
    node = host.add(TrainFromBags, words=['bags=x', 'robot=two_room'])
    assert begun.wait(30)
    yield node, written
    written.set()


def test_a_signal_that_comes_twice_at_once_still_waits_for_the_checkpoint(host, training):
    """A terminal that closes hangs up on a node and on its launch, whose end is a SIGTERM to the
    node: that was taken for somebody's impatience, and the checkpoint was left half written."""
    node, written = training
    host.call(lambda: (node.on_signal(signal.SIGHUP), node.on_signal(signal.SIGTERM)))
    assert node.exit_code is None
    written.set()
    assert host.wait_for(lambda: node.exit_code == 128 + signal.SIGHUP, 30)


def test_a_later_signal_does_not_wait_for_the_checkpoint(host, training, monkeypatch):
    monkeypatch.setattr('lewm_ros.train_from_bags._SAME_S', 0.0)
    node, _ = training
    host.call(lambda: (node.on_signal(signal.SIGINT), node.on_signal(signal.SIGTERM)))
    assert node.exit_code == 128 + signal.SIGTERM
