"""Toys for the evaluation's tests: a model that sees where the disc is, and knows how it moves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from lewm_core.checkpoint import Checkpoint
from lewm_core.config import DataConfig, ModelConfig, PlannerConfig
from lewm_core.data import Dataset, DatasetWriter
from lewm_core.envs import make_world
from lewm_core.evaluation.drives import drive
from lewm_core.evaluation.subject import Subject, find_world
from lewm_core.jobs import EvaluateJob
from lewm_core.model import LatentDynamics
from lewm_core.paths import load_robot


class Seer(LatentDynamics):
    """Latent = the mean place of what is red, in arena sides, and how much of it there is.

    It predicts as if there were no walls.
    """

    def __init__(self, spec):
        super().__init__()
        self.config = ModelConfig(name='seer', encoder='conv', conv_channels=(4, 4),
                                  image_size=64, frameskip=5, latent_dim=3)
        self.spec, self.history = spec, 2
        self.nothing = torch.nn.Parameter(torch.zeros(1))
        self.action_mean, self.action_std = torch.zeros(2), torch.full((2,), 0.25)

    def encode(self, pixels):
        lead, flat = pixels.shape[:-3], pixels.reshape(-1, *pixels.shape[-3:]).float()
        ink = (flat[..., 0] - flat[..., 1:].mean(-1)).clamp(min=20) - 20
        place, total = (torch.arange(64) + 0.5) / 64, ink.sum((1, 2)).clamp(min=1e-3)
        x, y = (ink.sum(1) * place).sum(1) / total, 1 - (ink.sum(2) * place).sum(1) / total
        return torch.stack([x, y, total / 5000], 1).reshape(*lead, 3)

    def embed_actions(self, blocks):
        return blocks.float().sum(-2) / 10

    def predict(self, latents, action_emb):
        step = torch.nn.functional.pad(action_emb, (0, 1))
        return latents + step

    def num_parameters(self):
        return 1


def record_world(path: Path, name: str = 'two_room', episodes: int = 12, blocks: int = 18
                 ) -> Dataset:
    """A dataset of the world's explorer, a frame a tick."""
    spec, world = load_robot(name), make_world(name)
    with DatasetWriter(path, spec, DataConfig(test=0.25)) as writer:
        for episode in range(episodes):
            pixels, actions, states = drive(world, spec, 1, blocks * 5, (7, episode))
            writer.add_episode(pixels, actions[:, 0], np.arange(len(pixels)) * 10**8,
                               {k: np.array([s[k] for s in states]) for k in spec.state_names})
    return Dataset.open(path)


def seeing(dataset: Dataset, output: Path, **settings: object) -> Subject:
    """The seer on `dataset`, with small settings and fresh drives in its world."""
    small = dict(trajectories=16, hours=0.05, calibration_minutes=3.0, calibrations=1, goals=3,
                 windows=60, probe_steps=200, resamples=50, decoder_steps=60, horizon=4, seed=1)
    job = EvaluateJob(Path('model'), dataset.path, output=output, **{**small, **settings})
    planner = PlannerConfig(samples=64, elites=8, iterations=3)
    checkpoint = Checkpoint(Seer(dataset.spec), dataset.spec, DataConfig(test=0.25),
                            planner=planner)
    return Subject(checkpoint, dataset, job, find_world(job.world, dataset))
