"""The README's reference says what the nodes, launch files, datasets and checkpoints are."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import rclpy
from rclpy.context import Context
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from ros_toys import ToyAgent

from lewm_core.checkpoint import read_metadata
from lewm_core.data import Dataset, DatasetWriter
from lewm_core.merge import join
from lewm_ros.leaving import leave
from lewm_ros.planner_node import PlannerNode
from lewm_ros.recorder import Recorder
from lewm_ros.sim_robot import SimRobot
from lewm_ros.surprise_node import SurpriseNode
from lewm_ros.train_from_bags import TrainFromBags

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / 'tests'))

import readme_tables  # noqa: E402

README = (ROOT / 'README.md').read_text()
NODES = ('planner_node', 'surprise_node', 'train_from_bags', 'recorder', 'sim_robot')
# What every ROS node, or every lifecycle node, has.
COMMON = {'parameter_events', 'rosout', 'transition_event', 'change_state', 'get_state',
          'get_available_states', 'get_available_transitions', 'get_transition_graph',
          'describe_parameters', 'get_parameters', 'get_parameter_types', 'list_parameters',
          'set_parameters', 'set_parameters_atomically', 'get_type_description'}


@pytest.fixture
def context():
    """A ROS context of its own in this process's domain."""
    made = Context()
    rclpy.init(args=[], context=made, signal_handler_options=SignalHandlerOptions.NO)
    yield made
    rclpy.shutdown(context=made)


def variants(node, spec, folder):
    """(make, its arguments, parameters) for each way in which a node has other topics."""
    monitor = SimpleNamespace(spec=spec, warm_up=lambda: 0.0, reset=lambda: None, calibration=None)
    external = {'robot': 'two_room', 'policy': 'external', 'mode': 'trials'}
    return {
        'planner_node': [(PlannerNode, {'agent': ToyAgent(spec)}, {'dry_run': dry})
                         for dry in (False, True)],
        'surprise_node': [(SurpriseNode, {'monitor': monitor}, {})],
        'train_from_bags': [(TrainFromBags, {'words': ['bags=x', 'robot=two_room']}, {})],
        'recorder': [(Recorder, {}, {'robot': 'two_room', 'output': str(folder / 'bag')})],
        'sim_robot': [(SimRobot, {}, {'robot': 'two_room', 'publish_clock': True,
                                      'wait_subscribers': 1}), (SimRobot, {}, external)],
    }[node]


def made_nodes(name, context, spec, folder):
    """Each variant of a node, configured where it has a lifecycle."""
    for make, words, parameters in variants(name, spec, folder):
        node = make(context=context, use_global_arguments=False, parameter_overrides=[
            Parameter(key, value=value) for key, value in parameters.items()], **words)
        try:
            if hasattr(node, 'trigger_configure'):
                node.trigger_configure()
            yield node
        finally:
            node.stop()
            leave(node)


def interface(node):
    """{(direction, name, type): the QoS in words} of what a node takes and gives."""
    found = {}
    ends = [*(('out', p.topic_name, p.msg_type, p.qos_profile) for p in node.publishers),
            *(('in', s.topic_name, s.msg_type, s.qos_profile) for s in node.subscriptions),
            *(('service', node.resolve_service_name(s.srv_name), s.srv_type, None)
              for s in node.services)]
    for direction, name, kind, qos in ends:
        own = node.get_fully_qualified_name() + '/'
        plain = name.removeprefix(own).lstrip('/')
        if plain in COMMON:
            continue
        if name.startswith(own):
            plain = '~/' + plain
        elif plain in ('diagnostics', 'clock'):
            plain = '/' + plain
        package, part = kind.__module__.split('.')[:2]
        words = '' if qos is None else f'{kind_of(qos)} {qos.depth}'
        key = (direction, plain, f'{package}/{part}/{kind.__name__}')
        found[key] = words if found.get(key, words) == words else f'any {qos.depth}'
    return found


