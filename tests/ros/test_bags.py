"""Bags to datasets: the pairing of frames and actions, episodes and clocks."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from bag_toys import (LOG, START, TICK, S, T, bag_image, command, converted, drive, picture,
                      twist, with_latency, without, write_bag)
from rosbags.rosbag2 import StoragePlugin

from lewm_core.cli import main
from lewm_core.data import Dataset
from lewm_core.types import UserError
from lewm_ros.bag_reader import open_bag
from lewm_ros.bags import ConversionStopped, convert
from lewm_ros.decode import decode
from lewm_ros.decode import picture as decode_picture
from lewm_ros.fields import stamp_ns

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize('delay_ms, latency_s', [(60, 0.0), (0, 0.0), (0, 0.05)])
def test_row_k_of_the_dataset_holds_frame_k_and_the_action_that_answers_it(
        tmp_path, two_room, delay_ms, latency_s):
    spec = with_latency(two_room, latency_s=latency_s)
    report, data = converted(tmp_path, drive(40, 2, delay_ms * 1_000_000), spec)
    assert (report.frames, report.episodes, report.dropped_frames) == (80, 2, 0)
    assert data['ep_len'].tolist() == [40, 40] and data['ep_offset'].tolist() == [0, 40]
    for k in range(80):
        np.testing.assert_array_equal(data['pixels'][k], picture(k))
    expected = np.arange(80, dtype=np.float32) / 1000
    expected[[39, 79]] = np.nan  # no frame follows them
    np.testing.assert_array_equal(data['action'][:, 0], expected)
    np.testing.assert_array_equal(data['x'], np.arange(80.0))
    assert data['stamp_ns'][:2].tolist() == [START, START + TICK]


def test_the_dataset_opens_with_the_spec_and_gives_windows(tmp_path, two_room):
    report, _ = converted(tmp_path, drive(40, 4), two_room)
    dataset = Dataset.open(report.output)
    assert dataset.spec == two_room and len(dataset) == 160
    assert report.summary().startswith('160 frames in 4 episodes from 160 images')


@pytest.mark.parametrize('storage', [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
def test_a_directory_and_the_file_in_it_give_the_same(tmp_path, two_room, storage):
    bag = write_bag(tmp_path / 'bag', drive(20), storage=storage)
    (file,) = (p for p in bag.iterdir() if p.suffix in ('.mcap', '.db3'))
    reports = [convert([path], two_room, tmp_path / f'{i}.h5')
               for i, path in enumerate((bag, file))]
    assert [r.frames for r in reports] == [20, 20]
    (bag / 'metadata.yaml').unlink()
    assert convert([bag], two_room, tmp_path / '2.h5').frames == 20


def test_several_bags_are_one_dataset_and_a_folder_of_bags_stands_for_them(tmp_path, two_room):
    for i in range(3):
        write_bag(tmp_path / 'bags' / f'drive_{i}', drive(20, start=START + i * 100 * S))
    report = convert([tmp_path / 'bags'], two_room, tmp_path / 'a.h5')
    assert (report.frames, report.episodes) == (60, 3)
    again = convert(sorted((tmp_path / 'bags').iterdir())[:2], two_room, tmp_path / 'b.h5')
    assert (again.frames, again.clocks) == (40, ('header', 'header'))


def test_commands_without_header_put_everything_on_the_log_clock(tmp_path, two_room):
    spec = without(with_latency(two_room, type='geometry_msgs/msg/Twist', latency_s=0.0, fields=[
        {'path': f'linear.{axis}', 'min': -0.4, 'max': 0.4} for axis in 'xy']),
        'state', 'episode_topic')
    messages = []
    for k in range(30):
        # The camera's own clock is years away, and faster than the recorder's.
        messages.append(('/camera/image_raw', LOG + k * TICK, bag_image(S + k * S, picture(k))))
        messages.append(('/cmd_vel', LOG + k * TICK + TICK // 2, twist(k / 1000)))
    report, data = converted(tmp_path, messages, spec)
    assert report.clocks == ('log',) and report.episodes == 1
    np.testing.assert_array_equal(data['action'][:-1, 0], np.arange(29, dtype=np.float32) / 1000)
    assert data['stamp_ns'][0] == LOG


def test_a_few_messages_without_stamp_are_left_out_and_counted(tmp_path, two_room):
    messages = drive(40)
    messages.append(('/cmd_vel', LOG + 5 * TICK, command(0, 0.39)))
    messages.append(('/camera/image_raw', LOG + 5 * TICK, bag_image(0, picture(249))))
    report, data = converted(tmp_path, sorted(messages, key=lambda m: m[1]), two_room)
    assert (report.frames, report.unstamped, report.clocks) == (40, 2, ('header',))
    assert data['action'][5, 0] == np.float32(0.005)


def test_the_order_in_the_bag_does_not_matter_where_header_stamps_say_it(tmp_path, two_room):
    # After a stall the recorder got all commands at once, long after the frames they answer.
    messages = [(topic, LOG + 100 * S + log if topic == '/cmd_vel' else log, m)
                for topic, log, m in drive(40)]
    _, data = converted(tmp_path, sorted(messages, key=lambda m: m[1]), two_room)
    np.testing.assert_array_equal(data['action'][:-1, 0], np.arange(39, dtype=np.float32) / 1000)


def test_a_simulator_that_starts_again_cuts_the_episode_and_keeps_the_pairing(tmp_path, two_room):
    again = drive(30, log=LOG + 50 * S)
    report, data = converted(tmp_path, drive(40) + again, two_room)
    assert data['ep_len'].tolist() == [40, 30]
    expected = np.concatenate([np.arange(40), np.arange(30)]).astype(np.float32) / 1000
    expected[[39, 69]] = np.nan
    np.testing.assert_array_equal(data['action'][:, 0], expected)
    assert report.timeouts == 0


def test_episodes_shorter_than_a_window_are_dropped_and_counted(tmp_path, two_room):
    messages = drive(20) + drive(15, start=START + 50 * S, log=LOG + 50 * S)
    report, data = converted(tmp_path, messages, two_room)
    assert (report.frames, report.dropped_episodes, report.dropped_frames) == (20, 1, 15)
    assert len(data['pixels']) == 20


def test_a_drive_in_one_piece_is_cut_so_that_some_of_it_can_be_held_out(tmp_path, two_room):
    """One long recording was one episode: nothing was evaluated, and no alarm calibrated."""
    bag = write_bag(tmp_path / 'bag', drive(100))
    whole = convert([bag], two_room, tmp_path / 'whole.h5', episode_s=0)
    cut = convert([bag], two_room, tmp_path / 'cut.h5', episode_s=3.5)  # 35 frames
    one, three = (Dataset.open(report.output) for report in (whole, cut))
    assert one.ep_len.tolist() == [100] and three.ep_len.tolist() == [33, 34, 33]
    assert len(three.windows('train', 2, 5)) and len(three.windows('test', 2, 5))
    np.testing.assert_array_equal(one.pixels, three.pixels)
    ends = np.isnan(three.action[:, 0])
    assert np.flatnonzero(ends).tolist() == [32, 66, 99]
    np.testing.assert_array_equal(three.action[~ends], one.action[~ends])


def test_pieces_are_never_too_short_for_a_window(tmp_path, two_room):
    bag = write_bag(tmp_path / 'bag', drive(70))
    report = convert([bag], two_room, tmp_path / 'data.h5', window=16, episode_s=0.1)
    assert Dataset.open(report.output).ep_len.tolist() == [23, 24, 23]


def test_frames_between_ticks_are_left_out_and_counted(tmp_path, two_room):
    messages = drive(40)
    extra = [('/camera/image_raw', log + TICK // 2, bag_image(START + k * TICK + TICK // 2,
                                                              picture(200)))
             for k, log in enumerate(log for topic, log, _ in messages if 'camera' in topic)]
    report, data = converted(tmp_path, sorted(messages + extra, key=lambda m: m[1]), two_room)
    assert (report.frames, report.skipped_frames, report.images) == (40, 40, 80)
    assert not (data['pixels'][:, -1, -1, 0] == 200).any()


@pytest.mark.parametrize('rate_hz, warned', [(10.0, False), (14.0, False), (20.0, True)])
def test_a_camera_slower_than_the_ticks_is_warned_of(tmp_path, two_room, caplog, rate_hz, warned):
    """A spec with rate_hz: 30 for a camera of 15 Hz gave a dataset "at 30 Hz" of half the minutes
    that were driven, and nobody said so before the planner did, after the training."""
    report, _ = converted(tmp_path, drive(40), dataclasses.replace(two_room, rate_hz=rate_hz))
    assert report.frames == 40
    said = [r.getMessage() for r in caplog.records if 'pictures come every' in r.getMessage()]
    assert len(said) == warned
    assert not warned or 'give rate_hz: 10 or less' in said[0]


def test_a_state_is_the_nearest_one_and_nan_where_none_is_near(tmp_path, two_room):
    messages = [m for m in drive(40) if m[0] != '/odom' or m[2].header.stamp.sec < START // S + 2]
    _, data = converted(tmp_path, messages, two_room)
    np.testing.assert_array_equal(data['x'][:20], np.arange(20.0))
    assert np.isnan(data['x'][25:]).all()


def test_an_open_source_size_is_filled_in_from_the_first_image(tmp_path, two_room):
    camera = {**two_room.to_dict()['cameras'][0], 'source_width': None, 'source_height': None,
              'crop': [8, 0, 80, 80]}
    spec = without(two_room, cameras=[camera])
    messages = [(topic, log, bag_image(stamp_ns(m), picture(k, 96)) if 'camera' in topic else m)
                for k, (topic, log, m) in enumerate(drive(20))]
    report, data = converted(tmp_path, messages, spec)
    assert (report.spec.camera.source_width, report.spec.camera.source_height) == (96, 96)
    assert Dataset.open(report.output).spec == report.spec
    assert data['pixels'].shape == (20, 64, 64, 3)


def test_a_namespaced_recording_is_found_by_the_relative_topic(tmp_path, two_room):
    messages = [(f'/robot_1{topic}', log, m) for topic, log, m in drive(20)]
    assert converted(tmp_path, messages, two_room)[0].frames == 20


def test_progress_reaches_the_total_and_stopping_leaves_nothing(tmp_path, two_room):
    bag = write_bag(tmp_path / 'bag', drive(40, 6))
    heard = []
    convert([bag], two_room, tmp_path / 'data.h5', on_progress=lambda *p: heard.append(p))
    assert heard == [(100, 240), (200, 240), (240, 240)]
    asked = iter([False] * 50)
    with pytest.raises(ConversionStopped):
        convert([bag], two_room, tmp_path / 'other.h5', should_stop=lambda: next(asked, True))
    assert sorted(p.name for p in tmp_path.iterdir()) == ['bag', 'data.h5']


def test_a_conversion_that_is_killed_leaves_no_finished_file_and_can_be_repeated(
        tmp_path, two_room):
    bag = write_bag(tmp_path / 'bag', drive(40, 3))
    code = f"""
