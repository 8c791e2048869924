"""Where the package's own files lie, however it was installed."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from lewm_core.robot import RobotSpec
from lewm_core.types import UserError

PACKAGE = 'lewm_ros'


def config_dir() -> Path:
    """The folder of the YAML files: `config/` of a checkout, else `share/lewm_ros/config`.

    A checkout comes first, and an editable or `colcon build --symlink-install` package resolves
    to one; then the share folder above this very file, so that two installed versions never mix;
    then AMENT_PREFIX_PATH and the interpreter's prefix. Raises UserError when none has it.
    """
    tried = []
    for candidate in _candidates():
        if (candidate / 'train.yaml').is_file():
            return candidate
        tried.append(str(candidate))
    raise UserError(f'the configuration folder of {PACKAGE} is in none of {tried}; install the '
                    'package again, or run from a checkout')


def at_home(path: str | Path) -> Path:
    """The path, where it begins with ~ in the home folder that this means.

    Raises UserError where it means nobody's.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:  # pathlib's
        raise UserError(f'path {str(path)!r} begins with ~ and a user who is not known here; '
                        'write ~/… for your own folder, or the whole path') from None


def robot_path(robot: str | Path) -> Path:
    """The YAML file of `robot`: a path that exists, else a name in `config/robot`.

    Raises UserError naming the robots that are known by name.
    """
    path = at_home(robot)
    if path.is_file():
        return path
    folder = config_dir() / 'robot'
    named = folder / f'{robot}.yaml'
    if path.name == str(robot) and named.is_file():
        return named
    raise UserError(f'robot={str(robot)!r} is neither a YAML file nor one of the known robots '
                    f'{sorted(p.stem for p in folder.glob("*.yaml"))}; give a name or a path')


def load_robot(robot: str | Path) -> RobotSpec:
    """The spec of `robot`, given by name or by path; raises UserError as RobotSpec.load does."""
    return RobotSpec.load(robot_path(robot))


def _candidates() -> Iterator[Path]:
    here = Path(__file__).resolve()
    root = here.parent.parent
    if (root / 'package.xml').is_file() and (root / 'setup.py').is_file():
        yield root / 'config'
    share = Path('share') / PACKAGE / 'config'
    for parent in here.parents:
        if (parent / share).is_dir():
            yield parent / share
    for prefix in os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep):
        if prefix:
            yield Path(prefix) / share
    yield Path(sys.prefix) / share
