"""The search: it stays inside the limits, finds what there is to find, and repeats itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lewm_core.config import PlannerConfig
from lewm_core.model import LatentDynamics
from lewm_core.planner import Prior, SearchError, goal_objective, shift
from lewm_core.planner import solve as search
from lewm_core.solvers.icem import coloured
from lewm_core.types import UserError

FRAMESKIP = 5
SOLVERS = ('cem', 'icem', 'mppi', 'gradient')


def solve(objective, config, low=(-1.0, -1.0), high=(1.0, 1.0), std=(0.5, 0.5), seed=0,
          **options):
    return search(objective, low, high, std, config, frameskip=FRAMESKIP, generator=seeded(seed),
                  **options)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


class CumulativeSum(LatentDynamics):
    """A world whose latent moves by the sum of a block's actions."""

    history = 3

    def embed_actions(self, blocks):
        return blocks.sum(-2)

    def predict(self, latents, action_emb):
        return latents + action_emb


@pytest.mark.parametrize('knots', [0, 1, 2])
def test_cem_finds_a_known_optimum(knots):
    wanted = torch.tensor([0.3, -0.6])

    def objective(actions):
        return (actions - wanted).square().sum((-1, -2, -3))
    config = PlannerConfig(samples=300, elites=30, iterations=20, horizon=2, knots=knots)
    found = solve(objective, config)
    assert (found.actions - wanted).abs().max() < 0.08
    assert found.actions.shape == (1, 2, FRAMESKIP, 2)


def test_an_optimum_outside_the_limits_is_approached_only_to_the_limit():
    def objective(actions):
        return (actions - 10.0).square().sum((-1, -2, -3))
    config = PlannerConfig(samples=100, elites=10, iterations=10)
    found = solve(objective, config)
    assert found.actions.max() <= 1.0
    assert found.actions.min() > 0.9


@pytest.mark.parametrize('solver', SOLVERS)
@pytest.mark.parametrize('seed', range(60))
def test_no_candidate_is_ever_outside_the_limits(seed, solver):
    """The published planner tries actions of ±35 for limits of ±0.4 (swm #321)."""
    rng = np.random.default_rng(seed)
    low = rng.uniform(-2, 2, 3) * 10.0 ** rng.integers(-3, 3)
    # Wide and narrow ones, without a zero in them, and numbers that float32 has to round.
    high = low + np.abs(low) * 10.0 ** rng.uniform(-5, 1, 3)
    config = PlannerConfig(samples=32, elites=int(rng.integers(1, 33)), iterations=4, horizon=3,
                           init_std=float(rng.uniform(0.01, 30)), knots=int(rng.integers(0, 6)),
                           solver=solver)
    shape = (2, 3, FRAMESKIP, 3)
    warm = torch.from_numpy(rng.normal(0, 100, shape)).float() if seed % 3 else None
    costs, seen = seeded(seed), []

    def objective(actions):
        seen.append(actions.detach().double().numpy())
        cost = torch.randn(actions.shape[:2], generator=costs)
        slope = (actions * torch.randn(actions.shape, generator=costs)).sum((-1, -2, -3))
        return torch.where(cost > 1, torch.nan, cost + slope / slope.detach().abs().max())
    prior = Prior(*(torch.from_numpy(rng.normal(0, 100, shape)).float() for _ in range(2)))
    found = solve(objective, config, low, high, 10.0 ** rng.uniform(-3, 3, 3), seed, batch=2,
                  mean=warm, center=rng.normal(0, 10, 3), prior=prior if seed % 2 else None)
    for actions in (*seen, found.actions.double().numpy(), found.mean.double().numpy()):
        assert np.isfinite(actions).all()
        assert (actions >= low).all() and (actions <= high).all()


def test_the_same_seed_gives_the_same_plan_and_another_one_another():
    def objective(actions):
        return actions.sin().sum((-1, -2, -3))
    config = PlannerConfig(samples=50, elites=5, iterations=3)
    plans = [solve(objective, config, seed=seed).actions
             for seed in (1, 1, 2)]
    assert torch.equal(plans[0], plans[1])
    assert not torch.equal(plans[0], plans[2])


@pytest.mark.parametrize('knots', [0, 1, 2])
def test_as_many_actions_are_free_in_a_block_as_it_has_knots(knots):
    seen = []

    def objective(actions):
        seen.append(actions)
        return actions.square().sum((-1, -2, -3))
    solve(objective, PlannerConfig(samples=20, elites=4, iterations=2, knots=knots))
    for actions in seen[:2]:
        free = {tuple(tick.flatten().tolist()) for tick in actions.unbind(-2)}
        assert len(free) == (knots or FRAMESKIP)


