"""ROS parameters from the config dataclasses: descriptions, ranges, one-sentence refusals."""

from __future__ import annotations

import dataclasses
import difflib
from typing import Any

from rcl_interfaces.msg import (FloatingPointRange, IntegerRange, ParameterDescriptor,
                                SetParametersResult)
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.node import Node
from rclpy.parameter import Parameter

from lewm_core.config import check
from lewm_core.types import UserError

_KINDS = {bool: Parameter.Type.BOOL, int: Parameter.Type.INTEGER, float: Parameter.Type.DOUBLE,
          str: Parameter.Type.STRING, list: Parameter.Type.STRING_ARRAY}
_FAR = {int: 2**63 - 1, float: 1.7976931348623157e308}


def declare(node: Node, config: type, prefix: str = '', fixed: bool = False) -> None:
    """Nothing; declares a parameter for each scalar field of the dataclass `config`.

    The name is `prefix` + '.' + the field's, the default and the range are the field's. `fixed`:
    they are read once, at the start, and can't change. Raises UserError when the value given on
    the command line or in a file doesn't fit.
    """
    for f in dataclasses.fields(config):
        name = f'{prefix}.{f.name}' if prefix else f.name
        default = getattr(config(), f.name)
        described = descriptor(f, type(default))
        described.read_only = fixed
        _declare(node, name, default, described, _expected(f, default))


def declare_one(node: Node, name: str, default: bool | str | list[str], help: str) -> Any:
    """The value of a parameter that stands beside those of a config: a switch, text or texts.

    It is for the start and can't change. Raises UserError when the value given doesn't fit.
    """
    expected = {bool: 'true or false', str: 'a text', list: 'a list of texts'}[type(default)]
    described = ParameterDescriptor(description=help, read_only=True)
    return _declare(node, name, default, described, expected)


def _declare(node: Node, name: str, default: Any, described: ParameterDescriptor,
             expected: str) -> Any:
    _coerce(node, name, type(default))
    try:
        return node.declare_parameter(name, default, described).value
    except (InvalidParameterTypeException, InvalidParameterValueException):
        given = node._parameter_overrides[name].value
        raise UserError(f'parameter {name} is {given!r}, but {expected} is expected; correct it'
                        ) from None


def descriptor(f: dataclasses.Field, kind: type) -> ParameterDescriptor:
    """The descriptor of one field: its description, and its range where it has one."""
    low, high = f.metadata.get('low'), f.metadata.get('high')
    among = f.metadata.get('among') or ()
    made = ParameterDescriptor(description=f.metadata.get('help', ''),
                               additional_constraints=f'one of {list(among)}' if among else '')
    if kind in _FAR and (low is not None or high is not None):
        low = -_FAR[kind] if low is None else kind(low)
        high = _FAR[kind] if high is None else kind(high)
        if kind is int:
            made.integer_range = [IntegerRange(from_value=low, to_value=high, step=0)]
        else:
            made.floating_point_range = [FloatingPointRange(from_value=low, to_value=high)]
    return made


def read(node: Node, config: type, prefix: str = '') -> Any:
    """An instance of the dataclass `config` from the node's parameters.

    Raises UserError when one is out of its range.
    """
    dot = f'{prefix}.' if prefix else ''
    made = config(**{f.name: node.get_parameter(dot + f.name).value
                     for f in dataclasses.fields(config)})
    try:
        check(made)
    except UserError as error:
        raise UserError(f'parameter {dot}{error}') from None
    return made


class Explicit:
    """Remembers which parameters a user has set, so that a checkpoint's own values fill the rest.

    While `locked()` is true a change is refused, for it would take effect at an unknown moment.
    """

    def __init__(self, node: Node, locked: Any) -> None:
        self._node = node
        self._locked = locked
        self._filling = False
        self._live: set[str] = {'use_sim_time'}
        self._names = set(node._parameter_overrides)
        node.add_on_set_parameters_callback(self._on_set)

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def fill(self, config: Any, prefix: str) -> Any:
        """`config` with the fields that a user has set as parameters under `prefix`.

        The other parameters take `config`'s values, so that `ros2 param get` shows what is used.
        """
        dot = f'{prefix}.' if prefix else ''
        names = {f.name: dot + f.name for f in dataclasses.fields(config)}
        given = {field: self._node.get_parameter(name).value for field, name in names.items()
                 if name in self._names}
        made = dataclasses.replace(config, **given)
        try:
            check(made)
        except UserError as error:
            raise UserError(f'parameter {dot}{error}') from None
        self._filling = True
        try:
            self._node.set_parameters([
                Parameter(name, _KINDS[type(getattr(made, field))], getattr(made, field))
                for field, name in names.items() if field not in given])
        finally:
            self._filling = False
        return made

    def _on_set(self, parameters: list[Parameter]) -> SetParametersResult:
        names = {p.name for p in parameters} - self._live
        if names and not self._filling:
            if self._locked():
                return SetParametersResult(successful=False, reason=(
                    f'{sorted(names)[0]} can only change while the node is unconfigured; '
                    'deactivate and clean it up first'))
            self._names |= names
        return SetParametersResult(successful=True)


def warn_unknown(node: Node) -> list[str]:
    """The names of parameters that were given but that nobody declared; each is warned about."""
    declared = list(node._parameters)
    unknown = [name for name in node._parameter_overrides if not node.has_parameter(name)]
    for name in unknown:
        near = difflib.get_close_matches(name, declared, 1)
        hint = f'; did you mean {near[0]!r}?' if near else ''
        node.get_logger().warning(f'parameter {name!r} is not one of this node and has no '
                                  f'effect{hint}')
    return unknown


def _coerce(node: Node, name: str, kind: type) -> None:
    """YAML reads `2` as an integer: taken as 2.0 for a float, as '2' for a string.

    A single text stands for a list of one.
    """
    given = node._parameter_overrides.get(name)
    if given is not None and kind is list and given.type_ == Parameter.Type.STRING:
        node._parameter_overrides[name] = Parameter(name, _KINDS[list], [given.value])
        return
    if given is None or kind not in (float, str) or given.type_ == _KINDS[kind]:
        return
    if given.type_ == Parameter.Type.INTEGER or (
            kind is str and given.type_ == Parameter.Type.DOUBLE):
        node._parameter_overrides[name] = Parameter(name, _KINDS[kind], kind(given.value))


def _expected(f: dataclasses.Field, default: Any) -> str:
    low, high = f.metadata.get('low'), f.metadata.get('high')
    words = {bool: 'true or false', int: 'a whole number', float: 'a number', str: 'text'}
    text = words[type(default)]
    if low is not None or high is not None:
        text += f' in [{"-inf" if low is None else low}, {"inf" if high is None else high}]'
    return text
