"""A world whose latent is where the robot is: its picture is its place."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from lewm_core.config import ModelConfig, PlannerConfig
from lewm_core.model import LatentDynamics
from lewm_core.robot import RobotSpec

SPEC = RobotSpec.from_dict({
    'name': 'toy', 'rate_hz': 10.0,
    'cameras': [{'name': 'top', 'topic': 'image', 'width': 8, 'height': 8}],
    'action': {'topic': 'cmd', 'type': 'geometry_msgs/msg/TwistStamped', 'fields': [
        {'path': 'twist.linear.x', 'min': -1.0, 'max': 0.5},
        {'path': 'twist.linear.y', 'min': -1.0, 'max': 1.0}]}})
FRAMESKIP = 5


class ToyModel(LatentDynamics):
    """The picture's first pixel is the place; a block moves it by the sum of its actions."""

    history = 3
    config = ModelConfig(frameskip=FRAMESKIP, history=3)

    def __init__(self):
        super().__init__()
        self.register_buffer('action_mean', torch.zeros(2))
        self.register_buffer('action_std', torch.full((2,), 0.5))
        self.seen = []

    def encode(self, pixels):
        return (pixels[..., 0, 0, :2].float() - 128) / 4

    def embed_actions(self, blocks):
        return blocks.sum(-2)

    def predict(self, latents, action_emb):
        return latents + action_emb

    def rollout(self, latents, past, actions):
        self.seen.append((latents.clone(), past.clone()))
        return super().rollout(latents, past, actions)


@dataclass
class ToyCheckpoint:
    model: ToyModel
    spec: RobotSpec = SPEC
    planner: PlannerConfig = PlannerConfig(samples=100, elites=10, iterations=6, horizon=3)
    heads: dict = field(default_factory=dict)
    metrics: dict = field(default_factory=dict)


def picture(place):
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[0, 0, :2] = np.round(np.asarray(place) * 4 + 128)
    return pixels
