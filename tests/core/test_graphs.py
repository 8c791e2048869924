"""A recorded search gives the plans of the search itself, or is not used."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

from lewm_core.agent import Agent
from lewm_core.bench.kernels import covered, kernel_share
from lewm_core.checkpoint import Checkpoint
from lewm_core.config import DistanceConfig, PlannerConfig, ProposalConfig
from lewm_core.distance import Distance
from lewm_core.graphs import Recordings, capture
from lewm_core.products import Product
from lewm_core.proposal import Proposal
from lewm_core.types import Action, Frame
from tests.core.device_toys import Moves

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')


def rerun(program, tensors):
    """What a CUDA graph does, on a CPU: the same memory is read and written in every run."""
    outputs = program(*tensors)

    @torch.inference_mode()
    def run():
        for own, new in zip(outputs, program(*tensors)):
            own.copy_(new)
        return outputs

    return run


@pytest.fixture
def checkpoint(small_model, robot):
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in small_model.parameters():
            tensor.add_(0.2 * torch.randn(tensor.shape, generator=draw))
    small_model.set_action_statistics([0.1, 0.0], [0.2, 0.3])
    torch.manual_seed(0)
    heads = {'proposal': Proposal(ProposalConfig(width=16), small_model),
             'distance': Distance(DistanceConfig(width=16), small_model)}
    torch.nn.init.normal_(heads['proposal'].out.weight, std=0.1)
    return Checkpoint(small_model.eval(), robot, heads=heads)


def agents(checkpoint, device='cpu', **settings):
    """An agent that records its searches, and one that does not."""
    config = PlannerConfig(**{'samples': 24, 'elites': 4, 'iterations': 3, **settings})
    recorded, plain = (Agent(checkpoint, config, device) for _ in range(2))
    assert recorded.record()
    return recorded, plain


def plans(agent, pictures, ticks=5):
    """The plans' actions, with what was done for each and its cost in front of them."""
    found = []
    for number, pixels in enumerate(pictures):
        plan = agent.plan(Frame(number, pixels))
        found.append([plan.iterations, plan.cost, *plan.actions.flatten()])
        for values in plan.actions[:ticks]:
            agent.commit(Action(number, values))
    return np.array(found)


def pictures(count, seed=0):
    return np.random.default_rng(seed).integers(0, 255, (count, 16, 16, 3), dtype=np.uint8)


SETTINGS = [{}, {'solver': 'icem'}, {'solver': 'mppi'}, {'solver': 'proposal'}, {'knots': 0},
            {'knots': 2, 'proposal': False}, {'context': 2}, {'distance_weight': 0.3},
            {'limits': False, 'answer': 'mean', 'cost': 'final'}, {'warm_start': False}]


@pytest.mark.parametrize('recorder', ['traced', 'static'])
@pytest.mark.parametrize('settings', SETTINGS, ids=str)
def test_a_recorded_search_gives_the_same_plans(checkpoint, settings, recorder, monkeypatch):
    """The first without a warm start, the later ones with; as the history grows."""
    if recorder == 'static':
        monkeypatch.setattr('lewm_core.graphs.trace', rerun)
    found = []
    for agent in agents(checkpoint, **settings):
        agent.set_goal(pictures(1, seed=1)[0])
        found.append(plans(agent, pictures(4)))
    np.testing.assert_allclose(*found, atol=1e-5)
    assert np.ptp(found[0], axis=0).max() > 1e-3  # the pictures matter


@pytest.mark.parametrize('recorder', ['traced', 'static'])
def test_pictures_are_encoded_by_a_recording_as_without_one(checkpoint, recorder, monkeypatch):
    if recorder == 'static':
        monkeypatch.setattr('lewm_core.graphs.trace', rerun)
    recorded, plain = agents(checkpoint)
    assert len(recorded._pictures) == 1
    found = [[agent.encode(pixels[None]) for pixels in pictures(3)] for agent in (recorded, plain)]
    torch.testing.assert_close(*found)
    assert (found[0][0] - found[0][1]).abs().max() > 1e-3  # not overwritten, either
    torch.testing.assert_close(recorded.encode(pictures(3)), plain.encode(pictures(3)))
    assert all(p.requires_grad for p in checkpoint.model.parameters())


