"""Numbers in messages by dotted path: one way for rclpy messages and for rosbags messages."""

from __future__ import annotations

import array
import importlib
import re
from functools import lru_cache
from typing import Any

import numpy as np

from lewm_core.robot import RobotSpec
from lewm_core.types import UserError

_PART = re.compile(r'^([A-Za-z_][A-Za-z0-9_]*)(?:\[(\d+)\])?$')
_NUMBERS = {'bool', 'boolean', 'octet', 'byte', 'char', 'float', 'double', 'float32', 'float64',
            'int8', 'uint8', 'int16', 'uint16', 'int32', 'uint32', 'int64', 'uint64'}
_ARRAY = re.compile(r'^(.+)\[(\d+)\]$')
_SEQUENCE = re.compile(r'^sequence<(.+?)(?:, *\d+)?>$')


@lru_cache(maxsize=None)
def _parts(path: str) -> tuple[tuple[str, int | None], ...]:
    """The (name, index or None) pairs of a dotted path such as `position[2]` or `a.b.x`."""
    found = [_PART.match(part) for part in path.split('.')]
    if not all(found):
        raise UserError(f'field path {path!r} is not a dotted path; write one such as '
                        'twist.linear.x or position[2]')
    return tuple((m[1], None if m[2] is None else int(m[2])) for m in found)


def get_field(msg: Any, path: str) -> float:
    """The number at dotted `path` of a message, as float; raises UserError when it isn't there.

    `msg` is an rclpy or a rosbags message: both give attributes, and arrays that take [i].
    """
    value = msg
    try:
        for name, index in _parts(path):
            value = getattr(value, name)
            if index is not None:
                value = value[index]
        return float(value)
    except AttributeError:
        raise _missing(msg, path) from None
    except IndexError:
        raise UserError(f'field {path!r} is beyond the end of its array in a {type_name(msg)} '
                        'message; correct the index or the publisher') from None
    except (TypeError, ValueError):
        raise UserError(f'field {path!r} of {type_name(msg)} is not a number; choose one of '
                        f'{_listing(field_paths(msg))}') from None


def set_field(msg: Any, path: str, value: float) -> None:
    """Nothing; puts `value` at dotted `path` of an rclpy message, lengthening arrays as needed.

    Raises UserError when the type has no such number.
    """
    parts = _parts(path)
    owner = msg
    try:
        for name, index in parts[:-1]:
            _lengthen(owner, name, index)
            owner = getattr(owner, name)
            owner = owner if index is None else owner[index]
        name, index = parts[-1]
        _lengthen(owner, name, index)
        old = getattr(owner, name)
        old = old if index is None else old[index]
    except AttributeError:
        raise _missing(msg, path) from None
    except IndexError:
        raise UserError(f'field {path!r} is beyond the end of its array in {type_name(msg)}; '
                        'correct the index') from None
    new = bool(round(value)) if isinstance(old, bool) else (
        int(round(value)) if isinstance(old, (int, np.integer)) else float(value))
    if index is None:
        setattr(owner, name, new)
    else:
        getattr(owner, name)[index] = new


def _missing(msg: Any, path: str) -> UserError:
    return UserError(f'field {path!r} is not in {type_name(msg)}; its numbers are '
                     f'{_listing(field_paths(msg))}')


def _lengthen(owner: Any, name: str, index: int | None) -> None:
    """Appends zeros (or empty messages) to the sequence `name` until it holds `index`."""
    values = getattr(owner, name)
    if index is None or index < len(values):
        return
    if isinstance(values, array.array):
        values.extend([0] * (index + 1 - len(values)))
        return
    found = _SEQUENCE.match(owner.get_fields_and_field_types()[name])
    if not isinstance(values, list) or found is None:
        raise IndexError(name)
    make = (lambda: False) if found[1] in _NUMBERS else message_class(_full(found[1]))
    values.extend(make() for _ in range(index + 1 - len(values)))


def get_action(msg: Any, spec: RobotSpec) -> np.ndarray:
    """The command (A,) float64 in robot units that a message of the spec's action type holds."""
    return np.array([get_field(msg, f.path) for f in spec.action.fields], dtype=np.float64)


def make_command(msg_class: type, spec: RobotSpec, values: Any, stamp: Any) -> Any:
    """An rclpy message of `msg_class` with `values` (A,) in the spec's fields, else zeros.

    `stamp` is int nanoseconds or a builtin_interfaces Time; it is left out when the type has no
    header.
    """
    msg = msg_class()
    if hasattr(msg, 'header'):
        set_stamp(msg.header.stamp, stamp)
    for f, value in zip(spec.action.fields, values, strict=True):
        set_field(msg, f.path, float(value))
    return msg


def set_stamp(time: Any, stamp: Any) -> None:
    """Nothing; writes `stamp` (int nanoseconds or a Time) into a Time message."""
    if isinstance(stamp, (int, np.integer)):
        time.sec, time.nanosec = (int(v) for v in divmod(int(stamp), 1_000_000_000))
    else:
        time.sec, time.nanosec = stamp.sec, stamp.nanosec