def kind_of(qos):
    """The README's word for a quality of service."""
    if qos.durability == DurabilityPolicy.TRANSIENT_LOCAL:
        return 'latched'
    return 'best effort' if qos.reliability == ReliabilityPolicy.BEST_EFFORT else 'reliable'


def section(title):
    """The text of the fold whose summary begins with `title`."""
    start = README.index(f'<details><summary>{title}')
    return README[start:README.index('</details>', start)]


def rows(node):
    """{(direction, name, type): QoS} that the README says of a node."""
    cells = re.findall(r'^\| (in|out|service) \| `([^`]+)`[^|]*\| `([^`]+)` \|([^|]*)\|',
                       section(f'<b>{node}</b>'), re.MULTILINE)
    return {(direction, name, kind): qos.strip() for direction, name, kind, qos in cells}


def test_the_tables_are_what_the_code_says():
    stale = readme_tables.render(README) != README
    assert not stale, f'README.md is not what the code says; run {readme_tables.COMMAND}'


@pytest.mark.parametrize('name', NODES)
def test_the_readme_names_all_that_a_node_takes_and_gives(name, context, two_room, tmp_path):
    found = {}
    for node in made_nodes(name, context, two_room, tmp_path):
        found.update(interface(node))
    said = rows(name)
    assert found == said, (
        f'correct the table of {name} in README.md by hand: it lacks '
        f'{sorted(found.items() - said.items())} and has {sorted(said.items() - found.items())}')


@pytest.mark.parametrize('name', NODES)
def test_the_readme_names_all_parameters_of_a_node(name, context, two_room, tmp_path):
    said = set(re.findall(r'^\| `([\w.]+)` \|', section(f'<b>{name}</b>'), re.MULTILINE))
    for node in made_nodes(name, context, two_room, tmp_path):
        declared = {p for p in node._parameters if p not in ('use_sim_time',
                                                             'start_type_description_service')}
        assert declared == said, f'name the parameters of {name} in tests/readme_tables.py'


def test_the_readme_names_all_launch_arguments():
    text = section('Arguments')
    for path in (ROOT / 'launch').glob('*.launch.py'):
        assert f'`{path.name}`' in text
        own = text[text.index(f'`{path.name}`'):]
        own = own[:own.find('\n| `', 1)] if '\n| `' in own[1:] else own
        for argument in re.findall(r"Argument\('(\w+)'", path.read_text()):
            assert f'| `{argument}` |' in own, f'run {readme_tables.COMMAND}'
    for argument in re.findall(r"Argument\('(\w+)'", (
            ROOT / 'lewm_ros' / 'launching.py').read_text()):
        assert f'| `{argument}` |' in text, f'run {readme_tables.COMMAND}'


def test_the_readme_names_all_that_a_dataset_holds(two_room, tmp_path):
    paths = [tmp_path / f'{name}.h5' for name in ('first', 'second', 'grown')]
    for path in paths[:2]:
        with DatasetWriter(path, two_room) as writer:
            writer.add_episode(np.zeros((3, 64, 64, 3), np.uint8), np.zeros((3, 2)), np.arange(3),
                               {name: np.zeros(3) for name in two_room.state_names})
    join(paths[2], [Dataset.open(path) for path in paths[:2]], keep_split=True)
    said = set(re.findall(r'^\| `(\w+)`', section('Dataset'), re.MULTILINE))
    with h5py.File(paths[2]) as file:
        held = {*file, *file.attrs, *file['ep_len'].attrs} - {*two_room.state_names}
    assert held == said, 'correct the tables of the dataset in README.md by hand'


def test_the_readme_names_all_keys_of_a_checkpoint(checkpoint):
    table = re.findall(r'^\| (`[^|]*) \|', section('Checkpoint'), re.MULTILINE)
    said = {key for cell in table for key in re.findall(r'`(\w+)`', cell)}
    assert set(read_metadata(checkpoint)) == said, (
        'correct the table of the checkpoint in README.md by hand')
