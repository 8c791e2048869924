"""Evaluation, held against a toy model whose every figure is known."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch

from lewm_core.checkpoint import Checkpoint
from lewm_core.config import DataConfig, ModelConfig, PlannerConfig
from lewm_core.data import Dataset, DatasetWriter
from lewm_core.evaluate import encode_rows, evaluate_checkpoint
from lewm_core.model import LatentDynamics, WorldModel
from lewm_core.types import UserError


class Counter(LatentDynamics):
    """A world that adds up its actions, and a model that knows so: latent = the pixel's value."""

    def __init__(self, spec):
        super().__init__()
        self.config = ModelConfig(frameskip=3, latent_dim=2)
        self.spec, self.history = spec, 3
        self.nothing = torch.nn.Parameter(torch.zeros(1))

    def encode(self, pixels):
        return pixels[..., 0, 0, :2].float()

    def embed_actions(self, blocks):
        return blocks.sum(-2)

    def predict(self, latents, action_emb):
        return latents + action_emb


@pytest.fixture(scope='module')
def counted(robot, tmp_path_factory) -> Dataset:
    """Episodes whose pixels are the sum of the actions before them."""
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp('counted') / 'd.h5'
    with DatasetWriter(path, robot) as writer:
        for _ in range(12):
            actions = rng.integers(-1, 2, (40, 2))
            sums = 100 + np.concatenate([np.zeros((1, 2), int), np.cumsum(actions[:-1], axis=0)])
            pixels = np.zeros((40, 16, 16, 3), np.uint8)
            pixels[..., :2] = sums[:, None, None]
            writer.add_episode(pixels, actions, np.arange(40) * 10**8,
                               {'x': sums[:, 0] * 0.01, 'y': sums[:, 1] * 0.01})
    return Dataset.open(path)


def test_imagination_pairs_each_frame_with_the_actions_that_leave_it(counted, robot):
    checkpoint = Checkpoint(Counter(robot), robot, planner=PlannerConfig(horizon=4))
    result = evaluate_checkpoint(checkpoint, counted)
    assert result.open_loop_error == (0, 0, 0, 0) and result.one_step_skill == 1
    assert all(error > 0 for error in result.still_error)
    assert result.probe_r2_min > 0.9999
    assert max(result.open_loop_rmse['x']) < 1e-3
    assert result.split == 'test' and result.episodes == len(counted.episodes('test'))
    assert result.block_s == pytest.approx(0.3)
    json.dumps(result.to_dict(), allow_nan=False)


def test_standing_still_is_judged_against_what_moved(counted, robot):
    class Still(Counter):
        def predict(self, latents, action_emb):
            return latents
    result = evaluate_checkpoint(Checkpoint(Still(robot), robot), counted)
    assert result.one_step_skill == 0
    np.testing.assert_allclose(result.open_loop_error, result.still_error)


def test_each_split_is_judged_on_its_own_episodes(counted, robot):
    results = {split: evaluate_checkpoint(Checkpoint(Counter(robot), robot), counted, split)
               for split in ('train', 'validation', 'calibration', 'test')}
    assert sum(r.frames for r in results.values()) == len(counted)


def test_the_split_is_that_of_the_checkpoint(counted, robot):
    data = DataConfig(test=0.5)
    result = evaluate_checkpoint(Checkpoint(Counter(robot), robot, data), counted)
    assert result.episodes == 6


def test_episodes_too_short_for_the_horizon_give_no_open_loop_figures(counted, robot):
    checkpoint = Checkpoint(Counter(robot), robot, planner=PlannerConfig(horizon=50))
    result = evaluate_checkpoint(checkpoint, counted)
    assert result.open_loop_error == () and result.one_step_skill is None
    assert result.probe_r2_min > 0.99


def test_a_dataset_of_another_robot_is_a_user_error(counted, robot):
    other = dataclasses.replace(robot, name='other', rate_hz=20.0)
    with pytest.raises(UserError, match="is for robot 'other'"):
        evaluate_checkpoint(Checkpoint(Counter(other), other), counted)


def test_a_split_without_frames_is_a_user_error(counted, robot):
    checkpoint = Checkpoint(Counter(robot), robot, DataConfig(test=0.0))
    with pytest.raises(UserError, match='has 0 frames in its test episodes'):
        evaluate_checkpoint(checkpoint, counted)


def test_latents_come_in_the_order_of_the_rows(recording, robot, toy_model):
    model = WorldModel(toy_model, robot).eval()
    rows = np.array([[70, 3], [500, 3]])
    latents = encode_rows(model, recording, rows)
    assert latents.shape == (2, 2, 8) and latents.dtype == np.float32
    np.testing.assert_allclose(latents[0, 1], latents[1, 1], atol=1e-6)
    one = model.encode(torch.from_numpy(recording.pixels[500:501].copy()))
    np.testing.assert_allclose(latents[1, 0], one[0].detach(), atol=1e-5)
