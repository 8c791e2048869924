"""The planner's bench: same problems for all, honest comparisons, and what it refuses."""

from __future__ import annotations

import dataclasses
import json
import mmap

import numpy as np
import pytest
import torch

from lewm_core.agent import Agent
from lewm_core.bench import common, planner_small, planner_success
from lewm_core.bench.ahead import compare_delays
from lewm_core.bench.arrival import measure_arrival
from lewm_core.bench.planner import run_planner
from lewm_core.bench.planner_small import PatchDynamics, small
from lewm_core.bench.planner_speed import median_interval, perturbed
from lewm_core.bench.planner_success import (
    REFERENCE, budgets, drive, parse_budget, problems)
from lewm_core.bench.proposal import problems as far_problems
from lewm_core.bench.trials import run_trials
from lewm_core.checkpoint import Checkpoint, save_checkpoint
from lewm_core.config import ModelConfig, PlannerConfig
from lewm_core.int8 import supported
from lewm_core.jobs import BenchPlannerJob
from lewm_core.types import UserError
from tests.core.device_toys import Moves

SMALL = ModelConfig(encoder='vit', image_size=28, encoder_depth=1, encoder_width=16,
                    encoder_heads=2, encoder_mlp=32, latent_dim=16, predictor_width=16,
                    predictor_heads=2, predictor_head_dim=8, predictor_mlp=32, action_mlp=32,
                    projector_hidden=32, predictor_depth=2)
SEARCH = PlannerConfig(samples=8, elites=2, iterations=2)


@pytest.fixture(scope='module')
def model():
    return perturbed(SMALL, 0)


