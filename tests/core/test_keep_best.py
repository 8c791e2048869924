"""Which model a run keeps, when it stops by itself, and what it starts from."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import types

import numpy as np
import pytest
import torch

from lewm_core.checkpoint import load_checkpoint
from lewm_core.config import DataConfig, TrainConfig
from lewm_core.environment import git_state
from lewm_core.losses import prediction_losses
from lewm_core.monitor import latent_statistics
from lewm_core.pldm import PLDM, variance_covariance
from lewm_core.progress import CollapseWatch
from lewm_core.robot import ActionField, ActionSpec
from lewm_core.skill import _skill, open_loop_skill
from lewm_core.train import train
from lewm_core.trainer import Trainer
from lewm_core.types import UserError

QUICK = TrainConfig(steps=8, uncertainty_steps=3, batch_size=16, learning_rate=3e-3,
                    warmup=0.1, precision='float32', device='cpu',
                    validate_every=2, checkpoint_every=4, log_every=2,
                    tensorboard=False, threads=1)


def latents_of(skill_of_each: tuple[float, ...], seed: int = 0
               ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Latents that wander, and guesses of them that are off by a share of each dimension."""
    rng = np.random.default_rng(seed)
    every = rng.normal(size=(400, 6, len(skill_of_each)))
    came = every[:, 1:]
    guess = came + rng.normal(size=came.shape) * np.sqrt(2 * (1 - np.array(skill_of_each)))
    return every[:, :1], guess, came, every


def test_the_skill_of_a_perfect_guess_is_one_and_of_nothing_moves_zero():
    now, _, came, every = latents_of((1.0, 1.0))
    assert _skill(now, came, came, every).skill == 1
    assert _skill(now, np.broadcast_to(now, came.shape), came, every).skill == pytest.approx(0)


def test_a_dimension_that_shrinks_does_not_hide_what_it_cannot_predict():
    """Plain error over plain movement rises from 0.5 to 0.99 when the bad half is shrunk."""
    fair = latents_of((1.0, 0.0))
    shrunk = [part * (1.0, 0.3) for part in fair]
    assert _skill(*fair).skill == pytest.approx(0.5, abs=0.05)
    assert _skill(*shrunk).skill == pytest.approx(_skill(*fair).skill, abs=0.05)
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(2, 2)))[0]
    assert _skill(*[part @ turn * 7 + 3 for part in fair]).skill == pytest.approx(
        _skill(*fair).skill, abs=1e-6)


def test_latents_that_are_not_finite_have_no_skill(recording, small_model):
    small_model.eval()
    assert open_loop_skill(small_model, recording, 'validation', 3).skill < 1
    with torch.no_grad():
        small_model.projector.net[3].bias.fill_(math.nan)
    assert open_loop_skill(small_model, recording, 'validation', 3) is None


def test_the_best_model_that_lives_is_kept_and_the_last_one_too(
        recording, toy_model, tmp_path, monkeypatch):
    """The lowest error of all is a collapsed model's: it must not win."""
    skills, living = {2: 0.3, 4: 0.6, 6: 0.9, 8: 0.5}, latent_statistics(np.eye(8).repeat(9, 0))
    seen = {}

    def scripted(model, dataset, split, horizon):
        step = 2 * (len(seen) + 1)
        seen[step] = {k: v.clone() for k, v in model.state_dict().items()}
        found = dataclasses.replace(living, std_min=0.01 if step == 6 else 1.0)
        return types.SimpleNamespace(skill=skills[step], latent=found,
                                     usable=found.collapsed is None)

    monkeypatch.setattr('lewm_core.trainer.open_loop_skill', scripted)
    asked = []
    train(recording, toy_model, DataConfig(), QUICK, tmp_path,
          should_stop=lambda: asked.append(None) or len(asked) == 5)
    path = train(recording, toy_model, DataConfig(), QUICK, tmp_path)  # the best came before
    kept, last = load_checkpoint(path), load_checkpoint(tmp_path / 'last.safetensors')
    assert kept.metrics['kept_step'] == 4 and kept.metrics['kept_skill'] == 0.6
    assert kept.metrics['step'] == 8 and last.metrics['kept_step'] == 8
    for found, step in ((kept, 4), (last, 8)):
        for name, tensor in found.model.state_dict().items():
            assert torch.equal(tensor, seen[step][name]), (step, name)


