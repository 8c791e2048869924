"""Surprise: how far a block ended from where the model said it would, and what is an alarm."""

from __future__ import annotations

import logging
import time
from collections import deque

import numpy as np
import torch

from lewm_core.alarm import Alarm
from lewm_core.calibration import Calibration, calibrate
from lewm_core.checkpoint import Checkpoint
from lewm_core.config import SurpriseConfig, check
from lewm_core.data import Dataset
from lewm_core.kinds import BLOCKS, kind, wait
from lewm_core.model import WorldModel, pixels_on
from lewm_core.residuals import Residuals, Score, dataset_residuals, plain
from lewm_core.types import Frame, Surprise, UserError
from lewm_core.uncertainty import score_of, scoring

__all__ = ['Calibration', 'SurpriseMonitor', 'calibrate', 'score_dataset']

log = logging.getLogger(__name__)

# A day at two blocks a second; older scores no longer count when the monitor recalibrates.
_REMEMBER = 200_000


def score_dataset(model: WorldModel, dataset: Dataset, split: str, score: Score = plain
                  ) -> list[np.ndarray]:
    """The block scores (N,) float64 of each episode of `split`, as `SurpriseMonitor` gives them.

    `score` is that of the checkpoint's heads, see `score_of`. Blocks are counted from the
    episode's first frame; an episode without a whole one is left out.
    """
    return [score(residuals) for residuals in dataset_residuals(model, dataset, split)]


class SurpriseMonitor:
    """Scores each block of a drive as it happens, and raises an alarm when one is extraordinary.

    Call `update` once a tick. A block is `frameskip` ticks, counted from the first frame after
    the start or `reset`, and only the frames at its ends are looked at. Not thread-safe.
    """

    def __init__(self, checkpoint: Checkpoint, config: SurpriseConfig | None = None,
                 device: str = 'cpu') -> None:
        """`config` is the checkpoint's unless given; a promise that differs moves the threshold.

        Raises UserError when the calibration is of another model's scores, and when it can't
        support that promise and `config.extrapolate` is false.
        """
        self.config = config or checkpoint.surprise
        check(self.config)
        self.spec, self.frameskip = checkpoint.spec, checkpoint.model.config.frameskip
        self.block_s = self.frameskip * self.spec.tick_s
        self._alarm: Alarm | None = None
        self.latency_s = float('nan')
        self._model, self._device = checkpoint.model.to(device).eval(), torch.device(device)
        self._history = self._model.history
        self._score = score_of(checkpoint.heads)
        self._scoring = scoring(self._model, checkpoint.heads)
        self._seen: deque[tuple[int, float]] = deque(maxlen=_REMEMBER)
        self._episode = 0
        if checkpoint.calibration is not None:
            kept = Calibration.from_dict(checkpoint.calibration)
            self._check_scoring(kept, 'uncertainty' in checkpoint.heads)
            if kept.cluster_blocks != self.config.cluster_blocks:
                log.warning('cluster_blocks=%d takes effect with the next recalibration; until '
                            'then it is %d, as calibrated', self.config.cluster_blocks,
                            kept.cluster_blocks)
            self._alarm = Alarm(kept.promising(self.config))
        self.reset()

    @property
    def calibration(self) -> Calibration | None:
        """What is in force; None: there are scores, and no alarms."""
        return None if self._alarm is None else self._alarm.calibration

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
        if self._alarm is not None:
            self._alarm.reset()
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
            imagined = self._imagine([latent] * self._history, list(blocks))
            self._score(self._residuals(latent, latent, imagined, blocks[-1]))
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
        self._alarm = Alarm(calibrate(np.split(scores, cuts), self.block_s, config,
                                      self._scoring))
        self.config = config
        return self._alarm.calibration

    def _check_scoring(self, kept: Calibration, expects: bool) -> None:
        """Nothing; raises UserError on a calibration whose scores another model gave."""
        # The first calibrations did not say: they were all of the plain squared error.
        said = kept.scoring or ('' if expects else self._scoring)
        if said != self._scoring:
            raise UserError(f'the surprise calibration is of the scores of another checkpoint '
                            f'({kept.scoring or "an older one"}) than this '
                            f'({self._scoring}), so its threshold means nothing here; delete '
                            'calibration_file, drive as usual and call ~/recalibrate')

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

    @staticmethod
    def _residuals(before: torch.Tensor, came: torch.Tensor, imagined: torch.Tensor,
                   block: np.ndarray) -> Residuals:
        """Those of one block, as `lewm_core.residuals` has them of many."""
        known = torch.cat([before, imagined]).float().cpu().numpy()
        return Residuals((imagined - came).double().cpu().numpy(),
                         np.concatenate([known, block.ravel().astype(np.float32)]))

    def _advance(self, latent: torch.Tensor) -> float | None:
        """The score of the block just ended, None at the start; the history moves on."""
        score = None
        if self._latents:
            self._blocks.append(np.stack(self._block))
            self._block = []
            imagined = self._imagine(self._latents, self._blocks)
            score = float(self._score(self._residuals(self._latents[-1], latent, imagined,
                                                      self._blocks[-1])))
            if not np.isfinite(score):
                raise UserError(f'the surprise score is {score}, but a finite one is expected; '
                                'the weights have diverged: train again')
        # Latents and the blocks that leave them: the newest latent's block is still to come.
        self._latents = [*self._latents, latent][-self._history:]
        self._blocks = self._blocks[len(self._blocks) - len(self._latents) + 1:]
        return score

    def _judge(self, stamp_ns: int, score: float) -> Surprise:
        self._seen.append((self._episode, score))
        if self._alarm is None:
            return Surprise(stamp_ns, score, float('nan'), float('nan'), False, False)
        state, calibration = self._alarm, self._alarm.calibration
        alarm = state.judge(score)
        return Surprise(stamp_ns, score, state.p_value, calibration.threshold, state.exceeds,
                        alarm, self._told(alarm, state.p_value, state.lasts), state.sum,
                        calibration.cusum_threshold)

    def _told(self, alarm: bool, p_value: float, lasts: bool) -> str:
        """What an alarm was, at once where it lasts already, else some blocks after; else ''."""
        if self._since_alarm is None and not alarm:
            return ''
        if lasts:
            self._since_alarm = None
            return 'shift'
        if self._since_alarm is None:
            self._since_alarm = []
            return ''
        # A second alarm while the first is looked at is what came of it.
        self._since_alarm.append(p_value)
        if len(self._since_alarm) < wait(self._history) + BLOCKS - 1:
            return ''
        after, self._since_alarm = self._since_alarm[-BLOCKS:], None
        return kind(np.array(after))