def test_a_batch_of_problems_is_solved_each_on_its_own():
    wanted = torch.tensor([[-0.5, 0.5], [0.7, 0.1]])

    def objective(actions):
        return (actions - wanted[:, None, None, None]).square().sum((-1, -2, -3))
    config = PlannerConfig(samples=300, elites=30, iterations=15, horizon=1)
    found = solve(objective, config, batch=2)
    assert (found.actions[:, 0, 0] - wanted).abs().max() < 0.08


def test_a_warm_start_is_the_previous_plan_without_what_was_executed():
    plan = torch.arange(4.0).view(1, 4, 1, 1)
    assert shift(plan).flatten().tolist() == [1, 2, 3, 3]
    assert shift(plan, 2).flatten().tolist() == [2, 3, 3, 3]
    assert shift(plan, 9).flatten().tolist() == [3, 3, 3, 3]


def test_the_search_begins_at_the_warm_start():
    seen = []

    def objective(actions):
        seen.append(actions)
        return actions.square().sum((-1, -2, -3))
    start = torch.full((1, 5, FRAMESKIP, 2), 0.8)
    config = PlannerConfig(samples=10, elites=2, iterations=1)
    solve(objective, config, mean=start)
    assert (seen[0][0, 0] == 0.8).all()


def test_candidates_without_a_finite_cost_are_passed_over():
    def objective(actions):
        cost = (actions - 0.5).square().sum((-1, -2, -3))
        return torch.where(actions[:, :, 0, 0, 0] < 0, torch.nan, cost)
    config = PlannerConfig(samples=200, elites=20, iterations=8, horizon=1)
    found = solve(objective, config)
    assert (found.actions - 0.5).abs().max() < 0.1


def test_a_plan_without_any_finite_cost_is_refused():
    config = PlannerConfig(samples=10, elites=2, iterations=1)
    for nothing in (torch.nan, torch.inf):
        with pytest.raises(SearchError, match='none of 10 candidates had a finite cost'):
            solve(lambda a: torch.full(a.shape[:2], nothing), config)


def test_the_first_candidate_of_each_iteration_is_the_mean():
    seen = []

    def objective(actions):
        seen.append(actions)
        return (actions - 0.2).square().sum((-1, -2, -3))
    found = solve(objective, PlannerConfig(samples=40, elites=4, iterations=3, horizon=2),
                  center=(0.3, -0.3))
    assert torch.allclose(seen[0][0, 0], torch.tensor([0.3, -0.3]))
    elites = seen[0][0][objective(seen[0])[0].topk(4, largest=False).indices]
    assert torch.allclose(seen[1][0, 0], elites.mean(0), atol=1e-6)
    assert torch.equal(seen[3], found.mean[:, None])


def test_where_the_elites_disagree_the_plan_is_one_of_them_and_not_their_mean():
    """Left or right round an obstacle: the mean of both runs into it."""
    def objective(actions):
        return (actions[:, :, 0, 0, 0].abs() - 0.5).square()
    config = PlannerConfig(samples=200, elites=50, iterations=1, horizon=1)
    found = solve(objective, config)
    assert found.mean.abs()[..., 0].max() < 0.25
    assert (found.actions[..., 0].abs() - 0.5).abs().max() < 0.1
    assert found.cost.item() == objective(found.actions[:, None]).item()


def test_the_cost_is_that_of_the_plan():
    def objective(actions):
        return (actions - 0.4).square().sum((-1, -2, -3))
    found = solve(objective, PlannerConfig(samples=50, elites=5, iterations=3), batch=3)
    assert torch.equal(found.cost, objective(found.actions[:, None])[:, 0])


def test_more_elites_than_samples_are_refused():
    with pytest.raises(UserError, match='elites=30 of samples=20'):
        solve(torch.zeros, PlannerConfig(samples=20, elites=30))


@pytest.mark.parametrize('cost, expected', [
    ('final', 1.0), ('mean', (4 + 0 + 1) / 3), ('nearest', 0 + 0.1 * (4 + 0 + 1) / 3)])
def test_the_cost_is_the_distance_to_the_goal_where_it_counts(cost, expected):
    moves = torch.tensor([1.0, 2.0, 1.0])  # to 1, to the goal at 3, past it
    actions = (moves / FRAMESKIP).view(1, 1, 3, 1, 1).expand(-1, -1, -1, FRAMESKIP, -1)
    objective = goal_objective(CumulativeSum(), torch.zeros(1, 1, 1),
                               torch.zeros(1, 0, FRAMESKIP, 1), torch.full((1, 1), 3.0), cost)
    assert objective(actions).item() == pytest.approx(expected, abs=1e-5)


def test_an_unknown_cost_is_refused():
    with pytest.raises(UserError, match="cost='sum'"):
        goal_objective(CumulativeSum(), None, None, None, 'sum')


