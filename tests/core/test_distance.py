"""The distance in time: a quasimetric whatever its weights, and the shortest way once trained."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lewm_core.config import DistanceConfig, PlannerConfig
from lewm_core.distance import Distance, train_distance
from lewm_core.guidance import Guidance
from lewm_core.head_training import Episodes

TICKS = 3  # in a block of the toy model
SHAPE = DistanceConfig(width=32, components=4, intervals=4, batch_size=128)
PLACES = 13


@pytest.fixture
def head(small_model):
    torch.manual_seed(1)
    return Distance(SHAPE, small_model).eval()


def test_an_untrained_distance_is_a_quasimetric_already(head):
    x, y, z = torch.randn(3, 500, 8) * 3
    assert (head(x, x) == 0).all() and (head(x, y) > 0).all()
    assert (head(x, z) <= head(x, y) + head(y, z) + 1e-5).all()
    assert (head(x, y) - head(y, x)).abs().max() > 0.05


def test_overlapping_intervals_count_once(head):
    start = torch.tensor([[[0.0, 1.0, 5.0, 9.0]]])
    end = torch.tensor([[[2.0, 3.0, 6.0, 4.0]]])  # [0, 3] and [5, 6]; the last leads down
    assert head.between(start, end).item() == pytest.approx(4.0)


def test_many_starts_and_one_goal_are_broadcast(head):
    x, goal = torch.randn(2, 5, 3, 8), torch.randn(2, 1, 1, 8)
    assert head(x, goal).shape == (2, 5, 3)
    assert torch.allclose(head(x, goal)[1, 4, 2], head(x[1, 4, 2], goal[1, 0, 0]))


def ring():
    """Walks to and fro on a ring of 13 places that is open at 0: a block is one place at most."""
    rng = np.random.default_rng(0)
    places, last = [], []
    for episode in range(30):
        place, held = int(rng.integers(PLACES)), []
        for _ in range(20):
            held += [place] * TICKS
            place = int(np.clip(place + rng.integers(-1, 2), 0, PLACES - 1))
        last += [len(places) + len(held) - 1] * len(held)
        places += held
    return Episodes(latent(np.array(places)), torch.zeros(len(places), 2), torch.tensor(last))


def latent(places):
    """On the ring the first and the last place are neighbours for the eye, not for the foot."""
    angle = torch.from_numpy(np.asarray(places)) * (2 * np.pi / PLACES)
    turns = torch.stack([f(k * angle) for k in (1, 2, 3, 4) for f in (torch.sin, torch.cos)], -1)
    return turns.float()


def test_it_learns_the_shortest_way_from_aimless_walks(small_model):
    """Time would say otherwise: in 20 blocks of such a walk one gets some 3 places far."""
    head, excess = train_distance(small_model, ring(), SHAPE, steps=600)
    far = head(latent([0] * PLACES), latent(range(PLACES))).detach()
    assert excess < 0.05
    assert np.corrcoef(far, range(PLACES))[0, 1] > 0.98
    assert far[-1] > 10  # the two ends look alike, and are 12 blocks apart


def test_the_same_seed_gives_the_same_distance_and_a_stop_gives_none(small_model):
    def once(**options):
        return train_distance(small_model, ring(), SHAPE, steps=3, **options)

    first, again = once()[0].state_dict(), once()[0].state_dict()
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert once(should_stop=lambda: True)[1] is None


def test_the_cost_of_a_plan_falls_as_it_comes_nearer_and_grows_with_the_weight(head):
    goal = torch.randn(1, 8)
    away = goal + 3 * torch.randn(8)
    plans = torch.stack([torch.stack([away[0], away[0]]), torch.stack([away[0], goal[0]]),
                         torch.stack([goal[0], goal[0]])])[None]
    one, two = (Guidance({'distance': head}, PlannerConfig(distance_weight=w)).term()(plans, goal)
                for w in (1.0, 2.0))
    assert one[0, 0] > one[0, 1] > one[0, 2]
    assert one[0, 2].item() == pytest.approx(0, abs=1e-5)
    assert torch.allclose(two, 2 * one)
    assert Guidance({'distance': head}, PlannerConfig()).term() is None
