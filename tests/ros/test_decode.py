"""Each encoding against an image made by hand, as an rclpy message and as a rosbags message."""

from __future__ import annotations

import sys
import types
import zlib

import cv2
import numpy as np
import pytest
from bag_toys import T, bag_image, header, live_image

from lewm_core.images import prepare
from lewm_core.robot import Camera
from lewm_core.types import UserError
from lewm_ros.decode import ENCODINGS, decode, picture

RGB = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]],
                [[10, 20, 30], [200, 100, 50], [255, 255, 255]]], np.uint8)


@pytest.fixture(params=['rosbags', 'rclpy'])
def form(request):
    """Leaves a rosbags message as it is, or makes its rclpy twin."""
    return (lambda m: m) if request.param == 'rosbags' else live_image


def compressed(data, format='jpeg'):
    return T['sensor_msgs/msg/CompressedImage'](header(0), format,
                                                np.frombuffer(data, np.uint8))


def with_alpha(rgb):
    return np.concatenate([rgb, np.full((*rgb.shape[:2], 1), 7, np.uint8)], axis=2)


@pytest.mark.parametrize('encoding, pixels', [
    ('rgb8', RGB), ('bgr8', RGB[..., ::-1]), ('rgba8', with_alpha(RGB)),
    ('bgra8', with_alpha(RGB[..., ::-1]))])
def test_colour_encodings_give_the_same_rgb(form, encoding, pixels):
    picture = decode(form(bag_image(0, pixels, encoding)))
    assert picture.dtype == np.uint8 and picture.flags.c_contiguous
    np.testing.assert_array_equal(picture, RGB)


def test_mono8_repeats_its_grey(form):
    grey = np.array([[0, 127], [200, 255]], np.uint8)
    np.testing.assert_array_equal(decode(form(bag_image(0, grey, 'mono8'))),
                                  np.repeat(grey[..., None], 3, axis=2))


@pytest.mark.parametrize('big', [0, 1])
def test_mono16_keeps_the_high_byte_in_either_endianness(form, big):
    grey = np.array([[0x0000, 0x12FF], [0x80AB, 0xFFFF]], np.uint16)
    rows = grey.astype('>u2' if big else '<u2').view(np.uint8)
    picture = decode(form(bag_image(0, rows, 'mono16', big=big, width=2)))
    assert picture[..., 0].tolist() == [[0x00, 0x12], [0x80, 0xFF]]
    assert (picture == picture[..., :1]).all()


@pytest.mark.parametrize('pattern', ['rggb', 'bggr', 'gbrg', 'grbg'])
def test_a_bayer_mosaic_of_one_colour_gives_that_colour(form, pattern):
    colour = {'r': 210, 'g': 90, 'b': 30}
    tile = np.array([colour[c] for c in pattern], np.uint8).reshape(2, 2)
    picture = decode(form(bag_image(0, np.tile(tile, (4, 5)), f'bayer_{pattern}8')))
    assert picture.shape == (8, 10, 3)
    np.testing.assert_array_equal(picture, np.broadcast_to([210, 90, 30], picture.shape))


def yuv(r, g, b):
    """BT.601 studio range, from its definition."""
    y = 16 + (65.738 * r + 129.057 * g + 25.064 * b) / 256
    u = 128 + (-37.945 * r - 74.494 * g + 112.439 * b) / 256
    v = 128 + (112.439 * r - 94.154 * g - 18.285 * b) / 256
    return [int(round(c)) for c in (y, u, v)]


@pytest.mark.parametrize('encoding, order', [
    ('yuv422', 'uyvy'), ('uyvy', 'uyvy'), ('yuv422_yuy2', 'yuyv'), ('yuyv', 'yuyv')])
def test_yuv422_in_both_orders_gives_the_colours_it_was_made_from(form, encoding, order):
    colours = np.array([[200, 40, 60], [30, 180, 90], [20, 60, 220]])
    rows = []
    for colour in colours:
        y, u, v = yuv(*colour)
        rows.append({'uyvy': [u, y, v, y], 'yuyv': [y, u, y, v]}[order] * 2)
    picture = decode(form(bag_image(0, np.array(rows), encoding, width=4)))
    assert picture.shape == (3, 4, 3)
    assert np.abs(picture.astype(int) - colours[:, None]).max() <= 3


@pytest.mark.parametrize('padding', [1, 5, 64])
def test_padding_at_the_end_of_rows_is_left_out(form, padding):
    rows = np.concatenate([RGB.reshape(2, -1), np.full((2, padding), 99, np.uint8)], axis=1)
    np.testing.assert_array_equal(decode(form(bag_image(0, rows, 'rgb8', width=3))), RGB)


def test_the_last_row_may_lack_its_padding(form):
    rows = np.concatenate([RGB.reshape(2, -1), np.full((2, 4), 99, np.uint8)], axis=1)
    message = bag_image(0, rows, 'rgb8', width=3)
    message.data = message.data[:-4]
    np.testing.assert_array_equal(decode(form(message)), RGB)


def test_trailing_bytes_and_a_step_of_zero_are_understood(form):
    message = bag_image(0, RGB)
    message.step = 0
    np.testing.assert_array_equal(decode(form(message)), RGB)
    message = bag_image(0, RGB)
    message.data = np.concatenate([message.data, np.zeros(11, np.uint8)])
    np.testing.assert_array_equal(decode(form(message)), RGB)


@pytest.mark.parametrize('format', ['png', 'jpg', 'rgb8; jpeg compressed bgr8', ''])
def test_png_is_known_by_its_content_and_loses_nothing(form, format):
    data = cv2.imencode('.png', RGB[..., ::-1])[1].tobytes()
    np.testing.assert_array_equal(decode(form(compressed(data, format))), RGB)
    np.testing.assert_array_equal(decode(form(compressed(data + b'tail', format))), RGB)


