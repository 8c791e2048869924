"""How a camera's picture moves from frame to frame, as a few signed numbers; for `lewm inspect`.

Global motion after Lucas and Kanade (IJCAI 1981): the shift, zoom and turn that explain the
change of brightness best. A camera on the robot sees its own motion in them; a fixed camera sees
what moves in its picture, for still pixels ask for none. Phase correlation beside it takes the
shifts that are too large for a gradient.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from lewm_core.robot import Camera
from lewm_core.types import UserError
from lewm_ros.bag_reader import Bag
from lewm_ros.decode import picture

SIDE = 64
FEATURES = ('shift x', 'shift y', 'zoom', 'turn', 'phase x', 'phase y', 'change')
_STILL = 8.0  # grey levels: less than this in every pixel is noise and compression
_RUN = 50


@dataclass(frozen=True)
class Motion:
    """What was seen in the frames that were looked at.

    Pair i is of the frames `first[i]` and `second[i]` (indices on the topic, (n,) int64), with
    `features` (n, 7) float64. `range` is the most any pixel of the reduced grey picture changed
    over the whole recording, grey levels; `frames` were decoded, `failed` couldn't be.
    """

    first: np.ndarray
    second: np.ndarray
    features: np.ndarray
    range: float
    frames: int
    failed: int

    @property
    def still(self) -> bool:
        """Whether the picture never changed."""
        return self.frames > 1 and self.range < _STILL


def look(bag: Bag, topic: str, type: str, count: int, most: int) -> Motion:
    """The motion in about `most` of the `count` pictures on a topic, one picture kept at a time.

    They are taken in runs of successive frames, spread evenly over the recording.
    """
    wanted = _wanted(count, most)
    camera = Camera('camera', topic, SIDE, SIDE, type)
    low, high = np.full((SIDE, SIDE), np.inf), np.full((SIDE, SIDE), -np.inf)
    pairs, rows, last, frames, failed = [], [], None, 0, 0
    for index, raw in zip(wanted, bag.pick(topic, wanted, type)):
        try:
            grey = reduced(picture(bag.message(raw, type), camera))
        except UserError:
            failed, last = failed + 1, None
            continue
        frames += 1
        low, high = np.minimum(low, grey), np.maximum(high, grey)
        if last is not None and last[0] == index - 1:
            pairs.append((index - 1, index))
            rows.append(motion(last[1], grey))
        last = (index, grey)
    first, second = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    features = np.array(rows, dtype=np.float64).reshape(-1, len(FEATURES))
    change = float((high - low).max()) if frames else 0.0
    return Motion(first, second, features, change, frames, failed)


def motion(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """The motion (7,) between two grey pictures (64, 64) float32, see FEATURES; pixels."""
    mean = (before + after) / 2
    gx = cv2.Sobel(mean, cv2.CV_32F, 1, 0, scale=1 / 8)
    gy = cv2.Sobel(mean, cv2.CV_32F, 0, 1, scale=1 / 8)
    change = after - before
    design = np.stack([gx, gy, gx * _X + gy * _Y, gy * _X - gx * _Y], axis=-1).reshape(-1, 4)
    square = design.T @ design
    square += np.eye(4) * (1e-3 * np.trace(square) + 1e-6)
    flow = -np.linalg.solve(square, design.T @ change.ravel())
    shift, _ = cv2.phaseCorrelate(before, after, _WINDOW)
    return np.array([*flow, *shift, np.abs(change).mean()])


_Y, _X = (np.mgrid[:SIDE, :SIDE].astype(np.float32) - (SIDE - 1) / 2) * 2 / SIDE
_WINDOW = cv2.createHanningWindow((SIDE, SIDE), cv2.CV_32F)


def reduced(rgb: np.ndarray) -> np.ndarray:
    """The grey picture (64, 64) float32, a little blurred, of one (64, 64, 3) uint8 RGB."""
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY).astype(np.float32)
    return cv2.GaussianBlur(grey, (0, 0), 1.0)


def _wanted(count: int, most: int) -> list[int]:
    """The rising indices of the frames that are looked at."""
    if count <= most:
        return list(range(count))
    begins = np.linspace(0, count - _RUN, max(1, most // _RUN)).astype(int)
    return np.unique(begins[:, None] + np.arange(_RUN)).tolist()
