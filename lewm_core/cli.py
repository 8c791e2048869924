"""`lewm`: the one command-line door. Jobs take Hydra overrides: `lewm train dataset=data.h5`."""

from __future__ import annotations

import argparse
import glob
import importlib
import io
import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from lewm_core import __version__
from lewm_core.jobs import JOBS
from lewm_core.terminal import EXIT_ERROR, EXIT_INTERRUPTED, EXIT_USAGE, failures
from lewm_core.types import UserError

_BENCH = 'bench_'
# What runs each job, MODULE:FUNCTION, given the job and its overrides; what a job is for is said
# by the first line of its dataclass. `lewm bench NAME` is the job bench_NAME.
_RUNNERS: dict[str, str] = {
    'demo': 'lewm_ros.demo:run',
    'convert': 'lewm_ros.convert_run:run',
    'merge': 'lewm_ros.convert_run:run_merge',
    'repack': 'lewm_core.repack:run_repack',
    'train': 'lewm_core.train_run:run',
    'tune_lambda': 'lewm_core.tune_lambda:run_tune_lambda',
    'evaluate': 'lewm_core.evaluation.run:main',
    'import': 'lewm_core.interchange:run_import',
    'export': 'lewm_core.interchange:run_export',
    'bench_convert': 'lewm_ros.bench_convert:run',
    'bench_loader': 'lewm_core.bench.loader:run_loader',
    'bench_train': 'lewm_core.bench.train:run_train',
    'bench_objectives': 'lewm_core.bench.objectives:run_objectives',
    'bench_planner': 'lewm_core.bench.planner:run_planner',
    'bench_proposal': 'lewm_core.bench.proposal:run',
    'bench_node': 'lewm_ros.bench_node:main',
    'bench_angle': 'lewm_core.bench.angle:run',
}
# A file that is called or begins so is a bag, or nearly one, and `inspect_bag` says what it is.
_BAGS = ('.mcap', '.db3', '.bag', '.active', '.zstd')
_BAG_STARTS = (b'\x89MCAP', b'SQLite', b'#ROSBAG', b'\x28\xb5\x2f\xfd')


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0, 1 for an error, 2 for a wrong command line, 130 when interrupted."""
    logging.basicConfig(level=logging.INFO, format='%(message)s')
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors='surrogateescape')  # a path may hold any bytes
    options = _parser().parse_args(arguments)
    if options.command is None:
        _parser().print_help()
        return EXIT_USAGE
    try:
        return options.run(options)
    except UserError as error:
        from lewm_core.compose import OverrideError
        print(f'lewm {options.command}: {error}', file=sys.stderr)
        return EXIT_USAGE if isinstance(error, OverrideError) else EXIT_ERROR
    except KeyboardInterrupt:
        print(f'lewm {options.command}: interrupted', file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # `lewm inspect … | head`
        sys.stderr.close()
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='lewm', description='A robot learns how its world moves from its own recordings, '
        'plans in what it learned, and says when the world surprises it.')
    parser.add_argument('--version', action='version', version=f'lewm {__version__}')
    commands = parser.add_subparsers(dest='command', metavar='COMMAND')
    for job in _RUNNERS:
        if not job.startswith(_BENCH):
            _add_job(commands, job.replace('_', '-'), job)
    bench = commands.add_parser('bench', help='Speed and memory, ours beside a reference',
                                description='Speed and memory, ours beside a reference, measured '
                                'alternately in one run.')
    benches = bench.add_subparsers(dest='bench', metavar='NAME', required=True)
    for job in _RUNNERS:
        if job.startswith(_BENCH):
            _add_job(benches, job.removeprefix(_BENCH), job)
    inspect = commands.add_parser('inspect', help='What a bag, a dataset or a checkpoint holds',
                                  description='What a bag, a dataset or a checkpoint holds.')
    inspect.add_argument('path', metavar='PATH')
    inspect.add_argument('--spec', action='store_true', help='of a bag: print a robot spec that '
                         'fits it, as YAML; what is odd in the bag goes to stderr')
    inspect.add_argument('--latency', action='store_true', help='of a bag: estimate how long a '
                         'command takes to move the picture; with --spec, fill it in')
    inspect.add_argument('--typestore', default='', metavar='NAME', help='of a bag: the ROS '
                         'distribution, or a folder of .msg files, for types it does not define')
    inspect.set_defaults(run=_inspect)
    return parser


def _add_job(commands: Any, name: str, job: str) -> None:
    text = JOBS[job].__doc__.partition('\n')[0]
    command = commands.add_parser(name, help=text.rstrip('.'), description=text, add_help=False)
    command.add_argument('-h', '--help', action='store_true', help='this page, every key')
    command.add_argument('--show', action='store_true',
                         help='print the composed configuration as YAML and do nothing')
    command.add_argument('overrides', nargs='*', metavar='KEY=VALUE')
    command.set_defaults(run=_job, job=job, parser=command)


def _job(options: argparse.Namespace) -> int:
    if options.help:
        options.parser.print_help()
        print(_keys(options.job))
        return 0
    from lewm_core.compose import compose
    job = compose(options.job, options.overrides)
    if options.show:
        tree = _plain(asdict(job))
        own_first = dict(sorted(tree.items(), key=lambda pair: isinstance(pair[1], dict)))
        print(yaml.safe_dump(own_first, sort_keys=False), end='')
        return 0
    return _runner(options.job)(job, options.overrides)


def _runner(job: str) -> Any:
    """The function that runs `job`."""
    module, _, function = _RUNNERS[job].partition(':')
    package, _, rest = module.partition('.')
    found = _ros(rest) if package == 'lewm_ros' else importlib.import_module(module)
    return getattr(found, function)


def _keys(job: str) -> str:
    """Every key of `job` with its default and what it means, for --help."""
    from lewm_core.options import groups, options, shown
    lines = ['']
    if groups(job):
        lines += ['groups (GROUP=NAME sets many keys at once):']
        lines += [f'  {name}={"|".join(names)}' for name, names in groups(job).items()] + ['']
    lines.append('keys (KEY=VALUE, defaults as in the dataclasses; --show prints what is used):')
    for option in options(job):
        value = 'required' if option.required else shown(option.default)
        lines.append(f'  {option.key + "=" + value:<42} {option.help}')
    return '\n'.join(lines)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value


def _inspect(options: argparse.Namespace) -> int:
    """Prints what is at the path: told apart by content, a run folder by its checkpoint."""
    path = Path(options.path)
    if not path.exists() and glob.has_magic(options.path):
        return _inspect_bag(options.path, options)  # as given: a Path forgets a last slash
    if not path.exists() and not path.is_symlink():
        raise UserError(f'{str(path)!r} does not exist; give the path of a bag, a dataset or a '
                        'checkpoint')
    if (path / 'model.safetensors').is_file():
        path /= 'model.safetensors'
    elif (path / 'trainer.pt').is_file() or (path / 'conversion.json').is_file():
        raise UserError(f'{str(path)!r} is a run that has no checkpoint yet; let the same command '
                        'go on, or give a file in it')
    start = b''
    if path.is_file():
        with path.open('rb') as f:
            start = f.read(16)
    if start.startswith(b'\x89HDF\r\n\x1a\n'):
        from lewm_core.inspect import inspect_dataset
        print(inspect_dataset(path))
    elif start[8:9] == b'{':  # safetensors: eight bytes of length, then a JSON header
        from lewm_core.inspect import inspect_checkpoint
        print(inspect_checkpoint(path))
    elif path.is_dir() or path.suffix in _BAGS or start.startswith(_BAG_STARTS):
        return _inspect_bag(path, options)
    else:
        raise UserError(f'{str(path)!r} is neither a bag (mcap, sqlite3, ROS 1), nor a dataset '
                        '(HDF5), nor a checkpoint (safetensors); give one of these')
    return 0


def _inspect_bag(path: str | Path, options: argparse.Namespace) -> int:
    """The exit code: 1 where one of several bags can't be read."""
    module, details = _ros('inspect_bag'), (options.latency, options.typestore)
    if not options.spec:
        failed: list[tuple[Path, str]] = []
        for text in module.inspect_bags(path, failed, *details):
            print(text, end='\n\n')
        print(failures(failed, 'bags cannot be read'), file=sys.stderr, end='')
        return EXIT_ERROR if failed else 0
    text, warnings = module.suggest_spec(path, *details)
    for warning in warnings:
        print(f'warning: {warning}', file=sys.stderr)
    print(text, end='')
    return 0


def _ros(module: str) -> Any:
    """A module of lewm_ros: the only way from here to there, by name and only when asked for."""
    try:
        return importlib.import_module(f'lewm_ros.{module}')
    except ModuleNotFoundError as error:
        if (error.name or '').partition('.')[0] in ('lewm_core', 'lewm_ros'):
            raise
        raise UserError(f'Python module {error.name!r} is not installed, and this command needs '
                        'it; source your ROS 2 workspace, or use the environment that `make` '
                        'builds') from None


if __name__ == '__main__':
    sys.exit(main())
