"""train_from_bags as a job that is a node: it finishes, refuses, stops, and goes on."""

from __future__ import annotations

import array
import json
import logging
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from geometry_msgs.msg import TwistStamped
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.serialization import serialize_message
from sensor_msgs.msg import Image
from std_msgs.msg import Float32, Float64
from std_srvs.srv import Trigger

from lewm_core.checkpoint import load_checkpoint, read_metadata
from lewm_core.data import Dataset
from lewm_core.types import UserError
from lewm_ros.bag_writer import BagWriter
from lewm_ros.bags_run import Claim
from lewm_ros.train_from_bags import TrainFromBags, usage

SIZE, FRAMES, EPISODES = 16, 40, 10
SPEC = f"""
name: toy
rate_hz: 10.0
cameras:
  - {{name: top, topic: camera, width: {SIZE}, height: {SIZE}}}
action:
  topic: cmd_vel
  type: geometry_msgs/msg/TwistStamped
  latency_s: 0.05
  fields:
    - {{path: twist.linear.x, min: -1.0, max: 1.0}}
"""
SMALL = ['model=tiny', f'model.image_size={SIZE}', 'model.conv_channels=[8,8]',
         'model.latent_dim=4', 'model.projector_hidden=8', 'model.predictor_depth=1',
         'model.predictor_width=8', 'model.predictor_heads=1', 'model.predictor_head_dim=8',
         'model.predictor_mlp=8', 'model.sigreg_projections=8', 'train.batch_size=8',
         'train.log_every=1', 'train.checkpoint_every=10', 'train.device=cpu', 'train.threads=1',
         'train.tensorboard=false', 'train.proposal_steps=3', 'train.distance_steps=3',
         'train.uncertainty_steps=3']


def stamped(message: Any, stamp_ns: int) -> Any:
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp_ns, 10**9)
    return message


@pytest.fixture(scope='module')
def recording(tmp_path_factory) -> tuple[Path, Path]:
    """A bag of a brightness that the command moves, and its robot spec."""
    folder = tmp_path_factory.mktemp('recording')
    (folder / 'toy.yaml').write_text(SPEC)
    writer = BagWriter(folder / 'bag')
    writer.add_topic('/camera', 'sensor_msgs/msg/Image')
    writer.add_topic('/cmd_vel', 'geometry_msgs/msg/TwistStamped')
    rng, stamp, level = np.random.default_rng(0), 10**12, 128.0
    for _ in range(EPISODES):
        for _ in range(FRAMES):
            image = Image(width=SIZE, height=SIZE, step=3 * SIZE, encoding='rgb8')
            image.data = array.array('B', np.full(3 * SIZE * SIZE, level, np.uint8).tobytes())
            command = TwistStamped()
            command.twist.linear.x = float(rng.uniform(-1, 1))
            for topic, message in (('/camera', image), ('/cmd_vel', command)):
                writer.write(topic, stamp, serialize_message(stamped(message, stamp)))
            level = float(np.clip(level + 40 * command.twist.linear.x, 0, 255))
            stamp += 10**8
        stamp += 10**9
    return writer.close(), folder / 'toy.yaml'


def words(recording: tuple[Path, Path], output: Path, *more: str, steps: int = 4) -> list[str]:
    bag, robot = recording
    return [f'bags={bag}', f'robot={robot}', f'output={output}', *SMALL, f'train.steps={steps}',
            *more]


class Ears(Node):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__('ears', **kwargs)
        self.progress, self.loss = [], []
        latched = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self.create_subscription(Float32, 'train_from_bags/progress', self.progress.append,
                                 latched)
        self.create_subscription(Float64, 'train_from_bags/loss', self.loss.append, latched)
        self.stopper = self.create_client(Trigger, 'train_from_bags/stop')


def run(host: Any, given: list[str], **kwargs: Any) -> TrainFromBags:
    """The node after its job has ended and it has been stopped."""
    node = host.add(TrainFromBags, words=given, **kwargs)
    assert host.wait_for(lambda: node.exit_code is not None, 120)
    host.remove(node)
    return node


def command(given: list[str]) -> list[str]:
    return [sys.executable, '-m', 'lewm_ros.train_from_bags', *given]


def test_a_bag_becomes_a_dataset_and_a_checkpoint(host, recording, tmp_path):
    ears = host.add(Ears)
    node = run(host, words(recording, tmp_path / 'run'))
    assert node.exit_code == 0
    assert host.wait_for(lambda: ears.progress and ears.progress[-1].data == 1.0 and ears.loss)
    assert math.isfinite(ears.loss[-1].data)
    dataset = Dataset.open(tmp_path / 'run' / 'data.h5')
    assert len(dataset) == FRAMES * EPISODES and len(dataset.ep_len) == EPISODES
    checkpoint = load_checkpoint(tmp_path / 'run' / 'model.safetensors')
    assert checkpoint.metrics['finished'] and checkpoint.metrics['step'] == 4
    assert checkpoint.spec.camera.source_width == SIZE