import os, signal
from lewm_core.robot import RobotSpec
from lewm_ros.bags import convert
spec = RobotSpec.load({str(ROOT / 'config/robot/two_room.yaml')!r})
convert([{str(bag)!r}], spec, {str(tmp_path / 'data.h5')!r},
        on_progress=lambda done, total: os.kill(os.getpid(), signal.SIGKILL))
"""
    found = subprocess.run([sys.executable, '-c', code], cwd=ROOT, timeout=120)
    assert found.returncode == -9
    assert not (tmp_path / 'data.h5').exists()
    assert len(list(tmp_path.glob('data.h5.partial-*'))) == 1
    assert convert([bag], two_room, tmp_path / 'data.h5').frames == 120
    assert sorted(p.name for p in tmp_path.iterdir()) == ['bag', 'data.h5']


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_lewm_convert_and_leaves_nothing(tmp_path, capsys, monkeypatch, number):
    bag = write_bag(tmp_path / 'bag', drive(40))

    def seen_once(message, camera):
        signal.raise_signal(number)
        return decode_picture(message, camera)

    monkeypatch.setattr('lewm_ros.pixel_pass.picture', seen_once)
    assert main(['convert', f'bags={bag}', 'robot=two_room',
                 f'output={tmp_path / "data.h5"}']) == 130
    assert 'nothing was written' in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ['bag']


@pytest.mark.skipif('LEWM_PUBLIC_BAGS' not in os.environ,
                    reason='LEWM_PUBLIC_BAGS names no folder of public bags')
def test_real_bags_of_others_are_read_as_far_as_they_go(two_room, tmp_path):
    bags = Path(os.environ['LEWM_PUBLIC_BAGS'])
    for path, topic, shape in ((bags / 'tiny_dvs', '/dvs/image_raw', (260, 346, 3)),
                               (bags / 'soccer_goal_piece', '/camera/image_raw', (480, 640, 3))):
        file = path if (path / 'metadata.yaml').exists() else next(path.glob('*.bag'))
        with open_bag(file) as bag:
            _, log, raw = next(bag.messages([topic]))
            message = bag.message(raw, 'sensor_msgs/msg/Image')
            assert decode(message).shape == shape
            assert bag.header_ns(raw) == stamp_ns(message) > 0
    spec = without(two_room, 'state', 'episode_topic')
    with pytest.raises(UserError, match='has 2 images on .* but no commands'):
        convert([bags / 'soccer_goal_piece'], spec, tmp_path / 'data.h5')


def test_images_as_jpeg_files_are_converted(tmp_path, two_room):
    import cv2
    camera = {**two_room.to_dict()['cameras'][0], 'type': 'sensor_msgs/msg/CompressedImage',
              'topic': 'camera/image_raw/compressed'}
    spec = without(two_room, 'state', cameras=[camera])
    kind, messages = T['sensor_msgs/msg/CompressedImage'], []
    for topic, log, m in drive(20):
        if 'camera' in topic:
            flat = np.full((64, 64, 3), (30, 90, 200), np.uint8)
            data = cv2.imencode('.jpg', flat[..., ::-1])[1].ravel()
            topic, m = f'{topic}/compressed', kind(m.header, 'jpg', data)
        messages.append((topic, log, m))
    _, data = converted(tmp_path, messages, spec)
    assert np.abs(data['pixels'].astype(int) - [30, 90, 200]).max() <= 4


@pytest.mark.parametrize('bag', sorted(p.parent for p in ROOT.glob('bags/*/metadata.yaml')),
                         ids=lambda p: p.name)
def test_the_sample_bags_are_small_and_make_datasets(tmp_path, two_room, bag):
    assert sum(p.stat().st_size for p in bag.iterdir()) < 1_000_000
    report = convert([bag], two_room, tmp_path / 'data.h5')
    assert report.frames == report.images and report.timeouts == 0
    assert report.frames == 2000 and report.episodes == 20
