"""Training on the toy world: it learns, and says how it fares."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import re
from pathlib import Path

import pytest
import torch

from lewm_core.arrival import learn_tolerance
from lewm_core.checkpoint import load_checkpoint
from lewm_core.config import DataConfig, TrainConfig
from lewm_core.data import Dataset
from lewm_core.train import train
from lewm_core.precision import resolve_precision
from lewm_core.trainer import Trainer, learning_rate, resolve_device, seed_of
from lewm_core.types import UserError

QUICK = TrainConfig(steps=12, uncertainty_steps=3, batch_size=16, learning_rate=3e-3,
                    warmup=0.1, precision='float32', device='cpu',
                    validate_every=6, checkpoint_every=4, log_every=2,
                    tensorboard=False, threads=1)


def weights(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint, by name."""
    return load_checkpoint(path).model.state_dict()


@pytest.fixture(scope='module')
def learned(recording, toy_model, tmp_path_factory) -> Path:
    """A run long enough to learn the toy world."""
    config = dataclasses.replace(QUICK, steps=300, batch_size=64, log_every=50,
                                 validate_every=100, checkpoint_every=300)
    folder = tmp_path_factory.mktemp('learned') / 'run'
    train(recording, dataclasses.replace(toy_model, dropout=0.0), DataConfig(), config, folder)
    return folder


def test_a_run_leaves_the_random_numbers_and_threads_of_its_caller_alone(
        recording, toy_model, tmp_path):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    before = torch.get_num_threads()
    train(recording, toy_model, DataConfig(), dataclasses.replace(QUICK, steps=2), tmp_path)
    assert torch.equal(torch.rand(3), expected) and torch.get_num_threads() == before


def test_a_loss_that_is_not_finite_stops_with_the_step_and_the_windows(
        recording, toy_model, tmp_path, monkeypatch):
    step = Trainer.step

    def poisoned(self, number, batch):
        if number == 6:
            with torch.no_grad():
                self.model.projector.net[3].bias.fill_(math.nan)
        return step(self, number, batch)

    monkeypatch.setattr(Trainer, 'step', poisoned)
    with pytest.raises(UserError, match='loss of step 7 is nan') as error:
        train(recording, toy_model, DataConfig(), QUICK, tmp_path)
    starts = Trainer(recording, toy_model, QUICK).sampler(6)
    for start in starts.tolist():  # episodes of 60 rows
        assert re.search(rf'episode {start // 60} row [\d, ]*\b{start}\b', str(error.value))
    monkeypatch.undo()
    state = torch.load(tmp_path / 'trainer.pt', weights_only=True)
    assert state['step'] == 4
    assert all(value.isfinite().all() for value in state['model'].values())


@pytest.mark.parametrize('frames', ['mapped', 'resident'])
def test_a_step_that_does_not_fit_on_the_gpu_is_a_user_error(
        recording, toy_model, tmp_path, monkeypatch, frames):
    def step(self, number, batch):
        raise torch.cuda.OutOfMemoryError('Tried to allocate 20 GiB')

    monkeypatch.setattr(Trainer, 'step', step)
    with pytest.raises(UserError, match='train.batch_size=16 windows needs more') as error:
        train(recording, toy_model, DataConfig(), dataclasses.replace(QUICK, frames=frames),
              tmp_path)
    assert ('train.frames=mapped' in str(error.value)) == (frames == 'resident')


@pytest.mark.parametrize('dropout, term', [(0.0, 'sigreg'), (0.5, 'prediction')])
def test_another_seed_draws_other_directions_and_dropout_for_the_same_model_and_windows(
        recording, toy_model, dropout, term):
    """A CPU's generator looks at the lowest 32 bits of its seed, and the run's seed was above
    them: runs of different seeds shared every direction of SIGReg and every dropout mask."""
    model = dataclasses.replace(toy_model, dropout=dropout)
    trainers = [Trainer(recording, model, dataclasses.replace(QUICK, seed=seed))
                for seed in (0, 1, 0)]
    for layer in trainers[0].model.predictor.transformer.layers:  # else nothing is dropped
        torch.nn.init.normal_(layer.adaLN_modulation[1].weight)
    batch = trainers[0].batch(0)
    for trainer in trainers[1:]:
        trainer.model.load_state_dict(trainers[0].model.state_dict())
    found = [float(getattr(trainer.step(3, batch), term).detach()) for trainer in trainers]
    assert found[0] == found[2] != found[1]


def test_the_seeds_of_runs_processes_and_steps_do_not_meet():
    seeds = [seed_of(seed, step, process) for seed in (0, 1, 2, 2**31 - 1)
             for process in range(16) for step in (*range(200), *range(139_000, 139_200))]
    assert len(set(seeds)) == len(seeds) and 0 <= min(seeds) <= max(seeds) < 2**32


