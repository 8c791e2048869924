"""The worlds: what can be reached and how, and what their pictures show."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from lewm_core.envs import Push, TwoRoom, make_world
from lewm_core.paths import load_robot
from lewm_core.types import UserError

TICKS = 60
WORLDS = pytest.mark.parametrize('world', [TwoRoom(), Push()], ids=['two_room', 'push'])


def share_reached(world, driver, tasks=150):
    """The share of tasks that `driver(rng, task)` solves in time; it gives the next command."""
    reached = 0
    for i in range(tasks):
        rng = np.random.default_rng([7, i])
        task = world.sample_task(rng)
        world.reset_to(task)
        assert not world.reached(task.goal)
        act = driver(rng, task)
        for tick in range(TICKS):
            world.step(act(tick))
            if world.reached(task.goal):
                reached += 1
                break
    return reached / tasks


def at_random(rng, _):
    held = [np.zeros(2)]

    def act(tick):
        if tick % 5 == 0:
            held[0] = rng.uniform(-0.4, 0.4, 2)
        return held[0]
    return act


@WORLDS
def test_a_world_keeps_gymnasiums_rules(world):
    check_env(world, skip_render_check=True)


@WORLDS
def test_a_random_driver_rarely_reaches_a_goal(world):
    assert share_reached(world, at_random) < 0.15


@WORLDS
def test_sixty_ticks_are_enough_for_who_knows_the_way(world):
    assert share_reached(world, lambda _, task: lambda tick: world.guide_action(task.goal)) > 0.97


def test_in_two_rooms_a_straight_line_is_not_enough():
    world = TwoRoom()
    line = share_reached(world, lambda _, task: lambda tick: world.line_action(task.goal))
    assert line < 0.75


@WORLDS
def test_tasks_are_longer_than_a_quarter_of_the_arena_and_leave_the_world_alone(world):
    world.reset(seed=3)
    before = world.state()
    for i in range(200):
        task = world.sample_task(np.random.default_rng(i))
        start = np.array([task.start['x'], task.start['y']])
        assert np.linalg.norm(task.goal - start) > 0.25
        assert isinstance(world, Push) or (start[0] < 0.5) != (task.goal[0] < 0.5)
    world.goal_image(task)
    assert world.state() == before


@WORLDS
def test_the_explorer_goes_everywhere_within_the_limits(world):
    world.reset(seed=0)
    explore = world.explorer(np.random.default_rng(0))
    places, commands = [], []
    for tick in range(10_000):
        if tick % 100 == 0:
            world.reset(seed=tick)
        commands.append(explore(world.state()))
        world.step(commands[-1])
        places.append(world.position)
    places, commands = np.array(places), np.array(commands)
    assert np.abs(commands).max() <= 0.4
    assert commands.std(axis=0).min() > 0.15
    bins, _, _ = np.histogram2d(*places.T, bins=5, range=[[0.05, 0.95]] * 2)
    # A corner is off the way, but no corner is left out.
    assert bins.min() > 60, bins
    left = (places[:, 0] < 0.5).mean()
    assert 0.3 < left < 0.7
    episodes = (places[:, 0] < 0.5).reshape(100, 100)
    assert (np.diff(episodes.astype(int), axis=1) != 0).sum() > 60  # through the door


def test_the_explorer_pushes_the_block_about():
    world, moved, turned, places = Push(), 0, 0, []
    world.reset(seed=0)
    explore = world.explorer(np.random.default_rng(0))
    for tick in range(5000):
        before = world.state()
        world.step(explore(before))
        after = world.state()
        moved += np.hypot(*(after[k] - before[k] for k in ('block_x', 'block_y'))) > 1e-3
        turned += abs(after['block_angle'] - before['block_angle']) > 1e-2
        places.append(world.block)
    assert moved > 400 and turned > 300
    assert np.ptp(places, axis=0).min() > 0.4


def test_no_wall_is_ever_entered_and_the_disc_slides_along_it():
    world, rng = TwoRoom(), np.random.default_rng(0)
    world.reset(seed=0)
    for _ in range(5000):
        world.step(rng.choice([-0.4, 0.0, 0.4, 0.23], 2))
        assert world._free(world.position)
    world.reset(options={'position': [0.3, 0.9]})
    for _ in range(10):
        world.step(np.array([0.4, -0.2]))
    assert world.state()['x'] == pytest.approx(0.42)
    assert world.state()['y'] == pytest.approx(0.7)


def test_a_pushed_block_moves_turns_and_stays_on_the_table():
    world, rng = Push(), np.random.default_rng(0)
    world.reset(seed=0)
    world.set_state({'x': 0.3, 'y': 0.5, 'block_x': 0.5, 'block_y': 0.5, 'block_angle': 0.0})
    for _ in range(5):
        world.step(np.array([0.4, 0.0]))
    state = world.state()
    assert state['block_x'] == pytest.approx(state['x'] + 0.05 + 0.07)
    assert (state['block_y'], state['block_angle']) == (0.5, 0.0)  # pushed through its centre
    world.set_state({'x': 0.3, 'y': 0.54, 'block_x': 0.5, 'block_y': 0.5, 'block_angle': 0.0})
    for _ in range(4):
        world.step(np.array([0.4, 0.0]))
    assert world.state()['block_angle'] < -0.1  # pushed above it, it turns clockwise
    for tick in range(3000):
        world.step(world.line_action(world.block + rng.normal(0, 0.05, 2)))
        depth, _, _ = world._contact()
        assert depth < 1e-9
        assert (world.block > 0.17).all() and (world.block < 0.83).all()


def test_an_explorer_with_fewer_errands_through_the_block_moves_it_less():
    moved = {}
    for contact in (0.0, 1.0):
        world, rng = Push(), np.random.default_rng(0)
        explore, moved[contact] = world.explorer(rng, contact), 0
        for tick in range(2000):
            if tick % 100 == 0:
                world.reset(seed=tick)
            before = world.block
            world.advance(explore(world.state()))
            moved[contact] += not np.array_equal(before, world.block)
    assert 0 < moved[0.0] < moved[1.0] / 2


@WORLDS
def test_the_picture_shows_moves_smaller_than_a_pixel(world):
    world.reset(seed=0)
    place = {**world.state(), 'x': 0.2, 'y': 0.2, 'block_x': 0.6, 'block_y': 0.6}
    world.set_state(place)
    before = world.render().astype(int)
    world.set_state({**place, 'x': 0.2 + 0.1 / 64})
    after = world.render().astype(int)
    assert 0 < np.abs(after - before).max() < 40
    red = (before[..., 0] - before[..., 1] - 60).clip(0)
    rows, columns = (np.arange(64) + 0.5) / 64, (np.arange(64) + 0.5) / 64
    # Where the disc is red, up is up: y grows against the rows.
    assert (red.sum(0) * columns).sum() / red.sum() == pytest.approx(0.2, abs=0.01)
    assert 1 - (red.sum(1) * rows).sum() / red.sum() == pytest.approx(0.2, abs=0.01)


@WORLDS
def test_the_goal_image_is_what_the_camera_will_see_at_the_goal(world):
    task = world.sample_task(np.random.default_rng(1))
    world.reset_to(task)
    picture = world.goal_image(task)
    world.set_state({**task.start, 'x': task.goal[0], 'y': task.goal[1]})
    assert np.array_equal(world.render(), picture)
    world.set_colour('all')
    assert np.array_equal(world.goal_image(task), picture)


@WORLDS
def test_a_teleport_is_far_free_and_sudden(world):
    rng = np.random.default_rng(0)
    world.reset(seed=0)
    for _ in range(200):
        before = world.position
        distance = world.teleport(rng)
        assert distance == pytest.approx(np.linalg.norm(world.position - before))
        assert distance >= 6 * world.radius
        assert world._free(world.position)


@WORLDS
def test_another_colour_changes_the_picture_and_not_the_motion(world):
    def drive(kind):
        world.reset(seed=5)
        if kind:
            assert world.set_colour(kind) == kind
        pictures = [world.step(np.array([0.3, -0.2]))[0] for _ in range(10)]
        return world.state(), pictures[-1].astype(int)
    state, plain = drive(None)
    for kind in ('floor', 'robot', 'all'):
        strange, picture = drive(kind)
        assert strange == state
        changed = np.abs(picture - plain).max(axis=2) > 30
        assert (changed.mean() > 0.4) == (kind != 'robot')
        assert 0.001 < changed.mean()
    world.clear_colour()
    assert np.array_equal(world.render(), plain)
    assert [world.set_colour() for _ in range(4)] == ['floor', 'robot', 'all', 'floor']
    world.clear_colour()


@WORLDS
def test_the_same_seed_gives_the_same_drive(world):
    def drive():
        world.reset(seed=11)
        explore = world.explorer(np.random.default_rng(4))
        for _ in range(50):
            world.step(explore(world.state()))
        return world.state()
    assert drive() == drive()


@WORLDS
def test_the_robot_spec_fits_the_world(world):
    spec = load_robot('push' if isinstance(world, Push) else 'two_room')
    assert set(spec.state_names) <= set(world.state())
    assert np.allclose(spec.high, world.action_space.high)
    assert world.render().shape == (spec.camera.height, spec.camera.width, 3)


def test_pictures_are_as_large_as_asked_for():
    for name in ('two_room', 'push'):
        large = make_world(name, 128)
        large.reset(seed=0)
        small = make_world(name, 64)
        small.set_state(large.state())
        assert large.render().shape == (128, 128, 3)
        shrunk = large.render().reshape(64, 2, 64, 2, 3).mean(axis=(1, 3))
        assert np.abs(shrunk - small.render()).mean() < 2


def test_bad_options_are_refused_by_name():
    world = TwoRoom()
    with pytest.raises(UserError, match=r'\[0.5, 0.9\] is in a wall'):
        world.reset(options={'position': [0.5, 0.9]})
    with pytest.raises(UserError, match="'place' is not known.*position"):
        world.reset(options={'place': [0.2, 0.2]})
    with pytest.raises(UserError, match="'sky' is not known.*floor"):
        world.set_colour('sky')
