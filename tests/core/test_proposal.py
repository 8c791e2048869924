"""The proposal points the way, learns it from the recording alone, and never replaces a search."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from lewm_core.agent import Agent
from lewm_core.checkpoint import Checkpoint, load_checkpoint
from lewm_core.config import DataConfig, PlannerConfig, ProposalConfig, TrainConfig
from lewm_core.guidance import Guidance
from lewm_core.head_training import Episodes, encode_split, fit
from lewm_core.proposal import Proposal, train_proposal
from lewm_core.train import train
from lewm_core.types import Frame, UserError

TICKS = 3  # in a block of the toy model
SHAPE = ProposalConfig(blocks=2, width=32, dropout=0.0, reach=4, batch_size=128)


def wandering(seed, episodes=12, length=40, last_action=0.0):
    """Episodes whose latent begins with the place (x, y): an action moves it by a third."""
    rng = np.random.default_rng(seed)
    latents, actions, last = [], [], []
    for e in range(episodes):
        moves = np.repeat(rng.uniform(-1, 1, (length // 5, 2)), 5, axis=0)
        places = np.vstack([rng.normal(size=2), np.zeros((length - 1, 2))])
        places[1:] = places[0] + np.cumsum(moves[:-1] / TICKS, axis=0)
        moves[-1] = last_action
        latents.append(np.pad(places, ((0, 0), (0, 6))))
        actions.append(moves)
        last += [(e + 1) * length - 1] * length
    return Episodes(torch.from_numpy(np.concatenate(latents)).float(),
                    torch.from_numpy(np.concatenate(actions)).float(), torch.tensor(last))


@pytest.fixture
def model(small_model):
    small_model.set_action_statistics([0.1, 0.0], [0.5, 0.5])
    return small_model.eval()


def test_a_proposal_heads_for_the_goal_and_is_surer_than_the_data(model):
    head, loss = train_proposal(model, wandering(0), wandering(1), SHAPE, steps=150)
    here = torch.zeros(64, 8)
    goal = torch.zeros(64, 8)
    goal[:, :2] = torch.nn.functional.normalize(torch.randn(64, 2), dim=1)
    mean, std = head(here, goal)
    assert mean.shape == std.shape == (64, 2, TICKS, 2)
    along = (mean[:, 0].mean(dim=1) * goal[:, :2]).sum(dim=1)
    assert (along > 0.1).float().mean() > 0.95
    assert std[:, 0].mean() < 0.45 and (std > 0).all()
    assert loss < 0.4  # 0.5 is that of the data's own mean and deviation


def test_an_untrained_proposal_is_the_data_itself(model):
    mean, std = Proposal(SHAPE, model).eval()(torch.randn(3, 8), torch.randn(3, 8))
    assert torch.allclose(mean, model.action_mean.expand_as(mean))
    assert torch.allclose(std, model.action_std.expand_as(std), rtol=0.05)


def test_a_longer_horizon_ends_in_the_data_and_a_shorter_one_is_cut(model):
    head, _ = train_proposal(model, wandering(0), None, SHAPE, steps=20)
    here, goal = torch.randn(2, 5, 8)
    whole, longer, shorter = (head(here, goal, blocks) for blocks in (None, 4, 1))
    assert longer.mean.shape == (5, 4, TICKS, 2) and shorter.std.shape == (5, 1, TICKS, 2)
    assert torch.equal(longer.mean[:, :2], whole.mean)
    assert torch.equal(shorter.mean, whole.mean[:, :1])
    assert torch.equal(longer.std[:, 2:], model.action_std.expand(5, 2, TICKS, 2))


def test_the_same_seed_gives_the_same_proposal_and_leaves_the_callers_random_numbers(model):
    def once(seed):
        return train_proposal(model, wandering(0), None, SHAPE, steps=5, seed=seed)[0].state_dict()

    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first = once(7)
    assert torch.equal(torch.rand(1), expected)
    again, other = once(7), once(8)
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert not torch.equal(first['out.weight'], other['out.weight'])


def test_what_would_come_after_the_end_of_an_episode_is_not_learned(model):
    """An episode's last row has no action: what stands there must not reach the loss."""
    heads = [train_proposal(model, wandering(0, last_action=value), None, SHAPE, steps=5)[0]
             for value in (0.0, 1e6)]
    assert torch.equal(heads[0].out.weight, heads[1].out.weight)