def test_the_learning_rate_rises_in_a_line_and_falls_along_a_cosine():
    config = TrainConfig(steps=1000, warmup=0.1, learning_rate=2e-3)
    rates = [learning_rate(step, config) for step in range(1000)]
    assert rates[0] == pytest.approx(2e-5) and rates[49] == pytest.approx(1e-3)
    assert max(rates) == rates[99] == pytest.approx(2e-3)
    assert rates[550] == pytest.approx(1e-3) and rates[-1] < 1e-7
    assert all(a >= b for a, b in zip(rates[100:], rates[101:]))


def test_the_log_holds_what_a_reader_needs(learned):
    lines = [json.loads(line) for line in (learned / 'metrics.jsonl').read_text().splitlines()]
    assert [line['step'] for line in lines] == [50, 100, 150, 200, 250, 300]
    keys = {'step', 'loss', 'prediction', 'sigreg', 'latent_std_min', 'latent_std_mean',
            'effective_rank', 'normal_distance', 'gradient', 'lr', 'steps_per_s',
            'windows_per_s', 'seconds_left'}
    assert all(keys <= line.keys() for line in lines)
    for line in lines:  # each dimension's: a dead one is seen by its number
        assert len(line['latent_std']) == 8
        assert min(line['latent_std']) == pytest.approx(line['latent_std_min'], rel=1e-3)
    assert [line['step'] for line in lines if 'val_loss' in line] == [100, 200, 300]
    assert [line['step'] for line in lines if 'val_skill' in line] == [100, 200, 300]
    config = json.loads((learned / 'config.json').read_text())
    assert config['train']['steps'] == 300 and config['dataset']['episodes'] == 20


def test_every_validation_is_in_the_log_whatever_the_steps_between_lines(
        recording, toy_model, tmp_path):
    """Its figures were only in a line of the same step: with validate_every=7 and log_every=5 all
    validations but the last were measured, chose the best model, and were never written."""
    config = dataclasses.replace(QUICK, validate_every=5, checkpoint_every=12, log_every=3)
    train(recording, toy_model, DataConfig(), config, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()]
    assert [line['step'] for line in lines] == [3, 5, 6, 9, 10, 12]
    assert [line['step'] for line in lines if 'val_skill' in line] == [5, 10, 12]


def test_training_learns_where_the_robot_is_and_where_it_goes(learned):
    figures = load_checkpoint(learned / 'model.safetensors').metrics['evaluation']
    assert figures['split'] == 'test' and figures['probe_r2_min'] > 0.6
    assert figures['one_step_skill'] > 0.3
    assert figures['latent']['std_min'] > 0.5 and figures['collapsed'] is None


def test_a_finished_run_says_how_near_its_goals_are(learned, recording):
    checkpoint = load_checkpoint(learned / 'model.safetensors')
    found = checkpoint.metrics['goal_tolerance']
    assert found == learn_tolerance(checkpoint.model, recording.with_split(checkpoint.data))
    assert 0 < found['tolerance'] < 1 and found['confusion'] < 0.1


def test_without_sigreg_the_latents_collapse_and_the_log_says_what_to_do(
        recording, toy_model, tmp_path, caplog):
    config = dataclasses.replace(QUICK, steps=300, batch_size=64, log_every=50)
    model = dataclasses.replace(toy_model, sigreg_weight=0.0, dropout=0.0)
    with pytest.raises(UserError, match='stopped at step .*raise model.sigreg_weight'):
        train(recording, model, DataConfig(), config, tmp_path)
    caplog.clear()
    reports, config = [], dataclasses.replace(config, stop_on_collapse=False)
    with caplog.at_level(logging.WARNING):  # and goes on where it was, if it is told to
        path = train(recording, model, DataConfig(), config, tmp_path, on_progress=reports.append)
    warnings = [r.getMessage() for r in caplog.records if 'collapsed' in r.getMessage()]
    assert len(warnings) == 1 and 'raise model.sigreg_weight' in warnings[0]
    assert 'raise model.sigreg_weight' in reports[-1].collapsed
    figures = load_checkpoint(path).metrics['evaluation']
    assert figures['latent']['std_min'] < 0.1 and 'collapsed' in figures['collapsed']


def test_a_collapse_ends_a_run_that_is_interrupted_as_soon_as_one_that_is_not(
        recording, toy_model, tmp_path):
    """A resumed run forgot since when its latents had been collapsed: one that was stopped often
    enough trained them to the end."""
    config = dataclasses.replace(QUICK, steps=300, learning_rate=1e-2, log_every=10,
                                 validate_every=300, checkpoint_every=300)
    model = dataclasses.replace(toy_model, sigreg_weight=0.0, dropout=0.0)
    with pytest.raises(UserError, match='stopped at step') as whole:
        train(recording, model, DataConfig(), config, tmp_path / 'whole')
    with pytest.raises(UserError, match='stopped at step') as parts:
        for end in range(60, 300, 60):
            train(recording, model, DataConfig(), config, tmp_path / 'parts',
                  should_stop=lambda steps=iter(range(59)): next(steps, None) is None)
            assert load_checkpoint(tmp_path / 'parts' / 'model.safetensors').metrics['step'] == end
    assert str(parts.value) == str(whole.value)


