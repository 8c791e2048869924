"""What the surprise node says: a score a block, an alert an alarm, and whether all is well."""

from __future__ import annotations

from typing import Any

from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node
from rclpy.qos import QoSProfile
from std_msgs.msg import Bool, Float64

from lewm_core.types import Surprise
from lewm_ros.fields import set_stamp
from lewm_ros.node import ERROR, OK, WARN, diagnostic_array
from lewm_ros.serving import LATCHED


class SurpriseTopics:
    """The node's publishers. `anomaly`: exceedances came at most `cluster_blocks` blocks ago."""

    def __init__(self, node: Node, cluster_blocks: int) -> None:
        self._node = node
        self._name = node.get_fully_qualified_name().lstrip('/')
        self._cluster_blocks = cluster_blocks
        self._quiet = cluster_blocks  # blocks since the last exceedance
        self.anomaly = False
        deep = QoSProfile(depth=1000)  # a listener that stalls for a while misses no block
        self._score = node.create_publisher(Float64, '~/score', deep)
        self._status = node.create_publisher(DiagnosticArray, '~/status', deep)
        self._alert = node.create_publisher(DiagnosticArray, '~/alert', deep)
        self._is_anomaly = node.create_publisher(Bool, '~/is_anomaly', LATCHED)

    def show(self, surprise: Surprise) -> None:
        """Nothing; publishes one block's score, and the alert when it raises the alarm."""
        self._score.publish(Float64(data=float(surprise.score)))
        status = self._describe(surprise)
        self._status.publish(status)
        if surprise.alarm:
            self._alert.publish(status)
        self._quiet = 0 if surprise.exceeds else self._quiet + 1
        self._set(self._quiet < self._cluster_blocks)

    def calm(self) -> None:
        """Nothing; there is no anomaly as far as is known."""
        self._quiet = self._cluster_blocks
        self._set(False, always=True)

    def _set(self, anomaly: bool, always: bool = False) -> None:
        if always or anomaly != self.anomaly:
            self.anomaly = anomaly
            self._is_anomaly.publish(Bool(data=anomaly))

    def _describe(self, surprise: Surprise) -> DiagnosticArray:
        """One status: its stamp is the image's, its numbers are exact."""
        level, sentence = OK, 'as expected'
        if surprise.alarm and surprise.score > surprise.threshold:
            level, sentence = ERROR, 'alarm: this is not what the model expects'
        elif surprise.alarm:
            level, sentence = ERROR, 'alarm: for a while it has not been what the model expects'
        elif surprise.exceeds:
            level, sentence = WARN, 'still not what the model expects'
        values: dict[str, Any] = {
            'score': repr(float(surprise.score)), 'p_value': repr(float(surprise.p_value)),
            'threshold': repr(float(surprise.threshold)), 'cusum': repr(float(surprise.cusum)),
            'cusum_threshold': repr(float(surprise.cusum_threshold)),
            'exceeds': _word(surprise.exceeds), 'alarm': _word(surprise.alarm),
            'kind': surprise.kind}
        stamp = Time()
        set_stamp(stamp, surprise.stamp_ns)
        return diagnostic_array(stamp, self._name, level, sentence, values)

    def close(self) -> None:
        """Nothing; all topics end."""
        for publisher in (self._score, self._status, self._alert, self._is_anomaly):
            self._node.destroy_publisher(publisher)


def _word(value: bool) -> str:
    return 'true' if value else 'false'
