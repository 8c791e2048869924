"""A private ROS domain for each test process, and what the ROS tests share."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lewm_ros.fleet import free_domain

# Before rclpy is imported: it reads these when a context is made.
os.environ['ROS_DOMAIN_ID'] = str(free_domain())
os.environ.pop('ROS_LOCALHOST_ONLY', None)

sys.path.insert(0, str(Path(__file__).parent))  # importlib mode leaves it out

from lewm_core.robot import RobotSpec  # noqa: E402
from lewm_ros.host import Host  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def two_room() -> RobotSpec:
    """The demo's robot."""
    return RobotSpec.load(ROOT / 'config' / 'robot' / 'two_room.yaml')


@pytest.fixture
def checkpoint(two_room: RobotSpec, tmp_path: Path) -> str:
    """The path of an untrained toy model for the demo's robot, with a small search."""
    import torch

    from lewm_core.checkpoint import Checkpoint, save_checkpoint
    from lewm_core.config import ModelConfig, PlannerConfig
    from lewm_core.model import WorldModel
    torch.manual_seed(0)
    model = WorldModel(ModelConfig(
        name='toy', encoder='conv', image_size=64, frameskip=3, latent_dim=8, conv_channels=(4, 8),
        projector_hidden=16, action_mlp=16, predictor_depth=1, predictor_width=16,
        predictor_heads=2, predictor_head_dim=8, predictor_mlp=16, dropout=0.0), two_room).eval()
    path = tmp_path / 'model.safetensors'
    save_checkpoint(path, Checkpoint(model, two_room, planner=PlannerConfig(
        samples=16, elites=4, iterations=2, horizon=2)))
    return str(path)


@pytest.fixture
def host() -> Iterator[Host]:
    """A host in this process's private domain; its nodes are stopped after the test."""
    with Host() as made:
        yield made


@pytest.fixture
def child_environment() -> dict[str, str]:
    """The environment for a node in a child process of the same private domain."""
    environment = dict(os.environ)
    environment.pop('_ROS_WHEELS_BOOTSTRAP_COMPLETE', None)
    environment['PYTHONPATH'] = str(ROOT)
    environment['PYTHONUNBUFFERED'] = '1'
    return environment