def test_episodes_shorter_than_a_block_are_named(model):
    with pytest.raises(UserError, match='no episode has more than 3 ticks'):
        train_proposal(model, Episodes(
            torch.zeros(4, 8), torch.zeros(4, 2), torch.tensor([1, 1, 3, 3])), None, SHAPE,
            steps=1)


def test_a_head_is_kept_as_it_was_best_on_held_out_episodes():
    head = torch.nn.Linear(1, 1, bias=False)
    head.weight.data.zero_()

    def towards(place):
        return lambda generator: (head.weight - place).square().sum()

    best = fit(head, towards(3.0), towards(1.0), steps=400, learning_rate=0.02, seed=0)
    assert best < 0.2 and abs(head.weight.item() - 1.0) < 0.5


def test_a_loss_that_is_never_finite_is_said():
    head = torch.nn.Linear(1, 1)
    with pytest.raises(UserError, match='not finite'):
        fit(head, lambda g: head.weight.sum() * torch.nan, None, steps=2, learning_rate=0.1,
            seed=0)


# From a recording to an agent

TRAIN = TrainConfig(steps=2, batch_size=16, proposal_steps=3, distance_steps=3,
                    uncertainty_steps=3, tensorboard=False,
                    precision='float32')
PLANNER = PlannerConfig(samples=8, elites=2, iterations=1, horizon=2)


@pytest.fixture(scope='module')
def trained(recording, toy_model, tmp_path_factory):
    path = train(recording, toy_model, DataConfig(), TRAIN,
                 tmp_path_factory.mktemp('run') / 'a', planner=PLANNER)
    return load_checkpoint(path)


def drive(checkpoint, recording, **changes):
    agent = Agent(checkpoint, dataclasses.replace(PLANNER, **changes))
    agent.set_goal(recording.pixels[30])
    return agent.plan(Frame(0, recording.pixels[0]))


def test_training_leaves_the_heads_in_the_one_file(trained, recording):
    assert set(trained.heads) == {'proposal', 'distance', 'uncertainty'}
    assert trained.heads['proposal'].config.blocks == PLANNER.horizon
    plans = [drive(trained, recording, **changes).actions for changes in (
        {}, {'proposal': False}, {'distance_weight': 1.0})]
    assert not np.array_equal(plans[0], plans[1])
    for plan in plans:
        assert (np.abs(plan) <= 0.4).all()


def test_a_proposal_alone_plans_without_a_search(trained, recording):
    plan = drive(trained, recording, solver='proposal', proposal=False)
    assert plan.iterations == 0 and np.isfinite(plan.cost)
    latents = encode_split(trained.model, recording, 'all').latents
    expected = trained.heads['proposal'](latents[:1], latents[30:31]).mean.clamp(-0.4, 0.4)
    held = expected.mean(dim=2, keepdim=True).expand(-1, -1, TICKS, -1)
    assert np.allclose(plan.actions, held.flatten(0, 2).numpy(), atol=1e-5)


def test_a_stop_while_heads_are_trained_is_made_good_by_the_same_call(
        trained, recording, toy_model, tmp_path):
    asked = []

    def stop():
        asked.append(1)
        return len(asked) > TRAIN.steps + 1

    def run(**options):
        return load_checkpoint(train(recording, toy_model, DataConfig(), TRAIN, tmp_path / 'b',
                                     planner=PLANNER, **options))

    stopped = run(should_stop=stop)
    assert stopped.heads == {} and not stopped.metrics['finished']
    finished = run()
    assert finished.metrics['finished']
    for name, head in trained.heads.items():
        for key, tensor in head.state_dict().items():
            assert torch.equal(tensor, finished.heads[name].state_dict()[key]), key


@pytest.mark.parametrize('changes, words', [
    ({'solver': 'proposal'}, 'planner.solver=proposal needs a proposal.*train.proposal_steps'),
    ({'distance_weight': 0.5}, 'planner.distance_weight=0.5 needs a distance')])
def test_a_head_that_is_asked_for_and_absent_is_named(small_model, robot, changes, words):
    with pytest.raises(UserError, match=words):
        Agent(Checkpoint(small_model, robot, planner=PlannerConfig(**changes)))


def test_without_a_head_or_when_switched_off_the_search_begins_as_ever(model):
    head = {'proposal': Proposal(SHAPE, model)}
    here = torch.zeros(1, 8)
    assert Guidance({}, PlannerConfig()).prior(here, here) is None
    assert Guidance(head, PlannerConfig(proposal=False)).prior(here, here) is None
    assert Guidance(head, PlannerConfig(horizon=3)).prior(here, here).mean.shape[1] == 3
