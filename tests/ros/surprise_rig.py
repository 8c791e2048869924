"""A surprise node with a toy monitor and the robot around it, for the tests of what it says."""

from __future__ import annotations

from types import SimpleNamespace

from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import TwistStamped
from rclpy.node import Node
from ros_toys import LATCHED, image
from sensor_msgs.msg import Image
from std_msgs.msg import Bool, Float64, Header
from std_srvs.srv import Trigger

from lewm_core.types import Surprise, UserError
from lewm_ros.fields import set_stamp
from lewm_ros.surprise_node import SurpriseNode

TICK = 100_000_000
START = 1_000_000_000_000


class ToyMonitor:
    """Scores a block by the grey value of its last frame; above 100 is an exceedance."""

    def __init__(self, spec, frameskip=5, calibration=None):
        self.spec, self.frameskip, self.calibration = spec, frameskip, calibration
        self.given, self.scores, self.ticks, self.cluster = [], [], -1, False

    wants_frame = True

    def warm_up(self):
        return 0.001

    def reset(self):
        self.given.append('reset')
        self.ticks, self.cluster = -1, False

    def update(self, frame, action):
        grey = int(frame.pixels[0, 0, 0])
        self.given.append((frame.stamp_ns, grey,
                           None if action is None else round(float(action[0]), 4)))
        self.ticks += 1
        if self.ticks < 1 or self.ticks % self.frameskip:
            return None
        exceeds = grey > 100
        alarm, self.cluster = exceeds and not self.cluster, exceeds
        self.scores.append(float(grey))
        return Surprise(frame.stamp_ns, grey / 3, 0.5, 100.0, exceeds, alarm,
                        'shift' if alarm else '', grey / 9, 12.0)

    def recalibration(self):
        return lambda on_progress, should_stop: self.recalibrate

    def recalibrate(self):
        if len(self.scores) < 3:
            raise UserError(f'{len(self.scores)} blocks were watched, but at least 3 are needed; '
                            'drive on and call again')
        self.calibration = SimpleNamespace(
            blocks=len(self.scores), hours=1.5, threshold=100.0, promised_per_hour=2.0,
            cusum_threshold=12.0, extrapolated=False, note='', uncertainty='',
            to_dict=lambda: {'blocks': len(self.scores)})
        return self.calibration

    def clear_scores(self):
        self.scores.clear()


class Bench(Node):
    """A camera and a driver, and an ear for all that the surprise node says."""

    def __init__(self, **kwargs):
        super().__init__('bench', **kwargs)
        self.camera = self.create_publisher(Image, 'camera/image_raw', 3000)
        self.command = self.create_publisher(TwistStamped, 'cmd_vel', 3000)
        self.marker = self.create_publisher(Header, 'episode', 10)
        self.scores, self.statuses, self.alerts, self.flags, self.health = [], [], [], [], []
        for kind, topic, heard, qos in (
                (Float64, 'score', self.scores, 3000),
                (DiagnosticArray, 'status', self.statuses, 3000),
                (DiagnosticArray, 'alert', self.alerts, 100),
                (Bool, 'is_anomaly', self.flags, LATCHED)):
            self.create_subscription(kind, f'surprise_node/{topic}', heard.append, qos)
        self.create_subscription(DiagnosticArray, '/diagnostics', self.health.append, 10)


class Rig:
    """A surprise node with a toy monitor, and the robot around it, in one host."""

    def __init__(self, host, monitor, remaps=None, namespace=None, **params):
        self.host, self.monitor = host, monitor
        self.bench = host.add(Bench, remaps=remaps, namespace=namespace)
        self.node = host.add(SurpriseNode, monitor=monitor, remaps=remaps, namespace=namespace,
                             parameters={'reliable_camera': True, 'queue_depth': 3000, **params})
        bench = self.bench
        assert host.wait_for(lambda: bench.camera.get_subscription_count()
                             and bench.command.get_subscription_count()
                             and bench.marker.get_subscription_count()
                             and all(bench.count_publishers(f'surprise_node/{topic}')
                                     for topic in ('score', 'status', 'alert', 'is_anomaly')))
        assert host.wait_for(lambda: bench.flags)
        monitor.given.clear()

    def frame(self, k, grey=0, width=64):
        self.host.call(lambda: self.bench.camera.publish(
            image(START + k * TICK, grey, width=width, height=width)))

    def command(self, k, value=None, stamp=None):
        message = TwistStamped()
        set_stamp(message.header.stamp, START + k * TICK if stamp is None else stamp)
        message.twist.linear.x = k / 100 if value is None else value
        self.host.call(lambda: self.bench.command.publish(message))

    def drive(self, frames, first=0, grey=lambda k: 0):
        for k in range(first, first + frames):
            self.frame(k, grey(k))
            self.command(k)

    def steps(self, count):
        """The first `count` things the monitor was given, once there are as many."""
        given = self.monitor.given
        assert self.host.wait_for(lambda: len(given) >= count, 20), given
        return given[:count]

    def call(self, service):
        client = self.bench.create_client(Trigger, f'surprise_node/{service}')
        assert self.host.wait_for(client.service_is_ready)
        future = self.host.call(lambda: client.call_async(Trigger.Request()))
        assert self.host.wait_for(future.done, 60)
        return future.result()