def test_a_finished_output_is_refused_unless_overwrite_is_asked_for(host, recording, tmp_path):
    output = tmp_path / 'run'
    assert run(host, words(recording, output)).exit_code == 0
    before = (output / 'model.safetensors').read_bytes()
    node = run(host, words(recording, output))
    assert node.exit_code == 1 and 'overwrite=true' in node._sentence
    assert (output / 'model.safetensors').read_bytes() == before
    assert run(host, words(recording, output, 'overwrite=true', steps=2)).exit_code == 0
    assert read_metadata(output / 'model.safetensors')['metrics']['step'] == 2


def test_stop_leaves_a_checkpoint_and_the_same_command_goes_on_from_it(
        host, recording, tmp_path):
    ears, output = host.add(Ears), tmp_path / 'run'
    given = words(recording, output, steps=300)
    node = host.add(TrainFromBags, words=given)
    assert host.wait_for(lambda: ears.loss and ears.stopper.service_is_ready(), 60)
    future = host.call(lambda: ears.stopper.call_async(Trigger.Request()))
    assert host.wait_for(lambda: node.exit_code is not None, 60)
    assert host.wait_for(future.done) and future.result().success
    host.remove(node)
    assert node.exit_code == 0
    metrics = read_metadata(output / 'model.safetensors')['metrics']
    assert 0 < metrics['step'] < 300 and not metrics['finished']
    written = (output / 'data.h5').stat().st_mtime_ns
    assert run(host, given).exit_code == 0
    assert read_metadata(output / 'model.safetensors')['metrics']['finished']
    assert (output / 'data.h5').stat().st_mtime_ns == written
    steps = [json.loads(line)['step'] for line in (output / 'metrics.jsonl').open()]
    assert steps == list(range(1, 301))


@pytest.mark.parametrize('number, code', [(signal.SIGINT, 130), (signal.SIGTERM, 143),
                                          (signal.SIGKILL, -9)])
