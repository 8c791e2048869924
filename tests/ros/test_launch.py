"""The launch files: what they declare and what their executables are given, launched for real."""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / 'launch').glob('*.launch.py'))
EXECUTABLES = ('planner_node', 'surprise_node', 'train_from_bags', 'sim_robot', 'recorder')
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


# Stands where the executable would: notes the words it was called with, and its parameters.
STAND_IN = """#!{python}
import json, sys
import yaml
words, parameters = sys.argv[1:], {{}}
for flag, file in zip(words, words[1:]):
    if flag == '--params-file':
        parameters.update(next(iter(yaml.safe_load(open(file)).values()))['ros__parameters'])
json.dump([words, parameters], open({output!r}, 'w'))
"""
LAUNCH = """
import sys
from launch import LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
service = LaunchService()
service.include_launch_description(IncludeLaunchDescription(
    PythonLaunchDescriptionSource(sys.argv[1]),
    launch_arguments=[word.split(':=', 1) for word in sys.argv[2:]]))
sys.exit(service.run())
"""

BOTH = """
from launch import LaunchDescription
from launch.actions import IncludeLaunchDescription


def generate_launch_description():
    return LaunchDescription([IncludeLaunchDescription(f'{folder}/{{file}}.launch.py')
                              for file in {files}])
"""


@pytest.fixture
def launched(tmp_path):
    """A function that launches a file for real, and returns what its executable was given.

    `of`: which one, where the file includes several.
    """
    pytest.importorskip('launch_ros.actions', reason='ROS 2 launch is not installed')
    marker = tmp_path / 'share/ament_index/resource_index/packages/lewm_ros'
    marker.parent.mkdir(parents=True)
    marker.touch()
    folder = tmp_path / 'lib/lewm_ros'
    folder.mkdir(parents=True)
    for executable in EXECUTABLES:
        (folder / executable).write_text(STAND_IN.format(
            python=sys.executable, output=str(tmp_path / f'{executable}.json')))
        (folder / executable).chmod(0o755)

    def launch(file, of='*', **given):
        for former in tmp_path.glob('*.json'):
            former.unlink()
        words = [f'{key}:={value}' for key, value in given.items()]
        made = subprocess.run(
            [sys.executable, '-c', LAUNCH, ROOT / 'launch' / f'{file}.launch.py'
             if isinstance(file, str) else file, *words],
            text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=ROOT,
            env={**os.environ, 'AMENT_PREFIX_PATH': str(tmp_path)})
        for output in tmp_path.glob(f'{of}.json'):
            return json.loads(output.read_text())
        raise AssertionError(made.stdout)
    return launch


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


@pytest.mark.parametrize('file', ARGUMENTS)
def test_what_is_left_empty_is_not_passed_on(launched, file):
    words, parameters = launched(file)
    assert not [word for word in words if word.endswith('=')]
    assert '' not in parameters.values()


def test_arguments_become_parameters_of_their_type(launched):
    words, parameters = launched('plan', checkpoint='1', autostart='False', use_sim_time='true',
                                 log_level='debug', namespace='r1',
                                 remap='cmd_vel:=/base/cmd_vel goal_image:=goal')
    assert parameters['checkpoint'] == '1'
    assert parameters['autostart'] is False and parameters['use_sim_time'] is True
    assert words[words.index('--log-level') + 1] == 'debug'
    assert {'__ns:=/r1', 'cmd_vel:=/base/cmd_vel', 'goal_image:=goal'} <= set(words)


def test_an_argument_overrules_the_parameter_file(launched, tmp_path):
    file = tmp_path / 'mine.yaml'
    file.write_text('/**:\n  ros__parameters:\n    frames: 7\n    seed: 3\n')
    _, parameters = launched('sim', params_file=file, seed='5')
    assert (parameters['frames'], parameters['seed']) == (7, 5)


