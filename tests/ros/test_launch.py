"""The launch files: what they declare, and the command line that they make of it."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / 'launch').glob('*.launch.py'))
ARGUMENTS = {
    'plan': {'checkpoint', 'robot', 'goal', 'namespace', 'use_sim_time', 'params_file',
             'log_level', 'device', 'autostart', 'dry_run'},
    'surprise': {'checkpoint', 'robot', 'namespace', 'use_sim_time', 'params_file', 'log_level',
                 'device', 'autostart', 'promised_per_hour'},
    'train': {'bags', 'robot', 'output', 'overrides', 'namespace', 'log_level'},
    'sim': {'robot', 'world', 'mode', 'seed', 'namespace', 'params_file', 'log_level'},
    'record': {'robot', 'output', 'namespace', 'params_file', 'log_level', 'use_sim_time'},
}


def name(path):
    return path.name.partition('.')[0]


def description(path):
    """The launch description; skips where ROS's launch is not installed."""
    pytest.importorskip('launch_ros.actions', reason='ROS 2 launch is not installed')
    spec = importlib.util.spec_from_file_location(f'{name(path)}_launch', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.generate_launch_description()


def command(path, **given):
    """The words after the executable's path, as ROS's launch would start it."""
    made = description(path)
    from launch import LaunchContext
    from launch.actions import OpaqueFunction
    context = LaunchContext()
    context.launch_configurations.update(given)
    for action in made.get_launch_arguments():
        action.execute(context)
    (start,) = (e for e in made.entities if isinstance(e, OpaqueFunction))
    (node,) = start.execute(context)
    node._perform_substitutions(context)
    words = []
    for part in node.cmd:
        words.append(''.join(s.perform(context) for s in part))
    parameters = {}
    for parameter, is_file in node._Node__expanded_parameter_arguments or []:
        if is_file:
            tree = yaml.safe_load(Path(parameter).read_text())
            parameters.update(next(iter(tree.values()))['ros__parameters'])
    return words[1:], parameters


def test_there_is_a_launch_file_for_every_executable():
    assert {name(path) for path in FILES} == set(ARGUMENTS)


@pytest.mark.parametrize('path', FILES, ids=name)
def test_a_launch_file_defines_its_description_and_is_short(path):
    tree = ast.parse(path.read_text())
    functions = [n for n in tree.body if isinstance(n, ast.FunctionDef)]
    assert [f.name for f in functions] == ['generate_launch_description']
    assert ast.get_docstring(tree) and ast.get_docstring(functions[0])


@pytest.mark.parametrize('path', FILES, ids=name)
def test_every_argument_is_declared_with_a_description(path):
    arguments = description(path).get_launch_arguments()
    assert ARGUMENTS[name(path)] <= {a.name for a in arguments}
    assert all(a.description for a in arguments)


@pytest.mark.parametrize('path', FILES, ids=name)
def test_what_is_left_empty_is_not_passed_on(path):
    words, parameters = command(path)
    assert not [w for w in words if w.endswith('=')]
    assert 'checkpoint' not in parameters


def test_arguments_become_parameters_of_their_type():
    words, parameters = command(ROOT / 'launch/plan.launch.py', checkpoint='1', autostart='False',
                                use_sim_time='true', log_level='debug', namespace='r1',
                                remap='cmd_vel:=/base/cmd_vel goal_image:=goal')
    assert parameters['checkpoint'] == '1'
    assert parameters['autostart'] is False and parameters['use_sim_time'] is True
    assert words[words.index('--log-level') + 1] == 'debug'
    assert '__ns:=/r1' in words and 'cmd_vel:=/base/cmd_vel' in words


def test_an_argument_overrules_the_parameter_file(tmp_path):
    file = tmp_path / 'mine.yaml'
    file.write_text('/**:\n  ros__parameters:\n    frames: 7\n    seed: 3\n')
    _, parameters = command(ROOT / 'launch/sim.launch.py', params_file=str(file), seed='5')
    assert (parameters['frames'], parameters['seed']) == (7, 5)


def test_training_takes_words_not_parameters():
    words, _ = command(ROOT / 'launch/train.launch.py', bags='/a/b', robot='two_room',
                       overrides='train.steps=5 model.sigreg_weight=0')
    end = words.index('--ros-args')
    assert words[:end] == ['bags=/a/b', 'robot=two_room', 'train.steps=5',
                           'model.sigreg_weight=0']


@pytest.mark.parametrize('given', [{'seed': 'many'}, {'lockstep': 'maybe'}, {'remap': 'a=b'}])
def test_a_wrong_argument_is_named(given):
    (key, value), = given.items()
    pytest.importorskip('launch_ros.actions', reason='ROS 2 launch is not installed')
    with pytest.raises(ValueError, match=f'{key}.*{value}'):
        command(ROOT / 'launch/sim.launch.py', **given)


@pytest.mark.parametrize('path', sorted((ROOT / 'config/ros').glob('*.yaml')),
                         ids=lambda path: path.stem)
def test_a_parameter_file_is_one_for_any_node_name(path):
    tree = yaml.safe_load(path.read_text())
    assert list(tree) == ['/**'] and list(tree['/**']) == ['ros__parameters']
