"""Fresh drives in simulators that others wrote: as far as they go; what is left out is said."""

from __future__ import annotations

import dataclasses

import gymnasium
import numpy as np
import pytest
from tests.core.evaluation_toys import seeing

from lewm_core.arena import paint_disc
from lewm_core.config import DataConfig
from lewm_core.data import Dataset, DatasetWriter
from lewm_core.envs import make_world
from lewm_core.evaluation import detection, robustness
from lewm_core.evaluation.drives import drive, ordinary_residuals
from lewm_core.evaluation.perturbations import in_world, left_out, movable
from lewm_core.evaluation.run import evaluate, page
from lewm_core.evaluation.subject import find_world
from lewm_core.evaluation.trials import ordinary
from lewm_core.paths import load_robot
from lewm_core.types import UserError


class Bead(gymnasium.Env):
    """A red bead on a table, in a simulator that nobody here wrote; in one corner it falls off.

    `lasts`: the ticks after which its episodes end. `blind`: it observes its picture alone.
    """

    metadata = {'render_modes': ['rgb_array']}
    action_space = gymnasium.spaces.Box(-0.4, 0.4, (2,), np.float32)

    def __init__(self, render_mode=None, lasts=10**9, blind=False):
        self.render_mode, self.lasts, self.blind = render_mode, lasts, blind
        self.place, self.ticks = np.zeros(2), 0
        self.observation_space = gymnasium.spaces.Box(0, 1, (2,), np.float64)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.ticks = self.np_random.uniform(0.1, 0.8, 2), 0
        return self._seen(), {}

    def step(self, action):
        self.ticks += 1
        self.place = np.clip(self.place + 0.1 * action, 0.05, 0.95)
        fell = bool((self.place > 0.9).all())
        return self._seen(), 0.0, fell, self.ticks >= self.lasts, {}

    def render(self):
        picture = np.full((64, 64, 3), 240, np.float32)
        paint_disc(picture, self.place, 0.05, (200, 40, 45))
        return np.round(picture).astype(np.uint8)

    def _seen(self):
        return self.render() if self.blind else self.place.copy()


@pytest.fixture
def beads():
    kinds = {'bead': {}, 'brief': {'lasts': 3}, 'blind': {'blind': True}}
    for name, settings in kinds.items():
        gymnasium.register(name, entry_point=Bead, kwargs=settings)
    yield kinds
    for name in kinds:
        gymnasium.registry.pop(name)


def recorded(tmp_path, name: str) -> Dataset:
    """A dataset of a robot that is called like its simulator and says nothing of its state."""
    spec = dataclasses.replace(load_robot('two_room'), name=name, state=())
    world = make_world('bead')
    with DatasetWriter(tmp_path / 'd.h5', spec, DataConfig(test=0.25)) as writer:
        for episode in range(12):
            pixels, actions, _ = drive(world, spec, 1, 90, (7, episode))
            writer.add_episode(pixels, actions[:, 0], np.arange(len(pixels)) * 10**8, {})
    return Dataset.open(tmp_path / 'd.h5')


def test_any_environment_is_driven_in_and_what_it_cannot_do_is_said_in_words(beads, tmp_path):
    job = dict(sections=('surprise', 'robustness'), world='auto')
    subject = seeing(recorded(tmp_path, 'bead'), tmp_path / 'out', **job)
    results = evaluate(subject)
    assert 'Nothing in this world can be put elsewhere' in results['protocol']['left_out'][0]
    assert 'Colours are changed in the picture' in results['protocol']['left_out'][1]
    found = results['sections']['surprise']
    assert found['fresh'] and found['trajectories'] == 16
    rows = {row['name']: row for row in found['monitor']['perturbations']}
    assert rows['reset elsewhere']['auroc']['value'] > 0.95
    assert rows['reset elsewhere']['kind'] == 'jump' and 'another light' in rows
    assert not any(name.startswith('teleport') for name in rows)
    # The bead falls off sooner or later, and another episode makes up for it.
    assert found['monitor']['promise']['hours'] == pytest.approx(0.05, rel=0.01)
    rows = results['sections']['robustness']['disturbances']
    assert all(row['goals']['reached']['episodes'] == 3 for row in rows)
    html = ''.join(page(results).parts)
    assert 'begin anew' in html and 'reset elsewhere' in html


def test_a_world_that_observes_no_number_has_colours_and_no_goals(beads, tmp_path):
    subject = seeing(recorded(tmp_path, 'blind'), tmp_path / 'out', windows=10)
    assert [p.kind for p in in_world(subject.make_world())] == ['shift'] * 3
    assert 'no goals and no resets' in ' '.join(left_out(subject.make_world))
    found = robustness.measure(subject)
    assert all('goals' not in row for row in found['disturbances'])
    assert 'all driving is recorded' in left_out(None)[0] and left_out(
        lambda: make_world('push')) == []


