"""Training with compiled networks: the same training, or a sentence about what is missing."""

import dataclasses
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import torch

from lewm_core.compiling import uncompiled
from lewm_core.config import TrainConfig
from lewm_core.trainer import Trainer

QUICK = TrainConfig(batch_size=8, precision='float32', device='cpu', threads=1)


@pytest.mark.skipif(
    shutil.which('g++') is None or not Path(sysconfig.get_path('include'), 'Python.h').exists(),
    reason="no C++ compiler (g++) with Python's headers here")
def test_compiled_networks_learn_the_same_and_keep_their_parameters_names(recording, toy_model):
    model = dataclasses.replace(toy_model, dropout=0.0)
    plain, compiled = (Trainer(recording, model, dataclasses.replace(QUICK, compile=asked))
                       for asked in (False, True))
    compiled.model.load_state_dict(plain.model.state_dict())
    for step in range(2):
        losses = [torch.stack(trainer.step(step, trainer.batch(step))[:3])
                  for trainer in (plain, compiled)]
        torch.testing.assert_close(*losses, rtol=1e-3, atol=1e-4)
    with uncompiled(compiled.model):
        pixels = torch.zeros((3, 16, 16, 3), dtype=torch.uint8)
        assert compiled.model.eval().encode(pixels).shape == (3, 8)


def test_without_a_compiler_it_says_so_in_one_sentence(recording, tmp_path):
    words = ['train', f'dataset={recording.path}', f'output={tmp_path}/run', 'model=tiny',
             'model.image_size=16', 'model.frameskip=3', 'train.device=cpu', 'train.compile=true']
    env = {**os.environ, 'CXX': '/bin/false', 'TORCHINDUCTOR_CACHE_DIR': str(tmp_path / 'cache')}
    done = subprocess.run([sys.executable, '-m', 'lewm_core.cli', *words], env=env, text=True,
                          capture_output=True, timeout=120)
    assert done.returncode == 1
    assert 'train.compile=true, but nothing can be compiled for cpu here' in done.stderr
    assert 'Traceback' not in done.stderr
