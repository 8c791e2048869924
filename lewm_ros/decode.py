"""Messages to RGB: the only place that knows image encodings, for bags and live topics alike."""

from __future__ import annotations

import importlib
from typing import Any

import cv2
import numpy as np

from lewm_core.types import UserError

# bytes a pixel in a row, and the OpenCV conversion to RGB (None: it is RGB already)
_PACKED = {
    'rgb8': (3, None),
    'bgr8': (3, cv2.COLOR_BGR2RGB),
    'rgba8': (4, cv2.COLOR_RGBA2RGB),
    'bgra8': (4, cv2.COLOR_BGRA2RGB),
    'mono8': (1, cv2.COLOR_GRAY2RGB),
    # OpenCV names a Bayer pattern by its second row's second and third pixel, ROS by the first
    # row's first two, so rggb is OpenCV's BG.
    'bayer_rggb8': (1, cv2.COLOR_BayerBG2RGB),
    'bayer_bggr8': (1, cv2.COLOR_BayerRG2RGB),
    'bayer_gbrg8': (1, cv2.COLOR_BayerGR2RGB),
    'bayer_grbg8': (1, cv2.COLOR_BayerGB2RGB),
    'yuv422': (2, cv2.COLOR_YUV2RGB_UYVY),
    'uyvy': (2, cv2.COLOR_YUV2RGB_UYVY),
    'yuv422_yuy2': (2, cv2.COLOR_YUV2RGB_YUY2),
    'yuyv': (2, cv2.COLOR_YUV2RGB_YUY2),
}
ENCODINGS = (*_PACKED, 'mono16')
_JPEG = b'\xff\xd8\xff'
_PNG = b'\x89PNG\r\n\x1a\n'


def decode(msg: Any) -> np.ndarray:
    """The picture (h, w, 3) uint8 RGB, C-contiguous, of an Image or a CompressedImage message.

    Takes rclpy and rosbags messages; `data` may be bytes, an array or NumPy. mono16 keeps its
    high byte. The result may share memory with the message. Encodings: sensor_msgs
    image_encodings.hpp; one outside `ENCODINGS` goes to cv_bridge where that is installed.
    Raises UserError on an unknown encoding or malformed data.
    """
    if hasattr(msg, 'encoding'):
        return _decode_raw(msg)
    return _decode_compressed(msg)


def _decode_raw(msg: Any) -> np.ndarray:
    encoding = msg.encoding.lower()
    if encoding == 'mono16':
        wide = _rows(msg, 2).view('>u2' if msg.is_bigendian else '<u2')
        # The high byte: the camera's full range, whatever its bit depth, without a guess.
        return cv2.cvtColor((wide >> 8).astype(np.uint8), cv2.COLOR_GRAY2RGB)
    if encoding not in _PACKED:
        return _cv_bridge(msg)
    size, code = _PACKED[encoding]
    rows = _rows(msg, size)
    if size == 2 and msg.width % 2:
        raise UserError(f'image of {msg.width}x{msg.height} in {msg.encoding!r} has an odd width, '
                        'but two pixels share their colour there; correct the camera driver')
    if encoding.startswith('bayer') and min(msg.width, msg.height) < 3:
        raise UserError(f'image of {msg.width}x{msg.height} in {msg.encoding!r} is too small for '
                        'a colour mosaic; at least 3x3 pixels are expected')
    pixels = rows if size == 1 else rows.reshape(msg.height, msg.width, size)
    if code is None:
        return pixels
    return cv2.cvtColor(pixels, code)


def _rows(msg: Any, size: int) -> np.ndarray:
    """The image's bytes (h, w * size), C-contiguous, without the padding at the rows' ends."""
    height, width, step = int(msg.height), int(msg.width), int(msg.step)
    data = np.frombuffer(msg.data, dtype=np.uint8)
    row = width * size
    if height < 1 or width < 1:
        raise UserError(f'image of {width}x{height} in {msg.encoding!r} has no pixels; correct '
                        'the camera driver')
    if step == 0 and data.size == row * height:
        step = row  # some drivers leave it out; the size says that nothing is padded
    if step < row:
        raise UserError(f'image step {step} is less than the {row} bytes of a row of {width} '
                        f'{msg.encoding!r} pixels; correct the camera driver')
    needed = step * (height - 1) + row  # the last row's padding may be missing
    if data.size < needed:
        raise UserError(f'image data has {data.size} bytes, but {width}x{height} in '
                        f'{msg.encoding!r} with step {step} needs {needed}; the message is '
                        'incomplete, so record it again')
    view = np.lib.stride_tricks.as_strided(data, (height, row), (step, 1), writeable=False)
    return np.ascontiguousarray(view)


def _decode_compressed(msg: Any) -> np.ndarray:
    # By content: the format field is free text ('jpg', 'rgb8; jpeg compressed bgr8', '').
    data = bytes(msg.data)
    if data.startswith(_JPEG):
        # OpenCV fills what a cut-off file lacks with grey and says nothing.
        whole = data.rfind(b'\xff\xd9') > data.rfind(b'\xff\xda')
    elif data.startswith(_PNG):
        whole = b'IEND' in data[-4096:] or b'IEND' in data
    else:
        raise UserError(f'compressed image (format {msg.format!r}) begins with '
                        f'{data[:4].hex()!r}, which is neither JPEG nor PNG; publish it as one '
                        'of these or raw')
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    bgr = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), flags) if whole else None
    if bgr is None:
        raise UserError(f'compressed image (format {msg.format!r}, {len(data)} bytes) is cut off '
                        'or damaged; record it again')
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


def _cv_bridge(msg: Any) -> np.ndarray:
    """What cv_bridge makes of an encoding that this module doesn't know."""
    expected = (f'image encoding {msg.encoding!r} is not known; one of {list(ENCODINGS)} is '
                'expected')
    try:
        bridge = importlib.import_module('cv_bridge').CvBridge()
    except ImportError:
        raise UserError(f'{expected}, or install cv_bridge') from None
    try:
        return np.ascontiguousarray(bridge.imgmsg_to_cv2(msg, 'rgb8'))
    except Exception as error:  # cv_bridge raises its own, OpenCV's and TypeError
        first = ' '.join(str(error).split())
        raise UserError(f'{expected}, and cv_bridge refuses it ({first})') from None
