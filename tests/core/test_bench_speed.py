"""The benches of loader and training: small runs leave whole results."""

from __future__ import annotations

import json

import torch

from lewm_core.bench.loader import _files
from lewm_core.cli import main
from lewm_core.config import ModelConfig


def test_the_loaders_bench_measures_what_it_says_and_keeps_its_files(tmp_path, capsys):
    words = ['bench', 'loader', f'folder={tmp_path}/files', 'gigabytes=0.03', 'batch_size=8',
             'batches=1', 'rounds=1', f'output={tmp_path}/loader.json']
    assert main(words) == 0
    made = json.loads((tmp_path / 'loader.json').read_text())
    assert made['file_bytes'] > 0.03e9 and made['hardware']['cores'] >= 1
    assert made['clips_per_s'] > 0 and made['reference_clips_per_s'] > 0 and made['ratio'] > 0
    assert 'times as fast as chunked HDF5' in capsys.readouterr().out
    before = (tmp_path / 'files' / 'frames.h5').stat().st_mtime_ns
    _files(tmp_path / 'files' / 'frames.h5', tmp_path / 'files' / 'chunked.h5', 0.03)
    assert (tmp_path / 'files' / 'frames.h5').stat().st_mtime_ns == before


def test_the_training_bench_without_the_reference_library_says_so(tmp_path, monkeypatch):
    small = ModelConfig(encoder_depth=1, predictor_depth=1, patch_size=56, projector_hidden=32)
    monkeypatch.setattr('lewm_core.bench.train.ModelConfig', lambda: small)
    assert main(['bench', 'train', 'batch_size=2', 'rounds=1', 'device=auto',
                 f'output={tmp_path}/train.json']) == 0
    made = json.loads((tmp_path / 'train.json').read_text())
    assert made['reference'] == 'ours, float32' and made['clips_per_s'] > 0
    assert made['device'] in ('cpu', 'cuda')  # and not what was asked for


def test_a_step_that_the_gpu_has_no_room_for_is_one_sentence(tmp_path, monkeypatch, capsys):
    """It was a traceback, and a batch for the GPU is the first thing to try there."""
    def step(self, number, batch):
        raise torch.cuda.OutOfMemoryError('Tried to allocate 20 GiB')
    small = ModelConfig(encoder_depth=1, predictor_depth=1, patch_size=56, projector_hidden=32)
    monkeypatch.setattr('lewm_core.bench.train.ModelConfig', lambda: small)
    monkeypatch.setattr('lewm_core.trainer.Trainer.step', step)
    assert main(['bench', 'train', 'batch_size=2', 'rounds=1', 'device=cpu',
                 f'output={tmp_path}/train.json']) == 1
    assert 'a step of batch_size=2 in bf16 needs more memory' in capsys.readouterr().err


def test_an_interpreter_without_the_reference_library_is_one_sentence(tmp_path, capfd):
    assert main(['bench', 'train', 'reference_python=/bin/false', 'batch_size=2', 'rounds=1',
                 'device=cpu', f'output={tmp_path}/train.json']) == 1
    assert "reference_python='/bin/false' cannot run stable-worldmodel" in capfd.readouterr().err
    assert not (tmp_path / 'train.json').exists()
