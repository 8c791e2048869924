"""Installed for real, in each way there is: a wheel, an editable install, colcon, symlinks."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import shlex
import shutil
import site
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PARTS = ('setup.py', 'setup.cfg', 'MANIFEST.in', 'package.xml', 'LICENSE', 'resource', 'launch',
         'config', 'lewm_core', 'lewm_ros')
EXECUTABLES = {'lewm', 'planner_node', 'surprise_node', 'train_from_bags', 'sim_robot', 'recorder'}
# Without a network. Older pips would else run setup.py, which puts executables where colcon does.
BUILD = ('--no-deps', '--no-build-isolation', '--use-pep517')
# Where the package lies, which configuration it finds, and that a job composes from it.
ASK = ('import lewm_core.paths as p, lewm_core.compose as c; '
       "print(p.__file__); print(p.config_dir()); c.compose('demo', ['planner=reference'])")


def clean_environment(**more):
    """The environment without what would lead back to this checkout."""
    hidden = ('PYTHONPATH', 'AMENT_PREFIX_PATH', '_ROS_WHEELS_BOOTSTRAP_COMPLETE')
    return {**{k: v for k, v in os.environ.items() if k not in hidden},
            'PIP_DISABLE_PIP_VERSION_CHECK': '1', **more}


def call(*words, cwd, **more):
    """What the command prints; fails with all of it."""
    made = subprocess.run([str(w) for w in words], cwd=cwd, env=clean_environment(**more),
                          text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert made.returncode == 0, f'{shlex.join(map(str, words))}\n{made.stdout}'
    return made.stdout


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    """A wheel built from a copy of the sources."""
    source = copy_to(tmp_path_factory.mktemp('source') / 'lewm_ros')
    folder = tmp_path_factory.mktemp('wheel')
    pip('wheel', '-q', *BUILD, '-w', folder, source, cwd=source)
    (made,) = folder.glob('*.whl')
    return made


def pip(*words, cwd):
    """What pip prints; skips where it, or what builds wheels without a network, is missing."""
    if importlib.util.find_spec('pip') is None:
        pytest.skip('pip is not installed')
    if setuptools_version() < (70, 1) and importlib.util.find_spec('wheel') is None:
        pytest.skip('neither setuptools >= 70.1 nor wheel is installed')
    return call(sys.executable, '-m', 'pip', *words, cwd=cwd)


def setuptools_version():
    return tuple(int(n) for n in metadata.version('setuptools').split('.')[:2])


def copy_to(folder):
    """`folder`, now a copy of the sources without anything that was built from them."""
    folder.mkdir(parents=True)
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, folder / part,
                            ignore=shutil.ignore_patterns('__pycache__'))
        else:
            shutil.copy(ROOT / part, folder / part)
    return folder


@pytest.fixture
def environment(tmp_path):
    """A virtual environment that sees this one's libraries, but not this package."""
    call(sys.executable, '-m', 'venv', '--without-pip', tmp_path / 'venv', cwd=tmp_path)
    (packages,) = (tmp_path / 'venv').glob('lib/python3*/site-packages')
    folders = [*site.getsitepackages(), site.getusersitepackages()]
    (packages / 'beneath.pth').write_text('\n'.join(f for f in folders if Path(f).is_dir()))
    return tmp_path / 'venv'


def ask(python, cwd, **more):
    """(package folder, configuration folder) as the installed package sees them."""
    lines = call(python, '-c', ASK, cwd=cwd, **more).splitlines()
    return Path(lines[-2]).resolve().parent, Path(lines[-1]).resolve()


def tree(folder):
    return {str(p.relative_to(folder)) for p in Path(folder).rglob('*')
            if p.is_file() and '__pycache__' not in p.parts}


def test_a_wheel_installs_with_its_configuration(wheel, environment, tmp_path):
    pip('--python', environment / 'bin' / 'python', 'install', '-q', '--no-deps', wheel,
        cwd=tmp_path)
    package, config = ask(environment / 'bin' / 'python', tmp_path)
    assert package.is_relative_to(environment)
    assert config == environment / 'share' / 'lewm_ros' / 'config'
    assert tree(config) == tree(ROOT / 'config')
    assert tree(config.parent / 'launch') == tree(ROOT / 'launch')
    assert EXECUTABLES <= {p.name for p in (environment / 'bin').iterdir()}
    assert call(environment / 'bin' / 'lewm', '--version', cwd=tmp_path).startswith('lewm ')


