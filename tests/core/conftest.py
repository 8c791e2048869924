"""A toy world for the tests: a square that moves as it is told, seen from above."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from lewm_core.config import ModelConfig
from lewm_core.data import Dataset, DatasetWriter
from lewm_core.model import WorldModel
from lewm_core.robot import ActionField, ActionSpec, Camera, RobotSpec, StateField, StateSpec

SIZE = 16


def toy_spec(**changes: object) -> RobotSpec:
    """A robot that moves in two dimensions under a 16x16 camera, at 10 Hz."""
    fields = tuple(ActionField(f'twist.linear.{axis}', -0.4, 0.4, unit='m/s') for axis in 'xy')
    state = StateSpec('odom', 'nav_msgs/msg/Odometry', tuple(
        StateField(f'pose.pose.position.{axis}', axis, 'm') for axis in 'xy'))
    tree = dict(name='toy', rate_hz=10.0, state=(state,),
                cameras=(Camera('top', 'camera/image_raw', SIZE, SIZE),),
                action=ActionSpec('cmd_vel', 'geometry_msgs/msg/TwistStamped', fields))
    return RobotSpec(**(tree | changes))


def toy_episode(rng: np.random.Generator, frames: int
                ) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Pixels, actions, stamps and states of one episode: position += action / 10."""
    actions = np.repeat(rng.uniform(-0.4, 0.4, (frames // 4 + 1, 2)), 4, axis=0)[:frames]
    path = [rng.uniform(0.1, 0.9, 2)]
    for action in actions[:-1]:
        path.append(np.clip(path[-1] + action * 0.1, 0.05, 0.95))
    path = np.array(path)
    grid = (np.arange(SIZE) + 0.5) / SIZE
    far = np.hypot(grid[None, None, :] - path[:, 0, None, None],
                   grid[None, :, None] - path[:, 1, None, None])
    ink = np.clip((0.12 - far) * SIZE + 0.5, 0, 1)[..., None]
    pixels = (ink * (220, 40, 40) + (1 - ink) * (240, 240, 235)).astype(np.uint8)
    stamps = np.arange(frames) * 100_000_000 + int(rng.integers(10**9)) * 10**6
    return pixels, actions, stamps, {'x': path[:, 0], 'y': path[:, 1]}


@pytest.fixture(scope='session')
def robot() -> RobotSpec:
    """The toy robot's spec."""
    return toy_spec()


@pytest.fixture(scope='session')
def episode() -> Callable:
    """Makes an episode: `episode(rng, frames)`."""
    return toy_episode


@pytest.fixture(scope='session')
def record(robot: RobotSpec) -> Callable[..., Dataset]:
    """Records episodes of the given lengths: `record(path, lengths, seed=0)`."""
    def make(path: Path, lengths: list[int], seed: int = 0, **options: object) -> Dataset:
        rng = np.random.default_rng(seed)
        with DatasetWriter(path, robot, **options) as writer:
            for frames in lengths:
                writer.add_episode(*toy_episode(rng, frames))
        return Dataset.open(path)
    return make


@pytest.fixture(scope='session')
def recording(record: Callable, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Twenty episodes of sixty frames."""
    return record(tmp_path_factory.mktemp('recording') / 'data.h5', [60] * 20)


@pytest.fixture(scope='session')
def toy_model() -> ModelConfig:
    """A model for the toy robot: a step of sixteen windows takes milliseconds."""
    return ModelConfig(name='toy', encoder='conv', image_size=SIZE, frameskip=3, latent_dim=8,
                       conv_channels=(8, 16, 32), projector_hidden=64, action_mlp=32,
                       predictor_depth=1, predictor_width=32, predictor_heads=2,
                       predictor_head_dim=16, predictor_mlp=64, dropout=0.1,
                       sigreg_projections=64)


@pytest.fixture
def small_model_with(robot: RobotSpec, toy_model: ModelConfig) -> Callable[..., WorldModel]:
    """Builds an untrained model for the toy robot: `small_model_with(history=2)`."""
    def make(**changes: object) -> WorldModel:
        torch.manual_seed(0)
        return WorldModel(dataclasses.replace(toy_model, **changes), robot)
    return make


@pytest.fixture
def small_model(small_model_with: Callable[..., WorldModel]) -> WorldModel:
    """An untrained model for the toy robot."""
    return small_model_with()


@pytest.fixture
def moved(small_model_with: Callable[..., WorldModel]) -> Callable[..., WorldModel]:
    """Builds a model whose every tensor is moved: a new one's modulation is zero."""
    def make(**changes: object) -> WorldModel:
        model = small_model_with(**changes).eval()
        draw = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for name, tensor in model.state_dict().items():
                if tensor.is_floating_point():
                    noise = 0.2 * torch.randn(tensor.shape, generator=draw)
                    tensor.add_(noise.abs() if name.endswith(('var', 'std')) else noise)
        return model
    return make
