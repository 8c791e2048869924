"""What the surprise node does while a recalibration learns."""

from __future__ import annotations

import threading

from std_srvs.srv import Trigger
from surprise_rig import Rig, ToyMonitor


class SlowLearner(ToyMonitor):
    """Learns until it is let go, or told to stop."""

    def __init__(self, spec):
        super().__init__(spec)
        self.go, self.stopped = threading.Event(), threading.Event()

    def recalibration(self):
        def learn(on_progress, should_stop):
            on_progress(0.25)
            while not self.go.wait(0.01):
                if should_stop():
                    self.stopped.set()
                    return None
            return self.recalibrate
        return learn


def learning(host, monitor):
    """A node that has begun to learn from six blocks, and the answer to come."""
    rig = Rig(host, monitor)
    rig.drive(31)
    client = rig.bench.create_client(Trigger, 'surprise_node/recalibrate')
    assert host.wait_for(client.service_is_ready)
    answer = host.call(lambda: client.call_async(Trigger.Request()))
    assert host.wait_for(lambda: rig.node.diagnose()[2].get('recalibrated') == 0.25)
    return rig, answer


def test_blocks_are_scored_while_a_recalibration_learns_and_diagnostics_say_how_far(host,
                                                                                    two_room):
    """Learning takes ten seconds, in which nothing must go unseen."""
    monitor = SlowLearner(two_room)
    rig, answer = learning(host, monitor)
    rig.drive(30, first=31, grey=lambda k: 200)
    assert host.wait_for(lambda: len(rig.bench.statuses) == 12) and not answer.done()
    monitor.go.set()
    assert host.wait_for(answer.done) and answer.result().success
    assert 'recalibrated' not in rig.node.diagnose()[2]


def test_a_node_that_is_cleaned_up_stops_learning(host, two_room):
    monitor = SlowLearner(two_room)
    rig, _ = learning(host, monitor)
    for step in ('deactivate', 'cleanup', 'configure', 'activate'):
        host.call(getattr(rig.node, f'trigger_{step}'))
    assert monitor.stopped.is_set() and monitor.calibration is None and rig.node.active
    monitor.go.set()
    rig.drive(31)
    assert rig.call('recalibrate').success


def test_a_calibration_that_cannot_be_written_is_said_to_be_in_force_all_the_same(
        host, two_room, tmp_path):
    """On a full disk the answer was no more than that of the checkpoint, so that it read as if the
    old thresholds still held; and an anomaly that was on by the old ones stayed on.
    """
    (tmp_path / 'file').write_text('')
    monitor = ToyMonitor(two_room)
    rig = Rig(host, monitor, calibration_file=str(tmp_path / 'file' / 'calibration.json'))
    rig.drive(31, grey=lambda k: 200)
    assert host.wait_for(lambda: rig.bench.flags[-1].data)
    answer = rig.call('recalibrate')
    assert not answer.success and monitor.calibration is not None
    assert 'calibrated on 6 blocks' in answer.message and 'it is in force' in answer.message
    assert 'Not a directory' in answer.message or 'File exists' in answer.message
    assert host.wait_for(lambda: not rig.bench.flags[-1].data)
