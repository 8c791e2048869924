"""What the model sees of a camera's picture."""

import dataclasses

import numpy as np
import pytest

from lewm_core.images import prepare, reduction
from lewm_core.robot import Camera
from lewm_core.types import UserError

CAMERA = Camera(name='top', topic='camera', width=8, height=8)


def noise(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_a_picture_of_the_right_size_passes_unchanged():
    picture = noise(8, 8)
    assert np.array_equal(prepare(picture, CAMERA), picture)


def test_the_result_is_contiguous_for_a_strided_view():
    picture = noise(8, 16)[:, ::2]
    out = prepare(picture, CAMERA)
    assert out.flags.c_contiguous and np.array_equal(out, picture)


def test_the_crop_is_x_y_width_height_in_source_pixels():
    picture = noise(20, 30)
    camera = dataclasses.replace(CAMERA, crop=(5, 3, 8, 8))
    assert np.array_equal(prepare(picture, camera), picture[3:11, 5:13])


def test_shrinking_averages_every_source_pixel():
    picture = noise(32, 32)
    blocks = picture.reshape(8, 4, 8, 4, 3).mean(axis=(1, 3))
    assert np.abs(prepare(picture, CAMERA) - blocks).max() <= 0.51


def test_growing_interpolates_between_the_pixels():
    picture = np.zeros((8, 2, 3), np.uint8)
    picture[:, 1] = 200
    row = prepare(picture, CAMERA)[0, :, 0].astype(int)
    assert row[0] == 0 and row[-1] == 200 and (np.diff(row) >= 0).all() and len(set(row)) > 3


def test_an_image_of_another_source_size_is_refused_with_both_sizes():
    camera = dataclasses.replace(CAMERA, source_width=640, source_height=480)
    with pytest.raises(UserError, match='320x240.*640x480'):
        prepare(noise(240, 320), camera)


def test_a_crop_outside_the_image_is_refused():
    with pytest.raises(UserError, match='leaves the image of 16x8'):
        prepare(noise(8, 16), dataclasses.replace(CAMERA, crop=(10, 0, 8, 8)))


@pytest.mark.parametrize('picture', [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 4), np.uint8),
                                     np.zeros((8, 8, 3), np.float32),
                                     np.zeros((0, 8, 3), np.uint8)])
def test_what_is_no_rgb_picture_is_refused(picture):
    with pytest.raises(UserError, match='uint8 RGB is expected'):
        prepare(picture, CAMERA)


@pytest.mark.parametrize('width, height, side, crop, scale', [
    (640, 480, 224, None, 2), (640, 480, 64, None, 4), (640, 480, 60, None, 8),
    (640, 480, 480, None, 1), (640, 480, 241, None, 1), (1920, 1080, 64, None, 8),
    (642, 480, 64, None, 2), (641, 480, 64, None, 1), (640, 480, 64, (80, 0, 480, 480), 4),
    (640, 480, 64, (81, 0, 480, 480), 1), (640, 480, 64, (0, 0, 96, 96), 1)])
def test_a_jpeg_is_decoded_as_small_as_shifts_nothing_and_enlarges_nothing(
        width, height, side, crop, scale):
    camera = dataclasses.replace(CAMERA, width=side, height=side, crop=crop)
    assert reduction(width, height, camera) == scale
