"""A training run that was stopped or killed goes on bit for bit, or says why it will not."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lewm_core.checkpoint import load_checkpoint
from lewm_core.config import DataConfig, PlannerConfig, TrainConfig
from lewm_core.train import train
from lewm_core.types import UserError

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
QUICK = TrainConfig(steps=12, uncertainty_steps=3, batch_size=16, learning_rate=3e-3,
                    warmup=0.1, precision='float32', device='cpu',
                    validate_every=6, checkpoint_every=4, log_every=2,
                    tensorboard=False, threads=1)


def weights(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint, by name."""
    return load_checkpoint(path).model.state_dict()


def assert_same(one: Path, other: Path) -> None:
    """Fails unless both checkpoints hold the same weights, bit for bit."""
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def rows(folder: Path) -> list[dict]:
    """The lines of metrics.jsonl without what the clock decides."""
    lines = [json.loads(line) for line in (folder / 'metrics.jsonl').read_text().splitlines()]
    clock = ('steps_per_s', 'windows_per_s', 'seconds', 'seconds_left')
    return [{k: v for k, v in row.items() if k not in clock} for row in lines]


@pytest.fixture(scope='module')
def uninterrupted(recording, toy_model, tmp_path_factory) -> Path:
    """The checkpoint of twelve steps in one go."""
    return train(recording, toy_model, DataConfig(), QUICK, tmp_path_factory.mktemp('run') / 'run')


def test_a_stopped_run_goes_on_bit_for_bit(recording, toy_model, tmp_path, uninterrupted):
    seen = []

    def stop_once():
        seen.append(None)
        return len(seen) == 5

    path = train(recording, toy_model, DataConfig(), QUICK, tmp_path, should_stop=stop_once)
    metrics = load_checkpoint(path).metrics
    assert metrics['step'] == 5 and metrics['finished'] is False
    steps = []
    train(recording, toy_model, DataConfig(), QUICK, tmp_path,
          on_progress=lambda progress: steps.append(progress.step))
    assert steps[0] == 6 and steps[-1] == 12
    assert_same(path, uninterrupted)
    assert load_checkpoint(path).metrics['finished'] is True
    assert rows(tmp_path)[-3:] == rows(uninterrupted.parent)[-3:]


def test_a_run_killed_at_any_moment_goes_on_bit_for_bit(recording, toy_model, tmp_path):
    config = dataclasses.replace(QUICK, steps=45, checkpoint_every=1, log_every=1)
    script = f"""
import sys; sys.path[:0] = [{str(ROOT)!r}, {str(HERE)!r}]
from lewm_core.config import *
from lewm_core.data import Dataset
from lewm_core.train import train
train(Dataset.open({str(recording.path)!r}), {toy_model!r}, DataConfig(), {config!r},
      {str(tmp_path / 'killed')!r}, on_progress=lambda p: print(p.step, flush=True))
"""
    moment = random.Random()
    for _ in range(2):
        process = subprocess.Popen([sys.executable, '-c', script], stdout=subprocess.PIPE,
                                   text=True)
        for _ in range(moment.randint(1, 20)):
            assert process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (tmp_path / 'killed' / 'model.safetensors').exists()
    path = train(recording, toy_model, DataConfig(), config, tmp_path / 'killed')
    whole = train(recording, toy_model, DataConfig(), config, tmp_path / 'whole')
    assert_same(path, whole)
    assert rows(tmp_path / 'killed') == rows(tmp_path / 'whole')
    assert sorted(os.listdir(tmp_path / 'killed')) == sorted(os.listdir(tmp_path / 'whole'))


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(
        recording, toy_model, tmp_path, uninterrupted):
    torch.manual_seed(12345)
    assert_same(train(recording, toy_model, DataConfig(), QUICK, tmp_path / 'a'), uninterrupted)
    config = dataclasses.replace(QUICK, seed=1)
    other = weights(train(recording, toy_model, DataConfig(), config, tmp_path / 'b'))
    name = 'projector.net.0.weight'
    assert not torch.equal(other[name], weights(uninterrupted)[name])


