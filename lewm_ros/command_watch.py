"""Whether somebody else commands the robot: a robot does what it was told last, by anyone."""

from __future__ import annotations

import time

from rclpy.node import Node
from rclpy.publisher import Publisher

_EVERY_S = 1.0
_UNKNOWN = '_NODE_NAME_UNKNOWN_'  # rmw's name for one whose node isn't known, or isn't of ROS


class CommandWatch:
    """The other publishers on a node's command topic, looked up once a second at most.

    It only tells: which of two commands counts is for a multiplexer (twist_mux) to decide.
    """

    def __init__(self, node: Node, commands: Publisher) -> None:
        self._node, self._commands = node, commands
        self._own = node.get_fully_qualified_name()
        self._looked_s = float('-inf')
        self._logged: set[str] = set()
        self.others: list[str] = []

    def odd(self, driving: bool) -> str:
        """What is odd about the topic while the node drives; mostly empty.

        A node that doesn't drive is silent, and others may have the topic. Each name is logged
        once.
        """
        if time.monotonic() - self._looked_s >= _EVERY_S:
            self._look()
        if not self.others or not driving:
            return ''
        sentence = (f'others publish on {self._commands.topic_name!r}, too '
                    f'({", ".join(self.others)}): the robot follows whichever command came last, '
                    'so remap them apart and let a multiplexer such as twist_mux choose')
        if not self._logged.issuperset(self.others):
            self._logged.update(self.others)
            self._node.get_logger().warning(sentence)
        return sentence

    def _look(self) -> None:
        self._looked_s = time.monotonic()
        found = self._node.get_publishers_info_by_topic(self._commands.topic_name)
        names = sorted('an unknown node' if info.node_name == _UNKNOWN else
                       f'{info.node_namespace.rstrip("/")}/{info.node_name}' for info in found)
        if self._own in names:  # itself; a second node of this name stays in the list
            names.remove(self._own)
        self.others = names
