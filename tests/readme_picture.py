"""docs/demo.png from a demo's report: `python tests/readme_picture.py runs/demo/report.html`."""

from __future__ import annotations

import base64
import re
import sys
from pathlib import Path

import cv2
import numpy as np

WIDTH, GAP = 1000, 12
PICTURE = Path(__file__).resolve().parents[1] / 'docs' / 'demo.png'


def compose(report: str) -> np.ndarray:
    """The picture (h, WIDTH, 3) uint8 BGR: frames, the first four drives, surprise over time.

    `report` is the HTML of `lewm demo`; nothing else goes in. Raises SystemExit without them.
    """
    found = dict(re.findall(r'<img alt="([^"]*)" src="data:image/png;base64,([^"]*)"', report))
    names = ('recorded frames', 'paths driven', 'surprise over time')
    if missing := [name for name in names if name not in found]:
        raise SystemExit(f'the report has no picture of {missing}; give the report.html of a '
                         'finished `lewm demo`')
    frames, paths, surprise = (_decoded(found[name]) for name in names)
    rows = [_scaled(each) for each in (frames, paths[:len(paths) // 2], surprise)]
    white = np.full((GAP, WIDTH, 3), 255, np.uint8)
    return np.concatenate([part for row in rows for part in (row, white)][:-1])


def _decoded(text: str) -> np.ndarray:
    data = np.frombuffer(base64.b64decode(text), np.uint8)
    return cv2.imdecode(data, cv2.IMREAD_COLOR)


def _scaled(image: np.ndarray) -> np.ndarray:
    height = round(len(image) * WIDTH / image.shape[1])
    return cv2.resize(image, (WIDTH, height), interpolation=cv2.INTER_AREA)


def main(words: list[str]) -> int:
    """The exit code: 0 once docs/demo.png is written."""
    if len(words) != 1:
        raise SystemExit('usage: python tests/readme_picture.py RUN/report.html')
    good, data = cv2.imencode('.png', compose(Path(words[0]).read_text()))
    PICTURE.write_bytes(data.tobytes())
    return 0 if good else 1


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