def test_a_finished_run_is_kept_unless_overwritten(recording, toy_model, tmp_path):
    config = dataclasses.replace(QUICK, steps=2)
    path = train(recording, toy_model, DataConfig(), config, tmp_path)
    (tmp_path / 'data.h5').write_text('of someone else')
    before = path.read_bytes()
    with pytest.raises(UserError, match='holds a finished run; give another output or overwrite'):
        train(recording, toy_model, DataConfig(), config, tmp_path)
    assert path.read_bytes() == before
    longer = dataclasses.replace(config, steps=3)
    train(recording, toy_model, DataConfig(), longer, tmp_path, overwrite=True)
    assert load_checkpoint(path).metrics['step'] == 3
    assert (tmp_path / 'data.h5').read_text() == 'of someone else'


def stop_after(steps: int):
    """A `should_stop` that turns true after `steps` steps."""
    asked = []
    return lambda: asked.append(None) or len(asked) >= steps


@pytest.mark.parametrize('group, change, named', [
    ('train', {'batch_size': 8}, 'train.batch_size=16, but 8 is asked for'),
    ('train', {'steps': 20}, 'train.steps=12, but 20'),
    ('train', {'validate_every': 3}, 'train.validate_every=6, but 3'),
    ('model', {'latent_dim': 4}, 'model.latent_dim=8, but 4'),
    ('data', {'split_seed': 3}, 'data.split_seed=0, but 3')])
def test_an_unfinished_run_resumes_only_with_its_own_settings(
        recording, toy_model, tmp_path, group, change, named):
    train(recording, toy_model, DataConfig(), QUICK, tmp_path, should_stop=stop_after(3))
    configs = {'model': toy_model, 'data': DataConfig(), 'train': QUICK}
    configs[group] = dataclasses.replace(configs[group], **change)
    with pytest.raises(UserError, match=named):
        train(recording, configs['model'], configs['data'], configs['train'], tmp_path)


def test_an_unfinished_run_keeps_to_the_horizon_of_the_skill_that_keeps_its_model(
        recording, toy_model, tmp_path):
    """The best of 5 blocks ahead was compared with later ones of 2, and the easier figure won."""
    train(recording, toy_model, DataConfig(), QUICK, tmp_path, should_stop=stop_after(3))
    with pytest.raises(UserError, match='planner.horizon=5, but 2'):
        train(recording, toy_model, DataConfig(), QUICK, tmp_path,
              planner=PlannerConfig(horizon=2))
    train(recording, toy_model, DataConfig(), QUICK, tmp_path, planner=PlannerConfig(samples=50))


def test_an_unfinished_run_resumes_only_on_its_own_frames(recording, record, toy_model, tmp_path):
    train(recording, toy_model, DataConfig(), QUICK, tmp_path, should_stop=stop_after(3))
    other = record(tmp_path / 'other.h5', [60] * 20, seed=1)
    with pytest.raises(UserError, match='dataset.sha256'):
        train(other, toy_model, DataConfig(), QUICK, tmp_path)


def test_what_changes_no_weight_may_change_when_a_run_goes_on(recording, toy_model, tmp_path,
                                                              uninterrupted):
    train(recording, toy_model, DataConfig(), QUICK, tmp_path, should_stop=stop_after(3))
    config = dataclasses.replace(QUICK, log_every=1, checkpoint_every=2, stop_on_collapse=False)
    assert_same(train(recording, toy_model, DataConfig(), config, tmp_path), uninterrupted)


def test_a_run_from_before_there_was_a_compiler_goes_on(
        recording, toy_model, tmp_path, uninterrupted):
    """Its config.json knows nothing of train.compile, which changes nothing but rounding."""
    train(recording, toy_model, DataConfig(), QUICK, tmp_path, should_stop=stop_after(3))
    config = json.loads((tmp_path / 'config.json').read_text())
    del config['train']['compile']
    (tmp_path / 'config.json').write_text(json.dumps(config))
    assert_same(train(recording, toy_model, DataConfig(), QUICK, tmp_path), uninterrupted)


