"""The benches of loader and training: small runs leave whole results."""

from __future__ import annotations

import json

from lewm_core.cli import main


def test_the_loaders_bench_measures_what_it_says_and_keeps_its_files(tmp_path, capsys):
    words = ['bench', 'loader', f'folder={tmp_path}/files', 'gigabytes=0.06', 'batch_size=8',
             'batches=2', 'rounds=2', f'output={tmp_path}/loader.json']
    assert main(words) == 0
    made = json.loads((tmp_path / 'loader.json').read_text())
    assert made['file_bytes'] > 0.06e9 and made['hardware']['cores'] >= 1
    assert made['clips_per_s'] > 0 and made['reference_clips_per_s'] > 0 and made['ratio'] > 0
    assert 'times as fast as chunked HDF5' in capsys.readouterr().out
    before = (tmp_path / 'files' / 'frames.h5').stat().st_mtime_ns
    assert main(words) == 0
    assert (tmp_path / 'files' / 'frames.h5').stat().st_mtime_ns == before


def test_the_training_bench_without_the_reference_library_says_so(tmp_path, capsys):
    assert main(['bench', 'train', 'batch_size=2', 'rounds=1', 'device=cpu',
                 f'output={tmp_path}/train.json']) == 0
    made = json.loads((tmp_path / 'train.json').read_text())
    assert made['reference'] == 'ours, float32' and made['clips_per_s'] > 0


def test_an_interpreter_without_the_reference_library_is_one_sentence(tmp_path, capfd):
    assert main(['bench', 'train', 'reference_python=/bin/false', 'batch_size=2', 'rounds=1',
                 'device=cpu', f'output={tmp_path}/train.json']) == 1
    assert "reference_python='/bin/false' cannot run stable-worldmodel" in capfd.readouterr().err
    assert not (tmp_path / 'train.json').exists()
