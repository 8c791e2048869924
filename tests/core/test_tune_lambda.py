"""λ by bisection, and two objectives in one table."""

from __future__ import annotations

import json

import numpy as np
import pytest

from lewm_core.bench.objectives import FACTORS, tuned, weighted
from lewm_core.cli import main
from lewm_core.config import ModelConfig, TrainConfig
from lewm_core.data import DatasetWriter
from lewm_core.envs import make_world
from lewm_core.paths import load_robot
from lewm_core.tune_lambda import Trial, best_weight, next_weight


def search(skill, trials=6, low=0.005, high=2.0):
    """The λ that six trials lead to, where `skill(λ)` is the figure of each."""
    tried = {}
    for _ in range(trials):
        weight = next_weight(tried, low, high)
        assert low < weight < high and weight not in tried
        tried[weight] = skill(weight)
    return best_weight(tried), tried


@pytest.mark.parametrize('peak', [0.01, 0.03, 0.1, 0.3, 1.0])
def test_six_trials_find_a_peak_to_within_a_factor(peak):
    found, _ = search(lambda w: 1 - np.log(w / peak) ** 2)
    assert 1 / 1.6 < found / peak < 1.6


def test_collapsed_trials_send_the_search_upwards():
    found, tried = search(lambda w: None if w < 0.6 else 0.5 - w / 10)
    assert found >= 0.6 and min(tried) > 0.05
    assert best_weight({0.1: None, 0.2: None}) == 0.2
    assert best_weight({0.1: -0.5, 0.2: None}) == 0.1


@pytest.fixture(scope='module')
def drives(tmp_path_factory):
    """A few short drives through the two rooms."""
    path = tmp_path_factory.mktemp('drives') / 'data.h5'
    spec, world, rng = load_robot('two_room'), make_world('two_room'), np.random.default_rng(0)
    with DatasetWriter(path, spec) as writer:
        for episode in range(8):
            pixels, _ = world.reset(seed=episode)
            explore, rows = world.explorer(rng), []
            for tick in range(60):
                state, action = world.state(), None
                action = explore(state)
                rows.append((pixels, action, tick * 10**8, [state[n] for n in ('x', 'y')]))
                pixels = world.step(action)[0]
            frames, actions, stamps, states = (np.array(column) for column in zip(*rows))
            writer.add_episode(frames, actions, stamps, dict(zip(spec.state_names, states.T)))
    return path


FEW = ['train.steps=2', 'train.batch_size=8', 'train.tensorboard=false', 'train.device=cpu',
       'train.precision=float32', 'train.proposal_steps=1', 'train.distance_steps=1',
       'train.uncertainty_steps=1', 'model.sigreg_projections=16']


def test_trials_that_learned_nothing_choose_nothing(drives, tmp_path, capsys):
    words = ['tune-lambda', f'dataset={drives}', f'output={tmp_path}', 'trials=2', *FEW]
    assert main(words) == 1
    assert 'the latents collapsed at each of 2 λ up to 0.447' in capsys.readouterr().err
    assert sorted(p.name for p in (tmp_path / 'trials').iterdir()) == ['0.1', '0.447']
    assert not (tmp_path / 'tune_lambda.json').exists()
    # The sentence advises a greater share. The trials of the smaller one were taken for its own.
    assert main([*words, 'share=0.9']) == 1
    assert 'train.steps=1, but 2 is asked for' in capsys.readouterr().err
    assert main([*words, 'share=0.9', 'overwrite=true']) == 1
    assert 'the latents collapsed at each' in capsys.readouterr().err


def test_a_loss_without_lambda_is_not_tuned(drives, tmp_path, capsys):
    """All trials of PLDM are the same, whatever λ is, and the greatest λ was called the best."""
    words = ['tune-lambda', f'dataset={drives}', f'output={tmp_path}', 'loss=pldm', *FEW]
    assert main(words) == 1
    assert "train.loss='pldm' has no λ" in capsys.readouterr().err
    assert not (tmp_path / 'trials').exists()


def test_tune_lambda_leaves_a_page_and_says_what_to_train_with(
        drives, tmp_path, capsys, monkeypatch):
    figures = {'latent_std_min': 0.5, 'effective_rank': 9.0, 'normal_distance': 0.2}
    monkeypatch.setattr('lewm_core.tune_lambda.train_trial', lambda job, dataset, weight: Trial(
        weight, None if weight < 0.05 else 1 - abs(np.log(weight / 0.3)), figures))
    words = ['tune-lambda', f'dataset={drives}', f'output={tmp_path}', *FEW]
    assert main(words) == 0
    said = capsys.readouterr().out
    found = json.loads((tmp_path / 'tune_lambda.json').read_text())
    assert f'model.sigreg_weight={found["sigreg_weight"]:g}' in said
    assert 0.2 < found['sigreg_weight'] < 0.45 and len(found['trials']) == 6
    page = (tmp_path / 'tune_lambda.html').read_text()
    assert 'data:image/png;base64,' in page and 'open-loop skill' in page
    assert main(words) == 1 and 'holds a finished search' in capsys.readouterr().err


def test_both_objectives_stand_in_one_table_and_nothing_is_trained_twice(
        drives, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr('lewm_core.bench.objectives.FACTORS', (1.0,))
    monkeypatch.setattr('lewm_core.bench.objectives._WIDEST', 1.0)
    words = ['bench', 'objectives', f'dataset={drives}', f'output={tmp_path / "o.json"}',
             'seeds=1', 'goals=1', 'teleports=2', 'share=0.5', *FEW]
    assert main(words) == 0
    table = json.loads((tmp_path / 'o.json').read_text())['objectives']
    for name in ('lewm', 'pldm'):
        assert len(table[name]['tuning']) == 1
        assert {'probe_r2_min', 'std_min', 'effective_rank', 'goals_reached',
                'teleport_auroc'} <= set(table[name]['mean'])
    monkeypatch.setattr('lewm_core.bench.objectives.train', None)
    assert main(words) == 0
    assert 'lewm (weights x' in capsys.readouterr().out
    assert main([*words, 'train.batch_size=9']) == 1
    assert 'train.batch_size=8, but 9 is asked for' in capsys.readouterr().err


def test_tuning_goes_on_while_the_best_is_at_an_end():
    """With three factors the best of LeWM's was the smallest, and nobody knew what lay beyond."""
    best, skills = tuned(lambda factor: -abs(np.log(factor * 25)))
    assert best == pytest.approx(1 / 27) and min(skills) == pytest.approx(1 / 81)
    assert tuned(lambda factor: -abs(np.log(factor)))[1].keys() == set(FACTORS)
    assert tuned(lambda factor: None if factor < 1 else factor)[0] == pytest.approx(81)


def test_both_get_the_same_factors():
    model, config = ModelConfig(sigreg_weight=0.1), TrainConfig(pldm_variance=25.0)
    assert weighted('lewm', 3.0, model, config)[0].sigreg_weight == pytest.approx(0.3)
    assert weighted('pldm', 3.0, model, config)[1].pldm_variance == pytest.approx(75)
    assert weighted('pldm', 3.0, model, config)[0].sigreg_weight == 0.1


def test_short_keys_stand_for_those_of_training():
    from lewm_core.compose import compose
    job = compose('train', ['dataset=x', 'loss=pldm', 'logger=wandb'])
    assert job.train.loss == 'pldm' and job.train.logger == 'wandb'
