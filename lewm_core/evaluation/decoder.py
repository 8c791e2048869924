"""Decoder: trained on frozen latents, to lay what was imagined beside what came."""

from __future__ import annotations

import copy
import logging
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from lewm_core.checkpoint import save_checkpoint
from lewm_core.decoder import Decoder, DecoderConfig
from lewm_core.evaluation.intervals import over_episodes, text
from lewm_core.evaluation.open_loop import episode_sums, longest
from lewm_core.evaluation.subject import Encoded, Subject
from lewm_core.report import Page, picture_png, strip

log = logging.getLogger(__name__)

FILE = 'with_decoder.safetensors'
_BATCH, _RATE, _CHECKS, _ROWS = 64, 2e-3, 10, 3


def measure(subject: Subject, keep: bool = True) -> dict[str, Any]:
    """How much of the pictures' variance is decoded on test, and a grid of real and imagined.

    Trained on train frames with their latents frozen; the weights kept are those with the lowest
    error on validation. `explained` is 1 - squared error over that of the mean training picture.
    The checkpoint with its new head `decoder` is written beside the report, unless `keep` is
    false.
    """
    decoder, steps = fit(subject)
    test = subject.encoded('test')
    mean = mean_picture(subject)
    errors = _errors(subject, decoder, test, mean)
    sums = episode_sums(errors, test.episode)
    job = subject.job
    if keep:
        job.output.mkdir(parents=True, exist_ok=True)
        save_checkpoint(job.output / FILE, subject.checkpoint.with_head('decoder', decoder))
        log.info('  %s holds the checkpoint with its decoder', job.output / FILE)
    return {'explained': over_episodes(sums, lambda s: 1 - s[:, 1] / s[:, 2], job.resamples,
                                       job.seed).to_dict(),
            'psnr_db': over_episodes(sums, lambda s: -10 * np.log10(s[:, 1] / s[:, 0]),
                                     job.resamples, job.seed).to_dict(),
            'best_step': steps, 'frames': len(test.rows), 'file': FILE, 'grid': grid(subject,
                                                                                     decoder)}


def fit(subject: Subject) -> tuple[Decoder, int]:
    """The decoder with the lowest squared error on validation frames, and at which step."""
    job, device = subject.job, next(subject.model.parameters()).device
    train = subject.encoded('train')
    held = subject.encoded('validation') if len(subject.dataset.rows('validation')) > 1 else train
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(job.seed)
        decoder = Decoder(DecoderConfig(), subject.model).to(device)
    decoder.base.data.copy_(torch.from_numpy(mean_picture(subject)).permute(2, 0, 1))
    optimiser = torch.optim.Adam(decoder.parameters(), lr=_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, _RATE, total_steps=job.decoder_steps)
    rng = np.random.default_rng(job.seed)
    best, least, at = copy.deepcopy(decoder), float('inf'), 0
    for step in range(1, job.decoder_steps + 1):
        rows = rng.integers(0, len(train.rows), _BATCH)
        made = decoder(torch.from_numpy(train.latents[rows]).to(device))
        loss = functional.mse_loss(made, _target(subject, train.rows[rows], device))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % max(1, job.decoder_steps // _CHECKS) and step < job.decoder_steps:
            continue
        error = _held_error(subject, decoder, held, device)
        log.info('  decoder step %d of %d, validation error %.3g', step, job.decoder_steps, error)
        if error < least:
            best, least, at = copy.deepcopy(decoder), error, step
    return best.eval(), at


@torch.no_grad()
def _held_error(subject: Subject, decoder: Decoder, held: Encoded, device: torch.device) -> float:
    rows = np.linspace(0, len(held.rows) - 1, min(256, len(held.rows))).astype(int)
    decoder.eval()
    made = decoder(torch.from_numpy(held.latents[rows]).to(device))
    decoder.train()
    return float(functional.mse_loss(made, _target(subject, held.rows[rows], device)))


def _target(subject: Subject, rows: np.ndarray, device: torch.device) -> torch.Tensor:
    pixels = torch.from_numpy(subject.dataset.frames(rows)).to(device)
    return pixels.permute(0, 3, 1, 2).float() / 255


def mean_picture(subject: Subject) -> np.ndarray:
    """The mean (H, W, 3) of a thousand training frames, in [0, 1]."""
    rows = subject.encoded('train').rows
    return _frames(subject, rows[::max(1, len(rows) // 1000)]).mean(axis=0)


def _frames(subject: Subject, rows: np.ndarray) -> np.ndarray:
    return subject.dataset.frames(rows).astype(np.float32) / 255


def _errors(subject: Subject, decoder: Decoder, test: Encoded, mean: np.ndarray) -> np.ndarray:
    """The squared errors (N, 2) of the decoded and of the mean picture, mean over a picture."""
    device, errors = next(decoder.parameters()).device, []
    for rows in np.array_split(np.arange(len(test.rows)), max(1, len(test.rows) // 256)):
        true = _frames(subject, test.rows[rows])
        made = decoder.pictures(torch.from_numpy(test.latents[rows]).to(device)).numpy() / 255
        errors.append(np.stack([((v - true) ** 2).mean(axis=(1, 2, 3)) for v in (made, mean)], 1))
    return np.concatenate(errors)


@torch.no_grad()
def grid(subject: Subject, decoder: Decoder) -> bytes | None:
    """A PNG: of some test windows the frames that came, and below them those imagined, decoded.

    None where no test episode has room for a block ahead.
    """
    model, context = subject.model, subject.model.history
    horizon = longest(subject, 'test', subject.job.horizon)
    starts, blocks, _ = subject.windows('test', context + horizon)
    if not horizon or not len(starts):
        return None
    chosen = np.linspace(0, len(starts) - 1, _ROWS + 2).astype(int)[1:-1]
    pixels = subject.dataset.frames(subject.frame_rows(starts[chosen], context + horizon))
    device, lines = next(model.parameters()).device, []
    scale = max(1, 96 // pixels.shape[2])
    for real, block in zip(pixels, blocks[chosen]):
        z = model.encode(torch.from_numpy(real[None]).to(device))
        b = torch.from_numpy(np.ascontiguousarray(block[None])).to(device)
        ahead = model.rollout(z[:, :context], b[:, :context - 1], b[:, None, context - 1:])[:, 0]
        made = decoder.pictures(torch.cat([z[:, :context], ahead], dim=1)[0]).numpy()
        lines += [strip(list(real), scale), strip(list(made), scale)]
        lines.append(np.full((10, lines[-1].shape[1], 3), 255, np.uint8))
    return picture_png(np.concatenate(lines[:-1]))


def show(page: Page, found: dict[str, Any]) -> None:
    """Nothing; adds the figures and the grid."""
    page.text(f'Decoded test frames explain {text(found["explained"])} of the variance around '
              f'the mean training picture; PSNR {text(found["psnr_db"])} dB. The checkpoint with '
              f'this decoder is {found["file"]}.')
    if found['grid'] is not None:
        page.text('Above: the frames that came, one a block. Below: decoded; the first ones are '
                  'the true latents of the history, all others are imagined from them with the '
                  'recorded actions.', 'note')
        page.picture(found['grid'], 'real frames above imagined frames')
