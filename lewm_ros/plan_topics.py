"""What a plan looks like, for those who watch: `~/plan` and `~/cost`, made only if heard."""

from __future__ import annotations

from rclpy.duration import Duration
from rclpy.node import Node
from std_msgs.msg import Float64
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from lewm_core.robot import RobotSpec
from lewm_core.types import Plan
from lewm_ros.fields import set_stamp


class PlanTopics:
    """Publishes each plan's cost, and its commands as a trajectory.

    The trajectory's joints are the action fields and its positions their values in robot units,
    one point a tick from the stamp of the frame on.
    """

    def __init__(self, node: Node, spec: RobotSpec) -> None:
        self._node = node
        self._names = [f.path for f in spec.action.fields]
        self._tick_s = spec.tick_s
        self._plan = node.create_publisher(JointTrajectory, '~/plan', 10)
        self._cost = node.create_publisher(Float64, '~/cost', 10)

    def show(self, plan: Plan) -> None:
        """Nothing; publishes what somebody listens to."""
        if self._cost.get_subscription_count():
            self._cost.publish(Float64(data=float(plan.cost)))
        if self._plan.get_subscription_count():
            self._plan.publish(self._trajectory(plan))

    def _trajectory(self, plan: Plan) -> JointTrajectory:
        message = JointTrajectory(joint_names=self._names)
        set_stamp(message.header.stamp, plan.stamp_ns)
        for tick, values in enumerate(plan.actions):
            start = Duration(seconds=tick * self._tick_s).to_msg()
            message.points.append(JointTrajectoryPoint(positions=[float(v) for v in values],
                                                       time_from_start=start))
        return message

    def close(self) -> None:
        """Nothing; both topics end."""
        self._node.destroy_publisher(self._plan)
        self._node.destroy_publisher(self._cost)
