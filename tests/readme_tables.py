"""The README's tables, generated from the code: `python tests/readme_tables.py --write`."""

from __future__ import annotations

import ast
import dataclasses
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from lewm_core import robot  # noqa: E402
from lewm_core.compose import compose, groups, options  # noqa: E402
from lewm_core.config import PlannerConfig, SurpriseConfig  # noqa: E402
from lewm_core.jobs import JOBS  # noqa: E402
from lewm_core.options import shown  # noqa: E402
from lewm_ros.node_params import PlannerParams, SurpriseParams  # noqa: E402
from lewm_ros.recorder import RecorderConfig  # noqa: E402
from lewm_ros.sim_config import SimConfig  # noqa: E402

README = ROOT / 'README.md'
COMMAND = 'python tests/readme_tables.py --write'
_BLOCK = re.compile(r'(<!-- table:(\w+) -->\n).*?(<!-- /table -->)', re.DOTALL)

# A parameter that no dataclass holds: name, default, range, meaning.
_AUTOSTART = ('autostart', 'true', '', 'configure and activate without being asked')
_TOPICS = ('topics', '[]', '', 'topics to record beside or instead of those of the spec')
_PARAMETERS = {
    'planner_node': ([(PlannerParams, ''), (PlannerConfig, 'planner.')], [_AUTOSTART]),
    'surprise_node': ([(SurpriseParams, ''), (SurpriseConfig, '')], [_AUTOSTART]),
    'sim_robot': ([(SimConfig, '')], []),
    'recorder': ([(RecorderConfig, '')], [_TOPICS]),
    'train_from_bags': ([], [
        *((name, "''", '', f'as the key `{name}=`') for name in ('bags', 'robot', 'output')),
        ('overrides', '[]', '', 'any other keys, a list of texts such as `train.steps=2000`')]),
}
_SPEC = {
    'name': 'what the robot is called: lower-case letters, digits and _',
    'rate_hz': 'ticks a second; a camera that is faster is thinned out to it',
    'max_age_s': 'a longer gap between frames ends an episode; an older camera is stale. At least '
                 'one tick',
    'episode_topic': "std_msgs/msg/Header, whose stamp is that of an episode's first frame",
    'cameras[].name': 'lower-case letters, digits and _',
    'cameras[].topic': 'a relative name follows the namespace; both kinds can be remapped',
    'cameras[].type': 'sensor_msgs/msg/Image or sensor_msgs/msg/CompressedImage',
    'cameras[].width': 'of what the model sees, pixels; equals the height and '
                       '`model.image_size`',
    'cameras[].height': 'the same',
    'cameras[].crop': '[x, y, width, height] in source pixels, before resizing; null: all',
    'cameras[].source_width': 'of what the driver publishes; another size is refused. null: '
                              'filled in when a bag is converted',
    'cameras[].source_height': 'the same',
    'action.topic': 'as for the camera',
    'action.type': 'any message type, such as geometry_msgs/msg/Twist',
    'action.latency_s': "from a command's stamp to its effect on the robot, 0 to 10 s",
    'action.timeout_s': 'an older command is no longer in force',
    'action.on_timeout': 'safe: the safe action is in force then; drop: the episode is cut',
    'action.reduce': 'what makes one action of the commands of a tick: last (the one in force at '
                     'its end), mean (commands faster than the rate) or sum (increments)',
    'action.fields[].path': 'where the number is in the message: `twist.linear.x`, `data[0]`',
    'action.fields[].min': 'lower limit, in `unit`',
    'action.fields[].max': 'upper limit',
    'action.fields[].safe': 'the value in the safe action, within the limits',
    'action.fields[].unit': 'for people',
    'state[].topic': 'as for the camera',
    'state[].type': 'any message type, such as nav_msgs/msg/Odometry',
    'state[].fields[].path': 'where the number is in the message',
    'state[].fields[].name': 'the column in the dataset',
    'state[].fields[].unit': 'for people',
}


def blocks() -> dict[str, str]:
    """Every generated table by its name in the README."""
    made = {f'parameters_{node}': parameters(node) for node in _PARAMETERS}
    return {**made, 'launch': launch(), 'commands': commands(False),
            'benches': commands(True), 'groups': presets(),
            'keys': keys(), 'robot': robot_keys()}


def render(text: str) -> str:
    """`text` with each table between its markers as the code has it now."""
    made = blocks()
    names = [match[2] for match in _BLOCK.finditer(text)]
    if sorted(names) != sorted(made):
        raise SystemExit(f'README.md has the tables {sorted(names)}, but each of {sorted(made)} '
                         'is expected once; add or remove the markers <!-- table:NAME -->')
    return _BLOCK.sub(lambda m: f'{m[1]}\n{made[m[2]]}\n\n{m[3]}', text)


def parameters(node: str) -> str:
    """The parameters of one node."""
    configs, rows = _PARAMETERS[node]
    rows = [*rows]
    for config, prefix in configs:
        rows += [(prefix + f.name, _default(getattr(config(), f.name)), _range(f.metadata),
                  f.metadata['help']) for f in dataclasses.fields(config)]
    return _table(('parameter', 'default', 'range', 'meaning'), rows)


