"""Two processes that train together are one: same loss, same gradients, one folder."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lewm_core.checkpoint import load_checkpoint
from lewm_core.config import DataConfig, ModelConfig, TrainConfig
from lewm_core.losses import prediction_losses, sigreg
from lewm_core.model import WorldModel
from lewm_core.train import train
from lewm_core.types import UserError

ROOT = Path(__file__).resolve().parents[2]
torch_distributed = pytest.importorskip('torch.distributed')
if not (torch_distributed.is_available() and torch_distributed.is_gloo_available()):
    pytest.skip('this PyTorch has no gloo', allow_module_level=True)

# What each of two processes does with its half of the batch; the first one writes.
WORKER = """
import os, sys, torch
import torch.distributed as dist
from lewm_core import distributed
from lewm_core.losses import prediction_losses, sigreg
rank, path = int(sys.argv[1]), sys.argv[2]
dist.init_process_group('gloo', init_method=f'file://{path}.meet', rank=rank, world_size=2)
given = torch.load(path, weights_only=False)
model = given['model'].double()
distributed.share_batch_norm(model)
pixels, actions = (t[rank::2] for t in (given['pixels'], given['actions']))
losses = prediction_losses(model, pixels, actions, torch.Generator().manual_seed(3))
losses.total.backward()
distributed.average_gradients(model.parameters())
total = distributed.mean(losses.total.detach())
with distributed.alone():
    half = sigreg(losses.latents.detach().transpose(0, 1), 64, 17,
                  torch.Generator().manual_seed(3))
if rank == 0:
    torch.save({'loss': total, 'half': half, 'sigreg': losses.sigreg.detach(),
                'gradients': {n: p.grad for n, p in model.named_parameters()},
                'buffers': dict(model.named_buffers())}, path + '.out')
dist.barrier()
dist.destroy_process_group()
"""


def environment() -> dict[str, str]:
    return {**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'}


def batch(config: ModelConfig, windows: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    size, frames = config.image_size, config.history + 1
    pixels = torch.randint(0, 256, (windows, frames, size, size, 3), generator=generator,
                           dtype=torch.uint8)
    return pixels, 0.2 * torch.randn(windows, frames - 1, config.frameskip, 2,
                                     generator=generator).double()


def awake(model: WorldModel) -> WorldModel:
    """The model with its AdaLN, which begins at zero, set to something: gradients everywhere."""
    with torch.no_grad():
        for layer in model.predictor.transformer.layers:
            torch.nn.init.normal_(layer.adaLN_modulation[1].weight, std=0.1)
    return model


def test_two_processes_equal_one_on_the_joined_batch(small_model_with, tmp_path):
    """Averaging each worker's SIGReg is another loss, and plain BatchNorm another model."""
    model = awake(small_model_with(dropout=0.0, sigreg_weight=1.0))
    pixels, actions = batch(model.config)
    path = tmp_path / 'given.pt'
    torch.save({'model': model, 'pixels': pixels, 'actions': actions}, path)
    workers = [subprocess.Popen([sys.executable, '-c', WORKER, str(rank), str(path)],
                                env=environment()) for rank in range(2)]
    model = model.double()
    one = prediction_losses(model, pixels, actions, torch.Generator().manual_seed(3))
    one.total.backward()
    assert [w.wait(timeout=120) for w in workers] == [0, 0]
    two = torch.load(f'{path}.out', weights_only=True)
    assert abs(float(one.total.detach()) - float(two['loss'])) < 1e-6
    assert abs(float(one.sigreg.detach()) - float(two['sigreg'])) < 1e-6
    assert abs(float(two['half']) - float(two['sigreg'])) > 1e-3  # one worker's is another
    for name, parameter in model.named_parameters():
        assert parameter.grad.abs().max() > 0, name
        assert torch.allclose(parameter.grad, two['gradients'][name], atol=1e-6, rtol=0), name
    for name, buffer in model.named_buffers():
        assert torch.allclose(buffer, two['buffers'][name], atol=1e-6, rtol=0), name


