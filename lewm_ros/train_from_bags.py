"""Recorded bags to a trained model: a job that is a node, so that others can watch and stop it."""

from __future__ import annotations

import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.qos import DurabilityPolicy, QoSProfile
from std_msgs.msg import Float32, Float64
from std_srvs.srv import Trigger
from tqdm import tqdm

from lewm_core.compose import compose
from lewm_core.jobs import BagsJob
from lewm_core.options import groups, options, shown
from lewm_core.types import UserError
from lewm_ros.node import ERROR, OK, WARN, BasicNode, diagnostic_array, flush, own_args, run_node
from lewm_ros.params import declare_one, warn_unknown

# What ends a launch reaches its nodes twice: from the terminal or the service manager, and once
# more when the launch itself is gone (lewm_ros.signals). Nobody is impatient so soon.
_SAME_S = 2.0
_LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
_USAGE = """\
usage: train_from_bags bags=PATH[,PATH] robot=SPEC [output=DIR] [KEY=VALUE ...] [--ros-args ...]

Converts recorded bags to OUTPUT/data.h5 and trains OUTPUT/model.safetensors on it. The same
command again goes on where a stopped or killed one was; a finished output is refused unless
overwrite=true. The model follows the camera unless one is chosen: 64 pixels wide tiny, else lewm.

topics    ~/progress (Float32, 0 to 1), ~/loss (Float64), /diagnostics
services  ~/stop (std_srvs/Trigger): checkpoint and end
ROS parameters bags, robot and output stand for the keys of the same name, overrides (a list of
texts) for the rest; the command line counts more.
exit code 0 finished or ended by ~/stop, 1 error, 130 SIGINT, 143 SIGTERM
"""


