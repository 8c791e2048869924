"""The rule that holds the house up: lewm_core knows no ROS, lewm_ros knows no tensors."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROS = ('rclpy', 'launch', 'launch_ros', 'rosbags', 'rosidl', 'ament', 'lewm_ros')
TENSORS = ('torch', 'safetensors')
# `lewm` opens the door to both: it names lewm_ros's modules as texts, when asked for one.
DOOR = ROOT / 'lewm_core' / 'cli.py'


def imports(path: Path) -> set[str]:
    """The full names of all modules that the file imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add('.' * node.level + (node.module or ''))
        elif isinstance(node, ast.Call) and path != DOOR:
            name = ast.unparse(node.func)
            if name in ('importlib.import_module', 'import_module', '__import__'):
                names.add(ast.unparse(node.args[0]).strip('\'"'))
    return names


def files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob('*.py'))


@pytest.mark.parametrize('path', files('lewm_core'), ids=lambda path: path.stem)
def test_lewm_core_imports_no_ros(path):
    for name in imports(path):
        top = name.partition('.')[0]
        assert not top.startswith(ROS), f'{path.name} imports {name}'
        assert not top.endswith(('_msgs', '_srvs', '_interfaces')), f'{path.name} imports {name}'


@pytest.mark.parametrize('path', files('lewm_ros'), ids=lambda path: path.stem)
def test_lewm_ros_imports_no_tensors(path):
    for name in imports(path):
        assert name.partition('.')[0] not in TENSORS, f'{path.name} imports {name}'


@pytest.mark.parametrize('path', files('lewm_core') + files('lewm_ros'), ids=lambda p: p.stem)
def test_imports_are_absolute(path):
    assert not [name for name in imports(path) if name.startswith('.')]


def test_the_rule_sees_what_it_forbids(tmp_path):
    path = tmp_path / 'sinner.py'
    path.write_text('def f():\n    import rclpy.node\n    from std_msgs.msg import Bool\n'
                    '    import importlib\n    importlib.import_module("torch.nn")\n')
    assert {'rclpy.node', 'std_msgs.msg', 'torch.nn'} <= imports(path)