def test_an_episode_that_the_world_ends_is_cut_there_and_another_makes_up_for_it(beads, tmp_path):
    spec = recorded(tmp_path, 'bead').spec
    world = make_world('bead')
    cut = next(drive(world, spec, 5, 400, (1, n)) for n in range(50)
               if len(drive(world, spec, 5, 400, (1, n))[1]) < 400)
    assert len(cut[0]) == len(cut[1]) + 1 == len(cut[2]) and cut[1].shape[1:] == (5, 2)


def test_a_world_whose_episodes_are_shorter_than_a_block_is_refused(beads, tmp_path):
    subject = seeing(recorded(tmp_path, 'brief'), tmp_path / 'out', trajectories=2)
    with pytest.raises(UserError, match='in a row ended within a block of 0.5 s'):
        ordinary_residuals(subject, 0.1, 0)
    assert ordinary(subject) is None


def test_a_world_that_is_not_installed_or_does_not_fit_is_no_world_unless_it_is_asked_for(
        beads, tmp_path, caplog):
    data = recorded(tmp_path, 'bead')
    thin = dataclasses.replace(data.spec, action=dataclasses.replace(
        data.spec.action, fields=data.spec.action.fields[:1]))
    thin = dataclasses.replace(data, spec=thin)
    assert find_world('auto', thin) is None and 'no fresh drives' in caplog.text
    with pytest.raises(UserError, match=r"'bead'.*shape \(2,\).*\(1,\) and \[\] are needed"):
        find_world('bead', thin)
    with pytest.raises(UserError, match="'nowhere' cannot be made"):
        find_world('nowhere', data)
    wide = dataclasses.replace(data.spec.camera, source_width=64, source_height=48)
    wide = dataclasses.replace(data, spec=dataclasses.replace(data.spec, cameras=(wide,)))
    with pytest.raises(UserError, match='is 64x64, but the robot spec says 64x48'):
        find_world('bead', wide)


def test_pictures_are_made_the_models_as_the_recordings_were(beads, tmp_path):
    spec = recorded(tmp_path, 'bead').spec
    small = dataclasses.replace(spec.camera, width=32, height=32, source_width=64)
    data = dataclasses.replace(Dataset.open(tmp_path / 'd.h5'),
                               spec=dataclasses.replace(spec, cameras=(small,)))
    world = find_world('auto', data)()
    assert world.render().shape == (64, 64, 3)
    assert drive(world, data.spec, 5, 2, (3,))[0].shape == (3, 32, 32, 3)


def test_push_t_is_driven_in_with_teleports_of_the_pusher_and_of_the_block(tmp_path):
    pytest.importorskip('gym_pusht', reason='an optional simulator: make pusht')
    spec, world = load_robot('pusht'), make_world('pusht')
    with DatasetWriter(tmp_path / 'd.h5', spec, DataConfig(test=0.25)) as writer:
        for episode in range(8):
            pixels, actions, states = drive(world, spec, 1, 60, (7, episode))
            writer.add_episode(pixels, actions[:, 0], np.arange(len(pixels)) * 10**8,
                               {k: np.array([s[k] for s in states]) for k in spec.state_names})
    subject = seeing(Dataset.open(tmp_path / 'd.h5'), tmp_path / 'out', trajectories=3)
    assert movable(subject.make_world()) == ['', 'block']
    rng, moved = np.random.default_rng(0), 0
    for change in in_world(world)[:8]:
        for trial in range(6):
            world.reset(seed=trial)
            world.step(np.array([150.0, 0.0]))
            before, speed = world.state(), tuple(world.env.agent.velocity)
            if not change.happen(world, rng):
                assert world.state() == pytest.approx(before, abs=1e-9)
                continue
            moved, after = moved + 1, world.state()
            start = 'block_' if 'block' in change.name else ''
            away = np.hypot(*(after[start + c] - before[start + c] for c in 'xy'))
            assert away == pytest.approx(int(change.name.split()[2]) * world.radius)
            assert {k: v for k, v in after.items() if k[:-1] != start} == pytest.approx(
                {k: v for k, v in before.items() if k[:-1] != start}, abs=1e-9)
            assert tuple(world.env.agent.velocity) == speed and world.possible()
    assert moved > 30
    found = detection.measure(dataclasses.replace(subject, job=dataclasses.replace(
        subject.job, hours=0.02, calibration_minutes=1.0)))
    names = [row['name'] for row in found['monitor']['perturbations']]
    assert 'teleport block 2 radii' in names + found['never_happened']
    assert 'teleport robot 6 radii' in names + found['never_happened']
