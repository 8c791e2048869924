"""Hydra's compose over `config/`: checked against the dataclasses, out come frozen jobs."""

from __future__ import annotations

import dataclasses
import difflib
import re
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lewm_core.config import check
from lewm_core.jobs import (JOBS, BagsJob, ConvertJob, DemoJob, EvaluateJob, TrainJob)
from lewm_core.options import (Option, as_overrides, groups, hints, item_type, options, schema,
                               shown)
from lewm_core.paths import at_home, config_dir, robot_path
from lewm_core.plain import bare
from lewm_core.robot import RobotSpec
from lewm_core.types import UserError

__all__ = ['BagsJob', 'ConvertJob', 'DemoJob', 'EvaluateJob', 'JOBS', 'Option', 'OverrideError',
           'TrainJob', 'as_overrides', 'compose', 'groups', 'options']

_LOCK = threading.Lock()  # Hydra keeps one global state a process
_OVERRIDE = re.compile(r'^([A-Za-z_][\w.]*)=(.*)$', re.DOTALL)
_KINDS = {int: 'a whole number', float: 'a number', bool: 'true or false', str: 'a text',
          Path: 'a path'}
# Keys so often given that they need no group.
_SHORT = {'loss': 'train.loss', 'logger': 'train.logger'}


class OverrideError(UserError):
    """A key or value on the command line that does not exist or does not fit; exit code 2."""


def compose(job: str, overrides: Sequence[str] = (), spec: RobotSpec | None = None) -> Any:
    """The frozen job dataclass of `job`, its defaults, YAML groups and `overrides` applied.

    `overrides` are `key=value` and `group=name` as Hydra reads them; a text or path needs no
    quotes, and a list of paths may be written with commas. Where the robot is known (`spec`, or
    a `robot=` override) and no model is chosen, the model, its training and its planner follow
    the camera: tiny for 64 pixels, the paper's LeWM otherwise; and what `config/JOB/ROBOT.yaml`
    sets, where there is one, takes the place of the job's defaults. Raises OverrideError in one
    sentence: an unknown key with its nearest neighbours, a value of another type or out of its
    range, an unknown group member, a required key left out.
    """
    cls = JOBS[job]
    known = {option.key: option for option in options(job)}
    pairs = [_split(text, known, groups(job)) for text in overrides]
    chosen = dict(pairs)
    if 'robot' in chosen:
        spec = spec or _spec(chosen['robot'])
    choices = {key: value for key, value in pairs if key in groups(job)}
    choices = {**_follow_camera(job, spec, choices), **choices}
    lines, texts = [f'{key}={value}' for key, value in choices.items()], {}
    lines += _follow_robot(job, spec)
    for key, value in pairs:
        if key in known and _is_text(known[key].kind):
            texts[key] = _text(known[key].kind, value)
        elif key in known:
            lines.append(_line(known[key], value))
    return _checked(cls, _composed(job, lines, texts))


def _split(text: str, known: dict[str, Option], names: dict[str, list[str]]) -> tuple[str, str]:
    """The key and the value in `text`, the key known and the group member there."""
    match = _OVERRIDE.match(text)
    if match is None:
        raise OverrideError(f'{text!r} is not understood; overrides are written key=value, such '
                            f'as {_example(known)}')
    key, value = match.groups()
    if key not in known and key not in names:
        key = _SHORT.get(key, key)
    if key in names:
        if value not in names[key]:
            raise OverrideError(f'{key}={value!r} is not known; choose one of {names[key]}, or '
                                f'set one value, such as {_example(known, key)}')
    elif key not in known:
        near = difflib.get_close_matches(key, [*known, *names], n=3, cutoff=0.5)
        near += [k for k in known if k.endswith(f'.{key}') and k not in near]
        hint = f'did you mean {" or ".join(near)}?' if near else 'see --help for all keys'
        raise OverrideError(f'{key!r} is not a known key; {hint}')
    return key, value


def _example(known: dict[str, Option], group: str | None = None) -> str:
    for key, option in known.items():
        if group is None or key.startswith(f'{group}.'):
            return f'{key}={"PATH" if option.default is None else option.default}'
    return 'key=value'


def _spec(robot: str) -> RobotSpec:
    try:
        path = robot_path(_unquote(robot))
    except UserError as error:
        raise OverrideError(str(error)) from None
    return RobotSpec.load(path)


