"""Nodes inside a plain Python process, in a ROS context and domain of their own."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.signals import SignalHandlerOptions

from lewm_ros.leaving import leave


class Host:
    """Runs nodes in one thread with one executor; a context manager that stops them safely.

    `domain_id` None takes ROS_DOMAIN_ID. The process's global ROS context is left alone, so a
    Host can live beside another one or inside a program with nodes of its own. What a node's
    callback raises stops the nodes and is raised again by `call`, `wait_for` and on leaving.
    """

    def __init__(self, domain_id: int | None = None) -> None:
        self.context = Context()
        rclpy.init(args=[], context=self.context, domain_id=domain_id,
                   signal_handler_options=SignalHandlerOptions.NO)
        self.nodes: list[Any] = []
        self.error: BaseException | None = None
        self._remnants = False  # of a node whose constructor raised: in the domain until collected
        self._executor = SingleThreadedExecutor(context=self.context)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._spin, name='lewm_ros_host', daemon=True)
        self._thread.start()

    def __enter__(self) -> Host:
        return self

    def __exit__(self, kind: Any, *_: object) -> None:
        self.close()
        if kind is None and self.error is not None:
            raise self.error

    def add(self, make: Callable[..., Any], *, parameters: dict[str, Any] | None = None,
            remaps: dict[str, str] | None = None, namespace: str | None = None,
            name: str | None = None, **kwargs: Any) -> Any:
        """The node `make(context=…, …)`, added and started; other arguments are handed on.

        `name` renames the node. Raises what its constructor or `start` raises.
        """
        words = [f'{old}:={new}' for old, new in (remaps or {}).items()]
        words += [f'__node:={name}'] if name else []
        cli = ['--ros-args', *(w for word in words for w in ('-r', word))] if words else None
        overrides = [Parameter(key, value=value) for key, value in (parameters or {}).items()]

        def build() -> Any:
            try:
                node = make(context=self.context, cli_args=cli, namespace=namespace,
                            use_global_arguments=False, parameter_overrides=overrides, **kwargs)
            except BaseException:
                self._remnants = True
                raise
            self.nodes.append(node)
            self._executor.add_node(node)
            if hasattr(node, 'start'):
                node.start()
            return node

        return self.call(build)

    def remove(self, node: Any) -> None:
        """Nothing; stops and destroys one node."""
        self.call(lambda: self._end(node))

    def call(self, function: Callable[[], Any], timeout_s: float = 60.0) -> Any:
        """What `function()` returns, run between callbacks in the executor's thread."""
        if threading.current_thread() is self._thread:
            return function()
        if self.error is not None:
            raise self.error
        future: Future = Future()

        def run() -> None:
            try:
                future.set_result(function())
            except BaseException as error:
                future.set_exception(error)

        self._executor.create_task(run)
        return future.result(timeout_s)

    def wait_for(self, ready: Callable[[], Any], timeout_s: float = 10.0) -> bool:
        """Whether `ready()` became true within `timeout_s`; raises what a callback has raised."""
        deadline = time.monotonic() + timeout_s
        while not ready():
            if self.error is not None:
                raise self.error
            if time.monotonic() > deadline:
                return False
            time.sleep(0.002)
        return True

    def close(self) -> None:
        """Nothing; stops the nodes, newest first, and leaves the domain."""
        if not self.context.ok():
            return
        self._closing.set()
        self._executor.create_task(lambda: None)  # a wake alone is waited on to its end
        self._thread.join()
        self._executor.shutdown()
        if self._remnants:
            gc.collect()
        rclpy.shutdown(context=self.context)

    def _spin(self) -> None:
        try:
            while not self._closing.is_set():
                self._executor.spin_once(timeout_sec=0.1)
        except BaseException as error:
            self.error = error
        for node in reversed(list(self.nodes)):
            try:
                self._end(node, last=len(self.nodes) == 1)
            except Exception as error:
                self.error = self.error or error

    def _end(self, node: Any, last: bool = False) -> None:
        try:
            if hasattr(node, 'stop'):
                node.stop()
        finally:
            self.nodes.remove(node)
            self._executor.remove_node(node)
            leave(node) if last else node.destroy_node()
