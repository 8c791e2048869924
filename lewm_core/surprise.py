"""Surprise: how far a block ended from where the model said it would, and what is an alarm."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from lewm_core.alarm import Alarm
from lewm_core.calibration import Calibration, calibrate
from lewm_core.checkpoint import Checkpoint
from lewm_core.config import SurpriseConfig, check
from lewm_core.data import Dataset
from lewm_core.kinds import BLOCKS, kind, wait
from lewm_core.model import WorldModel, pixels_on
from lewm_core.recalibration import Heads, calibrated, errors_of, scores_of, taught
from lewm_core.residuals import Residuals, Score, dataset_residuals, plain
from lewm_core.types import Frame, Surprise, UserError
from lewm_core.uncertainty import Errors

__all__ = ['Calibration', 'SurpriseMonitor', 'calibrate', 'score_dataset']

log = logging.getLogger(__name__)

# 15 hours at two blocks a second, of the tiny model; older blocks no longer count when the monitor
# recalibrates. Of the paper's model five hours fit into the memory.
_REMEMBER, _REMEMBER_BYTES = 200_000, 64_000_000


def score_dataset(model: WorldModel, dataset: Dataset, split: str, score: Score = plain
                  ) -> list[np.ndarray]:
    """The block scores (N,) float64 of each episode of `split`, as `SurpriseMonitor` gives them.

    `score` is that of the checkpoint's heads, see `score_of`. Blocks are counted from the
    episode's first frame; an episode without a whole one is left out.
    """
    return [score(residuals) for residuals in dataset_residuals(model, dataset, split)]


# See `SurpriseMonitor.recalibration`.
Recalibration = Callable[..., 'Callable[[], Calibration] | None']


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
        self._model, self.device = checkpoint.model.to(device).eval(), torch.device(device)
        self._history = self._model.history
        # As training left them, and as they score: with what a calibration drive taught them.
        self._trained = self._heads = checkpoint.heads
        self._seen: deque[tuple[int, Errors]] = deque(maxlen=self._room())
        self._episode = 0
        if checkpoint.calibration is not None:
            kept = Calibration.from_dict(checkpoint.calibration)
            self._heads = taught(self._model, self._trained, kept)
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
        errors = self._advance(self._encode(frame))
        score = None if errors is None else self._score(errors)
        self.latency_s = time.perf_counter() - started
        if errors is None or score is None:
            return None
        self._seen.append((self._episode, errors))
        return self._judge(frame.stamp_ns, score)

    def warm_up(self, times: int = 5) -> float:
        """The seconds that scoring a block takes (the median), on blank data; changes nothing."""
        camera = self.spec.camera
        pixels = np.zeros((camera.height, camera.width, 3), np.uint8)
        blocks = np.zeros((self._history, self.frameskip, self.spec.action_dim))
        seconds = []
        for _ in range(times):
            started = time.perf_counter()
            latent = self._encode(Frame(0, pixels))
            imagined = self._imagine([latent] * self._history, list(blocks))
            self._score(self._errors(latent, latent, imagined, blocks[-1]))
            seconds.append(time.perf_counter() - started)
        return float(np.median(seconds))

    def clear_scores(self) -> None:
        """Nothing; what was watched so far no longer counts when `recalibrate` is called."""
        self._seen.clear()

    def recalibrate(self, config: SurpriseConfig | None = None) -> Calibration:
        """The calibration on all that was watched since the start or `clear_scores`, now in force.

        From 1,000 blocks on the score learns from them, too, in some ten seconds (see
        `lewm_core.relearn`). Raises UserError, and keeps the old one, when it is too little for
        a threshold.
        """
        adopt = self.recalibration(config)()
        assert adopt is not None  # nobody stops it
        return adopt()

    def recalibration(self, config: SurpriseConfig | None = None) -> Recalibration:
        """What calibrates on all that was watched, in any thread, and gives what adopts it.

        It changes nothing itself, so that blocks can be scored meanwhile. It takes
        `on_progress(share)` and `should_stop()`, and gives None when it was stopped; what it
        gives else is called in the monitor's own thread.
        """
        config = config or self.config
        numbers = np.array([episode for episode, _ in self._seen], dtype=np.int64)
        errors = [error for _, error in self._seen]
        serving = None if self._heads is self._trained else self._heads
        cuts = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(numbers)]

        def run(**progress: Any) -> Callable[[], Calibration] | None:
            episodes = [_stacked(errors[a:b]) for a, b in zip(cuts, cuts[1:]) if b > a]
            found = calibrated(self._model, self._trained, episodes, self.block_s, config,
                               serving=serving, **progress)
            return None if found is None else lambda: self._adopt(*found, config)

        return run

    def _adopt(self, calibration: Calibration, heads: Heads, config: SurpriseConfig
               ) -> Calibration:
        self._heads, self._alarm, self.config = heads, Alarm(calibration), config
        return calibration

    def _room(self) -> int:
        """How many blocks are remembered."""
        dim, acts = self._model.config.latent_dim, self.frameskip * self.spec.action_dim
        return min(_REMEMBER, _REMEMBER_BYTES // (4 * (2 * dim + acts) + 300))

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
        return self._model.encode(pixels_on(self.device, frame.pixels[None]))[0]

    @torch.inference_mode()
    def _imagine(self, latents: list[torch.Tensor], blocks: list[np.ndarray]) -> torch.Tensor:
        """The latent (D,) after the last of the blocks, each of which leaves one of `latents`."""
        # In float32 before the device: the dataset's precision, and some devices have no float64.
        actions = torch.from_numpy(np.stack(blocks).astype(np.float32)).to(self.device)
        z = torch.stack(latents)[None]
        return self._model.predict(z, self._model.embed_actions(actions[None]))[0, -1]

    def _errors(self, before: torch.Tensor, came: torch.Tensor, imagined: torch.Tensor,
                block: np.ndarray) -> Errors:
        """Those of one block, as `lewm_core.residuals` has them of many."""
        known = torch.cat([before, imagined]).float().cpu().numpy()
        return errors_of(self._heads, Residuals(
            (imagined - came).double().cpu().numpy(),
            np.concatenate([known, block.ravel().astype(np.float32)])))

    def _advance(self, latent: torch.Tensor) -> Errors | None:
        """The errors of the block just ended, None at the start; the history moves on."""
        errors = None
        if self._latents:
            self._blocks.append(np.stack(self._block))
            self._block = []
            imagined = self._imagine(self._latents, self._blocks)
            errors = self._errors(self._latents[-1], latent, imagined, self._blocks[-1])
        # Latents and the blocks that leave them: the newest latent's block is still to come.
        self._latents = [*self._latents, latent][-self._history:]
        self._blocks = self._blocks[len(self._blocks) - len(self._latents) + 1:]
        return errors

    def _score(self, errors: Errors) -> float:
        score = float(scores_of(self._heads, errors))
        if not np.isfinite(score):
            raise UserError(f'the surprise score is {score}, but a finite one is expected; '
                            'the weights have diverged: train again')
        return score

    def _judge(self, stamp_ns: int, score: float) -> Surprise:
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


def _stacked(errors: Sequence[Errors]) -> Errors:
    return Errors(np.array([each.squared for each in errors], dtype=np.float64),
                  np.stack([each.given for each in errors]))
