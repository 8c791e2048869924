"""The bench of the proposal: the same far problems for all, compared in pairs, and resumable."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from lewm_core.bench.proposal import ARMS, problems, run, summary
from lewm_core.checkpoint import Checkpoint, save_checkpoint
from lewm_core.config import DistanceConfig, ModelConfig, PlannerConfig, ProposalConfig
from lewm_core.data import DatasetWriter
from lewm_core.distance import Distance
from lewm_core.envs import TwoRoom
from lewm_core.jobs import BenchProposalJob
from lewm_core.model import WorldModel
from lewm_core.paths import load_robot
from lewm_core.proposal import Proposal
from lewm_core.types import UserError


@pytest.mark.parametrize('start, goal, length', [
    ((0.1, 0.1), (0.3, 0.9), np.hypot(0.2, 0.8)),            # one room
    ((0.2, 0.5), (0.8, 0.5), 0.6),                           # straight through the door
    ((0.42, 0.1), (0.58, 0.1), 0.33 + 0.16 + 0.33),          # round both corners
    ((0.3, 0.1), (0.9, 0.57), np.hypot(0.12, 0.33) + np.hypot(0.48, 0.14)),  # round one
    ((0.5, 0.5), (0.9, 0.9), np.hypot(0.08, 0.07) + np.hypot(0.32, 0.33))])  # out of the door
def test_the_shortest_way_leads_through_the_door(start, goal, length):
    ways = TwoRoom().way(np.array([start, goal]), np.array([goal, start]))
    assert ways == pytest.approx([length, length])


def test_no_way_is_shorter_than_a_straight_line_or_than_two_others():
    world, rng = TwoRoom(), np.random.default_rng(0)
    a, b, c = (np.array([world._somewhere(rng) for _ in range(300)]) for _ in range(3))
    assert (world.way(a, b) >= np.linalg.norm(a - b, axis=1) - 1e-9).all()
    assert (world.way(a, c) <= world.way(a, b) + world.way(b, c) + 1e-9).all()


def test_problems_are_far_and_the_same_however_they_are_asked_for():
    _, some = problems('two_room', range(6), 0.7, 5)
    _, last = problems('two_room', range(4, 6), 0.7, 5)
    starts = np.array([[task.start['x'], task.start['y']] for task in some])
    assert (TwoRoom().way(starts, np.array([task.goal for task in some])) >= 0.7).all()
    assert [t.start for t in some[4:]] == [t.start for t in last]


def arm(ticks):
    return {'ticks': ticks, 'planner': dataclasses.asdict(PlannerConfig()), 'plans': 1,
            'seconds': 1.0}


def test_no_worse_is_said_only_where_the_interval_says_so():
    good, few = [20] * 200, [20] * 10
    worse = [20] * 180 + [-1] * 20
    found = summary({'full': arm(good), 'small': arm(worse), 'tiny': arm(good)}, 0, 60)
    assert found['small - full']['success'] == pytest.approx(-0.1)
    assert not found['small - full']['not_inferior'] and found['tiny - full']['not_inferior']
    assert found['small - full']['ticks'] == pytest.approx(4.0)
    assert found['small - full']['ticks_p'] < 1e-3
    lost = summary({'full': arm(few), 'small': arm([20] * 9 + [-1])}, 0, 60)
    assert not lost['small - full']['not_inferior']
    alike = summary({'full': arm(few), 'small': arm(few)}, 0, 60)  # ten say too little
    assert not alike['small - full']['not_inferior'] and alike['small - full']['low'] == 0


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    """An untrained small model of two_room with heads, and a short recording."""
    folder, spec, world = tmp_path_factory.mktemp('bench'), load_robot('two_room'), TwoRoom()
    rng = np.random.default_rng(0)
    with DatasetWriter(folder / 'data.h5', spec) as writer:
        for _ in range(6):
            explore, rows = world.explorer(rng), []
            for _ in range(40):
                rows.append((world.render(), explore(world.state()), *world.position))
                world.step(rows[-1][1])
            pixels, actions, x, y = (np.array(v) for v in zip(*rows))
            writer.add_episode(pixels, actions, np.arange(40) * 10**8, {'x': x, 'y': y})
    torch.manual_seed(0)
    model = WorldModel(ModelConfig(
        name='toy', encoder='conv', image_size=64, latent_dim=8, conv_channels=(4, 8, 8, 8),
        projector_hidden=16, action_mlp=16, predictor_depth=1, predictor_width=16,
        predictor_heads=2, predictor_head_dim=8, predictor_mlp=16), spec).eval()
    model.set_action_statistics([0.0, 0.0], [0.2, 0.2])
    checkpoint = Checkpoint(model, spec).with_head('proposal', Proposal(
        ProposalConfig(width=16), model)).with_head('distance', Distance(
            DistanceConfig(width=16, components=2, intervals=2), model))
    save_checkpoint(folder / 'model.safetensors', checkpoint)
    return folder


def bench(files, output, **changes):
    job = BenchProposalJob(files / 'model.safetensors', files / 'data.h5', output=output, ticks=10,
                           arms=('tiny_proposal', 'proposal', 'small_distance'), **changes)
    assert run(job, []) == 0
    return json.loads(output.read_text())


def test_a_bench_goes_on_where_it_was(files, tmp_path, capsys):
    first = bench(files, tmp_path / 'a.json', problems=2)
    more = bench(files, tmp_path / 'a.json', problems=3)
    rows = {row['arm']: row for row in more['table']}
    assert rows['proposal']['rollouts'] == 0 and rows['tiny_proposal']['rollouts'] == 16
    for name in rows:
        assert rows[name]['problems'] == 3
        assert more['arms'][name]['ticks'][:2] == first['arms'][name]['ticks']
    assert set(more['distance']) == {'latent', 'learned'}


def test_figures_of_another_bench_are_not_mixed_in(files, tmp_path, capsys):
    bench(files, tmp_path / 'a.json', problems=1)
    with pytest.raises(UserError, match='holds another bench .seed: 1000, not 1.'):
        bench(files, tmp_path / 'a.json', problems=1, seed=1)


def test_the_lean_arm_is_what_planner_small_searches():
    small = yaml.safe_load((Path(__file__).parents[2] / 'config/planner/small.yaml').read_text())
    assert ARMS['lean_proposal'] == small
