"""Worlds that others wrote: any environment with a box and a picture, and Push-T."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest

from lewm_core.envs import GymRobot, make_world
from lewm_core.paths import load_robot
from lewm_core.types import UserError

TICKS = 60


class Slider(gymnasium.Env):
    """A bead on a wire, in a simulator that nobody here wrote."""

    metadata = {'render_modes': ['rgb_array']}
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
    observation_space = gymnasium.spaces.Box(-2.0, 2.0, (1,), np.float64)

    def __init__(self, render_mode=None):
        self.render_mode, self.place = render_mode, 0.0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = self.np_random.uniform(-1, 1)
        return np.array([self.place]), {}

    def step(self, action):
        self.place = float(np.clip(self.place + 0.1 * action[0], -2, 2))
        return np.array([self.place]), 0.0, False, False, {}

    def render(self):
        picture = np.full((32, 32, 3), 250, np.uint8)
        picture[:, int(15.5 + 7 * self.place)] = (200, 0, 0)
        return picture


@pytest.fixture
def slider():
    gymnasium.register('Slider-v0', entry_point=Slider, max_episode_steps=10)
    yield GymRobot('Slider-v0', 16)
    gymnasium.registry.pop('Slider-v0')


def test_any_environment_with_a_box_and_a_picture_is_a_world(slider):
    rng = np.random.default_rng(0)
    assert slider.render().shape == (16, 16, 3)
    task = slider.sample_task(rng)
    slider.reset_to(task)
    start = slider.state()
    assert slider.sample_task(rng) is not None and slider.state() == start
    assert not slider.reached(task.goal)
    for _ in range(60):  # beyond the wrapper's time limit
        way = task.goal - slider.state()['obs_0']
        assert not slider.step(np.clip(10 * way, -1, 1))[3]
    assert slider.reached(task.goal, 1.0)
    assert np.array_equal(slider.render(), slider.goal_image(task))
    assert slider.teleport(rng) >= 6.0
    plain = slider.render()
    for kind in ('floor', 'robot', 'all'):
        slider.set_colour(kind)
        assert not np.array_equal(slider.render(), plain)
    slider.clear_colour()
    assert np.array_equal(slider.render(), plain)
    explore = slider.explorer(rng)
    commands = np.array([explore(slider.state()) for _ in range(100)])
    assert np.abs(commands).max() <= 1.0 and len(np.unique(commands)) > 10
    with pytest.raises(UserError, match="'Slider-v0'.*random, hold or external"):
        slider.line_action(task.goal)


@pytest.mark.parametrize('name, reason', [
    ('NoSuchWorld-v0', 'NoSuchWorld-v0'), ('nowhere/World-v0', 'Namespace nowhere not found'),
    ('CartPole-v1', r'Discrete\(2\).*Box')])
def test_what_cannot_be_a_world_is_refused_in_a_sentence(name, reason):
    with pytest.raises(UserError, match=reason):
        make_world(name)


def test_push_t_is_driven_by_velocities_and_shows_no_command():
    pytest.importorskip('gym_pusht', reason='an optional simulator: make pusht')
    world, spec = make_world('pusht', 64), load_robot('pusht')
    assert set(spec.state_names) <= set(world.state())
    assert np.allclose(spec.high, world.action_space.high)
    rng = np.random.default_rng(0)
    for _ in range(5):
        task = world.sample_task(rng)
        world.reset_to(task)
        assert world.state() == pytest.approx(task.start)
        start, picture = world.render(), world.goal_image(task)
        assert world.state() == pytest.approx(task.start)
        world.step(np.zeros(2))  # at rest it stays, and no cross is drawn
        assert np.abs(world.render().astype(int) - start).mean() < 1
        for _ in range(TICKS):
            world.step(world.line_action(task.goal))
        assert world.reached(task.goal, 1.0)
        assert picture.shape == (64, 64, 3)
    assert world.teleport(rng) >= 6 * world.radius


def test_push_t_is_exactly_in_the_state_it_was_set_to_unlike_by_the_simulators_own_reset():
    pytest.importorskip('gym_pusht', reason='an optional simulator: make pusht')
    world, other = make_world('pusht', 64), make_world('pusht', 64)
    world.reset(seed=5)
    for _ in range(20):
        world.advance(np.array([120.0, -60.0]))
    wanted = world.state()
    other.set_state(wanted)
    assert other.state() == pytest.approx(wanted, abs=1e-9)
    assert np.abs(other.render().astype(int) - world.render()).max() <= 2
    other.reset(options={'reset_to_state': list(wanted.values())})
    off = np.hypot(*(other.state()[f'block_{c}'] - wanted[f'block_{c}'] for c in 'xy'))
    assert off > 1.0


def test_an_episode_of_push_t_ends_when_the_block_has_left_the_picture_and_none_begins_so():
    """No wall stops the disc, so it squeezed the block out: after some minutes a long drive, and
    with it what an alarm was calibrated on, was one without a block.
    """
    pytest.importorskip('gym_pusht', reason='an optional simulator: make pusht')
    world, ends = make_world('pusht', 64), []

    def outside() -> bool:
        corners = [world.env.block.local_to_world(corner) for shape in world.env.block.shapes
                   for corner in shape.get_vertices()]
        return not (0 <= np.min(corners) and np.max(corners) <= 512)
    for seed in range(6):
        world.reset(seed=seed)
        assert not outside() and not world.ended
        explore = world.explorer(np.random.default_rng(seed))
        for tick in range(2000):
            result = world.step(explore(world.state()))
            assert world.ended == result[3] == outside()
            if world.ended:
                ends.append(tick)
                break
    assert len(ends) >= 4
