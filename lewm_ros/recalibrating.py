"""The service ~/recalibrate: waits for what was published before, learns beside the scoring."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.node import Node
from rclpy.task import Future
from std_srvs.srv import Trigger

from lewm_core.types import UserError
from lewm_ros.calibrations import describe
from lewm_ros.worker import Worker

# The executor takes a waiting image between any two calls of a timer, however long one takes to
# score: none has come between so many calls, so none waits.
_QUIET_POLLS = 3
# No queue makes an image so much later than the one before: the clock of who sent it is off.
_SKEW_NS = 10_000_000_000


class Recalibrating:
    """Calibrates `monitor` anew when asked; the node goes on scoring meanwhile.

    `save(calibration)` says in words where it was written; `done()` is called once it is in
    force.
    """

    def __init__(self, node: Node, monitor: Any, save: Callable[[Any], str],
                 done: Callable[[], None]) -> None:
        self._node, self._monitor, self._save, self._done = node, monitor, save, done
        self._worker = Worker(node, 'recalibrate')
        self._waiting: list[tuple[int, Future]] = []
        self._polls = 0  # since the last image
        self._heard_ns = time.monotonic_ns()  # when the newest image was handled
        self._late_ns = self._least_ns = 0  # since it was sent, by two hosts' clocks; the least
        self._closed = False
        self.progress: float | None = None  # in [0, 1] while it learns
        # A group of its own: it waits while images are handled.
        self._service = node.create_service(Trigger, '~/recalibrate', self._answer,
                                            callback_group=MutuallyExclusiveCallbackGroup())

    def image(self, sent_ns: int) -> None:
        """Nothing; an image came that was sent at `sent_ns`, by its sender's clock."""
        heard_ns, late_ns = time.monotonic_ns(), time.time_ns() - sent_ns
        if late_ns - self._late_ns > _SKEW_NS:  # the first one, or a clock was set
            self._least_ns = late_ns
        self._least_ns = min(self._least_ns, late_ns)
        self._heard_ns, self._late_ns = heard_ns, late_ns
        self._polls = 0

    def poll(self) -> None:
        """Nothing; who waits for the images before the call goes on once they have come."""
        self._polls += 1
        skew_ns = self._least_ns if abs(self._least_ns) > _SKEW_NS else 0
        sent_ns = self._heard_ns - (self._late_ns - skew_ns)
        for called_ns, future in list(self._waiting):
            if self._polls >= _QUIET_POLLS or sent_ns > called_ns:
                self._waiting.remove((called_ns, future))
                future.set_result(None)

    def close(self) -> None:
        """Nothing; what is being learned is dropped. Who asked gets no answer any more."""
        self._closed = True
        self._waiting = []
        self._node.destroy_service(self._service)
        self._worker.close()

    async def _answer(self, _: Any, answer: Trigger.Response) -> Trigger.Response:
        # What was published before the call shall count, also when it still waits in the queue.
        if self._node.active:
            await self._later(
                lambda future: self._waiting.append((time.monotonic_ns(), future)))
        try:
            if not self._closed:
                adopt = await self._learned()
            if self._closed or adopt is None:
                answer.message = 'the node was cleaned up meanwhile; configure it and call again'
                return answer
            calibration = adopt()
        except (UserError, OSError) as error:
            answer.message = ' '.join(str(error).split())
            return answer
        self._done()
        self._keep(calibration, answer)
        return answer

    def _keep(self, calibration: Any, answer: Trigger.Response) -> None:
        """Nothing; says what is in force now, and whether it outlives the node."""
        logger = self._node.get_logger()
        try:
            answer.message = describe(calibration) + self._save(calibration)
        except (UserError, OSError) as error:
            answer.message = (
                f'{describe(calibration)}; it is in force, but ends with the node, for it could '
                f'not be kept: {" ".join(str(error).split())}; mend that and call again')
            logger.error(answer.message)
            return
        answer.success = True
        logger.info(answer.message)

    async def _learned(self) -> Callable[[], Any] | None:
        """What puts the new calibration in force; raises what calibrating raises."""
        job = self._monitor.recalibration()
        self.progress = 0.0

        def run() -> Any:
            return job(on_progress=self._note, should_stop=lambda: self._closed)

        found, error = await self._later(lambda future: self._worker.submit(
            run, lambda *result: future.set_result(result)))
        self.progress = None
        if error is not None:
            raise error
        return found

    async def _later(self, begin: Callable[[Future], None]) -> Any:
        """The result of the future that `begin` is given."""
        future: Future = Future(executor=self._node.executor)
        begin(future)
        return await future

    def _note(self, share: float) -> None:
        self.progress = share
