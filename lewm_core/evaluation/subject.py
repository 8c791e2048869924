"""What is evaluated: a checkpoint, a dataset's four splits, a world where there is one."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from lewm_core.checkpoint import Checkpoint
from lewm_core.data import Dataset
from lewm_core.evaluate import encode_rows, evenly
from lewm_core.images import prepare
from lewm_core.jobs import EvaluateJob
from lewm_core.model import WorldModel
from lewm_core.types import UserError

log = logging.getLogger(__name__)

# Below this many frames of a split, a measure that is fitted or averaged means nothing.
_FEW = 2


@dataclass(frozen=True)
class Encoded:
    """Frames of one split: `rows` (N,), `latents` (N, D), `episode` (N,), `states` columns (N,).
    """

    rows: np.ndarray
    latents: np.ndarray
    episode: np.ndarray
    states: dict[str, np.ndarray]


@dataclass
class Subject:
    """A checkpoint on a dataset, with the settings of the evaluation; latents are kept.

    `make_world` makes the world that the robot was simulated in; None where there is none, so
    that nothing but recordings can be looked at.
    """

    checkpoint: Checkpoint
    dataset: Dataset
    job: EvaluateJob
    make_world: Callable[[], Any] | None = None
    _kept: dict[str, Encoded] = field(default_factory=dict)

    @property
    def model(self) -> WorldModel:
        """The model, in eval mode."""
        return self.checkpoint.model

    @property
    def skip(self) -> int:
        """The ticks in a block."""
        return self.model.config.frameskip

    @property
    def block_s(self) -> float:
        """The seconds in a block."""
        return self.skip * self.checkpoint.spec.tick_s

    @property
    def angles(self) -> set[str]:
        """The state columns that are angles, rad: by their unit, or without one by their name."""
        units = {f.name: f.unit for s in self.dataset.spec.state for f in s.fields}
        # The sine of an angle in degrees, or of a rate, would be noise.
        return {name for name in self.dataset.states if units.get(name) == 'rad'
                or 'angle' in name and not units.get(name)}

    def encoded(self, split: str) -> Encoded:
        """The frames of `split`, at most `job.frames` of them spread evenly, with their latents.

        Raises UserError when the split holds too few.
        """
        if split not in self._kept:
            rows = evenly(self.dataset.rows(split), self.job.frames)
            if len(rows) < _FEW:
                raise UserError(f'dataset {str(self.dataset.path)!r} has {len(rows)} frames in '
                                f'its {split} episodes, but {_FEW} are needed: record more '
                                'episodes')
            self._kept[split] = Encoded(
                rows, encode_rows(self.model, self.dataset, rows), self.episode_of(rows),
                {name: column[rows] for name, column in self.dataset.states.items()})
        return self._kept[split]

    def episode_of(self, rows: np.ndarray) -> np.ndarray:
        """The episode (N,) that each row is of."""
        order = np.argsort(self.dataset.ep_offset)
        at = np.searchsorted(self.dataset.ep_offset[order], rows, side='right') - 1
        return order[at]

    def windows(self, split: str, frames: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """First rows (W,), blocks (W, T - 1, F, A) and episodes (W,) of windows of T frames.

        At most `job.windows` of them, spread evenly over the split; none where no episode is
        long enough.
        """
        starts = evenly(self.dataset.windows(split, frames, self.skip), self.job.windows)
        blocks = self.dataset.window_rows(starts, frames, self.skip)[1]
        return starts, blocks, self.episode_of(starts)

    def frame_rows(self, starts: np.ndarray, frames: int) -> np.ndarray:
        """The rows (W, T) of the frames of the windows that begin at `starts`."""
        return starts[:, None] + np.arange(frames) * self.skip

    def on(self, dataset: Dataset) -> Subject:
        """The same checkpoint and settings on another dataset, without a world."""
        return Subject(self.checkpoint, dataset, self.job)


def find_world(name: str, dataset: Dataset) -> Callable[[], Any] | None:
    """What makes the world called `name`: 'none', 'auto' (as the robot is called), or a name.

    None for 'none', and for 'auto' where the robot is not called like a world that is installed
    and fits. Raises UserError on a named world that can't be made or whose actions, states or
    pictures do not fit.
    """
    if name == 'none':
        return None
    import gymnasium

    from lewm_core.envs import WORLDS, make_world
    spec, asked = dataset.spec, name != 'auto'
    name = name if asked else spec.name
    if not asked and name not in WORLDS and name not in gymnasium.registry:
        return None
    # As the robot's driver sends them; `prepare` makes the model's of them.
    make = partial(make_world, name, spec.camera.source_width or spec.camera.width)
    try:
        _check_fit(make(), name, dataset)
    except UserError as error:
        if asked:
            raise
        log.warning('no fresh drives: %s', error)
        return None
    log.info('fresh drives come from the world %s', name)
    return make


def _check_fit(world: Any, name: str, dataset: Dataset) -> None:
    """Nothing; raises UserError where `world` can't stand for the dataset's robot."""
    spec, lacking = dataset.spec, sorted(set(dataset.spec.state_names) - set(world.state()))
    if world.action_space.shape != (spec.action_dim,) or lacking:
        raise UserError(
            f'world={name} cannot stand for robot {spec.name!r}: it takes actions of shape '
            f'{world.action_space.shape} and has the states {sorted(world.state())}, but '
            f'({spec.action_dim},) and {list(spec.state_names)} are needed; give another world, '
            'or none')
    prepare(world.render(), spec.camera)


def fitting(checkpoint: Checkpoint, dataset: Dataset, same: bool = True) -> Dataset:
    """`dataset`, split as in the checkpoint's training.

    Raises UserError when it is another robot's; with `same` false it may have another name and
    other limits, as a real robot beside its simulation, as long as the tensors fit.
    """
    ours, theirs = checkpoint.spec, dataset.spec
    alike = (ours.action_dim == theirs.action_dim and ours.rate_hz == theirs.rate_hz
             and (ours.camera.width, ours.camera.height)
             == (theirs.camera.width, theirs.camera.height))
    if ours.fingerprint() != theirs.fingerprint() and (same or not alike):
        raise UserError(f'the checkpoint is for robot {ours.name!r} ({ours.fingerprint()}), but '
                        f'the dataset {str(dataset.path)!r} is of {theirs.name!r} '
                        f'({theirs.fingerprint()}): evaluate on recordings of the same robot and '
                        'spec')
    return dataset.with_split(checkpoint.data)


def settings(job: EvaluateJob) -> dict[str, Any]:
    """The job as a plain tree for JSON."""
    tree = dataclasses.asdict(job)
    return {key: str(value) if hasattr(value, 'parts') else value for key, value in tree.items()}
