"""A world small enough to see through (a dot on a line, one command), and one who listens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import TwistStamped
from nav_msgs.msg import Odometry
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from lewm_ros.decode import decode
from lewm_ros.fields import stamp_ns
from lewm_ros.sim_robot import SimRobot

SPEC = """
name: toy
rate_hz: 10.0
max_age_s: 0.5
cameras:
  - {name: top, topic: camera/image_raw, type: TYPE, width: 16, height: 16,
     source_width: 16, source_height: 16}
action:
  topic: cmd_vel
  type: geometry_msgs/msg/TwistStamped
  latency_s: 0.05
  timeout_s: 0.5
  fields:
    - {path: twist.linear.x, min: -1.0, max: 1.0}
state:
  - topic: odom
    type: nav_msgs/msg/Odometry
    fields:
      - {path: pose.pose.position.x, name: x}
episode_topic: episode
"""


def write_spec(folder: Path, camera_type: str = 'sensor_msgs/msg/Image', **replaced: str) -> Path:
    """The path of the toy's robot spec; `replaced` exchanges words of it."""
    text = SPEC.replace('TYPE', camera_type)
    for old, new in replaced.items():
        text = text.replace(old, new)
    path = folder / 'toy.yaml'
    path.write_text(text)
    return path


@dataclass(frozen=True)
class Task:
    """From one place to another."""

    start: float
    goal: float


class Line(gymnasium.Env):
    """A dot of radius 0.05 on [0, 1] that moves by a tenth of the command each step.

    `applied` lists what it was told, for a test to compare with what was said.
    """

    radius = 0.05
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self) -> None:
        self.x, self.colour, self.applied, self.teleports = 0.5, 255, [], 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
        """The picture at a place that the seed decides."""
        super().reset(seed=seed)
        self.x = float(self.np_random.uniform())
        return self.render(), {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict]:
        """Gymnasium's five; never ends by itself."""
        self.applied.append(float(action[0]))
        self.x = float(np.clip(self.x + 0.1 * action[0], 0.0, 1.0))
        return None, 0.0, False, False, {}

    def render(self) -> np.ndarray:
        """The dot, one column wide."""
        pixels = np.zeros((16, 16, 3), np.uint8)
        pixels[:, round(15 * self.x)] = self.colour
        return pixels

    def state(self) -> dict[str, float]:
        """Where it is."""
        return {'x': self.x}

    def sample_task(self, rng: np.random.Generator) -> Task:
        """From left to right; one in three is solved already, which a caller must notice."""
        if rng.uniform() < 1 / 3:
            return Task(0.5, 0.5)
        return Task(float(rng.uniform(0.0, 0.3)), float(rng.uniform(0.7, 1.0)))

    def reset_to(self, task: Task) -> None:
        """At the task's start."""
        self.x = task.start

    def goal_image(self, task: Task) -> np.ndarray:
        """The picture at the goal."""
        kept, self.x = self.x, task.goal
        pixels = self.render()
        self.x = kept
        return pixels

    def reached(self, goal: float, radii: float = 2.0) -> bool:
        """Whether it is within so many radii of the goal."""
        return abs(self.x - goal) <= radii * self.radius

    def teleport(self, rng: np.random.Generator, min_radii: float = 6.0) -> None:
        """To the other half."""
        self.teleports += 1
        self.x = (self.x + 0.5) % 1.0

    def set_colour(self, kind: Any = None) -> None:
        """Darker."""
        self.colour = 100

    def clear_colour(self) -> None:
        """As before."""
        self.colour = 255

    def explorer(self, rng: np.random.Generator) -> Callable[[Any], np.ndarray]:
        """Uniformly random commands."""
        return lambda _: rng.uniform(-1.0, 1.0, 1)

    def line_action(self, goal: float) -> np.ndarray:
        """Straight there."""
        return np.clip(np.array([10 * (goal - self.x)]), -1.0, 1.0)


DEEP = QoSProfile(depth=5000)
LATCHED = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
TICK_NS = 100_000_000


class Ears(Node):
    """Hears all that the robot says; answers frames by `answer`, goals by their header."""

    def __init__(self, camera: type = Image, answer: Any = None, **kwargs: Any) -> None:
        super().__init__('ears', **kwargs)
        self.frames, self.odometry, self.commands, self.markers = [], [], [], []
        self.events, self.goals, self.clock, self.trials = [], [], [], []
        self.published: dict[str, int] = {}
        self.answer = answer
        add = self.create_subscription
        add(camera, 'camera/image_raw', self._on_frame, DEEP)
        add(Odometry, 'odom', self.odometry.append, DEEP)
        add(Header, 'episode', self.markers.append, DEEP)
        add(Header, 'sim_robot/event', self.events.append, DEEP)
        add(Clock, '/clock', self.clock.append, DEEP)
        add(Image, 'goal_image', self._on_goal, LATCHED)
        add(DiagnosticArray, 'sim_robot/trial', self._on_trial, LATCHED)
        add(DiagnosticArray, 'sim_robot/published', self._on_published, LATCHED)
        if answer is None:
            add(TwistStamped, 'cmd_vel', self.commands.append, DEEP)
        self._command = self.create_publisher(TwistStamped, 'cmd_vel', DEEP) if answer else None
        self._accepted = self.create_publisher(Header, 'planner_node/goal_accepted', LATCHED)

    def _on_frame(self, message: Any) -> None:
        self.frames.append(message)
        if self._command is None:
            return
        for value, late_ns in self.answer(len(self.frames) - 1, message):
            command = TwistStamped()
            stamp = stamp_ns(message) + late_ns
            command.header.stamp.sec, command.header.stamp.nanosec = divmod(stamp, 10**9)
            command.twist.linear.x = value
            self.commands.append(command)
            self._command.publish(command)

    def _on_goal(self, message: Image) -> None:
        self.goals.append(message)
        self._accepted.publish(message.header)

    def _on_trial(self, message: DiagnosticArray) -> None:
        self.trials += [{v.key: v.value for v in s.values} for s in message.status]

    def _on_published(self, message: DiagnosticArray) -> None:
        self.published = {s.name: int(s.values[0].value) for s in message.status}


def run(host: Any, tmp_path: Path, ears: Ears | None, *, camera: str = 'sensor_msgs/msg/Image',
        world: Line | None = None, **parameters: Any) -> SimRobot:
    """The robot after it has come to its end, with all that it said received."""
    robot = host.add(SimRobot, world=world or Line(), parameters={
        'robot': str(write_spec(tmp_path, camera)), 'wait_subscribers': 1,
        'recorded_topic': '', **parameters})
    assert host.wait_for(lambda: robot.exit_code is not None, 60)
    assert robot.exit_code == 0
    if ears is not None:
        assert host.wait_for(lambda: len(ears.frames) == robot.drive.ticks)
    return robot


def positions(frames: list[Image]) -> list[int]:
    """The dot's column in each picture."""
    return [int(decode(f)[0].any(axis=-1).argmax()) for f in frames]
