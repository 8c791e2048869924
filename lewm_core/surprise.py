"""Surprise: how far a block ended from where the model said it would, and what is an alarm."""

from __future__ import annotations

import logging
import time
from collections import deque

import numpy as np
import torch

from lewm_core.calibration import Calibration, calibrate
from lewm_core.checkpoint import Checkpoint
from lewm_core.config import SurpriseConfig, check
from lewm_core.data import Dataset
from lewm_core.evaluate import encode_rows
from lewm_core.kinds import BLOCKS, kind, wait
from lewm_core.model import LatentDynamics, WorldModel, pixels_on
from lewm_core.types import Frame, Surprise, UserError

__all__ = ['Calibration', 'SurpriseMonitor', 'block_scores', 'calibrate',
           'score_dataset']

log = logging.getLogger(__name__)

# A day at two blocks a second; older scores no longer count when the monitor recalibrates.
_REMEMBER = 200_000
_BATCH = 256


def score_dataset(model: WorldModel, dataset: Dataset, split: str) -> list[np.ndarray]:
    """The block scores (N,) float64 of each episode of `split`, as `SurpriseMonitor` gives them.

    Blocks are counted from the episode's first frame, so an episode of L frames has
    (L - 1) // frameskip of them; an episode without any is left out.
    """
    return [np.square(off).mean(axis=-1) for off in dataset_residuals(model, dataset, split)]


def dataset_residuals(model: WorldModel, dataset: Dataset, split: str) -> list[np.ndarray]:
    """What was imagined minus what came (N, D), for each episode as in `score_dataset`."""
    skip, found = model.config.frameskip, []
    for episode in dataset.episodes(split):
        count = (int(dataset.ep_len[episode]) - 1) // skip
        if count < 1:
            continue
        first = int(dataset.ep_offset[episode])
        latents = encode_rows(model, dataset, first + np.arange(count + 1) * skip)
        blocks = dataset.action[first:first + count * skip].reshape(count, skip, -1)
        found.append(block_residuals(model, latents[None], blocks[None])[0])
    return found


def block_scores(model: LatentDynamics, latents: np.ndarray, blocks: np.ndarray) -> np.ndarray:
    """The scores (B, T) float64 of latents (B, T + 1, D) and the blocks (B, T, F, A) between them.

    Each of the B series is scored from its first frame on, as an episode of its own.
    """
    return np.square(block_residuals(model, latents, blocks)).mean(axis=-1)


@torch.inference_mode()
def block_residuals(model: LatentDynamics, latents: np.ndarray, blocks: np.ndarray) -> np.ndarray:
    """What was imagined minus what came (B, T, D) float64; the arguments are `block_scores`'s."""
    device, (series, count) = next(model.parameters()).device, blocks.shape[:2]
    z = torch.from_numpy(np.ascontiguousarray(latents)).to(device)
    emb = model.embed_actions(torch.from_numpy(np.ascontiguousarray(blocks)).to(device))
    ends = np.arange(1, count + 1)
    off = np.empty((series, count, z.shape[-1]))
    for context in range(1, model.history + 1):
        # The first blocks of an episode have less history than the others.
        group = ends[ends == context] if context < model.history else ends[ends >= context]
        which, end = (v.ravel() for v in np.meshgrid(np.arange(series), group, indexing='ij'))
        for first in range(0, len(end), _BATCH):
            i, e = which[first:first + _BATCH], end[first:first + _BATCH]
            rows = torch.from_numpy(e[:, None] - context + np.arange(context)).to(device)
            at = torch.from_numpy(i).to(device)
            imagined = model.predict(z[at[:, None], rows], emb[at[:, None], rows])[:, -1]
            came = z[at, torch.from_numpy(e).to(device)]
            off[i, e - 1] = (imagined - came).cpu().numpy()
    return off


