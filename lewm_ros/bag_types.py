"""The message types of a recording: from its own definitions, else from a ROS distribution."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore

from lewm_core.types import UserError
from lewm_ros.bag_part import Channel, Part

_IDL = '=' * 80 + '\n'
_DISTRIBUTIONS = {s.value.split('_')[-1]: s for s in Stores if s.value.startswith('ros')}
_FEW = 5  # topics named in a sentence
# What the project itself takes apart.
_FIXED = {'sensor_msgs/msg/Image', 'sensor_msgs/msg/CompressedImage', 'std_msgs/msg/Header',
          'builtin_interfaces/msg/Time'}


def of_one_ros(path: Path, parts: Iterable[Part]) -> list[Channel]:
    """The channels of all parts of a recording, without empty ones of the other ROS.

    Raises UserError where channels of ROS 1 and of ROS 2 both have messages: how numbers and
    headers lie in a message differs.
    """
    parts = list(parts)
    used: dict[str, set[str]] = {'ros1': set(), 'cdr': set()}
    for part in parts:
        for key in np.unique(part.entries.channel).tolist():
            channel = part.channels[key]
            used.setdefault(channel.encoding, set()).add(channel.topic)
    if used['ros1'] and used['cdr']:
        one, two = (', '.join(sorted(used[key])[:_FEW]) + (', …' if len(used[key]) > _FEW else '')
                    for key in ('ros1', 'cdr'))
        raise UserError(f'bag {str(path)!r} mixes messages of ROS 1 ({one}) and of ROS 2 ({two}), '
                        'but one of them is expected; keep the topics of one with `mcap filter` '
                        'and give that file')
    other = 'cdr' if used['ros1'] else 'ros1'
    return [c for part in parts for c in part.channels.values() if c.encoding != other]


class Types:
    """The types of a recording's channels, by name; a message of each becomes a dataclass.

    `chosen` names a ROS distribution (of `distributions()`) or a folder with
    `package/msg/Type.msg` files for the types that the recording doesn't define; without it they
    come from the distribution that the recording names (`distro`), else from Noetic or Jazzy,
    else from the ROS 2 that is installed here. Raises UserError for an unknown choice.
    """

    def __init__(self, channels: Iterable[Channel], distro: str = '', chosen: str = '') -> None:
        channels = list(channels)
        self.ros1 = any(c.encoding == 'ros1' for c in channels)
        self._folders = [Path(p, 'share') for p in
                         os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep) if p]
        if chosen and chosen not in _DISTRIBUTIONS:
            if not Path(chosen).is_dir():
                raise UserError(f'typestore={chosen!r} is neither a folder with package/msg/'
                                f'Type.msg files nor one of {distributions()}; give one of these')
            self._folders.insert(0, Path(chosen))
        name = chosen or distro
        if name not in _DISTRIBUTIONS:
            name = 'noetic' if self.ros1 else 'jazzy'
        self.store = get_typestore(_DISTRIBUTIONS[name])
        self._register_own(channels)

    def _register_own(self, channels: list[Channel]) -> None:
        """Registers what the recording defines; a definition that can't be read is passed over."""
        own: dict[str, Any] = {}
        for key in {(c.type, c.schema, c.definition): None for c in channels if c.definition}:
            own.update(_parse(*key))
        for name in _FIXED & own.keys():
            if own[name][1] != self.store.fielddefs[name][1]:
                del own[name]  # never changed by any ROS, so the definition is damaged
        while broken := [name for name, definition in own.items()
                         if not _names({name: definition}) <= own.keys() | self.store.fielddefs]:
            for name in broken:  # made of types that nothing defines
                del own[name]
        for name in own:
            self.store.fielddefs.pop(name, None)
            self.store.types.pop(name, None)
        for name, fields in own.items():
            with suppress(Exception):  # SyntaxError and more, where a definition is damaged
                self.store.register({name: fields})

    def find(self, type: str) -> str | None:
        """The name under which the type is known; None where nothing defines it."""
        if type not in self.store.fielddefs:
            for folder in self._folders:
                self._load(type, folder)
        return type if type in self.store.fielddefs else None

    def _load(self, type: str, folder: Path) -> None:
        """Registers a type and those that it is made of from .msg files."""
        package, _, name = type.partition('/msg/')
        file = folder / package / 'msg' / f'{name}.msg'
        if type in self.store.fielddefs or not file.is_file():
            return
        types = _parse(type, 'ros2msg', file.read_text(errors='replace'))
        for needed in _names(types):
            self._load(needed, folder)
        if _names(types) <= self.store.fielddefs.keys():
            self.store.register(types)

    def read(self, raw: Any, type: str) -> Any:
        """The message in `raw`. What follows it there is left alone: some drivers write more.

        Raises ValueError where the bytes are no such message, and UserError where nothing
        defines the type.
        """
        if self.find(type) is None:
            raise UserError(f'no definition of the type {type} is known; give typestore=… one of '
                            f'{distributions()} or a folder with {type}.msg in it')
        definition = self.store.get_msgdef(type)
        if self.ros1:
            message, _ = definition.deserialize_ros1(memoryview(raw), 0, definition.cls,
                                                     self.store)
            return message
        if len(raw) < 4 or raw[0] != 0 or raw[1] > 1:
            raise ValueError('it does not begin as CDR')
        read = definition.deserialize_cdr_le if raw[1] else definition.deserialize_cdr_be
        # A slice of a memoryview copies nothing.
        message, _ = read(memoryview(raw)[4:], 0, definition.cls, self.store)
        return message


def distributions() -> list[str]:
    """The ROS distributions whose message types are known."""
    return sorted(_DISTRIBUTIONS)


@functools.lru_cache(maxsize=256)
def _parse(type: str, schema: str, text: str) -> dict[str, Any]:
    """The field definitions in `text` by type name; none where it can't be read."""
    try:
        if schema in ('ros2idl', 'omgidl'):
            parts = text.split(_IDL)[1:] if text.startswith(f'{_IDL}IDL: ') else ['\n' + text]
            return {k: v for part in parts
                    for k, v in get_types_from_idl(part.split('\n', 1)[1]).items()}
        return dict(get_types_from_msg(text, type))
    except Exception:  # rosbags' parser raises its own, KeyError and RecursionError
        return {}


def _names(types: dict[str, Any]) -> set[str]:
    """The names of all types that these are made of."""
    found: set[str] = set()

    def walk(node: Any) -> None:
        if isinstance(node, str) and '/msg/' in node:
            found.add(node)
        elif isinstance(node, (tuple, list)):
            for part in node:
                walk(part)

    for _, fields in types.values():
        for _, kind in fields:
            walk(kind)
    return found - types.keys()
