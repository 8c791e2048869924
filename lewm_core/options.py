"""The keys of each job, read from its dataclass: for Hydra's schema, for --help, for errors."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from lewm_core.jobs import JOBS
from lewm_core.paths import config_dir
from lewm_core.plain import bare


@dataclasses.dataclass(frozen=True)
class Option:
    """One key of a job: its dotted name, type, default (None when required) and description."""

    key: str
    kind: Any
    default: Any
    required: bool
    help: str
    low: float | None
    high: float | None
    among: tuple[str, ...]


def options(job: str) -> list[Option]:
    """Every key of `job` in order, groups flattened: `train.steps` and so on."""
    return list(walk(JOBS[job], ''))


def groups(job: str) -> dict[str, list[str]]:
    """The groups of `job` and the names that each offers: `{'model': ['lewm', 'tiny'], …}`."""
    root = config_dir()
    return {f.name: sorted(p.stem for p in (root / f.name).glob('*.yaml'))
            for f in dataclasses.fields(JOBS[job])
            if dataclasses.is_dataclass(hints(JOBS[job])[f.name])}


def as_overrides(job: Any) -> list[str]:
    """Every value of the groups in `job`, as `key=value`: another job composes them anew."""
    lines = []
    for f in dataclasses.fields(job):
        config = getattr(job, f.name)
        if dataclasses.is_dataclass(config):
            lines += [f'{f.name}.{g.name}={shown(getattr(config, g.name))}'
                      for g in dataclasses.fields(config)]
    return lines


def walk(cls: type, prefix: str) -> Iterator[Option]:
    """Each key under a job's or a config's dataclass, its own ones before those of its groups."""
    kinds = hints(cls)
    fields = dataclasses.fields(cls)
    for f in sorted(fields, key=lambda f: dataclasses.is_dataclass(kinds[f.name])):
        kind = kinds[f.name]
        if dataclasses.is_dataclass(kind):
            yield from walk(kind, f'{prefix}{f.name}.')
            continue
        default, required = default_of(f), default_of(f) is dataclasses.MISSING
        yield Option(prefix + f.name, kind, None if required else default, required,
                     f.metadata['help'], f.metadata['low'], f.metadata['high'],
                     f.metadata['among'])


def schema(cls: type) -> type:
    """`cls` as Hydra wants it: not frozen (frozen ones refuse overrides), paths as texts."""
    fields, kinds = [], hints(cls)
    for f in dataclasses.fields(cls):
        kind, default = kinds[f.name], default_of(f)
        if dataclasses.is_dataclass(kind):
            kind = schema(kind)
            fields.append((f.name, kind, dataclasses.field(default_factory=kind)))
            continue
        item = item_type(kind)
        if item:
            kind = list[str if item is Path else item]
        elif bare(kind) is Path:
            kind = str if kind is Path else typing.Optional[str]
        if default is dataclasses.MISSING:
            fields.append((f.name, kind, dataclasses.field(default=MISSING)))
        elif item:
            fields.append((f.name, kind, dataclasses.field(
                default_factory=lambda value=default: [*value])))
        else:
            value = str(default) if isinstance(default, Path) else default
            fields.append((f.name, kind, dataclasses.field(default=value)))
    return dataclasses.make_dataclass(cls.__name__, fields)


def default_of(f: dataclasses.Field) -> Any:
    """The default of a field, or dataclasses.MISSING."""
    if f.default_factory is not dataclasses.MISSING:
        return f.default_factory()
    return f.default


def hints(cls: type) -> dict[str, Any]:
    """The types of a dataclass's fields, as types and not as texts."""
    return typing.get_type_hints(cls)


def item_type(kind: Any) -> Any:
    """The type of a tuple's items, else None."""
    return typing.get_args(kind)[0] if typing.get_origin(kind) is tuple else None


def shown(value: Any) -> str:
    """A value as it is written after `key=`."""
    if value is None:
        return 'null'
    if isinstance(value, (list, tuple)):
        return f'[{",".join(str(v) for v in value)}]'
    return str(value).lower() if isinstance(value, bool) else str(value)
