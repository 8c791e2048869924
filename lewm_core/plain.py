"""Frozen dataclasses out of plain trees, as JSON and YAML give them: strict in keys and types."""

from __future__ import annotations

import dataclasses
import types
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from lewm_core.types import UserError

_Class = TypeVar('_Class')


def from_plain(cls: type[_Class], tree: Any, where: str, partial: bool = False) -> _Class:
    """The dataclass `cls` in `tree`, a mapping of its fields' names to plain values.

    Lists become tuples, mappings the dataclasses that the fields ask for, and whole numbers
    floats where the field is one. Raises UserError that begins with `where` on an unknown key, a
    value of another type (`expected` in the field's metadata says what would do), and a missing
    key; with `partial` only where the field has no default.
    """
    if not isinstance(tree, dict):
        raise UserError(f'{where} is {tree!r}, but a mapping of keys to values is expected')
    known = {f.name: f for f in dataclasses.fields(cls)}
    for key in tree:
        if key not in known:
            raise UserError(f'{where}: unknown key {key!r}; known keys are {sorted(known)}')
    hints, values = get_type_hints(cls), {}
    for name, f in known.items():
        if name in tree:
            values[name] = _field(f, hints[name], tree[name], f'{where}: {name}', partial)
        elif not partial or (f.default is dataclasses.MISSING
                             and f.default_factory is dataclasses.MISSING):
            raise UserError(f'{where}: key {name!r} is missing; add it')
    return cls(**values)


def bare(hint: Any) -> Any:
    """The type `hint` without `| None`."""
    if get_origin(hint) in (types.UnionType, Union):
        return next(arg for arg in get_args(hint) if arg is not type(None))
    return hint


def _field(f: dataclasses.Field, hint: Any, value: Any, where: str, partial: bool) -> Any:
    expected = f.metadata.get('expected')
    try:
        return _typed(hint, value, where, partial)
    except UserError:
        if expected is None:
            raise
        raise UserError(f'{where} is {value!r}, but {expected} is expected') from None


def _typed(hint: Any, value: Any, where: str, partial: bool) -> Any:
    """`value` as the type `hint`: a dataclass, str, int, float, bool, a tuple of them, None."""
    kind = bare(hint)
    if value is None and kind is not hint:
        return None
    if dataclasses.is_dataclass(kind):
        return from_plain(kind, value, where, partial)
    if get_origin(kind) is tuple:
        return _items(get_args(kind), value, where, partial)
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise UserError(f'{where} is {value!r}, but {kind.__name__} is expected')
    return value


def _items(kinds: tuple[Any, ...], value: Any, where: str, partial: bool) -> tuple:
    if not isinstance(value, (list, tuple)):
        raise UserError(f'{where} is {value!r}, but a list is expected')
    if kinds[-1] is Ellipsis:
        kinds = kinds[:1] * len(value)
    if len(value) != len(kinds):
        raise UserError(f'{where} is {value!r}, but a list of {len(kinds)} is expected')
    return tuple(_typed(kind, item, f'{where}[{i}]', partial)
                 for i, (kind, item) in enumerate(zip(kinds, value)))