def launch() -> str:
    """The arguments of every launch file, read from the source: ROS's launch need not be there."""
    source = _calls(ROOT / 'lewm_ros' / 'launching.py')
    shared = {name: row for name, row in source if name in ('namespace', 'remap', 'log_level')}
    sim_time = dict(source)['use_sim_time']
    rows = []
    for path in sorted((ROOT / 'launch').glob('*.launch.py')):
        own = [row for _, row in _calls(path)]
        if 'SIM_TIME,' in path.read_text():
            own.append(sim_time)
        files = re.findall(r"'(\w+\.yaml)'", path.read_text())
        if files:
            own.append(('params_file', f'config/ros/{files[-1]}', 'ROS parameter file'))
        rows += [(f'`{path.name}`' if i == 0 else '', *row) for i, row in enumerate(own)]
    rows += [('each of them' if i == 0 else '', *row) for i, row in enumerate(shared.values())]
    return _table(('launch file', 'argument', 'default', 'meaning'), rows, code=1)


def _calls(path: Path) -> list[tuple[str, tuple[str, str, str]]]:
    """(name, (name, default, help)) of each `Argument(…)` in the file, in order."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and getattr(node.func, 'id', '') == 'Argument':
            words = [a.value for a in node.args if isinstance(a, ast.Constant)]
            given = [*words, '', ''][:3]
            found.append((given[0], (given[0], given[2], given[1]), node.lineno))
    return [(name, row) for name, row, _ in sorted(found, key=lambda f: f[2])]


def commands(benches: bool) -> str:
    """The keys, of those that belong to no group, of each bench or of each other job."""
    rows = []
    for job in (j for j in JOBS if j.startswith('bench_') == benches):
        own = [o for o in options(job) if '.' not in o.key]
        rows += [(f'`{_words(job)}`' if i == 0 else '',
                  o.key, 'required' if o.required else _default(o.default), _bounds(o), o.help)
                 for i, o in enumerate(own)]
    return _table(('command', 'key', 'default', 'range', 'meaning'), rows, code=1)


def _words(job: str) -> str:
    """What is typed to run the job."""
    if job == 'train_from_bags':
        return job
    bench, _, name = job.partition('bench_')
    return f'lewm bench {name}' if name else f'lewm {bench.replace("_", "-")}'


def presets() -> str:
    """What each group offers."""
    rows = [(f'{name}=', ', '.join(f'`{member}`' for member in members))
            for name, members in groups('train').items()]
    return _table(('group', 'one of'), rows)


def keys() -> str:
    """The keys of all groups, as they are with model=lewm and with model=tiny."""
    paper, tiny = (compose('train', ['dataset=x', f'model={m}']) for m in ('lewm', 'tiny'))
    rows = []
    for o in options('train'):
        if '.' in o.key:
            group, name = o.key.split('.')
            one, other = (_default(getattr(getattr(j, group), name)) for j in (paper, tiny))
            rows.append((o.key, one, '' if one == other else other, _bounds(o), o.help))
    return _table(('key', '`model=lewm`', '`model=tiny`, where it differs', 'range', 'meaning'),
                  rows)


def robot_keys() -> str:
    """The keys of the robot spec."""
    rows = [(key, _spec_default(f), _SPEC[key]) for key, f in _spec_fields() if key in _SPEC]
    missing = {key for key, _ in _spec_fields()} ^ set(_SPEC)
    if missing:
        raise SystemExit(f'tests/readme_tables.py and lewm_core/robot.py disagree on the keys '
                         f'{sorted(missing)} of the robot spec; say in _SPEC what they mean')
    return _table(('key', 'default', 'meaning'), rows)


def _spec_fields() -> Iterator[tuple[str, dataclasses.Field]]:
    for cls, prefix in ((robot.RobotSpec, ''), (robot.Camera, 'cameras[].'),
                        (robot.ActionSpec, 'action.'), (robot.ActionField, 'action.fields[].'),
                        (robot.StateSpec, 'state[].'), (robot.StateField, 'state[].fields[].')):
        for f in dataclasses.fields(cls):
            if f.name not in ('cameras', 'action', 'state', 'fields'):
                yield prefix + f.name, f


def _spec_default(f: dataclasses.Field) -> str:
    return 'required' if f.default is dataclasses.MISSING else _default(f.default)


def _default(value: Any) -> str:
    return "''" if value == '' else shown(value)


def _range(meta: Any) -> str:
    if meta['among']:
        return ', '.join(meta['among'])
    low, high = meta['low'], meta['high']
    if low is None and high is None:
        return ''
    # A billion is there to catch a slip of the keyboard; nobody needs to read it.
    return f'≥ {low:g}' if high >= 1e9 else f'{_number(low)} … {_number(high)}'


def _number(value: float) -> str:
    return f'{value:,}' if isinstance(value, int) else f'{value:g}'


def _bounds(option: Any) -> str:
    return _range({'low': option.low, 'high': option.high, 'among': option.among})


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]], code: int = 0) -> str:
    """A Markdown table; column `code`, the name, and the defaults are set as code."""
    lines = ['| ' + ' | '.join(head) + ' |', '|' + '---|' * len(head)]
    for row in rows:
        cells = [cell.replace('|', '\\|') for cell in row]
        for i, title in enumerate(head):
            plain = cells[i] and not cells[i].startswith('`') and cells[i] != 'required'
            if plain and (i == code or title == 'default' or title.startswith('`model=')):
                cells[i] = f'`{cells[i]}`'
        lines.append('| ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines)


def main(words: list[str]) -> int:
    """The exit code: 0 when README.md is up to date (with --write: now), else 1."""
    text = README.read_text()
    new = render(text)
    if new != text and '--write' in words:
        README.write_text(new)
    elif new != text:
        print(f'README.md is not what the code says; run {COMMAND}', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
