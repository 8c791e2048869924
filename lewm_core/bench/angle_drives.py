"""Drives of a simulated world with the angle of its block among their states."""

from __future__ import annotations

import dataclasses
import logging
import time
from pathlib import Path

import numpy as np

from lewm_core.config import ModelConfig, default
from lewm_core.data import Dataset
from lewm_core.dataset_writer import DatasetWriter
from lewm_core.envs import make_world
from lewm_core.jobs import BenchAngleJob
from lewm_core.paths import load_robot
from lewm_core.robot import RobotSpec, StateField

log = logging.getLogger(__name__)

ANGLE = 'block_angle'


def drives(job: BenchAngleJob, folder: Path) -> Dataset:
    """Drives of the world's explorer, `job.frames` frames, the angle beside the other states."""
    usual = job.contact == default(BenchAngleJob, 'contact')
    contact = '' if usual else f'_contact{job.contact:g}'
    path = folder / (f'{job.world}{contact}_{job.model.image_size}_{job.frames}_of_'
                     f'{job.episode_frames}_seed{job.seed}.h5')
    if path.exists():
        return Dataset.open(path)
    begun, spec = time.perf_counter(), _spec(job.world, job.model)
    world, rng = make_world(spec.name, job.model.image_size), np.random.default_rng(job.seed)
    how = {'contact': job.contact} if job.world == 'push' else {}
    move = getattr(world, 'advance', world.step)  # without the picture, where a world can
    with DatasetWriter(path, spec, job.data) as writer:
        for episode in range(job.frames // job.episode_frames):
            world.reset(seed=int(rng.integers(2**31)))
            explore, pixels, actions, states = world.explorer(rng, **how), [], [], []
            for _ in range(job.episode_frames):
                pixels.append(world.render())
                states.append(world.state())
                actions.append(explore(states[-1]))
                move(actions[-1])
            stamps = (np.arange(job.episode_frames) + 10 * episode * job.episode_frames
                      ) * round(1e9 * spec.tick_s)
            writer.add_episode(np.stack(pixels), np.array(actions, np.float32), stamps, {
                name: np.array([s[name] for s in states]) for name in spec.state_names})
    log.info('%s: %d frames in %.0f s', path, job.frames, time.perf_counter() - begun)
    return Dataset.open(path)


def _spec(world: str, model: ModelConfig) -> RobotSpec:
    """The world's robot with a camera of the model's size, and the angle among its states."""
    spec, size = load_robot(world), model.image_size
    camera = dataclasses.replace(spec.camera, width=size, height=size, source_width=size,
                                 source_height=size)
    *states, block = spec.state
    turned = dataclasses.replace(block, fields=(*block.fields, StateField(
        'pose.orientation.z', ANGLE, 'rad')))
    return dataclasses.replace(spec, cameras=(camera,), state=(*states, turned))
