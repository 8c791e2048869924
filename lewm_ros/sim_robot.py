"""The simulated robot: a camera, odometry and a command topic around a world without ROS."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.qos import DurabilityPolicy, QoSProfile
from std_msgs.msg import Header
from std_srvs.srv import Trigger

from lewm_core.paths import load_robot
from lewm_core.types import UserError
from lewm_ros.fields import message_class
from lewm_ros.node import BasicNode, diagnostic_array, run_node
from lewm_ros.params import declare, read, warn_unknown
from lewm_ros.sim_config import SimConfig, validate
from lewm_ros.sim_drive import Drive
from lewm_ros.sim_events import COLOUR, COLOUR_END, TELEPORT, Event, schedule
from lewm_ros.sim_topics import Topics
from lewm_ros.sim_trials import Goals, key_values, run_trial
from lewm_ros.sim_world import check_world, make_world, own_policy


class Stopped(Exception):
    """Ends the drive from inside a wait: the node has been asked to end."""


class SimRobot(BasicNode):
    """Drives a world, publishing what a robot would; ends when its frames or trials are done.

    The world is stepped in a thread of its own, the executor's thread takes commands and
    services: so neither waits for the other, in lock-step as at real time. See `SimConfig` for
    the parameters.
    """

    def __init__(self, world: Any = None, **kwargs: Any) -> None:
        super().__init__('sim_robot', **kwargs)
        declare(self, SimConfig, fixed=True)
        warn_unknown(self)
        self.config: SimConfig = read(self, SimConfig)
        if not self.config.robot:
            raise UserError("parameter robot is ''; give a robot spec, such as robot:=two_room")
        self.spec = load_robot(self.config.robot)
        self.spec.require_topics()
        validate(self.config, self.spec)
        self.world = make_world(self.config.world, self.spec) if world is None else world
        self.world.reset(seed=self.config.seed)
        check_world(self.world, self.spec)
        rng = np.random.default_rng([self.config.seed, 2**20])
        self._events = schedule(self.config, rng)
        self._rng = rng
        self.topics = Topics(self, self.spec, self.config)
        self.drive = Drive(self.spec, self.config, self.world, self.topics, self.wait)
        self.goals = Goals(self.config, self.topics, self.wait)
        self._news = threading.Condition()
        self._pending = self._ending = self._reset = False
        self._colour: str | None = None
        self._go = not self.config.wait_for_start
        self._listen()
        self._worker = threading.Thread(target=self._work, name='world', daemon=True)

    def _listen(self) -> None:
        if self.config.external:
            self.create_subscription(message_class(self.spec.action.type), self.spec.action.topic,
                                     self._on_command, QoSProfile(depth=100))
            if self.config.goal_accepted_topic:
                self.create_subscription(
                    Header, self.config.goal_accepted_topic, self._on_accepted,
                    QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL))
        self.create_service(Trigger, '~/reset', self._on_reset)
        self.create_service(Trigger, '~/start', self._on_start)
        self._diagnostics = self.create_publisher(DiagnosticArray, '/diagnostics', 10)
        self._begun = time.monotonic()
        self.steady_timer(1.0, self._diagnose)

    def start(self) -> None:
        """Nothing; the world begins to turn."""
        self._worker.start()

    def stop(self) -> None:
        """Nothing; the world stands still when this returns."""
        self._ending = True
        self._wake()
        if self._worker.ident is not None:
            self._worker.join(10.0)

    def wait(self, seconds: float) -> None:
        """Nothing, after a message has come or `seconds` are over; raises Stopped at the end."""
        with self._news:
            if seconds > 0 and not self._pending and not self._ending:
                self._news.wait(seconds)
            self._pending = False
        if self._ending:
            raise Stopped

    def _wake(self) -> None:
        with self._news:
            self._pending = True
            self._news.notify()

    def _on_command(self, message: Any) -> None:
        self.drive.on_command(message)
        self._wake()

    def _on_accepted(self, message: Header) -> None:
        self.goals.on_accepted(message)
        self._wake()

    def _on_start(self, _: Any, response: Trigger.Response) -> Trigger.Response:
        response.success = not self._go
        response.message = 'drives already' if self._go else 'drives'
        self._go = True
        self._wake()
        return response

    def _on_reset(self, _: Any, response: Trigger.Response) -> Trigger.Response:
        response.success = self.config.mode == 'drive'
        response.message = ('a new episode begins with the next frame' if response.success
                            else 'mode:=trials resets the world itself, at each trial')
        self._reset = response.success
        return response

    def _diagnose(self) -> None:
        """Nothing; once a second what was driven, and the counts for whoever compares them."""
        self.topics.announce_counts()
        drive = self.drive
        values = {'frames': drive.ticks, 'episodes': drive.episodes, 'timeouts': drive.timeouts,
                  'violations': drive.violations, 'overruns': drive.overruns,
                  'realtime_factor': self.realtime_factor()}
        self._diagnostics.publish(diagnostic_array(
            self.get_clock().now().to_msg(), self.get_fully_qualified_name().lstrip('/'),
            DiagnosticStatus.OK, f'{self.config.mode}, {self.config.policy}', values))

    def realtime_factor(self) -> float:
        """Simulated seconds a wall second since the drive began."""
        return self.drive.seconds() / max(time.monotonic() - self._begun, 1e-9)

    def _work(self) -> None:
        """Nothing; the whole drive, in the world's thread. Sets the exit code at its end."""
        try:
            while not self._go:
                self.wait(0.1)
            self.topics.wait_for_readers(self.wait)
            self._begun = time.monotonic()
            self._run_trials() if self.config.mode == 'trials' else self._run_drive()
            self._say_goodbye()
        except Stopped:
            pass  # whoever asked for the end gives the exit code
        except Exception as error:
            self.report(error, 'the drive ended')
            self.finish(1)

    def _run_drive(self) -> None:
        config, drive, events = self.config, self.drive, list(self._events)
        left = 0  # frames until the episode is cut; 0: begin one
        while not config.frames or drive.ticks < config.frames:
            if left == 0 or drive.ended or self._reset:
                self._begin_episode()
                left = config.episode_frames or -1
            while events and events[0].tick <= drive.ticks:
                self._happen(events.pop(0))
            if config.goal_ticks and drive.ticks % config.goal_ticks == 0 and config.external:
                self.goals.give(self.world.goal_image(self.world.sample_task(self._rng)))
                drive.restart_clock()
            drive.tick()
            left -= 1
            if drive.ticks % 50 == 0:
                self.topics.keep_pace_with_recorder(self.wait)

    def _begin_episode(self) -> None:
        """Nothing; a fresh start of the world, for the first frame, a cut or ~/reset."""
        self._reset = False
        self.world.reset(seed=int(self._rng.integers(2**31)))
        if self._colour is not None:  # the world ended an episode that looked so
            self.world.set_colour(self._colour)
        self.drive.begin_episode()
        self.drive.policy = own_policy(self.config, self.world, self.spec, self._rng)

    def _happen(self, event: Event) -> None:
        if event.kind == TELEPORT:
            self.world.teleport(self._rng)
        elif event.kind == COLOUR:
            self._colour = self.world.set_colour()
        elif event.kind == COLOUR_END:
            self._colour = None
            self.world.clear_colour()
        self.topics.event(self.drive.stamp_ns, event.kind)

    def _run_trials(self) -> None:
        reached = 0
        for index in range(self.config.trials):
            trial = run_trial(index, self.spec, self.config, self.world, self.drive, self.goals)
            reached += trial.reached
            self.topics.trial(self.drive.stamp_ns, f'trial_{index}', trial.reached,
                              key_values(trial))
            self.get_logger().info(
                f'trial {index + 1} of {self.config.trials}: '
                f'{"reached" if trial.reached else "not reached"} ({reached} so far), '
                f'{trial.realtime_factor:.1f} x real time, {trial.timeouts} timeouts')

    def _say_goodbye(self) -> None:
        """Nothing; counts announced, recorder and readers waited for, exit code set."""
        drive = self.drive
        self.get_logger().info(
            f'drove {drive.ticks} frames in {drive.episodes} episodes at '
            f'{self.realtime_factor():.1f} x real time; {drive.timeouts} lock-step timeouts, '
            f'{drive.violations} commands outside the limits, {drive.overruns} late ticks')
        whole = self.topics.wait_until_recorded(self.wait)
        self.topics.wait_until_acknowledged()
        if not whole:
            lost = ', '.join(f'{n} on {topic}' for topic, n in self.topics.missing().items())
            self.get_logger().error(f'the recorder lacks {lost} of what was published; record '
                                    'again with less load on the machine')
        self.finish(0 if whole else 1)


def main(args: Sequence[str] | None = None) -> int:
    """The exit code: 0 when all was driven (and recorded, where that is waited for), else 1."""
    return run_node(SimRobot, args)


if __name__ == '__main__':
    sys.exit(main())
