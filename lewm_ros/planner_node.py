"""The planner node: drives the robot to a goal image, one command for each camera frame."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from std_msgs.msg import Header
from std_srvs.srv import Trigger

from lewm_core.config import PlannerConfig
from lewm_core.types import Plan, UserError
from lewm_ros.camera_watch import CameraWatch
from lewm_ros.command_watch import CommandWatch
from lewm_ros.drive import Driver, Fault
from lewm_ros.drive_figures import figures, sentence
from lewm_ros.fields import make_command, stamp_ns
from lewm_ros.goals import GoalNews, GoalTopic, read_goal
from lewm_ros.node import ERROR, OK, WARN, ManagedNode, flush, run_node
from lewm_ros.node_params import PlannerParams
from lewm_ros.params import Explicit, declare, read
from lewm_ros.plan_topics import PlanTopics
from lewm_ros.schedule import patience, plans_ahead
from lewm_ros.serving import RELIABLE, camera_qos, check_types, load, picture, serving_spec, warmed
from lewm_ros.steps import Choice, FrameSelector, LiveClock
from lewm_ros.worker import Worker


class PlannerNode(ManagedNode):
    """Each camera frame that becomes a step is answered with one command that echoes its stamp.

    `agent` takes the place of the checkpoint's, for tests and for other planners.
    """

    def __init__(self, *, agent: Any = None, **kwargs: Any) -> None:
        super().__init__('planner_node', **kwargs)
        declare(self, PlannerParams)
        declare(self, PlannerConfig, 'planner')
        self._explicit = Explicit(self, lambda: self.configured)
        self._given = agent
        self._made: list[Any] = []
        self._worker: Worker | None = None
        self._driver: Driver | None = None
        self._said: tuple[Fault | None, bool] = (None, False)

    # Lifecycle
    def configure(self) -> None:
        """Nothing; loads and checks all, warms up and measures, then listens."""
        self._params = params = read(self, PlannerParams)
        agent = self._given or self._load()
        self._spec = serving_spec(agent.spec, params.robot)
        self._camera_class, self._action_class = check_types(self._spec, sends=True)
        goal = read_goal(params.goal, agent.spec.camera) if params.goal else None
        self._agent = agent
        self._deadline_s = params.plan_deadline_s or self._spec.tick_s
        self._worker = Worker(self, 'planner')
        self._warm_s = self._worker.run(lambda: warmed(agent, params.threads))
        self._ahead, warning = plans_ahead(params.plan_when, self._warm_s, self._deadline_s,
                                           agent.frameskip * self._spec.tick_s)
        for each in filter(None, (warning, patience(self._deadline_s, self._spec.max_age_s))):
            self.get_logger().warning(each)
        self._listen()
        self.get_logger().info(
            f'ready: a plan takes {1e3 * self._warm_s:.0f} ms and is made '
            f'{"a block ahead" if self._ahead else "at its first frame"}; pictures from '
            f'{self._camera.topic_name!r}, commands to {self._commands.topic_name!r}')
        if goal is not None:
            header = Header(stamp=self.get_clock().now().to_msg(), frame_id=params.goal)
            self._take_goal(goal, header)

    def _load(self) -> Any:
        params = self._params
        checkpoint, device = load(params.checkpoint, params.device, params.threads)
        from lewm_core.agent import Agent
        search = self._explicit.fill(checkpoint.planner, 'planner')
        agent = Agent(checkpoint, search, device=device, rest=params.at_goal == 'rest')
        agent.arrival.tolerance = params.goal_tolerance or agent.arrival.tolerance
        return agent

    def _listen(self) -> None:
        spec, params = self._spec, self._params
        self._selector = FrameSelector(spec)
        self._clock_of = LiveClock(has_header=True)
        self._started_ns: int | None = None
        self._newest: Any = None
        self._watch = CameraWatch(spec, self.resolve_topic_name(spec.camera.topic))
        topic = '~/command_preview' if params.dry_run else spec.action.topic
        self._commands = self._own(self.create_publisher, self._action_class, topic, RELIABLE)
        self._rivals = CommandWatch(self, self._commands)
        self._news = GoalNews(self, self._agent.arrival.tolerance)
        self._plans = PlanTopics(self, spec)
        self._driver = Driver(self._agent, self._submit, self._publish, self._show, self._ahead)
        self._goals = GoalTopic(self, 'goal_image', self._on_goal)
        self._camera = self._own(
            self.create_subscription, self._camera_class, spec.camera.topic, self._on_image,
            camera_qos(params.reliable_camera, params.queue_depth))
        if spec.episode_topic is not None:
            self._own(self.create_subscription, Header, spec.episode_topic, self._on_marker,
                      RELIABLE)
        self._own(self.create_service, Trigger, '~/set_goal', self._on_set_goal)
        self._own(self.create_service, Trigger, '~/clear_goal', self._on_clear_goal)
        self._deadline = self._own(self.steady_timer, self._deadline_s, self._on_deadline)
        self._deadline.cancel()
        self._own(self.steady_timer, min(spec.tick_s, spec.max_age_s), self._on_watchdog)

    def activate(self) -> None:
        """Nothing; drives if there is a goal, else sends the safe action once."""
        self._watch.begin()
        self._selector.restart()
        self._driver.begin()
        if not self._driver.has_goal:
            self._driver.halt(self._now_ns())
        self._say_fault()

    def make_safe(self) -> None:
        """Nothing; the safe action is the last command, and has arrived when this returns."""
        self._driver.halt(self._now_ns())
        self._deadline.cancel()
        flush(self._commands)
        self._news.doubt()

    def cleanup(self) -> None:
        """Nothing; ends the worker and lets go of every topic."""
        if self._worker is not None and not self._worker.close():
            self.get_logger().warning('the planning thread is still busy; it is left behind')
        if self._driver is not None:
            for topics in (self._goals, self._plans, self._news):
                topics.close()
        for made in reversed(self._made):
            made()
        self._made.clear()
        self._worker = self._driver = self._agent = None

    def _own(self, create: Any, *args: Any) -> Any:
        """What `create(*args)` makes, to be destroyed at cleanup."""
        made = create(*args)
        kind = {'create_publisher': self.destroy_publisher, 'steady_timer': self.destroy_timer,
                'create_subscription': self.destroy_subscription,
                'create_service': self.destroy_service}[create.__name__]
        self._made.append(lambda: kind(made))
        return made

    # Frames to commands
    def _on_image(self, message: Any, info: Any) -> None:
        stamp = self._clock_of.stamp('camera', stamp_ns(message), info['source_timestamp'])
        self._watch.heard(stamp)
        if stamp is None:
            return
        choice = self._selector.offer(stamp)
        if choice is Choice.SKIP:
            return
        self._newest = message
        self._watch.kept(stamp, choice is Choice.START)
        if choice is Choice.START:
            self._started_ns = stamp
        if not self.active:
            return
        self._driver.frame(stamp, choice is Choice.START, lambda: self._pixels(message))
        if self._driver.waiting:
            self._deadline.reset()
        self._say_fault()

    def _pixels(self, message: Any) -> np.ndarray:
        return picture(message, self._agent.spec.camera)

    def _submit(self, job: Any, done: Any) -> None:
        def ended(result: Any, error: Exception | None) -> None:
            done(result, error)
            self._say_fault()

        self._worker.submit(job, ended)

    def _publish(self, stamp: int, values: np.ndarray) -> None:
        if not self._driver.waiting:
            self._deadline.cancel()
        self._commands.publish(make_command(self._action_class, self._spec, values, stamp))

    def _show(self, plan: Plan) -> None:
        self._plans.show(plan)
        if self._news.show(plan):
            self.publish_diagnostics()

    def _on_deadline(self) -> None:
        self._deadline.cancel()
        self._driver.late()
        self._say_fault()

    def _on_watchdog(self) -> None:
        """A camera that has gone: steady clock from receipt, for a paused /clock stops others."""
        if not self.active or not self._driver.has_goal or self._driver.waiting:
            return
        if self._watch.stale:
            self._driver.stale(self._now_ns(), self._watch.sentence())
            self._news.doubt()
            self._say_fault()

    def _on_marker(self, message: Header, info: Any) -> None:
        stamp = self._clock_of.stamp('marker', stamp_ns(message), info['source_timestamp'])
        # When its frame came first, and began the episode, nothing is left to do.
        if stamp is not None and stamp != self._started_ns:
            self._selector.marker(stamp)

    # Goals
    def _on_goal(self, message: Any) -> None:
        try:
            self._take_goal(self._pixels(message), message.header)
        except UserError as error:
            self._driver.count['goals_refused'] += 1
            self.get_logger().error(f'goal refused, the former one stays: {error}')

    def _take_goal(self, pixels: np.ndarray, header: Header) -> None:
        drives = self._driver.has_goal

        def done(error: Exception | None) -> None:
            if error is not None:
                self._driver.count['goals_refused'] += 1
                self.report(error, 'goal refused, the former one stays')
                return
            self._driver.count['goals'] += 1
            if not drives:  # a goal that follows another must not excuse a camera that is gone
                self._watch.begin()
            self.get_logger().info('the goal is taken')
            self._news.accept(header)

        self._driver.set_goal(pixels, done)

    def _on_set_goal(self, _: Any, answer: Trigger.Response) -> Trigger.Response:
        if not self._watch.current:
            answer.message = (f'there is no current image on {self._camera.topic_name!r}; start '
                              'the camera, then set the goal again')
            return answer
        try:
            self._take_goal(self._pixels(self._newest), self._newest.header)
        except UserError as error:
            answer.message = str(error)
            return answer
        answer.success = True
        answer.message = f'the goal is the image stamped {stamp_ns(self._newest) / 1e9:.3f} s'
        return answer

    def _on_clear_goal(self, _: Any, answer: Trigger.Response) -> Trigger.Response:
        answer.success = True
        answer.message = 'there is no goal now' if self._driver.has_goal else 'there was no goal'
        self._driver.clear_goal()
        self._news.clear()
        if self.active:
            self._driver.halt(self._now_ns())
        return answer

    # What is said about it
    def _now_ns(self) -> int:
        return self.get_clock().now().nanoseconds

    def _say_fault(self) -> None:
        """Nothing; logs and publishes a change of what is wrong, at once and once."""
        said = (self._driver.fault, self._driver.following)
        if said == self._said:
            return
        before, self._said = self._said, said
        if said[0] is not None:
            self.get_logger().warning(self._sentence(), throttle_duration_sec=1.0)
        if said[0] is Fault.FAILED:
            self.report(self._driver.error, 'planning failed')
        if said[0] is not None or before[0] is not None:
            self.publish_diagnostics()

    def _sentence(self) -> str:
        if not self.active:
            return 'inactive'
        return sentence(self._driver, self._news.reached, self._params)

    def diagnose(self) -> tuple[bytes, str, dict[str, Any]]:
        """What is driven by, what is wrong, how often it was, and how long plans take."""
        driver = self._driver
        if driver is None:
            return super().diagnose()
        driving = self.active and driver.has_goal
        faulty = driving and driver.fault is not None
        level = OK if not faulty else WARN if driver.following else ERROR
        values: dict[str, Any] = {'robot': self._spec.name, 'goal': driver.has_goal,
                                  'deadline_ms': 1e3 * self._deadline_s,
                                  'warm_up_ms': 1e3 * self._warm_s,
                                  'plans_ahead': self._ahead, **self._news.figures(),
                                  **figures(driver)}
        said, cameras = self._sentence(), self.count_publishers(self._camera.topic_name)
        for odd in filter(None, (self._watch.odd(cameras), self._rivals.odd(driving))):
            level, said = max(level, WARN), f'{said}; {odd}'
        values.update(camera_publishers=cameras, other_commanders=len(self._rivals.others))
        return level, said, values


def main(args: Sequence[str] | None = None) -> int:
    """The exit code of a planner node run to its end."""
    return run_node(PlannerNode, args)


if __name__ == '__main__':
    sys.exit(main())
