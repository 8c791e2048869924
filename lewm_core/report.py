"""Self-contained HTML pages: plots and pictures inside the file, nothing is fetched to read it."""

from __future__ import annotations

import base64
import html
import io
from pathlib import Path
from typing import Any

import numpy as np

from lewm_core.atomic import write_text

_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:1000px;margin:2rem auto;padding:0 1rem;
color:#1b1f24}h1{margin-bottom:0}h2{margin-top:2.2rem;border-bottom:1px solid #d0d7de}
img{max-width:100%}table{border-collapse:collapse;margin:1rem 0}td,th{border:1px solid #d0d7de;
padding:.25rem .7rem;text-align:left}th{background:#f6f8fa}.bad{color:#b00020}.good{color:#116329}
.note{color:#57606a}code{background:#f6f8fa;padding:.1rem .3rem}
"""


class Page:
    """An HTML page that grows from top to bottom and is written whole."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.parts: list[str] = [f'<h1>{html.escape(title)}</h1>']

    def heading(self, text: str) -> None:
        """Adds a section heading."""
        self.parts.append(f'<h2>{html.escape(text)}</h2>')

    def text(self, text: str, kind: str = '') -> None:
        """Adds a paragraph; `kind` is '', 'good', 'bad' or 'note'."""
        self.parts.append(f'<p class="{kind}">{html.escape(text)}</p>')

    def table(self, rows: list[tuple[Any, ...]], header: tuple[str, ...] = ()) -> None:
        """Adds a table of plain cells."""
        head = ''.join(f'<th>{html.escape(str(c))}</th>' for c in header)
        body = ''.join('<tr>' + ''.join(f'<td>{html.escape(str(c))}</td>' for c in row) + '</tr>'
                       for row in rows)
        self.parts.append(f'<table>{f"<tr>{head}</tr>" if head else ""}{body}</table>')

    def picture(self, png: bytes, alt: str) -> None:
        """Adds a PNG, inside the page."""
        data = base64.b64encode(png).decode()
        self.parts.append(f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{data}">')

    def write(self, path: str | Path) -> None:
        """Writes the page, whole or not at all."""
        body = '\n'.join(self.parts)
        write_text(path, '<!doctype html><html lang="en"><meta charset="utf-8">'
                   '<meta name="viewport" content="width=device-width">'
                   f'<title>{html.escape(self.title)}</title><style>{_STYLE}</style>'
                   f'<body>{body}</body></html>\n')


def new_figure(width: float = 9.0, height: float = 3.2, **kwargs: Any) -> tuple[Any, Any]:
    """A matplotlib figure and its axes, on no screen; `kwargs` go to `Figure.subplots`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    figure = Figure(figsize=(width, height), layout='constrained')
    FigureCanvasAgg(figure)
    return figure, figure.subplots(**kwargs)


def to_png(figure: Any) -> bytes:
    """The figure as PNG bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format='png', dpi=110)
    return buffer.getvalue()


def strip(frames: list[np.ndarray], scale: int = 2, gap: int = 4) -> np.ndarray:
    """One picture (h, w, 3) uint8 of frames (H, W, 3) side by side, `scale` times as large."""
    tiles = [np.repeat(np.repeat(f, scale, 0), scale, 1) for f in frames]
    white = np.full((tiles[0].shape[0], gap, 3), 255, np.uint8)
    row = [part for tile in tiles for part in (tile, white)][:-1]
    return np.concatenate(row, axis=1)


def picture_png(rgb: np.ndarray) -> bytes:
    """RGB pixels (h, w, 3) uint8 as PNG bytes."""
    import cv2
    good, data = cv2.imencode('.png', np.ascontiguousarray(rgb[:, :, ::-1]))
    if not good:
        raise ValueError(f'a picture of shape {rgb.shape} and type {rgb.dtype} is no PNG')
    return data.tobytes()
