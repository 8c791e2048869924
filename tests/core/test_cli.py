"""`lewm`: what it prints, what it writes, and its exit codes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lewm_core.checkpoint import read_metadata
from lewm_core.cli import _RUNNERS, main
from lewm_core.compose import options
from lewm_core.data import DatasetWriter
from lewm_core.evaluate import evaluate_checkpoint
from lewm_core.jobs import JOBS
from lewm_core.paths import load_robot

ROOT = Path(__file__).resolve().parents[2]
SMALL = ('train.steps=3', 'train.batch_size=4', 'train.tensorboard=false', 'train.device=cpu',
         'train.proposal_steps=3', 'train.distance_steps=3', 'train.uncertainty_steps=3',
         'model.conv_channels=[4,4,4,4]', 'model.latent_dim=4', 'model.predictor_width=16')


@pytest.fixture(scope='module')
def dataset(tmp_path_factory):
    """A dataset of a dot that goes where it is told, in ten episodes."""
    path = tmp_path_factory.mktemp('dataset') / 'data.h5'
    rng = np.random.default_rng(0)
    with DatasetWriter(path, load_robot('two_room')) as writer:
        for episode in range(10):
            actions = rng.uniform(-0.4, 0.4, (40, 2))
            where = np.clip(0.5 + np.cumsum(actions, 0) / 10, 0.1, 0.9)
            pixels = np.zeros((40, 64, 64, 3), np.uint8)
            for frame, (x, y) in zip(pixels, (where * 60).astype(int)):
                frame[y:y + 4, x:x + 4] = 255
            writer.add_episode(pixels, actions, np.arange(40) * 10**8,
                               {'x': where[:, 0], 'y': where[:, 1]})
    return path


@pytest.fixture(scope='module')
def run(dataset, tmp_path_factory):
    """The folder of a short training run."""
    folder = tmp_path_factory.mktemp('run') / 'out'
    assert main(['train', f'dataset={dataset}', f'output={folder}', *SMALL]) == 0
    return folder


@pytest.fixture
def lewm(capsys):
    """`lewm` with these words: its exit code, what it printed, and what it said on stderr."""
    def call(*words):
        try:
            code = main(words)
        except SystemExit as end:  # argparse's way
            code = end.code
        return code, *capsys.readouterr()
    return call


def test_a_signal_after_the_last_step_finishes_the_run_and_says_so(
        dataset, tmp_path, lewm, monkeypatch):
    """It said "stopped; the same command goes on from here" and exited with 130, but the run was
    finished: the same command was refused."""
    def interrupted(*given):
        os.kill(os.getpid(), signal.SIGINT)
        return evaluate_checkpoint(*given)

    monkeypatch.setattr('lewm_core.train.evaluate_checkpoint', interrupted)
    code, said, error = lewm('train', f'dataset={dataset}', f'output={tmp_path}', *SMALL)
    assert code == 0 and said == f'{tmp_path / "model.safetensors"}\n' and 'stopped' not in error
    assert read_metadata(tmp_path / 'model.safetensors')['metrics']['finished']


def test_the_exit_code_is_that_of_the_process():
    """One process for all: what is printed and returned is looked at in this one."""
    made = subprocess.run([sys.executable, '-m', 'lewm_core.cli', 'inspect', 'no_such'], cwd=ROOT,
                          text=True, capture_output=True)
    assert made.returncode == 1 and made.stdout == ''
    assert made.stderr.startswith("lewm inspect: 'no_such' does not exist")
    assert len(made.stderr.splitlines()) == 1


def test_every_job_has_what_runs_it_and_only_the_ros_program_is_no_command():
    assert set(_RUNNERS) == set(JOBS) - {'train_from_bags'}
    for place in _RUNNERS.values():
        module, _, function = place.partition(':')
        source = (ROOT / f'{module.replace(".", "/")}.py').read_text()
        assert f'\ndef {function}(job: ' in source, place


def test_lewm_names_its_version_and_its_jobs(lewm):
    assert lewm('--version')[1].startswith('lewm 0.')
    _, text, _ = lewm('--help')
    assert all(job in text for job in ('demo', 'convert', 'train', 'evaluate', 'inspect'))


@pytest.mark.parametrize('job', _RUNNERS)
def test_help_lists_every_key(job, lewm):
    bench = job.removeprefix('bench_')
    code, text, _ = lewm(*(['bench', bench] if bench != job else [job.replace('_', '-')]),
                         '--help')
    assert code == 0
    assert all(f'{option.key}=' in text for option in options(job))


def test_show_prints_the_composed_job_and_does_nothing(lewm):
    code, text, _ = lewm('train', '--show', 'dataset=none.h5', 'train.steps=7')
    assert code == 0 and '  steps: 7\n' in text


@pytest.mark.parametrize(('words', 'code'), [
    (('train', 'train.step=3'), 2), (('train',), 2), (('train', 'dataset=no_such.h5'), 1),
    (('evaluate', 'checkpoint=no_such', 'dataset=no_such'), 1), (('inspect', 'no_such'), 1),
    (('no_such',), 2), ((), 2)])
def test_a_users_error_is_one_sentence_and_an_exit_code(words, code, lewm):
    returned, _, said = lewm(*words)
    assert returned == code
    if words and words[0] != 'no_such':
        assert len(said.strip().splitlines()) == 1


def test_a_finished_run_is_not_trained_over(run, dataset, capsys):
    before = (run / 'model.safetensors').read_bytes()
    assert main(['train', f'dataset={dataset}', f'output={run}', *SMALL]) == 1
    assert 'overwrite=true' in capsys.readouterr().err
    assert (run / 'model.safetensors').read_bytes() == before


def test_evaluate_writes_its_figures_and_a_page_that_needs_nothing_else_once(run, dataset,
                                                                             tmp_path, capsys):
    words = ['evaluate', f'checkpoint={run}/model.safetensors', f'dataset={dataset}',
             f'output={tmp_path}/made', f'compare={dataset}', 'trajectories=4', 'hours=0.01',
             'calibration_minutes=1', 'calibrations=1', 'goals=1', 'frames=60', 'windows=10',
             'probe_steps=5', 'decoder_steps=2', 'resamples=20']
    assert main(words) == 0
    page, figures = capsys.readouterr().out.split()
    found = json.loads(Path(figures).read_text())
    assert list(found['sections']) == ['probes', 'open_loop', 'straightness', 'surprise',
                                       'robustness', 'decoder', 'gap']
    assert set(found['sections']['probes']['columns']) == {'x', 'y'}
    text = Path(page).read_text()
    assert 'data:image/png' in text and 'http' not in text and '<script' not in text
    assert main(['inspect', f'{tmp_path}/made/with_decoder.safetensors']) == 0
    capsys.readouterr()
    assert main(words) == 1
    assert 'exists already' in capsys.readouterr().err
    assert main([*words, 'overwrite=true', 'sections=[everything]']) == 1
    assert "['everything'] is not a choice of" in capsys.readouterr().err


def test_inspect_tells_by_content_not_by_name(run, dataset, tmp_path, capsys):
    shutil.copy(dataset, tmp_path / 'a.mcap')
    shutil.copy(run / 'model.safetensors', tmp_path / 'b.h5')
    assert main(['inspect', str(tmp_path / 'a.mcap')]) == 0
    assert 'dataset' in capsys.readouterr().out
    assert main(['inspect', str(tmp_path / 'b.h5')]) == 0
    assert 'checkpoint' in capsys.readouterr().out
    assert main(['inspect', str(run)]) == 0
    assert 'checkpoint' in capsys.readouterr().out


@pytest.mark.parametrize('content', [b'', b'words', b'0123456789abcdef' * 9])
def test_inspect_refuses_what_it_does_not_know(content, tmp_path, capsys):
    (tmp_path / 'file').write_bytes(content)
    assert main(['inspect', str(tmp_path / 'file')]) == 1
    text = capsys.readouterr().err
    assert 'file' in text and len(text.splitlines()) == 1


def test_inspect_says_that_a_run_has_no_checkpoint_yet(tmp_path, capsys):
    (tmp_path / 'conversion.json').write_text('{}')
    assert main(['inspect', str(tmp_path)]) == 1
    assert 'has no checkpoint yet; let the same command go on' in capsys.readouterr().err