def _follow_camera(job: str, spec: RobotSpec | None, choices: dict[str, str]) -> dict[str, str]:
    """The group members that suit the camera (or the model chosen), for those left open."""
    if 'model' not in groups(job):
        return {}
    model = choices.get('model')
    if model is None and spec is not None:
        model = 'tiny' if spec.camera.width == 64 else 'lewm'
    if model is None:
        return {}
    if model == 'tiny':
        return {'model': 'tiny', 'train': 'tiny', 'planner': 'small'}
    return {'model': model, 'train': 'paper', 'planner': 'default'}


def _follow_robot(job: str, spec: RobotSpec | None) -> list[str]:
    """The group member that sets what `job` needs for this robot: `config/demo/push.yaml`."""
    if spec is None or not (config_dir() / job / f'{spec.name}.yaml').is_file():
        return []
    return [f'+{job}={spec.name}']


def _is_text(kind: Any) -> bool:
    return (item_type(kind) or bare(kind)) in (str, Path)


def _text(kind: Any, value: str) -> Any:
    """The value of a text or path, taken as it stands: Hydra's grammar has no room for `a b`.

    For a list the texts between commas, in brackets or not.
    """
    value = value.replace('${', r'\${')  # nor is any part of a path an interpolation
    if item_type(kind):
        inside = value[1:-1] if value.startswith('[') and value.endswith(']') else value
        return [_unquote(part.strip()) for part in inside.split(',') if part.strip()]
    return None if kind != bare(kind) and value == 'null' else _unquote(value)


def _line(option: Option, value: str) -> str:
    """The override in Hydra's grammar, its type checked alone so that the error can name it."""
    kind = bare(option.kind)
    line = f'{option.key}={value}'
    try:
        (parsed,) = OverridesParser.create().parse_overrides([line])
        if parsed.is_sweep_override():
            raise ValueError('a sweep')
        tree = OmegaConf.structured(schema(dataclasses.make_dataclass(
            'Alone', [('value', option.kind)])))
        OmegaConf.update(tree, 'value', parsed.value())
    except (HydraException, OmegaConfBaseException, ValueError):
        raise OverrideError(f'{option.key}={value!r} is not {_wording(kind)}; give one, such as '
                            f'{option.key}={shown(option.default)}') from None
    return line


def _composed(job: str, lines: list[str], texts: dict[str, Any]) -> dict[str, Any]:
    """The plain tree that Hydra makes of the YAML files, the schema, `lines` and `texts`."""
    with _LOCK:
        ConfigStore.instance().store(name=f'{job}_schema', node=schema(JOBS[job]))
        before = GlobalHydra.instance().hydra
        GlobalHydra.instance().clear()
        try:
            with initialize_config_dir(str(config_dir()), job_name='lewm', version_base='1.3'):
                tree = hydra_compose(job, lines)
            for key, value in texts.items():
                OmegaConf.update(tree, key, value)
            absent = sorted(OmegaConf.missing_keys(tree))
            if absent:
                raise OverrideError(f'{absent[0]} is missing; add {absent[0]}=…: '
                                    f'{_help(job, absent[0])}')
            return OmegaConf.to_container(tree, resolve=True)
        except (HydraException, OmegaConfBaseException) as error:
            text = ' '.join(str(error.__cause__ or error).split())
            raise OverrideError(f'the configuration of {job} does not compose ({text}); mend '
                                f'that key in {config_dir()} or in the overrides') from None
        finally:
            GlobalHydra.instance().hydra = before


def _checked(cls: type, tree: dict[str, Any], prefix: str = '') -> Any:
    """The frozen `cls` of a plain tree, each value within the range its metadata states."""
    kinds, values = hints(cls), {}
    for f in dataclasses.fields(cls):
        kind, value = kinds[f.name], tree[f.name]
        if dataclasses.is_dataclass(kind):
            values[f.name] = _checked(kind, value, f'{prefix}{f.name}.')
        elif value is None:
            values[f.name] = None
        elif item_type(kind):
            values[f.name] = tuple(_cast(item_type(kind), v) for v in value)
        else:
            values[f.name] = _cast(bare(kind), value)
    job = cls(**values)
    try:
        check(job)
    except UserError as error:
        raise OverrideError(f'{prefix}{error}') from None
    for name, kind in kinds.items():
        if item_type(kind) is Path and not values[name]:
            raise OverrideError(f'{prefix}{name} is empty; give at least one path')
    return job


def _cast(kind: type, value: Any) -> Any:
    return at_home(value) if kind is Path else kind(value)


def _wording(kind: Any) -> str:
    item = item_type(kind)
    return f'a list of values, each {_KINDS[item]}' if item else _KINDS[kind]


def _help(job: str, key: str) -> str:
    return next(option.help for option in options(job) if option.key == key)


def _unquote(text: str) -> str:
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in '\'"' else text
