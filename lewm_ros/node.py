"""The base of every node: a bounded spin loop with its own signals, and a lifecycle that is safe.

rclpy's signal handlers invalidate the context before anything can be published, and its lifecycle
swallows exceptions; both are mended here, once.
"""

from __future__ import annotations

import gc
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock, ClockType
from rclpy.duration import Duration
from rclpy.exceptions import InvalidParameterTypeException
from rclpy.executors import SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn
from rclpy.logging import get_logger
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.signals import SignalHandlerOptions
from rclpy.timer import Timer
from rclpy.utilities import remove_ros_args

from lewm_core.types import UserError
from lewm_ros.leaving import leave
from lewm_ros.params import declare_one, warn_unknown
from lewm_ros.signals import Signals, end_with_launcher

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR
SPIN_S = 0.1  # the longest a signal waits for the loop to notice it


class Runnable:
    """What `run_node` and `Host` ask of a node, beside being an rclpy Node.

    A node ends when its `exit_code` is set, be it by `finish` or by a signal.
    """

    exit_code: int | None = None

    def start(self) -> None:
        """Nothing; called once from the executor's thread before the first spin."""

    def on_signal(self, number: int) -> None:
        """Nothing; called from the spin loop after one of `Signals`. By default: the end."""
        self.finish(0)

    def stop(self) -> None:
        """Nothing; called once before the node is destroyed, while it can still publish."""

    def finish(self, exit_code: int) -> None:
        """Nothing; the spin loop ends after this callback. The first exit code given counts."""
        if self.exit_code is None:
            self.exit_code = exit_code

    def steady_timer(self, period_s: float, callback: Callable[[], None]) -> Timer:
        """A timer on the steady clock, which a paused /clock doesn't stop."""
        return self.create_timer(period_s, callback,  # type: ignore[attr-defined]
                                 clock=Clock(clock_type=ClockType.STEADY_TIME))

    def report(self, error: BaseException, doing: str) -> None:
        """Nothing; logs a user's error as one sentence, anything else with its traceback."""
        logger = self.get_logger()  # type: ignore[attr-defined]
        if isinstance(error, UserError):
            logger.error(f'{doing}: {error}')
        else:
            logger.error(f'{doing}: {"".join(traceback.format_exception(error)).rstrip()}')


class BasicNode(Runnable, Node):
    """A node without lifecycle that `run_node` and `Host` can run."""


class ManagedNode(Runnable, LifecycleNode):
    """A lifecycle node that publishes its safe state first, whatever ends it.

    Subclasses fill in `configure`, `activate`, `deactivate` and `cleanup`, which raise when they
    fail, `make_safe`, and `diagnose`. A failed configure leaves the node unconfigured, a failed
    activate inactive; the reason is logged. With the parameter `autostart` (true by default) the
    node configures and activates itself, and a failure ends the process with exit code 1.
    """

    def __init__(self, name: str, **kwargs: Any) -> None:
        super().__init__(name, **kwargs)
        self.active = False
        self.configured = False
        declare_one(self, 'autostart', True, 'configure and activate at the start')
        self._diagnostics = self.create_publisher(DiagnosticArray, '/diagnostics', 10)
        self._diagnostics_timer = self.steady_timer(1.0, self.publish_diagnostics)

    # What a node fills in
    def configure(self) -> None:
        """Nothing; loads, creates publishers and subscriptions, warms up. Raises on failure."""

    def activate(self) -> None:
        """Nothing; starts the node's work. Raises on failure."""

    def deactivate(self) -> None:
        """Nothing; ends the node's work. `make_safe` has been called."""

    def cleanup(self) -> None:
        """Nothing; lets go of all that `configure` made, also of a half-made one."""

    def make_safe(self) -> None:
        """Nothing; publishes the safe state. Called first by each way out of work."""

    def diagnose(self) -> tuple[bytes, str, dict[str, Any]]:
        """The node's state for /diagnostics, once a second: level, sentence and values."""
        return OK, self._state_machine.current_state[1], {}

    # What rclpy calls
    def on_configure(self, state: Any) -> TransitionCallbackReturn:
        """SUCCESS, or FAILURE with everything let go of: the node stays unconfigured."""
        if self._attempt(self.configure, 'configuring failed'):
            self.configured = True
            return TransitionCallbackReturn.SUCCESS
        self._attempt(self.cleanup, 'cleaning up failed')
        return TransitionCallbackReturn.FAILURE

    def on_activate(self, state: Any) -> TransitionCallbackReturn:
        """SUCCESS, or FAILURE after the safe state: the node stays inactive."""
        self.active = True
        if self._attempt(self.activate, 'activating failed'):
            return TransitionCallbackReturn.SUCCESS
        self._end_work()
        return TransitionCallbackReturn.FAILURE

    def on_deactivate(self, state: Any) -> TransitionCallbackReturn:
        """SUCCESS, or ERROR; the safe state has been published either way."""
        return self._returned(self._end_work())

    def on_cleanup(self, state: Any) -> TransitionCallbackReturn:
        """SUCCESS, or ERROR when letting go failed."""
        return self._returned(self._let_go())

    def on_shutdown(self, state: Any) -> TransitionCallbackReturn:
        """SUCCESS or ERROR: the safe state first, then work ends and everything is let go of."""
        ended = self._end_work()
        return self._returned(self._let_go() and ended)

    def on_error(self, state: Any) -> TransitionCallbackReturn:
        """SUCCESS: back to unconfigured, after the safe state; FAILURE when that failed too."""
        ended = self._end_work()
        if self._let_go() and ended:
            return TransitionCallbackReturn.SUCCESS
        return TransitionCallbackReturn.FAILURE

    # What `run_node` and `Host` call
    def start(self) -> None:
        """Nothing; configures and activates the node when `autostart` is true."""
        warn_unknown(self)
        if not self.get_parameter('autostart').value:
            return
        success = TransitionCallbackReturn.SUCCESS
        if self.trigger_configure() != success or self.trigger_activate() != success:
            self.finish(1)

    def stop(self) -> None:
        """Nothing; the safe state first, then the lifecycle's shutdown."""
        if self._state_machine.current_state[1] in ('unconfigured', 'inactive', 'active'):
            self.trigger_shutdown()

    def destroy_node(self) -> None:
        """Nothing; as rclpy's, and the state machine, which would keep the node in its domain."""
        super().destroy_node()
        self._state_machine.destroy_when_not_in_use()

    def _LifecycleNodeMixin__on_change_state(self, request: Any, response: Any) -> Any:
        """The answer of ~/change_state; a transition that the state doesn't have is refused.

        rclpy lets that raise into the executor, which would end a robot's drive because somebody
        activated it twice. The method is private to rclpy; a test says when it has moved.
        """
        try:
            return super()._LifecycleNodeMixin__on_change_state(request, response)
        except rclpy_implementation.RCLError:
            asked = request.transition
            self.get_logger().warning(f'transition {asked.label or asked.id} is refused: the node '
                                      f'is {self._state_machine.current_state[1]}')
            response.success = False
            return response

    def publish_diagnostics(self) -> None:
        """Nothing; publishes `diagnose` on /diagnostics now."""
        level, sentence, values = self.diagnose()
        name = self.get_fully_qualified_name().lstrip('/')
        array = diagnostic_array(self.get_clock().now().to_msg(), name, level, sentence, values)
        self._diagnostics.publish(array)

    def _attempt(self, function: Callable[[], None], failed: str) -> bool:
        """Whether `function` returned; logs what it raised."""
        try:
            function()
        except Exception as error:  # whatever it is, the node must reach its safe state
            self.report(error, failed)
            return False
        return True

    def _end_work(self) -> bool:
        if not self.active:
            return True
        safe = self._attempt(self.make_safe, 'publishing the safe state failed')
        self.active = False
        return self._attempt(self.deactivate, 'deactivating failed') and safe

    def _let_go(self) -> bool:
        self.configured = False
        return self._attempt(self.cleanup, 'cleaning up failed')

    @staticmethod
    def _returned(good: bool) -> TransitionCallbackReturn:
        return TransitionCallbackReturn.SUCCESS if good else TransitionCallbackReturn.ERROR