def test_a_wheel_in_a_plain_folder_finds_its_configuration(wheel, tmp_path):
    pip('install', '-q', '--no-deps', '--target', tmp_path / 'target', wheel, cwd=tmp_path)
    package, config = ask(sys.executable, tmp_path, PYTHONPATH=str(tmp_path / 'target'))
    assert package == tmp_path / 'target' / 'lewm_core'
    assert config == tmp_path / 'target' / 'share' / 'lewm_ros' / 'config'


def test_an_editable_install_uses_the_checkout(environment, tmp_path):
    source = copy_to(tmp_path / 'checkout')
    pip('--python', environment / 'bin' / 'python', 'install', '-q', *BUILD, '-e', source,
        cwd=tmp_path)
    package, config = ask(environment / 'bin' / 'python', tmp_path)
    assert package == source / 'lewm_core'
    assert config == source / 'config'
    assert call(environment / 'bin' / 'lewm', '--version', cwd=tmp_path).startswith('lewm ')


def test_the_wheel_asks_for_no_ros_package_and_no_exact_version(wheel):
    with zipfile.ZipFile(wheel) as f:
        (name,) = (n for n in f.namelist() if n.endswith('.dist-info/METADATA'))
        text = f.read(name).decode()
    required = re.findall(r'^Requires-Dist: (.*)$', text, re.MULTILINE)
    assert len(required) > 5
    assert not [line for line in required if '==' in line.partition(';')[0]]
    assert not [line for line in required if re.match(r'(ros-|rclpy|.*[-_]msgs)', line)]


def colcon():
    """The colcon beside this interpreter or on the path; skips with the reason without one."""
    found = shutil.which('colcon', path=f'{Path(sys.executable).parent}{os.pathsep}'
                                        f'{os.environ.get("PATH", "")}')
    if found is None:
        pytest.skip('colcon is not installed')
    if setuptools_version() >= (80,):
        pytest.skip('colcon needs setuptools < 80')
    return found


@pytest.mark.parametrize('links', [False, True], ids=['copied', 'symlink-install'])
def test_colcon_builds_what_ros2_run_and_launch_look_for(links, tmp_path):
    program = colcon()
    source = copy_to(tmp_path / 'src' / 'lewm_ros')
    call(program, 'build', '--packages-select', 'lewm_ros',
         *(['--symlink-install'] if links else []), cwd=tmp_path,
         PATH=f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}')
    prefix = tmp_path / 'install' / 'lewm_ros'
    assert (prefix / 'share/ament_index/resource_index/packages/lewm_ros').is_file()
    assert tree(prefix / 'share/lewm_ros/launch') == tree(ROOT / 'launch')
    assert tree(prefix / 'share/lewm_ros/config') == tree(ROOT / 'config')
    assert EXECUTABLES <= {p.name for p in (prefix / 'lib/lewm_ros').iterdir()
                           if os.access(p, os.X_OK)}
    asked = f'{shlex.quote(sys.executable)} -c {shlex.quote(ASK)}'
    setup = shlex.quote(str(tmp_path / 'install' / 'setup.bash'))
    lines = call('bash', '-c', f'. {setup} && cd / && {asked}', cwd=tmp_path).splitlines()
    package, config = Path(lines[-2]).resolve().parent, Path(lines[-1])
    assert package.is_relative_to(source if links else prefix)
    assert config.is_relative_to(source if links else prefix)
    program = shlex.quote(str(prefix / 'lib/lewm_ros/lewm'))
    assert call('bash', '-c', f'. {setup} && {program} --version', cwd=tmp_path
                ).startswith('lewm ')


def manifest():
    return ElementTree.parse(ROOT / 'package.xml').getroot()


def test_package_xml_is_format_3_and_ament_python():
    root = manifest()
    assert root.get('format') == '3'
    assert root.findtext('name') == 'lewm_ros'
    assert root.findtext('export/build_type') == 'ament_python'
    assert f"version='{root.findtext('version')}'" in (ROOT / 'setup.py').read_text()
    assert f"'{root.findtext('version')}'" in (ROOT / 'lewm_core/__init__.py').read_text()


