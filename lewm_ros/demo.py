"""`lewm demo`: drive, record, train, plan, watch and report, every step over DDS topics."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lewm_core.jobs import DemoJob
from lewm_core.options import as_overrides
from lewm_core.paths import robot_path
from lewm_core.robot import RobotSpec
from lewm_core.types import UserError
from lewm_ros.demo_report import Material, write_report
from lewm_ros.demo_watch import Watcher
from lewm_ros.fleet import Fleet, free_domain, ros_arguments

# The worlds that the demo's robots live in; another spec's name is taken as a Gymnasium id.
WORLDS = {'two_room': 'two_room', 'push': 'push', 'pusht': 'gym_pusht/PushT-v0'}


# Messages of a node that has ended are on their way for no longer than this.
SILENCE_S = 20.0
# And after so much silence what can't be counted beforehand is taken to be all there.
CALM_S = 3.0


@dataclass
class Run:
    """One demo under way: what was asked, the processes, what was heard and measured."""

    job: DemoJob
    spec: RobotSpec
    robot: Path
    world: str
    output: Path
    fleet: Fleet
    watcher: Watcher
    settings: list[str]
    checkpoint: Path
    figures: dict[str, Any] = field(default_factory=dict)
    material: Material = field(default_factory=Material)
    started: float = field(default_factory=time.monotonic)

    def sim(self, name: str, **parameters: Any) -> None:
        """Starts the simulated robot, which drives once it is known to be heard here.

        A short drive would otherwise be over before discovery has found its topics.
        """
        base = {'robot': self.robot, 'world': self.world, 'seed': self.job.seed,
                'wait_for_start': True}
        self.fleet.start(name, 'lewm_ros.sim_robot', ros_arguments({**base, **parameters}))
        self.watcher.wait_for('the simulated robot', self.watcher.hears_robot, 60,
                              self.fleet.check)
        self.watcher.call('sim_robot/start')

    @contextmanager
    def step(self, number: int, what: str) -> Iterator[None]:
        """A step of the demo, announced, timed and written down."""
        say(f'[{number}/6] {what}')
        begun = time.monotonic()
        yield
        seconds = time.monotonic() - begun
        self.material.steps.append((what, seconds))
        say(f'      done in {seconds:.1f} s')

    def follow(self, what: str, total: int, now: Callable[[], int], node: str,
               timeout_s: float = 900.0, enough: Callable[[], int] | None = None) -> None:
        """Shows progress (`now()` of `total`) until `node` has ended and all of it was heard.

        `enough()`: how many may be all there are, if no more come for a while. Raises UserError
        when the node ends badly, when `timeout_s` is over, and when nothing new has been heard for
        a while after the node's end.
        """
        count, said, news = -1, 0.0, time.monotonic()
        deadline = news + timeout_s
        with tqdm(total=total, desc=f'      {what}', disable=not sys.stderr.isatty(),
                  leave=False, unit_scale=True) as bar:
            while not (self.fleet.ended(node) and (count >= total or (
                    enough is not None and count >= enough()
                    and time.monotonic() > news + CALM_S))):
                self.fleet.check()
                if now() != count:
                    count, news = now(), time.monotonic()
                    bar.update(count - bar.n)
                if bar.disable and time.monotonic() > said + 10:
                    said = time.monotonic()
                    say(f'      {what}: {count} of {total}')
                silent = self.fleet.ended(node) and time.monotonic() > news + SILENCE_S
                if silent or time.monotonic() > deadline:
                    raise UserError(f'{what} stopped at {count} of {total}; look into '
                                    f'{self.fleet.log_dir / (node + ".log")}')
                time.sleep(0.05)
        self.fleet.check()


def say(text: str) -> None:
    """Prints a line of the demo, at once."""
    print(text, flush=True)


def _terminated(*_: object) -> None:
    raise SystemExit(143)


def prepare_output(output: Path, overwrite: bool) -> None:
    """Makes `output` an empty folder; a finished demo there is replaced only on request.

    Raises UserError, `overwrite` or not, when it holds anything but a demo: that is not ours.
    """
    if output.is_dir() and any(output.iterdir()) and not (output / 'logs').is_dir():
        raise UserError(f'{output} is not empty and holds no demo; give another folder with '
                        'output=PATH')
    if (output / 'report.json').exists() and not overwrite:
        raise UserError(f'{output} holds a finished demo; give another folder with output=PATH '
                        'or replace it with overwrite=true')
    if (output / 'logs').is_dir() and not overwrite:
        say(f'found an unfinished demo in {output}; starting it afresh')
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)


def run(job: DemoJob, overrides: list[str]) -> int:
    """The demo's exit code: 0 when all steps ran, whatever the figures are."""
    from lewm_ros import demo_drive, demo_learn, demo_verdict
    robot = robot_path(job.robot)
    spec = RobotSpec.load(robot)
    output = Path(job.output).resolve()
    prepare_output(output, job.overwrite)
    signal.signal(signal.SIGTERM, _terminated)  # the nodes end with this process, however it ends
    domain = free_domain()
    os.environ.update(ROS_AUTOMATIC_DISCOVERY_RANGE='LOCALHOST',
                      ROS_LOG_DIR=str(output / 'logs'))
    with Fleet(output / 'logs', domain) as fleet:
        watcher = Watcher(domain)
        try:
            demo = Run(job, spec, robot, WORLDS.get(spec.name, spec.name), output, fleet, watcher,
                       as_overrides(job), output / 'model' / 'model.safetensors')
            demo.material.title = f'{spec.name}: a robot learns from its own recording'
            with demo.step(1, f'{spec.name} drives itself and is recorded ({job.frames} frames)'):
                demo_learn.record(demo)
            with demo.step(2, 'the bag becomes a dataset, the dataset a world model'):
                demo_learn.learn(demo)
            with demo.step(3, 'what the model knows, on held-out episodes'):
                demo_learn.examine(demo)
            with demo.step(4, f'the planner drives to {job.goals} goals'):
                demo_drive.plan(demo)
            with demo.step(5, 'the surprise node watches'):
                demo_drive.watch(demo)
            with demo.step(6, 'the report'):
                demo.figures['wall_s'] = time.monotonic() - demo.started
                demo.material.verdicts = demo_verdict.verdicts(demo.figures)
                paths = write_report(output, demo.figures, demo.material)
        finally:
            watcher.close()
    for good, sentence in demo.material.verdicts:
        say(('  ok  ' if good else '  NO  ') + sentence)
    say(f'{paths[1]} and {paths[0].name}, {time.monotonic() - demo.started:.0f} s in all')
    return 0