def stamp_ns(msg: Any) -> int:
    """The header stamp in nanoseconds; 0 when the type has no header or nobody filled it in.

    A std_msgs/Header itself gives its own stamp.
    """
    stamp = getattr(getattr(msg, 'header', msg), 'stamp', None)
    return 0 if stamp is None else int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


def message_class(name: str) -> type:
    """The rclpy class of `package/msg/Type`; raises UserError when it isn't installed."""
    package, _, kind = name.split('/')
    try:
        return getattr(importlib.import_module(f'{package}.msg'), kind)
    except (ImportError, AttributeError):
        raise UserError(f'message type {name!r} is not installed; install or source the package '
                        f'{package}') from None


def type_name(msg: Any) -> str:
    """The type of a message or message class, as package/msg/Type."""
    given = getattr(msg, '__msgtype__', None)
    if given is not None:
        return given
    cls = msg if isinstance(msg, type) else type(msg)
    return f'{cls.__module__.split(".")[0]}/msg/{cls.__name__}'


def check_fields(message_type: Any, spec: RobotSpec, typestore: Any = None) -> None:
    """Nothing; raises UserError when an action field is no number of `message_type`.

    `message_type` is an rclpy class, or a type name with the rosbags `typestore` that knows it.
    The error lists the numbers that the type has.
    """
    check_paths(message_type, [f.path for f in spec.action.fields], 'action field', typestore)


def check_paths(message_type: Any, paths: list[str], what: str, typestore: Any = None) -> None:
    """Nothing; raises UserError naming the first of `paths` that is no number of the type."""
    known = field_paths(message_type, typestore)
    for path in paths:
        if not any(_fits(path, pattern) for pattern in known):
            name = message_type if isinstance(message_type, str) else type_name(message_type)
            raise UserError(f'{what} {path!r} is no number of {name}; choose one of '
                            f'{_listing(known)}')


def _fits(path: str, pattern: str) -> bool:
    """Whether `path` is one of the numbers of `pattern` (`a[]`: any index, `a[36]`: below 36)."""
    if '[' not in pattern:
        return path == pattern
    if len(_parts(path)) != len(pattern.split('.')):
        return False
    for (name, index), part in zip(_parts(path), pattern.split('.')):
        base, _, size = part.partition('[')
        size = size.rstrip(']')
        if name != base or (index is None) != ('[' not in part):
            return False
        if index is not None and size and index >= int(size):
            return False
    return True


def field_paths(message_type: Any, typestore: Any = None) -> list[str]:
    """The dotted paths of all numbers of a type: `twist.linear.x`, `covariance[36]`, `data[]`.

    `message_type` is an rclpy class or message, or a type name with a rosbags `typestore`.
    """
    if typestore is not None:
        return _walk(message_type, lambda name: _bag_fields(typestore, name))
    if hasattr(message_type, 'get_fields_and_field_types'):
        return _walk(type_name(message_type), _live_fields)
    return [name for name in getattr(message_type, '__dataclass_fields__', {})
            if name != '__msgtype__']


def _walk(name: str, fields: Any, prefix: str = '', depth: int = 0) -> list[str]:
    paths = []
    for field, kind in fields(name).items():
        # Time stamps are no quantity that a robot is driven by.
        if kind.endswith('/Header') or kind.endswith('/Time') or depth > 8:
            continue
        suffix = ''
        if found := _ARRAY.match(kind):
            kind, suffix = found[1], f'[{found[2]}]'
        elif found := _SEQUENCE.match(kind):
            kind, suffix = found[1], '[]'
        if kind in _NUMBERS:
            paths.append(f'{prefix}{field}{suffix}')
        elif '/' in kind:
            paths += _walk(_full(kind), fields, f'{prefix}{field}{suffix}.', depth + 1)
    return paths


def _full(kind: str) -> str:
    """`geometry_msgs/Twist` as geometry_msgs/msg/Twist."""
    return kind if kind.count('/') == 2 else kind.replace('/', '/msg/')


def _live_fields(name: str) -> dict[str, str]:
    return message_class(name).get_fields_and_field_types()


def _bag_fields(typestore: Any, name: str) -> dict[str, str]:
    return {field: _spell(kind) for field, kind in typestore.fielddefs[name][1]}


def _spell(kind: Any) -> str:
    """A rosbags field description in the words that rclpy uses for it."""
    node, detail = kind
    if node.name == 'BASE':
        return detail[0]
    if node.name == 'NAME':
        return detail
    inner, size = detail
    return f'{_spell(inner)}[{size}]' if node.name == 'ARRAY' else f'sequence<{_spell(inner)}>'


def _listing(names: list[str], most: int = 24) -> str:
    return str(names[:most])[:-1] + (', …]' if len(names) > most else ']')