def test_what_the_parameter_file_says_holds_where_no_argument_is_given(launched, tmp_path):
    """The defaults of two arguments were passed on as if they had been given, so a robot and
    the simulation's time that stood in the file were overruled by values that nobody wrote."""
    file = tmp_path / 'mine.yaml'
    file.write_text('/**:\n  ros__parameters:\n    use_sim_time: true\n    robot: push\n')
    assert launched('sim', params_file=file)[1]['robot'] == 'push'
    assert launched('plan', params_file=file)[1]['use_sim_time'] is True
    assert launched('sim')[1]['robot'] == 'two_room'


def test_files_included_one_after_the_other_keep_their_own_defaults(launched, tmp_path):
    """ROS's launch hands an argument's value on to what is included next: a surprise node beside
    a planner got the planner's parameter file, and its queue of 5 for one of 1,000."""
    both = tmp_path / 'both.launch.py'
    both.write_text(BOTH.format(folder=ROOT / 'launch', files=['sim', 'surprise']))
    _, parameters = launched(both, of='surprise_node')
    assert parameters['queue_depth'] == 1000
    assert not {'frames', 'policy', 'robot'} & set(parameters)


def test_training_takes_words_not_parameters(launched):
    words, _ = launched('train', bags='/a/b', robot='two_room',
                        overrides='train.steps=5 model.sigreg_weight=0')
    assert words[:words.index('--ros-args')] == ['bags=/a/b', 'robot=two_room', 'train.steps=5',
                                                 'model.sigreg_weight=0']


@pytest.mark.parametrize(('key', 'value'), [('seed', 'many'), ('lockstep', 'maybe'),
                                            ('remap', 'a=b')])
def test_a_wrong_argument_is_named_and_nothing_starts(launched, key, value):
    with pytest.raises(AssertionError, match=f"launch argument {key}.*'{value}'"):
        launched('sim', **{key: value})


def test_a_parameter_file_that_is_not_there_starts_nothing(launched):
    """ROS's launch warns and goes on: a planner whose file said dry_run would have driven."""
    with pytest.raises(AssertionError, match="launch argument params_file.*'/no/such.yaml'"):
        launched('plan', params_file='/no/such.yaml')


@pytest.mark.parametrize('path', sorted((ROOT / 'config/ros').glob('*.yaml')),
                         ids=lambda path: path.stem)
def test_a_parameter_file_is_one_for_any_node_name(path):
    tree = yaml.safe_load(path.read_text())
    assert list(tree) == ['/**'] and list(tree['/**']) == ['ros__parameters']


def node_parameters(file):
    """The names of all parameters of the node that the launch file starts."""
    from lewm_core.config import PlannerConfig, SurpriseConfig
    from lewm_ros.node_params import PlannerParams, SurpriseParams
    from lewm_ros.recorder import RecorderConfig
    from lewm_ros.sim_config import SimConfig
    kinds = {'sim': (SimConfig,), 'record': (RecorderConfig,), 'plan': (PlannerParams,),
             'surprise': (SurpriseParams, SurpriseConfig)}[file]
    names = {f.name for kind in kinds for f in dataclasses.fields(kind)}
    if file == 'plan':
        names |= {f'planner.{f.name}' for f in dataclasses.fields(PlannerConfig)}
    return names | {'use_sim_time', 'autostart', 'topics'}


@pytest.mark.parametrize('file', ['sim', 'record', 'plan', 'surprise'])
def test_every_argument_is_a_parameter_of_the_node(file):
    tree = ast.parse((ROOT / 'launch' / f'{file}.launch.py').read_text())
    names = {node.args[0].value for node in ast.walk(tree)
             if isinstance(node, ast.Call) and ast.unparse(node.func) == 'Argument'}
    assert names and names <= node_parameters(file)


@pytest.mark.parametrize(('file', 'params'), [
    ('sim', 'sim'), ('record', 'record'), ('plan', 'planner'), ('surprise', 'surprise')])
def test_a_parameter_file_names_parameters_of_the_node(file, params):
    tree = yaml.safe_load((ROOT / 'config' / 'ros' / f'{params}.yaml').read_text())
    assert set(tree['/**']['ros__parameters']) <= node_parameters(file)