def test_package_xml_names_every_ros_package_that_is_imported():
    named = {d.text for d in manifest().findall('exec_depend')}
    for path in (ROOT / 'lewm_ros').rglob('*.py'):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [node.module or ''] if isinstance(node, ast.ImportFrom) else \
                [a.name for a in node.names] if isinstance(node, ast.Import) else []
            for module in modules:
                top = module.partition('.')[0]
                if top.endswith(('_msgs', '_srvs', '_interfaces')) or top in ('rclpy', 'launch'):
                    assert top in named, f'{path.name} imports {top}: add it to package.xml'


# What is imported: how pip calls it, and how rosdep does ('': it has no key, as package.xml says).
LIBRARIES = {
    'cv2': ('opencv-python-headless', 'python3-opencv'),
    'gymnasium': ('gymnasium', 'python3-gymnasium-pip'),
    'h5py': ('h5py', 'python3-h5py'), 'hydra': ('hydra-core', 'python3-hydra-core-pip'),
    'matplotlib': ('matplotlib', 'python3-matplotlib'), 'mcap': ('mcap', 'mcap-ros2-support'),
    'numpy': ('numpy', 'python3-numpy'), 'omegaconf': ('hydra-core', 'python3-hydra-core-pip'),
    'rosbags': ('rosbags', 'python3-rosbags-pip'), 'safetensors': ('safetensors', ''),
    'scipy': ('scipy', 'python3-scipy'), 'torch': ('torch', 'python3-torch'),
    'tqdm': ('tqdm', 'python3-tqdm'), 'yaml': ('PyYAML', 'python3-yaml'),
    'zstandard': ('zstandard', 'mcap-ros2-support')}
# Asked for where they are used, in a sentence; or of another interpreter's.
OPTIONAL = {'gym_pusht', 'hdf5plugin', 'stable_worldmodel', 'tensorboard', 'transformers', 'wandb'}


def test_every_library_that_is_imported_is_asked_for():
    """A robot's conversions ended in a ModuleNotFoundError: package.xml named no mcap."""
    keys = {d.text for d in manifest().findall('exec_depend')}
    asked = (ROOT / 'setup.py').read_text()
    known = {*sys.stdlib_module_names, 'lewm_core', 'lewm_ros', 'rclpy', 'launch', 'launch_ros',
             'ament_index_python', *OPTIONAL}
    for path in [*(ROOT / 'lewm_core').rglob('*.py'), *(ROOT / 'lewm_ros').rglob('*.py')]:
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [node.module or ''] if isinstance(node, ast.ImportFrom) else \
                [a.name for a in node.names] if isinstance(node, ast.Import) else []
            for top in {m.partition('.')[0] for m in modules} - known:
                if top.endswith(('_msgs', '_srvs', '_interfaces')):
                    continue
                pip_name, key = LIBRARIES[top]
                assert f"'{pip_name}>=" in asked, f'{path.name} imports {top}: add it to setup.py'
                assert not key or key in keys, f'{path.name} imports {top}: add it to package.xml'


@pytest.mark.parametrize('name', ['requirements.txt', 'requirements-test.txt',
                                  'requirements-pusht.txt'])
def test_every_requirement_is_pinned(name):
    lines = [line.partition('#')[0].strip() for line in (ROOT / name).read_text().splitlines()]
    for line in filter(None, lines):
        assert re.fullmatch(r'-r requirements\.txt|[\w.-]+(\[\w+\])?==[\w.]+(; .+)?', line), line


def test_no_file_names_a_package_registry():
    for name in ('Makefile', 'requirements.txt', 'requirements-test.txt', 'requirements-pusht.txt',
                 'setup.py', '.ci/run', '.github/workflows/ci.yml'):
        assert not re.search(r'index-url|find-links|pypi\.org|pytorch\.org',
                             (ROOT / name).read_text()), name


def test_make_without_a_python_that_serves_says_what_to_do(tmp_path):
    if shutil.which('make') is None:
        pytest.skip('make is not installed')
    made = subprocess.run(['make', 'demo', f'VENV={tmp_path / "venv"}', 'PYTHON=false'], cwd=ROOT,
                          text=True, capture_output=True, env=clean_environment(MAKEFLAGS=''))
    assert made.returncode != 0
    assert 'Python 3.10, 3.11 or 3.12 is needed' in made.stderr
    assert not (tmp_path / 'venv').exists()
