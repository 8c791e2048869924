"""Jobs: YAML, groups and overrides in, frozen dataclasses out, one sentence when wrong."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from lewm_core.compose import JOBS, OverrideError, as_overrides, compose, groups, options
from lewm_core.config import ModelConfig, PlannerConfig
from lewm_core.robot import RobotSpec
from lewm_core.types import UserError

NEEDED = {'train': ['dataset=d.h5'], 'convert': ['bags=b', 'robot=two_room', 'output=o.h5'],
          'train_from_bags': ['bags=b', 'robot=two_room'], 'demo': [],
          'evaluate': ['checkpoint=c', 'dataset=d.h5']}
NEEDED |= {'import': ['weights=w', 'config=c', 'dataset=d.h5', 'output=o'],
           'export': ['checkpoint=c', 'output=o']}
NEEDED |= {job: ['dataset=d.h5'] for job in ('tune_lambda', 'bench_objectives')}
NEEDED |= {'bench_node': ['checkpoint=c']}
NEEDED |= {'merge': ['datasets=a,b', 'output=o.h5'], 'bench_convert': []}
NEEDED |= {'bench_planner': [], 'bench_angle': []}
NEEDED |= {'bench_proposal': ['checkpoint=c', 'dataset=d.h5']}
NEEDED |= {'bench_train': [], 'bench_loader': [], 'repack': ['dataset=d.h5', 'output=o']}


def refused(job, *overrides):
    """The one sentence with which `overrides` are refused."""
    with pytest.raises(OverrideError) as caught:
        compose(job, [*NEEDED[job], *overrides])
    text = str(caught.value)
    assert '\n' not in text
    return text


def spec(width):
    """A robot whose camera is `width` pixels wide."""
    tree = {'name': 'toy', 'rate_hz': 10.0,
            'cameras': [{'name': 'c', 'topic': 'c', 'width': width, 'height': width}],
            'action': {'topic': 'a', 'type': 'std_msgs/msg/Float64',
                       'fields': [{'path': 'data', 'min': -1.0, 'max': 1.0}]}}
    return RobotSpec.from_dict(tree)


@pytest.mark.parametrize('job', JOBS)
def test_every_job_composes_from_what_it_needs(job):
    made = compose(job, NEEDED[job])
    assert type(made) is JOBS[job]
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.output = Path('elsewhere')


@pytest.mark.parametrize(('group', 'name'), [
    (group, name) for group, names in groups('train').items() for name in names])
def test_every_member_of_every_group_composes(group, name):
    compose('train', ['dataset=d.h5', f'{group}={name}'])


def test_the_dataclasses_hold_the_defaults():
    made = compose('train', ['dataset=d.h5', 'model=lewm', 'planner=default'])
    assert made.model == ModelConfig()
    assert made.planner == PlannerConfig()


def test_an_override_beats_the_group_and_the_group_beats_the_default():
    made = compose('train', ['dataset=d.h5', 'model=tiny', 'model.latent_dim=16'])
    assert (made.model.encoder, made.model.latent_dim) == ('conv', 16)
    assert made.model.history == ModelConfig().history


def test_the_reference_planner_is_the_papers():
    planner = compose('demo', ['planner=reference']).planner
    assert (planner.samples, planner.elites, planner.iterations) == (300, 30, 30)
    assert (planner.knots, planner.cost, planner.context) == (0, 'final', 1)


def test_one_seed_of_the_demo_reaches_training_and_planner():
    made = compose('demo', ['model.sigreg_weight=0', 'seed=1', 'robot=two_room'])
    assert (made.seed, made.train.seed, made.planner.seed) == (1, 1, 1)
    assert made.model.sigreg_weight == 0.0 and isinstance(made.model.sigreg_weight, float)
    assert compose('demo', ['seed=1', 'train.seed=5']).train.seed == 5


@pytest.mark.parametrize(('width', 'model'), [(64, 'tiny'), (224, 'lewm'), (128, 'lewm')])
def test_the_model_follows_the_camera_unless_it_is_chosen(width, model):
    job = ['dataset=d.h5']
    assert compose('train', job, spec(width)).model.name == model
    assert compose('train', [*job, 'model=tiny'], spec(width)).model.name == 'tiny'


def test_training_and_planner_follow_the_model():
    tiny, paper = (compose('train', ['dataset=d', f'model={m}']) for m in ('tiny', 'lewm'))
    assert tiny.train.batch_size == 64 and paper.train.batch_size == 128
    assert tiny.planner.samples < paper.planner.samples
    assert compose('train', ['dataset=d', 'model=lewm', 'train=tiny']).train.batch_size == 64


@pytest.mark.parametrize('text', [
    '/a b/c', "it's", '/x=1,{y}/(z)', '${HOME}/x', 'a:b', '"quoted"', '~', '1', 'null'])
def test_a_path_needs_no_quotes(text):
    expected = Path('quoted' if text == '"quoted"' else text).expanduser()
    assert compose('train', [f'dataset={text}']).dataset == expected


@pytest.mark.parametrize('text', ['a b,c', '[a b, c]', "['a b','c']"])
def test_bags_are_paths_between_commas(text):
    bags = compose('convert', [f'bags={text}', 'robot=two_room', 'output=o.h5']).bags
    assert bags == (Path('a b'), Path('c'))


def test_lists_become_tuples():
    assert compose('demo', ['model.conv_channels=[8,16]']).model.conv_channels == (8, 16)


def test_another_job_composes_what_this_one_did():
    demo = compose('demo', ['seed=4', 'model.conv_channels=[8,16]', 'train.device=cuda:1',
                            'planner=reference', 'train.learning_rate=3e-4'])
    bags = compose('train_from_bags', ['bags=b', 'robot=two_room', *as_overrides(demo)])
    for group in groups('demo'):
        assert getattr(bags, group) == getattr(demo, group)


@pytest.mark.parametrize(('override', 'hint'), [
    ('train.step=3', 'train.steps'), ('steps=3', 'train.steps'), ('sead=1', 'seed'),
    ('sigreg_weight=0', 'model.sigreg_weight'), ('modle=tiny', 'model')])
def test_an_unknown_key_is_named_with_its_neighbours(override, hint):
    text = refused('demo', override)
    assert repr(override.partition('=')[0]) in text and hint in text


@pytest.mark.parametrize(('override', 'expected'), [
    ('train.steps=abc', 'a whole number'), ('train.steps=1.5', 'a whole number'),
    ('train.steps=', 'a whole number'), ('train.steps=1,2', 'a whole number'),
    ('train.steps=[1', 'a whole number'), ('train.steps=null', 'a whole number'),
    ('train.warmup=much', 'a number'), ('overwrite=maybe', 'true or false'),
    ('model.conv_channels=3', 'a list'), ('model.conv_channels=[a]', 'a list')])
def test_a_value_of_another_type_is_named_with_what_is_expected(override, expected):
    text = refused('demo', override)
    assert override.partition('=')[0] in text and expected in text


@pytest.mark.parametrize(('override', 'parts'), [
    ('train.steps=0', ('train.steps=0', 'range')), ('seed=-1', ('seed=-1', 'range')),
    ('model.sigreg_weight=nan', ('model.sigreg_weight', 'not a number')),
    ('model.encoder=resnet', ('model.encoder', 'vit', 'conv')),
    ('model=huge', ('huge', 'tiny', 'lewm')), ('train={steps: 1}', ('train', 'paper')),
    ('robot=no_such', ('no_such', 'two_room')), ('noise', ('noise', 'key=value')),
    ('+new=1', ('+new=1', 'key=value'))])
def test_what_does_not_fit_is_refused_in_one_sentence(override, parts):
    text = refused('demo', override)
    assert all(part in text for part in parts), text


@pytest.mark.parametrize(('job', 'key'), [('train', 'dataset'), ('evaluate', 'checkpoint'),
                                          ('convert', 'bags'), ('train_from_bags', 'bags')])
def test_a_required_key_left_out_is_named(job, key):
    with pytest.raises(OverrideError, match=f'{key} is missing'):
        compose(job, [text for text in NEEDED[job] if not text.startswith(f'{key}=')])


def test_no_bags_at_all_are_refused():
    with pytest.raises(OverrideError, match='bags is empty'):
        compose('convert', ['bags=', 'robot=two_room', 'output=o.h5'])


def test_a_robot_that_is_no_spec_is_a_users_error(tmp_path):
    path = tmp_path / 'robot.yaml'
    path.write_text('name: 3')
    with pytest.raises(UserError, match='robot.yaml'):
        compose('train_from_bags', ['bags=b', f'robot={path}'])


def test_every_key_has_a_description():
    assert all(option.help for job in JOBS for option in options(job))


def test_composing_leaves_no_trace_in_hydra():
    from hydra.core.global_hydra import GlobalHydra
    compose('demo')
    assert not GlobalHydra.instance().is_initialized()


def test_the_demo_takes_what_a_robot_needs_and_the_command_line_has_the_last_word():
    """The push world's latents named the episode instead of the disc at 10,000 frames."""
    assert compose('demo', ['robot=push']).frames > compose('demo', ['robot=two_room']).frames
    assert compose('demo', ['robot=push', 'frames=300', 'train.steps=7']).frames == 300
    assert compose('demo', ['robot=push', 'train.steps=7']).train.steps == 7