class Reporter:
    """Progress for people: a bar on a terminal, elsewhere a log line every few seconds."""

    def __init__(self, log: Callable[[str], Any], every_s: float = 5.0) -> None:
        self._log, self._every_s = log, every_s
        self._bar: tqdm | None = None
        self._terminal = sys.stderr.isatty()
        self._phase, self._said = '', 0.0

    def show(self, phase: str, share: float, words: str) -> None:
        """Nothing; shows that `share` of `phase` is done."""
        if self._terminal:
            self._draw(phase, share, words)
        elif phase != self._phase or share >= 1 or time.monotonic() > self._said + self._every_s:
            self._said = time.monotonic()
            self._log(f'{phase}: {100 * share:.0f} %{", " if words else ""}{words}')
        self._phase = phase

    def _draw(self, phase: str, share: float, words: str) -> None:
        if self._bar is None or phase != self._phase:
            self.close()
            self._bar = tqdm(total=100, desc=phase, bar_format='{desc}: {percentage:3.0f}% '
                             '|{bar}| {elapsed}<{remaining} {postfix}')
        self._bar.set_postfix_str(words, refresh=False)
        self._bar.update(100 * share - self._bar.n)

    def close(self) -> None:
        """Nothing; leaves the bar as it is."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class TrainFromBags(BasicNode):
    """Runs the job in a worker thread while the executor answers; ends with it."""

    def __init__(self, words: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__('train_from_bags', **kwargs)
        self.job = self._job(words)
        self._progress = self.create_publisher(Float32, '~/progress', _LATCHED)
        self._loss = self.create_publisher(Float64, '~/loss', _LATCHED)
        self._diagnostics = self.create_publisher(DiagnosticArray, '/diagnostics', 10)
        self.create_service(Trigger, '~/stop', self._on_stop)
        self._status: Any = None
        self._told: Any = None
        self._stopping, self._exit_code, self._patient_s = threading.Event(), 0, 0.0
        self._level, self._sentence = OK, 'starting'
        self._reporter = Reporter(self.get_logger().info)
        self.steady_timer(0.2, self._tell)
        self.steady_timer(1.0, self._diagnose)
        self._worker = threading.Thread(target=self._work, name='training', daemon=True)

    def _job(self, words: Sequence[str]) -> BagsJob:
        """The job that the parameters and the command line describe together."""
        given = []
        for name in ('bags', 'robot', 'output'):
            value = declare_one(self, name, '', f'stands for {name}=… of the command line')
            given += [f'{name}={value}'] if value else []
        given += [w for w in declare_one(self, 'overrides', [''], 'the other KEY=VALUE') if w]
        warn_unknown(self)
        said = {word.partition('=')[0] for word in words}
        kept = [word for word in given if word.partition('=')[0] not in said]
        return compose('train_from_bags', [*kept, *words])

    def start(self) -> None:
        """Nothing; the job begins."""
        self._worker.start()

    def on_signal(self, number: int) -> None:
        """Nothing; the first one checkpoints and ends, a later one doesn't wait for that."""
        now = time.monotonic()
        if self._stopping.is_set():
            if now >= self._patient_s:
                self.finish(128 + number)
                self._worker = None
            return
        self._patient_s = now + _SAME_S
        self._exit_code = 128 + number
        self.get_logger().info(f'{signal.Signals(number).name}: stopping at the next checkpoint')
        self._stopping.set()

    def stop(self) -> None:
        """Nothing; the job has come to its checkpoint when this returns."""
        self._stopping.set()
        if self._worker is not None and self._worker.ident is not None:
            self._worker.join()
        self._tell()
        self._diagnose()
        self._reporter.close()
        for publisher in (self._progress, self._loss, self._diagnostics):
            flush(publisher)

    def _on_stop(self, _: Any, response: Trigger.Response) -> Trigger.Response:
        response.success = not self._stopping.is_set()
        response.message = ('checkpoints and ends' if response.success else 'is ending already')
        self._stopping.set()
        return response

    def _work(self) -> None:
        """Nothing; the whole job, in the worker's thread. Sets the exit code at its end."""
        from lewm_ros.bags_run import run  # PyTorch: seconds, in which the node answers already
        try:
            path = run(self.job, self._on_status, self._stopping.is_set)
        except Exception as error:
            self._level, self._sentence = ERROR, ' '.join(str(error).split())
            self.report(error, 'failed')
            self.finish(1)
            return
        if path is None:
            self._level, self._sentence = WARN, 'stopped; the same command goes on from here'
        else:
            self._sentence = f'{path} is trained'
        self.get_logger().info(self._sentence)
        # A signal that came after the last step changes nothing: the job is done.
        self.finish(self._exit_code if path is None else 0)

    def _on_status(self, status: Any) -> None:
        self._status = status

    def _tell(self) -> None:
        """Nothing; publishes and shows the newest status, once."""
        status = self._status
        if status is None or status is self._told:
            return
        self._told = status
        if self._level == OK and self.exit_code is None:
            self._sentence = f'{status.phase}, {100 * status.share:.0f} %'
        training = status.phase == 'training'
        # The conversion is a small part of the time: a step of it is a thousandth of the way.
        share = 0.05 + 0.95 * status.share if training else 0.05 * status.share
        self._progress.publish(Float32(data=float(share)))
        words = ''
        if training:
            figures = status.figures
            self._loss.publish(Float64(data=float(figures['loss'])))
            words = (f'step {figures["step"]} of {figures["steps"]}, loss {figures["loss"]:.4f}, '
                     f'{figures["seconds_left"]:.0f} s left')
            if figures.get('collapsed'):
                self._level, self._sentence = WARN, figures['collapsed']
        self._reporter.show(status.phase, status.share, words)

    def _diagnose(self) -> None:
        figures = {} if self._status is None else {
            'phase': self._status.phase, **self._status.figures}
        self._diagnostics.publish(diagnostic_array(
            self.get_clock().now().to_msg(), self.get_fully_qualified_name().lstrip('/'),
            self._level, self._sentence, figures))


def usage() -> str:
    """The text of --help: how it is called, its topics, and every key with its default."""
    lines = [_USAGE, 'groups (GROUP=NAME sets many keys at once):']
    lines += [f'  {name}={"|".join(names)}' for name, names in groups('train_from_bags').items()]
    lines += ['', 'keys:']
    for option in options('train_from_bags'):
        value = 'required' if option.required else shown(option.default)
        lines.append(f'  {option.key + "=" + value:<42} {option.help}')
    return '\n'.join(lines)


def main(args: Sequence[str] | None = None) -> int:
    """The exit code: 0 done, 1 error, 128 + signal when one ended it."""
    words = own_args(args)
    if {'-h', '--help'} & set(words):
        try:
            print(usage(), flush=True)
        except UserError as error:
            print(f'train_from_bags: {error}', file=sys.stderr)
            return 1
        except BrokenPipeError:  # `train_from_bags --help | head`
            sys.stderr.close()
        return 0
    logging.basicConfig(level=logging.INFO, format='%(message)s')

    def train_from_bags() -> TrainFromBags:
        return TrainFromBags(words)
    return run_node(train_from_bags, args)


if __name__ == '__main__':
    sys.exit(main())
