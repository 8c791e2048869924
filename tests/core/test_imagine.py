"""The imagination made ready for the search: the model's own rollout, in less time."""

from __future__ import annotations

import logging

import pytest
import torch

from lewm_core.config import PlannerConfig
from lewm_core.dynamics import Trial, imagination
from lewm_core.imagine import Imagination
from lewm_core.planner import goal_objective, solve
from tests.core.model_toys import rollout_inputs


@pytest.mark.parametrize('depth', [1, 2])
@pytest.mark.parametrize('latent_dim', [8, 32])
@pytest.mark.parametrize('history, context', [(1, 1), (2, 1), (2, 2), (3, 1), (3, 2), (3, 3),
                                              (5, 2)])
def test_it_imagines_what_the_model_does(moved, depth, latent_dim, history, context):
    """As wide as the predictor and not; windows that grow, slide, and hold shared context."""
    model = moved(history=history, predictor_depth=depth, latent_dim=latent_dim)
    given = rollout_inputs(model, context)
    with torch.no_grad():
        expected = model.rollout(*given)
    assert (expected[:, :1] - expected).abs().max() > 1e-3  # the actions matter
    torch.testing.assert_close(Imagination(model).rollout(*given), expected, rtol=1e-4, atol=1e-5)


def test_many_problems_are_imagined_in_parts_and_each_as_alone(moved):
    model = moved()
    latents, past, actions = rollout_inputs(model, 2, batch=5, count=400)
    ready = Imagination(model)
    whole = ready.rollout(latents, past, actions)
    assert whole.shape == (5, 400, 6, model.config.latent_dim)
    alone = ready.rollout(latents[3:4], past[3:4], actions[3:4])
    torch.testing.assert_close(whole[3:4], alone, rtol=1e-4, atol=1e-5)


def test_it_does_not_see_later_changes_of_the_model(moved):
    model = moved()
    given, ready = rollout_inputs(model, 1), Imagination(model)
    before = ready.rollout(*given)
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.mul_(2)
    assert torch.equal(ready.rollout(*given), before)


def test_bf16_chooses_nearly_the_same_elites(moved):
    model = moved()
    trial = Trial(model, PlannerConfig(samples=200, elites=20))
    assert trial.regret(Imagination(model)) == pytest.approx(0, abs=1e-4)
    assert abs(trial.regret(Imagination(model, torch.bfloat16))) < 0.05


def test_bf16_whose_elites_disagree_is_not_used_and_that_is_said(moved, monkeypatch, caplog):
    model = moved()
    monkeypatch.setattr('lewm_core.dynamics._WIDE', 0)
    monkeypatch.setattr('lewm_core.dynamics.resolve_precision', lambda name, device: 'bf16')
    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
        patch.setattr('lewm_core.dynamics._TOLERANCE', -1.0)
        assert imagination(model, PlannerConfig()).dtype == torch.float32
        assert 'bf16 is not used' in caplog.text
    monkeypatch.setattr('lewm_core.dynamics._TOLERANCE', 1.0)
    assert imagination(model, PlannerConfig()).dtype == torch.bfloat16


@pytest.mark.parametrize('solver', ['cem', 'icem', 'mppi', 'gradient'])
def test_every_solver_brings_the_imagined_robot_nearer_to_its_goal(moved, solver):
    model = moved()
    latents, past, actions = rollout_inputs(model, 2, count=1, horizon=3)
    with torch.no_grad():
        goal = model.rollout(latents, past, actions)[:, 0, -1]
    config = PlannerConfig(samples=64, elites=8, iterations=8, horizon=3, knots=0, solver=solver,
                           cost='final')
    objective = goal_objective(imagination(model, config), latents, past, goal, 'final')
    still = objective(torch.zeros(2, 1, 3, model.config.frameskip, 2))[:, 0]
    found = solve(objective, [-1, -1], [1, 1], [0.3, 0.3], config, batch=2,
                  frameskip=model.config.frameskip, generator=torch.Generator().manual_seed(0))
    assert (found.cost < 0.5 * still).all()
    assert found.iterations == 8