def test_a_collapse_stops_a_run_once_it_has_lasted_and_says_what_to_change():
    narrow = latent_statistics(np.random.default_rng(0).normal(size=(500, 8)) * 0.01)
    wide = latent_statistics(np.random.default_rng(0).normal(size=(500, 8)))
    watch = CollapseWatch(TrainConfig(steps=1000))
    assert watch(100, narrow) is None                   # nothing has been learned yet
    assert 'raise model.sigreg_weight' in watch(300, narrow)
    assert watch(350, wide) is None and watch(400, narrow) and watch(450, narrow)
    with pytest.raises(UserError, match='since step 400 the latents collapsed.*overwrite=true'):
        watch(500, narrow)
    line = np.random.default_rng(0).normal(size=(500, 1)) * np.ones(8)
    watch = CollapseWatch(TrainConfig(steps=1000))      # a world may be of one dimension
    assert all('effective rank 1.0' in watch(step, latent_statistics(line))
               for step in range(300, 1000, 50))
    free = CollapseWatch(TrainConfig(steps=1000, stop_on_collapse=False))
    assert free(300, narrow) and free(900, narrow)


def test_a_collapse_under_pldm_is_not_blamed_on_a_weight_that_pldm_has_not():
    """The error advised to raise model.sigreg_weight, which changes nothing with loss=pldm."""
    narrow = latent_statistics(np.random.default_rng(0).normal(size=(500, 8)) * 0.01)
    said = CollapseWatch(TrainConfig(steps=1000, loss='pldm'))(300, narrow)
    assert 'sigreg_weight' not in said and 'raise train.pldm_variance' in said


def test_the_distance_to_normal_is_none_for_normal_latents_and_one_for_a_point():
    rng = np.random.default_rng(0)
    assert latent_statistics(rng.normal(size=(4000, 8))).normal_distance < 0.1
    assert latent_statistics(np.zeros((400, 8))).normal_distance == pytest.approx(1, abs=0.01)
    assert latent_statistics(3 * rng.normal(size=(4000, 8))).normal_distance > 1.5


def test_a_gradient_that_is_not_finite_is_named_before_it_is_saved(
        recording, toy_model, tmp_path, monkeypatch):
    calls = []

    def poisoned(parameters, limit):
        calls.append(None)
        return torch.tensor(math.inf if len(calls) == 7 else 1.0)

    monkeypatch.setattr(torch.nn.utils, 'clip_grad_norm_', poisoned)
    with pytest.raises(UserError, match=r'gradient of step 7 is inf .*episode \d+ row \d+'):
        train(recording, toy_model, DataConfig(), QUICK, tmp_path)
    assert torch.load(tmp_path / 'trainer.pt', weights_only=True)['step'] == 4


def test_a_run_goes_on_from_a_checkpoint_and_keeps_its_statistics(
        recording, record, toy_model, tmp_path):
    first = train(recording, toy_model, DataConfig(), QUICK, tmp_path / 'first')
    # Driving in one direction alone: its own statistics would be another scale, or none at all.
    other = record(tmp_path / 'other.h5', [60] * 10, seed=3)
    other.action[:] *= 0.1
    before = load_checkpoint(first).model.state_dict()
    config = dataclasses.replace(QUICK, init=str(first), learning_rate=1e-9, steps=1)
    path = train(other, toy_model, DataConfig(), config, tmp_path / 'second')
    after = load_checkpoint(path).model.state_dict()
    assert torch.equal(after['action_std'], before['action_std'])
    assert torch.allclose(after['projector.net.0.weight'], before['projector.net.0.weight'],
                          atol=1e-6)
    with pytest.raises(UserError, match='is in the output'):
        train(other, toy_model, DataConfig(), config, tmp_path / 'first', overwrite=True)
    assert first.exists()


