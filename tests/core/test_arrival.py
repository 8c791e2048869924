"""When a goal is reached: the tolerance that is learned, the looks, and what is said of them."""

from __future__ import annotations

import dataclasses
import logging
import math

import numpy as np
import pytest
import torch

from lewm_core.agent import Agent
from lewm_core.arrival import KEY, Arrival, learn_tolerance, tolerance_of
from lewm_core.bench.arrival import Drive, figures, in_words, measure_arrival
from lewm_core.data import Dataset, DatasetWriter
from lewm_core.types import Action, Frame, UserError
from tests.core.agent_toys import FRAMESKIP, ToyCheckpoint, ToyModel, picture
from tests.core.evaluation_toys import record_world, seeing

GOAL = torch.zeros(4)


def looks(arrival, *distances):
    """What the arrival says after looks from these squared distances."""
    said = []
    for distance in distances:
        arrival.look(GOAL + math.sqrt(distance), GOAL)
        said.append(arrival.reached)
    return said


def test_a_goal_is_reached_at_the_second_look_in_a_row_from_near():
    assert looks(Arrival(1.0), 0.9, 1.1, 0.9, 0.9) == [False, False, False, True]


def test_a_goal_that_was_reached_is_left_from_twice_as_far_and_at_once():
    assert looks(Arrival(1.0), 0.5, 0.5, 3.9, 3.9, 4.1, 0.5, 0.5) == [
        False, True, True, True, False, False, True]


def test_what_is_not_finite_is_not_near():
    assert looks(Arrival(1.0), 0.5, 0.5, math.inf, 0.5) == [False, True, False, False]
    arrival = Arrival(1.0)
    for _ in range(2):
        arrival.look(GOAL * math.nan, GOAL)
    assert not arrival.reached


def test_without_a_tolerance_no_goal_is_reached_but_its_distance_is_known():
    arrival = Arrival(None)
    assert looks(arrival, 0.0, 0.0, 0.25) == [False] * 3
    assert arrival.distance == 0.25


def test_another_goal_begins_anew():
    arrival = Arrival(1.0)
    looks(arrival, 0.5, 0.5)
    arrival.forget()
    assert not arrival.reached and math.isnan(arrival.distance)
    assert looks(arrival, 0.5, 0.5) == [False, True]


def test_a_checkpoint_without_a_tolerance_has_none_and_a_broken_one_is_refused():
    assert tolerance_of({}) is None and tolerance_of({'goal_tolerance': None}) is None
    assert tolerance_of({'goal_tolerance': {'tolerance': None, 'confusion': 0.5}}) is None
    assert tolerance_of({'goal_tolerance': {'tolerance': 0.5}}) == 0.5
    for broken in (0.5, {}, {'tolerance': -1.0}, {'tolerance': 'near'}, {'tolerance': math.nan}):
        with pytest.raises(UserError, match='goal_tolerance .* train again'):
            tolerance_of({'goal_tolerance': broken})


@pytest.fixture
def recorded(robot, tmp_path):
    """Records episodes: `recorded(speeds)`; a frame's first pixel is how far the robot has come,
    `speeds` (T,) its commands, each of ten episodes alike."""
    def make(speeds, episodes=10):
        places = np.concatenate([[0], np.cumsum(speeds)[:-1]]).astype(np.uint8)
        pixels = np.zeros((len(places), 16, 16, 3), np.uint8)
        pixels[:, 0, 0, 0] = places
        actions = np.zeros((len(places), 2))
        actions[:, 0] = np.asarray(speeds) / 100
        with DatasetWriter(tmp_path / 'd.h5', robot) as writer:
            for _ in range(episodes):
                writer.add_episode(pixels, actions, np.arange(len(places)) * 100_000_000,
                                   {'x': places / 1.0, 'y': places / 1.0})
        return Dataset.open(tmp_path / 'd.h5')
    return make


@pytest.fixture
def place_model(small_model_with, monkeypatch):
    """A model of blocks of 4 ticks whose latents are 8 times where the robot is."""
    model = small_model_with(frameskip=4)
    monkeypatch.setattr(model, 'encode', lambda pixels: pixels[..., 0, 0, :1].float().expand(
        *pixels.shape[:-3], 8))
    return model


def test_the_tolerance_is_half_a_block_of_ordinary_motion(place_model, recorded):
    found = learn_tolerance(place_model, recorded([3] * 40))
    assert found['tolerance'] == (2 * 3) ** 2 and found['confusion'] == 0
    assert found['split'] == 'calibration'


def test_frames_at_which_the_robot_was_told_to_stand_do_not_make_it_smaller(
        place_model, recorded):
    """A drive with many pauses would have had a tolerance of nothing but the camera's noise."""
    found = learn_tolerance(place_model, recorded([3] * 20 + [0] * 20 + [3] * 10 + [0] * 20))
    assert found['tolerance'] == (2 * 3) ** 2


def test_latents_in_which_frames_of_other_times_are_as_near_have_no_tolerance(
        place_model, recorded, caplog):
    to_and_fro = [3, -3] * 30
    with caplog.at_level(logging.WARNING):
        found = learn_tolerance(place_model, recorded(to_and_fro))
    assert found['tolerance'] is None and found['confusion'] > 0.4
    assert 'no goal will be said to be reached' in caplog.text


