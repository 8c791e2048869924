"""What the launch files share: one node, its arguments, a parameter file beneath them.

Imported by launch files only: ROS's launch packages are there when `ros2 launch` is.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from lewm_core.paths import config_dir
from lewm_core.types import UserError
from lewm_ros.signals import LAUNCHER


@dataclass(frozen=True)
class Argument:
    """A launch argument. `kind`: the type of the node's parameter of the same name.

    Left empty it isn't passed on, so the parameter file's value, else `default` or the node's
    own, holds. ROS's launch hands what an argument is on to the files that are included after
    this one, so no default is one there: it would be taken for what was asked of them. With
    `word` it is a word `name=value` of the command line instead of a parameter, with
    `words` it holds such words.
    """

    name: str
    help: str
    default: str = ''
    kind: type = str
    word: bool = False
    words: bool = False


_COMMON = (
    Argument('namespace', 'namespace of the node and of its relative topics'),
    Argument('remap', 'topic remappings, separated by blanks: cmd_vel:=/base/cmd_vel'),
    Argument('log_level', 'log level: debug, info, warn, error or fatal', 'info'),
)
_WORDING = {bool: 'true or false', int: 'a whole number', float: 'a number'}
SIM_TIME = Argument('use_sim_time', 'take the time from /clock: true or false', kind=bool)


def describe(executable: str, arguments: Sequence[Argument], params: str | None = None,
             patience_s: float = 5.0) -> LaunchDescription:
    """The launch description of one executable of this package with these arguments.

    `params` is a file of config/ros, taken where the argument `params_file` is empty; what is
    given as an argument overrules it. After SIGINT the node has `patience_s` before SIGTERM
    follows. The node ends when the launch is killed, too.
    """
    declared = [*arguments, *_COMMON]
    if params is not None:
        declared.append(Argument('params_file', 'ROS parameter file (YAML)',
                                 str(config_dir() / 'ros' / params)))

    def start(context: LaunchContext) -> list[Node]:
        given = {a.name: LaunchConfiguration(a.name).perform(context).strip() for a in declared}
        used = {a.name: given[a.name] or a.default for a in declared}
        beneath = {a.name: _value(a, a.default) for a in arguments if a.default}
        files = [_file(used['params_file'])] if params is not None else []
        values = {a.name: _value(a, given[a.name]) for a in arguments
                  if given[a.name] and not (a.word or a.words)}
        words = [f'{a.name}={given[a.name]}' for a in arguments if a.word and given[a.name]]
        words += [word for a in arguments if a.words for word in shlex.split(given[a.name])]
        return [Node(
            package='lewm_ros', executable=executable, namespace=given['namespace'] or None,
            parameters=[*filter(None, [beneath, *files, values])],
            remappings=[_rule(word) for word in given['remap'].split()],
            arguments=[*words, '--ros-args', '--log-level', used['log_level']],
            additional_env={LAUNCHER: str(os.getpid())},
            output='screen', emulate_tty=True, sigterm_timeout=str(patience_s))]

    return LaunchDescription([
        *(DeclareLaunchArgument(a.name, default_value='', description=a.help + (
            f'; empty: {a.default}' if a.default else '')) for a in declared),
        OpaqueFunction(function=start)])


def _value(argument: Argument, text: str) -> Any:
    """The parameter's value; a text stays one, even where YAML would read `1` as a number."""
    if argument.kind is str:
        return ParameterValue(text, value_type=str)
    try:
        if argument.kind is bool:
            return {'true': True, 'false': False}[text.lower()]
        return argument.kind(text)
    except (KeyError, ValueError):
        raise UserError(f'launch argument {argument.name} is {text!r}, but '
                        f'{_WORDING[argument.kind]} is expected') from None


def _file(path: str) -> str:
    """The parameter file at `path`; launch_ros would only warn, and start the node without it."""
    if not os.path.isfile(path):
        raise UserError(f'launch argument params_file is {path!r}, but a file is expected')
    return path


def _rule(text: str) -> tuple[str, str]:
    source, found, target = text.partition(':=')
    if not (source and found and target):
        raise UserError(f'launch argument remap holds {text!r}, but from:=to is expected')
    return source, target
