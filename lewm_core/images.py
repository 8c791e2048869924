"""From a camera's picture to what the model sees: the only crop and resize in the project."""

from __future__ import annotations

import cv2
import numpy as np

from lewm_core.robot import Camera
from lewm_core.types import UserError


def reduction(width: int, height: int, camera: Camera) -> int:
    """By how much a JPEG of this size may be decoded smaller before `prepare`: 1, 2, 4 or 8.

    libjpeg decodes at a half, a quarter or an eighth in less time, for it leaves out what the
    smaller picture does not show. The part that the model sees stays at least as large as what
    `prepare` makes of it, and begins and ends on a whole pixel, so that nothing is shifted.
    """
    part = camera.crop or (0, 0, width, height)
    for scale in (8, 4, 2):
        if (not any(v % scale for v in (width, height, *part))
                and part[2] // scale >= camera.width and part[3] // scale >= camera.height):
            return scale
    return 1


def prepare(rgb: np.ndarray, camera: Camera, reduced: int = 1) -> np.ndarray:
    """The picture (camera.height, camera.width, 3) uint8 RGB, C-contiguous, for the model.

    `rgb` is (h, w, 3) uint8 as the driver sent it. It is cropped to `camera.crop`, then resized:
    by area when it shrinks (every source pixel counts, so nothing aliases), linearly when it
    grows. A picture that has the right size already is returned as it is, without a copy.
    `reduced`: `rgb` was decoded at one over this of the driver's size (see `reduction`).

    Raises UserError when it is no uint8 RGB picture, when its size differs from the spec's source
    size, or when the crop leaves it.
    """
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3 or 0 in rgb.shape:
        raise UserError(f'camera {camera.name!r}: an image of shape {rgb.shape} and type '
                        f'{rgb.dtype} came, but (height, width, 3) uint8 RGB is expected; decode '
                        'it first')
    height, width = (reduced * side for side in rgb.shape[:2])
    expected = (camera.source_width or width, camera.source_height or height)
    if (width, height) != expected:
        raise UserError(f'camera {camera.name!r}: the image is {width}x{height}, but the robot '
                        f'spec says {expected[0]}x{expected[1]}; set the driver to that size or '
                        'convert and train again with this one')
    if camera.crop is not None:
        rgb = _crop(rgb, camera, reduced)
    return np.ascontiguousarray(_resize(rgb, camera.width, camera.height))


def _crop(rgb: np.ndarray, camera: Camera, reduced: int) -> np.ndarray:
    x, y, width, height = (v // reduced for v in camera.crop)
    if y + height > rgb.shape[0] or x + width > rgb.shape[1]:
        raise UserError(f'camera {camera.name!r}: the crop {camera.crop} leaves the image of '
                        f'{reduced * rgb.shape[1]}x{reduced * rgb.shape[0]}; give [x, y, width, '
                        'height] inside it')
    return rgb[y:y + height, x:x + width]


def _resize(rgb: np.ndarray, width: int, height: int) -> np.ndarray:
    if rgb.shape[:2] == (height, width):
        return rgb
    shrinks = height <= rgb.shape[0] and width <= rgb.shape[1]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(np.ascontiguousarray(rgb), (width, height), interpolation=how)
