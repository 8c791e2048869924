"""A recording played over DDS to a live node, and converted from its bag: the same to the bit."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from bag_toys import LOG, START, TICK, S, T, bag_image, command, header, write_bag
from rclpy.node import Node
from rclpy.qos import QoSProfile

from lewm_core.data import Dataset
from lewm_core.robot import RobotSpec
from lewm_ros.bag_reader import open_bag
from lewm_ros.bags import convert
from lewm_ros.fields import message_class
from lewm_ros.surprise_node import SurpriseNode

WIDTH, HEIGHT = 256, 192
EPISODES = (40, 25)


class Scribe:
    """In the place of a model: writes down every frame and action that the node comes to."""

    calibration, wants_frame = None, True

    def __init__(self, spec):
        self.spec, self.steps, self.start = spec, [], True

    def warm_up(self):
        return 0.0

    def reset(self):
        self.start = True

    def update(self, frame, action):
        self.steps.append((frame.stamp_ns, frame.pixels.copy(), action, self.start))
        self.start = False


class Player(Node):
    """Publishes a bag's messages as they are in it, byte for byte."""

    def __init__(self, topics, **kwargs):
        super().__init__('player', **kwargs)
        deep = QoSProfile(depth=1000)
        self.outlets = {name: self.create_publisher(message_class(kind), name, deep)
                        for name, kind in topics.items()}


def seen(k):
    """A textured picture, another one for every k."""
    rng = np.random.default_rng(k)
    coarse = rng.integers(0, 256, (12, 16, 3)).astype(np.float32)
    smooth = cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    return np.clip(smooth + rng.normal(0, 8, smooth.shape), 0, 255).astype(np.uint8)


def messages(kind, namespace):
    """A drive at 10 Hz with jitter; commands of their own rhythm; a marker for each episode."""
    rng, found, start, k = np.random.default_rng(0), [], START, 0
    for frames in EPISODES:
        found.append((start - 1, f'{namespace}/episode', header(start)))
        for i in range(frames):
            stamp = start + i * TICK + int(rng.integers(-S // 100, S // 100)) * (i > 0)
            found.append((stamp, f'{namespace}/camera/image_raw', shown(kind, stamp, seen(k))))
            k += 1
        for at in range(start - TICK, start + frames * TICK, S // 17):
            found.append((at + 5, f'{namespace}/cmd_vel',
                          command(at + 5, *rng.uniform(-0.4, 0.4, 2))))
        start += (frames + 50) * TICK
    return [(topic, LOG + stamp - START, m) for stamp, topic, m in sorted(
        found, key=lambda m: m[0])]


def shown(kind, stamp, rgb):
    if kind == 'raw':
        return bag_image(stamp, rgb[..., ::-1], 'bgr8')
    data = cv2.imencode('.jpg', rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])[1].ravel()
    return T['sensor_msgs/msg/CompressedImage'](header(stamp), 'jpeg', data)


def robot(two_room, kind):
    """The demo's robot with a larger camera, a part of whose picture is seen, in one half."""
    tree = two_room.to_dict()
    tree.pop('state')
    tree['action']['latency_s'] = 0.03
    tree['cameras'][0].update(
        source_width=WIDTH, source_height=HEIGHT, crop=[32, 0, 192, 192],
        type=f'sensor_msgs/msg/{"Image" if kind == "raw" else "CompressedImage"}')
    return RobotSpec.from_dict(tree)


def play(host, bag, spec, namespace, lost=lambda k: False):
    """The steps that a live node makes of the bag: one message at a time, with its own stamps."""
    scribe = Scribe(spec)
    with open_bag(bag) as opened:
        topics = {t.name: t.type for t in opened.topics}
        player = host.add(Player, topics=topics)
        node = host.add(SurpriseNode, monitor=scribe, namespace=namespace or None, parameters={
            'reliable_camera': True, 'queue_depth': 1000, 'grace_s': 60.0})
        assert host.wait_for(lambda: all(outlet.get_subscription_count()
                                         for outlet in player.outlets.values()))
        sent = {'images': 0, 'commands': 0}
        for topic, _, raw in opened.messages(list(topics)):
            key = {'image_raw': 'images', 'cmd_vel': 'commands'}.get(topic.rpartition('/')[2])
            if key == 'images' and lost(sent['images'] + sent.setdefault('lost', 0)):
                sent['lost'] += 1
                continue
            data = bytes(raw)
            host.call(lambda: player.outlets[topic].publish(data))
            if key:
                sent[key] += 1
                assert host.wait_for(lambda: node._count[key] == sent[key])
        host.call(lambda: node._watch(node._builder.flush()))
    return scribe.steps


@pytest.mark.parametrize('kind, namespace', [('raw', ''), ('jpeg', ''), ('jpeg', '/robot_1')])
def test_live_frames_and_actions_are_those_of_the_bag_to_the_bit(
        host, tmp_path, two_room, kind, namespace):
    spec = robot(two_room, kind)
    bag = write_bag(tmp_path / 'bag', messages(kind, namespace))
    report = convert([bag], spec, tmp_path / 'data.h5')
    dataset = Dataset.open(report.output)
    live = play(host, bag, spec, namespace)
    assert [stamp for stamp, *_ in live] == dataset.stamp_ns.tolist()
    assert len(live) == sum(EPISODES) and dataset.ep_len.tolist() == list(EPISODES)
    for row, (_, pixels, action, start) in enumerate(live):
        np.testing.assert_array_equal(dataset.pixels[row], pixels)
        assert start == (row in dataset.ep_offset)
        if not start:
            np.testing.assert_array_equal(dataset.action[row - 1], action.astype(np.float32))


@pytest.mark.parametrize('kind', ['raw', 'jpeg'])
def test_of_a_lossy_delivery_each_frame_that_comes_is_one_of_the_bag_to_the_bit(
        host, tmp_path, two_room, kind):
    spec = robot(two_room, kind)
    bag = write_bag(tmp_path / 'bag', messages(kind, ''))
    dataset = Dataset.open(convert([bag], spec, tmp_path / 'data.h5').output)
    rows = {stamp: row for row, stamp in enumerate(dataset.stamp_ns.tolist())}
    gone = np.random.default_rng(1).random(sum(EPISODES)) < 0.3
    live = play(host, bag, spec, '', lost=lambda k: gone[k])
    assert len(live) == (~gone).sum() < sum(EPISODES)
    for stamp, pixels, _, _ in live:
        np.testing.assert_array_equal(dataset.pixels[rows[stamp]], pixels)
