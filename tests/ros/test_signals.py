"""A node ends, safely, with whoever launched it."""

from __future__ import annotations

import subprocess
import sys

import pytest
from rclpy.node import Node
from std_msgs.msg import String
from test_node import CHILD

from lewm_ros.signals import LAUNCHER

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
