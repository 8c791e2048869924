"""int8 in the first part of a search: near enough to sort by, never what a plan is chosen by."""

from __future__ import annotations

import logging

import pytest
import torch

from lewm_core import dynamics, int8
from lewm_core.agent import Agent
from lewm_core.checkpoint import Checkpoint
from lewm_core.config import PlannerConfig
from lewm_core.dynamics import imagination
from lewm_core.imagine import Imagination
from lewm_core.int8 import Int8Product, Watched, supported
from lewm_core.planner import solve
from lewm_core.products import Product
from tests.core.model_toys import rollout_inputs

needs_int8 = pytest.mark.skipif(not supported(), reason='no VNNI here, or no kernels for int8')
LARGE = PlannerConfig(samples=200, elites=20, iterations=12)


def error(found, expected):
    """How far off, beside how far the candidates lie apart."""
    return ((found - expected).norm() / (expected - expected.mean(1, keepdim=True)).norm()).item()


def in_int8(imagined):
    """Whether there is such an imagination, and its products are."""
    return imagined is not None and isinstance(imagined._layers[0].widen, Int8Product)


@needs_int8
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('rows, width, out', [(1, 5, 3), (7, 16, 40), (300, 40, 16)])
def test_a_product_in_int8_is_nearly_the_product(dtype, rows, width, out):
    torch.manual_seed(0)
    x = torch.randn(rows, width).to(dtype)
    product = Product(torch.randn(out, width).to(dtype), torch.randn(out).to(dtype))
    watched = Watched(product)
    expected = watched(x).float()
    found = Int8Product(watched)(x)
    assert found.dtype == dtype
    assert (found.float() - expected).norm() < 0.02 * expected.norm()


@needs_int8
def test_two_products_hand_bytes_on_to_each_other():
    torch.manual_seed(0)
    watched = Watched(Product(torch.randn(64, 16), torch.randn(64))), Watched(
        Product(torch.randn(16, 64), None))
    x = torch.randn(50, 16)
    expected = watched[1](watched[0](x, gelu=True))
    widen, narrow = Int8Product(watched[0], watched[1].levels()), Int8Product(watched[1])
    assert widen(x, gelu=True).dtype == torch.uint8
    assert (narrow(widen(x, gelu=True)) - expected).norm() < 0.03 * expected.norm()


@needs_int8
def test_what_lies_beyond_all_that_was_seen_is_taken_as_the_farthest():
    """A byte that ran over would make a large number a small one of the other sign."""
    watched = Watched(Product(torch.eye(4), None))
    watched(torch.tensor([[1.0, -0.5, 0.0, 0.0]]))
    found = Int8Product(watched)(torch.tensor([[1.5, -1.5, 1e6, -1e6]]))[0]
    torch.testing.assert_close(found, torch.tensor([1.0, -0.5, 1.0, -0.5]), rtol=0.02, atol=0)


@needs_int8
@pytest.mark.parametrize('depth, latent_dim', [(1, 8), (2, 32)])
@pytest.mark.parametrize('history, context', [(1, 1), (2, 1), (2, 2), (3, 1), (3, 2), (3, 3),
                                              (5, 2)])
def test_it_imagines_nearly_what_the_model_does(moved, depth, latent_dim, history, context):
    model = moved(history=history, predictor_depth=depth, latent_dim=latent_dim)
    given = rollout_inputs(model, context, count=20)
    with torch.no_grad():
        expected = model.rollout(*given)
    coarse = Imagination(model).in_int8(*rollout_inputs(model, 1, count=20, seed=3))
    # Tokens of another window would be off by about as much as candidates differ.
    assert 1e-4 < error(coarse.rollout(*given), expected) < 0.25


@needs_int8
def test_a_long_search_of_a_wide_model_begins_in_int8_and_others_do_not(moved, monkeypatch):
    model = moved()
    assert imagination(model, LARGE).coarse is None  # narrow
    monkeypatch.setattr(dynamics, '_WIDE', 0)
    assert in_int8(imagination(model, LARGE).coarse)
    for changes in ({'samples': 50}, {'precision': 'float32'}, {'precision': 'bf16'},
                    {'solver': 'icem'}, {'deadline_ms': 9.0}):
        config = PlannerConfig(**{**vars(LARGE), **changes})
        assert imagination(model, config).coarse is None, changes


