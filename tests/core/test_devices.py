"""GPUs that are there and cannot be used: by this PyTorch, or by this driver."""

from __future__ import annotations

import pytest
import torch

from lewm_core.config import DataConfig, TrainConfig
from lewm_core.train import train
from lewm_core.trainer import resolve_device
from lewm_core.types import UserError


@pytest.mark.parametrize('name, others', [('auto', "'cpu' or"), ('cuda', "'auto', 'cpu' or")])
def test_a_gpu_that_this_pytorch_has_no_kernels_for_is_a_user_error(name, others, monkeypatch):
    """Its memory could be had, so it was taken, and the first step ended with a traceback. And who
    had asked for 'auto' was told to."""
    def launch(*_, device):
        raise RuntimeError('CUDA error: no kernel image is available\nand a page of more')
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch, 'empty', lambda *_, device: None)
    monkeypatch.setattr(torch, 'ones', launch)
    with pytest.raises(UserError, match=f'no kernel image is available.; choose {others}'):
        resolve_device(name)


def test_a_gpu_whose_driver_is_too_old_does_not_hinder_training_on_the_cpu(
        recording, toy_model, tmp_path, monkeypatch):
    """The driver counts the GPU and PyTorch can't use it: a run on the CPU ended with a traceback,
    for the GPU's random numbers were to be kept."""
    def refuses(device):
        raise RuntimeError('The NVIDIA driver on your system is too old (found version 12040)')
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 1)
    monkeypatch.setattr(torch.cuda, 'get_rng_state', refuses)
    config = TrainConfig(steps=1, uncertainty_steps=0, batch_size=16, precision='float32',
                         device='cpu', tensorboard=False, threads=1)
    assert train(recording, toy_model, DataConfig(), config, tmp_path).exists()