def test_an_unfinished_run_is_not_started_afresh_by_accident(recording, toy_model, tmp_path):
    train(recording, toy_model, DataConfig(), QUICK, tmp_path, should_stop=stop_after(3))
    with pytest.raises(UserError, match='holds an unfinished run'):
        train(recording, toy_model, DataConfig(), QUICK, tmp_path, resume=False)


def test_two_runs_never_write_to_one_folder(recording, toy_model, tmp_path):
    def second(progress):
        with pytest.raises(UserError, match='another process is training in'):
            train(recording, toy_model, DataConfig(), QUICK, tmp_path)

    train(recording, toy_model, DataConfig(), dataclasses.replace(QUICK, steps=2), tmp_path,
          on_progress=second)


def test_a_damaged_trainer_state_is_a_user_error(recording, toy_model, tmp_path):
    train(recording, toy_model, DataConfig(), QUICK, tmp_path, should_stop=stop_after(3))
    whole = (tmp_path / 'trainer.pt').read_bytes()
    for damaged in (whole[:1000], b'', b'hello'):
        (tmp_path / 'trainer.pt').write_bytes(damaged)
        with pytest.raises(UserError, match='cannot be read'):
            train(recording, toy_model, DataConfig(), QUICK, tmp_path)


@pytest.mark.parametrize('error', [OSError(errno.ENOSPC, 'No space left on device'),
                                   RuntimeError('unexpected pos 64 vs 0')], ids=repr)
def test_a_full_disk_is_a_user_error_and_the_run_goes_on_when_there_is_room(
        recording, toy_model, tmp_path, uninterrupted, monkeypatch, error):
    """PyTorch's writer told of positions, at the end of a page of traceback."""
    save, saved = torch.save, []

    def short_of_room(state, path):
        saved.append(path)
        if len(saved) == 2:
            path.write_bytes(b'a part')
            raise error
        save(state, path)

    monkeypatch.setattr(torch, 'save', short_of_room)
    with pytest.raises(UserError, match='cannot be written .*make room there'):
        train(recording, toy_model, DataConfig(), QUICK, tmp_path)
    monkeypatch.undo()
    assert torch.load(tmp_path / 'trainer.pt', weights_only=True)['step'] == 4
    assert not list(tmp_path.glob('*.partial*'))
    assert_same(train(recording, toy_model, DataConfig(), QUICK, tmp_path), uninterrupted)


def test_an_output_that_is_no_folder_is_a_user_error(recording, toy_model, tmp_path):
    (tmp_path / 'file').write_text('of someone else')
    for output in (tmp_path / 'file', tmp_path / 'file' / 'run'):
        with pytest.raises(UserError, match='cannot be written'):
            train(recording, toy_model, DataConfig(), QUICK, output)


def test_a_line_that_a_kill_cut_short_is_dropped(recording, toy_model, tmp_path, uninterrupted):
    train(recording, toy_model, DataConfig(), QUICK, tmp_path, should_stop=stop_after(4))
    with (tmp_path / 'metrics.jsonl').open('a') as file:
        file.write('{"step": 6, "loss": 1.0}\n{"step": 7, "lo')
    train(recording, toy_model, DataConfig(), QUICK, tmp_path)
    assert rows(tmp_path) == rows(uninterrupted.parent)


def test_tensorboard_is_written_where_it_is_installed(recording, toy_model, tmp_path):
    pytest.importorskip('tensorboard')
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    config = dataclasses.replace(QUICK, tensorboard=True)
    train(recording, toy_model, DataConfig(), config, tmp_path, should_stop=stop_after(4))
    train(recording, toy_model, DataConfig(), config, tmp_path)
    events = EventAccumulator(str(tmp_path / 'tensorboard'))
    events.Reload()
    assert [e.step for e in events.Scalars('loss')] == [2, 4, 6, 8, 10, 12]
    assert {'val_loss', 'latent_std_min', 'effective_rank', 'lr'} <= set(events.Tags()['scalars'])
    assert 'latent_std' in events.Tags()['histograms']
