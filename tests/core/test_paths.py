"""One function finds the configuration, however the package was installed."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from lewm_core import paths
from lewm_core.compose import compose
from lewm_core.types import UserError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A function that puts the package's file under a prefix and forgets the checkout."""
    monkeypatch.delenv('AMENT_PREFIX_PATH', raising=False)
    monkeypatch.setattr(sys, 'prefix', str(tmp_path / 'nowhere'))

    def install(where):
        monkeypatch.setattr(paths, '__file__', str(tmp_path / where / 'lewm_core' / 'paths.py'))
        return tmp_path
    return install


def share(prefix):
    """A configuration folder installed under `prefix`."""
    folder = Path(prefix) / 'share' / 'lewm_ros' / 'config'
    shutil.copytree(ROOT / 'config', folder)
    return folder


def test_a_checkout_uses_its_own_files():
    assert paths.config_dir() == ROOT / 'config'


def test_an_installed_package_uses_the_share_folder_of_its_own_prefix(installed):
    root = installed('venv/lib/python3.12/site-packages')
    folder = share(root / 'venv')
    assert paths.config_dir() == folder


def test_a_package_installed_into_a_plain_folder_finds_its_files(installed):
    root = installed('target')
    folder = share(root / 'target')
    assert paths.config_dir() == folder


def test_its_own_prefix_comes_before_ament(installed, monkeypatch):
    root = installed('one/lib/python3.12/site-packages')
    own = share(root / 'one')
    share(root / 'two')
    monkeypatch.setenv('AMENT_PREFIX_PATH', str(root / 'two'))
    assert paths.config_dir() == own


def test_ament_is_asked_in_its_order(installed, monkeypatch):
    root = installed('elsewhere')
    first, _ = share(root / 'b'), share(root / 'c')
    monkeypatch.setenv('AMENT_PREFIX_PATH', f'{root / "a"}:{root / "b"}:{root / "c"}')
    assert paths.config_dir() == first


def test_the_interpreters_prefix_comes_last(installed, monkeypatch):
    root = installed('elsewhere')
    monkeypatch.setattr(sys, 'prefix', str(root / 'python'))
    folder = share(root / 'python')
    assert paths.config_dir() == folder


def test_no_configuration_anywhere_is_one_sentence(installed):
    root = installed('elsewhere')
    with pytest.raises(UserError, match='install the package again') as caught:
        paths.config_dir()
    assert str(root) in str(caught.value)


def test_a_robot_is_found_by_name_and_by_path(tmp_path):
    by_name = paths.robot_path('two_room')
    assert by_name == ROOT / 'config' / 'robot' / 'two_room.yaml'
    copy = shutil.copy(by_name, tmp_path / 'mine.yaml')
    assert paths.robot_path(copy) == Path(copy)
    assert paths.load_robot('two_room') == paths.load_robot(copy)


@pytest.mark.parametrize('name', ['', 'two_rooms', '../robot/two_room', 'no/such.yaml'])
def test_an_unknown_robot_is_named_with_those_that_are_known(name):
    with pytest.raises(UserError, match='two_room') as caught:
        paths.robot_path(name)
    assert repr(name) in str(caught.value)


def test_the_home_folder_of_nobody_is_one_sentence():
    """A ~ without its slash was a traceback of pathlib, for every path of a command."""
    for ask in (lambda: paths.robot_path('~no such user/robot.yaml'),
                lambda: compose('convert', ['bags=~nosuchuser/bag', 'robot=two_room',
                                            'output=out.h5'])):
        with pytest.raises(UserError, match='~no ?such ?user/.* a user who is not known'):
            ask()


@pytest.mark.parametrize('path', sorted((ROOT / 'config' / 'robot').glob('*.yaml')),
                         ids=lambda path: path.stem)
def test_every_robot_that_comes_with_the_package_loads(path):
    assert paths.load_robot(path.stem).name == path.stem