def test_a_new_goal_and_a_plan_made_ahead_are_as_without_a_recording(checkpoint):
    found = []
    for agent in agents(checkpoint):
        made = []
        for goal in pictures(2, seed=1):
            agent.set_goal(goal)
            first = agent.plan(Frame(0, pictures(1)[0])).actions
            made += [first, agent.plan_next(None, first[:agent.frameskip]).actions]
        found.append(np.stack(made))
    np.testing.assert_allclose(*found, atol=1e-5)
    assert np.abs(found[0][0] - found[0][2]).max() > 1e-3


def test_a_plan_is_not_overwritten_by_the_next_one(checkpoint, monkeypatch):
    monkeypatch.setattr('lewm_core.graphs.trace', rerun)
    agent, _ = agents(checkpoint)
    latents = torch.randn(3, 1, 1, agent.encode(pictures(1)).shape[1])
    past, goals = torch.zeros(1, 0, agent.frameskip, 2), latents[0, :, 0]
    first = agent.search(latents[1], past, goals, 0)
    kept = first.actions.clone()
    second = agent.search(latents[2], past, goals, 0)
    assert torch.equal(first.actions, kept) and not torch.equal(second.actions, kept)


def test_only_what_was_recorded_runs_as_a_recording_and_other_sizes_as_ever(checkpoint):
    agent, plain = agents(checkpoint)
    latents = torch.randn(4, 1, agent.encode(pictures(1)).shape[1])
    past = torch.zeros(4, 0, agent.frameskip, 2)
    both = [each.search(latents, past, latents[:, 0].flip(0), 3) for each in (agent, plain)]
    torch.testing.assert_close(both[0].actions, both[1].actions)
    assert agent.recorded == 1
    assert agent.record(4) and agent.recorded == 2


@pytest.mark.parametrize('settings', [{'deadline_ms': 50.0}, {'solver': 'gradient'},
                                      {'iterations': 30}, {'precision': 'bf16'}], ids=str)
def test_what_cannot_be_recorded_or_gains_nothing_by_it_is_not(checkpoint, settings, caplog):
    config = PlannerConfig(**{'samples': 8, 'elites': 2, 'iterations': 2, **settings})
    agent = Agent(checkpoint, config)
    assert not agent.record() and not caplog.records
    agent.set_goal(pictures(1, seed=1)[0])
    assert np.isfinite(agent.plan(Frame(0, pictures(1)[0])).actions).all()


def test_a_search_that_is_wide_is_not_recorded_on_a_cpu(checkpoint):
    """50 problems with the paper's model and 300 candidates each were: in 12 GB instead of one,
    for a plan that took as long."""
    agent = Agent(checkpoint, PlannerConfig(samples=20, elites=2, iterations=2))
    assert agent.record(2) and not agent.record(50)


def test_a_deadline_of_one_search_is_kept_beside_a_recording(checkpoint):
    agent, _ = agents(checkpoint)
    latents = torch.zeros(1, 1, agent.encode(pictures(1)).shape[1])
    found = agent.search(latents, torch.zeros(1, 0, agent.frameskip, 2), latents[0], 0,
                         deadline=0.0)
    assert found.iterations == 1


def elsewhere(value):
    """`value` with its tensors on a device that has no numbers, and none in common with a CPU."""
    if isinstance(value, torch.Tensor):
        return value.to('meta')
    if isinstance(value, Product):
        return Product(elsewhere(value.weight), elsewhere(value.bias))
    if isinstance(value, tuple):
        parts = [elsewhere(part) for part in value]
        return type(value)(*parts) if hasattr(value, '_fields') else tuple(parts)
    return [elsewhere(part) for part in value] if isinstance(value, list) else value


@pytest.mark.parametrize('settings', [*SETTINGS, {'precision': 'bf16'}], ids=str)
def test_a_search_asks_its_device_for_nothing_and_brings_nothing_to_it(checkpoint, settings):
    """A graph can do neither. Here both are errors: there are no numbers, and no way to them."""
    agent = Agent(checkpoint, PlannerConfig(samples=24, elites=4, iterations=3, **settings))
    for name, value in vars(agent._dynamics).items():
        setattr(agent._dynamics, name, elsewhere(value))
    for head in agent._guidance._heads.values():
        head.to('meta')
    agent._space = elsewhere(agent._space)
    latents = torch.zeros(2, agent.planner.context, checkpoint.model.config.latent_dim)
    past = torch.zeros(2, agent.planner.context - 1, agent.frameskip, 2)
    given = elsewhere((latents, past, latents[:, 0], agent._center(2)))
    # As in a recording, which knows what is needed but once.
    agent._find(lambda shape: torch.zeros(shape, device='meta'), *given)
    with Moves() as moves:
        found = agent._find(lambda shape: torch.zeros(shape, device='meta'), *given)
    assert not moves.seen
    assert [value.device.type for value in found] == ['meta'] * 3
    assert found[0].shape == (2, agent.planner.horizon, agent.frameskip, 2)


