"""Parameters generated from dataclasses: descriptions, ranges, refusals, warnings."""

from __future__ import annotations

from dataclasses import dataclass, fields
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from rclpy.node import Node
from rclpy.parameter import Parameter

from lewm_core.config import PlannerConfig, SurpriseConfig
from lewm_core.config_field import option
from lewm_core.robot import Camera
from lewm_core.types import UserError
from lewm_ros.calibrations import read_calibration, save_calibration
from lewm_ros.goals import read_goal
from lewm_ros.node import ManagedNode
from lewm_ros.params import Explicit, declare, declare_one, read, warn_unknown
from lewm_ros.recorder import Recorder
from lewm_ros.serving import load


@dataclass(frozen=True)
class ToyConfig:
    path: str = option('a file', '')
    deadline_s: float = option('seconds', 0.0, 0.0, 10.0)
    depth: int = option('messages', 5, 1, 100)
    loud: bool = option('whether', False)
    kind: str = option('which', 'a', among=('a', 'b'))


class ToyNode(ManagedNode):
    def __init__(self, **kwargs):
        super().__init__('toy', **kwargs)
        declare(self, ToyConfig)
        declare(self, PlannerConfig, 'planner')
        self.explicit = Explicit(self, lambda: self.configured)


def _quiet(**parameters):
    return {'parameters': {'autostart': False, **parameters}}


def test_every_scalar_of_a_config_becomes_a_described_parameter(host):
    node = host.add(ToyNode, **_quiet())
    for f in fields(PlannerConfig):
        described = node.describe_parameter(f'planner.{f.name}')
        assert described.description == f.metadata['help']
        assert node.get_parameter(f'planner.{f.name}').value == getattr(PlannerConfig(), f.name)
    samples = node.describe_parameter('planner.samples').integer_range[0]
    assert (samples.from_value, samples.to_value) == (2, 100_000)
    std = node.describe_parameter('planner.init_std').floating_point_range[0]
    assert (std.from_value, std.to_value) == (1e-3, 100.0)


def test_what_is_declared_is_read_back(host):
    node = host.add(ToyNode, **_quiet(path='x', depth=7, **{'planner.samples': 10}))
    assert read(node, ToyConfig) == ToyConfig(path='x', depth=7)
    assert read(node, PlannerConfig, 'planner').samples == 10


@pytest.mark.parametrize('name, value, said', [
    ('depth', 101, 'depth is 101, but a whole number in'),
    ('planner.samples', 1, 'planner.samples is 1'),
    ('depth', 'seven', "depth is 'seven', but a whole number"),
    ('loud', 'yes', "loud is 'yes', but true or false"),
    ('deadline_s', 11.0, 'deadline_s is 11.0')])
def test_a_value_that_does_not_fit_is_one_sentence(host, name, value, said):
    with pytest.raises(UserError, match=said.replace('.', r'\.')):
        host.add(ToyNode, **_quiet(**{name: value}))


def test_a_choice_outside_the_list_is_refused_with_the_list(host):
    node = host.add(ToyNode, **_quiet(kind='c'))
    with pytest.raises(UserError, match="parameter kind='c' is not known; choose one of"):
        read(node, ToyConfig)


def test_a_whole_number_is_taken_for_a_float_and_for_text(host):
    node = host.add(ToyNode, **_quiet(deadline_s=2, path=17))
    assert read(node, ToyConfig) == ToyConfig(path='17', deadline_s=2.0)


def test_only_what_a_user_sets_overrides_the_checkpoints_config(host):
    node = host.add(ToyNode, **_quiet(**{'planner.samples': 64}))
    host.call(lambda: node.set_parameters([Parameter('planner.horizon', value=7)]))
    stored = PlannerConfig(samples=10, horizon=2, elites=4)
    config = host.call(lambda: node.explicit.fill(stored, 'planner'))
    assert (config.samples, config.horizon, config.elites) == (64, 7, 4)
    assert node.get_parameter('planner.elites').value == 4
    # A second checkpoint's values are taken too: filling in is not setting.
    other = host.call(lambda: node.explicit.fill(PlannerConfig(elites=5), 'planner'))
    assert (other.samples, other.elites) == (64, 5)


def test_a_change_while_configured_is_refused_with_the_reason(host):
    node = host.add(ToyNode)
    result = host.call(lambda: node.set_parameters([Parameter('planner.samples', value=64)]))[0]
    assert not result.successful and 'clean it up first' in result.reason
    assert node.get_parameter('planner.samples').value == PlannerConfig().samples


def test_an_unknown_parameter_is_warned_about_with_a_near_name(host):
    node = host.add(ToyNode, **_quiet(**{'planner.sample': 5, 'depth': 3}))
    assert host.call(lambda: warn_unknown(node)) == ['planner.sample']


def test_every_surprise_option_has_a_description():
    assert all(f.metadata['help'] for f in fields(SurpriseConfig))


class Lone(Node):
    def __init__(self, **kwargs):
        super().__init__('lone', **kwargs)
        self.topics = declare_one(self, 'topics', [''], 'to record')


def test_a_parameter_beside_a_config_is_described_and_checked_too(host):
    lone = host.add(Lone, parameters={'topics': 'odom'})
    assert lone.topics == ['odom']  # a single one needs no brackets
    assert lone.describe_parameter('topics').description == 'to record'
    with pytest.raises(UserError, match='topics is 3, but a list of texts is expected'):
        host.add(Lone, parameters={'topics': 3})
    with pytest.raises(UserError, match='autostart is 3, but true or false is expected'):
        host.add(ToyNode, parameters={'autostart': 3})


def test_what_only_counts_at_the_start_cannot_be_set_later(host, tmp_path):
    """`ros2 param set /recorder overwrite true` was "successful", and nothing came of it."""
    recorder = host.add(Recorder, parameters={'output': str(tmp_path / 'b'), 'topics': ['/x']})
    toy = host.add(ToyNode, **_quiet())
    for node, name in ((recorder, 'compress'), (toy, 'autostart')):
        result = host.call(lambda: node.set_parameters([Parameter(name, value=True)]))[0]
        assert not result.successful and 'read-only' in result.reason
        assert node.describe_parameter(name).read_only


def test_a_path_may_begin_with_the_home_folder(host, tmp_path, monkeypatch):
    """A shell leaves the ~ in output:=~/drive alone: a robot spec was found by such a path, and
    the recording went into a folder named ~, of which `rm -r` is a bad end."""
    monkeypatch.setenv('HOME', str(tmp_path))
    recorder = host.add(Recorder, parameters={'output': '~/drive', 'topics': ['/nobody']})
    assert recorder._bag.output == tmp_path / 'drive'
    save_calibration(SimpleNamespace(to_dict=lambda: {'blocks': 7}), '~/found.json', '')
    assert read_calibration('~/found.json') == {'blocks': 7}
    cv2.imwrite(str(tmp_path / 'goal.png'), np.zeros((8, 8, 3), np.uint8))
    assert read_goal('~/goal.png', Camera('front', 'camera', width=8, height=8)).shape == (8, 8, 3)
    with pytest.raises(UserError, match=f'{tmp_path}/no.safetensors'):
        load('~/no.safetensors', 'cpu')