def diagnostic_array(stamp: Any, name: str, level: bytes, message: str,
                     values: dict[str, Any]) -> DiagnosticArray:
    """A DiagnosticArray with one status; floats are written with six digits."""
    status = DiagnosticStatus(name=name, level=level, message=message)
    status.values = [KeyValue(key=key, value=f'{value:.6g}' if isinstance(value, float)
                              else str(value)) for key, value in values.items()]
    array = DiagnosticArray(status=[status])
    array.header.stamp = stamp
    return array


def flush(publisher: Publisher, timeout_s: float = 0.5) -> None:
    """Returns when every reliable subscriber has what was published, or after `timeout_s`."""
    publisher.wait_for_all_acked(Duration(nanoseconds=round(timeout_s * 1e9)))


def run_node(make: Callable[[], Any], args: Sequence[str] | None = None) -> int:
    """The exit code of a node after it has run to its end: 0, 1 on an error, or its own.

    `make` takes nothing and returns a node with the methods of `Runnable`; `args` are the words
    of the command line (default: sys.argv). Signals (`lewm_ros.signals`) reach the node as
    `on_signal` while its publishers still work. A UserError is logged as one sentence.
    """
    name = getattr(make, '__name__', 'lewm_ros')
    with Signals() as signals:
        end_with_launcher()
        try:
            rclpy.init(args=None if args is None else [sys.argv[0], *args],
                       signal_handler_options=SignalHandlerOptions.NO)
        except Exception as error:  # rclpy's own types, by version; all are a bad command line
            print(f'{name}: {" ".join(str(error).split())}', file=sys.stderr)
            return 2
        try:
            return _run(make, signals)
        except (UserError, InvalidParameterTypeException) as error:  # rclpy's: of use_sim_time
            get_logger(name).error(str(error))
        except Exception:
            get_logger(name).error(traceback.format_exc().rstrip())
        finally:
            gc.collect()  # a node whose constructor raised ends before its context does
            rclpy.try_shutdown()
    return 1


def _run(make: Callable[[], Any], signals: Signals) -> int:
    node = make()
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        node.start()
        while node.exit_code is None:
            executor.spin_once(timeout_sec=SPIN_S)
            number = signals.take()
            if number is not None:
                node.on_signal(number)
    finally:
        try:
            node.stop()
        finally:
            executor.shutdown()
            leave(node)
    return node.exit_code


def own_args(args: Sequence[str] | None = None) -> list[str]:
    """The command line's words that aren't ROS's: without `--ros-args` and what follows it."""
    return remove_ros_args([sys.argv[0], *args] if args is not None else sys.argv)[1:]