def test_a_signal_leaves_a_run_that_resumes(
        host, child_environment, recording, tmp_path, number, code):
    output, given = tmp_path / 'run', words(recording, tmp_path / 'run', steps=200)
    child = subprocess.Popen(command(given), env=child_environment, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not (output / 'trainer.pt').exists():
        assert child.poll() is None and time.monotonic() < deadline, child.communicate()
        time.sleep(0.01)
    child.send_signal(number)
    error = child.communicate(timeout=60)[1].decode()
    assert child.returncode == code, error
    assert 'Traceback' not in error
    if number != signal.SIGKILL:
        assert not read_metadata(output / 'model.safetensors')['metrics']['finished']
    assert run(host, given).exit_code == 0
    assert read_metadata(output / 'model.safetensors')['metrics']['step'] == 200
    assert not [p for p in output.rglob('*.partial-*')]


@pytest.mark.parametrize('given, sentence', [
    ([], 'bags is missing'),
    (['bags={bag}', 'robot=no_such_robot'], 'no_such_robot'),
    (['bags={bag}', 'robot={robot}', 'train.steps=many'], 'train.steps'),
])
def test_a_command_that_is_wrong_makes_no_node(host, recording, tmp_path, given, sentence):
    names = {'bag': recording[0], 'robot': recording[1]}
    with pytest.raises(UserError, match=sentence):
        run(host, [f'output={tmp_path / "run"}', *(w.format(**names) for w in given)])


def test_a_bag_that_is_not_there_is_named(host, recording, tmp_path):
    node = run(host, words((Path('/no/such/bag'), recording[1]), tmp_path / 'run'))
    assert node.exit_code == 1 and '/no/such/bag' in node._sentence
    assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize('given, sentence', [
    (['bags={bag}', 'robot={robot}', 'train.stepps=3'], 'did you mean train.steps'),
    (['bags={bag}', 'robot={robot}', *SMALL, 'train.batch_size=100000'], 'batch_size'),
])
def test_a_users_error_is_one_sentence_and_an_exit_code(
        child_environment, recording, tmp_path, given, sentence):
    names = {'bag': recording[0], 'robot': recording[1]}
    done = subprocess.run(
        command([f'output={tmp_path / "run"}', *(w.format(**names) for w in given)]),
        env=child_environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1, done.stderr
    assert sentence in done.stderr and 'Traceback' not in done.stderr
    assert not (tmp_path / 'run' / 'model.safetensors').exists()


def test_a_bad_bag_leaves_no_empty_folder(host, recording, tmp_path):
    broken = tmp_path / 'broken.mcap'
    broken.write_bytes(next(recording[0].glob('*.mcap')).read_bytes()[:5000])
    assert run(host, words((broken, recording[1]), tmp_path / 'run')).exit_code == 1
    assert [p.name for p in tmp_path.iterdir()] == ['broken.mcap']


def test_help_names_the_usage_the_topics_and_every_key(child_environment):
    done = subprocess.run(command(['--help']), env=child_environment, capture_output=True,
                          text=True, timeout=60)
    assert done.returncode == 0 and done.stdout.strip() == usage().strip()
    for text in ('bags=PATH', '~/stop', 'exit code', 'train.steps=', 'model=', '--ros-args'):
        assert text in done.stdout


def test_parameters_and_remappings_are_understood(host, recording, tmp_path):
    bag, robot = recording
    heard: list[float] = []
    ears = host.add(Ears)
    host.call(lambda: ears.create_subscription(Float64, 'somewhere', lambda m: heard.append(
        m.data), 10))
    node = run(host, [*SMALL, 'train.steps=2'], parameters={
        'bags': str(bag), 'robot': str(robot), 'output': str(tmp_path / 'run'),
        'overrides': ['train.steps=7', 'train.seed=5']}, remaps={'~/loss': 'somewhere'})
    assert node.exit_code == 0
    assert host.wait_for(lambda: heard)
    assert node.job.train.steps == 2 and node.job.train.seed == 5


def test_a_camera_that_the_model_cannot_take_is_refused_before_the_conversion(
        host, recording, tmp_path):
    """A spec with the camera's own 320x240 was converted whole before training refused it, and
    the folder then belonged to that spec."""
    given = words(recording, tmp_path / 'run', 'model.image_size=32')
    node = run(host, given)
    assert node.exit_code == 1 and 'takes images of 32x32' in node._sentence
    assert not (tmp_path / 'run').exists()


def test_a_bag_that_is_left_out_is_named_with_its_reason(host, recording, tmp_path, caplog):
    """Of two bags one could not be read, and all that was said is "1 bags failed"."""
    broken = tmp_path / 'broken.mcap'
    broken.write_bytes(next(recording[0].glob('*.mcap')).read_bytes()[:5000])
    bags = Path(f'{recording[0]},{broken}')
    with caplog.at_level(logging.WARNING):
        assert run(host, words((bags, recording[1]), tmp_path / 'run')).exit_code == 0
    said = [r.getMessage() for r in caplog.records if 'is not trained on' in r.getMessage()]
    assert len(said) == 1 and said[0].startswith(f'{broken} is not trained on: ')


def test_a_killed_conversion_is_begun_anew_and_a_finished_one_is_kept(tmp_path):
    claim = Claim(tmp_path, {'bags': ['a'], 'robot': 'r'})
    assert not claim.complete()
    claim.stake()
    assert not claim.complete()
    claim.data.write_bytes(b'whole')
    assert not claim.complete()
    claim.seal()
    assert claim.complete()
    claim.data.write_bytes(b'touched')
    os.utime(claim.data, ns=(1, 1))
    assert not claim.complete()


def test_data_of_another_recording_is_neither_used_nor_replaced(tmp_path):
    mine = Claim(tmp_path, {'bags': ['a'], 'robot': 'r'})
    mine.data.write_bytes(b'by hand')
    with pytest.raises(UserError, match='not made by train_from_bags'):
        mine.complete()
    mine.seal()
    with pytest.raises(UserError, match='other bags'):
        Claim(tmp_path, {'bags': ['b'], 'robot': 'r'}).complete()
    (tmp_path / 'conversion.json').write_text('{')
    with pytest.raises(UserError, match='cannot be read as JSON'):
        mine.complete()


def test_a_bad_bag_leaves_an_earlier_run_as_it_was(host, recording, tmp_path):
    output = tmp_path / 'run'
    assert run(host, words(recording, output)).exit_code == 0
    files = {p.name: p.read_bytes() for p in output.iterdir() if p.is_file()}
    broken = tmp_path / 'broken.mcap'
    broken.write_bytes(next(recording[0].glob('*.mcap')).read_bytes()[:5000])
    node = run(host, words((broken, recording[1]), output, 'overwrite=true'))
    assert node.exit_code == 1 and 'broken.mcap' in node._sentence
    assert {p.name: p.read_bytes() for p in output.iterdir() if p.is_file()} == files