def test_jpeg_gives_rgb(form):
    flat = np.full((16, 24, 3), (200, 60, 20), np.uint8)
    data = cv2.imencode('.jpg', flat[..., ::-1])[1].tobytes()
    picture = decode(form(compressed(data)))
    assert picture.shape == flat.shape and picture.flags.c_contiguous
    assert np.abs(picture.astype(int) - flat).max() <= 4


def test_grey_and_transparent_files_give_three_channels(form):
    grey = cv2.imencode('.png', np.full((4, 5), 33, np.uint8))[1].tobytes()
    assert decode(form(compressed(grey))).tolist() == np.full((4, 5, 3), 33).tolist()
    clear = cv2.imencode('.png', np.full((4, 5, 4), 33, np.uint8))[1].tobytes()
    assert decode(form(compressed(clear))).shape == (4, 5, 3)


@pytest.mark.parametrize('suffix', ['.jpg', '.png'])
def test_a_cut_off_file_is_refused_and_not_filled_with_grey(form, suffix):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    data = cv2.imencode(suffix, noise)[1].tobytes()
    with pytest.raises(UserError, match='cut off or damaged'):
        decode(form(compressed(data[:len(data) * 2 // 3])))


def test_a_damaged_header_that_asks_for_billions_of_pixels_is_refused(form):
    """OpenCV raises its own error there, which ended the node and the drive."""
    data = bytearray(cv2.imencode('.png', np.zeros((64, 64, 3), np.uint8))[1].tobytes())
    data[16:24] = 2 * (65_535).to_bytes(4, 'big')
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, 'big')
    with pytest.raises(UserError, match='cut off or damaged'):
        decode(form(compressed(bytes(data))))


def test_a_file_that_is_neither_jpeg_nor_png_is_refused(form):
    with pytest.raises(UserError, match="'47494638', which is neither JPEG nor PNG"):
        decode(form(compressed(b'GIF89a....')))


def test_short_data_are_refused_with_both_sizes(form):
    message = bag_image(0, RGB)
    message.data = message.data[:-1]
    with pytest.raises(UserError, match='has 17 bytes.*needs 18'):
        decode(form(message))


def test_a_step_below_the_row_is_refused(form):
    with pytest.raises(UserError, match='step 8 is less than the 9 bytes'):
        decode(form(bag_image(0, RGB, step=8)))


def test_an_image_without_pixels_is_refused(form):
    with pytest.raises(UserError, match='0x2 .*has no pixels'):
        decode(form(bag_image(0, np.zeros((2, 0, 3)))))


def test_an_odd_width_in_yuv422_and_a_tiny_mosaic_are_refused(form):
    with pytest.raises(UserError, match='odd width'):
        decode(form(bag_image(0, np.zeros((2, 6)), 'yuv422', width=3)))
    with pytest.raises(UserError, match='at least 3x3'):
        decode(form(bag_image(0, np.zeros((2, 2)), 'bayer_rggb8')))


def test_an_unknown_encoding_lists_the_known_ones(form):
    with pytest.raises(UserError, match="'32FC1' is not known.*'rgb8'.*or install cv_bridge"):
        decode(form(bag_image(0, np.zeros((2, 4)), '32FC1', width=1)))
    assert len(ENCODINGS) == len(set(ENCODINGS))


def test_an_unknown_encoding_goes_to_cv_bridge_where_it_is_installed(form, monkeypatch):
    class CvBridge:
        def imgmsg_to_cv2(self, message, encoding):
            if message.encoding != '8UC3':
                raise TypeError('no  such\nthing')
            return np.zeros((message.height, message.width, 3), np.uint8)

    module = types.ModuleType('cv_bridge')
    module.CvBridge = CvBridge
    monkeypatch.setitem(sys.modules, 'cv_bridge', module)
    assert decode(form(bag_image(0, RGB, '8UC3'))).shape == RGB.shape
    with pytest.raises(UserError, match=r'cv_bridge refuses it \(no such thing\)'):
        decode(form(bag_image(0, np.zeros((2, 4)), '32FC1', width=1)))


def textured(width, height):
    """A picture with detail at several scales, as a camera gives."""
    rng = np.random.default_rng(0)
    made = sum(cv2.resize(rng.normal(0, 60 / 2 ** i, (3 * 2 ** i, 4 * 2 ** i, 3)),
                          (width, height), interpolation=cv2.INTER_CUBIC) for i in range(6))
    return np.clip(made + 128, 0, 255).astype(np.uint8)


@pytest.mark.parametrize('crop', [None, (80, 0, 480, 480), (83, 0, 470, 470)])
def test_a_jpeg_decoded_at_a_reduced_scale_is_nearly_that_decoded_in_full(form, crop):
    data = cv2.imencode('.jpg', textured(640, 480)[..., ::-1])[1].tobytes()
    camera = Camera('front', 'camera', 64, 64, crop=crop, source_width=640, source_height=480)
    message = form(compressed(data))
    full = prepare(decode(message), camera)
    off = np.abs(picture(message, camera).astype(int) - full)
    assert off.mean() < 0.6 and off.max() <= 8
    assert (off.max() == 0) == (crop == (83, 0, 470, 470))  # no scale divides that crop


def test_a_reduced_jpeg_of_another_size_is_refused_with_its_full_size(form):
    data = cv2.imencode('.jpg', textured(320, 240)[..., ::-1])[1].tobytes()
    camera = Camera('front', 'camera', 64, 64, source_width=640, source_height=480)
    with pytest.raises(UserError, match='the image is 320x240, but the robot spec says 640x480'):
        picture(form(compressed(data)), camera)
