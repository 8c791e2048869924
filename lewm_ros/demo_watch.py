"""The demo's ears: a node that gathers what the others say, and calls their services."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import Image
from std_msgs.msg import Float32, Header
from std_srvs.srv import Trigger

from lewm_core.types import UserError
from lewm_ros.decode import decode
from lewm_ros.leaving import leave

# Everything that is counted is sent reliably; the depth outlasts a stall of this process.
_RELIABLE = QoSProfile(depth=2000, reliability=ReliabilityPolicy.RELIABLE)
_LATCHED = QoSProfile(depth=200, reliability=ReliabilityPolicy.RELIABLE,
                      durability=DurabilityPolicy.TRANSIENT_LOCAL)


def stamp_ns(stamp: Any) -> int:
    """A builtin_interfaces/Time as whole nanoseconds."""
    return stamp.sec * 1_000_000_000 + stamp.nanosec


def key_values(status: DiagnosticStatus) -> dict[str, str]:
    """The key–value pairs of a diagnostic status."""
    return {pair.key: pair.value for pair in status.values}


class Watcher:
    """A node in this process, spun by a thread of its own until `close`."""

    def __init__(self, domain: int) -> None:
        self.context = Context()
        rclpy.init(context=self.context, domain_id=domain,
                   signal_handler_options=SignalHandlerOptions.NO)
        self.node = rclpy.create_node('demo', context=self.context)
        self.trials: list[dict[str, str]] = []
        self.statuses: list[dict[str, Any]] = []
        self.events: list[tuple[int, str]] = []
        self.goals: list[Any] = []
        self.counts: dict[str, dict[str, str]] = {}
        self.diagnostics: dict[str, dict[str, str]] = {}
        self.progress = 0.0
        self._subscribe()
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._closing = False
        self._thread.start()

    def _subscribe(self) -> None:
        add = self.node.create_subscription
        self._from_robot = [
            add(DiagnosticArray, 'sim_robot/trial', self._on_trial, _LATCHED),
            add(Header, 'sim_robot/event', self._on_event, _RELIABLE)]
        add(DiagnosticArray, 'surprise_node/status', self._on_status, _RELIABLE)
        add(Image, 'goal_image', self.goals.append, _LATCHED)
        for side in ('sim_robot/published', 'recorder/recorded'):
            add(DiagnosticArray, side, lambda m, side=side: self._on_counts(side, m), _LATCHED)
        add(DiagnosticArray, '/diagnostics', self._on_diagnostics, _RELIABLE)
        add(Float32, 'train_from_bags/progress', self._on_progress, _LATCHED)

    def _on_trial(self, message: DiagnosticArray) -> None:
        self.trials += [key_values(status) for status in message.status]

    def _on_status(self, message: DiagnosticArray) -> None:
        for status in message.status:
            values: dict[str, Any] = key_values(status)
            values['stamp_ns'] = stamp_ns(message.header.stamp)
            self.statuses.append(values)

    def _on_event(self, message: Header) -> None:
        self.events.append((stamp_ns(message.stamp), message.frame_id))

    def _on_counts(self, side: str, message: DiagnosticArray) -> None:
        self.counts[side] = {s.name: key_values(s).get('count', '0') for s in message.status}

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            self.diagnostics[status.name] = {**key_values(status), 'message': status.message}

    def _on_progress(self, message: Float32) -> None:
        self.progress = message.data

    def _spin(self) -> None:
        while not self._closing:
            self._executor.spin_once(timeout_sec=0.05)

    def hears_robot(self) -> bool:
        """Whether the simulated robot's topics are matched, so that nothing it says is missed."""
        return all(s.get_publisher_count() > 0 for s in self._from_robot)

    def goal_pictures(self) -> list[Any]:
        """The goal images heard so far, as RGB (H, W, 3) uint8."""
        return [decode(message) for message in self.goals]

    def news_of(self, name: str, timeout_s: float = 3.0) -> dict[str, str]:
        """The next diagnostics of a node, or the newest known when none come in time."""
        before = self.diagnostics.get(name)
        deadline = time.monotonic() + timeout_s
        while self.diagnostics.get(name) is before and time.monotonic() < deadline:
            time.sleep(0.02)
        return self.diagnostics.get(name, {})

    def wait_for(self, what: str, ready: Callable[[], Any], timeout_s: float,
                 check: Callable[[], None] = lambda: None) -> None:
        """Returns when `ready()` is true; raises UserError after `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while not ready():
            check()
            if time.monotonic() > deadline:
                raise UserError(f'{what} did not happen within {timeout_s:g} s; look into the '
                                'logs beside the report')
            time.sleep(0.02)

    def call(self, service: str, timeout_s: float = 60.0) -> str:
        """The answer of a std_srvs/Trigger service; raises UserError when it says no."""
        client = self.node.create_client(Trigger, service)
        try:
            self.wait_for(f'service {service}', client.service_is_ready, timeout_s)
            future = client.call_async(Trigger.Request())
            self.wait_for(f'the answer of {service}', future.done, timeout_s)
            answer = future.result()
        finally:
            self.node.destroy_client(client)
        if not answer.success:
            raise UserError(f'{service} refused: {answer.message}')
        return answer.message

    def forget(self) -> None:
        """Drops what was gathered, before another run of the same nodes."""
        for gathered in (self.trials, self.statuses, self.events, self.goals):
            gathered.clear()
        self.counts.clear()

    def close(self) -> None:
        """Stops spinning and leaves the domain."""
        self._closing = True
        self._thread.join()
        self._executor.shutdown()
        leave(self.node)
        rclpy.shutdown(context=self.context)
