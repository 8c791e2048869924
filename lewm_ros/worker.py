"""One worker thread for the model: jobs in order, results back in the executor's thread."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Any

from rclpy.exceptions import InvalidHandle
from rclpy.node import Node

Job = Callable[[], Any]
Done = Callable[[Any, 'Exception | None'], None]


class Worker:
    """Runs jobs one after the other, so that what they touch needs no lock.

    A guard condition wakes the node's executor when a job has ended; `done(result, error)` is
    called there, between other callbacks, in the order of the jobs.
    """

    def __init__(self, node: Node, name: str) -> None:
        self._node = node
        self._jobs: SimpleQueue[tuple[Job, Done] | None] = SimpleQueue()
        self._ended: deque[tuple[Done, Any, Exception | None]] = deque()
        self._guard = node.create_guard_condition(self._deliver)
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def submit(self, job: Job, done: Done) -> None:
        """Nothing; `job()` runs in the worker, then `done` in the executor's thread."""
        self._jobs.put((job, done))

    def run(self, job: Job) -> Any:
        """What `job()` gives, when it has run in the worker; raises what it raises.

        For what belongs to its thread before the first job: libraries set themselves up in each.
        """
        ended: Future[Any] = Future()

        def work() -> None:
            try:
                ended.set_result(job())
            except Exception as error:  # raised again where it is waited for
                ended.set_exception(error)

        self._jobs.put((work, lambda *_: None))
        return ended.result()

    def close(self, timeout_s: float = 3.0) -> bool:
        """Whether the worker has ended; what it had not begun is dropped, results too."""
        with contextlib.suppress(Empty):  # the worker may take one between two looks
            while True:
                self._jobs.get_nowait()
        self._jobs.put(None)
        self._thread.join(timeout_s)
        self._ended.clear()
        self._node.destroy_guard_condition(self._guard)
        return not self._thread.is_alive()

    def _work(self) -> None:
        while (item := self._jobs.get()) is not None:
            job, done = item
            try:
                self._ended.append((done, job(), None))
            except Exception as error:  # handed to `done`, which knows what it means
                self._ended.append((done, None, error))
            try:
                self._guard.trigger()
            except InvalidHandle:
                return  # the node has gone meanwhile

    def _deliver(self) -> None:
        while self._ended:
            done, result, error = self._ended.popleft()
            done(result, error)