@pytest.mark.parametrize('wrong', [lambda x: x + torch.zeros(3), lambda x: float(x.sum()),
                                   lambda x: x[x > 0], lambda x: bool((x > 0).all())])
def test_what_a_graph_cannot_do_is_an_error_there(wrong):
    with pytest.raises((RuntimeError, NotImplementedError)):
        wrong(torch.zeros(3, device='meta'))


def fails(program, tensors):
    raise RuntimeError('operation not permitted when stream is capturing\nand a page of more')


def frozen(program, tensors):
    outputs = program(*tensors)
    return lambda: outputs


@pytest.mark.parametrize('recorder, words', [
    (fails, 'could not be recorded: RuntimeError: operation not permitted'),
    (frozen, 'the recorded search differs by')])
def test_a_recording_that_fails_or_differs_is_said_and_not_used(checkpoint, recorder, words,
                                                                caplog, monkeypatch):
    monkeypatch.setattr('lewm_core.graphs.trace', recorder)
    config = PlannerConfig(samples=24, elites=4, iterations=3)
    agent, plain = (Agent(checkpoint, config) for _ in range(2))
    with caplog.at_level(logging.WARNING):
        assert not agent.record()
    assert words in caplog.text and 'page of more' not in caplog.text
    for each in (agent, plain):
        each.set_goal(pictures(1, seed=1)[0])
    assert np.array_equal(plans(agent, pictures(2)), plans(plain, pictures(2)))


def test_the_same_seed_draws_the_same_in_a_recording_and_another_one_other_numbers():
    generator = torch.Generator()

    def function(draw, x):
        return (x + draw((2, 3)), draw((4,)) * 2)
    recordings = Recordings(function, generator)
    x = torch.ones(2, 3)
    assert recordings.record(x)
    found = []
    for seed in (5, 5, 6):
        generator.manual_seed(seed)
        found.append(recordings(None, x))
    assert all(torch.equal(a, b) for a, b in zip(found[0], found[1]))
    assert not torch.equal(found[0][0], found[2][0])
    generator.manual_seed(5)
    assert torch.equal(found[0][0], 1 + torch.randn(2, 3, generator=generator))


def test_a_proposal_that_is_trained_on_does_not_change_half_of_a_search(checkpoint):
    agent, plain = agents(checkpoint)
    with torch.no_grad():
        for tensor in checkpoint.heads['proposal'].parameters():
            tensor.zero_()
    for each in (agent, plain):
        each.set_goal(pictures(1, seed=1)[0])
    assert np.array_equal(plans(agent, pictures(2)), plans(plain, pictures(2)))


def test_time_in_which_two_kernels_run_counts_once():
    assert covered([(4.0, 6.0), (0.0, 2.0), (1.0, 3.0), (1.5, 1.75), (6.0, 7.0)]) == 6.0
    assert covered([]) == 0.0


def test_off_cuda_the_share_of_time_in_kernels_is_not_known():
    assert kernel_share(lambda: None, torch.device('cpu')) is None


@needs_cuda
def test_the_share_of_time_in_kernels_is_a_share():
    x = torch.randn(2000, 2000, device='cuda')
    assert 0.1 < kernel_share(lambda: (x @ x).sum().item(), x.device) < 1.2


@needs_cuda
@pytest.mark.parametrize('settings', [*SETTINGS, {'iterations': 30, 'samples': 300}], ids=str)
def test_a_cuda_graph_gives_the_same_plans(checkpoint, settings):
    found = []
    for agent in agents(checkpoint, 'cuda', **settings):
        agent.set_goal(pictures(1, seed=1)[0])
        found.append(plans(agent, pictures(4)))
    np.testing.assert_allclose(*found, atol=1e-3)


@needs_cuda
def test_after_a_capture_that_fails_the_stream_is_the_one_before():
    def waits(x):
        return (x * float(x.sum()),)
    before = torch.cuda.current_stream()
    with pytest.raises(RuntimeError):
        capture(waits, (torch.ones(3, device='cuda'),))
    assert torch.cuda.current_stream() == before
    assert float(torch.ones(3, device='cuda').sum()) == 3