def test_torchrun_trains_one_model_with_two_processes_and_resumes(
        recording, toy_model, tmp_path):
    """Steps, batch and seed as with one process: the weights agree but for rounding."""
    config = TrainConfig(steps=6, uncertainty_steps=3, batch_size=16, learning_rate=1e-3,
                         warmup=0.1, precision='float32', device='cpu', validate_every=6,
                         checkpoint_every=3, log_every=3, tensorboard=False, threads=1)
    model = dataclasses.replace(toy_model, dropout=0.0)
    asked = []
    train(recording, model, DataConfig(), config, tmp_path / 'two',
          should_stop=lambda: asked.append(None) or len(asked) == 3)
    script = tmp_path / 'job.py'
    script.write_text(f"""
from pathlib import Path
from lewm_core.config import *
from lewm_core.data import Dataset
from lewm_core.train import train
train(Dataset.open(Path({str(recording.path)!r})), {model!r}, DataConfig(), {config!r},
      Path({str(tmp_path / 'two')!r}))
""")
    subprocess.run([sys.executable, '-m', 'torch.distributed.run', '--nproc-per-node=2',
                    '--standalone', str(script)], env=environment(), check=True, timeout=120)
    one = load_checkpoint(train(recording, model, DataConfig(), config, tmp_path / 'one'))
    two = load_checkpoint(tmp_path / 'two' / 'model.safetensors')
    assert two.metrics['finished'] and two.metrics['step'] == 6
    for name, tensor in one.model.state_dict().items():
        assert torch.allclose(tensor, two.model.state_dict()[name], atol=1e-3), name
    logs = [[json.loads(line) for line in (tmp_path / n / 'metrics.jsonl').open()]
            for n in ('one', 'two')]
    assert [row['step'] for row in logs[1]] == [3, 6]
    assert logs[0][1]['sigreg'] == pytest.approx(logs[1][1]['sigreg'], rel=1e-3)


@pytest.fixture
def one_of_two(monkeypatch):
    """Makes this process the second of two that torchrun started, on as many GPUs as asked for."""
    def make(gpus):
        for name, value in (('WORLD_SIZE', 2), ('LOCAL_WORLD_SIZE', 2), ('RANK', 1),
                            ('LOCAL_RANK', 1), ('MASTER_ADDR', 'localhost')):
            monkeypatch.setenv(name, str(value))
        monkeypatch.setattr(torch.cuda, 'is_available', lambda: gpus > 0)
        monkeypatch.setattr(torch.cuda, 'device_count', lambda: gpus)
    return make


@pytest.mark.parametrize('device, gpus, words', [
    ('cuda', 0, 'it has 0 GPUs'), ('cuda', 1, '2 processes share this machine and it has 1 GPUs'),
    ('gpu', 2, "device='gpu' cannot be used"), ('cuda:0', 2, 'is one GPU')])
def test_processes_that_have_no_gpu_each_are_told_so(
        device, gpus, words, one_of_two, monkeypatch):
    """Those beyond the last GPU had ended with a traceback, while the first ones waited for them.
    And a device that nobody knows was the CPU."""
    from lewm_core import distributed

    def none_there(*_, **__):
        raise RuntimeError('CUDA error: invalid device ordinal')
    one_of_two(gpus)
    monkeypatch.setattr(torch.cuda, 'set_device', none_there)
    monkeypatch.setattr(torch.distributed, 'init_process_group', none_there)
    with pytest.raises(UserError, match=words), distributed.joined(device):
        pass


@pytest.mark.parametrize('gpus, error, steps', [
    (2, None, ['nccl', 'gloo', 'left']), (2, UserError, ['nccl', 'gloo']),
    (2, KeyboardInterrupt, ['nccl', 'gloo']), (0, None, ['gloo', 'left']),
    (0, UserError, ['gloo', 'left'])])
def test_after_an_error_a_process_does_not_wait_for_the_others_to_leave_nccl_with_it(
        gpus, error, steps, one_of_two, monkeypatch):
    """They wait in a step for the one that failed, which NCCL made wait for them: its error, of
    memory say, would have been read when the time limit of two hours had passed."""
    from lewm_core import distributed
    one_of_two(gpus)
    seen = []
    monkeypatch.setattr(torch.cuda, 'set_device', lambda device: None)
    for name, noted in (('init_process_group', lambda backend, timeout: seen.append(backend)),
                        ('new_group', lambda backend, timeout: seen.append(backend)),
                        ('destroy_process_group', lambda: seen.append('left'))):
        monkeypatch.setattr(torch.distributed, name, noted)
    with pytest.raises(error) if error else contextlib.nullcontext():
        with distributed.joined('auto') as device:
            assert device == ('cuda:1' if gpus else 'cpu')
            if error:
                raise error
    assert seen == steps and distributed._words is None


def test_a_batch_that_processes_cannot_share_is_refused(recording, toy_model, monkeypatch):
    from lewm_core import distributed
    from lewm_core.trainer import Trainer
    monkeypatch.setattr(distributed, 'size', lambda: 3)
    with pytest.raises(UserError, match='batch_size=16 cannot be shared equally by 3'):
        Trainer(recording, toy_model, TrainConfig(batch_size=16, device='cpu'))


def test_alone_sigreg_is_what_it_was():
    latents = torch.randn(4, 32, 8, generator=torch.Generator().manual_seed(0))
    first, second = (sigreg(z, 16, 17, torch.Generator().manual_seed(1))
                     for z in (latents, latents.double()))
    assert first.dtype == torch.float32 and second.dtype == torch.float64
    assert torch.isclose(first.double(), second, rtol=1e-4)