@needs_int8
def test_a_model_with_an_outlier_among_its_activations_is_refused(moved, monkeypatch, caplog):
    """One hidden unit reaches so far that all others are one level: elites would be chance."""
    monkeypatch.setattr(dynamics, '_WIDE', 0)
    model = moved()
    with torch.no_grad():
        for block in model.predictor.transformer.layers:
            mlp = block.mlp.net
            mlp[1].bias[0] += 1e4
            mlp[4].weight[:, 0] *= 1e-4
    with caplog.at_level(logging.WARNING):
        assert not in_int8(imagination(model, LARGE).coarse)
    assert 'int8 is not used: its elites cost' in caplog.text


@needs_int8
def test_a_search_that_begins_in_int8_repeats_itself_and_is_not_recorded(moved):
    model = moved()
    agent = Agent(Checkpoint(model, model.spec), PlannerConfig(
        samples=16, elites=4, iterations=6, precision='int8'))
    assert in_int8(agent._dynamics.coarse)
    assert not agent.record() and not agent.recorded
    latents, past, _ = rollout_inputs(model, 1)
    plans = [agent.search(latents, past, latents[:, 0] + 1, seed) for seed in (1, 1, 2)]
    assert torch.equal(plans[0].actions, plans[1].actions)
    assert not torch.equal(plans[0].actions, plans[2].actions)


def unable(*_):
    raise RuntimeError('no such kernel')


@pytest.mark.parametrize('where, name, instead', [
    (torch.cpu, 'get_capabilities', lambda: {}), (Int8Product, '__init__', unable),
    (Int8Product, '__call__', lambda self, x, gelu=False: torch.zeros(len(x), 16))])
def test_without_kernels_that_are_there_and_right_the_search_is_as_it_was(
        moved, monkeypatch, caplog, where, name, instead):
    monkeypatch.setattr(where, name, instead)
    assert not int8.supported()
    with caplog.at_level(logging.WARNING):
        found = imagination(moved(), PlannerConfig(precision='int8'))
    assert found.coarse is None and 'int8 is not used' in caplog.text


@pytest.mark.parametrize('changes, words', [
    ({'solver': 'icem'}, 'planner.solver=icem judges all in full; choose cem or mppi'),
    ({'deadline_ms': 9.0}, 'with planner.deadline_ms any iteration may be the last')])
def test_who_asks_for_int8_hears_why_the_search_has_none(moved, caplog, changes, words):
    """It did nothing there and said nothing."""
    with caplog.at_level(logging.WARNING):
        assert imagination(moved(), PlannerConfig(precision='int8', **changes)).coarse is None
    assert f'int8 is not used: {words}' in caplog.text


class Judge:
    """An objective that notes who judged; its coarse one takes all candidates for free."""

    def __init__(self):
        self.seen = []

    def __call__(self, actions):
        self.seen.append('full')
        return (actions - 0.3).square().sum((-1, -2, -3))

    def coarse(self, actions):
        self.seen.append('coarse')
        return (actions - 0.3).square().sum((-1, -2, -3)) - 1e6


@pytest.mark.parametrize('changes, coarse', [
    ({}, 10), ({'solver': 'mppi'}, 10), ({'solver': 'icem'}, 0), ({'iterations': 3}, 2),
    ({'iterations': 1}, 0)])
def test_the_last_sixth_of_a_search_is_judged_in_full_and_so_is_its_plan(changes, coarse):
    config = PlannerConfig(**{'samples': 30, 'elites': 5, 'iterations': 12, **changes})
    found, judge = searched(config)
    full = config.iterations - coarse + 1  # and the elites' mean
    assert judge.seen == ['coarse'] * coarse + ['full'] * full
    torch.testing.assert_close(found.cost, judge(found.actions[:, None])[:, 0])


def test_with_a_deadline_all_is_judged_in_full_for_it_may_come_at_any_time():
    _, judge = searched(PlannerConfig(samples=30, elites=5, iterations=12), deadline=float('inf'))
    assert judge.seen == ['full'] * 13


def searched(config, **options):
    judge = Judge()
    return solve(judge, [-1, -1], [1, 1], [0.3, 0.3], config, frameskip=5,
                 generator=torch.Generator().manual_seed(0), **options), judge