def test_progress_counts_to_the_end(recording, toy_model, tmp_path):
    reports = []
    train(recording, toy_model, DataConfig(), QUICK, tmp_path, on_progress=reports.append)
    assert [r.step for r in reports] == [2, 4, 6, 8, 10, 12]
    assert all(r.steps == 12 and r.steps_per_s > 0 for r in reports)
    assert reports[-1].seconds_left == 0 and reports[-1].validation_loss > 0
    assert reports[0].validation_loss is None


def test_too_little_ordinary_driving_leaves_surprise_uncalibrated(record, toy_model, tmp_path,
                                                                  caplog):
    few = record(tmp_path / 'few.h5', [30] * 6)
    with caplog.at_level(logging.WARNING):
        path = train(few, toy_model, DataConfig(), QUICK, tmp_path / 'run')
    assert load_checkpoint(path).calibration is None
    assert 'surprise is not calibrated' in caplog.text


def test_surprise_is_calibrated_on_the_episodes_kept_for_it(record, toy_model, tmp_path):
    dataset = record(tmp_path / 'd.h5', [181] * 10)
    data = DataConfig(calibration=0.5)
    checkpoint = load_checkpoint(train(dataset, toy_model, data, QUICK, tmp_path / 'run'))
    episodes = dataset.with_split(data).episodes('calibration')
    assert len(episodes) == 5 and checkpoint.calibration['blocks'] == 5 * 60


def test_a_single_episode_trains_without_held_out_figures(record, toy_model, tmp_path, caplog):
    one = record(tmp_path / 'one.h5', [120])
    with caplog.at_level(logging.WARNING):
        path = train(one, toy_model, DataConfig(), QUICK, tmp_path / 'run')
    assert 'evaluation' not in load_checkpoint(path).metrics
    assert 'no episode is held out' in caplog.text


def test_a_test_episode_of_one_frame_does_not_cost_the_run_its_model(record, toy_model, tmp_path):
    """After the last step the evaluation asked for two frames, so the run ended with an error
    and without model.safetensors, and so it did whenever it was resumed."""
    lengths = [60] * 8
    for episode in record(tmp_path / 'long.h5', lengths).episodes('test'):
        lengths[episode] = 1
    dataset = record(tmp_path / 'short.h5', lengths)
    assert len(dataset.rows('test')) == 1
    path = train(dataset, toy_model, DataConfig(), QUICK, tmp_path / 'run')
    assert load_checkpoint(path).metrics['evaluation']['split'] == 'validation'


def test_too_few_windows_leave_no_folder(record, toy_model, tmp_path):
    few = record(tmp_path / 'few.h5', [12, 12])
    with pytest.raises(UserError, match='hold 3 windows, but batch_size is 16'):
        train(few, toy_model, DataConfig(), QUICK, tmp_path / 'run')
    assert not (tmp_path / 'run').exists()


def test_a_device_that_is_not_there_is_a_user_error():
    with pytest.raises(UserError, match="device='cuda:99' cannot be used"):
        resolve_device('cuda:99')
    with pytest.raises(UserError, match="device='gpu' cannot be used"):
        resolve_device('gpu')
    assert resolve_device('auto').type in ('cpu', 'cuda')


def test_precision_is_what_was_asked_for():
    cpu = torch.device('cpu')
    assert resolve_precision('bf16', cpu) == 'bf16'
    assert resolve_precision('float32', cpu) == 'float32'
    assert resolve_precision('auto', cpu) in ('float32', 'bf16')


@pytest.mark.parametrize('capability, name', [((7, 5), 'float32'), ((8, 0), 'bf16'),
                                              ((9, 0), 'bf16')])
def test_auto_is_what_the_gpu_that_is_asked_for_is_fast_at(monkeypatch, capability, name):
    """It had asked the first GPU, by a word that PyTorch before 2.4 does not know."""
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda device: {
        0: (9, 0), 1: capability}[device.index])
    assert resolve_precision('auto', torch.device('cuda:1')) == name


def test_bf16_trains_on_a_cpu(recording, toy_model, tmp_path):
    config = dataclasses.replace(QUICK, precision='bf16')
    path = train(recording, toy_model, DataConfig(), config, tmp_path)
    assert all(v.isfinite().all() for v in weights(path).values())


def test_the_split_of_the_run_is_the_one_evaluated(recording, toy_model, tmp_path):
    data = DataConfig(split_seed=4)
    path = train(recording, toy_model, data, QUICK, tmp_path)
    assert load_checkpoint(path).data == data
    mean = load_checkpoint(path).model.action_mean
    rows_4 = Dataset.open(recording.path).with_split(data).rows('train')
    actions = torch.from_numpy(recording.action[rows_4])
    assert torch.allclose(mean, actions[actions.isfinite().all(1)].mean(0), atol=1e-6)
