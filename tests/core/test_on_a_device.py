"""What a training step asks of a GPU, and brings to it: nothing but its batch."""

from __future__ import annotations

import contextlib
import dataclasses

import pytest
import torch

from lewm_core.batches import Batches
from lewm_core.config import TrainConfig
from lewm_core.trainer import Trainer
from tests.core.device_toys import Moves

META = torch.device('meta')
VIT = {'encoder': 'vit', 'patch_size': 4, 'encoder_depth': 1, 'encoder_width': 16,
       'encoder_heads': 2, 'encoder_mlp': 32}


class Elsewhere(torch.Generator):
    """Draws on the device that has no numbers."""

    device = META


@pytest.fixture
def trainer_elsewhere(recording, toy_model, monkeypatch):
    """Builds a trainer whose model and frames are on a device that has no numbers."""
    # It is of no device type that autocast knows.
    monkeypatch.setattr(torch, 'autocast', lambda *a, **k: contextlib.nullcontext())

    def make(loss, encoder):
        config = TrainConfig(batch_size=16, device='cpu', precision='float32', loss=loss)
        trainer = Trainer(recording, dataclasses.replace(toy_model, **encoder), config)
        trainer.device, trainer.generator = META, Elsewhere()
        trainer.learned.to(META)
        trainer.optimizer = torch.optim.AdamW(trainer.learned.parameters(), foreach=True)
        trainer.batches = Batches(recording, *trainer.window, META, 'resident')
        return trainer
    return make


@pytest.mark.parametrize('encoder', [{}, VIT], ids=['conv', 'vit'])
@pytest.mark.parametrize('loss', ['lewm', 'pldm'])
def test_a_step_with_resident_frames_brings_rows_and_actions_and_waits_for_nothing(
        trainer_elsewhere, loss, encoder):
    """Each look at a value waits for all that was queued, and each copy for its memory: either
    would leave a GPU idle between two steps."""
    trainer = trainer_elsewhere(loss, encoder)
    for step in range(2):
        with Moves() as moves:
            trainer.step(step, trainer.batch(step))
        assert moves.seen == [((16, 4), True), ((16, 3, 3, 2), True)]
    assert [value.device for value in trainer._pending] == [META] * 2


def test_pictures_are_encoded_where_they_are(small_model_with):
    """A recorded encoder may bring nothing to its device: a CUDA graph can't be given it."""
    for encoder in ({}, VIT):
        model = small_model_with(**encoder).eval().to(META)
        pixels = torch.zeros((2, 16, 16, 3), dtype=torch.uint8, device=META)
        with torch.inference_mode(), Moves() as moves:
            assert model.encode(pixels).shape == (2, 8)
        assert not moves.seen


@pytest.mark.parametrize('wrong', [lambda x: x + torch.zeros(3).to(x),
                                   lambda x: x.copy_(torch.ones(3)),
                                   lambda x: x + torch.tensor([1.0, 2, 3], device='cpu').to(META)])
def test_what_is_brought_to_a_device_is_seen(wrong):
    with Moves() as moves:
        wrong(torch.zeros(3, device=META))
    assert moves.seen == [((3,), False)]