class SurpriseMonitor:
    """Scores each block of a drive as it happens, and raises an alarm when one is extraordinary.

    Call `update` once a tick. A block is `frameskip` ticks, counted from the first frame after
    the start or `reset`, and only the frames at its ends are looked at. Not thread-safe.
    """

    def __init__(self, checkpoint: Checkpoint, config: SurpriseConfig | None = None,
                 device: str = 'cpu') -> None:
        """`config` is the checkpoint's unless given; a promise that differs moves the threshold.

        Raises UserError when the calibration in the checkpoint can't support that promise and
        `config.extrapolate` is false.
        """
        self.config = config or checkpoint.surprise
        check(self.config)
        self.spec, self.frameskip = checkpoint.spec, checkpoint.model.config.frameskip
        self.block_s = self.frameskip * self.spec.tick_s
        self.calibration: Calibration | None = None
        self.latency_s = float('nan')
        self._model, self._device = checkpoint.model.to(device).eval(), torch.device(device)
        self._history = self._model.history
        self._seen: deque[tuple[int, float]] = deque(maxlen=_REMEMBER)
        self._episode = 0
        if checkpoint.calibration is not None:
            kept = Calibration.from_dict(checkpoint.calibration)
            if kept.cluster_blocks != self.config.cluster_blocks:
                log.warning('cluster_blocks=%d takes effect with the next recalibration; until '
                            'then it is %d, as calibrated', self.config.cluster_blocks,
                            kept.cluster_blocks)
            self.calibration = kept.promising(self.config)
        self.reset()

    @property
    def wants_frame(self) -> bool:
        """Whether the next `update` needs pixels: it ends a block, or begins an episode."""
        return not self._latents or len(self._block) == self.frameskip - 1

    @property
    def blocks(self) -> int:
        """The number of scores that `recalibrate` would use."""
        return len(self._seen)

    def reset(self) -> None:
        """Nothing; forgets the frames so far, after a gap or before an episode's first frame."""
        self._latents: list[torch.Tensor] = []
        self._blocks: list[np.ndarray] = []
        self._block: list[np.ndarray] = []
        self._since_exceedance: int | None = None
        self._since_alarm: list[float] | None = None
        self._episode += 1

    def update(self, frame: Frame, action: np.ndarray | None) -> Surprise | None:
        """The surprise of the block that `frame` ends, or None on every other tick.

        `action` (A,) in robot units is the one in force from the previous frame to this one; None
        begins an episode, and right after the start or `reset` it is ignored. `frame.pixels` may
        be None unless `wants_frame`. Raises UserError on an action or a score that isn't finite
        and on pixels of another size than the model's; the next call begins an episode.
        """
        try:
            return self._update(frame, action)
        except Exception:
            # The tick is lost, so the frames no longer lie a block apart.
            self.reset()
            raise

    def _update(self, frame: Frame, action: np.ndarray | None) -> Surprise | None:
        if action is None and self._latents:
            self.reset()
        if self._latents:
            self._block.append(self._checked(action))
            if len(self._block) < self.frameskip:
                return None
        started = time.perf_counter()
        score = self._advance(self._encode(frame))
        self.latency_s = time.perf_counter() - started
        return None if score is None else self._judge(frame.stamp_ns, score)

    def warm_up(self) -> float:
        """The seconds that scoring one block takes, measured on blank data; changes nothing."""
        camera = self.spec.camera
        pixels = np.zeros((camera.height, camera.width, 3), np.uint8)
        blocks = np.zeros((self._history, self.frameskip, self.spec.action_dim))
        for _ in range(3):
            started = time.perf_counter()
            latent = self._encode(Frame(0, pixels))
            self._imagine([latent] * self._history, list(blocks))
            seconds = time.perf_counter() - started
        return seconds

    def clear_scores(self) -> None:
        """Nothing; what was watched so far no longer counts when `recalibrate` is called."""
        self._seen.clear()

    def recalibrate(self, config: SurpriseConfig | None = None) -> Calibration:
        """The calibration on all that was watched since the start or `clear_scores`, now in force.

        Raises UserError, and keeps the old one, when it is too little for a threshold.
        """
        config = config or self.config
        numbers = np.array([episode for episode, _ in self._seen], dtype=np.int64)
        scores = np.array([score for _, score in self._seen], dtype=np.float64)
        cuts = np.flatnonzero(np.diff(numbers)) + 1
        self.calibration = calibrate(np.split(scores, cuts), self.block_s, config)
        self.config = config
        return self.calibration

    def _checked(self, action: np.ndarray) -> np.ndarray:
        values = np.asarray(action, dtype=np.float64)
        if values.shape != (self.spec.action_dim,) or not np.isfinite(values).all():
            raise UserError(f'the action {values.tolist()} is not {self.spec.action_dim} finite '
                            f'numbers, as robot {self.spec.name!r} takes; check what publishes '
                            f'{self.spec.action.topic!r}')
        return values

    @torch.inference_mode()
    def _encode(self, frame: Frame) -> torch.Tensor:
        if frame.pixels is None:
            raise ValueError('this frame ends a block, so its pixels are needed: see wants_frame')
        return self._model.encode(pixels_on(self._device, frame.pixels[None]))[0]

    @torch.inference_mode()
    def _imagine(self, latents: list[torch.Tensor], blocks: list[np.ndarray]) -> torch.Tensor:
        """The latent (D,) after the last of the blocks, each of which leaves one of `latents`."""
        # In float32 before the device: the dataset's precision, and some devices have no float64.
        actions = torch.from_numpy(np.stack(blocks).astype(np.float32)).to(self._device)
        z = torch.stack(latents)[None]
        return self._model.predict(z, self._model.embed_actions(actions[None]))[0, -1]

    def _advance(self, latent: torch.Tensor) -> float | None:
        """The score of the block just ended, None at the start; the history moves on."""
        score = None
        if self._latents:
            self._blocks.append(np.stack(self._block))
            self._block = []
            imagined = self._imagine(self._latents, self._blocks)
            score = float((imagined - latent).square().mean())
            if not np.isfinite(score):
                raise UserError(f'the surprise score is {score}, but a finite one is expected; '
                                'the weights have diverged: train again')
        # Latents and the blocks that leave them: the newest latent's block is still to come.
        self._latents = [*self._latents, latent][-self._history:]
        self._blocks = self._blocks[len(self._blocks) - len(self._latents) + 1:]
        return score

    def _judge(self, stamp_ns: int, score: float) -> Surprise:
        self._seen.append((self._episode, score))
        calibration = self.calibration
        if calibration is None:
            return Surprise(stamp_ns, score, float('nan'), float('nan'), False, False)
        if self._since_exceedance is not None:
            self._since_exceedance += 1
        exceeds = score > calibration.threshold
        alarm = exceeds and (self._since_exceedance is None
                             or self._since_exceedance > calibration.cluster_blocks)
        if exceeds:
            self._since_exceedance = 0
        p_value = calibration.p_value(score)
        return Surprise(stamp_ns, score, p_value, calibration.threshold, exceeds, alarm,
                        self._told(alarm, p_value))

    def _told(self, alarm: bool, p_value: float) -> str:
        """What an alarm was, once enough blocks have come after it; '' until then."""
        if self._since_alarm is None:
            self._since_alarm = [] if alarm else None
            return ''
        # A second alarm while the first is looked at is what came of it.
        self._since_alarm.append(p_value)
        if len(self._since_alarm) < wait(self._history) + BLOCKS - 1:
            return ''
        after, self._since_alarm = self._since_alarm[-BLOCKS:], None
        return kind(np.array(after))
