"""The surprise node: says when the world did what the model can't explain."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from rclpy.event_handler import SubscriptionEventCallbacks
from std_msgs.msg import Header
from std_srvs.srv import Trigger

from lewm_core.config import SurpriseConfig
from lewm_core.types import Frame, Surprise, UserError
from lewm_ros.calibrations import describe, read_calibration, save_calibration
from lewm_ros.camera_watch import CameraWatch
from lewm_ros.fields import get_action, stamp_ns
from lewm_ros.node import ERROR, OK, WARN, ManagedNode, run_node
from lewm_ros.node_params import SurpriseParams
from lewm_ros.params import Explicit, declare, read
from lewm_ros.recalibrating import Recalibrating
from lewm_ros.serving import camera_qos, check_types, load, picture, serving_spec, warmed
from lewm_ros.steps import LiveClock, Step, StepBuilder, finite
from lewm_ros.surprise_topics import SurpriseTopics


class SurpriseNode(ManagedNode):
    """Scores each block of frames and commands, in the order of their stamps, none left out.

    `monitor` takes the place of the checkpoint's, for tests; it has a `spec`.
    """

    def __init__(self, *, monitor: Any = None, **kwargs: Any) -> None:
        super().__init__('surprise_node', **kwargs)
        declare(self, SurpriseParams)
        declare(self, SurpriseConfig)
        self._explicit = Explicit(self, lambda: self.configured)
        self._given = monitor
        self._monitor: Any = None
        self._topics: SurpriseTopics | None = None
        self._made: list[Any] = []
        self._recalibrating: Recalibrating | None = None
        self._count: Counter[str] = Counter()
        self._trouble = ''
        self._lag_s = 0.0  # how long the newest image was under way and in the queue

    # Lifecycle
    def configure(self) -> None:
        """Nothing; loads and checks all, then listens."""
        self._params = params = read(self, SurpriseParams)
        self._monitor = self._given or self._load()
        self._spec = serving_spec(self._monitor.spec, params.robot)
        self._warm_s = warmed(self._monitor, params.threads)
        camera, action = check_types(self._spec)
        self._has_header = hasattr(action(), 'header')
        self._builder: StepBuilder | None = None
        self._camera = CameraWatch(
            self._spec, self.resolve_topic_name(self._spec.camera.topic))
        self._topics = SurpriseTopics(self, self._cluster_blocks)
        self._listen(camera, action)
        calibration = self._monitor.calibration
        if calibration is None:
            self.get_logger().warning('there is no calibration: scores only, no alarms; drive as '
                                      'usual for a while, then call ~/recalibrate')
        else:
            self.get_logger().info(describe(calibration))

    def _load(self) -> Any:
        params = self._params
        checkpoint, device = load(params.checkpoint, params.device, params.threads)
        from lewm_core.surprise import SurpriseMonitor
        config = self._explicit.fill(checkpoint.surprise, '')
        stored = read_calibration(params.calibration_file)
        if stored is not None:
            checkpoint = dataclasses.replace(checkpoint, calibration=stored)
        return SurpriseMonitor(checkpoint, config, device=device)

    @property
    def _cluster_blocks(self) -> int:
        return self.get_parameter('cluster_blocks').value

    def _listen(self, camera: type, action: type) -> None:
        spec, params = self._spec, self._params
        qos = camera_qos(params.reliable_camera, params.queue_depth)
        add = self.create_subscription
        self._made = [add(camera, spec.camera.topic, self._on_image, qos)]
        if spec.episode_topic is not None:
            self._made.append(add(Header, spec.episode_topic, self._on_marker,
                                  camera_qos(True, params.queue_depth)))
        self._unheard = False
        self._hear_commands(action, True)
        self._recalibrating = Recalibrating(self, self._monitor, self._save, self._topics.calm)
        self._clear = self.create_service(Trigger, '~/clear_scores', self._on_clear_scores)
        self._poll = self.steady_timer(min(0.1, max(0.02, params.grace_s / 5)), self._on_poll)

    def _hear_commands(self, action: type, reliable: bool) -> None:
        """Nothing; subscribes to the commands, best effort where one of their publishers is."""
        self._action_class = action
        self._commands = self.create_subscription(
            action, self._spec.action.topic, self._on_command,
            camera_qos(reliable, self._params.queue_depth), event_callbacks=(
                SubscriptionEventCallbacks(incompatible_qos=self._on_incompatible)))
        self._made.append(self._commands)

    def _on_incompatible(self, _: Any) -> None:
        self._unheard = True  # no subscription can be replaced within its own event

    def activate(self) -> None:
        """Nothing; watches from the next frame on, with no history."""
        self._clock_of = LiveClock(self._has_header)
        self._builder = StepBuilder(self._spec, grace_s=self._params.grace_s)
        self._monitor.reset()
        self._camera.begin()
        self._topics.calm()

    def deactivate(self) -> None:
        """Nothing; what still waits for its commands is not scored."""
        self._builder = None

    def cleanup(self) -> None:
        """Nothing; lets go of the model and of every topic."""
        self._builder = None
        if self._topics is not None:
            self._topics.close()
        for subscription in self._made:
            self.destroy_subscription(subscription)
        if self._recalibrating is not None:
            self._recalibrating.close()
            self.destroy_service(self._clear)
            self.destroy_timer(self._poll)
        self._made, self._topics, self._monitor, self._recalibrating = [], None, None, None

    # Messages to steps
    def _on_image(self, message: Any, info: Any) -> None:
        if self._builder is None:
            return
        self._recalibrating.image(info['source_timestamp'])
        self._lag_s = 1e-9 * (time.time_ns() - info['source_timestamp'])
        stamp = self._stamp('camera', message, info)
        self._camera.heard(stamp)
        if stamp is not None:
            self._count['images'] += 1
            self._watch(self._builder.frame(stamp, message, time.monotonic_ns()))

    def _on_command(self, message: Any, info: Any) -> None:
        if self._builder is None:
            return
        stamp = self._stamp('command', message, info)
        try:
            values = get_action(message, self._spec)
        except UserError as error:  # an array that is shorter than it should be
            self._say('command', f'{error}; it is left out')
            return
        if not finite(values):  # the builder begins an episode after it
            self._say('command', f'a command is {values.tolist()}, which is not finite; the '
                      'history begins anew')
        if stamp is not None:
            self._count['commands'] += 1
            self._watch(self._builder.command(stamp, values))

    def _on_marker(self, message: Header, info: Any) -> None:
        if self._builder is not None:
            stamp = self._stamp('marker', message, info)
            if stamp is not None:
                self._watch(self._builder.marker(stamp))

    def _stamp(self, stream: str, message: Any, info: Any) -> int | None:
        """The message's stamp on the one clock that all streams are compared by."""
        before = self._clock_of.header
        stamp = self._clock_of.stamp(stream, stamp_ns(message), info['source_timestamp'])
        if self._clock_of.header != before:
            # What waits was stamped by the other clock.
            self._watch(self._builder.restart())
            self._builder = StepBuilder(self._spec, grace_s=self._params.grace_s)
            self.get_logger().warning(
                f'the {stream} messages have header stamps: all are ordered by those again'
                if self._clock_of.header else f'the {stream} messages have no header stamp: all '
                'are ordered by the time they were sent instead')
        if stamp is None:
            self._say('stamp', f'a {stream} message has no header stamp, but those before it '
                      'had; it is left out')
        return stamp

    def _on_poll(self) -> None:
        if self._unheard:
            self._unheard = False
            self._made.remove(self._commands)
            self.destroy_subscription(self._commands)
            self._hear_commands(self._action_class, False)
            self.get_logger().warning(f'the commands on {self._commands.topic_name!r} come best '
                                      'effort: they are heard so, and some may be lost')
        if self._builder is not None:
            self._watch(self._builder.poll(time.monotonic_ns()))
        self._recalibrating.poll()

    # Steps to scores
    def _watch(self, steps: list[Step]) -> None:
        for step in steps:
            if step.new_episode:
                self._monitor.reset()
                self._count['episodes'] += 1
            self._count['steps'] += 1
            try:
                surprise = self._score(step)
            except UserError as error:  # the monitor then begins anew with the next frame
                self._say('image', str(error))
                self._monitor.reset()
                continue
            if surprise is not None:
                self._count['blocks'] += 1
                self._count['exceedances'] += surprise.exceeds
                self._count['alarms'] += surprise.alarm
                self._topics.show(surprise)
            self._trouble = ''

    def _score(self, step: Step) -> Surprise | None:
        """What the monitor says of one step; only the frames at a block's ends are decoded."""
        pixels = None
        if self._monitor.wants_frame:
            pixels = picture(step.payload, self._monitor.spec.camera)
        return self._monitor.update(Frame(step.stamp_ns, pixels), step.action)

    def _say(self, kind: str, sentence: str) -> None:
        """Nothing; counts and logs what was left out, not more than once a second."""
        self._count[f'{kind}s_refused'] += 1
        self._trouble = sentence
        self.get_logger().warning(sentence, throttle_duration_sec=1.0)

    # Services
    def _save(self, calibration: Any) -> str:
        params = self._params
        return save_calibration(calibration, params.calibration_file,
                                params.checkpoint if params.save_calibration else '')

    def _on_clear_scores(self, _: Any, answer: Trigger.Response) -> Trigger.Response:
        self._monitor.clear_scores()
        answer.success = True
        answer.message = 'the next calibration counts from now'
        return answer

    def diagnose(self) -> tuple[bytes, str, dict[str, Any]]:
        """Whether something surprises, what is missing, and what the alarm promises."""
        if self._monitor is None:
            return super().diagnose()
        calibration = self._monitor.calibration
        values: dict[str, Any] = {'robot': self._spec.name, 'warm_up_ms': 1e3 * self._warm_s,
                                  **self._count}
        if self._builder is not None:
            values.update(late=self._builder.late, skipped=self._builder.skipped,
                          timeouts=self._builder.timeouts, lag_s=self._lag_s)
        if self._recalibrating.progress is not None:
            values['recalibrated'] = self._recalibrating.progress
        if calibration is not None:
            values.update(threshold=calibration.threshold,
                          cusum_threshold=calibration.cusum_threshold,
                          calibration_hours=calibration.hours,
                          promised_per_hour=calibration.promised_per_hour,
                          extrapolated=calibration.extrapolated)
        return (*self._state(calibration), values)

    def _state(self, calibration: Any) -> tuple[bytes, str]:
        if not self.active:
            return OK, 'inactive'
        if self._camera.stale:
            return WARN, self._camera.sentence()
        if self._trouble:
            return WARN, self._trouble
        if self._topics.anomaly:
            return ERROR, 'what happens is not what the model expects'
        if calibration is None:
            return WARN, 'no calibration: scores only; call ~/recalibrate after ordinary driving'
        return OK, 'watching'


def main(args: Sequence[str] | None = None) -> int:
    """The exit code of a surprise node run to its end."""
    return run_node(SurpriseNode, args)


if __name__ == '__main__':
    sys.exit(main())
