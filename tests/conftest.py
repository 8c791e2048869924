"""Every test in a corner of its own: logs, discovery and domain, before rclpy is imported."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile

import pytest

os.environ.setdefault('OMP_NUM_THREADS', '1')  # two wait for each other on a busy machine
os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'
os.environ['ROS_LOG_DIR'] = tempfile.mkdtemp(prefix='lewm_ros_log_')
atexit.register(shutil.rmtree, os.environ['ROS_LOG_DIR'], ignore_errors=True)
# Two runs at once on one machine must not hear each other; 0 is what everybody else uses, and
# domains above 101 meet the ephemeral ports.
os.environ['ROS_DOMAIN_ID'] = str(1 + os.getpid() % 100)


@pytest.fixture(scope='session')
def domain_id() -> int:
    """The DDS domain of this test run."""
    return int(os.environ['ROS_DOMAIN_ID'])