def test_a_start_that_is_missing_costs_no_finished_run(recording, toy_model, tmp_path):
    """`overwrite=true` with a mistyped `train.init` had cleared the folder before it looked."""
    first = train(recording, toy_model, DataConfig(), dataclasses.replace(QUICK, steps=1),
                  tmp_path / 'first')
    config = dataclasses.replace(QUICK, init=str(tmp_path / 'mistyped.safetensors'))
    with pytest.raises(UserError, match='mistyped.safetensors.* is not a file'):
        train(recording, toy_model, DataConfig(), config, tmp_path / 'first', overwrite=True)
    assert first.exists()


def test_a_run_goes_on_though_the_checkpoint_it_started_from_is_gone(
        recording, toy_model, tmp_path):
    """All that it took from there is in its own state, but it was refused."""
    start = train(recording, toy_model, DataConfig(), QUICK, tmp_path / 'start')
    config = dataclasses.replace(QUICK, init=str(start))
    whole = train(recording, toy_model, DataConfig(), config, tmp_path / 'whole')
    train(recording, toy_model, DataConfig(), config, tmp_path / 'part', should_stop=lambda: True)
    start.unlink()
    part = train(recording, toy_model, DataConfig(), config, tmp_path / 'part')
    found, wanted = (load_checkpoint(path).model.state_dict() for path in (part, whole))
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    with pytest.raises(UserError, match='is not a file'):
        train(recording, toy_model, DataConfig(), config, tmp_path / 'new')


def test_another_robot_or_shape_is_no_start(recording, toy_model, robot, tmp_path):
    first = train(recording, toy_model, DataConfig(), dataclasses.replace(QUICK, steps=1),
                  tmp_path / 'first')
    config = dataclasses.replace(QUICK, init=str(first))
    with pytest.raises(UserError, match='has model.latent_dim=8, but 4 is asked for'):
        train(recording, dataclasses.replace(toy_model, latent_dim=4), DataConfig(), config,
              tmp_path / 'a')
    fields = tuple(ActionField(f.path, -1.0, 1.0) for f in robot.action.fields)
    spec = dataclasses.replace(robot, action=ActionSpec(
        robot.action.topic, robot.action.type, fields))
    with pytest.raises(UserError, match='give a checkpoint of the same robot and spec'):
        train(dataclasses.replace(recording, spec=spec), toy_model, DataConfig(), config,
              tmp_path / 'b')


def test_weights_and_biases_gets_the_figures_and_one_run_however_often_it_is_resumed(
        recording, toy_model, tmp_path, monkeypatch):
    begun, rows = [], []

    def init(**how):
        begun.append(how)
        return types.SimpleNamespace(
            id=how['id'] or 'abc', log=lambda values, step: rows.append((step, values)),
            finish=lambda exit_code: begun.append(exit_code))

    monkeypatch.setitem(sys.modules, 'wandb', types.SimpleNamespace(init=init))
    config = dataclasses.replace(QUICK, logger='wandb')
    asked = []
    train(recording, toy_model, DataConfig(), config, tmp_path,
          should_stop=lambda: asked.append(None) or len(asked) == 4)
    train(recording, toy_model, DataConfig(), config, tmp_path)
    assert [step for step, _ in rows] == [2, 4, 6, 8] and 'loss' in rows[0][1]
    assert begun[0]['id'] is None and begun[0]['config']['train']['steps'] == 8
    assert begun[1] == 0 and begun[2]['id'] == 'abc' and begun[2]['resume'] == 'allow'