def test_every_tensor_of_the_benched_model_is_moved_and_actions_matter(model):
    torch.manual_seed(0)
    fresh = type(model)(SMALL, model.spec).state_dict()
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            assert not torch.equal(tensor, fresh[name]), name
    actions = torch.randn(1, 2, 3, 5, 2, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ends = model.rollout(torch.zeros(1, 1, 16), actions[:, 0, :0], actions)[0, :, -1]
    assert (ends[0] - ends[1]).abs().max() > 1e-3


@pytest.mark.parametrize('text, expected', [
    ('cem:300x30', ('cem', 300, 30, 30, 1)), ('icem:64x3:5', ('icem', 64, 3, 8, 5)),
    ('mppi:10x1', ('mppi', 10, 1, 2, 1))])
def test_a_budget_is_solver_samples_iterations_and_knots(text, expected):
    config = parse_budget(text, PlannerConfig(), 3)
    assert (config.solver, config.samples, config.iterations, config.elites,
            config.knots) == expected
    assert config.seed == 3


@pytest.mark.parametrize('text', ['cem', '64x3', 'cem:64', 'cem:64x3:', 'cem:64x3+x'])
def test_a_budget_that_is_none_is_refused(text):
    with pytest.raises(UserError, match='is not understood'):
        parse_budget(text, PlannerConfig(), 0)


@pytest.mark.parametrize('text, words', [
    ('foo:64x3', "solver='foo' is not known"), ('cem:64x0', 'iterations=0 is out of range'),
    ('cem:64x3:9', 'knots=9'), ('cem:64x3+proposal', 'asks for a proposal')])
def test_a_budget_that_cannot_be_is_said_before_any_is_driven(
        text, words, model, tmp_path, monkeypatch):
    """A solver's typing error was a KeyError at the end of a traceback, no iterations were driven
    by as if that were a search, and the rest was said once all budgets before had been driven."""
    path = tmp_path / 'model.safetensors'
    save_checkpoint(path, Checkpoint(model, model.spec, planner=SEARCH))
    monkeypatch.setattr(planner_success, 'drive', lambda *_: pytest.fail('was driven'))
    with pytest.raises(UserError, match=words):
        run_planner(job(tables=('success',), checkpoint=path, budgets=('cem:8x2', text),
                        output=tmp_path / 'planner.json'), [])


def test_the_interval_of_a_median_holds_it():
    values = np.random.default_rng(0).normal(1.0, 0.1, 101)
    low, high = median_interval(values, 0)
    assert low < np.median(values) < high
    assert high - low < 0.1


def job(**changes):
    return BenchPlannerJob(**{'problems': 6, 'world': 'two_room', 'model': SMALL,
                              'planner': SEARCH, **changes})


def test_the_same_problems_come_for_every_budget_and_far_ones_are_far(model):
    checkpoint = Checkpoint(model, model.spec)
    first, second = (problems(job(), checkpoint)[1] for _ in range(2))
    assert all(np.array_equal(a.goal, b.goal) and a.start == b.start
               for a, b in zip(first, second))
    far = problems(job(world='two_room_far'), checkpoint)[1]
    ways = [planner_success._way(task) for task in far]
    assert min(ways) >= planner_success.FAR_M > min(map(planner_success._way, first))


def test_driving_all_problems_at_once_is_judged_tick_by_tick(model):
    checkpoint = Checkpoint(model, model.spec)
    agent = Agent(checkpoint, SEARCH)
    worlds, tasks = problems(job(), checkpoint)
    starts = [dict(world.state()) for world in worlds]
    found = drive(agent, worlds, tasks, 0)
    assert found.reached.shape == found.imagined.shape == found.executed.shape == (6,)
    assert np.isfinite(found.imagined).all() and np.isfinite(found.executed).all()
    for world, start, reached in zip(worlds, starts, found.reached):
        assert world.state() != start
    # The same again is the same: what drives is the seed.
    again = drive(agent, *problems(job(), checkpoint), 0)
    assert np.array_equal(found.reached, again.reached)
    assert np.array_equal(found.imagined, again.imagined)


@pytest.mark.parametrize('bench, seeds', [
    (lambda agent, worlds, tasks: drive(agent, worlds, tasks, 3), range(12)),
    (lambda agent, worlds, tasks: run_trials(agent, worlds, tasks, ticks=60, seed=3),
     range(0, 60, 5))])
def test_the_candidates_are_those_of_the_figures_in_the_documentation(model, bench, seeds):
    """One driver serves both: each has drawn from seeds of its own since it was written."""
    checkpoint = Checkpoint(model, model.spec)
    agent, used = Agent(checkpoint, SEARCH), []
    search = agent.search

    def noted(latents, past, goals, seed, start):
        used.append(seed - (3 << 20))
        return search(latents, past, goals, seed, start)

    agent.search = noted
    worlds, tasks = problems(job(problems=2), checkpoint)
    bench(agent, worlds, [dataclasses.replace(task, goal=task.goal + 9) for task in tasks])
    assert used == list(seeds)


def test_a_robot_that_stands_at_its_goal_has_arrived(model):
    checkpoint = Checkpoint(model, model.spec)
    worlds, tasks = problems(job(problems=2), checkpoint)
    tasks[0] = dataclasses.replace(tasks[0], goal=worlds[0].position.copy())
    assert drive(Agent(checkpoint, SEARCH), worlds, tasks, 0).reached[0]


def test_tokens_of_a_frame_know_nothing_of_later_frames():
    dynamics = PatchDynamics(4, 0)
    latents, actions = torch.randn(1, 3, 4 * 384), torch.randn(1, 3, 5, 2)
    with torch.no_grad():
        whole = dynamics.predict(latents, dynamics.embed_actions(actions))
        cut = dynamics.predict(latents[:, :2], dynamics.embed_actions(actions[:, :2]))
    torch.testing.assert_close(whole[:, :2], cut, rtol=1e-4, atol=1e-4)


def test_the_bench_writes_every_row_with_its_keys_and_needs_no_reference(tmp_path, capsys):
    output = tmp_path / 'planner.json'
    assert run_planner(job(output=output, tables=('speed',), rounds=1, threads=1), []) == 0
    result = json.loads(output.read_text())
    assert [row['dtype'] for row in result['rows']] == [
        'float32', 'bf16', *['int8'] * supported(), 'auto']
    for row in result['rows']:
        assert {'solver', 'device', 'dtype', 'batch', 'samples', 'iterations', 'horizon',
                'plan_ms', 'final_cost', 'peak_mb'} <= set(row)
        assert row['plan_ms'] > 0 and row['final_cost'] > 0
    assert result['summary']['speedup_vs_reference'] is None
    assert 'plan_ms' in capsys.readouterr().out


def test_the_table_of_success_compares_the_small_budget_with_the_full_one(model, tmp_path):
    path = tmp_path / 'model.safetensors'
    save_checkpoint(path, Checkpoint(model, model.spec, planner=SEARCH))
    output = tmp_path / 'planner.json'
    run_planner(job(output=output, tables=('success',), checkpoint=path, problems=3,
                    budgets=('cem:8x2', 'cem:50x2')), [])
    result = json.loads(output.read_text())
    assert result['summary']['small_budget'] == 'cem:8x2'
    assert result['summary']['full_budget'] == 'cem:50x2'
    assert result['summary']['small_budget_fraction'] == pytest.approx(16 / 9000)
    assert all(row['peak_mb'] > 0 for row in result['rows'])


@pytest.mark.parametrize('asked, expected', [
    ([90], None), ([90, 90, 90], None), ([90, 60, 90], (60, 90)), ([60, 9000], (60, 9000))])
def test_no_budget_is_compared_with_itself(asked, expected):
    """Of budgets of one size the summary said that the small one reached as much as the full one,
    from 0 to 0 with 95 % confidence: they were one and the same row."""
    driven = planner_success.Driven(np.arange(4) > 1, np.zeros(4), np.zeros(4), 1.0)
    rows = [{'samples': count, 'iterations': 1, 'budget': count, 'success': 0.5}
            for count in asked]
    found = planner_success._compare(rows, [driven] * len(rows), 0)
    assert (found and (found['small_budget'], found['full_budget'])) == (expected or {})


def test_what_is_compared_unless_asked_begins_with_a_hundredth_of_the_reference(model):
    for proposal in (False, True):
        first, *_, last = (parse_budget(text, SEARCH, 0) for text in budgets(proposal))
        assert first.samples * first.iterations * 100 <= REFERENCE
        assert first.proposal == proposal
        assert last.samples * last.iterations == REFERENCE


def test_a_plan_is_timed_as_the_checkpoint_plans(model, tmp_path):
    """It was timed with `planner=reference`, the default of the table of speed beside it."""
    path = tmp_path / 'model.safetensors'
    save_checkpoint(path, Checkpoint(model, model.spec, planner=SEARCH))
    rows, summary = small(job(tables=('small',), checkpoint=path))
    assert {(row['samples'], row['iterations']) for row in rows} == {
        (SEARCH.samples, SEARCH.iterations)}
    assert summary['demo_plan_ms_p95'] == rows[0]['plan_ms_p95']


def test_goals_are_in_the_world_of_the_checkpoints_robot(model):
    """Without `world` a model of push was driven in two rooms, and a third of the goals reached;
    `push_far` were goals far through a door that push has not."""
    push = Checkpoint(model, dataclasses.replace(model.spec, name='push'))
    mine = Checkpoint(model, dataclasses.replace(model.spec, name='my_robot'))
    assert planner_success.world_of('', push) == 'push'
    assert planner_success.world_of('two_room_far', mine) == 'two_room_far'
    for asked, checkpoint, words in (('two_room', push, "robot is of 'push'"),
                                     ('push_far', push, 'is not known'),
                                     ('', mine, "world='my_robot' is not known")):
        with pytest.raises(UserError, match=words):
            planner_success.world_of(asked, checkpoint)


def test_a_model_of_other_pictures_than_the_demos_is_driven_with_its_own(model):
    """`bench node` and `bench proposal` drew worlds of 64 pixels, whatever the model sees, and
    refused every other model as if its user had given the wrong picture."""
    metrics = {'goal_tolerance': {'tolerance': 1.0}}
    checkpoint = Checkpoint(model, model.spec, planner=SEARCH, metrics=metrics)
    assert all(len(found) == 1 for found in compare_delays(checkpoint, SEARCH, 1, 0).values())
    assert measure_arrival(checkpoint, SEARCH, 1, 0)['keep']
    worlds, tasks = far_problems('two_room', range(1), 0.5, 0, 28)
    assert worlds[0].goal_image(tasks[0]).shape == (28, 28, 3)


def test_a_proposal_that_the_checkpoint_lacks_is_refused(model, tmp_path):
    path = tmp_path / 'model.safetensors'
    save_checkpoint(path, Checkpoint(model, model.spec, planner=SEARCH))
    with pytest.raises(UserError, match='asks for a proposal'):
        run_planner(job(tables=('success',), checkpoint=path, budgets=('cem:8x2+proposal',),
                        output=tmp_path / 'planner.json'), [])


@pytest.mark.parametrize('changes, words', [
    ({'tables': ('sucess',)}, 'tables=sucess'), ({'tables': ('success',)}, 'checkpoint=PATH'),
    ({'tables': ('small',)}, 'checkpoint=PATH'),
    ({'device': 'cuda:99'}, "device='cuda:99' cannot be used")])
def test_what_the_bench_cannot_do_is_refused(changes, words, tmp_path):
    """A device that isn't there was said by a worker at the end of a traceback, and here that the
    reference should be left out, which nobody had asked for."""
    with pytest.raises(UserError, match=words):
        run_planner(job(output=tmp_path / 'planner.json', **changes), [])


def test_auto_is_a_device_in_every_table_as_it_is_in_the_other_programs(tmp_path, monkeypatch):
    """It passed as a device and ended as a worker's traceback, for no tensor can lie on it."""
    seen = []

    def table(name, asked):
        seen.append(torch.device(asked.device).type)
        return [], {}
    monkeypatch.setattr('lewm_core.bench.planner._table', table)
    path = tmp_path / 'planner.json'
    assert run_planner(job(device='auto', tables=('speed', 'patches'), output=path), []) == 0
    assert seen == ['cuda' if torch.cuda.is_available() else 'cpu'] * 2


def test_patches_are_timed_on_the_device_that_their_rows_name(monkeypatch):
    """With device=cuda the rows said so, and the table had been measured on the CPU."""
    used = []

    def search(dynamics, latent, config, device):
        own = dynamics._positions if latent == 16 else next(dynamics.parameters())
        used.append((own.device.type, device.type))
        return lambda: None
    monkeypatch.setattr(planner_small, '_search', search)
    rows, _ = planner_small.patches(job(device='meta', rounds=1))
    assert used == [('meta', 'meta')] * 6 and {row['device'] for row in rows} == {'meta'}


def test_the_predictor_of_patches_waits_for_nothing_from_the_cpu():
    """Its mask was made there and brought in every prediction, which waits for it: a GPU would
    have been timed at that."""
    theirs = PatchDynamics(4, 0).to('meta')
    latents, actions = (torch.zeros(2, 3, n, device='meta') for n in (4 * 384, 384))
    with torch.inference_mode(), Moves() as moves:
        assert theirs.predict(latents, actions).shape == latents.shape
    assert not moves.seen


def test_peak_memory_is_the_rows_own(monkeypatch):
    """A worker's was at least that of the bench that had started it, whose peak a process
    inherits; and within one process each row had that of all rows before it."""
    monkeypatch.setattr(common.resource, 'getrusage', lambda who: pytest.fail('inherited'))
    device = torch.device('cpu')
    with mmap.mmap(-1, 50 * 2**20) as held:  # which goes back to the system for certain
        for at in range(0, len(held), mmap.PAGESIZE):
            held[at] = 1
        before = common.peak_mb(device)
    common.reset_peak(device)
    assert common.peak_mb(device) < before - 40
