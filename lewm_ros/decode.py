"""Messages to RGB: the only place that knows image encodings, for bags and live topics alike."""

from __future__ import annotations

import importlib
from contextlib import suppress
from typing import Any

import cv2
import numpy as np

from lewm_core.images import prepare, reduction
from lewm_core.robot import Camera
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
    # Nothing is said of the channels' meaning: taken as OpenCV has them.
    '8uc1': (1, cv2.COLOR_GRAY2RGB),
    '8uc3': (3, cv2.COLOR_BGR2RGB),
    '8uc4': (4, cv2.COLOR_BGRA2RGB),
}
# Of two bytes a channel: the high byte is decoded as one of the above. It is the camera's full
# range, whatever its bit depth, without a guess.
_WIDE = {name.replace('8', '16'): name for name in _PACKED if '8' in name}
# A plane of brightness, then one of half as many rows with colours.
_PLANAR = {'nv12': cv2.COLOR_YUV2RGB_NV12, 'nv21': cv2.COLOR_YUV2RGB_NV21}
ENCODINGS = (*_PACKED, *_WIDE, *_PLANAR)
_JPEG = b'\xff\xd8\xff'
_PNG = b'\x89PNG\r\n\x1a\n'
_FLAGS = {1: cv2.IMREAD_COLOR, 2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4,
          8: cv2.IMREAD_REDUCED_COLOR_8}


def picture(msg: Any, camera: Camera) -> np.ndarray:
    """What the model sees of a camera message: (height, width, 3) uint8 RGB.

    The bag converter and the live nodes call this one function. A JPEG that is larger than the
    model's picture is decoded at a reduced scale, then resized once. The result may share memory
    with the message. Raises UserError when it can't be decoded or has another size than the spec
    says.
    """
    if hasattr(msg, 'encoding'):
        return prepare(_decode_raw(msg), camera)
    scale = 1
    size = _jpeg_size(msg.data)
    if size is not None:
        scale = reduction(*size, camera)
        size = (size[1] // scale, size[0] // scale)
    rgb = _decode_compressed(msg, scale)
    if scale > 1 and rgb.shape[:2] != size:  # a decoder that knows no scales
        rgb, scale = _decode_compressed(msg), 1
    return prepare(rgb, camera, scale)


def decode(msg: Any) -> np.ndarray:
    """The picture (h, w, 3) uint8 RGB, C-contiguous, of an Image or a CompressedImage message.

    Takes rclpy and rosbags messages; `data` may be bytes, an array or NumPy. Channels of 16 bits
    keep their high byte. The result may share memory with the message. Encodings: sensor_msgs
    image_encodings.hpp; one outside `ENCODINGS` goes to cv_bridge where that is installed.
    Raises UserError on an unknown encoding or malformed data.
    """
    if hasattr(msg, 'encoding'):
        return _decode_raw(msg)
    return _decode_compressed(msg)


def _decode_raw(msg: Any) -> np.ndarray:
    encoding = msg.encoding.lower()
    if encoding in _PLANAR:
        return _decode_planar(msg, _PLANAR[encoding])
    narrow = _WIDE.get(encoding, encoding)
    if narrow not in _PACKED:
        return _cv_bridge(msg)
    size, code = _PACKED[narrow]
    if narrow != encoding:
        wide = _rows(msg, 2 * size).view('>u2' if msg.is_bigendian else '<u2')
        rows = (wide >> 8).astype(np.uint8)
    else:
        rows = _rows(msg, size)
    if size == 2 and msg.width % 2:
        raise UserError(f'image of {msg.width}x{msg.height} in {msg.encoding!r} has an odd width, '
                        'but two pixels share their colour there; correct the camera driver')
    if narrow.startswith('bayer') and min(msg.width, msg.height) < 3:
        raise UserError(f'image of {msg.width}x{msg.height} in {msg.encoding!r} is too small for '
                        'a colour mosaic; at least 3x3 pixels are expected')
    pixels = rows if size == 1 else rows.reshape(msg.height, msg.width, size)
    if code is None:
        return pixels
    return cv2.cvtColor(pixels, code)


def _decode_planar(msg: Any, code: int) -> np.ndarray:
    if msg.width % 2 or msg.height % 2:
        raise UserError(f'image of {msg.width}x{msg.height} in {msg.encoding!r} has an odd side, '
                        'but four pixels share their colour there; correct the camera driver')
    return cv2.cvtColor(_rows(msg, 1, 3 * int(msg.height) // 2), code)


def _rows(msg: Any, size: int, height: int | None = None) -> np.ndarray:
    """The image's bytes (h, w * size), C-contiguous, without the padding at the rows' ends."""
    height = int(msg.height) if height is None else height
    width, step = int(msg.width), int(msg.step)
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
    if step == row:
        return data[:needed].reshape(height, row)
    view = np.lib.stride_tricks.as_strided(data, (height, row), (step, 1), writeable=False)
    return np.ascontiguousarray(view)


def _jpeg_size(data: Any) -> tuple[int, int] | None:
    """Width and height that a JPEG's frame header states (ITU T.81, B.2.2); None without one."""
    data = memoryview(data).cast('B')
    at = 2 if bytes(data[:3]) == _JPEG else len(data)
    while at + 9 <= len(data) and data[at] == 0xff:
        marker = data[at + 1]
        if marker == 0xff:  # padding
            at += 1
        elif 0xc0 <= marker <= 0xcf and marker not in (0xc4, 0xc8, 0xcc):
            return (int.from_bytes(data[at + 7:at + 9], 'big'),
                    int.from_bytes(data[at + 5:at + 7], 'big'))
        else:
            at += 2 + int.from_bytes(data[at + 2:at + 4], 'big')
    return None


def _decode_compressed(msg: Any, scale: int = 1) -> np.ndarray:
    # By content: the format field is free text ('jpg', 'rgb8; jpeg compressed bgr8', '').
    data = bytes(msg.data)
    whole, reason = True, 'is cut off or damaged; record it again'
    if data.startswith(_JPEG):
        # OpenCV fills what a cut-off file lacks with grey and says nothing. An end with no scan
        # after it is looked for, as the last scan's beginning is far from both ends.
        end = data.rfind(b'\xff\xd9')
        whole = end >= 0 and data.find(b'\xff\xda', end) < 0
    elif data.startswith(_PNG):
        whole = b'IEND' in data[-4096:] or b'IEND' in data
    else:  # WebP, TIFF and others, of which it refuses what is cut off
        reason = (f'begins with {data[:4].hex()!r}, which is neither JPEG nor PNG nor another '
                  'picture that OpenCV reads; publish it as one of these or raw')
    bgr = None
    if whole and data:
        with suppress(cv2.error):
            bgr = cv2.imdecode(np.frombuffer(data, dtype=np.uint8),
                               _FLAGS[scale] | cv2.IMREAD_IGNORE_ORIENTATION)
    if bgr is None:
        raise UserError(f'compressed image (format {msg.format!r}, {len(data)} bytes) {reason}')
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