def test_in_a_world_of_sums_the_plan_adds_up_to_the_goal():
    model, goal = CumulativeSum(), torch.tensor([[2.0, -1.0]])
    past = torch.randn(1, 2, FRAMESKIP, 2)
    objective = goal_objective(model, torch.randn(1, 3, 2).cumsum(1) * 0, past, goal, 'final')
    found = solve(objective, PlannerConfig(samples=300, elites=30, iterations=10, horizon=3))
    assert (found.actions.sum((1, 2)) - goal).abs().max() < 0.05


@pytest.mark.parametrize('solver', SOLVERS)
def test_every_solver_finds_a_known_optimum_for_each_of_many_problems(solver):
    wanted = torch.tensor([[-0.5, 0.5], [0.7, 0.1]])

    def objective(actions):
        return (actions - wanted[:, None, None, None]).square().sum((-1, -2, -3))
    config = PlannerConfig(samples=200, elites=20, iterations=30, horizon=2, solver=solver)
    found = solve(objective, config, batch=2)
    assert (found.actions - wanted[:, None, None]).abs().max() < 0.1


@pytest.mark.parametrize('solver', SOLVERS)
def test_the_reference_may_try_what_cannot_be_sent(solver):
    seen = []

    def objective(actions):
        seen.append(actions.detach().abs().max())
        return (actions - 10.0).square().sum((-1, -2, -3))
    solve(objective, PlannerConfig(samples=50, elites=5, iterations=5, limits=False,
                                   solver=solver))
    assert max(seen) > 1.0


def test_the_reference_search_is_the_published_one():
    """Sample 0 the mean, the elites' mean and unbiased deviation next, the last mean the answer.

    Written out from the paper's setting, in normalised space, with the same draws.
    """
    config = PlannerConfig(samples=60, elites=6, iterations=4, horizon=2, knots=0, limits=False,
                           answer='mean', cost='final', warm_start=False)
    wanted, center, std = torch.tensor([3.0, -2.0]), torch.tensor([0.5, 0.1]), torch.tensor(
        [0.7, 0.2])

    def cost(normalised):
        return (normalised * std + center - wanted).square().sum((-1, -2, -3))
    draw, mean, spread = seeded(5), torch.zeros(2, FRAMESKIP, 2), torch.ones(2, FRAMESKIP, 2)
    for _ in range(config.iterations):
        candidates = torch.randn(60, 2, FRAMESKIP, 2, generator=draw) * spread + mean
        candidates[0] = mean
        best = candidates[cost(candidates).topk(6, largest=False).indices]
        mean, spread = best.mean(0), best.std(0)
    found = solve(lambda a: (a - wanted).square().sum((-1, -2, -3)), config, std=std, seed=5,
                  center=center)
    torch.testing.assert_close(found.actions[0], mean * std + center, rtol=1e-4, atol=1e-4)


def test_a_right_prior_helps_a_small_search_and_a_wrong_one_does_not_trap_it():
    wanted = torch.full((1, 5, FRAMESKIP, 2), 0.8)

    def objective(actions):
        return (actions - wanted[:, None]).square().sum((-1, -2, -3))
    small = PlannerConfig(samples=16, elites=4, iterations=2)
    std = torch.full_like(wanted, 0.05)
    costs = [solve(objective, small, prior=prior).cost.item()
             for prior in (None, Prior(wanted, std))]
    assert costs[1] < 0.1 * costs[0]
    full = PlannerConfig(samples=300, elites=30, iterations=30)
    found = solve(objective, full, prior=Prior(-wanted, std))
    assert (found.actions - wanted).abs().max() < 0.15


def test_coloured_noise_keeps_its_direction_and_its_variance():
    colour = coloured(10, 2.0)
    noise = torch.randn(20_000, 20, generator=seeded()) @ colour
    assert noise.std(0).sub(1).abs().max() < 0.05
    steps = [torch.corrcoef(noise.T)[0, k].item() for k in (1, 3, 9)]
    assert steps[0] > 0.7 and steps[0] > steps[1] > steps[2]
    white = torch.randn(20_000, 20, generator=seeded()) @ coloured(10, 0.0)
    assert torch.corrcoef(white.T).sub(torch.eye(10)).abs().max() < 0.05


def test_no_iteration_begins_that_would_end_after_the_deadline():
    config = PlannerConfig(samples=10, elites=2, iterations=1000)
    found = solve(lambda a: a.square().sum((-1, -2, -3)), config, deadline=0.0)
    assert found.iterations == 1
    assert solve(lambda a: a.square().sum((-1, -2, -3)), config,
                 deadline=float('inf')).iterations == 1000


def test_more_knots_than_ticks_are_refused():
    with pytest.raises(UserError, match='knots=6 is more than the 5 ticks'):
        solve(torch.zeros, PlannerConfig(knots=6))