def test_weights_and_biases_that_is_not_there_is_said_before_anything_is_done(
        recording, toy_model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'wandb', None)
    config = dataclasses.replace(QUICK, logger='wandb')
    with pytest.raises(UserError, match='pip install wandb, or give train.logger=tensorboard'):
        train(recording, toy_model, DataConfig(), config, tmp_path / 'run')
    assert not (tmp_path / 'run').exists()


def test_the_run_folder_says_what_it_was_made_with(recording, toy_model, tmp_path):
    asked = []
    train(recording, toy_model, DataConfig(), QUICK, tmp_path,
          should_stop=lambda: asked.append(None) or len(asked) == 4)
    train(recording, toy_model, DataConfig(), QUICK, tmp_path)
    starts = json.loads((tmp_path / 'environment.json').read_text())
    assert [start['step'] for start in starts] == [0, 4]
    assert starts[0]['versions']['torch'] and starts[0]['machine']['cores'] >= 1
    assert git_state(tmp_path) is None


# The baseline
def test_pldms_terms_are_their_formulas(small_model):
    model = small_model.eval()
    config = TrainConfig(loss='pldm', pldm_variance=2, pldm_covariance=3, pldm_similarity=5,
                         pldm_inverse=7, pldm_time_variance=11)
    objective = PLDM(model, config)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (9, 4, 16, 16, 3), generator=generator, dtype=torch.uint8)
    actions = 0.2 * torch.randn(9, 3, 3, 2, generator=generator)
    losses = objective(model, pixels, actions)
    z = losses.latents
    covariance = [torch.cov(z[:, t].T) for t in range(4)]
    off = [(c - torch.diag(c.diag())).square().sum() / 56 for c in covariance]
    std = torch.stack([(c.diag() + 1e-4).sqrt() for c in covariance])
    pairs = torch.cat([z[:, :-1], z[:, 1:]], -1)
    expected = {'variance': (1 - std).clamp(min=0).mean(), 'covariance': torch.stack(off).mean(),
                'time_variance': (1 - (z[:, 1:].var(1) + 1e-4).sqrt()).clamp(min=0).mean(),
                'similarity': (z[:, 1:] - z[:, :-1]).square().mean(),
                'inverse': (objective.inverse(pairs) - actions.flatten(-2)).square().mean()}
    for name, value in expected.items():
        assert torch.isclose(losses.terms[name], value, rtol=1e-4), name
    plain = prediction_losses(model, pixels, actions, torch.Generator().manual_seed(0))
    assert torch.isclose(losses.prediction, plain.prediction)
    total = plain.prediction + sum(w * expected[n] for n, w in zip(
        ('variance', 'covariance', 'similarity', 'inverse', 'time_variance'), (2, 3, 5, 7, 11)))
    assert torch.isclose(losses.total, total, rtol=1e-4)


def test_pldm_spreads_latents_and_resumes_with_its_inverse_model(recording, toy_model, tmp_path):
    config = dataclasses.replace(QUICK, loss='pldm', steps=6)
    whole = load_checkpoint(train(recording, toy_model, DataConfig(), config, tmp_path / 'a'))
    asked = []
    train(recording, toy_model, DataConfig(), config, tmp_path / 'b',
          should_stop=lambda: asked.append(None) or len(asked) == 3)
    again = load_checkpoint(train(recording, toy_model, DataConfig(), config, tmp_path / 'b'))
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, again.model.state_dict()[name]), name
    trainer = Trainer(recording, toy_model, config)
    assert any('objective.inverse' in name for name, _ in trainer.learned.named_parameters())
    narrow = 0.01 * torch.randn(64, 4, 8, generator=torch.Generator().manual_seed(0))
    assert variance_covariance(narrow)['variance'] > 0.9
    assert variance_covariance(300 * narrow)['variance'] == 0


def test_pldms_terms_of_a_single_window_are_numbers():
    """Three validation windows in batches of two leave one by itself: its covariance divided by
    0, and the first validation ended the run."""
    found = variance_covariance(torch.randn(1, 4, 8))
    assert found['covariance'] == 0 and found['variance'] == pytest.approx(0.99)
