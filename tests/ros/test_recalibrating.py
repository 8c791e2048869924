"""What the surprise node does while a recalibration learns."""

from __future__ import annotations

import dataclasses
import json
import threading
import time

import numpy as np
import pytest
from ros_toys import image
from std_srvs.srv import Trigger
from surprise_rig import START, TICK, Rig, ToyMonitor

from lewm_core.types import Frame, UserError
from lewm_ros.calibrations import save_calibration


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


@pytest.mark.parametrize('set_back', [False, True])  # from the first image on, or later
def test_a_camera_whose_clock_is_an_hour_behind_does_not_keep_a_recalibration_waiting(
        host, two_room, set_back):
    """The camera of a robot without a battery-backed clock sends, by its own clock, long before
    the call: it was answered when that clock had come so far, or the camera was off.
    """
    rig = Rig(host, ToyMonitor(two_room))
    rig.drive(31)
    assert host.wait_for(lambda: len(rig.bench.statuses) == 6)
    hear, ahead_ns = rig.node._on_image, 0 if set_back else -3600 * 10 * TICK

    def frame(k):
        host.call(lambda: hear(image(START + k * TICK), {
            'source_timestamp': time.time_ns() + ahead_ns}))

    frame(31)
    ahead_ns = -3600 * 10 * TICK
    frame(32)
    client = rig.bench.create_client(Trigger, 'surprise_node/recalibrate')
    assert host.wait_for(client.service_is_ready)
    answer = host.call(lambda: client.call_async(Trigger.Request()))
    for k in range(33, 400):
        if not answer.done():
            frame(k)
            time.sleep(0.01)
    assert answer.done() and answer.result().success


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


def calibrated(checkpoint, drive=300):
    """A monitor of the checkpoint, and its calibration on a short drive."""
    from lewm_core.checkpoint import load_checkpoint
    from lewm_core.config import SurpriseConfig
    from lewm_core.surprise import SurpriseMonitor
    monitor, rng = SurpriseMonitor(load_checkpoint(checkpoint)), np.random.default_rng(0)
    for k in range(drive):
        pixels = np.full((64, 64, 3), rng.integers(255), np.uint8)
        monitor.update(Frame(k, pixels), np.zeros(2) if k else None)
    return monitor.recalibrate(SurpriseConfig(promised_per_hour=900.0))


def test_a_calibration_is_not_written_into_a_checkpoint_that_has_become_another_model(checkpoint):
    """Trained anew while the node watched, the file lost its own calibration to one of the former
    model, and no surprise node could be configured with it any more.
    """
    import torch

    from lewm_core.checkpoint import load_checkpoint, save_checkpoint
    calibration, trained = calibrated(checkpoint), load_checkpoint(checkpoint)
    with torch.no_grad():
        next(trained.model.parameters()).mul_(2)
    save_checkpoint(checkpoint, dataclasses.replace(trained, calibration=None))
    with pytest.raises(UserError, match='has become another model'):
        save_calibration(calibration, '', checkpoint)
    assert load_checkpoint(checkpoint).calibration is None


def test_a_calibration_is_written_where_a_link_leads(checkpoint, tmp_path):
    """A link such as `current.safetensors` became a copy of the model, which the next training no
    longer reached, and the model itself was left without the calibration.
    """
    from lewm_core.checkpoint import read_metadata
    file, links = tmp_path / 'calibration.json', (tmp_path / 'link.json', tmp_path / 'current')
    file.write_text('{}')
    for link, target in zip(links, (file, checkpoint)):
        link.symlink_to(target)
    calibration = calibrated(checkpoint)
    where = save_calibration(calibration, *map(str, links))
    assert all(link.is_symlink() and str(link) in where for link in links)
    kept = json.loads(json.dumps(calibration.to_dict()))
    assert json.loads(file.read_text()) == read_metadata(checkpoint)['calibration'] == kept