def test_a_camera_that_repeats_its_pictures_gives_no_tolerance_and_a_model_that_can_plan(
        place_model, recorded, tmp_path, caplog):
    """One slower than its ticks: the median was 0, was kept as the tolerance, and the planner
    refused the checkpoint: 'a tolerance above 0 is expected; train again'."""
    with caplog.at_level(logging.WARNING):
        found = learn_tolerance(place_model, recorded([0.125] * 64))  # another one every 8 ticks
    assert found['tolerance'] is None and found['confusion'] == 0
    assert tolerance_of({KEY: found}) is None
    assert 'are the same half a block of motion later' in caplog.text


def test_episodes_too_short_to_learn_from_give_no_tolerance_and_say_so(
        place_model, recorded, caplog):
    with caplog.at_level(logging.WARNING):
        assert learn_tolerance(place_model, recorded([3] * 8)) is None
    assert 'longer than two blocks' in caplog.text


def test_other_episodes_serve_where_none_is_kept_for_calibration(place_model, recorded):
    found = learn_tolerance(place_model, recorded([3] * 40, episodes=1))
    assert (found['tolerance'], found['split']) == (36, 'train')


def test_who_sees_where_the_robot_is_says_so_of_goals_that_are_reached_and_no_others(tmp_path):
    subject = seeing(record_world(tmp_path / 'push.h5', 'push'), tmp_path, world='none')
    checkpoint = dataclasses.replace(subject.checkpoint, metrics={
        KEY: learn_tolerance(subject.model, subject.dataset)})
    found = measure_arrival(checkpoint, checkpoint.planner, 5, seed=0)
    assert found['precision']['count'] == found['precision']['of'] == 5
    assert found['recall']['count'] == found['recall']['of'] == 5
    assert found['rest']['p95'] < 0.1
    assert 'said to be reached: 5 of 5 rightly' in in_words(found)
    assert measure_arrival(subject.checkpoint, checkpoint.planner, 5, seed=0) is None


def test_what_is_said_is_held_against_where_the_robot_was():
    metres = np.full(81, 1.0)
    right = Drive(np.where(np.arange(81) >= 20, 0.05, metres), 30)
    wrong = Drive(metres, 10)
    missed = Drive(np.where(np.arange(81) == 40, 0.09, metres), -1)
    found = figures([right, wrong, missed], 0.1)
    assert (found['precision']['count'], found['precision']['of']) == (1, 2)
    assert (found['recall']['count'], found['recall']['of']) == (1, 2)
    assert found['late_ticks'] == {'p50': 10, 'p95': 10, 'count': 1}
    assert math.isnan(figures([missed], 0.1)['said_m']['p50'])  # nothing said, nothing far


def arriving(rest, tolerance=1.0):
    checkpoint = ToyCheckpoint(ToyModel(), metrics={'goal_tolerance': {'tolerance': tolerance}})
    agent = Agent(checkpoint, rest=rest)
    agent.set_goal(picture([6.0, -4.0]))
    return agent


def block(agent, place, stamp=0):
    """The plan of a block that begins at `place`, its safe ticks driven."""
    plan = agent.plan(Frame(stamp, picture(place)))
    for _ in range(FRAMESKIP):
        agent.commit(Action(0, np.zeros(2)))
    return plan


def test_at_rest_a_plan_is_the_safe_action_until_the_robot_is_carried_away():
    agent = arriving(rest=True)
    plans = [block(agent, [6.0 + off, -4.0]) for off in (1.0, 1.0, 1.5, 3.0)]
    assert [p.reached for p in plans] == [False, True, True, False]
    assert [bool(np.any(p.actions)) for p in plans] == [True, False, False, True]
    assert plans[1].actions.shape == plans[0].actions.shape and plans[1].iterations == 0
    assert plans[2].distance == plans[2].cost == pytest.approx(1.5 ** 2 / 2)


def test_a_plan_made_ahead_rests_too_and_the_same_frame_is_no_second_look():
    agent = arriving(rest=True)
    committed = np.zeros((FRAMESKIP, 2))
    assert not agent.plan(Frame(0, picture([6.0, -4.0]))).reached
    assert not agent.plan_next(None, committed).reached
    agent.commit(Action(0, np.zeros(2)))
    plan = agent.plan_next(Frame(1, picture([6.0, -4.0])), committed)
    assert plan.reached and not plan.actions.any()


def test_a_goal_that_is_reached_changes_no_plan_unless_the_robot_is_to_rest():
    plans = [[block(agent, [6.0, -4.0]) for _ in range(3)]
             for agent in (arriving(rest=False), arriving(rest=False, tolerance=None))]
    assert [p.reached for p in plans[0]] == [False, True, True]
    assert not any(p.reached for p in plans[1])
    for ours, former in zip(*plans):
        assert np.array_equal(ours.actions, former.actions) and ours.cost == former.cost


def test_another_goal_a_gap_or_an_episode_must_be_looked_at_twice_again():
    agent = arriving(rest=True)
    for forget in (lambda: agent.set_goal(picture([6.0, -4.0])), agent.reset):
        block(agent, [6.0, -4.0])
        assert block(agent, [6.0, -4.0]).reached
        forget()
        assert not block(agent, [6.0, -4.0]).reached
