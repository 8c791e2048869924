"""What every node answers besides its own services: its lifecycle and its parameters."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from lifecycle_msgs.srv import GetState
from rcl_interfaces.srv import GetParameters
from rclpy.lifecycle import LifecycleNode
from rclpy.node import Node
from ros_toys import ToyAgent
from surprise_rig import ToyMonitor

import lewm_ros
from lewm_ros.planner_node import PlannerNode
from lewm_ros.surprise_node import SurpriseNode

_OURS = {'ManagedNode', 'BasicNode'}
# What rclpy means to be filled in, or is called by ours too.
_HOOKS = {'__init__', 'on_configure', 'on_activate', 'on_deactivate', 'on_cleanup', 'on_shutdown',
          'on_error', 'destroy_node', '_LifecycleNodeMixin__on_change_state'}


@pytest.mark.parametrize('make, toy', [(PlannerNode, {'agent': ToyAgent}),
                                       (SurpriseNode, {'monitor': ToyMonitor})])
def test_lifecycle_and_parameters_are_answered(host, two_room, make, toy):
    """The surprise node kept its own services in `_services`, where rclpy keeps all of them: no
    `ros2 lifecycle` and no `ros2 param` command was answered any more."""
    node = host.add(make, **{name: kind(two_room) for name, kind in toy.items()})
    asking = host.add(Node, node_name='asking')
    for kind, name, request in (
            (GetState, 'get_state', GetState.Request()),
            (GetParameters, 'get_parameters', GetParameters.Request(names=['device']))):
        client = asking.create_client(kind, f'{node.get_name()}/{name}')
        assert host.wait_for(client.service_is_ready)
        future = host.call(lambda: client.call_async(request))
        assert host.wait_for(future.done), name
        answer = future.result()
        assert (answer.current_state.label == 'active' if kind is GetState
                else answer.values[0].string_value == 'auto')


def test_no_node_overwrites_what_rclpy_keeps_in_itself(host):
    """Read from the code, for such a clash shows in whatever rclpy keeps there, or never."""
    taken = set(dir(host.add(LifecycleNode, node_name='bare')))
    clashes = [(path.name, name) for path in Path(lewm_ros.__file__).parent.glob('*.py')
               for name in _own_names(path) & taken - _HOOKS]
    assert clashes == []


def _own_names(path):
    """The attributes that the nodes in a file set on themselves, and their methods."""
    found = set()
    for each in ast.walk(ast.parse(path.read_text())):
        if (isinstance(each, ast.ClassDef)
                and (each.name in _OURS or {getattr(b, 'id', '') for b in each.bases} & _OURS)):
            found |= {part.attr for part in ast.walk(each) if isinstance(part, ast.Attribute)
                      and isinstance(part.ctx, ast.Store)
                      and getattr(part.value, 'id', '') == 'self'}
            found |= {part.name for part in each.body if isinstance(part, ast.FunctionDef)}
    return found
